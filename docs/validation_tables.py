"""Tables of the committed validations: errors counted anew from every row that `pregate validate -o` left, what else
it found (exactness, bounds, regret) from its summary.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pregate.validation.scores.rank_agreement import kendall_tau

RESULTS = Path(__file__).resolve().parents[1] / "results"

_METRICS = {
    "tpot_s": "time per output token",
    "tpot_p99_s": "time per output token, p99",
    "ttft_s": "time to first token",
    "moe_layer_latency_s": "MoE-layer latency",
    "makespan_s": "whole run",
    "stall_s": "stall (share of the run, points)",
}
_NAIVE = {"roofline": "roofline of every kernel", "bandwidth": "bytes over the link", "serialised": "the two summed"}


def _summaries() -> dict[str, dict[str, Any]]:
    """By folder, the newest last."""
    return {path.parent.name: json.loads(path.read_text()) for path in sorted(RESULTS.glob("*/summary.json"))}


def accuracy() -> str:
    """Errors by metric of every committed validation, and of the rules of thumb beside it."""
    parts = []
    for name, summary in _summaries().items():
        machine = summary["machine"]
        what = machine.get("processor") or machine["name"]
        head = f"[{name}](../results/{name}/report.html): {what}, {summary['n']} configurations"
        command = summary["provenance"]["command"]
        lines = [
            f"{head}, {summary['n_runs']} runs of `{command}`.",
            "",
            "| predicted | MAPE | bias | p90 | worst | Kendall tau |",
        ]
        lines.append("|---|---|---|---|---|---|")
        rows = _rows(name)
        lines += [_line(label, _scores(rows, key, "error")) for key, label in _METRICS.items()]
        for key, label in _NAIVE.items():
            ordered = {
                "kendall_tau": summary["naive"][key]["kendall_tau"]
            }  # rows have errors of these, not predictions
            scores = _scores(rows, "tpot_s", f"naive_{key}_error") | ordered
            lines.append(_line(f"time per output token by {label}", scores))
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def headline() -> str:
    """A line a validation: how far times per token were off, and whether their order was right."""
    lines = []
    for name, summary in _summaries().items():
        scores = _scores(_rows(name), "tpot_s", "error")
        machine = summary["machine"]
        lines.append(
            f"  - {machine.get('processor') or machine['name']}, {summary['n']} configurations "
            f"(`{summary['provenance']['command']}`): time per output token {100 * scores['mape']:.1f} % off on "
            f"average, Kendall's tau {scores['kendall_tau']:.2f}"
        )
    return "\n".join(lines)


def _rows(name: str) -> list[dict[str, str]]:
    """What was predicted and measured, a number a row; runs beside other work left out."""
    with (RESULTS / name / "rows.csv").open(newline="") as file:
        return [row for row in csv.DictReader(file) if row["valid"] == "true" and row["what"] == "metric"]


def _scores(rows: Sequence[dict[str, str]], metric: str, column: str) -> dict[str, Any]:
    """Errors of `metric` in `column`, and whether the order is right."""
    mine = [row for row in rows if row["kind"] == metric and row[column]]
    errors = np.array([float(row[column]) for row in mine])
    size = np.abs(errors)
    return {
        "mape": float(size.mean()),
        "bias": float(errors.mean()),
        "p90": float(np.quantile(size, 0.9)),
        "worst": float(size.max()),
        "kendall_tau": kendall_tau([float(row["predicted"]) for row in mine], [float(row["measured"]) for row in mine]),
    }


def _line(label: str, scores: dict[str, Any]) -> str:
    cells = [_percent(scores[key], key == "bias") for key in ("mape", "bias", "p90", "worst")]
    tau = scores.get("kendall_tau")
    return f"| {label} | {' | '.join(cells)} | {'-' if tau is None else f'{tau:.3f}'} |"


def _percent(value: float | None, signed: bool) -> str:
    return "-" if value is None else f"{100 * value:{'+' if signed else ''}.1f}"


def targets() -> str:
    """What else a validation says, a line a validation."""
    lines = []
    for name, summary in _summaries().items():
        bound, exact = summary["achieved_over_bound"], summary["bytes_exact"] and summary["residency_exact"]
        lines.append(
            f"- {name}: bytes and residency {'exact' if exact else 'NOT exact'}; outputs of all policies "
            f"{'identical' if summary['outputs_equal'] else 'NOT identical'}; pre-gated runs take "
            f"{bound['median']:.2f} times their lower bound (worst {bound['worst']:.2f}); choosing the policy "
            f"predicted fastest costs {100 * summary['regret']:.1f} %; 95 % intervals hold "
            f"{100 * summary['coverage']:.0f} % of times per token; {summary['n_runs_thrown_away']} disturbed runs "
            f"thrown away"
        )
    return "\n".join(lines)
