"""The loops of a stream at machine speed: a part walked with all that is counted on the way, and its critical paths.

`simulator.streamed.stream_parts` says in NumPy what is found here, bit for bit. Tables hold a list a row, so that few
arrays are handed over.
"""

from __future__ import annotations

from typing import Any

from compiled.machine_code import Kernel
from offload.ops import Lane
from simulator.recurrence import HOST

WALK_PART = Kernel(
    __name__,
    "walk_part",
    (
        "int8[1]", "int8[1]", "int32[1]", "int64[1]", "int32[1]", "int32[1]", "int16[1]", *["int64[1]"] * 3, "int64",
        "int64[1]", "float64[1]", "float64[1]", "int8[1]", "int32[1]", "int64", "float64[1]", "int64[1]", "float64[1]",
        "float64[1]", "bool[1]", "int64[1]", "float64[2]", "int64[2]", "float64[2]", "int64[2]", "int64[1]",
        "float64[1]",
    ),
    sources=("simulator.recurrence", "offload.ops"),
    unrolls=False,
)  # fmt: skip

PULL = Kernel(
    __name__,
    "pull",
    ("int8[1]", "int32[1]", "int64[1]", "int64", "int64[1]", "int64[1]", "int8[1]", "float64[2]", "float64[2]"),
    sources=("simulator.recurrence",),
    unrolls=False,
)

COVER = Kernel(
    __name__,
    "cover",
    (*["float64[1]"] * 4, "float64", "float64[2]", "float64[1]", "int64[1]"),
    unrolls=False,
)

LEVEL = Kernel(
    __name__,
    "level",
    ("float64[1]", "int64[1]", "float64[1]", "int64[1]", "float64", "int64[1]"),
    unrolls=False,
)

COMPUTE, CPU, N_KINDS_OF_LANE = int(Lane.COMPUTE), int(Lane.CPU), len(Lane)

# Bits of what a kind of op is: it moves weights; it is of its layer wherever it runs; its layer has an MoE block; it
# ends a forward pass.
MOVES, OF_LAYER, OF_BLOCK, ENDS = 1, 2, 4, 8

# Rows of `seconds`: lists of times.
STALL_FROM, STALL_UNTIL, MOVING_FROM, MOVING_UNTIL, TAKEN_AT, GIVEN_AT, ENDED_AT, ISSUED = range(8)
N_SECONDS = 8

# Rows of `numbers`: bytes taken and given back at those times, and steps that ended.
TAKEN, GIVEN, ENDED = range(3)
N_NUMBERS = 3

# Rows of `layer_s` and `layer_at`, by step counted and layer: when its first op began and its last ended; these ops,
# and whether it has an MoE block. Then, for layers in order: how long each was, its first op and its last.
BEGAN_S, ENDED_S = range(2)
FIRST, LAST, GATED = range(3)

# What is counted, in `tally`: how long each list is, and layers; then bytes by kind of op.
N_STALLS, N_MOVING, N_TAKEN, N_GIVEN, N_ENDED, N_ISSUED, N_LAYERS = range(7)
BYTES = 7


def place_in(sorted_values: Any, value: int) -> int:
    """Where `value` is in `sorted_values` (n,) ascending, -1 nowhere."""
    low, high = 0, sorted_values.size
    while low < high:
        middle = (low + high) >> 1
        if sorted_values[middle] < value:
            low = middle + 1
        else:
            high = middle
    return low if low < sorted_values.size and sorted_values[low] == value else -1


