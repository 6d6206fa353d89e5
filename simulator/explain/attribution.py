"""Where the time of a schedule goes: its critical path on one machine, split exactly by what it is spent on.

The path is what the reverse pass of `critical_path` walks for the makespan: a chain of ops running and being issued
that covers [0, makespan] without gap.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from compiled.machine_code import Kernel, loaded
from hwmodels.cost import parts_of
from hwmodels.figures import Figures
from offload.ops import KINDS, OpKind, Work
from simulator.explain.critical_path import HOST, ExplainedRun

TRACE_BACK = Kernel(
    __name__, "_trace_back", ("int8[1]", "int64[1]", "int64", "int64[1]", "bool[1]"), returns=True,
    sources=("simulator.explain.critical_path", "simulator.recurrence"),
)  # fmt: skip

CLASSES = ("compute", "kernel", "hbm", "h2d", "disk", "cpu", "host", "sync", "slot")
"""Where the time of a critical path goes. compute: arithmetic. kernel: kernels beyond their roofline (start-up, drain),
staging copies' included. hbm: HBM traffic that arithmetic does not hide, and staging copies. h2d: fetches, latency and
transfer. disk: storage reads. cpu: experts on the host. host: launches, copy issues, bookkeeping of a step. sync:
ids read back and blocking waits. slot: copies that wait for an expert slot or for the pinned buffer."""

_WHOLE: dict[OpKind, str] = {kind: row.time for kind, row in KINDS.items() if row.time != "kernel"}
"""The class of ops that belong to one as a whole; every other op is kernels."""


@dataclass(frozen=True, slots=True, eq=False)
class Path:
    """The critical path: (n,) segments in order that cover [0, makespan] without gap or overlap.

    Segment k is op `op[k]` running, or being issued by the host where `issuing[k]`, from `begin_s` to `end_s`. Of it
    the last `slot_s` are spent waiting for a slot, by a copy further down the path.
    """

    op: NDArray[np.int64]
    issuing: NDArray[np.bool_]
    begin_s: NDArray[np.float64]
    end_s: NDArray[np.float64]
    slot_s: NDArray[np.float64]


def critical_path(explained: ExplainedRun) -> Path:
    """The chain of ops and issues that the end of the last op (the first of several) waited for."""
    timeline = explained.timeline
    if not len(timeline.schedule):
        nothing = np.zeros(0)
        return Path(nothing.astype(np.int64), nothing.astype(np.bool_), nothing, nothing, nothing)
    last = int(np.argmax(timeline.end_s))
    room = 2 * len(timeline.schedule)
    op, issuing = np.empty(room, np.int64), np.zeros(room, np.bool_)
    n = loaded(TRACE_BACK)(timeline.schedule.lane, explained.bound_by, last, op, issuing)
    op, issuing = op[:n][::-1].copy(), issuing[:n][::-1].copy()
    before = np.where(op > 0, explained.host_s[op - 1], 0.0)
    begin_s = np.where(issuing, before, timeline.start_s[op])
    end_s = np.where(issuing, explained.host_s[op], timeline.end_s[op])
    # What the path spends after `slotless_s` of a copy that comes later, that copy waits for its slot. Of an op that is
    # being issued it is no earlier than the end of that, so that nothing before waits for it.
    since_s = explained.slotless_s()[op]
    waits_since_s = np.minimum.accumulate(np.concatenate([[np.inf], since_s[:0:-1]]))[::-1]
    slot_s = np.maximum(end_s - np.maximum(begin_s, waits_since_s), 0.0)
    return Path(op, issuing, begin_s, end_s, slot_s)


def partition(explained: ExplainedRun, figures: Figures) -> dict[str, float]:
    """Seconds of the makespan in each of `CLASSES`, on the machine `figures` that `explained` was priced for.

    They sum to the makespan to rounding. A segment that waits for a slot in part spends the rest in the
    proportions of the whole op.
    """
    schedule, path = explained.timeline.schedule, critical_path(explained)
    figures = figures.for_works(schedule.works)
    left_s = path.end_s - path.begin_s - path.slot_s
    row, n_works = schedule.cost[path.op], len(schedule.works)
    running_s = np.bincount(row[~path.issuing], left_s[~path.issuing], n_works)
    shares = np.array([_class_shares(work, figures) for work in schedule.works]).reshape(n_works, len(CLASSES))
    seconds = dict(zip(CLASSES, (running_s @ shares).tolist(), strict=True))
    seconds["host"] += float(left_s[path.issuing].sum())
    seconds["slot"] = float(path.slot_s.sum())
    return seconds


def _class_shares(work: Work, figures: Figures) -> list[float]:
    """How the duration of an op splits over `CLASSES`; all 0 when it takes no time."""
    parts = parts_of(work, figures)
    if work.kind in _WHOLE:
        spent = {str(_WHOLE[work.kind]): parts.total_s}
    else:
        spent = {"kernel": parts.fixed_s, "compute": parts.compute_s, "hbm": parts.hbm_s}
    return [float(spent.get(name, 0.0) / parts.total_s) if parts.total_s else 0.0 for name in CLASSES]


def _trace_back(
    lane: NDArray[np.int8], bound_by: NDArray[np.int64], last: int, op: NDArray[np.int64], issuing: NDArray[np.bool_]
) -> int:
    """The chain of ops that ends with `last`, last to first, into `op`, and where the host was issuing it, not it
    running; returns how many they are. `op`, `issuing` (2 n_ops,): room, and False.
    """
    n, i = 0, last
    while i >= 0:
        op[n] = i
        n += 1
        if bound_by[i] != HOST:
            i = bound_by[i]
            continue
        if lane[i] == 0:
            i -= 1
        while i >= 0 and lane[i] != 0:
            op[n], issuing[n] = i, True
            n += 1
            i -= 1
    return n
