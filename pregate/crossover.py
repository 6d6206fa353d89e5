"""Where the winner changes: along one hardware number, to 0.1 %, by bisection on the recurrence.

A coarse logarithmic scan brackets every change between neighbours, and looks once at the middle of every interval whose
ends agree; each bracket is then halved, both halves where the middle has a third winner, until its ends are
0.1 % apart. What can be missed: a winner that rules only inside one half of a scan interval, a stretch of the axis
shorter than a factor (high / low) ** (1 / (2 (n_scan - 1))). A finer scan sees it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hwmodels.figures import check_axis, figure_keys
from hwmodels.platform import Platform
from hwmodels.spec import ALIASES, FIELDS
from offload.policy import Cache, Policy
from pregate.contest import Contest, Winner, moved
from pregate.simulation import to_dataframe
from simulator.sensitivity import METRICS
from traces.architecture import ModelArchitecture
from traces.errors import InvalidInput, unknown_name
from traces.routing import RoutingTrace

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Crossover", "Crossovers", "crossovers", "find_axis"]

TOLERANCE = 1e-3
"""Relative width of the last bracket."""


@dataclass(frozen=True, slots=True)
class Crossover:
    """One change of winner along `axis`, between `low` and `high`, at most 0.1 % (of whole numbers, one) apart.

    `value`: their geometric mean, of a whole number `high`. `below`, `above`: who wins on each side, None where no
    policy fits; `below_metric` at `low`, `above_metric` at `high`, NaN where none fits. Two policies that cross have
    about the same there; a winner that stops fitting, or to whom memory gives another schedule, leaves a step.
    """

    axis: str
    value: float
    low: float
    high: float
    below: str | None
    above: str | None
    below_metric: float
    above_metric: float

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True)
class Crossovers:
    """The changes of winner on `axis` from `low` to `high`, in order; iterate over them.

    `first`: who wins at `low`. `calibration`: what the predictions rest on once the axis moves, in plain words.
    """

    rows: tuple[Crossover, ...]
    axis: str
    low: float
    high: float
    metric: str
    first: str | None
    calibration: str

    def __iter__(self) -> Iterator[Crossover]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> Crossover:
        return self.rows[i]

    def verdict(self) -> str:
        """Who wins where, in plain words."""
        edges = [self.low, *(row.value for row in self.rows), self.high]
        winners = [self.first, *(row.above for row in self.rows)]
        told = [
            f"{winner or 'nothing that fits'} from {begin:.4g} to {end:.4g}"
            for winner, begin, end in zip(winners, edges[:-1], edges[1:], strict=True)
        ]
        return f"Best {self.metric} along {self.axis}: {', '.join(told)}."

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready: the axis, who wins first, every change, the verdict."""
        names = ("axis", "low", "high", "metric", "first", "calibration")
        rows = [row.to_dict() for row in self.rows]
        return {name: getattr(self, name) for name in names} | {"crossovers": rows, "verdict": self.verdict()}

    def to_dataframe(self) -> pd.DataFrame:
        """One row a change (the extra `notebooks`)."""
        return to_dataframe([row.to_dict() for row in self.rows])


def crossovers(
    model: ModelArchitecture,
    hw: Platform,
    trace: RoutingTrace,
    policies: Sequence[str | Policy],
    axis: str,
    low: float,
    high: float,
    *,
    metric: str = "tokens_per_s",
    n_scan: int = 33,
    cache: Cache | None = None,
    expert_tier: str = "dram",
) -> Crossovers:
    """Where along `axis`, a hardware number by dotted key or `hbm_bytes`, another of `policies` has the best `metric`.

    All other numbers are `hw`'s. An axis that only prices a schedule reuses the captured one; `hbm_bytes`,
    `host.dram_bytes` and `stack.reserve_bytes` plan anew, and a policy that does not fit cannot win. Raises
    `UnknownName` for an axis or metric that does not exist, `InvalidInput` for a range that is none or values that the
    number cannot have, for no policies, one twice, or fewer than 2 points to scan.
    """
    axis = find_axis(axis)
    if metric not in METRICS:
        raise unknown_name("metric", metric, METRICS)
    if not 0 < low < high < math.inf:
        raise InvalidInput(f"{axis} from {low:g} to {high:g}: the range must rise, start above 0 and be finite")
    if n_scan < 2:
        raise InvalidInput(f"n_scan = {n_scan}: a scan has at least 2 points")
    points = _spaced(axis, low, high, n_scan)
    check_axis(axis, points)
    contest = Contest(model, hw, trace, policies, axis, metric, cache, expert_tier)
    intervals = list(zip(points[:-1].tolist(), points[1:].tolist(), strict=True))
    contest.scan(np.unique([*points, *(_middle(axis, *interval) for interval in intervals)]))
    rows = [row for interval in intervals for row in _between(axis, *interval, contest.at, look=True)]
    low, high = float(points[0]), float(points[-1])
    calibration = moved(hw, axis, low).describe_calibration(model.dtype.name)
    return Crossovers(tuple(rows), axis, low, high, metric, contest.at(low).name, calibration)


def find_axis(text: str) -> str:
    """The dotted key of a hardware number. Raises `UnknownName` naming the nearest."""
    key = ALIASES.get(text, text)
    if key not in figure_keys():
        raise unknown_name("axis", text, [*figure_keys(), *ALIASES])
    return key


def _whole(axis: str) -> bool:
    """Whether the number is counted."""
    kind, _, name = axis.partition(".")
    return kind != "stack" and FIELDS[kind][name].dimension == "count"


def _spaced(axis: str, low: float, high: float, n_points: int) -> NDArray[np.float64]:
    """`n_points` values with equal ratios from `low` to `high`; of a count the nearest whole numbers, each once."""
    points = np.geomspace(low, high, n_points)
    return np.unique(np.rint(points)) if _whole(axis) else points


def _middle(axis: str, low: float, high: float) -> float:
    """Halfway between two points, by ratio."""
    middle = math.sqrt(low * high)
    return float(round(middle)) if _whole(axis) else middle


def _between(
    axis: str, low: float, high: float, winner_at: Callable[[float], Winner], *, look: bool
) -> list[Crossover]:
    """The changes between two points; `look`: at the middle even where the ends agree."""
    below, above = winner_at(low), winner_at(high)
    if below.name == above.name and not look:
        return []
    middle, whole = _middle(axis, low, high), _whole(axis)
    if not low < middle < high or (high <= low * (1 + TOLERANCE) and not whole):
        if below.name == above.name:
            return []
        value = high if whole else middle
        return [Crossover(axis, value, low, high, below.name, above.name, below.metric, above.metric)]
    return [
        *_between(axis, low, middle, winner_at, look=False),
        *_between(axis, middle, high, winner_at, look=False),
    ]
