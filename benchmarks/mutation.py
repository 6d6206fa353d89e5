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

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "results" / "mutation.json"
EQUIVALENT = ROOT / "benchmarks" / "equivalent_mutants.json"
SOURCES = ("pregate", "simulator", "runtime", "hwmodels", "offload", "traces", "compiled")

_MEMORY = tuple(
    f"tests/unit/offload/{name}.py"
    for name in (
        "slots/test_memory",
        "slots/test_memory_copies",
        "slots/test_memory_guesses",
        "slots/test_memory_pieces",
        "slots/test_memory_runs",
        "slots/test_memory_swaps",
        "slots/test_low_copies",
        "slots/test_tiers",
        "answers/test_misses",
    )
)
_DECODE = tuple(
    f"tests/unit/offload/decoding/test_decode{part}.py" for part in ("_by_hand", "_passes", "_dispatch", "_placed", "")
)
_PLACEMENT = ("tests/unit/offload/placing/test_placement_by_hand.py",)
_EXPLAIN = ("tests/unit/simulator/explain/test_explain_by_hand.py", "tests/analytic/test_waits_for_slots.py")
_PRODUCTS = ("tests/unit/hwmodels/laws/test_products_longhand.py",)
_ATTENTION = ("tests/unit/hwmodels/laws/test_attention_longhand.py",)
_SYNTHESIS = tuple(
    f"tests/unit/traces/synthesis/test_{part}.py"
    for part in ("synthesis_by_hand", "filling_by_hand", "forced_routing", "synthesis")
)

