"""Which designs cannot be told from each other: the interval of the ratio of their metrics holds 1."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

from numpy.typing import NDArray

from pregate.ask.timing.time_errors import TimeError, holds_one, interval_of_ratio

Known = tuple[NDArray, Sequence[TimeError | None]]  # type: ignore[type-arg]
"""The metrics of a design, (n_metrics,), and what each is off by."""


def rivals(designs: Sequence[Known | None], n_metrics: int) -> list[list[list[int]]]:
    """The places of the others that each design cannot be told from, by metric; None fits nowhere and has none.

    A time of 0, of tokens that one pass makes all at once, is told from any other.
    """
    found: list[list[list[int]]] = [[[] for _ in range(n_metrics)] for _ in designs]
    known = [(i, one) for i, one in enumerate(designs) if one is not None]
    for (i, (values, errors)), (j, (others, other_errors)) in combinations(known, 2):
        for metric in range(n_metrics):
            here, there = errors[metric], other_errors[metric]
            if here is None or there is None:
                continue
            value, other = float(values[metric]), float(others[metric])
            if value == other or (value and other and _near(value / other, here, there)):
                found[i][metric].append(j)
                found[j][metric].append(i)
    return found


def _near(times: float, here: TimeError, there: TimeError) -> bool:
    return holds_one(interval_of_ratio(times, here, there, shared=True))
