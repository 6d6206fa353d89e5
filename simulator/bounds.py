"""Lower bounds of a schedule on a machine: no interpreter that honours the contract can be faster."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hwmodels.cost import Costs
from offload.ops import Lane
from offload.schedule import Schedule
from simulator.costs import check_costs

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


def lower_bounds(schedule: Schedule, costs: Costs) -> Bounds:
    """Bounds on the makespan of `schedule`; `costs` as for `des.simulate`.

    makespan >= the work of every lane (an engine does one op at a time), and >= the longest chain of
    dependencies with unlimited lanes. Raises `InvalidInput` for times no interpreter takes.
    """
    check_costs(schedule, costs)
    duration = costs.duration_s[schedule.cost]
    lane_s = {lane: float(duration[schedule.lane == lane].sum()) for lane in Lane}
    lane_s[Lane.HOST] += float(costs.issue_s[schedule.cost][schedule.lane != Lane.HOST].sum())
    end = np.zeros(len(schedule))
    ptr, dep, times = schedule.dep_ptr.tolist(), schedule.dep.tolist(), duration.tolist()
    for i, time in enumerate(times):
        start = max((end[j] for j in dep[ptr[i] : ptr[i + 1]]), default=0.0)
        end[i] = start + time
    return Bounds(lane_s, float(end.max(initial=0.0)))
