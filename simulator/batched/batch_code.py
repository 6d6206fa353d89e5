"""A schedule as code for many machines: only the waits that can decide a start, in the order they are read.

A dependency is left out where an op certainly starts no earlier without it: its lane, its host or another dependency
has waited for it already. Ends never fall along a chain of waits, rounded as they are, so starts keep all their bits.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from offload.lanes import n_lanes
from offload.metrics.metric_probes import Probes
from offload.ops import Lane
from offload.schedule import Schedule
from simulator.batched import batch_waits as waits
from simulator.batched.batch_layout import (
    COUNT_BITS,
    DECIDES,
    FIRST,
    GIVES,
    KEPT,
    LANE_BITS,
    LAST,
    MOVES,
    STEP,
    TAKES,
    WINDOW,
)


@dataclass(frozen=True, slots=True, eq=False)
class Levels:
    """When HBM can be at its most: just before some of it is given back, and at the end.

    Where all of it is taken on one lane and given back on one lane: `take_bytes` (n_takes,), `give_bytes` (n_gives,),
    `limit` (n_gives,) how many takes may be earlier than a give, `most` (n_gives,) the level if all of those are,
    `last` the level at the end. `n_taken`, `n_given`: how many are waited for at one time, each a power of two.
    """

    take_bytes: NDArray[np.float64]
    give_bytes: NDArray[np.float64]
    limit: NDArray[np.int64]
    most: NDArray[np.float64]
    last: int
    n_taken: int
    n_given: int


@dataclass(frozen=True, slots=True, eq=False)
class BatchCode:
    """What the kernel reads, op by op.

    `code` (n_ops,): lane, counts and flags; `refs`: of each op the places of its arrivals and of other ends, its own
    place, where the window of its transfers ends, how many gives are decided once it has run, each where it has any.
    `chain_code`: of the longest chains, a value once, how many others it continues, and whether another continues it;
    `chain_refs`: its cost, those others, rows of costs below n_works and places from there on, and its own place.
    `levels`: None where several lanes take HBM, or give it back. `n_moves`: how many transfers are waited for at one
    time, a power of two, all of them where several lanes move experts; there `move_lanes`
    has those of each lane, and `n_stalls` is how many ops wait for one.
    """

    code: NDArray[np.int32]
    refs: NDArray[np.int32]
    n_places: int
    chain_code: NDArray[np.int32]
    chain_refs: NDArray[np.int32]
    n_chain_places: int
    alone: NDArray[np.int64]
    levels: Levels | None
    n_moves: int
    move_lanes: tuple[NDArray[np.int64], NDArray[np.int64]] | None
    n_stalls: int

    @property
    def n_bytes(self) -> int:
        """Memory that its long arrays take."""
        return sum(array.nbytes for array in (self.code, self.refs, self.chain_code, self.chain_refs))


def write_code(probes: Probes, most_hbm_bytes: int) -> BatchCode:
    """The code of a schedule; `most_hbm_bytes`: a level that it is known never to pass."""
    schedule, n = probes.schedule, len(probes.schedule)
    moving = np.zeros(n, dtype=np.bool_)
    moving[probes.moving] = True
    known, n_arrivals, n_ends, needed = waits.needed(
        schedule.lane, schedule.dep_ptr, schedule.dep, moving, int(Lane.COMPUTE), n_lanes(schedule.lane)
    )
    code = schedule.lane.astype(np.int32) | n_arrivals << LANE_BITS | n_ends << (LANE_BITS + COUNT_BITS)
    for ops, flag in (
        (probes.layer_first, FIRST),
        (probes.layer_last, LAST),
        (probes.step_ends, STEP),
        (moving, MOVES),
    ):
        code[ops] |= flag
    ptr = np.append(0, np.cumsum(n_arrivals.astype(np.int64) + n_ends))
    place, read, n_places = waits.placed(ptr, needed)
    after = np.full((n, 2), -1, dtype=np.int32)
    move_lanes = _by_lane(schedule.lane[probes.moving])
    several = len(move_lanes[0]) > 2
    stalls = np.flatnonzero(n_arrivals)
    n_moves = len(probes.moving)
    if not several:
        n_moves = _windows(moving, stalls, needed[ptr[stalls]], after[:, 0])
    levels = _levels(schedule, known, most_hbm_bytes, code, after[:, 1])
    for ops, flag in ((place >= 0, KEPT), (after[:, 0] >= 0, WINDOW), (after[:, 1] >= 0, DECIDES)):
        code[ops] |= flag
    chains, n_chain_places, alone = _chains(schedule)
    return BatchCode(
        code, waits.written(ptr, read, place, after), n_places, *chains, n_chain_places, alone, levels,
        power(n_moves), move_lanes if several else None,
        len(stalls) if several else 0,
    )  # fmt: skip


def _by_lane(lane: NDArray[np.int8]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Places of the events of each lane that has any: (n_lanes + 1,) where each begins, (n,) places."""
    order = np.argsort(lane, kind="stable")
    _, counts = np.unique(lane, return_counts=True)
    return np.append(0, np.cumsum(counts)), order


