"""Lower bounds of a schedule on a machine: no interpreter that honours the contract can be faster."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compiled.machine_code import Kernel, loaded
from hwmodels.cost import Costs
from offload.lanes import cards
from offload.ops import Lane
from offload.schedule import Schedule
from simulator.costs import check_costs
from simulator.modes import FIFO, LINKS, Modes
from simulator.recurrence import SMALL_OPS, is_small

CHAINS = Kernel(__name__, "_chains", ("int64[1]", "int32[1]", "float64[1]", "float64[1]"))


@dataclass(frozen=True, slots=True)
class Bounds:
    """`lane_s`: work of each lane, the host's issue costs included, of several cards that of the busiest;
    `critical_path_s`: longest chain.
    """

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
    lane_s[Lane.COMPUTE] = max(float(duration[schedule.lane == lane].sum()) for lane in cards(schedule.lane))
    lane_s[Lane.HOST] += float(costs.issue_s[schedule.cost][schedule.lane != Lane.HOST].sum())
    if modes.link == "shared":
        for lane in LINKS:
            lane_s[lane] = float(np.minimum(costs.link_s[schedule.cost], duration)[schedule.lane == lane].sum())
    chains = chains_s(schedule.dep_ptr, schedule.dep, duration, np.zeros(0))
    return Bounds(lane_s, float(chains.max(initial=0.0)))


def chains_s(
    dep_ptr: NDArray[np.int64],
    dep: NDArray[Any],
    duration_s: NDArray[np.float64],
    carried_s: NDArray[np.float64],
    *,
    small: bool | None = None,
) -> NDArray[np.float64]:
    """The longest sum of durations along dependencies that ends at each place: ops carried over, then (n_ops,) more."""
    if small is None:
        small = is_small(len(duration_s), SMALL_OPS, CHAINS)
    if small:
        return _chains_small(dep_ptr, dep, duration_s, carried_s)
    end = np.concatenate([carried_s, np.zeros(len(duration_s))])
    _compiled()(dep_ptr, np.ascontiguousarray(dep, np.int32), np.ascontiguousarray(duration_s, np.float64), end)
    return end


def _chains_small(
    dep_ptr: NDArray[np.int64], dep: NDArray[Any], duration_s: NDArray[np.float64], carried_s: NDArray[np.float64]
) -> NDArray[np.float64]:
    """`_chains` on lists, for schedules that are done before compiled code is loaded."""
    end: list[float] = carried_s.tolist()
    deps, first = dep.tolist(), 0
    for duration, last in zip(duration_s.tolist(), dep_ptr[1:].tolist(), strict=True):
        time = 0.0
        for k in deps[first:last]:
            if end[k] > time:
                time = end[k]
        first = last
        end.append(time + duration)
    return np.array(end)


def _compiled() -> Callable[..., Any]:
    return loaded(CHAINS)


def _chains(
    dep_ptr: NDArray[np.int64], dep: NDArray[Any], duration_s: NDArray[np.float64], end: NDArray[np.float64]
) -> None:
    """Writes `end` of the ops, after that of those carried over."""
    n_carried = end.size - duration_s.size
    for i in range(duration_s.size):
        time = 0.0
        for k in range(dep_ptr[i], dep_ptr[i + 1]):
            time = max(time, end[dep[k]])
        end[n_carried + i] = time + duration_s[i]
