"""What holds of the files of tests: what two of them need is a module of `tests/`, so that each can be run alone."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[3]
TESTS = sorted((ROOT / "tests").rglob("*.py"))
SHARED = {path.stem for path in (ROOT / "tests").glob("*.py")} - {"conftest"}
IMPORTED = re.compile(r"^ *(?:from|import) +([\w.]+)(?: import \(?(.*))?", re.M)


def test_no_test_file_imports_a_test_file_and_shared_modules_have_one_name() -> None:
    """By the name of its file alone a module of `tests/` would be loaded a second time."""
    assert len(TESTS) > 300
    wrong = []
    for path in TESTS:
        for module, names in IMPORTED.findall(path.read_text(encoding="utf-8")):
            of_tests = module.split(".")[0] == "tests"
            if (of_tests and "test_" in f"{module} {names}") or module.split(".")[0] in SHARED:
                wrong.append(f"{path.relative_to(ROOT)}: {module}")
    assert wrong == []
