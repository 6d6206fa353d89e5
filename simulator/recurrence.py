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

__all__ = ["HOST", "SMALL_OPS", "simulate", "walked"]

SMALL_OPS = 400_000
"""Schedules of up to so many ops are walked in Python: half a second, which is what loading compiled code takes."""

HOST = -2
"""What bound an op that waited for the host that issued it; -1 is nothing."""

Walked = tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64], NDArray[np.float64]]


def simulate(schedule: Schedule, costs: Costs, modes: Modes = FIFO) -> Timeline:
    """Start and end of every op; `costs` as for `des.simulate`.

    HBM is not checked: `Timeline.hbm_events` has its level. Raises `InvalidInput` for times that are negative, not
    finite or of another length: compiled code would read past the end.
    """
    modes.require_fifo()
    start_s, end_s, _, _ = walked(schedule, costs)
    return Timeline(schedule, start_s, end_s, "recurrence")


def walked(schedule: Schedule, costs: Costs) -> Walked:
    """Of every op, (n_ops,): start, end, what its start waited for, and when the host was done with it.

    What bound it is the op whose end it was, `HOST`, or -1; at a tie the first of lane, host, dependencies as listed.
    Raises `InvalidInput` as `simulate`.
    """
    check_costs(schedule, costs)
    walk = _walk_small if len(schedule) <= SMALL_OPS else _compiled()
    issue_s, duration_s = (np.asarray(values, dtype=np.float64) for values in (costs.issue_s, costs.duration_s))
    found: Walked = walk(schedule.lane, schedule.cost, schedule.dep_ptr, schedule.dep, issue_s, duration_s, len(Lane))
    return found


def _walk(
    lane: NDArray[np.int8],
    cost: NDArray[np.int32],
    dep_ptr: NDArray[np.int64],
    dep: NDArray[np.int32],
    issue_s: NDArray[np.float64],
    duration_s: NDArray[np.float64],
    n_lanes: int,
) -> Walked:
    n_ops = lane.size
    start, end, free = np.empty(n_ops), np.empty(n_ops), np.zeros(n_lanes)
    host, bound_by, last = np.empty(n_ops), np.empty(n_ops, np.int64), np.full(n_lanes, -1, np.int64)
    for i in range(n_ops):
        here = lane[i]
        if here != 0:
            free[0] += issue_s[cost[i]]
            host[i] = free[0]
        time, bound = free[here], last[here]
        if here == 0 or free[0] > time:
            time, bound = free[0], HOST
        for k in range(dep_ptr[i], dep_ptr[i + 1]):
            if end[dep[k]] > time:
                time, bound = end[dep[k]], np.int64(dep[k])
        start[i], bound_by[i] = time, bound
        end[i] = time + duration_s[cost[i]]
        free[here], last[here] = end[i], i
        if here == 0:
            host[i] = end[i]
    return start, end, bound_by, host


def _walk_small(
    lane: NDArray[np.int8],
    cost: NDArray[np.int32],
    dep_ptr: NDArray[np.int64],
    dep: NDArray[np.int32],
    issue_s: NDArray[np.float64],
    duration_s: NDArray[np.float64],
    n_lanes: int,
) -> Walked:
    """`_walk` on lists: the same sums in the same order."""
    start: list[float] = []
    end: list[float] = []
    host: list[float] = []
    bound_by: list[int] = []
    deps, free, last, host_s, first = dep.tolist(), [0.0] * n_lanes, [-1] * n_lanes, 0.0, 0
    rows = zip(lane.tolist(), issue_s[cost].tolist(), duration_s[cost].tolist(), dep_ptr[1:].tolist(), strict=True)
    for i, (here, issue, duration, stop) in enumerate(rows):
        time, bound = host_s, HOST
        if here:
            host_s += issue
            time = host_s
            if free[here] >= time:
                time, bound = free[here], last[here]
        for k in deps[first:stop]:
            if end[k] > time:
                time, bound = end[k], k
        first = stop
        start.append(time)
        bound_by.append(bound)
        time += duration
        end.append(time)
        if here:
            free[here], last[here] = time, i
        else:
            host_s = time
        host.append(host_s)
    return np.array(start), np.array(end), np.array(bound_by, dtype=np.int64), np.array(host)


@cache
def _compiled() -> Callable[..., Any]:
    from numba import njit

    compiled: Callable[..., Any] = njit(cache=True)(_walk)
    return compiled
