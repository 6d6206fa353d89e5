"""The same contract as `des`, as one pass over the ops: every lane is FIFO, so `max` and `+` suffice.

Agrees with `des.simulate` bit for bit (tests/agree). What the recurrence cannot express (shared links, priorities,
cancellation) is refused. A small schedule is walked in plain Python, a large one by machine code.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compiled.machine_code import Kernel, has_loaded, loaded
from compiled.when_it_pays import KEPT_OPS, machine_code_pays
from hwmodels.cost import Costs
from offload.lanes import n_lanes
from offload.schedule import Schedule
from offload.timeline import Timeline
from simulator.costs import check_costs
from simulator.modes import FIFO, Modes

SMALL_OPS = 80_000
"""Schedules of up to so many ops are walked in Python where nothing is compiled yet: a tenth of a second."""

_LOADED_OPS = 1_000
"""Schedules of up to so many ops are walked in Python even where the kernel is loaded."""

WALK = Kernel(
    __name__, "_walk",
    ("int8[1]", "int32[1]", "int64[1]", "int32[1]", *["float64[1]"] * 5, "int64[1]", "float64[1]", "int64[1]"),
)  # fmt: skip

HOST = -2
"""What bound an op that waited for the host that issued it; -1 is nothing."""

Walked = tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64], NDArray[np.float64]]


def simulate(schedule: Schedule, costs: Costs, modes: Modes = FIFO, *, small: bool | None = None) -> Timeline:
    """Start and end of every op; `costs` as for `des.simulate`, `small` as of `walk_on`.

    HBM is not checked: `Timeline.hbm_events` has its level. Raises `InvalidInput` for times that are negative, not
    finite or of another length: compiled code would read past the end.
    """
    modes.require_fifo()
    start_s, end_s, _, _ = walked(schedule, costs, small=small)
    return Timeline(schedule, start_s, end_s, "recurrence")


def walked(schedule: Schedule, costs: Costs, *, small: bool | None = None) -> Walked:
    """Of every op, (n_ops,): start, end, what its start waited for, and when the host was done with it.

    What bound it is the op whose end it was, `HOST`, or -1; at a tie the first of lane, host, dependencies as listed.
    Raises `InvalidInput` as `simulate`.
    """
    check_costs(schedule, costs)
    columns = {name: getattr(schedule, name) for name in ("lane", "cost", "dep_ptr", "dep")}
    return walk_on(columns, costs, np.zeros(n_lanes(schedule.lane)), np.zeros(0), small=small)


def walk_on(
    columns: Mapping[str, NDArray[Any]],
    costs: Costs,
    free_s: NDArray[np.float64],
    carried_end_s: NDArray[np.float64],
    *,
    small: bool | None = None,
) -> Walked:
    """As `walked`, from where lanes are free at `free_s` (n_lanes,), which is moved on.

    `dep` counts places: first the ops carried over, of which the ends are known, then those of `columns`; so does what
    bound an op. Ends are of all places. What is carried over and the costs are taken at their word. `small`: whether to
    walk in Python, None to tell by the number of ops.
    """
    if small is None:
        small = is_small(len(columns["lane"]), SMALL_OPS, WALK)
    issue_s, duration_s = (np.ascontiguousarray(values, np.float64) for values in (costs.issue_s, costs.duration_s))
    lane, cost, dep_ptr = columns["lane"], columns["cost"], columns["dep_ptr"]
    dep = np.ascontiguousarray(columns["dep"], np.int32)
    if small:
        return _walk_small(lane, cost, dep_ptr, dep, issue_s, duration_s, free_s, carried_end_s)
    n_ops = len(lane)
    start, end, host = np.empty(n_ops), np.empty(len(carried_end_s) + n_ops), np.empty(n_ops)
    end[: len(carried_end_s)] = carried_end_s
    bound_by, last = np.empty(n_ops, np.int64), np.full(len(free_s), -1, np.int64)
    _compiled()(lane, cost, dep_ptr, dep, issue_s, duration_s, free_s, start, end, bound_by, host, last)
    return start, end, bound_by, host


def is_small(n_ops: int, most_ops: int, *kernels: Kernel) -> bool:
    """Whether a schedule is done in Python: one of up to `most_ops`, or of a few where the compiler is there, which is
    quick for loops as short as these.
    """
    most_ops = min(KEPT_OPS, most_ops) if has_loaded() else most_ops
    return not machine_code_pays(n_ops, *kernels, compile_above=most_ops, call_above=_LOADED_OPS)


def _walk(
    lane: NDArray[np.int8],
    cost: NDArray[np.int32],
    dep_ptr: NDArray[np.int64],
    dep: NDArray[np.int32],
    issue_s: NDArray[np.float64],
    duration_s: NDArray[np.float64],
    free: NDArray[np.float64],
    start: NDArray[np.float64],
    end: NDArray[np.float64],
    bound_by: NDArray[np.int64],
    host: NDArray[np.float64],
    last: NDArray[np.int64],
) -> None:
    """Writes `start`, the rest of `end`, `bound_by` and `host`; `last` (n_lanes,): the last op of each, -1 so far."""
    n_ops = lane.size
    n_carried = end.size - n_ops
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
        time += duration_s[cost[i]]
        end[n_carried + i] = free[here] = time
        last[here] = n_carried + i
        if here == 0:
            host[i] = time


def _walk_small(
    lane: NDArray[np.int8],
    cost: NDArray[np.int32],
    dep_ptr: NDArray[np.int64],
    dep: NDArray[np.int32],
    issue_s: NDArray[np.float64],
    duration_s: NDArray[np.float64],
    free: NDArray[np.float64],
    carried: NDArray[np.float64],
) -> Walked:
    """`_walk` on lists: the same sums in the same order."""
    start: list[float] = []
    end: list[float] = carried.tolist()
    host: list[float] = []
    bound_by: list[int] = []
    deps, at, last, first = dep.tolist(), free.tolist(), [-1] * free.size, 0
    host_s = at[0]
    rows = zip(lane.tolist(), issue_s[cost].tolist(), duration_s[cost].tolist(), dep_ptr[1:].tolist(), strict=True)
    for place, (here, issue, duration, stop) in enumerate(rows, len(end)):
        time, bound = host_s, HOST
        if here:
            host_s += issue
            time = host_s
            if at[here] >= time:
                time, bound = at[here], last[here]
        for k in deps[first:stop]:
            if end[k] > time:
                time, bound = end[k], k
        first = stop
        start.append(time)
        bound_by.append(bound)
        time += duration
        end.append(time)
        if here:
            at[here], last[here] = time, place
        else:
            host_s = time
        host.append(host_s)
    free[:] = [host_s, *at[1:]]
    return np.array(start), np.array(end), np.array(bound_by, dtype=np.int64), np.array(host)


def _compiled() -> Callable[..., Any]:
    return loaded(WALK)
