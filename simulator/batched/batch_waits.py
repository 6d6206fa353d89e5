"""Which waits of a schedule can decide a start, which chains differ, and where what they read is kept.

All is a pass over the ops, once a schedule, as machine code.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from compiled.machine_code import Kernel, loaded

_Ints = NDArray[np.int32]
_Longs = NDArray[np.int64]

NEEDED = Kernel(
    __name__, "_needed",
    ("int8[1]", "int64[1]", "int32[1]", "uint8[1]", "int64", "int32[2]", *["int32[1]"] * 3, "int64[2]"), returns=True,
    unrolls=False,
)  # fmt: skip
CHAINED = Kernel(
    __name__, "_chained",
    ("int8[1]", "int32[1]", "int64[1]", "int32[1]", "int64", *["int32[1]"] * 3, "int64[1]", "int32[1]", "int64[1]"),
    returns=True,
    unrolls=False,
)  # fmt: skip
PLACED = Kernel(
    __name__, "_placed", ("int64[1]", *["int32[1]"] * 3, "int64[1]", "int32[1]"), returns=True, unrolls=False
)
WRITTEN = Kernel(__name__, "_written", ("int64[1]", "int32[1]", "int32[1]", "int32[2]", "int32[1]"), unrolls=False)

WAITS = (NEEDED, CHAINED, PLACED, WRITTEN)


def needed(
    lane: NDArray[np.int8], dep_ptr: _Longs, dep: _Ints, moving: NDArray[np.bool_], compute: int, n_lanes: int
) -> tuple[_Ints, _Ints, _Ints, _Ints]:
    """The waits of each op that its lane, its host and its other waits do not imply: at most one a lane.

    Returns `known` (n_ops, n_lanes), of each lane the last op that has ended when an op has; of each op how many
    arrivals of transfers a compute op looks at, those that its lane does not imply, and how many other waits are
    needed; and all of them, op by op, arrivals first.
    """
    n = len(lane)
    known = np.full((n, n_lanes), -1, np.int32)
    n_arrivals, n_ends, waits = np.zeros(n, np.int32), np.zeros(n, np.int32), np.empty(len(dep), np.int32)
    by_lane = np.full((3, n_lanes), -1, np.int64)
    n_waits = loaded(NEEDED)(
        lane, dep_ptr, dep, moving.view(np.uint8), compute, known, n_arrivals, n_ends, waits, by_lane
    )
    return known, n_arrivals, n_ends, waits[:n_waits].copy()


def chained(
    lane: NDArray[np.int8], cost: _Ints, dep_ptr: _Longs, dep: _Ints, n_works: int, n_lanes: int
) -> tuple[_Ints, _Longs, _Ints]:
    """The chains of dependencies that differ: an op that waits for what the op before it on its lane waits for, at the
    same cost, is that op again, and one that waits for nothing is its cost.

    Returns of each chain its cost and where its `waits` end: rows of costs as -1 - row, and chains before it.
    """
    n = len(lane)
    value, seen = np.empty(n, np.int32), np.full(n_works + n, -1, np.int32)
    costs, ptr, waits = np.empty(n, np.int32), np.zeros(n + 1, np.int64), np.empty(len(dep), np.int32)
    n_chains = loaded(CHAINED)(
        lane, cost, dep_ptr, dep, n_works, value, seen, costs, ptr, waits, np.full(n_lanes, -1, np.int64)
    )
    return costs[:n_chains].copy(), ptr[: n_chains + 1].copy(), waits[: ptr[n_chains]].copy()


def placed(ptr: _Longs, waits: _Ints) -> tuple[_Ints, _Ints, int]:
    """Where what is waited for is kept, from its making to its last use: (n,) places, -1 where nothing waits for it.

    `waits`: of each, those before it that it reads, or below 0 what is kept elsewhere. Returns also the places of
    `waits`, and how many places there are.
    """
    n = len(ptr) - 1
    place, read = np.full(n, -1, np.int32), waits.copy()
    n_places = loaded(PLACED)(ptr, waits, place, read, np.full(n, -1, np.int64), np.empty(n + 1, np.int32))
    return place, read, n_places


def written(ptr: _Longs, waits: _Ints, place: _Ints, after: _Ints) -> _Ints:
    """What each op refers to, one op after the other: its waits, its place, `after` (n, k) where it is not below 0."""
    refs = np.empty(len(waits) + int((place >= 0).sum()) + int((after >= 0).sum()), np.int32)
    loaded(WRITTEN)(ptr, waits, place, after, refs)
    return refs


def _needed(
    lane: Any, dep_ptr: Any, dep: Any, moving: Any, compute: int, known: Any, n_arrivals: Any, n_ends: Any, waits: Any,
    by_lane: Any,
) -> int:  # fmt: skip
    """As `needed`; `by_lane` (3, n_lanes): the last op of each, -1 so far, and room for two more. Returns `n_waits`."""
    n, n_lanes, n_waits = lane.size, known.shape[1], 0
    last, arrived, best = by_lane[0], by_lane[1], by_lane[2]
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
    return n_waits


def _chained(
    lane: Any, cost: Any, dep_ptr: Any, dep: Any, n_works: int, value: Any, seen: Any, costs: Any, ptr: Any, waits: Any,
    last: Any,
) -> int:  # fmt: skip
    """As `chained`; `last` (n_lanes,): the last chain of each lane, -1 so far. Returns how many chains there are."""
    n_chains = 0
    for i in range(lane.size):
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
    return n_chains


def _placed(ptr: Any, waits: Any, place: Any, read: Any, last_use: Any, free: Any) -> int:
    """As `placed`; `last_use` (n,) -1, `free`: room. Returns how many places there are."""
    n = ptr.size - 1
    for i in range(n):
        for k in range(ptr[i], ptr[i + 1]):
            if waits[k] >= 0:
                last_use[waits[k]] = i
    n_free, n_places = 0, 0
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
    return n_places


def _written(ptr: Any, waits: Any, place: Any, after: Any, refs: Any) -> None:
    """Writes `refs`."""
    at = 0
    for i in range(place.size):
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
