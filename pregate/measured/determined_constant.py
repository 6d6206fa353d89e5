"""The value of a constant at which one measured row is predicted as it was measured."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache

from hwmodels.figures import figures_of
from pregate.measured.row_prediction import RowBench
from pregate.measured.rows.measured_row import MeasuredRow

_REACH = 64.0
"""A constant is sought from a 64th of what is claimed to 64 times it."""

_TOLERANCE = 1e-10
"""Of the logarithm of a constant."""


def determined_constant(bench: RowBench, row: MeasuredRow, key: str) -> float:
    """The value of constant `key` at which `row` is predicted as measured, or the nearest that is tried. Raises as
    `RowBench.predict`.
    """
    platform, name = bench.platform(row), key.removeprefix("stack.")
    figures = figures_of(platform)
    if name in platform.constants:
        claimed = platform.constant(name)
    else:
        claimed = float(figures[key] if name == key else figures.stack_constant(name))

    most = 1.0 if key.endswith("efficiency") else math.inf

    def at(log_factor: float) -> float:
        return min(claimed * math.exp(log_factor), most)

    @cache
    def off(log_factor: float) -> float:
        return math.log(bench.predict(row, {key: at(log_factor)}) / row.value)

    high = min(math.log(_REACH), math.log(most / claimed))
    low = -math.log(_REACH)
    if off(low) * off(high) > 0:
        return at(low if abs(off(low)) < abs(off(high)) else high)
    return at(crossing(off, low, high, _TOLERANCE))


def crossing(of: Callable[[float], float], low: float, high: float, tolerance: float) -> float:
    """Where `of` crosses 0 between `low` and `high`, at which its signs differ or one is 0, to `tolerance`.

    Inverse quadratic interpolation where three points lie so that it may be trusted, else bisection (T. R.
    Chandrupatla, Advances in Engineering Software 28, 1997, 145-149).
    """
    newest, other, share = (low, of(low)), (high, of(high)), 0.5
    while True:
        best = min(newest, other, key=lambda point: abs(point[1]))
        least = 0.5 * tolerance / abs(other[0] - newest[0])
        if best[1] == 0 or least > 0.5:
            return best[0]
        x = newest[0] + min(max(share, least), 1 - least) * (other[0] - newest[0])
        at = x, of(x)
        if at[1] * newest[1] > 0:
            dropped = newest
        else:
            dropped, other = other, newest
        newest = at
        share = _share(newest, other, dropped)


def _share(newest: tuple[float, float], other: tuple[float, float], dropped: tuple[float, float]) -> float:
    """How far from the newest point of a bracket to the other the next one is, by what was dropped before."""
    (a, of_a), (b, of_b), (c, of_c) = newest, other, dropped
    place, height = (a - b) / (c - b), (of_a - of_b) / (of_c - of_b)
    if height**2 >= place or (1 - height) ** 2 >= 1 - place:
        return 0.5
    steep = of_a / (of_b - of_a) * of_c / (of_b - of_c)
    return steep + (c - a) / (b - a) * of_a / (of_c - of_a) * of_b / (of_c - of_b)
