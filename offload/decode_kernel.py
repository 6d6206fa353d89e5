"""The decode loop as machine code, op for op what `offload.decode` writes down for policies that are plain values.

numba is imported with this module: import it on first use. All state is in arrays; op indices count from the first op
of the schedule, output arrays from the first op of the part being written. Nothing here may know time.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import njit

from offload.ops import Lane

__all__ = ["Cells", "Memory", "Out", "Plan", "Steps", "run_steps", "unions"]

_HOST, _COMPUTE, _H2D = int(Lane.HOST), int(Lane.COMPUTE), int(Lane.H2D)
_D2H, _DISK = int(Lane.D2H), int(Lane.DISK)

# Counters, by place in `Cells.n`.
BASE, LOCAL, DEPS, ROWS = 0, 1, 2, 3
LAST_FETCH, FREE_HEAD, FREE_N, WAIT_HEAD, WAIT_N, STAMP = 4, 5, 6, 7, 8, 9
LOOKUPS, HITS = 10, 11  # of decode; + 2 of prefill
FAILED_LAYER, FAILED_N, N_COUNTERS = 14, 15, 16


class Plan(NamedTuple):
    """What a policy and a stack decide, as numbers; flags are 0 or 1. `prefetch`: 0 none, 1 selected ahead, 2 all."""

    n_experts: int
    first: int
    n_layers: int
    expert_bytes: int
    n_buffers: int
    lookahead: int
    prefetch: int
    resident: int
    needs_ids: int
    stage: int
    grouped: int
    fetch_first: int
    readback_per_fetch: int
    host_waits: int
    sync_after_ffn: int
    disk: int
    cached: int
    n_pools: int
    by_recency: int
    newest_first: int
    phase: int
    head: int


class Steps(NamedTuple):
    """Forward passes of one part: costs by candidate row, and the experts each needs.

    (n_steps,): `i_step`, `self_attention`, `cross_attention` (-1 none), `gate`, `dense`, `readback`, `head`, `shared`
    (-1 none). `union_ptr` (n_steps * n_blocks + 1,) into `expert`, `single` (cost of its FFN alone); `grouped`
    (n_steps * n_blocks,) cost of the FFN of all. `block_of` (n_layers,) MoE block of a layer or -1, `place` (n_moe,)
    what a copy writes as its layer. `fetch`, `stage`, `disk`, `wait`, `host_step`: costs.
    """

    i_step: Any
    self_attention: Any
    cross_attention: Any
    gate: Any
    dense: Any
    readback: Any
    head: Any
    shared: Any
    union_ptr: Any
    expert: Any
    single: Any
    grouped: Any
    block_of: Any
    place: Any
    fetch: int
    stage: int
    disk: int
    wait: int
    host_step: int


class Out(NamedTuple):
    """The columns being written, and which row a candidate cost was given (`row_of`), in order of first use (`used`)."""

    lane: Any
    cost: Any
    step: Any
    layer: Any
    expert: Any
    slot: Any
    hbm_acquired: Any
    hbm_released: Any
    priority: Any
    cancelled_by: Any
    dep_ptr: Any
    dep: Any
    row_of: Any
    used: Any


class Memory(NamedTuple):
    """Expert slots: what `ExpertMemory` and `ResidentSet` keep, as arrays.

    By slot: `reader` (last op that reads it, -1), `filled` (op that filled a cache slot, -1 warm, -2 never). By (layer,
    expert): `held_slot` (-2 not held), `held_ready`, `held_first`, `held_hit`, `held_transient`, `waiting`. `held`,
    `n_held`: held experts of a layer in order. `free`: ring of transient slots. `queue_*`: ring of who waits for one.
    By key: `slot_of` (-1), `newer`, `older` (lists with a sentinel a pool), `pinned`, `mark`. `pins`, `n_pins` by
    layer. `spare`, `spare_top`, `spare_from`: free cache slots of each pool, a stack.
    """

    reader: Any
    filled: Any
    held_slot: Any
    held_ready: Any
    held_first: Any
    held_hit: Any
    held_transient: Any
    waiting: Any
    held: Any
    n_held: Any
    free: Any
    queue_layer: Any
    queue_expert: Any
    queue_slot: Any
    queue_hit: Any
    queue_step: Any
    slot_of: Any
    newer: Any
    older: Any
    pinned: Any
    mark: Any
    pins: Any
    n_pins: Any
    spare: Any
    spare_top: Any
    spare_from: Any


class Cells(NamedTuple):
    """`n`: counters. Scratch of (n_experts + 1,): `wanted`, `arrivals`, `order`, `needed` (stamps)."""

    n: Any
    wanted: Any
    arrivals: Any
    order: Any
    needed: Any


@njit(cache=True, nogil=True)
def unions(
    experts: Any, bounds: Any, first: int, n_blocks: int, n_experts: int, ptr: Any, found: Any, tokens: Any
) -> None:
    """Distinct experts, ascending, of every (step, block), and the tokens that each serves; `experts` (T, L, k)."""
    counts = np.zeros(n_experts, dtype=np.int32)
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


@njit(cache=True, nogil=True, inline="always")
def _after(out: Any, c: Any, op: int) -> None:
    """The next op waits for `op`."""
    out.dep[c.n[DEPS]] = op
    c.n[DEPS] += 1


@njit(cache=True, nogil=True)
def _issue(out: Any, c: Any, lane: int, cost: int, step: int, layer: int, expert: int, slot: int) -> int:
    """Append one op, which waits for what `_after` named since the last; returns its index."""
    i = c.n[LOCAL]
    row = out.row_of[cost]
    if row < 0:
        row = c.n[ROWS]
        out.row_of[cost] = row
        out.used[row] = cost
        c.n[ROWS] = row + 1
    out.lane[i], out.cost[i], out.step[i], out.layer[i] = lane, row, step, layer
    out.expert[i], out.slot[i] = expert, slot
    out.hbm_acquired[i], out.hbm_released[i], out.priority[i], out.cancelled_by[i] = 0, 0, 0, -1
    out.dep_ptr[i + 1] = c.n[DEPS]
    c.n[LOCAL] = i + 1
    return c.n[BASE] + i


@njit(cache=True, nogil=True)
def _copy(out: Any, m: Any, c: Any, p: Any, s: Any, lane: int, cost: int, layer: int, expert: int, slot: int, step: int,
          first: int, second: int, needed: int) -> int:  # fmt: skip
    """One copy, after ops `first` and `second` (-1 none)."""
    low, high = min(first, second), max(first, second)
    if low >= 0 and low != high:
        _after(out, c, low)
    if high >= 0:
        _after(out, c, high)
    op = _issue(out, c, lane, cost, step, s.place[layer], expert, slot)
    i = op - c.n[BASE]
    if slot >= 0 and (slot < p.n_buffers or m.filled[slot] == -2):
        out.hbm_acquired[i] = p.expert_bytes
    out.priority[i] = 0 if layer == needed else 1
    return op


@njit(cache=True, nogil=True)
def _fetch(out: Any, m: Any, c: Any, p: Any, s: Any, layer: int, expert: int, slot: int, step: int, needed: int) -> int:
    """One expert over the link; returns the first op of it, the last is `LAST_FETCH`."""
    reader = m.reader[slot] if slot >= 0 else -1
    read = -1
    if p.disk:
        read = _copy(out, m, c, p, s, _DISK, s.disk, layer, expert, -1, step, c.n[LAST_FETCH], -1, needed)
    op = _copy(out, m, c, p, s, _H2D, s.fetch, layer, expert, slot, step, reader, read, needed)
    c.n[LAST_FETCH] = op
    return read if read >= 0 else op


@njit(cache=True, nogil=True)
def _grant(out: Any, m: Any, c: Any, p: Any, s: Any, needed: int) -> None:
    """Place who waits, in order, until the first for whom there is no slot."""
    size = len(m.queue_layer)
    while c.n[WAIT_N] > 0:
        at = c.n[WAIT_HEAD]
        layer, expert, cache_slot = m.queue_layer[at], m.queue_expert[at], m.queue_slot[at]
        hit, step = m.queue_hit[at], m.queue_step[at]
        transient = p.stage != 0 or cache_slot < 0
        if transient and c.n[FREE_N] == 0:
            return
        c.n[WAIT_HEAD] = (at + 1) % size
        c.n[WAIT_N] -= 1
        m.waiting[layer, expert] = False
        buffer = -1
        if transient:
            buffer = m.free[c.n[FREE_HEAD]]
            c.n[FREE_HEAD] = (c.n[FREE_HEAD] + 1) % len(m.free)
            c.n[FREE_N] -= 1
        cached = p.n_buffers + cache_slot if cache_slot >= 0 else -1
        ready = -1
        if cached >= 0 and m.filled[cached] >= 0:
            ready = m.filled[cached]
        first = ready
        if not hit:
            target = cached if cached >= 0 else (-1 if p.stage else buffer)
            first = _fetch(out, m, c, p, s, layer, expert, target, step, needed)
            ready = c.n[LAST_FETCH]
            if cached >= 0:
                m.filled[cached] = ready
        slot = cached if cached >= 0 else buffer
        if p.stage:
            ready = _copy(out, m, c, p, s, _H2D, s.stage, layer, expert, buffer, step, ready, m.reader[buffer], needed)
            if cached >= 0:
                m.reader[cached] = ready
            slot, transient = buffer, True
            if hit:
                first = ready
        m.held_slot[layer, expert], m.held_ready[layer, expert] = slot, ready
        m.held_first[layer, expert] = first if cached < 0 else -1
        m.held_hit[layer, expert], m.held_transient[layer, expert] = hit, transient
        m.held[layer, m.n_held[layer]] = expert
        m.n_held[layer] += 1


@njit(cache=True, nogil=True)
def _unlink(m: Any, key: int) -> None:
    newer, older = m.newer[key], m.older[key]
    m.older[newer], m.newer[older] = older, newer


@njit(cache=True, nogil=True)
def _link_newest(m: Any, sentinel: int, key: int) -> None:
    newest = m.older[sentinel]
    m.older[sentinel], m.newer[key] = key, sentinel
    m.older[key], m.newer[newest] = newest, key


@njit(cache=True, nogil=True)
def _cache_slot(m: Any, c: Any, p: Any, pool: int, key: int) -> int:
    """Make `key` resident; its slot, or -1 when everything is protected."""
    n_keys = len(m.slot_of)
    sentinel = n_keys + pool
    if m.spare_top[pool] > 0:
        m.spare_top[pool] -= 1
        slot = m.spare[m.spare_from[pool] + m.spare_top[pool]]
    else:
        at = m.older[sentinel] if p.newest_first else m.newer[sentinel]
        while at < n_keys and (m.mark[at] == c.n[STAMP] or m.pinned[at]):
            at = m.older[at] if p.newest_first else m.newer[at]
        if at >= n_keys:
            return -1
        slot = m.slot_of[at]
        m.slot_of[at] = -1
        _unlink(m, at)
    m.slot_of[key] = slot
    _link_newest(m, sentinel, key)
    return slot


@njit(cache=True, nogil=True)
def _bring(out: Any, m: Any, c: Any, p: Any, s: Any, layer: int, n_wanted: int, step: int, needed: int) -> None:
    """Bring the first `n_wanted` experts of `c.wanted` for the next FFN of `layer`; one event for the cache."""
    c.n[STAMP] += 1
    pool = layer if p.n_pools > 1 else 0
    size = len(m.queue_layer)
    n_new = 0
    for i in range(n_wanted):
        expert = c.wanted[i]
        if m.held_slot[layer, expert] != -2 or m.waiting[layer, expert]:
            continue
        c.wanted[n_new] = expert
        n_new += 1
        if p.cached:
            m.mark[layer * p.n_experts + expert] = c.n[STAMP]
    for i in range(n_new):
        expert = c.wanted[i]
        key, slot, hit = layer * p.n_experts + expert, -1, False
        if p.cached:
            slot = m.slot_of[key]
            hit = slot >= 0
            if not hit:
                slot = _cache_slot(m, c, p, pool, key)
            if slot >= 0:
                m.pins[layer, m.n_pins[layer]] = expert
                m.n_pins[layer] += 1
        at = (c.n[WAIT_HEAD] + c.n[WAIT_N]) % size
        m.queue_layer[at], m.queue_expert[at], m.queue_slot[at] = layer, expert, slot
        m.queue_hit[at], m.queue_step[at] = hit, step
        m.waiting[layer, expert] = True
        c.n[WAIT_N] += 1
    if p.cached:
        for i in range(n_new):
            key = layer * p.n_experts + c.wanted[i]
            if p.by_recency and m.slot_of[key] >= 0:
                _unlink(m, key)
                _link_newest(m, len(m.slot_of) + pool, key)
        for i in range(m.n_pins[layer]):
            m.pinned[layer * p.n_experts + m.pins[layer, i]] = True
    _grant(out, m, c, p, s, needed)


@njit(cache=True, nogil=True)
def _drop_waiting(out: Any, m: Any, c: Any, p: Any, s: Any, layer: int, stamp: int, needed: int) -> None:
    """What still waits for a slot in `layer` and is not needed is not brought after all."""
    size = len(m.queue_layer)
    n_waiting, kept = c.n[WAIT_N], 0
    for i in range(n_waiting):
        at = (c.n[WAIT_HEAD] + i) % size
        expert, slot = m.queue_expert[at], m.queue_slot[at]
        if m.queue_layer[at] == layer and c.needed[expert] != stamp:
            m.waiting[layer, expert] = False
            if slot >= 0 and not m.queue_hit[at]:
                key, pool = layer * p.n_experts + expert, layer if p.n_pools > 1 else 0
                m.spare[m.spare_from[pool] + m.spare_top[pool]] = slot
                m.spare_top[pool] += 1
                m.slot_of[key] = -1
                _unlink(m, key)
            continue
        to = (c.n[WAIT_HEAD] + kept) % size
        m.queue_layer[to], m.queue_expert[to], m.queue_slot[to] = m.queue_layer[at], expert, slot
        m.queue_hit[to], m.queue_step[to] = m.queue_hit[at], m.queue_step[at]
        kept += 1
    c.n[WAIT_N] = kept
    _grant(out, m, c, p, s, needed)


@njit(cache=True, nogil=True)
def _cancel(out: Any, m: Any, c: Any, layer: int, stamp: int, by: int) -> None:
    """Prefetches of `layer` that its gate did not select, and that no cache keeps, are pointless once `by` has ended."""
    for i in range(m.n_held[layer]):
        expert = m.held[layer, i]
        first = m.held_first[layer, expert]
        if c.needed[expert] != stamp and first >= 0 and not m.held_hit[layer, expert]:
            for op in range(first, m.held_ready[layer, expert] + 1):
                out.cancelled_by[op - c.n[BASE]] = by


@njit(cache=True, nogil=True)
def _release(out: Any, m: Any, c: Any, p: Any, s: Any, layer: int, reader: int, all_used: bool, stamp: int) -> None:
    """The FFN of `layer` is op `reader`: its transient slots are free once that has run."""
    for i in range(m.n_held[layer]):
        expert = m.held[layer, i]
        slot, ready = m.held_slot[layer, expert], m.held_ready[layer, expert]
        used = all_used or c.needed[expert] == stamp
        last = reader if used or ready < 0 else ready
        m.reader[slot] = max(last, m.reader[slot])
        if m.held_transient[layer, expert]:
            m.free[(c.n[FREE_HEAD] + c.n[FREE_N]) % len(m.free)] = slot
            c.n[FREE_N] += 1
            if not used:
                out.hbm_released[ready - c.n[BASE]] += p.expert_bytes
        m.held_slot[layer, expert] = -2
    m.n_held[layer] = 0
    for i in range(m.n_pins[layer]):
        m.pinned[layer * p.n_experts + m.pins[layer, i]] = False
    m.n_pins[layer] = 0
    _grant(out, m, c, p, s, layer)


@njit(cache=True, nogil=True)
def _sorted_arrivals(m: Any, c: Any, layer: int, all_used: bool, stamp: int) -> int:
    """The copies that the FFN of `layer` waits for, ascending and distinct, into `c.arrivals`; how many."""
    n = 0
    for i in range(m.n_held[layer]):
        expert = m.held[layer, i]
        ready = m.held_ready[layer, expert]
        if ready < 0 or not (all_used or c.needed[expert] == stamp):
            continue
        place = n
        while place > 0 and c.arrivals[place - 1] > ready:
            place -= 1
        if place > 0 and c.arrivals[place - 1] == ready:
            continue
        for j in range(n, place, -1):
            c.arrivals[j] = c.arrivals[j - 1]
        c.arrivals[place] = ready
        n += 1
    return n


@njit(cache=True, nogil=True)
def _read_back(out: Any, c: Any, s: Any, t: int, gate: int, layer: int) -> int:
    """The selected ids to the host, which waits for them; returns the wait."""
    _after(out, c, gate)
    ids = _issue(out, c, _D2H, s.readback[t], s.i_step[t], layer, -1, -1)
    _after(out, c, ids)
    return _issue(out, c, _HOST, s.wait, s.i_step[t], layer, -1, -1)


@njit(cache=True, nogil=True)
def _experts(out: Any, m: Any, c: Any, p: Any, s: Any, t: int, u: int, layer: int, moe_layer: int, n_arrivals: int,
             freed: int) -> int:  # fmt: skip
    """The FFN ops: one grouped, or one an expert as they arrive and shared experts first; returns the last."""
    low, high = s.union_ptr[u], s.union_ptr[u + 1]
    if p.grouped or low == high:
        for i in range(n_arrivals):
            _after(out, c, c.arrivals[i])
        last = _issue(out, c, _COMPUTE, s.grouped[u], s.i_step[t], layer, -1, -1)
    else:
        if s.shared[t] >= 0:
            _issue(out, c, _COMPUTE, s.shared[t], s.i_step[t], layer, -1, -1)
        for i in range(high - low):  # stable, by arrival
            ready = -1 if p.resident else m.held_ready[moe_layer, s.expert[low + i]]
            place = i
            while place > 0:
                before = -1 if p.resident else m.held_ready[moe_layer, s.expert[low + c.order[place - 1]]]
                if before <= ready:
                    break
                c.order[place] = c.order[place - 1]
                place -= 1
            c.order[place] = i
        last = -1
        for i in range(high - low):
            at = low + c.order[i]
            if i == high - low - 1:
                for j in range(n_arrivals):
                    _after(out, c, c.arrivals[j])
            elif not p.resident and m.held_ready[moe_layer, s.expert[at]] >= 0:
                _after(out, c, m.held_ready[moe_layer, s.expert[at]])
            last = _issue(out, c, _COMPUTE, s.single[at], s.i_step[t], layer, s.expert[at], -1)
    out.hbm_released[last - c.n[BASE]] = freed
    if p.sync_after_ffn:
        _after(out, c, last)
        _issue(out, c, _HOST, s.wait, s.i_step[t], layer, -1, -1)
    return last


@njit(cache=True, nogil=True)
def _run_experts(out: Any, m: Any, c: Any, p: Any, s: Any, t: int, u: int, layer: int, moe_layer: int,
                 stamp: int) -> bool:  # fmt: skip
    """The FFN of a block and what it frees; False when an expert found no slot."""
    low, high = s.union_ptr[u], s.union_ptr[u + 1]
    n_hits = 0
    for at in range(low, high):
        if m.held_slot[moe_layer, s.expert[at]] == -2:
            c.n[FAILED_LAYER], c.n[FAILED_N] = moe_layer, high - low
            return False
        n_hits += m.held_hit[moe_layer, s.expert[at]]
    c.n[LOOKUPS + 2 * p.phase] += high - low
    c.n[HITS + 2 * p.phase] += n_hits
    layerwise = p.grouped != 0 or p.host_waits != 0 or p.needs_ids == 0
    freed = 0
    for i in range(m.n_held[moe_layer]):
        expert = m.held[moe_layer, i]
        if (layerwise or c.needed[expert] == stamp) and m.held_transient[moe_layer, expert]:
            freed += p.expert_bytes
    n_arrivals = _sorted_arrivals(m, c, moe_layer, layerwise, stamp)
    last = _experts(out, m, c, p, s, t, u, layer, moe_layer, n_arrivals, freed)
    _release(out, m, c, p, s, moe_layer, last, layerwise, stamp)
    return True


@njit(cache=True, nogil=True)
def _bring_later(
    out: Any, m: Any, c: Any, p: Any, s: Any, u0: int, low: int, high: int, step: int, needed: int
) -> None:
    """Start moving the experts of blocks `low` to `high`."""
    for block in range(low, high + 1):
        n = 0
        if p.prefetch == 2:
            for expert in range(p.n_experts):
                c.wanted[expert] = expert
            n = p.n_experts
        else:
            for at in range(s.union_ptr[u0 + block], s.union_ptr[u0 + block + 1]):
                c.wanted[n] = s.expert[at]
                n += 1
        if n:
            _bring(out, m, c, p, s, p.first + block, n, step, needed)


@njit(cache=True, nogil=True)
def _run_block(out: Any, m: Any, c: Any, p: Any, s: Any, t: int, block: int, n_blocks: int, layer: int,
               n_revealed: int) -> int:  # fmt: skip
    """Gate, copies, waits and FFN of one MoE block; returns the blocks revealed so far, or -1 for a failure."""
    u0, step, moe_layer = t * n_blocks, s.i_step[t], p.first + block
    low, high = s.union_ptr[u0 + block], s.union_ptr[u0 + block + 1]
    gate = _issue(out, c, _COMPUTE, s.gate[t], step, layer, -1, -1)
    if p.resident:
        c.n[LOOKUPS + 2 * p.phase] += high - low
        c.n[HITS + 2 * p.phase] += high - low
        _experts(out, m, c, p, s, t, u0 + block, layer, moe_layer, 0, 0)
        return n_revealed
    selected_before = block > 0 and block < n_revealed
    n_revealed = max(n_revealed, block + p.lookahead + 1)
    later_low, later_high = 1, 0
    if p.prefetch == 1:
        later_low = 1 if block == 0 else block + p.lookahead
        later_high = min(block + p.lookahead, n_blocks - 1)
    elif p.prefetch == 2:
        later_low, later_high = block + 1, min(block + 1, n_blocks - 1)
    any_later = False
    for other in range(later_low, later_high + 1):
        any_later |= p.prefetch == 2 or s.union_ptr[u0 + other + 1] > s.union_ptr[u0 + other]
    c.n[STAMP] += 1
    stamp = c.n[STAMP]
    for at in range(low, high):
        c.needed[s.expert[at]] = stamp
    if not selected_before:
        known = _read_back(out, c, s, t, gate, layer)
        _cancel(out, m, c, moe_layer, stamp, known)
    if p.prefetch == 2 and block == 0:
        for expert in range(p.n_experts):
            c.wanted[expert] = expert
        _bring(out, m, c, p, s, moe_layer, p.n_experts, step, moe_layer)
    _drop_waiting(out, m, c, p, s, moe_layer, stamp, moe_layer)
    n = 0
    for at in range(low, high):
        if m.held_slot[moe_layer, s.expert[at]] == -2 and not m.waiting[moe_layer, s.expert[at]]:
            c.wanted[n] = s.expert[at]
            n += 1
    _bring(out, m, c, p, s, moe_layer, n, step, moe_layer)
    reads_again = any_later and (p.readback_per_fetch != 0 or (p.needs_ids != 0 and selected_before))
    if p.fetch_first:
        if p.host_waits:
            n_ready = _sorted_arrivals(m, c, moe_layer, True, stamp)
            if n_ready:
                for i in range(n_ready):
                    _after(out, c, c.arrivals[i])
                _issue(out, c, _HOST, s.wait, step, layer, -1, -1)
    elif not _run_experts(out, m, c, p, s, t, u0 + block, layer, moe_layer, stamp):
        return -1
    if reads_again:
        _read_back(out, c, s, t, gate, layer)
    _bring_later(out, m, c, p, s, u0, later_low, later_high, step, moe_layer)
    if p.fetch_first and not _run_experts(out, m, c, p, s, t, u0 + block, layer, moe_layer, stamp):
        return -1
    return n_revealed


@njit(cache=True, nogil=True)
def run_steps(out: Any, m: Any, c: Any, p: Any, s: Any, begin: int, max_ops_a_step: int, max_deps_a_step: int) -> int:
    """Write steps from `begin` on while a largest step still fits; returns how many, or -1 - the one that failed."""
    n_steps, n_blocks = len(s.i_step), 0
    for layer in range(p.n_layers):
        n_blocks += s.block_of[layer] >= 0
    for t in range(begin, n_steps):
        if c.n[LOCAL] + max_ops_a_step > len(out.lane) or c.n[DEPS] + max_deps_a_step > len(out.dep):
            return t - begin
        step, n_revealed = s.i_step[t], 0
        for layer in range(p.n_layers):
            _issue(out, c, _COMPUTE, s.self_attention[t], step, layer, -1, -1)
            if s.cross_attention[t] >= 0:
                _issue(out, c, _COMPUTE, s.cross_attention[t], step, layer, -1, -1)
            block = s.block_of[layer]
            if block < 0:
                _issue(out, c, _COMPUTE, s.dense[t], step, layer, -1, -1)
                continue
            n_revealed = _run_block(out, m, c, p, s, t, block, n_blocks, layer, n_revealed)
            if n_revealed < 0:
                return -1 - t
        if p.head:
            head = _issue(out, c, _COMPUTE, s.head[t], step, -1, -1, -1)
            _after(out, c, head)
            _issue(out, c, _HOST, s.host_step, step, -1, -1, -1)
    return n_steps - begin
