"""The experts of a block as machine code, for `decode_kernel`: `expert_ffns`, `slot_reads` and `micro_batches` of
`offload.decoding`.

Arrays: `offload.fast.kernels.kernel_layout`. Nothing knows time.
"""

from __future__ import annotations

from typing import Any

from offload.fast.kernels.answers_kernel import run_on_host, waits_for_host
from offload.fast.kernels.copies_kernel import after, after_sorted, compute, issue
from offload.fast.kernels.kernel_layout import (
    ARRIVALS,
    BASE,
    BLOCK_BITS,
    COST_GATE,
    COST_GROUPED,
    COST_NOTHING,
    COST_READBACK,
    COST_SHARED,
    COST_SINGLE,
    COST_SORT,
    COST_WAIT,
    DEPS,
    ENTRY_AT,
    EXPERT_BYTES,
    FAILED_LAYER,
    FAILED_N,
    FUSED,
    FUSED_AT_HOME,
    GATE,
    HBM_RELEASED,
    HELD,
    HELD_HIT,
    HELD_READY,
    HELD_SLOT,
    HELD_TRANSIENT,
    HITS,
    HOST_WAITS,
    I_STEP,
    IN_BLOCK,
    LAST_OP,
    LOOKUPS,
    N_BLOCKS,
    N_EACH_WAITS,
    N_EXPERTS,
    N_HELD,
    N_MATRICES,
    N_PART_WAITS,
    NEEDED,
    NEEDS_IDS,
    NO_COSTS,
    NONE,
    OF_LAYER,
    ORDER,
    PART_WAITS,
    PARTS,
    PHASE,
    SELECTS,
    SYNC_AFTER_FFN,
    TO_GATE,
    UNION_EXPERT,
    UNION_PTR,
    WAITING,
)
from offload.fast.kernels.slots_kernel import give_up, hand_on, release
from offload.ops import Lane

_HOST = int(Lane.HOST)
_D2H = int(Lane.D2H)


def sorted_arrivals(x: Any, w: Any, r: Any, layer: int, all_used: bool, stamp: int) -> int:
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


def read_back(o: Any, d: Any, w: Any, r: Any, t: int, gate: int, layer: int, n_behind: int) -> int:
    """The selected ids to the host, behind the first `n_behind` of `ARRIVALS`; returns the wait for them."""
    begin, step = w[DEPS], r[r[I_STEP] + t]
    for i in range(n_behind):
        after(d, w, w[w[ARRIVALS] + i])
    after_sorted(d, w, begin, gate)
    ids = issue(o, w, r, _D2H, r[r[COST_READBACK] + t], step, layer, NONE, NONE)
    after(d, w, ids)
    return issue(o, w, r, _HOST, r[COST_WAIT], step, layer, NONE, NONE)


def _ready(x: Any, r: Any, first_key: int, at: int, at_home: int) -> int:
    """The copy that brings entry `at` of the unions, -1 for none."""
    return -1 if at_home else x[first_key + r[r[UNION_EXPERT] + at], HELD_READY]


def each_gate(o: Any, d: Any, w: Any, r: Any, t: int, costs: int, part: int, layer: int) -> int:
    """An op of micro-batch `part` of a pass after what the host has computed for it."""
    for i in range(w[N_PART_WAITS]):
        after(d, w, r[r[PART_WAITS] + part * r[N_EACH_WAITS] + i])
    return compute(o, d, w, r, r[costs + part], r[r[I_STEP] + t], layer, NONE)


def each_part(o: Any, d: Any, w: Any, r: Any, t: int, costs: int, layer: int, expert: int, n_arrivals: int,
              own: int) -> int:  # fmt: skip
    """An op of each micro-batch that has one of `costs`, its gate before it where that is due; all after op `own` and
    the first `n_arrivals` of `ARRIVALS`. Returns the last.
    """
    first, step = r[r[PARTS] + t], r[r[I_STEP] + t]
    n_parts, n_with = r[r[PARTS] + t + 1] - first, 0
    due, op = w[TO_GATE], -1
    for part in range(n_parts):
        n_with += r[costs + part] >= 0
    for part in range(n_parts):
        if due:
            w[GATE] = each_gate(o, d, w, r, t, r[COST_GATE] + first, part, layer)
        cost = r[costs + part]
        if n_with == 0 and part == n_parts - 1:
            cost = r[r[COST_NOTHING] + r[r[OF_LAYER] + layer]]
        if cost < 0:
            continue
        for i in range(n_arrivals):
            after(d, w, w[w[ARRIVALS] + i])
        if own >= 0:
            after(d, w, own)
        op = compute(o, d, w, r, cost, step, layer, expert)
    if due:
        w[TO_GATE], w[N_PART_WAITS] = 0, 0
    return op


