"""Runs of copies: experts that follow one another, into slots that do, and that nobody waits for one by one, in one op.

A FIFO lane gives a run and its copies one by one the same times. Modes that choose between copies, or cancel one
of them, need them one by one: `unrolled`. Nothing here may know time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offload.ops import OpKind, Work
from offload.schedule import Schedule


@dataclass(frozen=True, slots=True, eq=False)
class Unrolled:
    """`schedule` without runs. Of each of its works the row (n_works,) in the schedule it was made of, and how many
    copies that row is.
    """

    schedule: Schedule
    row: NDArray[np.int64]
    n_copies: NDArray[np.int64]


def run_work(one: Work, n_copies: int) -> Work:
    """`n_copies` of the copy `one`, one after the other."""
    return one._replace(copy_bytes=one.copy_bytes * n_copies, n_copies=n_copies)


def unrolled(schedule: Schedule) -> Unrolled | None:
    """The schedule with every copy an op of its own, as it would be without runs; None where it has none."""
    if not any(_issues_a_run(work) for work in schedule.works):
        return None
    n_each = np.array([0 if _issues_a_run(w) else max(w.n_copies, 1) for w in schedule.works])[schedule.cost]
    old = np.repeat(np.arange(len(schedule)), n_each)  # [new ops] the op that each comes from
    rank = np.arange(len(old)) - np.repeat(np.cumsum(n_each) - n_each, n_each)  # its place in the run
    before = _hop_before(schedule, n_each)
    anchor = np.where(before >= 0, before, np.arange(len(schedule)))
    order = np.lexsort((old, rank, anchor[old]))  # a copy follows the hop before of the same expert
    old, rank = old[order], rank[order]
    place = np.zeros(int(n_each.sum()), dtype=np.int64)  # [op of old, rank] -> op of new
    first = np.cumsum(n_each) - n_each
    place[first[old] + rank] = np.arange(len(old))
    works, cost, row, n_copies = _works(schedule, old)
    dep_ptr, dep = _dependencies(schedule, old, rank, n_each, first, place, before)
    columns: dict[str, NDArray[Any]]
    columns = {name: getattr(schedule, name)[old] for name in ("lane", "kind", "step", "layer", "priority")}
    columns |= {name: getattr(schedule, name)[old] // n_each[old] for name in ("bytes", "hbm_acquired", "hbm_released")}
    columns |= {
        name: np.where(getattr(schedule, name)[old] >= 0, getattr(schedule, name)[old] + rank, -1)
        for name in ("expert", "slot")
    }
    by = schedule.cancelled_by[old]
    cancelled_by = np.where(by >= 0, place[first[by]], -1)
    columns |= {"cost": cost, "dep_ptr": dep_ptr, "dep": dep, "cancelled_by": cancelled_by}
    whole = Schedule(**columns, works=works, static_bytes=schedule.static_bytes)
    return Unrolled(whole, row, n_copies)


def _issues_a_run(work: Work) -> bool:
    """Whether the host issues the rest of a run: copies one by one are issued by themselves. One of no copies waits."""
    return work.kind is OpKind.ISSUE and work.n_copies > 0


def _hop_before(schedule: Schedule, n_each: NDArray[np.int64]) -> NDArray[np.int64]:
    """Of each op that is a run the run of the same experts that it waits for, -1 for none; (n_ops,)."""
    owner = np.repeat(np.arange(len(schedule)), np.diff(schedule.dep_ptr))
    dep = schedule.dep
    same = (n_each[owner] > 1) & (n_each[dep] == n_each[owner])
    for name in ("step", "layer", "expert"):
        same &= getattr(schedule, name)[dep] == getattr(schedule, name)[owner]
    same &= (schedule.kind[owner] == OpKind.STAGE) & (schedule.kind[dep] == OpKind.FETCH)
    before = np.full(len(schedule), -1, dtype=np.int64)
    before[owner[same]] = dep[same]
    return before


def _works(
    schedule: Schedule, old: NDArray[np.int64]
) -> tuple[tuple[Work, ...], NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """The works of single copies in order of use, the cost row of each op, and where each work is priced."""
    single = [
        w._replace(copy_bytes=w.copy_bytes // w.n_copies, n_copies=1) if w.n_copies else w for w in schedule.works
    ]
    priced: dict[Work, int] = {}
    for i, work in enumerate(single):  # a row of the same work alone is priced best
        if work not in priced or schedule.works[i].n_copies == 1:
            priced[work] = i
    used = schedule.cost[old]
    _, first_use = np.unique(used, return_index=True)
    rows: dict[Work, int] = {}
    for at in np.sort(first_use).tolist():
        rows.setdefault(single[used[at]], len(rows))
    new_row = np.array([rows.get(work, -1) for work in single], dtype=np.int64)
    row = np.array([priced[work] for work in rows], dtype=np.int64)
    n_copies = np.array([max(schedule.works[i].n_copies, 1) for i in row.tolist()], dtype=np.int64)
    return tuple(rows), new_row[used], row, n_copies


def _dependencies(
    schedule: Schedule,
    old: NDArray[np.int64],
    rank: NDArray[np.int64],
    n_each: NDArray[np.int64],
    first: NDArray[np.int64],
    place: NDArray[np.int64],
    before: NDArray[np.int64],
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Dependencies of single copies: on the same expert's hop before, and on all copies of any other run."""
    n_old = np.diff(schedule.dep_ptr)[old]
    at = np.arange(int(n_old.sum())) - np.repeat(np.cumsum(n_old) - n_old - schedule.dep_ptr[:-1][old], n_old)
    dep, owner = schedule.dep[at].astype(np.int64), np.repeat(np.arange(len(old)), n_old)
    hop = before[old[owner]] == dep
    n_new = np.where(hop, 1, n_each[dep])
    of_rank = np.arange(int(n_new.sum())) - np.repeat(np.cumsum(n_new) - n_new, n_new)
    of_rank += np.repeat(np.where(hop, rank[owner], 0), n_new)
    owner, dep = np.repeat(owner, n_new), np.repeat(dep, n_new)
    found = place[first[dep] + of_rank]
    dep_ptr = np.append(0, np.cumsum(np.bincount(owner, minlength=len(old))))
    return dep_ptr, found[np.lexsort((found, owner))]
