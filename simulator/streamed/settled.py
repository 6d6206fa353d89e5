"""What a stream knows in order of time alone: HBM in use, and how long experts move; settled up to the host's clock,
before which nothing later can start.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from compiled.machine_code import loaded
from offload.metrics.run_metrics import overlap_s, union_s
from simulator.streamed import stream_kernel as kernel

Intervals = tuple[NDArray[np.float64], NDArray[np.float64]]
"""Starts and ends, (n,)."""

Listed = tuple[NDArray[np.float64], NDArray[np.int64]]
"""Times and bytes, (n,)."""


class PartTimes(NamedTuple):
    """When HBM is taken and given back, when experts move, and when the compute lane waits for them, in issue order.

    `levels_in_order`, `moving_in_order`: whether machine code may settle it, its times being in order.
    """

    taken: Listed
    given: Listed
    moving: Intervals
    stalls: Intervals
    levels_in_order: bool = False
    moving_in_order: bool = False


class Settled:
    """Feed it times in issue order, after those that are `left`, then read the totals. `static_bytes`: the level before
    the first.
    """

    def __init__(self, static_bytes: int) -> None:
        self._level = self._peak = static_bytes
        self._moving_s = self._exposed_s = 0.0
        none, nothing = np.zeros(0), np.zeros(0, dtype=np.int64)
        self.left = PartTimes((none, nothing), (none, nothing), (none, none), (none, none))

    def add(self, times: PartTimes, settled_s: float) -> None:
        """More times, after those left, which are written over; nothing after them can be before `settled_s`."""
        levels = self._levels_in_order if times.levels_in_order else self._levels
        moving = self._covered_in_order if times.moving_in_order else self._covered
        self.left = PartTimes(*levels(times, settled_s), *moving(times, settled_s))

    def _levels(self, times: PartTimes, settled_s: float) -> tuple[Listed, Listed]:
        (taken_s, taken), (given_s, given) = times.taken, times.given
        at, deltas = np.concatenate([given_s, taken_s]), np.concatenate([-given, taken])
        order = np.lexsort((deltas, at))  # at one instant what is given back comes before what is taken
        order = order[: np.searchsorted(at[order], settled_s)]
        self._settle(deltas[order])
        late, later = taken_s >= settled_s, given_s >= settled_s
        return (taken_s[late], taken[late]), (given_s[later], given[later])

    def _settle(self, deltas: NDArray[np.int64]) -> None:
        if deltas.size:
            levels = self._level + np.cumsum(deltas)
            self._level, self._peak = int(levels[-1]), max(self._peak, int(levels.max()))

    def _levels_in_order(self, times: PartTimes, settled_s: float) -> tuple[Listed, Listed]:
        levels = np.array([self._level, self._peak, 0, 0], np.int64)
        loaded(kernel.LEVEL)(*times.taken, *times.given, settled_s, levels)
        self._level, self._peak, n_taken, n_given = levels.tolist()
        (taken_s, taken), (given_s, given) = times.taken, times.given
        late, later = slice(n_taken, None), slice(n_given, None)
        return _copies((taken_s[late], taken[late])), _copies((given_s[later], given[later]))

    def _covered(self, times: PartTimes, settled_s: float) -> tuple[Intervals, Intervals]:
        done, moving = _cut(times.moving, settled_s)
        waited, stalls = _cut(times.stalls, settled_s)
        self._moving_s += union_s(*done)
        self._exposed_s += overlap_s(done, waited)
        return moving, stalls

    def _covered_in_order(self, times: PartTimes, settled_s: float) -> tuple[Intervals, Intervals]:
        (begin, end), (begins, until) = times.moving, times.stalls
        apart, within = np.empty((kernel.N_APART, len(begin))), np.empty(len(begins))
        counts = np.zeros(4, np.int64)
        loaded(kernel.COVER)(begin, end, begins, until, settled_s, apart, within, counts)
        n_done, n_left, n_waited, n_waits = counts.tolist()
        self._moving_s += float(apart[kernel.APART_S, :n_done].sum())
        self._exposed_s += float(within[:n_waited].sum())
        return _copies((begin[:n_left], end[:n_left])), _copies((begins[:n_waits], until[:n_waits]))

    @property
    def peak_hbm_bytes(self) -> int:
        """Most HBM in use at any time, all that is left counted."""
        taken, given = self._levels(self.left, np.inf)
        self.left = self.left._replace(taken=taken, given=given)
        return self._peak

    @property
    def transfer_s(self) -> float:
        """Time in which experts were moving, all that is left counted."""
        return self._moving_s + union_s(*self.left.moving)

    @property
    def exposed_s(self) -> float:
        """Of it, while the compute lane waited for a transfer."""
        return self._exposed_s + overlap_s(self.left.moving, self.left.stalls)


def _copies(values: tuple[NDArray[Any], NDArray[Any]]) -> tuple[NDArray[Any], NDArray[Any]]:
    """The same, so that the tables that they are of need not be kept."""
    return values[0].copy(), values[1].copy()


def _cut(intervals: Intervals, at_s: float) -> tuple[Intervals, Intervals]:
    """What lies before `at_s`, and what after."""
    start, end = intervals
    before, left = start < at_s, end > at_s
    return (start[before], np.minimum(end[before], at_s)), (np.maximum(start[left], at_s), end[left])
