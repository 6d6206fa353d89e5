"""Errors of the time of a step on rows of resident decoding: `python docs/resident_steps.py` prints them.

`pregate reproduce resident` scores tokens a second; a step predicted half as long is 50 % off here, 100 % there. Rows
of llama.cpp in small passes are prompts: they are scored as that, and once more as others' tables give them, a decode
of as many sequences that read as many keys and values together, heads included.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from pregate.measured.rows.measured_row import MeasuredRow
from pregate.measured.rows.table import RESIDENT_TABLE, read_table
from pregate.measured.table_prediction import predict_table
from pregate.validation.scores.rank_agreement import kendall_tau


def main() -> None:
    """Print mean, median and bias of the errors of steps, and Kendall's tau of tokens a second, either way."""
    rows = read_table(RESIDENT_TABLE)
    _print("as they were measured", rows)
    _print("as decoding", [_as_decoding(row) for row in rows])


def _as_decoding(row: MeasuredRow) -> MeasuredRow:
    if row.metric != "microbatch_tokens_per_s":
        return row
    return replace(row, metric="decode_tokens_per_s", context_tokens=row.context_tokens // max(row.batch or 1, 1))


def _print(how: str, table: Sequence[MeasuredRow]) -> None:
    rows = predict_table(table).scored
    off = np.array([one.row.value / one.predicted - 1 for one in rows])
    tau = kendall_tau([one.predicted for one in rows], [one.row.value for one in rows])
    print(
        f"{how}: {len(rows)} steps: MAPE {100 * np.abs(off).mean():.1f} %, median {100 * np.median(np.abs(off)):.1f}, "
        f"bias {100 * off.mean():+.1f}, tau of tokens/s {tau:.2f}"
    )


if __name__ == "__main__":
    from script_arguments import given

    given(__doc__)
    main()