def walk_part(
    lane: Any,
    kind: Any,
    cost: Any,
    dep_ptr: Any,
    dep: Any,
    step: Any,
    layer: Any,
    n_bytes: Any,
    taken: Any,
    given: Any,
    base: int,  # the first op of the part
    live: Any,  # (n_live,) int64 ascending, ops before it
    issue_s: Any,
    duration_s: Any,
    about: Any,  # by kind of op, bits
    steps: Any,  # forward passes that are counted, ascending; of those of this part
    n_layers: int,
    free: Any,  # by lane, moved on
    last: Any,  # by lane, -1, for use here
    end: Any,  # of what is live, then written
    chain: Any,  # the longest chain of ops to the end of each, the same
    moves: Any,  # the same
    bound_by: Any,  # written, as of `recurrence.walked`, -1 for what is of a part before
    seconds: Any,
    numbers: Any,
    layer_s: Any,
    layer_at: Any,  # FIRST is -1
    tally: Any,
    lane_s: Any,  # by lane, its work, added to
) -> None:
    """Walk a part. Lists of `seconds` and `numbers` begin with what `tally` says is there."""
    n_live, step_at = live.size, -1
    n_stalls, n_moving, n_taken, n_given = tally[N_STALLS], tally[N_MOVING], tally[N_TAKEN], tally[N_GIVEN]
    n_ended, n_issued = 0, 0
    for i in range(lane.size):
        here, row, what = lane[i], cost[i], about[kind[i]]
        was_free = free[here]
        if here != 0:
            free[0] += issue_s[row]
            seconds[ISSUED, n_issued] = issue_s[row]
            n_issued += 1
        time, bound = free[here], last[here]
        if here == 0 or free[0] > time:
            time, bound = free[0], HOST
        arrived, before = 0.0, 0.0
        for k in range(dep_ptr[i], dep_ptr[i + 1]):
            at = dep[k] - base
            at = at + n_live if at >= 0 else place_in(live, dep[k])
            if end[at] > time:
                time, bound = end[at], at
            before = max(before, chain[at])
            if moves[at]:
                arrived = max(arrived, end[at])
        bound_by[i] = max(bound - n_live, -1) if bound >= 0 else bound
        began, at = time, n_live + i
        if here == COMPUTE and min(began, arrived) > was_free:
            seconds[STALL_FROM, n_stalls], seconds[STALL_UNTIL, n_stalls] = was_free, min(began, arrived)
            n_stalls += 1
        time += duration_s[row]
        end[at] = free[here] = time
        chain[at] = before + duration_s[row]
        last[here] = at
        moves[at] = what & MOVES != 0
        lane_s[here] += duration_s[row]
        if taken[i] > 0:
            seconds[TAKEN_AT, n_taken], numbers[TAKEN, n_taken] = began, taken[i]
            n_taken += 1
        if given[i] > 0:
            seconds[GIVEN_AT, n_given], numbers[GIVEN, n_given] = time, given[i]
            n_given += 1
        if what & MOVES:
            seconds[MOVING_FROM, n_moving], seconds[MOVING_UNTIL, n_moving] = began, time
            n_moving += 1
        tally[BYTES + kind[i]] += n_bytes[i]
        if what & ENDS:
            seconds[ENDED_AT, n_ended], numbers[ENDED, n_ended] = time, step[i]
            n_ended += 1
        if i == 0 or step[i] != step[i - 1]:
            step_at = place_in(steps, step[i])
        computes = here == COMPUTE or here >= N_KINDS_OF_LANE or what & OF_LAYER or (here == CPU and not what & MOVES)
        if computes and layer[i] >= 0 and step_at >= 0:
            at = step_at * n_layers + layer[i]
            if layer_at[FIRST, at] < 0:
                layer_at[FIRST, at], layer_s[BEGAN_S, at], layer_at[GATED, at] = i, began, 0
            layer_at[LAST, at], layer_s[ENDED_S, at] = i, time
            if what & OF_BLOCK:
                layer_at[GATED, at] = 1
    tally[N_STALLS], tally[N_MOVING], tally[N_TAKEN], tally[N_GIVEN] = n_stalls, n_moving, n_taken, n_given
    tally[N_ENDED], tally[N_ISSUED] = n_ended, n_issued
    tally[N_LAYERS] = pack_layers(layer_s, layer_at, steps.size * n_layers)


def pack_layers(layer_s: Any, layer_at: Any, n: int) -> int:
    """MoE layers alone, in order: how long each was, its first op and its last; returns how many."""
    n_found = 0
    for at in range(n):
        if layer_at[FIRST, at] >= 0 and layer_at[GATED, at]:
            layer_s[BEGAN_S, n_found] = layer_s[ENDED_S, at] - layer_s[BEGAN_S, at]
            layer_at[FIRST, n_found], layer_at[LAST, n_found] = layer_at[FIRST, at], layer_at[LAST, at]
            n_found += 1
    return n_found


