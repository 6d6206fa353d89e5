"""The recurrence on `WIDTH` machines at a time, one vector for all, with what metrics need kept on the way.

numba is imported with this module: import it on first use. Same contract and arithmetic as `recurrence`, op by op.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from simulator.vector import WIDTH, add, load, maximum, minimum, store, subtract, zeros
from traces.compiled import njit

__all__ = ["N_SUMS", "WIDTH", "run"]

MAKESPAN, MOE_LAYERS, STALL, MOVED, EXPOSED, CRITICAL = range(6)
N_SUMS = 6
FIRST, LAST, STEP, MOVES, TAKES, GIVES, STALLS = 1, 2, 4, 8, 16, 32, 64


@njit(cache=True, nogil=True)
def run(
    lane: Any,  # [n] int8
    cost: Any,  # [n] int32
    place: Any,  # [n] int32, where the end is kept for later ops; of an op nobody waits for the last place
    dep_ptr: Any,  # [n + 1] int64
    dep: Any,  # [n_deps] int32, places; of each compute op its transfers first
    n_transfers: Any,  # [n] int32, of a compute op
    probe: Any,  # [n] uint8, flags
    issue_s: Any,  # [n_works, M]
    duration_s: Any,  # [n_works, M]
    sums: Any,  # [M, N_SUMS] written
    step_end: Any,  # [M, n_steps] written
    peak: Any,  # [M] int64 written
    taken: Any,  # [n_takes, WIDTH] scratch
    given: Any,  # [n_gives, WIDTH] scratch
    moves: Any,  # [2 * n_moves, WIDTH] scratch
    stalls: Any,  # [2 * n_stalls, WIDTH] scratch
    merge: Any,  # what `_peak` and `_covered` read
    n_places: int,
    n_lanes: int,
) -> None:
    """Every machine, `WIDTH` at a time; the last few are filled up with copies of the last."""
    n_works, n_machines = issue_s.shape
    issue, duration = np.empty((n_works, WIDTH)), np.empty((n_works, WIDTH))
    end, chain = np.empty((n_places, WIDTH)), np.empty((n_places, WIDTH))
    ends, totals = np.empty((step_end.shape[1], WIDTH)), np.empty((N_SUMS, WIDTH))
    for begin in range(0, n_machines, WIDTH):
        n_here = min(WIDTH, n_machines - begin)
        for k in range(n_works):
            for b in range(WIDTH):
                issue[k, b] = issue_s[k, begin + min(b, n_here - 1)]
                duration[k, b] = duration_s[k, begin + min(b, n_here - 1)]
        _walk(
            lane, cost, place, dep_ptr, dep, n_transfers, probe, issue, duration, end, chain, ends, totals, taken,
            given, moves, stalls, n_lanes,
        )  # fmt: skip
        for b in range(n_here):
            step_end[begin + b] = ends[:, b]
            sums[begin + b] = totals[:, b]
            sums[begin + b, MOVED], sums[begin + b, EXPOSED] = _covered(moves, stalls, merge, b)
            peak[begin + b] = _peak(taken, given, merge, b)


@njit(cache=True, nogil=True)
def _walk(
    lane: Any, cost: Any, place: Any, dep_ptr: Any, dep: Any, n_transfers: Any, probe: Any, issue: Any, duration: Any,
    end: Any, chain: Any, ends: Any, totals: Any, taken: Any, given: Any, moves: Any, stalls: Any, n_lanes: int,
) -> None:  # fmt: skip
    """One pass over the ops; a value below is a vector, one number a machine."""
    free = np.zeros((n_lanes, WIDTH))
    host = first = moe_layers = stall = critical = zeros()
    n_steps = n_taken = n_given = n_moved = n_stalls = 0
    for i in range(lane.size):
        here, row, flags = lane[i], cost[i], probe[i]
        low, high = dep_ptr[i], dep_ptr[i + 1]
        if here == 0:
            before = start = host
        else:
            host = add(host, load(issue, row))
            before = load(free, here)
            start = maximum(before, host)
        longest = zeros()
        if flags & STALLS:
            arrival = zeros()
            for k in range(low, low + n_transfers[i]):
                arrival = maximum(arrival, load(end, dep[k]))
                longest = maximum(longest, load(chain, dep[k]))
            start = maximum(start, arrival)
            low += n_transfers[i]
            for k in range(low, high):
                start = maximum(start, load(end, dep[k]))
                longest = maximum(longest, load(chain, dep[k]))
            until = maximum(minimum(start, arrival), before)
            stall = add(stall, subtract(until, before))
            store(stalls, n_stalls, before)
            store(stalls, n_stalls + 1, until)
            n_stalls += 2
        else:
            for k in range(low, high):
                start = maximum(start, load(end, dep[k]))
                longest = maximum(longest, load(chain, dep[k]))
        duration_here = load(duration, row)
        finish, reach = add(start, duration_here), add(longest, duration_here)
        if here == 0:
            host = finish
        else:
            store(free, here, finish)
        store(end, place[i], finish)
        store(chain, place[i], reach)
        critical = maximum(critical, reach)
        if flags == 0:
            continue
        if flags & FIRST:
            first = start
        if flags & LAST:
            moe_layers = add(moe_layers, subtract(finish, first))
        if flags & MOVES:
            store(moves, n_moved, start)
            store(moves, n_moved + 1, finish)
            n_moved += 2
        if flags & TAKES:
            store(taken, n_taken, start)
            n_taken += 1
        if flags & GIVES:
            store(given, n_given, finish)
            n_given += 1
        if flags & STEP:
            store(ends, n_steps, finish)
            n_steps += 1
    makespan = host
    for here in range(1, n_lanes):
        makespan = maximum(makespan, load(free, here))
    store(totals, MAKESPAN, makespan)
    store(totals, MOE_LAYERS, moe_layers)
    store(totals, STALL, stall)
    store(totals, CRITICAL, critical)


@njit(cache=True, nogil=True)
def _peak(taken: Any, given: Any, merge: Any, b: int) -> int:
    """Most HBM in use on machine `b`: the level just before each time that some is given back, and at the end.

    The events of each lane are in order of time, a lane being FIFO; at one instant what is given back comes first.
    """
    take_ptr, take_at, take_sum, give_ptr, give_at, give_bytes, static, most, _, _ = merge
    n_take, n_give = take_ptr.size - 1, give_ptr.size - 1
    at_take, at_give = take_ptr[:-1].copy(), give_ptr[:-1].copy()
    level = peak = static
    while peak < most:
        lane, time = -1, np.inf
        for k in range(n_give):
            if at_give[k] < give_ptr[k + 1] and given[give_at[at_give[k]], b] < time:
                lane, time = k, given[give_at[at_give[k]], b]
        for k in range(n_take):
            low = at_take[k]
            at_take[k] = _first_not_before(taken, take_at, low, take_ptr[k + 1], time, b)
            level += take_sum[at_take[k]] - take_sum[low]
        peak = max(peak, level)
        if lane < 0:
            break
        level -= give_bytes[give_at[at_give[lane]]]
        at_give[lane] += 1
    return peak


@njit(cache=True, nogil=True)
def _first_not_before(taken: Any, take_at: Any, low: int, high: int, time: float, b: int) -> int:
    """The first event from `low` on, below `high`, that is not before `time`: strides that double, then halve."""
    stride = 1
    while low + stride <= high and taken[take_at[low + stride - 1], b] < time:
        low += stride
        stride *= 2
    while stride > 0:
        if low + stride <= high and taken[take_at[low + stride - 1], b] < time:
            low += stride
        stride //= 2
    return low


@njit(cache=True, nogil=True)
def _covered(moves: Any, stalls: Any, merge: Any, b: int) -> tuple[float, float]:
    """Time in which experts were moved on machine `b`, the union over lanes, and of it within stalls."""
    move_ptr, move_at = merge[8], merge[9]
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
