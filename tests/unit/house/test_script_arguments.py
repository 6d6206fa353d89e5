"""Scripts of documents and benchmarks say what they write, and refuse what they do not know, before they begin."""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[3]
DOCS = ROOT / "docs"
PARSERS = {"build", "notebooks", "mutation"}
"""They have options of their own."""


def scripts() -> dict[Path, list[ast.stmt]]:
    """What each does when it is run."""
    found = {}
    for path in (*DOCS.glob("*.py"), *(ROOT / "benchmarks").glob("*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.If) and ast.unparse(node.test) == "__name__ == '__main__'":
                found[path] = node.body
    return found


@pytest.fixture(scope="module")
def module() -> ModuleType:
    spec = importlib.util.spec_from_file_location("script_arguments", DOCS / "script_arguments.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_script_reads_its_arguments_first() -> None:
    found = scripts()
    assert len(found) > 25
    assert {path.stem for path in found} >= PARSERS
    for path, body in found.items():
        if path.stem in PARSERS:
            continue
        of_docs = path.parent == DOCS
        imported, first = map(ast.unparse, body[:2])
        assert imported == f"from {'' if of_docs else 'docs.'}script_arguments import given", path
        assert "given(__doc__" in first, path
        said = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        assert (f"python docs/{path.name}" if of_docs else f"python -m benchmarks.{path.stem}") in said, path


@pytest.mark.parametrize(
    ("words", "status"), [(["--help"], 0), (["--chek", "a", "b"], 2), (["a"], 2), (["a", "b", "c"], 2)]
)
def test_help_and_what_is_not_known_end_it(
    words: list[str], status: int, module: ModuleType, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr("sys.argv", ["one.py", *words])
    with pytest.raises(SystemExit) as ended:
        module.given("Writes results/some.json.\n\nIn a minute.", "FOLDER", "FIT")
    assert ended.value.code == status
    out, err = capsys.readouterr()
    assert ("Writes results/some.json.\n\nIn a minute." in out) == (status == 0)
    assert bool(err) == (status == 2)


def test_arguments_are_in_their_order(module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["one.py", "here", "a.yaml"])
    assert module.given("Some.", "FOLDER", "FIT") == ["here", "a.yaml"]
    monkeypatch.setattr("sys.argv", ["one.py"])
    assert module.given("Some.") == []
    assert module.given("Some.", "[REST]") == [""]
    monkeypatch.setattr("sys.argv", ["one.py", "here"])
    assert module.given("Some.", "[REST]") == ["here"]
