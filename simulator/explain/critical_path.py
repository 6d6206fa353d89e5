"""What every op of a run waited for, and the exact derivative of any weighted sum of op times by every cost.

Every start is a maximum and every end a sum (the contract of `des`), so one reverse pass is enough: each op hands its
weight to its duration and to the one argument of its maximum that was the largest. At a tie the first argument counts,
in the order lane, host, dependencies as listed; there the gradient is one-sided: it is that of the side on which this
argument stays the largest. numba is loaded on first use.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwmodels.cost import Costs
from offload.ops import TRANSFERS, Lane, OpKind
from offload.schedule import Schedule
from offload.timeline import Timeline
from simulator.costs import check_costs
from traces.errors import InvalidInput

__all__ = ["HOST", "Gradient", "Trail", "gradient", "slot_edges", "walk"]

HOST = -2
"""In `Trail.bound_by`: the start waited for the host that issued the op."""


@dataclass(frozen=True, slots=True, eq=False)
class Trail:
    """A run of the recurrence, and what the start of every op waited for, each (n_ops,).

    `bound_by` int64: the op whose end it was (the last one of the lane or a dependency), -2 for the host that issued
    it, -1 for nothing. `host_s`: when the host was done with issuing (or, on HOST, with running) the op. `slotless_s`:
    when the op could have started had its `slot_edges` been met; its start, unless a slot was the last to come.
    """

    timeline: Timeline
    bound_by: NDArray[np.int64]
    host_s: NDArray[np.float64]
    slotless_s: NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Gradient:
    """Derivative of a metric by the two costs of every row of `schedule.works`, (n_works,): seconds a second."""

    issue_s: NDArray[np.float64]
    duration_s: NDArray[np.float64]


def walk(schedule: Schedule, costs: Costs) -> Trail:
    """Run the recurrence and remember what bound every op; times as `recurrence.simulate`, bit for bit.

    Raises `InvalidInput` for times that are negative, not finite or of another length.
    """
    check_costs(schedule, costs)
    start_s, end_s, bound_by, host_s, slotless_s = _compiled(_walk)(
        schedule.lane,
        schedule.cost,
        schedule.dep_ptr,
        schedule.dep,
        slot_edges(schedule),
        np.asarray(costs.issue_s, dtype=np.float64),
        np.asarray(costs.duration_s, dtype=np.float64),
        len(Lane),
    )
    return Trail(Timeline(schedule, start_s, end_s, "recurrence"), bound_by, host_s, slotless_s)


def slot_edges(schedule: Schedule) -> NDArray[np.bool_]:
    """Which dependencies, (n_deps,), are a copy's wait for room: for the last reader of its slot, or the pinned buffer.

    All dependencies of a copy are, but those on the copy of the same expert one hop before.
    """
    owner = np.repeat(np.arange(len(schedule)), np.diff(schedule.dep_ptr))
    kind, source = schedule.kind[owner], schedule.dep
    hop_before = (kind == OpKind.FETCH) & (schedule.kind[source] == OpKind.DISK_READ)
    hop_before |= (kind == OpKind.STAGE) & (schedule.kind[source] == OpKind.FETCH)
    same = (schedule.layer[owner] == schedule.layer[source]) & (schedule.expert[owner] == schedule.expert[source])
    edges: NDArray[np.bool_] = np.isin(kind, TRANSFERS) & ~(hop_before & same)
    return edges


def gradient(trail: Trail, start_weight: NDArray[np.float64], end_weight: NDArray[np.float64]) -> Gradient:
    """Derivative of sum(start_weight x start_s + end_weight x end_s), weights (n_ops,), by every row of costs.

    Issue costs count through the host: each delays what the host issues or runs later. Raises `InvalidInput` for
    weights of another shape.
    """
    schedule = trail.timeline.schedule
    for weights in (start_weight, end_weight):
        if weights.shape != (len(schedule),):
            raise InvalidInput(f"weights have shape {weights.shape}, the schedule has {len(schedule)} ops")
    by_issue, by_duration = _compiled(_reverse)(
        schedule.lane,
        schedule.cost,
        trail.bound_by,
        np.asarray(start_weight, dtype=np.float64),
        np.asarray(end_weight, dtype=np.float64),
        len(schedule.works),
    )
    return Gradient(by_issue, by_duration)


def _walk(
    lane: NDArray[np.int8],
    cost: NDArray[np.int32],
    dep_ptr: NDArray[np.int64],
    dep: NDArray[np.int32],
    is_slot: NDArray[np.bool_],
    issue_s: NDArray[np.float64],
    duration_s: NDArray[np.float64],
    n_lanes: int,
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    n_ops = lane.size
    start, end, free = np.empty(n_ops), np.empty(n_ops), np.zeros(n_lanes)
    host, slotless = np.empty(n_ops), np.empty(n_ops)
    bound_by, last = np.empty(n_ops, np.int64), np.full(n_lanes, -1, np.int64)
    for i in range(n_ops):
        here = lane[i]
        if here != 0:
            free[0] += issue_s[cost[i]]
            host[i] = free[0]
        time, bound = free[here], last[here]
        if here == 0 or free[0] > time:
            time, bound = free[0], HOST
        met = time
        for k in range(dep_ptr[i], dep_ptr[i + 1]):
            if end[dep[k]] > time:
                time, bound = end[dep[k]], np.int64(dep[k])
            if not is_slot[k]:
                met = max(met, end[dep[k]])
        start[i], bound_by[i], slotless[i] = time, bound, met
        end[i] = time + duration_s[cost[i]]
        free[here], last[here] = end[i], i
        if here == 0:
            host[i] = end[i]
    return start, end, bound_by, host, slotless


def _reverse(
    lane: NDArray[np.int8],
    cost: NDArray[np.int32],
    bound_by: NDArray[np.int64],
    start_weight: NDArray[np.float64],
    end_weight: NDArray[np.float64],
    n_works: int,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    by_issue, by_duration = np.zeros(n_works), np.zeros(n_works)
    at_end = end_weight.copy()
    at_host = 0.0
    for i in range(lane.size - 1, -1, -1):
        if lane[i] == 0:
            at_end[i] += at_host
            at_host = 0.0
        by_duration[cost[i]] += at_end[i]
        at_start = start_weight[i] + at_end[i]
        if bound_by[i] == HOST:
            at_host += at_start
        elif bound_by[i] >= 0:
            at_end[bound_by[i]] += at_start
        if lane[i] != 0:
            by_issue[cost[i]] += at_host
    return by_issue, by_duration


@cache
def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    from numba import njit

    compiled: Callable[..., Any] = njit(cache=True)(function)
    return compiled
