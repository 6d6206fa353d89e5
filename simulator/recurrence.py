"""The same contract as `des`, as one pass over the ops: every lane is FIFO, so `max` and `+` suffice.

Agrees with `des.simulate` bit for bit (tests/agree). What the recurrence cannot express (shared links, priorities,
cancellation) is refused. A small schedule is walked in plain Python, which is done before numba would be loaded; a
large one is compiled.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwmodels.cost import Costs
from offload.ops import Lane
from offload.schedule import Schedule
from offload.timeline import Timeline
from simulator.costs import check_costs
from simulator.modes import FIFO, Modes

__all__ = ["SMALL_OPS", "simulate"]

SMALL_OPS = 400_000
"""Schedules of up to so many ops are walked in Python: half a second, which is what loading compiled code takes."""


def simulate(schedule: Schedule, costs: Costs, modes: Modes = FIFO) -> Timeline:
    """Start and end of every op; `costs` as for `des.simulate`.

    HBM is not checked: `Timeline.hbm_events` has its level. Raises `InvalidInput` for times that are negative, not
    finite or of another length: compiled code would read past the end.
    """
    modes.require_fifo()
    check_costs(schedule, costs)
    walk = _walk_small if len(schedule) <= SMALL_OPS else _compiled()
    start_s, end_s = walk(
        schedule.lane,
        schedule.cost,
        schedule.dep_ptr,
        schedule.dep,
        np.asarray(costs.issue_s, dtype=np.float64),
        np.asarray(costs.duration_s, dtype=np.float64),
        len(Lane),
    )
    return Timeline(schedule, start_s, end_s, "recurrence")


def _walk(
    lane: NDArray[np.int8],
    cost: NDArray[np.int32],
    dep_ptr: NDArray[np.int64],
    dep: NDArray[np.int32],
    issue_s: NDArray[np.float64],
    duration_s: NDArray[np.float64],
    n_lanes: int,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    n_ops = lane.size
    start, end, free = np.empty(n_ops), np.empty(n_ops), np.zeros(n_lanes)
    for i in range(n_ops):
        here = lane[i]
        if here != 0:
            free[0] += issue_s[cost[i]]
        time = max(free[here], free[0])
        for k in range(dep_ptr[i], dep_ptr[i + 1]):
            time = max(time, end[dep[k]])
        start[i] = time
        end[i] = time + duration_s[cost[i]]
        free[here] = end[i]
    return start, end


def _walk_small(
    lane: NDArray[np.int8],
    cost: NDArray[np.int32],
    dep_ptr: NDArray[np.int64],
    dep: NDArray[np.int32],
    issue_s: NDArray[np.float64],
    duration_s: NDArray[np.float64],
    n_lanes: int,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """`_walk` on lists: the same sums in the same order."""
    start: list[float] = []
    end: list[float] = []
    deps, free, host_s, first = dep.tolist(), [0.0] * n_lanes, 0.0, 0
    rows = zip(lane.tolist(), issue_s[cost].tolist(), duration_s[cost].tolist(), dep_ptr[1:].tolist(), strict=True)
    for here, issue, duration, last in rows:
        if here:
            host_s += issue
            time = free[here]
            if host_s > time:
                time = host_s
        else:
            time = host_s
        while first < last:
            ready = end[deps[first]]
            if ready > time:
                time = ready
            first += 1
        start.append(time)
        time += duration
        end.append(time)
        if here:
            free[here] = time
        else:
            host_s = time
    return np.array(start), np.array(end)


@cache
def _compiled() -> Callable[..., Any]:
    from numba import njit

    compiled: Callable[..., Any] = njit(cache=True)(_walk)
    return compiled