def _single(o: Any, d: Any, w: Any, r: Any, t: int, at: int, layer: int, n_arrivals: int, own: int) -> int:
    """Entry `at` of the unions, one expert: an op of each micro-batch that asks for it."""
    if r[SELECTS]:
        for _ in range(r[N_MATRICES]):
            read_back(o, d, w, r, t, w[LAST_OP], layer, 0)
    first = r[r[PARTS] + t]
    n_parts = r[r[PARTS] + t + 1] - first
    before = at - r[r[UNION_PTR] + t * r[N_BLOCKS]]
    costs = r[COST_SINGLE] + r[r[ENTRY_AT] + t] + before * n_parts
    return each_part(o, d, w, r, t, costs, layer, r[r[UNION_EXPERT] + at], n_arrivals, own)


def _shared(o: Any, d: Any, w: Any, r: Any, t: int, layer: int) -> None:
    """Shared experts alone, where the model has them."""
    costs = r[COST_SHARED] + r[r[OF_LAYER] + layer] + r[r[PARTS] + t]
    if r[costs] >= 0:
        each_part(o, d, w, r, t, costs, layer, NONE, 0, NONE)


def _until_all_fit(o: Any, d: Any, x: Any, w: Any, r: Any, t: int, low: int, high: int, layer: int, moe_layer: int,
                   stamp: int) -> int:  # fmt: skip
    """Run experts, entries `low` to `high` of the unions, as they arrive and hand their slots on, until those that are
    left all have one.

    Returns how many of those that have run were hits, or -1 when an expert finds no slot.
    """
    first_key = moe_layer * r[N_EXPERTS]
    _shared(o, d, w, r, t, layer)
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
        op = _single(o, d, w, r, t, here, layer, 0, x[key, HELD_READY])
        at = op - w[BASE]
        o[at >> BLOCK_BITS, HBM_RELEASED, at & IN_BLOCK] = r[EXPERT_BYTES] if x[key, HELD_TRANSIENT] else 0
        hand_on(o, d, x, w, r, moe_layer, expert, op)


def run_ffns(o: Any, d: Any, x: Any, w: Any, r: Any, t: int, block: int, low: int, high: int, layer: int,
             moe_layer: int, n_arrivals: int, freed: int, begun: bool, at_home: int) -> int:  # fmt: skip
    """The FFN ops of entries `low` to `high` of a block: one grouped, or one an expert as they arrive. The last is
    returned and waits for the first `n_arrivals` of `ARRIVALS`. Shared experts are first, unless the block has `begun`
    already. `at_home`: the experts are not in slots.
    """
    first_key, first = moe_layer * r[N_EXPERTS], r[r[PARTS] + t]
    n_parts = r[r[PARTS] + t + 1] - first
    fused = r[FUSED_AT_HOME] if at_home else r[FUSED]
    if fused or low == high:
        costs = r[COST_GROUPED] + first * r[N_BLOCKS] + block * n_parts
        if not fused and n_arrivals:  # they are elsewhere, all of them
            if not begun:
                _shared(o, d, w, r, t, layer)
            costs = r[NO_COSTS]
        if r[r[COST_SORT] + t] >= 0 and low < high and n_parts == 1:
            for _ in range(r[N_MATRICES]):
                read_back(o, d, w, r, t, w[LAST_OP], layer, n_arrivals)
                issue(o, w, r, _HOST, r[r[COST_SORT] + t], r[r[I_STEP] + t], layer, NONE, NONE)
        last = each_part(o, d, w, r, t, costs, layer, NONE, n_arrivals, NONE)
    else:
        if not begun:
            _shared(o, d, w, r, t, layer)
        n_left = 0
        for i in range(high - low):  # stable, by arrival
            if begun and x[first_key + r[r[UNION_EXPERT] + low + i], HELD_SLOT] == -2:
                continue  # it has run
            ready = _ready(x, r, first_key, low + i, at_home)
            place = n_left
            n_left += 1
            while place > 0:
                if _ready(x, r, first_key, low + w[w[ORDER] + place - 1], at_home) <= ready:
                    break
                w[w[ORDER] + place] = w[w[ORDER] + place - 1]
                place -= 1
            w[w[ORDER] + place] = i
        last = -1
        for i in range(n_left):
            at = low + w[w[ORDER] + i]
            if i == n_left - 1:
                last = _single(o, d, w, r, t, at, layer, n_arrivals, NONE)
            else:
                last = _single(o, d, w, r, t, at, layer, 0, _ready(x, r, first_key, at, at_home))
    at = last - w[BASE]
    o[at >> BLOCK_BITS, HBM_RELEASED, at & IN_BLOCK] = freed
    if r[SYNC_AFTER_FFN]:
        after(d, w, last)
        issue(o, w, r, _HOST, r[COST_WAIT], r[r[I_STEP] + t], layer, NONE, NONE)
    return last


def run_experts(o: Any, d: Any, x: Any, w: Any, r: Any, t: int, block: int, u: int, high: int, layer: int,
                moe_layer: int, gate: int, stamp: int) -> bool:  # fmt: skip
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
    n_arrivals = waits_for_host(w, sorted_arrivals(x, w, r, moe_layer, layerwise, stamp), back)
    last = run_ffns(
        o, d, x, w, r, t, block, low, high, layer, moe_layer, n_arrivals, freed, n_missing > 0, 0
    )  # fmt: skip
    release(o, d, x, w, r, moe_layer, last, layerwise, stamp)
    return True
