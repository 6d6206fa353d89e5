"""Which wrong lines the unit tests of central modules let pass: `mutmut` changes one at a time, this reports.

`python -m benchmarks.mutation [MODULE...]` copies the tree to a temporary folder, has mutmut change every place that it
knows in the functions of each module, one after the other, and writes `results/mutation.json`. `--folder DIR` works in
DIR and leaves it there: what was killed before and has not changed is not tried again, what survived is tried with the
tests of now. A mutant is killed when a test of its module fails or takes far longer than unchanged. mutmut leaves out
what is decorated, so properties, and annotations; the texts of errors are left out here. Kernels run as Python.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import takewhile
from pathlib import Path
from typing import Any

from benchmarks.mutation_targets import TARGETS

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "results" / "mutation.json"
EQUIVALENT = ROOT / "benchmarks" / "equivalent_mutants.json"
SOURCES = ("pregate", "simulator", "runtime", "hwmodels", "offload", "traces", "compiled")

_LEFT_OUT = "not every_interpreter and not compiler_waits"
"""Tests that need machine code, or no compiler at all."""

_PLAIN_KERNELS = """from importlib import import_module

from compiled import machine_code

compiled = machine_code.loaded
machine_code.loaded = lambda kernel: (
    getattr(import_module(kernel.home), kernel.name) if "{home}" in (kernel.home, *kernel.sources) else compiled(kernel)
)
"""
"""A `conftest.py` under which kernels made of a module are not compiled: mutmut puts a call of its own where a function
was.
"""

_CONTEXT = 40
"""Characters shown on either side of what a mutant changes."""

_NOTICED = {1, 3, 24, 36, 152, 255, -24, -signal.SIGABRT, -signal.SIGBUS, -signal.SIGFPE, -signal.SIGSEGV}
"""Exit codes by which mutmut says that a test failed, that time ran out, or that machine code ended the process."""


def configuration(target: str) -> str:
    """What mutmut is told of one module, in TOML."""
    values = {
        "source_paths": list(SOURCES),
        "also_copy": ["benchmarks", "conftest.py"],
        "only_mutate": [target],
        "do_not_mutate_patterns": [r"^\s*raise "],
        "pytest_add_cli_args_test_selection": list(TARGETS[target]),
        "pytest_add_cli_args": ["-k", _LEFT_OUT, "--hypothesis-profile=mutants"],
        "timeout_multiplier": 5.0,
        "timeout_constant": 2.0,
        "use_git_change_detection": False,
    }
    return "\n[tool.mutmut]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in values.items())


def try_mutants(target: str, where: Path, limit_s: float | None) -> None:
    """Have mutmut judge all mutants of one module in a copy of the tree at `where`, one process at a time."""
    for name in (*SOURCES, "tests", "benchmarks"):
        for place, left_out in (
            (where, "mutants"),
            (where / "mutants", "*.py"),
        ):  # mutmut keeps data files as they were
            if place.exists():
                ignored = shutil.ignore_patterns("__pycache__", left_out)
                shutil.copytree(ROOT / name, place / name, dirs_exist_ok=True, ignore=ignored)
    _forget_survivors(where, target)
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    (where / "pyproject.toml").write_text(project + configuration(target), encoding="utf-8")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"CI": "1"}  # the same examples every time
    home = target.removesuffix(".py").replace("/", ".")
    (where / "conftest.py").write_text(_PLAIN_KERNELS.format(home=home), encoding="utf-8")
    command = [sys.executable, "-m", "mutmut", "run", "--max-children", "1"]
    with (where / "mutmut.log").open("w") as log, subprocess.Popen(
        command, cwd=where, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
    ) as run:  # fmt: skip
        try:
            failed = run.wait(limit_s) != 0
        except subprocess.TimeoutExpired:
            failed = False
            _stop_between_verdicts(run.pid, where / "mutants" / f"{target}.meta")
    if failed:
        raise SystemExit(f"mutmut failed on {target}: {where / 'mutmut.log'} says why (--folder keeps it)")


def _stop_between_verdicts(group: int, verdicts: Path) -> None:
    """End mutmut when it is not in the middle of writing a verdict down."""
    while True:
        os.killpg(group, signal.SIGSTOP)
        try:
            json.loads(verdicts.read_text("utf-8"))
        except ValueError:
            os.killpg(group, signal.SIGCONT)
            time.sleep(0.1)
        else:
            os.killpg(group, signal.SIGKILL)
            return


def _forget_survivors(where: Path, target: str) -> None:
    """So that they are tried with the tests of now: mutmut lets verdicts of an earlier run stand."""
    (where / "mutants" / "mutmut-stats.json").unlink(missing_ok=True)
    verdicts = where / "mutants" / f"{target}.meta"
    if verdicts.exists():
        document = json.loads(verdicts.read_text("utf-8"))
        codes = document["exit_code_by_key"]
        document["exit_code_by_key"] = {key: code if code in _NOTICED else None for key, code in codes.items()}
        verdicts.write_text(json.dumps(document), encoding="utf-8")


def changed(mutated: Path) -> dict[str, dict[str, str]]:
    """Of each mutant of a file that mutmut wrote, by name: the function, what a line was and what it becomes."""
    functions = {n.name: n for n in ast.walk(ast.parse(mutated.read_text("utf-8"))) if isinstance(n, ast.FunctionDef)}
    found = {}
    for name, function in functions.items():
        stem, _, number = name.rpartition("__mutmut_")
        if not number.isdigit():
            continue
        before, after = (_lines(node) for node in (functions[f"{stem}__mutmut_orig"], function))
        rows = [row for row in difflib.ndiff(before, after) if row[0] in "-+"]
        was, becomes = ("; ".join(row[2:].strip() for row in rows if row[0] == sign) for sign in "-+")
        where = stem.removeprefix("xǁ").replace("ǁ", ".") if "ǁ" in stem else stem.removeprefix("x_")
        found[name] = {"function": where, **_around(was, becomes)}
    return found


def _lines(function: ast.FunctionDef) -> list[str]:
    function.name, function.decorator_list = "_", []
    return ast.unparse(function).splitlines()


def _around(was: str, becomes: str) -> dict[str, str]:
    """What differs between two lines, and `_CONTEXT` characters on either side."""
    first = _n_shared(was, becomes)
    rest = _n_shared(was[first:][::-1], becomes[first:][::-1])
    begin = max(first - _CONTEXT, 0)
    return {
        name: line[begin : len(line) - max(rest - _CONTEXT, 0)] for name, line in (("was", was), ("becomes", becomes))
    }


def _n_shared(one: str, other: str) -> int:
    """Characters that two texts begin with alike."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


