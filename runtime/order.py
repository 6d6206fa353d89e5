"""What a schedule orders, and what it does not: which ops have ended when an op starts, on any timing.

Lanes are FIFO and the host issues in order, so an op knows of one op a lane that all before it have ended: a vector
clock of one entry a lane (Fidge 1988, Mattern 1989). Nothing here may know time.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from offload.ops import Lane
from offload.schedule import Schedule

__all__ = ["Order", "order_of"]


@dataclass(frozen=True, slots=True, eq=False)
class Order:
    """`waits`: for each op the ops of other lanes that it must wait for, those left out that its place implies.

    `ended` (n_ops, n_lanes) int32: the last op of each lane that has ended whenever the op starts, -1 none.
    """

    lane: NDArray[np.int8]
    waits: tuple[tuple[int, ...], ...]
    ended: NDArray[np.int32]

    def before(self, earlier: int, later: int) -> bool:
        """Whether op `earlier` has ended whenever op `later` starts; what is there from the start (-1) has."""
        return earlier < 0 or bool(self.ended[later, self.lane[earlier]] >= earlier)


def order_of(schedule: Schedule) -> Order:
    """The order of `schedule`, one pass over its dependencies."""
    lanes = schedule.lane.tolist()
    dep, dep_ptr = schedule.dep.tolist(), schedule.dep_ptr.tolist()
    nothing = (-1,) * len(Lane)
    at_end: list[tuple[int, ...]] = []
    of_lane: dict[int, tuple[int, ...]] = {}
    ended = np.empty((len(lanes), len(Lane)), dtype=np.int32)
    waits = []
    for i, lane in enumerate(lanes):
        known = list(map(max, of_lane.get(lane, nothing), of_lane.get(Lane.HOST, nothing)))
        needed = []
        for d in sorted(dep[dep_ptr[i] : dep_ptr[i + 1]], reverse=True):
            if known[lanes[d]] < d:
                needed.append(d)
                known = list(map(max, known, at_end[d]))
        waits.append(tuple(reversed(needed)))
        ended[i] = known
        known[lane] = i
        of_lane[lane] = tuple(known)
        at_end.append(of_lane[lane])
    ended.flags.writeable = False
    return Order(schedule.lane, tuple(waits), ended)
