"""What every op of a run waited for, and the exact derivative of any weighted sum of op times by every cost.

Every start is a maximum and every end a sum (the contract of `des`), so one reverse pass is enough: each op hands its
weight to its duration and to the one argument of its maximum that was the largest. At a tie the first argument counts,
in the order lane, host, dependencies as listed; there the gradient is one-sided: it is that of the side on which this
argument stays the largest.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compiled.machine_code import Kernel, loaded
from hwmodels.cost import Costs
from offload.lanes import n_lanes
from offload.ops import KINDS, TRANSFERS, Lane, OpKind
from offload.schedule import Schedule
from offload.timeline import Timeline
from simulator.recurrence import HOST, SMALL_OPS, is_small, walked
from traces.errors import InvalidInput

__all__ = ["HOST", "ExplainedRun", "Gradient", "gradient", "pulled_back", "slot_edges", "walk"]


_WAITS_FOR_ROOM = [kind for kind in TRANSFERS if kind is not OpKind.ZERO_COPY]
_GOES_ON = np.array([[row.goes_on(before) for before in KINDS.values()] for row in KINDS.values()])
"""By kind of op and kind before it: whether it may take an expert from where that has put it."""

REVERSE = Kernel(
    __name__, "_reverse", ("int8[1]", "int64[1]", "float64[1]", "float64[1]", "float64[1]"),
    sources=("simulator.recurrence",),
)  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class ExplainedRun:
    """A run of the recurrence, and what the start of every op waited for, each (n_ops,).

    `bound_by` int64: the op whose end it was (the last one of the lane or a dependency), -2 for the host that issued
    it, -1 for nothing. `host_s`: when the host was done with issuing (or, on HOST, with running) the op.
    """

    timeline: Timeline
    bound_by: NDArray[np.int64]
    host_s: NDArray[np.float64]

    def slotless_s(self) -> NDArray[np.float64]:
        """When each op could have started with its `slot_edges` met, (n_ops,): its start, but where a slot was last."""
        return _slotless_s(self.timeline.schedule, self.timeline.end_s, self.host_s)


@dataclass(frozen=True, slots=True, eq=False)
class Gradient:
    """Derivative of a metric by the two costs of every row of `schedule.works`, (n_works,): seconds a second."""

    issue_s: NDArray[np.float64]
    duration_s: NDArray[np.float64]


def walk(schedule: Schedule, costs: Costs) -> ExplainedRun:
    """Run the recurrence and remember what bound every op; times as `recurrence.simulate`, bit for bit.

    Raises `InvalidInput` for times that are negative, not finite or of another length.
    """
    start_s, end_s, bound_by, host_s = walked(schedule, costs)
    return ExplainedRun(Timeline(schedule, start_s, end_s, "recurrence"), bound_by, host_s)


def _slotless_s(schedule: Schedule, end_s: NDArray[np.float64], host_s: NDArray[np.float64]) -> NDArray[np.float64]:
    """The starts, (n_ops,), from the lane, the host and all dependencies but those for room."""
    met = host_s.copy()
    for lane in range(n_lanes(schedule.lane)):
        mine = np.flatnonzero(schedule.lane == lane)
        if lane == Lane.HOST:  # what it was done with before
            met[mine] = np.where(mine > 0, host_s[mine - 1], 0.0)
        else:
            met[mine[1:]] = np.maximum(met[mine[1:]], end_s[mine[:-1]])
    owner = np.repeat(np.arange(len(schedule)), np.diff(schedule.dep_ptr))
    counts = ~slot_edges(schedule)
    np.maximum.at(met, owner[counts], end_s[schedule.dep[counts]])
    return met


def slot_edges(schedule: Schedule) -> NDArray[np.bool_]:
    """Which dependencies, (n_deps,), are a copy's wait for room: for the last reader of its slot, or the pinned buffer.

    All dependencies of a copy are, but those on the copy of the same expert one hop before; what a kernel reads in host
    memory waits for no room.
    """
    owner = np.repeat(np.arange(len(schedule)), np.diff(schedule.dep_ptr))
    kind, source = schedule.kind[owner], schedule.dep
    hop_before = _GOES_ON[kind, schedule.kind[source]]
    same = (schedule.layer[owner] == schedule.layer[source]) & (schedule.expert[owner] == schedule.expert[source])
    edges: NDArray[np.bool_] = np.isin(kind, _WAITS_FOR_ROOM) & ~(hop_before & same)
    return edges


def gradient(explained: ExplainedRun, start_weight: NDArray[np.float64], end_weight: NDArray[np.float64]) -> Gradient:
    """Derivative of sum(start_weight x start_s + end_weight x end_s), weights (n_ops,), by every row of costs.

    Issue costs count through the host: each delays what the host issues or runs later. Raises `InvalidInput` for
    weights of another shape.
    """
    schedule = explained.timeline.schedule
    for weights in (start_weight, end_weight):
        if weights.shape != (len(schedule),):
            raise InvalidInput(f"weights have shape {weights.shape}, the schedule has {len(schedule)} ops")
    return pulled_back(schedule.lane, schedule.cost, explained.bound_by, start_weight, end_weight, len(schedule.works))


def pulled_back(
    lane: NDArray[np.int8],
    cost: NDArray[np.int32],
    bound_by: NDArray[np.int64],
    start_weight: NDArray[np.float64],
    end_weight: NDArray[np.float64],
    n_works: int,
    *,
    small: bool | None = None,
) -> Gradient:
    """As `gradient`, of the columns (n_ops,) of a schedule or a part; what is bound by nothing here ends the path."""
    if small is None:
        small = is_small(len(lane), SMALL_OPS, REVERSE)
    start_weight, end_weight = (np.ascontiguousarray(weights, np.float64) for weights in (start_weight, end_weight))
    if small:
        issuing, running = _reverse_small(lane, bound_by, start_weight, end_weight)
    else:
        issuing, running = np.zeros(len(lane)), end_weight.copy()
        _compiled()(lane, bound_by, start_weight, running, issuing)
    by_issue, by_duration = np.zeros(n_works), np.zeros(n_works)
    np.add.at(by_issue, cost, issuing)
    np.add.at(by_duration, cost, running)
    return Gradient(by_issue, by_duration)


def _reverse(
    lane: NDArray[np.int8],
    bound_by: NDArray[np.int64],
    start_weight: NDArray[np.float64],
    at_end: NDArray[np.float64],
    by_issue: NDArray[np.float64],
) -> None:
    """The derivative by the duration of every op, (n_ops,), in place of the weights of ends, and by its issue cost."""
    at_host = 0.0
    for i in range(lane.size - 1, -1, -1):
        if lane[i] == 0:
            at_end[i] += at_host
            at_host = 0.0
        at_start = start_weight[i] + at_end[i]
        if bound_by[i] == HOST:
            at_host += at_start
        elif bound_by[i] >= 0:
            at_end[bound_by[i]] += at_start
        if lane[i] != 0:
            by_issue[i] = at_host


def _reverse_small(
    lane: NDArray[np.int8],
    bound_by: NDArray[np.int64],
    start_weight: NDArray[np.float64],
    end_weight: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """`_reverse` on lists: the same sums in the same order; by issue cost, and by duration."""
    at_end, by_issue, at_host = end_weight.tolist(), [0.0] * lane.size, 0.0
    rows = zip(lane.tolist()[::-1], bound_by.tolist()[::-1], start_weight.tolist()[::-1], strict=True)
    for i, (here, bound, weight) in zip(range(lane.size - 1, -1, -1), rows, strict=True):
        if not here:
            at_end[i] += at_host
            at_host = 0.0
        at_start = weight + at_end[i]
        if bound == HOST:
            at_host += at_start
        elif bound >= 0:
            at_end[bound] += at_start
        if here:
            by_issue[i] = at_host
    return np.array(by_issue), np.array(at_end)


def _compiled() -> Callable[..., Any]:
    return loaded(REVERSE)