def why_equivalent(target: str, mutant: dict[str, str], known: list[dict[str, str]]) -> str | None:
    """The reason for which no test can notice the mutant, from the list of those; None when there is none.

    An entry is of a module, of a function unless none is named, and of changes that hold its `was` and `becomes`.
    """
    for entry in known:
        here = entry["module"] == target and entry.get("function", mutant["function"]) == mutant["function"]
        if here and entry["was"] in mutant["was"] and entry["becomes"] in mutant["becomes"]:
            return entry["why"]
    return None


def judged(target: str, where: Path) -> dict[str, Any]:
    """The row of one module: how many mutants there are, were tried, killed, are equivalent by reason; who survives."""
    codes = json.loads((where / "mutants" / f"{target}.meta").read_text("utf-8"))["exit_code_by_key"]
    described = changed(where / "mutants" / target)
    known = json.loads(EQUIVALENT.read_text("utf-8"))
    equivalent: Counter[str] = Counter()
    survivors = []
    tried = {key: code for key, code in codes.items() if code is not None}
    for key, code in tried.items():
        if code in _NOTICED:
            continue
        mutant = described[key.rpartition(".")[2]]
        reason = why_equivalent(target, mutant, known)
        if reason is None:
            survivors.append(mutant)
        else:
            equivalent[f"{mutant['function']}: {reason}"] += 1
    n_killed = len(tried) - len(survivors) - equivalent.total()
    return {
        "tests": list(TARGETS[target]),
        "mutants": len(codes),
        "tried": len(tried),
        "killed": n_killed,
        "equivalent": dict(sorted(equivalent.items())),
        "survivors": survivors,
    }


def report(
    targets: list[str], folder: Path | None, limit_s: float | None = None
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each module with its row, tried in `folder`, or in a temporary one, for `limit_s` at most."""
    with ExitStack() as stack:
        where = folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for target in targets:
            place = where / target.replace("/", "_")
            place.mkdir(parents=True, exist_ok=True)
            try_mutants(target, place, limit_s)
            yield target, judged(target, place)


def main() -> None:
    """Renew the rows of the modules that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("modules", nargs="*", default=list(TARGETS), help="of: " + ", ".join(TARGETS))
    parser.add_argument("--folder", type=Path, help="work here, and leave it for the next time")
    parser.add_argument("--minutes", type=float, help="at most so long a module; the quickest mutants come first")
    asked = parser.parse_args()
    unknown = set(asked.modules) - set(TARGETS)
    if unknown:
        raise SystemExit(f"{', '.join(sorted(unknown))}: not one of {', '.join(TARGETS)}")
    limit_s = None if asked.minutes is None else 60 * asked.minutes
    for target, row in report(asked.modules, asked.folder, limit_s):
        rows = json.loads(RESULTS.read_text("utf-8")) if RESULTS.exists() else {}
        rows[target] = row
        ordered = {name: rows[name] for name in TARGETS if name in rows}
        RESULTS.write_text(json.dumps(ordered, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        n_equivalent = sum(row["equivalent"].values())
        print(f"{target}: {row['tried']} of {row['mutants']} tried, {row['killed']} killed, {n_equivalent} equivalent")
        for mutant in row["survivors"]:
            print(f"  {mutant['function']}: {mutant['was']}  ->  {mutant['becomes']}", flush=True)


if __name__ == "__main__":
    main()
