"""Errors of the time of a step on rows of resident decoding: `python docs/resident_steps.py`.

`pregate reproduce resident` scores tokens a second; a step predicted half as long is 50 % off here, 100 % there.
"""

from __future__ import annotations

import numpy as np

from pregate.check.ranking import kendall_tau
from pregate.measured.scores import predict_table
from pregate.measured.table import RESIDENT_TABLE, read_table


def main() -> None:
    """Print mean, median and bias of the errors of steps, and Kendall's tau of tokens a second."""
    rows = predict_table(read_table(RESIDENT_TABLE)).scored
    off = np.array([one.row.value / one.predicted - 1 for one in rows])
    tau = kendall_tau([one.predicted for one in rows], [one.row.value for one in rows])
    print(
        f"{len(rows)} steps: MAPE {100 * np.abs(off).mean():.1f} %, median {100 * np.median(np.abs(off)):.1f}, "
        f"bias {100 * off.mean():+.1f}, tau of tokens/s {tau:.2f}"
    )


if __name__ == "__main__":
    main()
