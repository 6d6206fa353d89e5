"""Notebooks as they are committed: a question first, the public API only, outputs kept, what to do next at the end.

Cells run here on less work, in the process of the tests; `make notebooks` executes all whole, each in a kernel, and
`make test` the first look.
"""

from __future__ import annotations

import ast
import json
import re
import sys
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pytest
from matplotlib.figure import Figure

import pregate
from tests import small_fits

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


WHOLE = "first-look"
"""The notebook that `make test` executes whole."""
LESS = {
    "cost-and-proof-of-concept": {
        "input_tokens=128": "input_tokens=8",
        "output_tokens=64": "output_tokens=4",
        "(128, 64)": "(8, 4)",
        '"rtx-3060-12gb", "rtx-3090", "rtx-4090", "rtx-5090"': '"rtx-3090", "rtx-4090"',
    },
    "replay-traces": {"[0, 1, 2]": "[0]", "[1000, 2000, 4000, 6000, 8000]": "[1000, 8000]", "(100)": "(4)"},
    "sweep-hardware": {
        "output_tokens=24": "output_tokens=4",
        "512e9, 33": "512e9, 4",
        "39e9, 25": "39e9, 11",
        "[1, 4, 16, 64]": "[1, 4]",
        "input_tokens=64, output_tokens=32": "input_tokens=8, output_tokens=4",
        "input_tokens=32, output_tokens=16": "input_tokens=8, output_tokens=4",
        "list(pregate.hardware_names())": "list(pregate.hardware_names())[:6]",
    },
    "train-a-pre-gate": {
        "short=True": "short=True, seeds=2, base_steps=4, arm_steps=2",
        "output_tokens=32": "output_tokens=4",
    },
    "validate": {"budget_s=30": "budget_s=10", "output_tokens=6": "output_tokens=2"},
    "which-policy-when": {"output_tokens=24": "output_tokens=4", "n_scan=5": "n_scan=3", "n_scan=9": "n_scan=3"},
}
"""Words of a notebook's cells, and what stands there when they run on less work."""


def show(value: object) -> None:
    """What a kernel asks of the value of a cell: its HTML or, of a picture, that it is one."""
    if not isinstance(value, Figure):
        assert getattr(value, "_repr_html_", value.__repr__)()


def run_cell(source: str, names: dict[str, Any]) -> None:
    """As a kernel runs it: the value of an expression that ends it is shown."""
    tree = ast.parse(source)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "cell", "exec"), names)
    if isinstance(last, ast.Expr):
        show(eval(compile(ast.Expression(last.value), "cell", "eval"), names))


@pytest.mark.parametrize("path", [path for path in NOTEBOOKS if path.stem != WHOLE], ids=lambda path: path.stem)
def test_the_cells_of_a_notebook_run_on_less_work(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(path.parent)
    monkeypatch.setattr(pregate, "measure", lambda *_, **__: small_fits.measurements())
    names: dict[str, Any] = {}
    unseen = set(LESS[path.stem])
    try:
        for cell in cells(path, "code"):
            source = code_of(cell)
            for word, less in LESS[path.stem].items():
                unseen -= {word} if word in source else set()
                source = source.replace(word, less)
            run_cell(source, names)
    finally:
        plt.close("all")
    assert not unseen, "words that no cell has any more"
