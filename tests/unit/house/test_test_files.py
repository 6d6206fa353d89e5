"""What holds of the files of tests: what two of them need is a module beside them, of one room where one room alone
needs it and of `tests/` else, so that each file can be run alone.
"""

from __future__ import annotations

import re
from collections import defaultdict
from os.path import commonpath
from pathlib import Path

ROOT = Path(__file__).parents[3]
TESTS = sorted((ROOT / "tests").rglob("*.py"))
SHARED = {
    path.relative_to(ROOT).with_suffix("").as_posix().replace("/", "."): path
    for path in TESTS
    if not path.stem.startswith("test_") and path.stem != "conftest"
}
"""What several files of tests need, by the name that it is imported by."""

NAMES = {path.stem for path in SHARED.values()}
IMPORTED = re.compile(r"^ *(?:from|import) +([\w.]+)(?: import \(?(.*))?", re.M)


def test_no_test_file_imports_a_test_file_and_shared_modules_have_one_name() -> None:
    """By the name of its file alone a module of `tests/` would be loaded a second time."""
    assert len(TESTS) > 300
    wrong = []
    for path in TESTS:
        for module, names in IMPORTED.findall(path.read_text(encoding="utf-8")):
            of_tests = module.split(".")[0] == "tests"
            if (of_tests and "test_" in f"{module} {names}") or module.split(".")[0] in NAMES:
                wrong.append(f"{path.relative_to(ROOT)}: {module}")
    assert wrong == []


def test_what_tests_of_one_room_share_lies_in_that_room() -> None:
    """In `tests/` lies what several rooms share, and what draws, beside the pictures that it compares with."""
    users = defaultdict(list)
    for path in TESTS:
        for module, names in IMPORTED.findall(path.read_text(encoding="utf-8")):
            for said in {module, *(f"{module}.{name}" for name in re.findall(r"\w+", names))} & SHARED.keys():
                users[said].append(path.parent)
    assert users.keys() == SHARED.keys()
    rooms = {module: Path(commonpath(users[module])) for module in SHARED}
    shared_by_all = {ROOT / "tests", ROOT / "tests" / "unit"}
    elsewhere = {
        module
        for module, room in rooms.items()
        if SHARED[module].parent != (ROOT / "tests" if room in shared_by_all else room)
    }
    assert elsewhere == {"tests.drawn"}
