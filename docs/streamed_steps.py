"""The table of docs/streamed-steps.md: steps of a phone that streams experts, with constants of one run."""

from __future__ import annotations

from pregate.measured.streamed_steps import PARTS, load_runs, median_errors

FITTED = "qwen-lru_a"


def errors() -> str:
    """Median error of each part, in per cent, a row a run."""
    runs = load_runs()
    found = median_errors(runs, FITTED)
    lines = [
        f"| run | model, experts a token, readers | steps | {' | '.join(PARTS)} |",
        "|---" * (3 + len(PARTS)) + "|",
    ]
    for run in runs:
        told = "constants" if run.name == FITTED else ""
        cells = " | ".join(f"{found[run.name][part]:.0%}" for part in PARTS)
        name = f"{run.name}{', gives the ' * bool(told)}{told}"
        lines.append(f"| {name} | {run.model}, {run.top_k}, {run.n_readers} | {run.read_bytes.size} | {cells} |")
    return "\n".join(lines)
