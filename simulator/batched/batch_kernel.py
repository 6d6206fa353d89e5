"""The recurrence on `WIDTH` machines at a time, with the chains and the work that bound it: what is compiled.

Written for `compiled`. What is read is `batch_code.BatchCode`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from compiled.vector import WIDTH, add, load, maximum, multiply, splat, store
from simulator.batched.batch_layout import CRITICAL, EXPOSED, MOVED, N_SUMS
from simulator.batched.batch_walk import walk


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
    take_bytes: Any,  # what `batch_walk.decided` reads, as `Levels` has it
    give_bytes: Any,
    limit: Any,
    most: Any,
    static: float,
    last: int,
    move_ptr: Any,  # what `_covered` reads, of no lanes where one moves all
    move_at: Any,
    next_move: Any,  # [n_move_lanes] room for it
    issue: Any,  # [n_works, WIDTH] room, as all that follows
    duration: Any,  # [n_works + n_chain_places, WIDTH]
    end: Any,  # [n_places, WIDTH]
    ends: Any,  # [n_steps, WIDTH]
    totals: Any,  # [N_SUMS + n_lanes, WIDTH]
    free: Any,  # [n_lanes, WIDTH]
    taken: Any,  # rings
    given: Any,
    moves: Any,
    stalls: Any,
) -> None:
    """Every machine, `WIDTH` at a time; the last few are filled up with copies of the last."""
    n_works, n_machines = issue_s.shape
    for begin in range(0, n_machines, WIDTH):
        n_here = min(WIDTH, n_machines - begin)
        for k in range(n_works):
            for b in range(WIDTH):
                issue[k, b] = issue_s[k, begin + min(b, n_here - 1)]
                duration[k, b] = duration_s[k, begin + min(b, n_here - 1)]
        walk(code, refs, cost, issue, duration, end, ends, totals, free, taken, given, moves, stalls, take_bytes,
             give_bytes, limit, most, static, last)  # fmt: skip
        _chains(chain_code, chain_refs, alone, duration, totals)
        _lane_work(lane_counts, issue_counts, issue, duration, totals)
        for b in range(n_here):
            for k in range(ends.shape[0]):
                step_end[begin + b, k] = ends[k, b]
            for k in range(totals.shape[0]):
                sums[begin + b, k] = totals[k, b]
            if stalls.shape[0] > 0:
                sums[begin + b, MOVED], sums[begin + b, EXPOSED] = _covered(
                    moves, stalls, move_ptr, move_at, next_move, b
                )


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


def _covered(moves: Any, stalls: Any, move_ptr: Any, move_at: Any, next_move: Any, b: int) -> tuple[float, float]:
    """Time in which experts were moved on machine `b`, the union over lanes, and of it within stalls."""
    for k in range(next_move.size):
        next_move[k] = move_ptr[k]
    total, exposed, reach, k_stall = 0.0, 0.0, 0.0, 0
    while True:
        lane, time = -1, np.inf
        for k in range(next_move.size):
            if next_move[k] < move_ptr[k + 1] and moves[2 * move_at[next_move[k]], b] < time:
                lane, time = k, moves[2 * move_at[next_move[k]], b]
        if lane < 0:
            return total, exposed
        finish = moves[2 * move_at[next_move[lane]] + 1, b]
        next_move[lane] += 1
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
