"""The decode loop as machine code, op for op what `offload.decode` writes down for policies that are plain values.

Arrays: `offload.fast.kernel_layout`. Nothing knows time.
"""

from __future__ import annotations

from typing import Any

from offload.fast.answers_kernel import answer_misses, run_on_host, waits_for_host
from offload.fast.copies_kernel import after, issue
from offload.fast.kernel_layout import (
    ARRIVALS,
    BARE,
    BASE,
    BLOCK_OF,
    COST_CROSS_ATTENTION,
    COST_DENSE,
    COST_GATE,
    COST_GROUPED,
    COST_HEAD,
    COST_NOTHING,
    COST_READBACK,
    COST_SELF_ATTENTION,
    COST_SHARED,
    COST_SINGLE,
    COST_STEP,
    COST_WAIT,
    DEPS,
    EXPERT_BYTES,
    FAILED_LAYER,
    FAILED_N,
    FETCH_FIRST,
    FIRST,
    FUSED,
    HBM_RELEASED,
    HELD,
    HELD_HIT,
    HELD_READY,
    HELD_SLOT,
    HELD_TRANSIENT,
    HITS,
    HOST_WAITS,
    I_STEP,
    LOCAL,
    LOOKAHEAD,
    LOOKUPS,
    MIXER_OF,
    N_EXPERTS,
    N_HELD,
    N_LAYERS,
    N_MIXERS,
    N_ON_HOST,
    N_STEPS,
    NEEDED,
    NEEDS_IDS,
    NONE,
    ORDER,
    PHASE,
    PREFETCH,
    READBACK_PER_FETCH,
    RESIDENT,
    STAMP,
    SYNC_AFTER_FFN,
    UNION_EXPERT,
    UNION_PTR,
    WAITING,
    WANTED,
)
from offload.fast.slots_kernel import bring, cancel, drop_waiting, give_up, hand_on, release
from offload.ops import Lane

_HOST = int(Lane.HOST)
_COMPUTE = int(Lane.COMPUTE)
_D2H = int(Lane.D2H)


def unions(
    experts: Any, bounds: Any, first: int, n_blocks: int, counts: Any, ptr: Any, found: Any, tokens: Any
) -> None:
    """Distinct experts, ascending, of every (step, block), and the tokens that each serves; `experts` (T, L, k).

    `counts` (n_experts,): zeros, and zeros again.
    """
    n_experts = counts.size
    top_k = experts.shape[2]
    at = 0
    for step in range(len(bounds) - 1):
        low, high = bounds[step], bounds[step + 1]
        for block in range(n_blocks):
            begin = at
            if (high - low) * top_k <= 24:
                for token in range(low, high):
                    for k in range(top_k):
                        expert = experts[token, first + block, k]
                        if expert < 0:
                            continue
                        place = at
                        while place > begin and found[place - 1] > expert:
                            place -= 1
                        if place > begin and found[place - 1] == expert:
                            tokens[place - 1] += 1
                            continue
                        for i in range(at, place, -1):
                            found[i], tokens[i] = found[i - 1], tokens[i - 1]
                        found[place], tokens[place] = expert, 1
                        at += 1
            else:
                for token in range(low, high):
                    for k in range(top_k):
                        expert = experts[token, first + block, k]
                        if expert >= 0:
                            counts[expert] += 1
                for expert in range(n_experts):
                    if counts[expert] > 0:
                        found[at], tokens[at] = expert, counts[expert]
                        counts[expert] = 0
                        at += 1
            ptr[step * n_blocks + block + 1] = at


def _sorted_arrivals(x: Any, w: Any, r: Any, layer: int, all_used: bool, stamp: int) -> int:
    """The copies that the FFN of `layer` waits for, ascending and distinct, into `ARRIVALS`; how many."""
    first_key = layer * r[N_EXPERTS]
    n = 0
    for i in range(w[w[N_HELD] + layer]):
        expert = x[first_key + i, HELD]
        ready = x[first_key + expert, HELD_READY]
        if ready < 0 or not (all_used or w[w[NEEDED] + expert] == stamp):
            continue
        place = n
        while place > 0 and w[w[ARRIVALS] + place - 1] > ready:
            place -= 1
        if place > 0 and w[w[ARRIVALS] + place - 1] == ready:
            continue
        for j in range(n, place, -1):
            w[w[ARRIVALS] + j] = w[w[ARRIVALS] + j - 1]
        w[w[ARRIVALS] + place] = ready
        n += 1
    return n


