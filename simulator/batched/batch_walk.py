"""One pass over the ops for `WIDTH` machines, with what metrics need found on the way: what is compiled.

Written for `compiled`. Same contract and arithmetic as `recurrence`, op by op. A value is a vector, one
number a machine, where it is not said to be one number. Times that wait to be compared lie in rings, tables that are
gone round in.
"""

from __future__ import annotations

from typing import Any

from compiled.vector import ALL, add, below, load, maximum, splat, store, subtract, where_below
from offload.ops import Lane
from simulator.batched.batch_layout import (
    BEGUN,
    COUNT_BITS,
    DECIDES,
    EXPOSED,
    FIRST,
    GIVES,
    KEPT,
    LANE_BITS,
    LAST,
    MAKESPAN,
    MOE_LAYERS,
    MOVED,
    MOVES,
    N_LANES,
    N_SUMS,
    OVERRUN,
    PEAK,
    STALL,
    STEP,
    TAKES,
    WINDOW,
)

COMPUTE, H2D = int(Lane.COMPUTE), int(Lane.H2D)
LANE, COUNT, SHIFT = (1 << LANE_BITS) - 1, (1 << COUNT_BITS) - 1, LANE_BITS + COUNT_BITS
COPY = H2D | MOVES
"""The code of a copy of an expert that waits for its lane and its host only, unless it takes HBM too."""
ANY = -1 << (SHIFT + COUNT_BITS)


