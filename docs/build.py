"""Write the generated parts of the documents, from commands and committed artefacts; `--check` fails when they drift.

A generated part stands between `<!-- generated: NAME -->` and `<!-- end: NAME -->`. `--results` first writes
`results/isca24.json` anew; `--benchmarks FILE` keeps of a run of pytest-benchmark what the tables need, in
`results/benchmarks.json`. What is cheap is computed again by `--check`, not compared with a committed file: the
demo, and every figure of the reproduction. Of tables that take minutes (`<!-- measured: NAME -->`) some rows are.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import design_tables
import field_tables
import granularity_tables
import law_tables
import machine_tables
import marked_tables
import mutation_table
import natural_tables
import offloaded_models
import predictor_tables
import pregated_tables
import reference
import speculation_tables
import speed_tables
import streamed_steps
import validation_tables
import which_design

ROOT = Path(__file__).resolve().parents[1]
MARK = "<!-- generated: "
DOCUMENTS = tuple(
    page for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))) if MARK in page.read_text()
)
"""Pages that have a generated part."""
RESULTS = ROOT / "results" / "isca24.json"

GROUPS = {
    "moe_layer_latency": "MoE-layer latency",
    "throughput": "throughput",
    "peak_gpu_memory": "peak memory",
    "cache_hit_rate": "cache hit rate (percentage points)",
}


def run(command: str) -> str:
    """Standard output of a `pregate` command, in this environment. Raises `CalledProcessError` when it fails."""
    words = [sys.executable, "-m", "pregate.cli.main", *command.split()[1:]]
    done = subprocess.run(words, cwd=ROOT, check=True, capture_output=True, text=True, env={"COLUMNS": "160"})
    return "\n".join(line.rstrip() for line in done.stdout.splitlines())


def demo() -> str:
    """The main job, as `make demo` prints it."""
    command = "pregate compare switch-base-128 --hardware a100-sxm4-80gb"
    return f"```console\n$ {command}\n{run(command)}\n```"


def card() -> str:
    """A verdict card of a machine that offloads."""
    return _planned("pregate plan mixtral-8x7b --hardware rtx-4090 --formats all=q4_k_m")


def ranked_machines() -> str:
    """Which of four machines."""
    return _planned("pregate plan mixtral-8x7b --formats all=q4_k_m --hardware rtx-3090,rtx-4090,rtx-5090,h100-sxm")


def _planned(command: str) -> str:
    return f"```console\n$ {command}\n{run(f'{command} --no-cache')}\n```"


def accuracy() -> str:
    """The accuracy table, from the committed reproduction."""
    document = json.loads(RESULTS.read_text())
    by_group = {entry["group"]: entry for entry in document["accuracy"]}
    lines = [
        "| published figure | rows (fitted on) | MAPE | MAPE on unseen rows | bias | worst |",
        "|---|---|---|---|---|---|",
    ]
    for suffix, label in (("", ""), (", natural batch", ", batch > 1 with nothing forced")):
        for key, title in GROUPS.items():
            entry = by_group.get(key + suffix)
            if entry is not None:
                lines.append(_accuracy_line(title + label, entry))
    return "\n".join(lines)


def _accuracy_line(title: str, entry: dict[str, Any]) -> str:
    figures = [100 * (entry[key] or 0.0) for key in ("mape", "mape_unseen", "bias", "worst")]
    mape, unseen, bias, worst = figures
    return f"| {title} | {entry['n']} ({entry['n_fitted']}) | {mape:.2f} | {unseen:.2f} | {bias:+.2f} | {worst:.2f} |"


PARTS: dict[str, Callable[[], str]] = {
    "offloaded": offloaded_models.table,
    "offloaded_conditions": offloaded_models.conditions,
    "pregated_verdict": pregated_tables.verdict,
    "pregated_arms": pregated_tables.arms,
    "pregated_encoded": pregated_tables.encoded_arms,
    "pregated_pairs": pregated_tables.pairs,
    "pregated_recall": pregated_tables.recall,
    "demo": demo,
    "card": card,
    "ranked_machines": ranked_machines,
    "accuracy": accuracy,
    "fitted_machines": law_tables.machines,
    "kernel_laws": law_tables.errors,
    "speed": speed_tables.engines,
    "speed_others": speed_tables.others,
    "speed_machine": speed_tables.machine,
    "command_line": speed_tables.command_line,
    "field": field_tables.accuracy,
    "field_headline": field_tables.headline,
    "field_worst": field_tables.worst,
    "field_repeat": field_tables.against_repeating,
    "field_intervals": field_tables.intervals,
    "field_carried": field_tables.carried_over,
    "field_unsaid": field_tables.unsaid,
    "field_sources": field_tables.by_source,
    "validated": validation_tables.accuracy,
    "validated_headline": validation_tables.headline,
    "validated_targets": validation_tables.targets,
    "reference_commands": reference.command_line,
    "reference_python": reference.python,
    "mutants": mutation_table.line,
    "streamed_steps": streamed_steps.errors,
    "natural_errors": natural_tables.errors,
    "natural_unions": natural_tables.unions,
    "designs": design_tables.designs,
    "design_parts": design_tables.parts,
    "unions": speculation_tables.unions,
    "trees": speculation_tables.trees,
    "which_design": which_design.verdicts,
    "which_design_headline": which_design.headline,
    "which_design_summary": which_design.summary,
    "which_design_rules": which_design.regrets,
    "machine_answers": machine_tables.answers,
    "measured_links": machine_tables.links,
    "cards": machine_tables.cards,
    "checked_figures": machine_tables.checked,
    "processors": machine_tables.known_processors,
    "mutants_rooms": mutation_table.rooms,
    "mutants_survivors": mutation_table.survivors,
}


def build(text: str) -> str:
    """`text` with every generated part made anew. Raises `KeyError` for a part nobody makes."""
    return marked_tables.rewritten(text, PARTS)


def reproduced() -> str:
    """The reproduction, run: accuracy and assumptions to eight digits, which processors agree on."""
    document = json.loads(run("pregate reproduce isca24 --format json"), parse_float=lambda text: f"{float(text):.8g}")
    kept = {key: document[key] for key in ("accuracy", "assumptions", "calibration")}
    kept["natural_batches"] = natural_tables.kept(document["rows"])
    return json.dumps(_numbers(kept), indent=1) + "\n"


def _numbers(value: Any) -> Any:
    """`value` with texts that are numbers as numbers."""
    if isinstance(value, dict):
        return {key: _numbers(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_numbers(item) for item in value]
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def _options(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="docs/build.py", allow_abbrev=False, description="Write the generated parts of the documents."
    )
    parser.add_argument("--check", action="store_true", help="write nothing; fail where a document has drifted")
    parser.add_argument("--results", action="store_true", help="write results/isca24.json anew first")
    parser.add_argument("--benchmarks", type=Path, metavar="FILE", help="keep what the tables need of pytest-benchmark")
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> int:
    """Build, or with `--check` compare; 1 when a document has drifted."""
    asked = _options(arguments)
    if asked.results:
        RESULTS.write_text(reproduced())
    if asked.benchmarks:
        speed_tables.keep(asked.benchmarks)
    if asked.check and RESULTS.read_text() != reproduced():
        print(
            f"{RESULTS.relative_to(ROOT)} is not what `pregate reproduce` says: run docs/build.py --results",
            file=sys.stderr,
        )
        return 1
    for document in DOCUMENTS:
        old = document.read_text()
        new = build(old)
        if not asked.check:
            document.write_text(new)
        elif old != new:
            name = document.relative_to(ROOT)
            print(f"{name} has drifted from what it is made of: run `make docs` and commit", file=sys.stderr)
            return 1
    for tables in (granularity_tables, predictor_tables, speculation_tables) if asked.check else ():
        for page, rows in tables.some_rows().items():
            for row in marked_tables.drifted_rows(page, rows):
                where = f"{page.name}: {row!r}, which was just made, is not in it"
                print(f"{where}: run docs/{tables.__name__}.py and commit", file=sys.stderr)
                return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
