"""Constants of a stack from the rows of a table whose role says "stack": the rows that are left out of every score."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from hwmodels.figures import figures_of
from hwmodels.stacks.stack import CONSTANTS
from pregate.measured.row_prediction import RowBench
from pregate.measured.rows.measured_row import MeasuredRow
from traces.errors import InvalidInput, unknown_name


def fit_stack(
    rows: Sequence[MeasuredRow],
    stack: str,
    names: Sequence[str],
    *,
    seed: int = 0,
    progress: Callable[[str], None] = lambda _: None,
) -> dict[str, float]:
    """The values of constants `names` of `stack` with the least squares of log(predicted / measured), by name.

    Over rows of that stack whose role is "stack"; soft absolute errors beyond 20 %. Constants stay within a factor of
    32 of the claims, efficiencies at most 1. Raises `InvalidInput` for fewer rows than constants, or
    none, `UnknownName` for what is no constant.
    """
    from scipy.optimize import least_squares

    chosen = [row for row in rows if row.role == "stack" and row.stack == stack and not row.reason]
    for name in names:
        if name not in CONSTANTS:
            raise unknown_name("constant", name, CONSTANTS)
    if not names:
        raise InvalidInput(f"no constants of {stack} are named: {stack}:cpu_efficiency,sync_s")
    if len(chosen) < len(names):
        raise InvalidInput(
            f"{len(chosen)} rows of role stack for {stack}: {len(names)} constants need as many at least"
        )
    bench = RowBench(seed)
    claimed = {name: float(figures_of(bench.platform(chosen[0])).stack_constant(name)) for name in names}
    bounds = [
        (-math.log(32), math.log(1 / v) if name.endswith("efficiency") else math.log(32)) for name, v in claimed.items()
    ]

    def off(at: np.ndarray) -> np.ndarray:
        constants = {f"stack.{name}": claimed[name] * math.exp(x) for name, x in zip(names, at, strict=True)}
        progress(", ".join(f"{key} {value:.4g}" for key, value in constants.items()))
        return np.array([math.log(bench.predict(row, constants) / row.value) for row in chosen])

    start = [min(max(0.0, low + 1e-6), high - 1e-6) for low, high in bounds]
    found = least_squares(
        off, start, bounds=tuple(zip(*bounds, strict=True)), loss="soft_l1", f_scale=0.2, diff_step=1e-3
    )
    return {name: claimed[name] * math.exp(x) for name, x in zip(names, found.x, strict=True)}