def _moved(moves: Any, n_moved: int, start: Any, finish: Any) -> int:
    """A transfer from `start` to `finish` into its ring; returns how many there were."""
    k = 2 * (n_moved & (moves.shape[0] // 2 - 1))
    store(moves, k, start)
    store(moves, k + 1, finish)
    return n_moved + 1


def _windowed(moves: Any, totals: Any, window: int, until: int, before: Any) -> int:
    """Transfers that a wait since `before` has seen to their end, up to `until`, in all and within it."""
    moved, exposed = load(totals, MOVED), load(totals, EXPOSED)
    for i in range(window, until):
        k = 2 * (i & (moves.shape[0] // 2 - 1))
        begun, done = load(moves, k), load(moves, k + 1)
        moved = add(moved, subtract(done, begun))
        exposed = add(exposed, maximum(subtract(done, maximum(begun, before)), splat(0.0)))
    store(totals, MOVED, moved)
    store(totals, EXPOSED, exposed)
    return max(window, until)


def _decided(taken: Any, given: Any, take_bytes: Any, give_bytes: Any, limit: Any, most: Any, n_decided: int,
             n_sure: int, level: float, peak: Any) -> Any:  # fmt: skip
    """The peak before one more give: `level`, one number, is what all machines hold for `n_sure` takes.

    Returns how many takes are sure now, the level after the give, and the peak.
    """
    take_ring = taken.shape[0] - 1
    time = load(given, n_decided & (given.shape[0] - 1))
    while n_sure < limit[n_decided] and below(load(taken, n_sure & take_ring), time) == ALL:
        level += take_bytes[n_sure]
        n_sure += 1
    if below(peak, splat(most[n_decided])) != 0:
        here_level = splat(level)
        for k in range(n_sure, limit[n_decided]):
            start = load(taken, k & take_ring)
            if below(start, time) == 0:
                break
            here_level = add(here_level, where_below(start, time, take_bytes[k]))
        peak = maximum(peak, here_level)
    return n_sure, level - give_bytes[n_decided], peak


def _summed_up(totals: Any, moves: Any, window: int, n_moved: int, free: Any, end: Any, peak: Any) -> None:
    """What is known once all ops have run; `end`: of the host and the two lanes that `free` leaves out."""
    moved = load(totals, MOVED)
    for i in range(window, n_moved):
        k = 2 * (i & (moves.shape[0] // 2 - 1))
        moved = add(moved, subtract(load(moves, k + 1), load(moves, k)))
    store(totals, MOVED, moved)
    for here in range(N_LANES):
        end = maximum(end, load(free, here))
    store(totals, MAKESPAN, end)
    store(totals, PEAK, peak)


def walk(
    code: Any, refs: Any, cost: Any, issue: Any, duration: Any, end: Any, ends: Any, totals: Any, free: Any,
    taken: Any, given: Any, moves: Any, stalls: Any, take_bytes: Any, give_bytes: Any, limit: Any, most: Any,
    static: float, last: int,
) -> None:  # fmt: skip
    """Sums into `totals`, ends of steps into `ends`."""
    zeros = splat(0.0)
    host = compute = h2d = zeros
    for k in range(N_LANES):
        store(free, k, zeros)
    for k in range(N_SUMS):
        store(totals, k, zeros)
    peak, level, overrun = splat(static), static, False
    at = n_steps = n_stalls = n_moved = window = n_taken = n_given = n_decided = n_sure = 0
    take_ring, give_ring = taken.shape[0] - 1, given.shape[0] - 1
    for i in range(code.size):
        what, row = code[i], cost[i]
        here = what & LANE
        duration_here = load(duration, row)
        if what == COMPUTE:
            host = add(host, load(issue, row))
            compute = add(maximum(host, compute), duration_here)
            continue
        if what & ~TAKES == COPY:
            host = add(host, load(issue, row))
            start = maximum(host, h2d)
            h2d = add(start, duration_here)
            n_moved = _moved(moves, n_moved, start, h2d)
            if what & TAKES:
                overrun |= n_taken - n_sure > take_ring
                store(taken, n_taken & take_ring, start)
                n_taken += 1
            continue
        start = before = host
        if here != 0:
            start = host = add(host, load(issue, row))
            before = compute if here == COMPUTE else h2d if here == H2D else load(free, here)
        n_arrivals = (what >> LANE_BITS) & COUNT
        if n_arrivals > 0:
            until = before
            for k in range(n_arrivals):
                until = maximum(until, load(end, refs[at + k]))
            start = maximum(start, until)
            at += n_arrivals
            store(totals, STALL, add(load(totals, STALL), subtract(until, before)))
            if stalls.shape[0] > 0:
                store(stalls, n_stalls, before)
                store(stalls, n_stalls + 1, until)
                n_stalls += 2
        for _ in range((what >> SHIFT) & COUNT):
            start = maximum(start, load(end, refs[at]))
            at += 1
        start = maximum(start, before)
        finish = add(start, duration_here)
        if here == COMPUTE:
            compute = finish
        elif here == H2D:
            h2d = finish
        elif here == 0:
            host = finish
        else:
            store(free, here, finish)
        if what & ANY == 0:
            continue
        if what & KEPT:
            store(end, refs[at], finish)
            at += 1
        if what & FIRST:
            store(totals, BEGUN, start)
        if what & LAST:
            store(totals, MOE_LAYERS, add(load(totals, MOE_LAYERS), subtract(finish, load(totals, BEGUN))))
        if what & MOVES:
            n_moved = _moved(moves, n_moved, start, finish)
        if what & WINDOW:
            window = _windowed(moves, totals, window, refs[at], before)
            at += 1
        if what & TAKES:
            overrun |= n_taken - n_sure > take_ring
            store(taken, n_taken & take_ring, start)
            n_taken += 1
        if what & GIVES:
            store(given, n_given & give_ring, finish)
            n_given += 1
        if what & DECIDES:
            for _ in range(refs[at]):
                n_sure, level, peak = _decided(
                    taken, given, take_bytes, give_bytes, limit, most, n_decided, n_sure, level, peak
                )
                n_decided += 1
            at += 1
        if what & STEP:
            store(ends, n_steps, finish)
            n_steps += 1
    _summed_up(totals, moves, window, n_moved, free, maximum(maximum(host, compute), h2d),
               splat(OVERRUN) if overrun else maximum(peak, splat(float(last))))  # fmt: skip
