"""How an axis is walked: counts in whole numbers, shares evenly from 0, everything else by equal ratios.

The lowest ratio may be 0, no cache, which no ratio reaches; so its steps are differences.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pregate.sweeps.axes import NAMES, Axis, find_axis, read_axes, rounded
from traces.errors import InvalidInput

TOLERANCE = 1e-3
"""Relative width of the last bracket."""
_FINEST = 1e-6
"""Width of the last bracket of a `cache_ratio` near 0: a millionth of all experts, less than one of any model."""


@dataclass(frozen=True, slots=True, eq=False)
class Scale:
    """An axis from `low` to `high`, in SI. `axis` has these two values."""

    axis: Axis
    low: float
    high: float

    def spaced(self, n: int) -> NDArray[np.float64]:
        """(n,) values from `low` to `high`, ascending; of counts and bytes those near that are whole, each once."""
        space = np.linspace if _is_even(self.axis) else np.geomspace
        return np.unique(rounded(self.axis.key, space(self.low, self.high, n)))

    def middle(self, low: float, high: float) -> float:
        """Halfway between two values, one of them where nothing is in between."""
        middle = (low + high) / 2 if _is_even(self.axis) else math.sqrt(low * high)
        return float(rounded(self.axis.key, np.array([middle]))[0])

    def is_narrow(self, low: float, high: float) -> bool:
        """Whether a bracket has ended: 0.1 % wide, or with nothing in between."""
        if not low < self.middle(low, high) < high:
            return True
        close = high <= low * (1 + TOLERANCE) or (_is_even(self.axis) and high - low <= _FINEST)
        return close and not self.axis.is_count

    def edge(self, low: float, high: float) -> float:
        """Where a bracket that has ended says the change is: its middle, or `high` where nothing is in between."""
        middle = self.middle(low, high)
        return middle if low < middle < high else high


def read_scale(name: str, low: float | str, high: float | str) -> Scale:
    """The scale of axis `name`; `low`, `high`: SI, or text with a unit.

    Raises `UnknownName` naming the nearest axis, `InvalidInput` for an axis of names, a value that the axis cannot
    have, or a range that does not rise or has no ratio.
    """
    key = find_axis(name)
    if key in NAMES:
        raise InvalidInput(
            f"axis {name} takes names, which have no order and nothing in between: list them as an axis of "
            f"`pregate sweep`, or run `pregate compare` once for each"
        )
    (first,), (last,) = (read_axes({name: [end]}) for end in (low, high))
    axis = Axis(name, key, np.concatenate([first.values, last.values]), first.unit)
    begin, end = axis.values.tolist()
    if not begin < end:
        raise InvalidInput(f"{key} from {begin:g} to {end:g}: the range must rise")
    if not (begin > 0 or _is_even(axis)):
        raise InvalidInput(f"{key} from {begin:g} to {end:g}: the range must start above 0, its steps are ratios")
    return Scale(axis, begin, end)


def _is_even(axis: Axis) -> bool:
    return axis.key in ("cache_ratio", "acceptance")