def _read_back(o: Any, d: Any, w: Any, r: Any, t: int, gate: int, layer: int) -> int:
    """The selected ids to the host, which waits for them; returns the wait."""
    after(d, w, gate)
    ids = issue(o, w, r, _D2H, r[r[COST_READBACK] + t], r[r[I_STEP] + t], layer, NONE, NONE)
    after(d, w, ids)
    return issue(o, w, r, _HOST, r[COST_WAIT], r[r[I_STEP] + t], layer, NONE, NONE)


def _ready(x: Any, r: Any, first_key: int, at: int) -> int:
    """The copy that brings entry `at` of the unions, -1 for none."""
    return -1 if r[RESIDENT] else x[first_key + r[r[UNION_EXPERT] + at], HELD_READY]


def _until_all_fit(o: Any, d: Any, x: Any, w: Any, r: Any, t: int, low: int, high: int, layer: int, moe_layer: int,
                   stamp: int) -> int:  # fmt: skip
    """Run experts, entries `low` to `high` of the unions, as they arrive and hand their slots on, until those that are
    left all have one.

    Returns how many of those that have run were hits, or -1 when an expert finds no slot.
    """
    first_key, step = moe_layer * r[N_EXPERTS], r[r[I_STEP] + t]
    if r[r[COST_SHARED] + t] >= 0:
        issue(o, w, r, _COMPUTE, r[r[COST_SHARED] + t], step, layer, NONE, NONE)
    n_hits = 0
    while True:
        here, n_missing = -1, 0
        for at in range(low, high):
            key = first_key + r[r[UNION_EXPERT] + at]
            if x[key, HELD_SLOT] == -2:
                n_missing += x[key, WAITING]
            elif here < 0 or x[key, HELD_READY] < x[first_key + r[r[UNION_EXPERT] + here], HELD_READY]:
                here = at
        if n_missing == 0:
            return n_hits
        if here < 0:
            if not give_up(o, d, x, w, r, moe_layer, stamp):
                return -1
            continue
        expert = r[r[UNION_EXPERT] + here]
        key = first_key + expert
        n_hits += x[key, HELD_HIT]
        if x[key, HELD_READY] >= 0:
            after(d, w, x[key, HELD_READY])
        op = issue(o, w, r, _COMPUTE, r[r[COST_SINGLE] + here], step, layer, expert, NONE)
        o[op - w[BASE], HBM_RELEASED] = r[EXPERT_BYTES] if x[key, HELD_TRANSIENT] else 0
        hand_on(o, d, x, w, r, moe_layer, expert, op)


def _experts(o: Any, d: Any, x: Any, w: Any, r: Any, t: int, u: int, high: int, layer: int, moe_layer: int,
             n_arrivals: int, freed: int, begun: bool) -> int:  # fmt: skip
    """The FFN ops of the entries of union `u` up to `high`: one grouped, or one an expert as they arrive; returns the
    last. Shared experts are first, unless the block has `begun` already.
    """
    first_key = moe_layer * r[N_EXPERTS]
    low = r[r[UNION_PTR] + u]
    if r[FUSED] or low == high:
        cost = r[r[COST_GROUPED] + u]
        if w[N_ON_HOST] and low == high:  # the host has them all
            if r[r[COST_SHARED] + t] >= 0:
                issue(o, w, r, _COMPUTE, r[r[COST_SHARED] + t], r[r[I_STEP] + t], layer, NONE, NONE)
            cost = r[COST_NOTHING]
        for i in range(n_arrivals):
            after(d, w, w[w[ARRIVALS] + i])
        last = issue(o, w, r, _COMPUTE, cost, r[r[I_STEP] + t], layer, NONE, NONE)
    else:
        if r[r[COST_SHARED] + t] >= 0 and not begun:
            issue(o, w, r, _COMPUTE, r[r[COST_SHARED] + t], r[r[I_STEP] + t], layer, NONE, NONE)
        n_left = 0
        for i in range(high - low):  # stable, by arrival
            if begun and x[first_key + r[r[UNION_EXPERT] + low + i], HELD_SLOT] == -2:
                continue  # it has run
            ready = _ready(x, r, first_key, low + i)
            place = n_left
            n_left += 1
            while place > 0:
                if _ready(x, r, first_key, low + w[w[ORDER] + place - 1]) <= ready:
                    break
                w[w[ORDER] + place] = w[w[ORDER] + place - 1]
                place -= 1
            w[w[ORDER] + place] = i
        last = -1
        for i in range(n_left):
            at = low + w[w[ORDER] + i]
            if i == n_left - 1:
                for j in range(n_arrivals):
                    after(d, w, w[w[ARRIVALS] + j])
            elif _ready(x, r, first_key, at) >= 0:
                after(d, w, _ready(x, r, first_key, at))
            expert = r[r[UNION_EXPERT] + at]
            last = issue(o, w, r, _COMPUTE, r[r[COST_SINGLE] + at], r[r[I_STEP] + t], layer, expert, NONE)
    o[last - w[BASE], HBM_RELEASED] = freed
    if r[SYNC_AFTER_FFN]:
        after(d, w, last)
        issue(o, w, r, _HOST, r[COST_WAIT], r[r[I_STEP] + t], layer, NONE, NONE)
    return last