TARGETS = {
    "offload/work.py": ("tests/unit/offload/test_work.py",),
    "offload/metrics/run_metrics.py": (
        "tests/unit/offload/metrics/test_metrics.py",
        "tests/unit/offload/metrics/test_metrics_drafts.py",
    ),
    "offload/caches/eviction.py": (
        "tests/unit/offload/caches/test_eviction.py",
        "tests/unit/offload/caches/test_ranked_evictions.py",
        "tests/unit/offload/caches/test_residency.py",
    ),
    "offload/placing/footprint.py": (
        "tests/unit/offload/placing/test_footprint.py",
        "tests/unit/offload/placing/test_footprint_parts.py",
        "tests/unit/offload/placing/test_placement.py",
        "tests/unit/offload/placing/test_placement_memory.py",
    ),
    "offload/caches/gate_output.py": ("tests/unit/offload/caches/test_gate_output.py",),
    "offload/placing/placement.py": _PLACEMENT,
    "offload/placing/layers.py": _PLACEMENT,
    "offload/placing/over_link.py": _PLACEMENT,
    "offload/placing/tiers.py": ("tests/unit/offload/placing/test_tiers_by_hand.py",),
    "offload/caches/admission.py": ("tests/unit/offload/caches/test_ranked_evictions.py",),
    "offload/caches/eviction_ranked.py": ("tests/unit/offload/caches/test_ranked_evictions.py",),
    "offload/caches/ranks_by_use.py": ("tests/unit/offload/caches/test_ranked_evictions.py",),
    "offload/caches/ranks_by_gates.py": ("tests/unit/offload/caches/test_ranked_evictions.py",),
    "offload/slots/memory.py": _MEMORY,
    "offload/slots/held.py": _MEMORY,
    "offload/slots/waiting.py": _MEMORY,
    "offload/slots/free_slots.py": _MEMORY,
    "offload/slots/cache_slots.py": _MEMORY,
    "offload/slots/copies.py": _MEMORY,
    "offload/decode.py": _DECODE,
    "offload/decoding/decode_loop.py": (
        *_DECODE,
        "tests/unit/offload/decoding/test_decode_loop.py",
        "tests/unit/offload/policy_parts/test_granularity.py",
        "tests/unit/offload/decoding/test_micro_batches.py",
        "tests/unit/traces/transforms/test_speculation.py",
    ),
    "offload/decoding/token_mixing.py": (
        *_DECODE,
        "tests/unit/offload/decoding/test_counts_of_experts.py",
        "tests/unit/offload/decoding/test_micro_batches.py",
    ),
    "offload/decoding/micro_batches.py": (
        "tests/unit/offload/decoding/test_micro_batches_by_hand.py",
        "tests/unit/offload/decoding/test_micro_batches.py",
        "tests/unit/offload/decoding/test_counts_of_experts.py",
    ),
    "offload/placing/host_side.py": (
        "tests/unit/offload/placing/test_host_side.py",
        "tests/unit/offload/placing/test_host_experts.py",
        *_DECODE,
        "tests/unit/offload/placing/test_placement.py",
        "tests/unit/offload/decoding/test_micro_batches_by_hand.py",
    ),
    "hwmodels/cost.py": tuple(
        f"tests/unit/hwmodels/{name}.py"
        for name in (
            "test_cost",
            "test_host_prices",
            "test_cost_formats",
            "test_prices_by_hand",
            "kernels/test_kernels",
            "calibrate/test_contention",
            "laws/test_law_prices",
            "kernels/test_floors",
            "kernels/test_row_blocks",
            "kernels/test_fused_counts",
            "calibrate/test_issue_times",
        )
    ),
    "hwmodels/kernels/roofline.py": (
        "tests/unit/hwmodels/kernels/test_kernels.py",
        "tests/unit/hwmodels/kernels/test_gemm_tables.py",
    ),
    "hwmodels/laws/rates.py": _PRODUCTS,
    "hwmodels/laws/gemm.py": (*_PRODUCTS, "tests/unit/hwmodels/laws/test_tile_dispatch.py"),
    "hwmodels/laws/beyond_table.py": ("tests/unit/hwmodels/laws/test_beyond_table_longhand.py",),
    "hwmodels/laws/families.py": ("tests/unit/hwmodels/laws/test_fitted_law.py",),
    "hwmodels/laws/fitted_law.py": ("tests/unit/hwmodels/laws/test_fitted_law.py",),
    "hwmodels/laws/benchmark_conditions.py": ("tests/unit/hwmodels/laws/test_benchmark_conditions.py",),
    "hwmodels/laws/attention.py": _ATTENTION,
    "hwmodels/laws/latent_attention.py": _ATTENTION,
    "hwmodels/laws/generated_kernels.py": _ATTENTION,
    "hwmodels/laws/moe.py": _PRODUCTS,
    "hwmodels/laws/pricing.py": (
        "tests/unit/hwmodels/laws/test_law_kernels.py",
        "tests/unit/hwmodels/laws/test_law_attention.py",
        "tests/unit/hwmodels/laws/test_law_prices.py",
    ),
    "simulator/recurrence.py": ("tests/unit/simulator/test_recurrence.py",),
    "simulator/resources.py": ("tests/analytic/test_sharing.py",),
    "simulator/explain/bounds.py": ("tests/unit/simulator/explain/test_bounds.py",),
    "simulator/explain/attribution.py": _EXPLAIN,
    "simulator/explain/critical_path.py": _EXPLAIN,
    "simulator/explain/path_sum.py": ("tests/unit/simulator/explain/test_path_sum.py",),
    "simulator/explain/sensitivity.py": _EXPLAIN,
    "pregate/economics/cost_draws.py": ("tests/unit/pregate/economics/test_cost_draws.py",),
    "pregate/economics/costing.py": ("tests/unit/pregate/economics/test_costing.py",),
    "pregate/economics/serving.py": ("tests/unit/pregate/economics/test_serving.py",),
    "pregate/economics/poc.py": ("tests/unit/pregate/economics/test_poc_by_hand.py",),
    "pregate/economics/machine_ranking.py": ("tests/unit/pregate/economics/test_machine_ranking_by_hand.py",),
    **dict.fromkeys(
        (f"pregate/explore/optima/{name}.py" for name in ("goals", "pareto", "scoring", "optimum", "candidates")),
        tuple(
            f"tests/unit/pregate/explore/test_{name}.py"
            for name in ("optima_by_hand", "optimize_goals", "optimize_pareto")
        ),
    ),
    "pregate/explore/optima/space.py": ("tests/unit/pregate/explore/test_search_space.py",),
    "pregate/explore/optima/trials.py": ("tests/unit/pregate/explore/test_search_space.py",),
    "pregate/explore/optima/optimize.py": ("tests/unit/pregate/explore/test_search_runs.py",),
    "pregate/cli/consent.py": ("tests/unit/pregate/cli/test_consent.py",),
    "pregate/measured/isca24/natural_routing.py": ("tests/unit/pregate/measured/isca24/test_natural_routing.py",),
    "traces/synthesis/dials.py": _SYNTHESIS,
    "traces/synthesis/filling.py": _SYNTHESIS,
    "traces/synthesis/sequence_popularity.py": (
        "tests/unit/traces/synthesis/test_popularity_longhand.py",
        "tests/unit/traces/synthesis/test_filling_by_hand.py",
        "tests/unit/traces/synthesis/test_synthesis_by_hand.py",
    ),
    "traces/synthesis/fitting.py": ("tests/unit/traces/synthesis/test_synthesis_fits.py",),
    "traces/synthesis/forced.py": _SYNTHESIS,
    "traces/synthesis/taken_over.py": _SYNTHESIS,
    "traces/statistics/stack_distance.py": (
        "tests/unit/traces/statistics/test_stack_distance.py",
        "tests/unit/traces/statistics/test_layer_distances.py",
    ),
}
"""The tests that have to notice a wrong line of each module."""

_LEFT_OUT = "not every_interpreter and not compiler_waits"
"""Tests that need machine code, or no compiler at all."""

_PLAIN_KERNELS = """from importlib import import_module

from compiled import machine_code

compiled = machine_code.loaded
machine_code.loaded = lambda kernel: (
    getattr(import_module(kernel.home), kernel.name) if kernel.home == "{home}" else compiled(kernel)
)
"""
"""A `conftest.py` under which kernels of a module are not compiled: mutmut puts a call of its own where a function was.
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
