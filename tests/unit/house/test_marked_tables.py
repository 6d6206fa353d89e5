"""Tables between marks: what a build makes anew, what it leaves, and rows that a page no longer has."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

DOCS = Path(__file__).resolve().parents[3] / "docs"
PAGE = """\
before
<!-- generated: one -->
old
<!-- end: one -->
<!-- measured: two -->
| a | 1 |
<!-- end: two -->
after
"""


@pytest.fixture(scope="module")
def tables() -> ModuleType:
    spec = importlib.util.spec_from_file_location("marked_tables", DOCS / "marked_tables.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_only_what_is_under_the_mark_is_made_anew(tables: ModuleType, tmp_path: Path) -> None:
    assert tables.rewritten(PAGE, {"one": lambda: r"new \1"}) == PAGE.replace("old", r"new \1")
    path = tmp_path / "page.md"
    path.write_text(PAGE)
    tables.write(path, {"two": lambda: "| a | 2 |"})
    assert path.read_text() == PAGE.replace("| a | 1 |", "| a | 2 |")
    with pytest.raises(KeyError):
        tables.rewritten(PAGE, {})


def test_a_row_that_the_page_has_not_is_told(tables: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "page.md"
    path.write_text(PAGE)
    assert tables.drifted_rows(path, ["| a | 1 |", "| a | 2 |"]) == ["| a | 2 |"]


def test_every_measured_part_has_a_program_that_makes_it() -> None:
    pages = {path: re.findall(r"<!-- measured: (\w+) -->", path.read_text()) for path in DOCS.glob("*.md")}
    programs = [path.read_text() for path in DOCS.glob("*_tables.py")]
    writes = {name for text in programs for line in text.splitlines() if "marked_tables.write(" in line
              for name in re.findall(r'"(\w+)": ', line)}  # fmt: skip
    assert {name for names in pages.values() for name in names} == writes
    assert {path.name for path, names in pages.items() if names} == {
        "policies.md", "predictors.md", "residency.md", "speculative.md",
    }  # fmt: skip
    assert not [path.name for path in DOCS.glob("*.md") if "<!-- tables: " in path.read_text()]
