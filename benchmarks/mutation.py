"""Which wrong lines the unit tests of central modules let pass: one operator, number or condition changed at a time.

`python -m benchmarks.mutation [N [MODULE...]]` changes N places of each module, of all `TARGETS` by default, spread
evenly over the file and the same ones each time. It runs the module's tests on a copy of the tree and writes
`results/mutation.json`. A mutant is killed when a test fails, or when the tests take ten times as long as unchanged.
"""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "results" / "mutation.json"
PACKAGES = ("pregate", "simulator", "runtime", "hwmodels", "offload", "traces", "tests")

TARGETS = {
    "offload/work.py": ("tests/unit/test_work.py",),
    "offload/metrics.py": ("tests/unit/test_metrics.py",),
    "hwmodels/cost.py": ("tests/unit/test_cost.py",),
    "offload/eviction.py": ("tests/unit/test_eviction.py",),
}
"""The tests that have to notice a wrong line of each module."""

_SWAPPED: dict[type[ast.AST], type[ast.AST]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Add, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult,
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In, ast.And: ast.Or, ast.Or: ast.And,
}  # fmt: skip


def places(tree: ast.Module) -> Iterator[tuple[ast.AST, str]]:
    """Nodes of function bodies that `mutate` can change, with what will be changed, in the order of the file."""
    for function in ast.walk(tree):
        if not isinstance(function, ast.FunctionDef):
            continue
        for statement in function.body:
            for node in ast.walk(statement):
                if isinstance(node, ast.BinOp | ast.AugAssign | ast.BoolOp) and type(node.op) in _SWAPPED:
                    yield node, f"{type(node.op).__name__} -> {_SWAPPED[type(node.op)].__name__}"
                elif isinstance(node, ast.Compare) and type(node.ops[0]) in _SWAPPED:
                    yield node, f"{type(node.ops[0]).__name__} -> {_SWAPPED[type(node.ops[0])].__name__}"
                elif isinstance(node, ast.Constant) and type(node.value) in (int, float):
                    yield node, f"{node.value} -> {node.value + 1}"
                elif isinstance(node, ast.If | ast.IfExp):
                    yield node, "condition negated"


def mutate(node: ast.AST) -> None:
    """Change the node in place."""
    match node:
        case ast.BinOp() | ast.AugAssign() | ast.BoolOp():
            node.op = _SWAPPED[type(node.op)]()  # type: ignore[assignment]
        case ast.Compare():
            node.ops[0] = _SWAPPED[type(node.ops[0])]()  # type: ignore[call-overload]
        case ast.Constant():
            assert isinstance(node.value, int | float)
            node.value = node.value + 1
        case ast.If() | ast.IfExp():
            node.test = ast.UnaryOp(ast.Not(), node.test)


def passes(tests: tuple[str, ...], where: Path, limit_s: float) -> bool:
    """Whether all `tests` pass in the copy of the tree at `where` within `limit_s`."""
    environment = os.environ | {"PYTHONPATH": str(where), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *tests]
    try:
        done = subprocess.run(command, cwd=where, env=environment, capture_output=True, timeout=limit_s, check=False)
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0


def judge(target: str, tests: tuple[str, ...], n_mutants: int, where: Path) -> dict[str, object]:
    """The row of one module: mutants tried and killed, and the survivors by line."""
    source = (ROOT / target).read_text(encoding="utf-8")
    found = list({id(node): what for node, what in places(ast.parse(source))}.values())
    chosen = (
        sorted({i * len(found) // n_mutants for i in range(n_mutants)})
        if len(found) > n_mutants
        else [*range(len(found))]
    )
    began = time.monotonic()
    if not passes(tests, where, 600):
        raise SystemExit(f"{', '.join(tests)} fail on the unchanged {target}: mend them first")
    limit_s = 10 * (time.monotonic() - began)
    survivors, n_tried = [], 0
    for i in chosen:
        tree = ast.parse(source)
        node, what = [*{id(node): (node, what) for node, what in places(tree)}.values()][i]
        mutate(node)
        (where / target).write_text(ast.unparse(tree), encoding="utf-8")
        n_tried += 1
        if passes(tests, where, limit_s):
            survivors.append(f"line {getattr(node, 'lineno', 0)}: {what}")
            print(target, survivors[-1], flush=True)
    (where / target).write_text(source, encoding="utf-8")
    return {"places": len(found), "tried": n_tried, "killed": n_tried - len(survivors), "survivors": survivors}


def main(n_mutants: int, targets: list[str]) -> None:
    """Judge the targets on a copy of the tree and renew their rows of the table."""
    with tempfile.TemporaryDirectory() as folder:
        where = Path(folder)
        for package in PACKAGES:
            shutil.copytree(ROOT / package, where / package, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", where)
        rows = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
        for target in targets:
            row = rows[target] = judge(target, TARGETS[target], n_mutants, where)
            RESULTS.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
            print(f"{target}: {row['killed']} of {row['tried']} killed, {row['places']} places", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 40, sys.argv[2:] or list(TARGETS))
