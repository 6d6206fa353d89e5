"""Lower bounds of a schedule on a machine: no interpreter that honours the contract can be faster."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from hwmodels.cost import Costs
from offload.ops import Lane
from offload.schedule import Schedule
from simulator.costs import check_costs
from simulator.modes import FIFO, LINKS, Modes
from simulator.recurrence import SMALL_OPS

__all__ = ["Bounds", "lower_bounds"]


@dataclass(frozen=True, slots=True)
class Bounds:
    """`lane_s`: work of each lane, the host's issue costs included; `critical_path_s`: longest chain."""

    lane_s: dict[Lane, float]
    critical_path_s: float

    @property
    def makespan_s(self) -> float:
        """The largest of them: a bound on the makespan."""
        return max([*self.lane_s.values(), self.critical_path_s])

    @property
    def binding(self) -> str:
        """What the bound comes from: a lane's name, or "critical path"."""
        lane = max(self.lane_s, key=lambda name: self.lane_s[name])
        return lane.name if self.lane_s[lane] >= self.critical_path_s else "critical path"


def lower_bounds(schedule: Schedule, costs: Costs, modes: Modes = FIFO) -> Bounds:
    """Bounds on the makespan of `schedule`; `costs` as for `des.simulate`.

    makespan >= the work of every lane (an engine does one op at a time; of a shared link, the transfers), and >= the
    longest chain of dependencies with unlimited lanes. What may be cancelled counts for nothing. Raises `InvalidInput`
    for times no interpreter takes.
    """
    check_costs(schedule, costs)
    duration = costs.duration_s[schedule.cost]
    if modes.cancel:
        duration = np.where(schedule.cancelled_by >= 0, 0.0, duration)
    lane_s = {lane: float(duration[schedule.lane == lane].sum()) for lane in Lane}
    lane_s[Lane.HOST] += float(costs.issue_s[schedule.cost][schedule.lane != Lane.HOST].sum())
    if modes.link == "shared":
        for lane in LINKS:
            lane_s[lane] = float(np.minimum(costs.link_s[schedule.cost], duration)[schedule.lane == lane].sum())
    chain = _longest_chain_small if len(schedule) <= SMALL_OPS else _compiled()
    return Bounds(lane_s, float(chain(schedule.dep_ptr, schedule.dep, duration)))


def _longest_chain_small(dep_ptr: NDArray[np.int64], dep: NDArray[np.int32], duration_s: NDArray[np.float64]) -> float:
    """`_longest_chain` on lists, for schedules that are done before compiled code is loaded."""
    end: list[float] = []
    deps, first = dep.tolist(), 0
    for duration, last in zip(duration_s.tolist(), dep_ptr[1:].tolist(), strict=True):
        time = 0.0
        while first < last:
            ready = end[deps[first]]
            if ready > time:
                time = ready
            first += 1
        end.append(time + duration)
    return max(end, default=0.0)


@cache
def _compiled() -> Callable[..., float]:
    from numba import njit

    compiled: Callable[..., float] = njit(cache=True, nogil=True)(_longest_chain)
    return compiled


def _longest_chain(dep_ptr: NDArray[np.int64], dep: NDArray[np.int32], duration_s: NDArray[np.float64]) -> float:
    """The longest sum of durations along dependencies."""
    end, longest = np.zeros(duration_s.size), 0.0
    for i in range(duration_s.size):
        for k in range(dep_ptr[i], dep_ptr[i + 1]):
            end[i] = max(end[i], end[dep[k]])
        end[i] += duration_s[i]
        longest = max(longest, end[i])
    return longest
