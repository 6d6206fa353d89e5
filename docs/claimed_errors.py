"""Write `pregate/card/claimed_errors.yaml`: by phase and stack, how far the predictions of results/field.json are off.

`python docs/claimed_errors.py`, and `docs/build.py` with it, write the file anew; `docs/build.py --check` fails where
it differs.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from pathlib import Path

import numpy as np

from pregate.card.claimed_errors import RECORD
from pregate.measured.rows.table import read_field

GATHERED = "2026-11"
"""Until when measurements of others were gathered (pregate/measured/tables/SOURCES.md)."""

RESULTS = Path(__file__).resolve().parents[1] / "results" / "field.json"
PHASES = {"decode_tokens_per_s": "decode", "tpot": "decode", "prefill_tokens_per_s": "prefill", "ttft": "prefill"}

Errors = list[tuple[float, str]]
"""ln(predicted / measured) and the source, a row each."""


def made() -> str:
    """The file, from the scored rows that nothing was fitted on."""
    stacks = {row.name: row.stack for row in read_field()}
    found: dict[tuple[str, str], Errors] = defaultdict(list)
    for row in json.loads(RESULTS.read_text())["rows"]:
        phase, predicted = PHASES.get(row["metric"]), row["predicted"]
        if not row["scored"] or phase is None or not isinstance(predicted, float) or not predicted > 0:
            continue
        error = math.log(predicted / row["value"])
        for stack in ("all", stacks.get(row["name"], "") or "streams"):
            found[phase, stack].append((error, row["source"]))
    lines = [
        "# Written by docs/claimed_errors.py, never by hand.",
        "source: \"results/field.json: rows of role '' (scored)\"",
        f'date: "{GATHERED}" # until then measurements were gathered',
    ]
    lines.append("spreads:")
    for phase in ("decode", "prefill"):
        lines.append(f"  {phase}:")
        lines += [f"    {stack}: {_spread(rows)}" for (of, stack), rows in sorted(found.items()) if of == phase]
    return "\n".join(lines) + "\n"


def _spread(rows: Errors) -> str:
    """Of one phase and stack: around the truth, and around the mean of rows of one source."""
    errors = np.array([error for error, _ in rows])
    sources = [source for _, source in rows]
    apart, free = 0.0, 0
    for source in set(sources):
        own = errors[[one == source for one in sources]]
        apart, free = apart + float(((own - own.mean()) ** 2).sum()), free + len(own) - 1
    within = math.sqrt(apart / free) if free else 0.0
    rms = math.sqrt(float((errors**2).mean()))
    return f"{{rms: {rms:.3f}, within: {within:.3f}, rows: {len(rows)}, sources: {len(set(sources))}}}"


if __name__ == "__main__":
    RECORD.write_text(made())