def pull(
    lane: Any,
    cost: Any,
    bound_by: Any,
    last_on_host: int,
    first: Any,
    last: Any,
    starts: Any,  # (n_ops,) int8, 0, for use here
    at_end: Any,  # (2, n_ops), 0, for use here
    by_cost: Any,  # (4, n_works), 0, written: of the makespan by issue cost and by duration, then of layers
) -> None:
    """The derivatives of `critical_path.pulled_back`: of the end of op `last_on_host`, and of the ends of `last` less
    the starts of `first`. All are whole numbers, so that they may be added up in any order.
    """
    if last_on_host >= 0:
        at_end[0, last_on_host] = 1.0
    for k in range(first.size):
        starts[first[k]] = 1
        at_end[1, last[k]] = 1.0
    host, host_layers = 0.0, 0.0
    for i in range(lane.size - 1, -1, -1):
        if lane[i] == 0:
            at_end[0, i] += host
            at_end[1, i] += host_layers
            host, host_layers = 0.0, 0.0
        until, layers = at_end[0, i], at_end[1, i]
        row, bound = cost[i], bound_by[i]
        by_cost[1, row] += until
        by_cost[3, row] += layers
        layers -= starts[i]
        if bound == HOST:
            host += until
            host_layers += layers
        elif bound >= 0:
            at_end[0, bound] += until
            at_end[1, bound] += layers
        if lane[i] != 0:
            by_cost[0, row] += host
            by_cost[2, row] += host_layers


# Rows of what `cover` has room for: intervals that do not overlap, how long they are, and all up to each.
APART_FROM, APART_UNTIL, APART_S, UP_TO_S = range(4)
N_APART = 4

# What `cover` has counted: intervals before the time asked, those left, and the same of stalls.
N_DONE, N_LEFT, N_DONE_STALLS, N_LEFT_STALLS = range(4)


def cover(
    begin: Any, end: Any, stall_from: Any, stall_until: Any, settled_s: float, apart: Any, within: Any, counts: Any
) -> None:
    """Of intervals in order of their beginnings: the union of what is before `settled_s`, interval by interval in
    `apart`, and in `within` how much of it each stall before then is in. What is after `settled_s` is put first.
    """
    n_done, n_left, reach, up_to = 0, 0, 0.0, 0.0
    for i in range(begin.size):
        start, stop = begin[i], end[i]
        if start < settled_s:
            until = min(stop, settled_s)
            here, reach = max(start, reach), max(until, reach)
            length = max(reach - here, 0.0)
            up_to += length
            apart[APART_FROM, n_done], apart[APART_UNTIL, n_done] = here, max(here, reach)
            apart[APART_S, n_done], apart[UP_TO_S, n_done] = length, up_to
            n_done += 1
        if stop > settled_s:
            begin[n_left], end[n_left] = max(start, settled_s), stop
            n_left += 1
    n_done_stalls, n_left_stalls, k = 0, 0, 0
    for i in range(stall_from.size):
        start, stop = stall_from[i], stall_until[i]
        if start < settled_s:
            before, k = covered_at(apart, n_done, start, k)
            after, k = covered_at(apart, n_done, min(stop, settled_s), k)
            within[n_done_stalls] = after - before
            n_done_stalls += 1
        if stop > settled_s:
            stall_from[n_left_stalls], stall_until[n_left_stalls] = max(start, settled_s), stop
            n_left_stalls += 1
    counts[N_DONE], counts[N_LEFT], counts[N_DONE_STALLS], counts[N_LEFT_STALLS] = (
        n_done, n_left, n_done_stalls, n_left_stalls,
    )  # fmt: skip


def covered_at(apart: Any, n: int, time: float, near: int) -> Any:
    """How much of the `n` intervals `apart` lies before `time`, as `np.interp` has it; and which of them is the last
    that begins by then, looked for from `near` on.
    """
    k = near
    while k > 0 and apart[APART_FROM, k] > time:
        k -= 1
    while k + 1 < n and apart[APART_FROM, k + 1] <= time:
        k += 1
    if n == 0 or time < apart[APART_FROM, k]:
        return 0.0, k
    if time >= apart[APART_UNTIL, k]:
        return apart[UP_TO_S, k], k
    before = apart[UP_TO_S, k - 1] if k > 0 else 0.0
    if time == apart[APART_FROM, k]:
        return before, k
    slope = (apart[UP_TO_S, k] - before) / (apart[APART_UNTIL, k] - apart[APART_FROM, k])
    return slope * (time - apart[APART_FROM, k]) + before, k


def level(taken_at: Any, taken: Any, given_at: Any, given: Any, settled_s: float, levels: Any) -> None:
    """The level of HBM and the highest so far (`levels`) after what was taken and given back before `settled_s`, in
    order of time both; at one instant what is given back comes first. Then how many of each were.
    """
    i, j = 0, 0
    while True:
        takes = i < taken_at.size and taken_at[i] < settled_s
        gives = j < given_at.size and given_at[j] < settled_s
        if gives and (not takes or given_at[j] <= taken_at[i]):
            levels[0] -= given[j]
            j += 1
        elif takes:
            levels[0] += taken[i]
            levels[1] = max(levels[1], levels[0])
            i += 1
        else:
            break
    levels[2], levels[3] = i, j