def power(n: int) -> int:
    """The least power of two that is `n` or more, and at least 1."""
    return 1 << max(int(n) - 1, 0).bit_length()


def _windows(
    moving: NDArray[np.bool_], stalls: NDArray[np.int64], arrivals: NDArray[np.int32], ends: NDArray[np.int32]
) -> int:
    """Where the window of each of `stalls` ends, written into `ends` (n_ops,): after the last transfer it waits for.

    One lane moves all: what arrived for an earlier op has moved in an earlier wait, what comes later moves in none of
    these. Returns the most transfers that are issued and in no window yet when one ends, or all is done.
    """
    moved = np.cumsum(moving)
    ends[stalls] = moved[arrivals]
    begins = np.append(0, np.maximum.accumulate(ends[stalls]))
    return int((np.append(moved[stalls], moved[-1:].max(initial=0)) - begins).max(initial=0))


def _levels(
    schedule: Schedule,
    known: NDArray[np.int32],
    most_hbm_bytes: int,
    code: NDArray[np.int32],
    n_decided: NDArray[np.int32],
) -> Levels | None:
    """When HBM can be at its most; flags what takes and gives, and counts after which op how many gives are decided.

    A give is decided once every take that can be earlier is issued: the first that is certainly not earlier waits for
    it, by way of its lane, its host or its dependencies, and so do all that follow it.
    """
    takes, gives = np.flatnonzero(schedule.hbm_acquired), np.flatnonzero(schedule.hbm_released)
    total = np.append(0, np.cumsum(schedule.hbm_acquired[takes]))
    given = np.append(0, np.cumsum(schedule.hbm_released[gives]))
    last = schedule.static_bytes + int(total[-1] - given[-1])
    take_lanes, give_lanes = np.unique(schedule.lane[takes]), np.unique(schedule.lane[gives])
    if len(take_lanes) > 1 or len(give_lanes) > 1:
        return None
    most = most_hbm_bytes
    if not gives.size or not takes.size or most <= max(schedule.static_bytes, last):
        takes, gives = takes[:0], gives[:0]
    given_lane, taken_lane = (lanes[0] if len(lanes) else 0 for lanes in (give_lanes, take_lanes))
    n_before = np.searchsorted(gives, known[takes, given_lane] if given_lane != taken_lane else takes - 1, "right")
    limit = np.searchsorted(n_before, np.arange(len(gives)), "right")
    decided = np.maximum(gives, takes[limit - 1], where=limit > 0, out=gives.copy()) if takes.size else gives
    at, counts = np.unique(decided, return_counts=True)
    n_decided[at] = counts
    code[takes[: limit.max(initial=0)]] |= TAKES
    code[gives] |= GIVES
    sure = np.append(
        0, np.searchsorted(takes, known[gives, taken_lane], "right")
    )  # takes that are earlier, or as early
    taken = np.arange(1, len(takes) + 1) - sure[np.searchsorted(decided, takes)]
    waiting = np.arange(1, len(gives) + 1) - np.searchsorted(decided, gives)
    return Levels(
        schedule.hbm_acquired[takes].astype(np.float64), schedule.hbm_released[gives].astype(np.float64), limit,
        np.minimum(schedule.static_bytes + total[limit] - given[: len(gives)], most).astype(np.float64), last,
        power(taken.max(initial=0)), power(waiting.max(initial=0)),
    )  # fmt: skip


def _chains(schedule: Schedule) -> tuple[tuple[NDArray[np.int32], NDArray[np.int32]], int, NDArray[np.int64]]:
    """The chains of dependencies that differ, as `BatchCode` has them, and the costs of ops that wait for nothing."""
    n_works = len(schedule.works)
    lanes = n_lanes(schedule.lane)
    cost, ptr, others = waits.chained(schedule.lane, schedule.cost, schedule.dep_ptr, schedule.dep, n_works, lanes)
    place, read, n_places = waits.placed(ptr, others)
    place = np.where(place >= 0, n_works + place, -1)
    refs = waits.written(ptr, np.where(others < 0, -1 - others, n_works + read), place, cost[:, None])
    alone = np.unique(schedule.cost[np.diff(schedule.dep_ptr) == 0]).astype(np.int64)
    return (np.diff(ptr).astype(np.int32) << 1 | (place >= 0), refs), n_places, alone


_NONE = np.zeros(0)
NO_LEVELS = Levels(_NONE, _NONE, _NONE.astype(np.int64), _NONE, 0, 1, 1)
NO_LANES = np.zeros(1, dtype=np.int64), np.zeros(0, dtype=np.int64)
"""For the kernel, where it has nothing to look for."""
