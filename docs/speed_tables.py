"""The tables of docs/benchmarks.md, from the committed run in results/benchmarks.json."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "results" / "benchmarks.json"


def keep(run: Path) -> None:
    """Keep of a pytest-benchmark file what the tables need: medians, what was measured, and the machine."""
    document = json.loads(run.read_text())
    where, rows = document["machine_info"], []
    for row in document["benchmarks"]:
        figures = {"group": row["group"], "median_s": row["stats"]["median"], "rounds": row["stats"]["rounds"]}
        rows.append(figures | row["extra_info"])
    kept = {
        "cpu": where["cpu"].get("brand_raw", "unknown"),
        "n_cores": where["cpu"].get("count"),
        "date": document["datetime"][:10],
        "python": where["python_version"],
        "commit": document["commit_info"]["id"][:12],
        "rows": rows,
    }
    RESULTS.write_text(json.dumps(kept, indent=1) + "\n")


def _document() -> dict[str, Any]:
    document: dict[str, Any] = json.loads(RESULTS.read_text())
    return document


def _seconds() -> dict[tuple[str, str, str], tuple[float, dict[str, Any]]]:
    """Median seconds a machine, and the row, by model, policy and engine."""
    return {
        (row["model"], row["policy"], row["engine"]): (row["median_s"] / row["n_machines"], row)
        for row in _document()["rows"]
        if "policy" in row
    }


def engines() -> str:
    """Machines a second of every engine, and ratios to SimPy in the same run."""
    found = _seconds()
    columns = (
        "model", "design", "ops", "SimPy, machines/s", "over the smallest program", "event engine", "ratio",
        "recurrence, one core", "ratio", "decode, M ops/s",
    )  # fmt: skip
    lines = [_row(columns), _row(["---"] * len(columns))]
    for (model, policy, engine), (des_s, row) in found.items():
        if engine != "des":
            continue
        event_s, batch_s, decode_s = (found[model, policy, name][0] for name in ("event", "recurrence", "decode"))
        over_smallest = found[model, policy, "smallest"][1]["des_over_smallest"]
        cells = [model, f"`{policy}`", f"{row['n_ops']:,}", f"{1 / des_s:.2f}", f"{over_smallest:.2f}x"]
        cells += [f"{1 / event_s:,.0f}", f"{des_s / event_s:,.0f}", f"{1 / batch_s:,.0f}", f"{des_s / batch_s:,.0f}"]
        lines.append(_row([*cells, f"{row['n_ops'] / decode_s / 1e6:.1f}"]))
    return "\n".join(lines)


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def others() -> str:
    """Cores, the sweep from the command line, the streamed simulation."""
    rows = {row["engine"]: row for row in _document()["rows"]}
    one, two = (rows[f"recurrence, {n} threads"]["median_s"] for n in (1, 2))
    sweep, stream = rows["sweep"], rows["stream"]
    return "\n".join(
        [
            "| what | figure |",
            "|---|---|",
            f"| two cores against one, recurrence | {one / two:.2f}x |",
            f"| {sweep['n_machines']:,} machines x {sweep['n_policies']} designs from the command line | "
            f"{sweep['median_s']:.1f} s |",
            f"| {stream['n_tokens'] / 1e6:.1f} M tokens x 24 MoE layers, streamed | {stream['seconds']:.0f} s, at most "
            f"{stream['peak_rss_bytes'] / 2**20:.0f} MiB |",
        ]
    )


def machine() -> str:
    """What it was measured on."""
    found = _document()
    return (
        f"Measured on {found['date']}, {found['n_cores']} cores of {found['cpu']}, Python {found['python']}, commit "
        f"{found['commit']}."
    )


def command_line() -> str:
    """CPU seconds of the documents' commands: the first time, with nothing kept of their answer, and again."""
    found = json.loads((RESULTS.parent / "command_line.json").read_text())
    machine = found["machine"]
    lines = [f"{found['date']}, {machine['n_cores']} cores of {machine['processor']}.", ""]
    kinds = {"first": "first_s", "new question": "new_s", "again": "again_s"}
    lines += [_row(("command", *(f"{kind}, CPU s" for kind in kinds))), _row(["---"] * (1 + len(kinds)))]
    lines += [_row((f"`{row['command']}`", *(f"{row[name]:.2f}" for name in kinds.values()))) for row in found["rows"]]
    return "\n".join(lines)