def _run_experts(o: Any, d: Any, x: Any, w: Any, r: Any, t: int, u: int, high: int, layer: int, moe_layer: int,
                 gate: int, stamp: int) -> bool:  # fmt: skip
    """What the host computes of a block, the FFN of its other entries, up to `high`, and what that frees; False when an
    expert found no slot.
    """
    first_key, low = moe_layer * r[N_EXPERTS], r[r[UNION_PTR] + u]
    back = run_on_host(o, d, w, r, t, gate, layer)
    layerwise = r[FUSED] != 0 or r[HOST_WAITS] != 0 or r[NEEDS_IDS] == 0
    n_hits, n_missing = 0, 0
    for at in range(low, high):
        n_missing += x[first_key + r[r[UNION_EXPERT] + at], HELD_SLOT] == -2
    if n_missing:
        n_hits = -1 if layerwise else _until_all_fit(o, d, x, w, r, t, low, high, layer, moe_layer, stamp)
        if n_hits < 0:
            w[FAILED_LAYER], w[FAILED_N] = moe_layer, high - low
            return False
    for at in range(low, high):
        if x[first_key + r[r[UNION_EXPERT] + at], HELD_SLOT] != -2:
            n_hits += x[first_key + r[r[UNION_EXPERT] + at], HELD_HIT]
    w[LOOKUPS + 2 * r[r[PHASE] + t]] += r[r[UNION_PTR] + u + 1] - low
    w[HITS + 2 * r[r[PHASE] + t]] += n_hits
    freed = 0
    for i in range(w[w[N_HELD] + moe_layer]):
        expert = x[first_key + i, HELD]
        if (layerwise or w[w[NEEDED] + expert] == stamp) and x[first_key + expert, HELD_TRANSIENT]:
            freed += r[EXPERT_BYTES]
    n_arrivals = waits_for_host(w, _sorted_arrivals(x, w, r, moe_layer, layerwise, stamp), back)
    last = _experts(o, d, x, w, r, t, u, high, layer, moe_layer, n_arrivals, freed, n_missing > 0)
    release(o, d, x, w, r, moe_layer, last, layerwise, stamp)
    return True


def _bring_later(o: Any, d: Any, x: Any, w: Any, r: Any, u0: int, low: int, high: int, step: int, needed: int) -> None:
    """Start moving the experts of blocks `low` to `high`."""
    for block in range(low, high + 1):
        n = 0
        if r[PREFETCH] == 2:
            for expert in range(r[N_EXPERTS]):
                w[w[WANTED] + expert] = expert
            n = r[N_EXPERTS]
        else:
            for at in range(r[r[UNION_PTR] + u0 + block], r[r[UNION_PTR] + u0 + block + 1]):
                w[w[WANTED] + n] = r[r[UNION_EXPERT] + at]
                n += 1
        if n:
            bring(o, d, x, w, r, r[FIRST] + block, n, step, needed, u0 + block)


