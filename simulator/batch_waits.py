"""Which waits of a schedule can decide a start, which chains differ, and where what they read is kept.

numba is imported with this module: import it on first use. All is a pass over the ops, once a schedule.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from traces.compiled import njit

__all__ = ["chained", "needed", "placed", "written"]


@njit(cache=True, nogil=True)
def needed(lane: Any, dep_ptr: Any, dep: Any, moving: Any, compute: int, n_lanes: int) -> Any:
    """The waits of each op that its lane, its host and its other waits do not imply: at most one a lane.

    Returns `known` (n_ops, n_lanes), of each lane the last op that has ended when an op has; of each op how many
    arrivals of transfers a compute op looks at, those that its lane does not imply, and how many other waits are
    needed; and all of them, op by op, arrivals first.
    """
    n = lane.size
    known = np.full((n, n_lanes), -1, np.int32)
    n_arrivals, n_ends = np.zeros(n, np.int32), np.zeros(n, np.int32)
    waits, n_waits = np.empty(dep.size, np.int32), 0
    last, arrived, best = np.full(n_lanes, -1, np.int64), np.empty(n_lanes, np.int64), np.empty(n_lanes, np.int64)
    for i in range(n):
        here, mine = lane[i], known[i]
        for j in range(n_lanes):
            arrived[j] = best[j] = -1
            if last[here] >= 0:
                mine[j] = known[last[here], j]
        if here == compute:
            for k in range(dep_ptr[i], dep_ptr[i + 1]):
                d = dep[k]
                if moving[d] and d > mine[lane[d]]:
                    arrived[lane[d]] = max(arrived[lane[d]], d)
        if last[0] >= 0:
            for j in range(n_lanes):
                mine[j] = max(mine[j], known[last[0], j])
        for k in range(dep_ptr[i], dep_ptr[i + 1]):
            d = dep[k]
            best[lane[d]] = max(best[lane[d]], d)
        for k in range(dep_ptr[i], dep_ptr[i + 1]):
            d = dep[k]
            for j in range(n_lanes):
                if j != lane[d]:
                    mine[j] = max(mine[j], known[d, j])
        for j in range(n_lanes):
            if arrived[j] >= 0:
                waits[n_waits] = arrived[j]
                n_waits += 1
                n_arrivals[i] += 1
        for j in range(n_lanes):
            if best[j] > mine[j]:
                mine[j] = best[j]
                if best[j] != arrived[j]:
                    waits[n_waits] = best[j]
                    n_waits += 1
                    n_ends[i] += 1
        mine[here] = i
        last[here] = i
    return known, n_arrivals, n_ends, waits[:n_waits].copy()


@njit(cache=True, nogil=True)
def chained(lane: Any, cost: Any, dep_ptr: Any, dep: Any, n_works: int, n_lanes: int) -> Any:
    """The chains of dependencies that differ: an op that waits for what the op before it on its lane waits for, at the
    same cost, is that op again, and one that waits for nothing is its cost.

    Returns of each chain its cost and where its `waits` end: rows of costs as -1 - row, and chains before it.
    """
    n = lane.size
    value, seen = np.empty(n, np.int32), np.full(n_works + n, -1, np.int32)
    costs, ptr, waits = np.empty(n, np.int32), np.zeros(n + 1, np.int64), np.empty(dep.size, np.int32)
    last = np.full(n_lanes, -1, np.int64)  # by lane, its last chain
    n_chains = 0
    for i in range(n):
        value[i] = -1 - cost[i]
        if dep_ptr[i] == dep_ptr[i + 1]:
            continue
        low = at = ptr[n_chains]
        for k in range(dep_ptr[i], dep_ptr[i + 1]):
            v = value[dep[k]]
            place = n_works + v if v >= 0 else -1 - v
            if seen[place] != i:
                seen[place] = i
                waits[at] = v
                at += 1
        before = last[lane[i]]
        same = before >= 0 and costs[before] == cost[i] and ptr[before + 1] - ptr[before] == at - low
        if same:
            for k in range(at - low):
                if waits[ptr[before] + k] != waits[low + k]:
                    same = False
                    break
        if same:
            value[i] = before
            continue
        value[i] = last[lane[i]] = n_chains
        costs[n_chains] = cost[i]
        n_chains += 1
        ptr[n_chains] = at
    return costs[:n_chains].copy(), ptr[: n_chains + 1].copy(), waits[: ptr[n_chains]].copy()


@njit(cache=True, nogil=True)
def placed(ptr: Any, waits: Any) -> Any:
    """Where what is waited for is kept, from its making to its last use: (n,) places, -1 where nothing waits for it.

    `waits`: of each, those before it that it reads, or below 0 what is kept elsewhere. Returns also the places of
    `waits`, and how many places there are.
    """
    n = ptr.size - 1
    last_use = np.full(n, -1, np.int64)
    for i in range(n):
        for k in range(ptr[i], ptr[i + 1]):
            if waits[k] >= 0:
                last_use[waits[k]] = i
    place, read = np.full(n, -1, np.int32), waits.copy()
    free, n_free, n_places = np.empty(n + 1, np.int32), 0, 0
    for i in range(n):
        for k in range(ptr[i], ptr[i + 1]):
            d = waits[k]
            if d >= 0:
                read[k] = place[d]
        for k in range(ptr[i], ptr[i + 1]):
            d = waits[k]
            if d >= 0 and last_use[d] == i:
                last_use[d] = -1
                free[n_free] = place[d]
                n_free += 1
        if last_use[i] >= 0:
            if n_free > 0:
                n_free -= 1
                place[i] = free[n_free]
            else:
                place[i] = n_places
                n_places += 1
    return place, read, n_places


@njit(cache=True, nogil=True)
def written(ptr: Any, waits: Any, place: Any, after: Any) -> Any:
    """What each op refers to, one op after the other: its waits, `after` (n, k) where it is not below 0, its place."""
    n, size = place.size, waits.size
    for i in range(n):
        size += place[i] >= 0
        for k in range(after.shape[1]):
            size += after[i, k] >= 0
    refs, at = np.empty(size, np.int32), 0
    for i in range(n):
        for k in range(ptr[i], ptr[i + 1]):
            refs[at] = waits[k]
            at += 1
        if place[i] >= 0:
            refs[at] = place[i]
            at += 1
        for k in range(after.shape[1]):
            if after[i, k] >= 0:
                refs[at] = after[i, k]
                at += 1
    return refs
