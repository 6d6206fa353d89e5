"""What mutation testing reports: what a mutant changes, which are known to change nothing, the committed figures."""

from __future__ import annotations

import ast
import json
import tomllib
from pathlib import Path

import pytest

from benchmarks import mutation

MADE = """
def x_area__mutmut_orig(width, height):
    return scale(width * height, by=1)

def x_area__mutmut_1(width, height):
    return scale(width / height, by=1)

def x_area__mutmut_2(width, height):
    return scale(width * height, by=2)

class Box:
    def xǁBoxǁopen__mutmut_orig(self):
        self.lid = 1

    def xǁBoxǁopen__mutmut_1(self):
        self.lid = None
"""


@pytest.fixture
def made(tmp_path: Path) -> dict[str, dict[str, str]]:
    path = tmp_path / "made.py"
    path.write_text(MADE, encoding="utf-8")
    return mutation.changed(path)


def test_a_mutant_is_described_by_what_changes(made: dict[str, dict[str, str]]) -> None:
    assert made["x_area__mutmut_1"] == {
        "function": "area",
        "was": "return scale(width * height, by=1)", "becomes": "return scale(width / height, by=1)",
    }  # fmt: skip
    assert made["xǁBoxǁopen__mutmut_1"] == {"function": "Box.open", "was": "self.lid = 1", "becomes": "self.lid = None"}
    assert set(made) == {"x_area__mutmut_1", "x_area__mutmut_2", "xǁBoxǁopen__mutmut_1"}


def test_only_what_is_listed_counts_as_equivalent(made: dict[str, dict[str, str]]) -> None:
    known = [{"module": "box.py", "function": "area", "was": "by=1", "becomes": "by=2", "why": "nobody looks"}]
    assert mutation.why_equivalent("box.py", made["x_area__mutmut_2"], known) == "nobody looks"
    assert mutation.why_equivalent("box.py", made["x_area__mutmut_1"], known) is None
    assert mutation.why_equivalent("lid.py", made["x_area__mutmut_2"], known) is None
    assert mutation.why_equivalent("box.py", made["xǁBoxǁopen__mutmut_1"], known) is None


def test_a_module_is_judged_by_verdicts_and_the_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mutation, "TARGETS", {"made.py": ("tests/unit/test_made.py",)})
    monkeypatch.setattr(mutation, "EQUIVALENT", tmp_path / "known.json")
    entry = {"module": "made.py", "was": "by=1", "becomes": "by=2", "why": "nobody looks"}
    (tmp_path / "known.json").write_text(json.dumps([entry]))
    (tmp_path / "mutants").mkdir()
    (tmp_path / "mutants" / "made.py").write_text(MADE, encoding="utf-8")
    verdicts = {
        "made.x_area__mutmut_1": 1,
        "made.x_area__mutmut_2": 0,
        "made.xǁBoxǁopen__mutmut_1": 33,
        "made.x_later": None,
    }
    (tmp_path / "mutants" / "made.py.meta").write_text(json.dumps({"exit_code_by_key": verdicts}))
    assert mutation.judged("made.py", tmp_path) == {
        "tests": ["tests/unit/test_made.py"],
        "mutants": 4, "tried": 3, "killed": 1, "equivalent": {"area: nobody looks": 1},
        "survivors": [{"function": "Box.open", "was": "self.lid = 1", "becomes": "self.lid = None"}],
    }  # fmt: skip


def test_the_configuration_names_the_module_and_its_tests() -> None:
    for target in mutation.TARGETS:
        said = tomllib.loads(mutation.configuration(target))["tool"]["mutmut"]
        assert said["only_mutate"] == [target], target
        for path in (target, *said["pytest_add_cli_args_test_selection"]):
            assert (mutation.ROOT / path).is_file(), target


def test_the_committed_figures_are_of_every_module_that_is_to_be_tried_and_add_up() -> None:
    rows = json.loads(mutation.RESULTS.read_text("utf-8"))
    assert list(rows) == list(mutation.TARGETS)
    for target, row in rows.items():
        assert set(row["tests"]) <= {*mutation.TARGETS[target]}  # a long file may have been split since
        assert all((mutation.ROOT / path).is_file() for path in row["tests"])
        assert row["mutants"] >= row["tried"] == row["killed"] + sum(row["equivalent"].values()) + len(row["survivors"])


def test_every_equivalent_mutant_is_of_a_line_that_is_there() -> None:
    """A line that was written anew leaves behind an entry that would excuse nothing."""
    known = json.loads(mutation.EQUIVALENT.read_text("utf-8"))
    for module in {entry["module"] for entry in known}:
        assert module in mutation.TARGETS
        lines = _lines_by_function(ast.parse((mutation.ROOT / module).read_text("utf-8")))
        for entry in (one for one in known if one["module"] == module):
            texts = [lines.get(entry["function"], "")] if "function" in entry else lines.values()
            assert any(entry["was"] in text for text in texts), entry


def _lines_by_function(tree: ast.Module) -> dict[str, str]:
    """What a report calls a function, and its lines as a report joins them."""
    functions: dict[str, ast.FunctionDef] = {}
    for node in tree.body:
        methods = node.body if isinstance(node, ast.ClassDef) else [node]
        prefix = f"{node.name}." if isinstance(node, ast.ClassDef) else ""
        functions |= {f"{prefix}{one.name}": one for one in methods if isinstance(one, ast.FunctionDef)}
    return {
        name: "; ".join(line.strip() for line in ast.unparse(function).splitlines())
        for name, function in functions.items()
    }