def _run_block(o: Any, d: Any, x: Any, w: Any, r: Any, c: Any, t: int, block: int, n_blocks: int, layer: int,
               n_revealed: int) -> int:  # fmt: skip
    """Gate, copies, waits and FFN of one MoE block; returns the blocks revealed so far, or -1 for a failure."""
    u0, step, moe_layer = t * n_blocks, r[r[I_STEP] + t], r[FIRST] + block
    first_key = moe_layer * r[N_EXPERTS]
    low, high = r[r[UNION_PTR] + u0 + block], r[r[UNION_PTR] + u0 + block + 1]
    gate = issue(o, w, r, _COMPUTE, r[r[COST_GATE] + t], step, layer, NONE, NONE)
    if r[RESIDENT]:
        w[LOOKUPS + 2 * r[r[PHASE] + t]] += high - low
        w[HITS + 2 * r[r[PHASE] + t]] += high - low
        _experts(o, d, x, w, r, t, u0 + block, high, layer, moe_layer, 0, 0, False)
        return n_revealed
    selected_before = block > 0 and block < n_revealed
    n_revealed = max(n_revealed, block + r[LOOKAHEAD] + 1)
    later_low, later_high = 1, 0
    if r[PREFETCH] == 1:
        later_low = 1 if block == 0 else block + r[LOOKAHEAD]
        later_high = min(block + r[LOOKAHEAD], n_blocks - 1)
    elif r[PREFETCH] == 2:
        later_low, later_high = block + 1, min(block + 1, n_blocks - 1)
    any_later = 0
    for other in range(later_low, later_high + 1):
        any_later |= r[PREFETCH] == 2 or r[r[UNION_PTR] + u0 + other + 1] > r[r[UNION_PTR] + u0 + other]
    w[STAMP] += 1
    stamp = w[STAMP]
    for at in range(low, high):
        w[w[NEEDED] + r[r[UNION_EXPERT] + at]] = stamp
    if not selected_before:
        known = _read_back(o, d, w, r, t, gate, layer)
        cancel(o, x, w, r, moe_layer, stamp, known)
    if r[PREFETCH] == 2 and block == 0:
        for expert in range(r[N_EXPERTS]):
            w[w[WANTED] + expert] = expert
        bring(o, d, x, w, r, moe_layer, r[N_EXPERTS], step, moe_layer, u0 + block)
    high = answer_misses(x, w, r, c, low, high, first_key)
    drop_waiting(o, d, x, w, r, moe_layer, stamp, moe_layer)
    n = 0
    for at in range(low, high):
        key = first_key + r[r[UNION_EXPERT] + at]
        if x[key, HELD_SLOT] == -2 and not x[key, WAITING]:
            w[w[WANTED] + n] = r[r[UNION_EXPERT] + at]
            n += 1
    bring(o, d, x, w, r, moe_layer, n, step, moe_layer, NONE)
    reads_again = any_later and (r[READBACK_PER_FETCH] != 0 or (r[NEEDS_IDS] != 0 and selected_before))
    if r[FETCH_FIRST]:
        if r[HOST_WAITS]:
            n_ready = _sorted_arrivals(x, w, r, moe_layer, True, stamp)
            if n_ready:
                for i in range(n_ready):
                    after(d, w, w[w[ARRIVALS] + i])
                issue(o, w, r, _HOST, r[COST_WAIT], step, layer, NONE, NONE)
    elif not _run_experts(o, d, x, w, r, t, u0 + block, high, layer, moe_layer, gate, stamp):
        return -1
    if reads_again:
        _read_back(o, d, w, r, t, gate, layer)
    _bring_later(o, d, x, w, r, u0, later_low, later_high, step, moe_layer)
    if r[FETCH_FIRST] and not _run_experts(o, d, x, w, r, t, u0 + block, high, layer, moe_layer, gate, stamp):
        return -1
    return n_revealed


def run_steps(
    o: Any, d: Any, x: Any, w: Any, r: Any, c: Any, begin: int, max_ops_a_step: int, max_deps_a_step: int
) -> int:
    """Write steps from `begin` on while a largest step still fits; returns how many, or -1 - the one that failed."""
    n_steps, n_blocks = r[N_STEPS], 0
    for layer in range(r[N_LAYERS]):
        n_blocks += r[r[BLOCK_OF] + layer] >= 0
    for t in range(begin, n_steps):
        if w[LOCAL] + max_ops_a_step > len(o) or w[DEPS] + max_deps_a_step > len(d):
            return t - begin
        step, n_revealed = r[r[I_STEP] + t], 0
        for layer in range(r[N_LAYERS]):
            mixer = r[r[MIXER_OF] + layer]
            if mixer >= 0:
                cost = r[r[COST_SELF_ATTENTION] + t * r[N_MIXERS] + mixer]
                issue(o, w, r, _COMPUTE, cost, step, layer, NONE, NONE)
            if r[r[COST_CROSS_ATTENTION] + t] >= 0:
                issue(o, w, r, _COMPUTE, r[r[COST_CROSS_ATTENTION] + t], step, layer, NONE, NONE)
            block = r[r[BLOCK_OF] + layer]
            if block < 0:
                if block != BARE:
                    issue(o, w, r, _COMPUTE, r[r[COST_DENSE] + t], step, layer, NONE, NONE)
                continue
            n_revealed = _run_block(o, d, x, w, r, c, t, block, n_blocks, layer, n_revealed)
            if n_revealed < 0:
                return -1 - t
        if r[r[COST_HEAD] + t] >= 0:
            head = issue(o, w, r, _COMPUTE, r[r[COST_HEAD] + t], step, NONE, NONE, NONE)
            after(d, w, head)
            issue(o, w, r, _HOST, r[COST_STEP], step, NONE, NONE, NONE)
    return n_steps - begin
