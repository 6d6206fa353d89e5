"""What a schedule orders, and what it does not: which ops have ended when an op starts, on any timing.

Lanes are FIFO and the host issues in order, so an op knows of one op a lane that all before it have ended: a vector
clock of one entry a lane (Fidge 1988, Mattern 1989). Nothing here may know time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from offload.ops import Lane
from offload.schedule import Schedule


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


_HOST = int(Lane.HOST)


class GrowingOrder:
    """The order of a schedule that is still being written: `add` each op as it comes."""

    def __init__(self) -> None:
        self._lanes: list[int] = []
        self._at_end: list[tuple[int, ...]] = []
        self._of_lane: list[tuple[int, ...]] = [(-1,) * len(Lane)] * len(Lane)
        self._ended: list[tuple[int, ...]] = []

    def add(self, lane: int, deps: Sequence[int]) -> tuple[int, ...]:
        """The ops of other lanes that the next op, on `lane`, must wait for, of those in `deps`."""
        i, lane, at_end = len(self._lanes), int(lane), self._at_end  # an int is found faster than a member
        known = list(map(max, self._of_lane[lane], self._of_lane[_HOST]))
        needed = []
        for d in sorted(deps, reverse=True) if len(deps) > 1 else deps:
            if known[self._lanes[d]] < d:
                needed.append(d)
                known = list(map(max, known, at_end[d]))
        self._lanes.append(lane)
        self._ended.append(tuple(known))
        known[lane] = i
        self._of_lane[lane] = tuple(known)
        at_end.append(self._of_lane[lane])
        return tuple(reversed(needed))

    def before(self, earlier: int, later: int) -> bool:
        """As of `Order`."""
        return earlier < 0 or self._ended[later][self._lanes[earlier]] >= earlier

    @property
    def ended(self) -> NDArray[np.int32]:
        """As of `Order`, of the ops so far, (n_ops, n_lanes); read-only."""
        ended = np.array(self._ended, dtype=np.int32).reshape(-1, len(Lane))
        ended.flags.writeable = False
        return ended


def order_of(schedule: Schedule) -> Order:
    """The order of `schedule`, one pass over its dependencies."""
    dep, dep_ptr = schedule.dep.tolist(), schedule.dep_ptr.tolist()
    growing = GrowingOrder()
    waits = tuple(growing.add(lane, dep[dep_ptr[i] : dep_ptr[i + 1]]) for i, lane in enumerate(schedule.lane.tolist()))
    return Order(schedule.lane, waits, growing.ended)


def follows_of(order: Order) -> list[bool]:
    """Of each op whether it comes right after another of the compute lane: it waits for nothing else, and the host,
    which waits for nothing in between, may have issued it long before.
    """
    found, after = [], False
    for lane, needed in zip(order.lane.tolist(), order.waits, strict=True):
        found.append(after and lane == Lane.COMPUTE and not needed)
        after = lane != _HOST and (after or lane == Lane.COMPUTE)
    return found
