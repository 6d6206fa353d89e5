"""The recurrence on `WIDTH` machines at a time, one vector for all, with what metrics need found on the way.

numba is imported with this module: import it on first use. Same contract and arithmetic as `recurrence`, op by op;
what is read is `batch_code.BatchCode`. Times that wait to be compared lie in rings, tables that are gone round in.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from offload.ops import Lane
from simulator import batch_code as layout
from simulator.vector import ALL, WIDTH, add, below, load, maximum, multiply, splat, store, subtract, where_below
from traces.compiled import njit

__all__ = ["N_SUMS", "OVERRUN", "WIDTH", "run"]

MAKESPAN, MOE_LAYERS, STALL, MOVED, EXPOSED, CRITICAL, PEAK, BEGUN = range(8)
N_SUMS = 8
OVERRUN = -1.0
"""A peak that was not found: more takes were as early as a give than the ring has room for."""

COMPUTE, H2D, N_LANES = int(Lane.COMPUTE), int(Lane.H2D), len(Lane)
LANE, COUNT, SHIFT = (1 << layout.LANE_BITS) - 1, (1 << layout.COUNT_BITS) - 1, layout.LANE_BITS + layout.COUNT_BITS
ARRIVAL_BITS = layout.LANE_BITS
FIRST, LAST, STEP, MOVES, TAKES, GIVES, KEPT, WINDOW, DECIDES = (
    layout.FIRST, layout.LAST, layout.STEP, layout.MOVES, layout.TAKES, layout.GIVES, layout.KEPT,
    layout.WINDOW, layout.DECIDES,
)  # fmt: skip
COPY = H2D | MOVES
"""The code of a copy of an expert that waits for its lane and its host only, unless it takes HBM too."""
ANY = -1 << (SHIFT + layout.COUNT_BITS)


@njit(cache=True, nogil=True)
def run(
    code: Any,  # [n] int32
    refs: Any,  # int32
    cost: Any,  # [n] int32
    chain_code: Any,  # int32
    chain_refs: Any,  # int32
    alone: Any,  # rows
    lane_counts: Any,  # [n_lanes, n_works] float64
    issue_counts: Any,  # [n_works] float64
    issue_s: Any,  # [n_works, M]
    duration_s: Any,  # [n_works, M]
    sums: Any,  # [M, N_SUMS + n_lanes] written
    step_end: Any,  # [M, n_steps] written
    hbm: Any,  # what `_decide` reads
    move_lanes: Any,  # what `_covered` reads, of no lanes where one moves all
    n_places: int,
    n_chain_places: int,
    n_taken: int,
    n_given: int,
    n_moves: int,
    n_stalls: int,
) -> None:
    """Every machine, `WIDTH` at a time; the last few are filled up with copies of the last."""
    n_works, n_machines = issue_s.shape
    issue, duration = np.empty((n_works, WIDTH)), np.empty((n_works + n_chain_places, WIDTH))
    end, ends, totals = (
        np.empty((n_places, WIDTH)),
        np.empty((step_end.shape[1], WIDTH)),
        np.empty((sums.shape[1], WIDTH)),
    )
    taken, given = np.empty((n_taken, WIDTH)), np.empty((n_given, WIDTH))
    moves, stalls = np.empty((2 * n_moves, WIDTH)), np.empty((2 * n_stalls, WIDTH))
    for begin in range(0, n_machines, WIDTH):
        n_here = min(WIDTH, n_machines - begin)
        for k in range(n_works):
            for b in range(WIDTH):
                issue[k, b] = issue_s[k, begin + min(b, n_here - 1)]
                duration[k, b] = duration_s[k, begin + min(b, n_here - 1)]
        _walk(code, refs, cost, issue, duration, end, ends, totals, taken, given, moves, stalls, hbm)
        _chains(chain_code, chain_refs, alone, duration, totals)
        _lane_work(lane_counts, issue_counts, issue, duration, totals)
        for b in range(n_here):
            step_end[begin + b] = ends[:, b]
            sums[begin + b] = totals[:, b]
            if n_stalls > 0:
                sums[begin + b, MOVED], sums[begin + b, EXPOSED] = _covered(moves, stalls, move_lanes, b)


@njit(cache=True, nogil=True)
def _walk(
    code: Any, refs: Any, cost: Any, issue: Any, duration: Any, end: Any, ends: Any, totals: Any, taken: Any,
    given: Any, moves: Any, stalls: Any, hbm: Any,
) -> None:  # fmt: skip
    """One pass over the ops; a value below is a vector, one number a machine."""
    take_bytes, give_bytes, limit, most, static, last = hbm
    free = np.zeros((N_LANES, WIDTH))
    zeros = splat(0.0)
    host = compute = h2d = zeros
    for k in range(N_SUMS):
        store(totals, k, zeros)
    peak, level = splat(static), static
    at = n_steps = n_stalls = n_moved = window = n_taken = n_given = n_decided = n_sure = 0
    move_ring, take_ring, give_ring = moves.shape[0] // 2 - 1, taken.shape[0] - 1, given.shape[0] - 1
    overrun = False
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
            k = 2 * (n_moved & move_ring)
            store(moves, k, start)
            store(moves, k + 1, h2d)
            n_moved += 1
            if what & TAKES:
                overrun |= n_taken - n_sure > take_ring
                store(taken, n_taken & take_ring, start)
                n_taken += 1
            continue
        start = host
        if here == 0:
            before = host
        else:
            start = host = add(host, load(issue, row))
            before = load(free, here)
            if here == COMPUTE:
                before = compute
            elif here == H2D:
                before = h2d
        n_arrivals = (what >> ARRIVAL_BITS) & COUNT
        if n_arrivals > 0:
            until = before
            for k in range(n_arrivals):
                until = maximum(until, load(end, refs[at + k]))
            start = maximum(start, until)
            at += n_arrivals
            store(totals, STALL, add(load(totals, STALL), subtract(until, before)))
            if stalls.size > 0:
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
            k = 2 * (n_moved & move_ring)
            store(moves, k, start)
            store(moves, k + 1, finish)
            n_moved += 1
        if what & WINDOW:
            moved, exposed = load(totals, MOVED), load(totals, EXPOSED)
            while window < refs[at]:
                k = 2 * (window & move_ring)
                begun, done = load(moves, k), load(moves, k + 1)
                moved = add(moved, subtract(done, begun))
                exposed = add(exposed, maximum(subtract(done, maximum(begun, before)), zeros))
                window += 1
            store(totals, MOVED, moved)
            store(totals, EXPOSED, exposed)
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
                time = load(given, n_decided & give_ring)
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
                level -= give_bytes[n_decided]
                n_decided += 1
            at += 1
        if what & STEP:
            store(ends, n_steps, finish)
            n_steps += 1
    moved = load(totals, MOVED)
    for i in range(window, n_moved):
        k = 2 * (i & move_ring)
        moved = add(moved, subtract(load(moves, k + 1), load(moves, k)))
    store(totals, MOVED, moved)
    makespan = maximum(maximum(host, compute), h2d)
    for here in range(N_LANES):
        makespan = maximum(makespan, load(free, here))
    store(totals, MAKESPAN, makespan)
    peak = maximum(peak, splat(last))
    if overrun:
        peak = splat(OVERRUN)
    store(totals, PEAK, peak)


@njit(cache=True, nogil=True)
def _chains(code: Any, refs: Any, alone: Any, table: Any, totals: Any) -> None:
    """The longest chain of dependencies; `table`: durations, and from there on the chains that others continue."""
    critical = splat(0.0)
    for k in range(alone.size):
        critical = maximum(critical, load(table, alone[k]))
    at = 0
    for i in range(code.size):
        what = code[i]
        longest = load(table, refs[at])
        for _ in range((what >> 1) - 1):
            at += 1
            longest = maximum(longest, load(table, refs[at]))
        at += 1
        if what & 1:
            reach = add(longest, load(table, refs[at + 1]))
            store(table, refs[at], reach)
            at += 2
        else:
            critical = maximum(critical, add(longest, load(table, refs[at])))
            at += 1
    store(totals, CRITICAL, critical)


@njit(cache=True, nogil=True)
def _lane_work(lane_counts: Any, issue_counts: Any, issue: Any, duration: Any, totals: Any) -> None:
    """The work of each lane, of the host issuing included, a row each after the sums."""
    for lane in range(lane_counts.shape[0]):
        work = splat(0.0)
        for row in range(lane_counts.shape[1]):
            if lane_counts[lane, row] > 0:
                work = add(work, multiply(splat(lane_counts[lane, row]), load(duration, row)))
        if lane == 0:
            for row in range(issue_counts.size):
                if issue_counts[row] > 0:
                    work = add(work, multiply(splat(issue_counts[row]), load(issue, row)))
        store(totals, N_SUMS + lane, work)


@njit(cache=True, nogil=True)
def _covered(moves: Any, stalls: Any, move_lanes: Any, b: int) -> tuple[float, float]:
    """Time in which experts were moved on machine `b`, the union over lanes, and of it within stalls."""
    move_ptr, move_at = move_lanes
    at = move_ptr[:-1].copy()
    total, exposed, reach, k_stall = 0.0, 0.0, 0.0, 0
    while True:
        lane, time = -1, np.inf
        for k in range(move_ptr.size - 1):
            if at[k] < move_ptr[k + 1] and moves[2 * move_at[at[k]], b] < time:
                lane, time = k, moves[2 * move_at[at[k]], b]
        if lane < 0:
            return total, exposed
        finish = moves[2 * move_at[at[lane]] + 1, b]
        at[lane] += 1
        time = max(time, reach)
        if finish <= time:
            continue
        total += finish - time
        while k_stall < stalls.shape[0] and stalls[k_stall, b] < finish:
            exposed += max(min(stalls[k_stall + 1, b], finish) - max(stalls[k_stall, b], time), 0.0)
            if stalls[k_stall + 1, b] > finish:
                break
            k_stall += 2
        reach = finish
