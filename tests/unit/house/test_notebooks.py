"""Notebooks as they are committed: a question first, the public API only, outputs kept, what to do next at the end.

`make notebooks` executes them.
"""

from __future__ import annotations

import ast
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

import pregate

ROOT = Path(__file__).parents[3]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
MOST_BYTES = 600_000
SHOWS_NOTHING = re.compile(r"^[\w, ]+ = |^(import|from) |^\)$|^\]$")
"""The last line of a cell that only names things."""


def cells(path: Path, kind: str) -> list[dict[str, Any]]:
    return [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == kind]


def code_of(cell: dict[str, Any]) -> str:
    return "".join(cell["source"])


def test_there_are_six_at_least() -> None:
    assert len(NOTEBOOKS) >= 6


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_opens_with_a_question_and_ends_with_what_to_do_next(path: Path) -> None:
    told = ["".join(cell["source"]) for cell in cells(path, "markdown")]
    title = told[0].splitlines()[0]
    assert title.startswith("# ")
    assert "?" in title
    assert "what to do next" in told[-1].splitlines()[0].lower()
    assert len(json.loads(path.read_text())["cells"]) > 2
    assert json.loads(path.read_text())["cells"][-1]["cell_type"] == "markdown"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_asks_the_public_api_alone(path: Path) -> None:
    for cell in cells(path, "code"):
        tree = ast.parse(code_of(cell))
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                outside = {name.name for name in node.names if name.name.split(".")[0] not in sys.stdlib_module_names}
                assert outside <= {"pregate", "numpy"}
            if isinstance(node, ast.ImportFrom) and node.module not in sys.stdlib_module_names:
                assert (node.module, [name.name for name in node.names]) == ("pregate", ["draw"])
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "pregate":
                assert node.attr in pregate.__all__


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_outputs_of_a_notebook_are_kept_and_are_no_errors(path: Path) -> None:
    for cell in cells(path, "code"):
        assert cell["execution_count"], "execute it: python docs/notebooks.py"
        assert [one for one in cell["outputs"] if one["output_type"] == "error"] == []
        last = code_of(cell).rstrip().splitlines()[-1]
        assert cell["outputs"] or SHOWS_NOTHING.match(last), last
    assert path.stat().st_size <= MOST_BYTES


def test_each_is_named_where_a_reader_looks() -> None:
    told = (ROOT / "docs" / "README.md").read_text()
    assert [path.name for path in NOTEBOOKS if path.name not in told] == []
