"""The decode loop as machine code, op for op what `offload.decode` writes down for policies that are plain values.

numba is imported with this module: import it on first use. Compiled functions pass five arrays around, int64 but `d`:

- `o` (n_ops, 11): the ops being written, a column each as named below; `d`: the dependencies of all;
- `x` (n_moe_layers * n_experts + n_pools, 13): one row an expert, key = layer * n_experts + expert;
- `w`: counters, then tables (slots, queue, scratch), each at the place that its name holds: `w[w[READER] + slot]`;
- `r`: what this part reads: the plan, then tables of its forward passes: `r[r[COST_GATE] + t]`.

Tuples of arrays would be the usual way, but cost a reference count at every access: 850 ns an op instead of 100 to 150.
Op indices count from the first op of the schedule, rows of `o` from the first of the part. Nothing here knows time.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from offload.ops import Lane

_HOST, _COMPUTE, _H2D, _D2H, _DISK = (int(lane) for lane in (Lane.HOST, Lane.COMPUTE, Lane.H2D, Lane.D2H, Lane.DISK))

# Columns of `o`, named as those of a schedule; DEP_END is the end of the op's dependencies in `d`.
LANE, COST, STEP, LAYER, EXPERT, SLOT, HBM_ACQUIRED, HBM_RELEASED, PRIORITY, CANCELLED_BY, DEP_END = range(11)
N_COLUMNS = 11

# Columns of `x`. Held for the next FFN of its layer: slot (-2 not held), last op of the copy, first op of a copy that
# no cache keeps (-1), found resident, slot to be given back; WAITING for a slot. HELD, PINS: the i-th row of a layer
# names its i-th held, or pinned, expert. In the cache: slot (-1), neighbours by age (row n_keys + pool closes the
# ring), in use and not to be evicted, last event that asked for it.
HELD_SLOT, HELD_READY, HELD_FIRST, HELD_HIT, HELD_TRANSIENT, WAITING, HELD, PINS = range(8)
SLOT_OF, NEWER, OLDER, PINNED, MARK = range(8, 13)
N_EXPERT_COLUMNS = 13

# Words of `w`: counters (LOOKUPS, HITS of decode, then of prefill), sizes, and where tables begin.
BASE, LOCAL, DEPS, ROWS, LAST_FETCH, FREE_HEAD, FREE_N, WAIT_HEAD, WAIT_N, STAMP, LOOKUPS, HITS = range(12)
FAILED_LAYER, FAILED_N, N_KEYS, FREE_SIZE, QUEUE_SIZE = range(14, 19)
READER, FILLED, FREE, QUEUE_LAYER, QUEUE_EXPERT, QUEUE_SLOT, QUEUE_HIT, QUEUE_STEP = range(19, 27)
N_HELD, N_PINS, SPARE, SPARE_TOP, SPARE_FROM, WANTED, ARRIVALS, ORDER, NEEDED = range(27, 36)
N_WORDS = 36

# Words of `r`: the plan (flags are 0 or 1; PREFETCH 0 none, 1 selected ahead, 2 all), costs of single ops, and where
# tables begin: by forward pass (PHASE: 1 for prefill), by union, by expert of a union, by layer, by candidate cost.
N_EXPERTS, FIRST, N_LAYERS, EXPERT_BYTES, N_BUFFERS, LOOKAHEAD, PREFETCH, RESIDENT, NEEDS_IDS, STAGE = range(10)
GROUPED, FETCH_FIRST, READBACK_PER_FETCH, HOST_WAITS, SYNC_AFTER_FFN, DISK, CACHED, N_POOLS = range(10, 18)
BY_RECENCY, NEWEST_FIRST, PHASE, WITH_HEAD, N_STEPS = range(18, 23)
COST_FETCH, COST_STAGE, COST_DISK, COST_WAIT, COST_STEP = range(23, 28)
I_STEP, COST_SELF_ATTENTION, COST_CROSS_ATTENTION, COST_GATE, COST_DENSE, COST_READBACK = range(28, 34)
COST_HEAD, COST_SHARED, UNION_PTR, COST_GROUPED, UNION_EXPERT, COST_SINGLE, BLOCK_OF, PLACE = range(34, 42)
ROW_OF, USED = range(42, 44)
N_PART_WORDS = 44


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
def _after(d: Any, w: Any, op: int) -> None:
    """The next op waits for `op`."""
    d[w[DEPS]] = op
    w[DEPS] += 1


@njit(cache=True, nogil=True)
def _issue(o: Any, w: Any, r: Any, lane: int, cost: int, step: int, layer: int, expert: int, slot: int) -> int:
    """Append one op, which waits for what `_after` named since the last; returns its index."""
    i = w[LOCAL]
    row = r[r[ROW_OF] + cost]
    if row < 0:
        row = w[ROWS]
        r[r[ROW_OF] + cost] = row
        r[r[USED] + row] = cost
        w[ROWS] = row + 1
    o[i, LANE], o[i, COST], o[i, STEP], o[i, LAYER] = lane, row, step, layer
    o[i, EXPERT], o[i, SLOT] = expert, slot
    o[i, HBM_ACQUIRED], o[i, HBM_RELEASED], o[i, PRIORITY], o[i, CANCELLED_BY] = 0, 0, 0, -1
    o[i, DEP_END] = w[DEPS]
    w[LOCAL] = i + 1
    return w[BASE] + i


@njit(cache=True, nogil=True)
def _copy(o: Any, d: Any, w: Any, r: Any, lane: int, cost: int, layer: int, expert: int, slot: int, step: int,
          first: int, second: int, needed: int) -> int:  # fmt: skip
    """One copy, after ops `first` and `second` (-1 none)."""
    low, high = min(first, second), max(first, second)
    if low >= 0 and low != high:
        _after(d, w, low)
    if high >= 0:
        _after(d, w, high)
    op = _issue(o, w, r, lane, cost, step, r[r[PLACE] + layer], expert, slot)
    i = op - w[BASE]
    if slot >= 0 and (slot < r[N_BUFFERS] or w[w[FILLED] + slot] == -2):
        o[i, HBM_ACQUIRED] = r[EXPERT_BYTES]
    o[i, PRIORITY] = 0 if layer == needed else 1
    return op


@njit(cache=True, nogil=True)
def _fetch(o: Any, d: Any, w: Any, r: Any, layer: int, expert: int, slot: int, step: int, needed: int) -> int:
    """One expert over the link; returns the first op of it, the last is `LAST_FETCH`."""
    reader = w[w[READER] + slot] if slot >= 0 else -1
    read = -1
    if r[DISK]:
        read = _copy(o, d, w, r, _DISK, r[COST_DISK], layer, expert, -1, step, w[LAST_FETCH], -1, needed)
    op = _copy(o, d, w, r, _H2D, r[COST_FETCH], layer, expert, slot, step, reader, read, needed)
    w[LAST_FETCH] = op
    return read if read >= 0 else op


@njit(cache=True, nogil=True)
def _grant(o: Any, d: Any, x: Any, w: Any, r: Any, needed: int) -> None:
    """Place who waits, in order, until the first for whom there is no slot."""
    size = w[QUEUE_SIZE]
    while w[WAIT_N] > 0:
        at = w[WAIT_HEAD]
        layer, expert, cache_slot = w[w[QUEUE_LAYER] + at], w[w[QUEUE_EXPERT] + at], w[w[QUEUE_SLOT] + at]
        key = layer * r[N_EXPERTS] + expert
        hit, step = w[w[QUEUE_HIT] + at], w[w[QUEUE_STEP] + at]
        transient = r[STAGE] != 0 or cache_slot < 0
        if transient and w[FREE_N] == 0:
            return
        w[WAIT_HEAD] = (at + 1) % size
        w[WAIT_N] -= 1
        x[key, WAITING] = 0
        buffer = -1
        if transient:
            buffer = w[w[FREE] + w[FREE_HEAD]]
            w[FREE_HEAD] = (w[FREE_HEAD] + 1) % w[FREE_SIZE]
            w[FREE_N] -= 1
        cached = r[N_BUFFERS] + cache_slot if cache_slot >= 0 else -1
        ready = -1
        if cached >= 0 and w[w[FILLED] + cached] >= 0:
            ready = w[w[FILLED] + cached]
        first = ready
        if not hit:
            target = cached if cached >= 0 else (-1 if r[STAGE] else buffer)
            first = _fetch(o, d, w, r, layer, expert, target, step, needed)
            ready = w[LAST_FETCH]
            if cached >= 0:
                w[w[FILLED] + cached] = ready
        slot = cached if cached >= 0 else buffer
        if r[STAGE]:
            reader = w[w[READER] + buffer]
            ready = _copy(o, d, w, r, _H2D, r[COST_STAGE], layer, expert, buffer, step, ready, reader, needed)
            if cached >= 0:
                w[w[READER] + cached] = ready
            slot, transient = buffer, True
            if hit:
                first = ready
        x[key, HELD_SLOT], x[key, HELD_READY] = slot, ready
        x[key, HELD_FIRST] = first if cached < 0 else -1
        x[key, HELD_HIT], x[key, HELD_TRANSIENT] = hit, transient
        x[layer * r[N_EXPERTS] + w[w[N_HELD] + layer], HELD] = expert
        w[w[N_HELD] + layer] += 1


@njit(cache=True, nogil=True)
def _unlink(x: Any, key: int) -> None:
    newer, older = x[key, NEWER], x[key, OLDER]
    x[newer, OLDER], x[older, NEWER] = older, newer


@njit(cache=True, nogil=True)
def _link_newest(x: Any, sentinel: int, key: int) -> None:
    newest = x[sentinel, OLDER]
    x[sentinel, OLDER], x[key, NEWER] = key, sentinel
    x[key, OLDER], x[newest, NEWER] = newest, key


@njit(cache=True, nogil=True)
def _cache_slot(x: Any, w: Any, r: Any, pool: int, key: int) -> int:
    """Make `key` resident; its slot, or -1 when everything is protected."""
    n_keys = w[N_KEYS]
    sentinel = n_keys + pool
    if w[w[SPARE_TOP] + pool] > 0:
        w[w[SPARE_TOP] + pool] -= 1
        slot = w[w[SPARE] + w[w[SPARE_FROM] + pool] + w[w[SPARE_TOP] + pool]]
    else:
        at = x[sentinel, OLDER] if r[NEWEST_FIRST] else x[sentinel, NEWER]
        while at < n_keys and (x[at, MARK] == w[STAMP] or x[at, PINNED]):
            at = x[at, OLDER] if r[NEWEST_FIRST] else x[at, NEWER]
        if at >= n_keys:
            return -1
        slot = x[at, SLOT_OF]
        x[at, SLOT_OF] = -1
        _unlink(x, at)
    x[key, SLOT_OF] = slot
    _link_newest(x, sentinel, key)
    return slot


@njit(cache=True, nogil=True)
def _bring(o: Any, d: Any, x: Any, w: Any, r: Any, layer: int, n_wanted: int, step: int, needed: int) -> None:
    """Bring the first `n_wanted` experts of `WANTED` for the next FFN of `layer`; one event for the cache."""
    first_key = layer * r[N_EXPERTS]
    w[STAMP] += 1
    pool = layer if r[N_POOLS] > 1 else 0
    size = w[QUEUE_SIZE]
    n_new = 0
    for i in range(n_wanted):
        expert = w[w[WANTED] + i]
        if x[first_key + expert, HELD_SLOT] != -2 or x[first_key + expert, WAITING]:
            continue
        w[w[WANTED] + n_new] = expert
        n_new += 1
        if r[CACHED]:
            x[first_key + expert, MARK] = w[STAMP]
    for i in range(n_new):
        expert = w[w[WANTED] + i]
        key, slot, hit = first_key + expert, -1, False
        if r[CACHED]:
            slot = x[key, SLOT_OF]
            hit = slot >= 0
            if not hit:
                slot = _cache_slot(x, w, r, pool, key)
            if slot >= 0:
                x[first_key + w[w[N_PINS] + layer], PINS] = expert
                w[w[N_PINS] + layer] += 1
        at = (w[WAIT_HEAD] + w[WAIT_N]) % size
        w[w[QUEUE_LAYER] + at], w[w[QUEUE_EXPERT] + at], w[w[QUEUE_SLOT] + at] = layer, expert, slot
        w[w[QUEUE_HIT] + at], w[w[QUEUE_STEP] + at] = hit, step
        x[first_key + expert, WAITING] = 1
        w[WAIT_N] += 1
    if r[CACHED]:
        for i in range(n_new):
            key = first_key + w[w[WANTED] + i]
            if r[BY_RECENCY] and x[key, SLOT_OF] >= 0:
                _unlink(x, key)
                _link_newest(x, w[N_KEYS] + pool, key)
        for i in range(w[w[N_PINS] + layer]):
            x[first_key + x[first_key + i, PINS], PINNED] = 1
    _grant(o, d, x, w, r, needed)


@njit(cache=True, nogil=True)
def _drop_waiting(o: Any, d: Any, x: Any, w: Any, r: Any, layer: int, stamp: int, needed: int) -> None:
    """What still waits for a slot in `layer` and is not needed is not brought after all."""
    first_key = layer * r[N_EXPERTS]
    size = w[QUEUE_SIZE]
    n_waiting, kept = w[WAIT_N], 0
    for i in range(n_waiting):
        at = (w[WAIT_HEAD] + i) % size
        expert, slot = w[w[QUEUE_EXPERT] + at], w[w[QUEUE_SLOT] + at]
        if w[w[QUEUE_LAYER] + at] == layer and w[w[NEEDED] + expert] != stamp:
            x[first_key + expert, WAITING] = 0
            if slot >= 0 and not w[w[QUEUE_HIT] + at]:
                key, pool = first_key + expert, layer if r[N_POOLS] > 1 else 0
                w[w[SPARE] + w[w[SPARE_FROM] + pool] + w[w[SPARE_TOP] + pool]] = slot
                w[w[SPARE_TOP] + pool] += 1
                x[key, SLOT_OF] = -1
                _unlink(x, key)
            continue
        to = (w[WAIT_HEAD] + kept) % size
        w[w[QUEUE_LAYER] + to], w[w[QUEUE_EXPERT] + to], w[w[QUEUE_SLOT] + to] = w[w[QUEUE_LAYER] + at], expert, slot
        w[w[QUEUE_HIT] + to], w[w[QUEUE_STEP] + to] = w[w[QUEUE_HIT] + at], w[w[QUEUE_STEP] + at]
        kept += 1
    w[WAIT_N] = kept
    _grant(o, d, x, w, r, needed)


@njit(cache=True, nogil=True)
def _cancel(o: Any, x: Any, w: Any, r: Any, layer: int, stamp: int, by: int) -> None:
    """Prefetches of `layer` not selected by its gate and kept by no cache are pointless once op `by` has ended."""
    first_key = layer * r[N_EXPERTS]
    for i in range(w[w[N_HELD] + layer]):
        expert = x[first_key + i, HELD]
        first = x[first_key + expert, HELD_FIRST]
        if w[w[NEEDED] + expert] != stamp and first >= 0 and not x[first_key + expert, HELD_HIT]:
            for op in range(first, x[first_key + expert, HELD_READY] + 1):
                o[op - w[BASE], CANCELLED_BY] = by


@njit(cache=True, nogil=True)
def _release(o: Any, d: Any, x: Any, w: Any, r: Any, layer: int, reader: int, all_used: bool, stamp: int) -> None:
    """The FFN of `layer` is op `reader`: its transient slots are free once that has run."""
    first_key = layer * r[N_EXPERTS]
    for i in range(w[w[N_HELD] + layer]):
        expert = x[first_key + i, HELD]
        slot, ready = x[first_key + expert, HELD_SLOT], x[first_key + expert, HELD_READY]
        used = all_used or w[w[NEEDED] + expert] == stamp
        last = reader if used or ready < 0 else ready
        w[w[READER] + slot] = max(last, w[w[READER] + slot])
        if x[first_key + expert, HELD_TRANSIENT]:
            w[w[FREE] + (w[FREE_HEAD] + w[FREE_N]) % w[FREE_SIZE]] = slot
            w[FREE_N] += 1
            if not used:
                o[ready - w[BASE], HBM_RELEASED] += r[EXPERT_BYTES]
        x[first_key + expert, HELD_SLOT] = -2
    w[w[N_HELD] + layer] = 0
    for i in range(w[w[N_PINS] + layer]):
        x[first_key + x[first_key + i, PINS], PINNED] = 0
    w[w[N_PINS] + layer] = 0
    _grant(o, d, x, w, r, layer)


@njit(cache=True, nogil=True)
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


@njit(cache=True, nogil=True)
def _read_back(o: Any, d: Any, w: Any, r: Any, t: int, gate: int, layer: int) -> int:
    """The selected ids to the host, which waits for them; returns the wait."""
    _after(d, w, gate)
    ids = _issue(o, w, r, _D2H, r[r[COST_READBACK] + t], r[r[I_STEP] + t], layer, -1, -1)
    _after(d, w, ids)
    return _issue(o, w, r, _HOST, r[COST_WAIT], r[r[I_STEP] + t], layer, -1, -1)


@njit(cache=True, nogil=True)
def _ready(x: Any, r: Any, first_key: int, at: int) -> int:
    """The copy that brings entry `at` of the unions, -1 for none."""
    return -1 if r[RESIDENT] else x[first_key + r[r[UNION_EXPERT] + at], HELD_READY]


@njit(cache=True, nogil=True)
def _experts(o: Any, d: Any, x: Any, w: Any, r: Any, t: int, u: int, layer: int, moe_layer: int, n_arrivals: int,
             freed: int) -> int:  # fmt: skip
    """The FFN ops: one grouped, or one an expert as they arrive and shared experts first; returns the last."""
    first_key = moe_layer * r[N_EXPERTS]
    low, high = r[r[UNION_PTR] + u], r[r[UNION_PTR] + u + 1]
    if r[GROUPED] or low == high:
        for i in range(n_arrivals):
            _after(d, w, w[w[ARRIVALS] + i])
        last = _issue(o, w, r, _COMPUTE, r[r[COST_GROUPED] + u], r[r[I_STEP] + t], layer, -1, -1)
    else:
        if r[r[COST_SHARED] + t] >= 0:
            _issue(o, w, r, _COMPUTE, r[r[COST_SHARED] + t], r[r[I_STEP] + t], layer, -1, -1)
        for i in range(high - low):  # stable, by arrival
            ready = _ready(x, r, first_key, low + i)
            place = i
            while place > 0:
                if _ready(x, r, first_key, low + w[w[ORDER] + place - 1]) <= ready:
                    break
                w[w[ORDER] + place] = w[w[ORDER] + place - 1]
                place -= 1
            w[w[ORDER] + place] = i
        last = -1
        for i in range(high - low):
            at = low + w[w[ORDER] + i]
            if i == high - low - 1:
                for j in range(n_arrivals):
                    _after(d, w, w[w[ARRIVALS] + j])
            elif _ready(x, r, first_key, at) >= 0:
                _after(d, w, _ready(x, r, first_key, at))
            expert = r[r[UNION_EXPERT] + at]
            last = _issue(o, w, r, _COMPUTE, r[r[COST_SINGLE] + at], r[r[I_STEP] + t], layer, expert, -1)
    o[last - w[BASE], HBM_RELEASED] = freed
    if r[SYNC_AFTER_FFN]:
        _after(d, w, last)
        _issue(o, w, r, _HOST, r[COST_WAIT], r[r[I_STEP] + t], layer, -1, -1)
    return last


@njit(cache=True, nogil=True)
def _run_experts(o: Any, d: Any, x: Any, w: Any, r: Any, t: int, u: int, layer: int, moe_layer: int,
                 stamp: int) -> bool:  # fmt: skip
    """The FFN of a block and what it frees; False when an expert found no slot."""
    first_key = moe_layer * r[N_EXPERTS]
    low, high = r[r[UNION_PTR] + u], r[r[UNION_PTR] + u + 1]
    n_hits = 0
    for at in range(low, high):
        if x[first_key + r[r[UNION_EXPERT] + at], HELD_SLOT] == -2:
            w[FAILED_LAYER], w[FAILED_N] = moe_layer, high - low
            return False
        n_hits += x[first_key + r[r[UNION_EXPERT] + at], HELD_HIT]
    w[LOOKUPS + 2 * r[r[PHASE] + t]] += high - low
    w[HITS + 2 * r[r[PHASE] + t]] += n_hits
    layerwise = r[GROUPED] != 0 or r[HOST_WAITS] != 0 or r[NEEDS_IDS] == 0
    freed = 0
    for i in range(w[w[N_HELD] + moe_layer]):
        expert = x[first_key + i, HELD]
        if (layerwise or w[w[NEEDED] + expert] == stamp) and x[first_key + expert, HELD_TRANSIENT]:
            freed += r[EXPERT_BYTES]
    n_arrivals = _sorted_arrivals(x, w, r, moe_layer, layerwise, stamp)
    last = _experts(o, d, x, w, r, t, u, layer, moe_layer, n_arrivals, freed)
    _release(o, d, x, w, r, moe_layer, last, layerwise, stamp)
    return True


@njit(cache=True, nogil=True)
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
            _bring(o, d, x, w, r, r[FIRST] + block, n, step, needed)


@njit(cache=True, nogil=True)
def _run_block(o: Any, d: Any, x: Any, w: Any, r: Any, t: int, block: int, n_blocks: int, layer: int,
               n_revealed: int) -> int:  # fmt: skip
    """Gate, copies, waits and FFN of one MoE block; returns the blocks revealed so far, or -1 for a failure."""
    u0, step, moe_layer = t * n_blocks, r[r[I_STEP] + t], r[FIRST] + block
    first_key = moe_layer * r[N_EXPERTS]
    low, high = r[r[UNION_PTR] + u0 + block], r[r[UNION_PTR] + u0 + block + 1]
    gate = _issue(o, w, r, _COMPUTE, r[r[COST_GATE] + t], step, layer, -1, -1)
    if r[RESIDENT]:
        w[LOOKUPS + 2 * r[r[PHASE] + t]] += high - low
        w[HITS + 2 * r[r[PHASE] + t]] += high - low
        _experts(o, d, x, w, r, t, u0 + block, layer, moe_layer, 0, 0)
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
        _cancel(o, x, w, r, moe_layer, stamp, known)
    if r[PREFETCH] == 2 and block == 0:
        for expert in range(r[N_EXPERTS]):
            w[w[WANTED] + expert] = expert
        _bring(o, d, x, w, r, moe_layer, r[N_EXPERTS], step, moe_layer)
    _drop_waiting(o, d, x, w, r, moe_layer, stamp, moe_layer)
    n = 0
    for at in range(low, high):
        key = first_key + r[r[UNION_EXPERT] + at]
        if x[key, HELD_SLOT] == -2 and not x[key, WAITING]:
            w[w[WANTED] + n] = r[r[UNION_EXPERT] + at]
            n += 1
    _bring(o, d, x, w, r, moe_layer, n, step, moe_layer)
    reads_again = any_later and (r[READBACK_PER_FETCH] != 0 or (r[NEEDS_IDS] != 0 and selected_before))
    if r[FETCH_FIRST]:
        if r[HOST_WAITS]:
            n_ready = _sorted_arrivals(x, w, r, moe_layer, True, stamp)
            if n_ready:
                for i in range(n_ready):
                    _after(d, w, w[w[ARRIVALS] + i])
                _issue(o, w, r, _HOST, r[COST_WAIT], step, layer, -1, -1)
    elif not _run_experts(o, d, x, w, r, t, u0 + block, layer, moe_layer, stamp):
        return -1
    if reads_again:
        _read_back(o, d, w, r, t, gate, layer)
    _bring_later(o, d, x, w, r, u0, later_low, later_high, step, moe_layer)
    if r[FETCH_FIRST] and not _run_experts(o, d, x, w, r, t, u0 + block, layer, moe_layer, stamp):
        return -1
    return n_revealed


@njit(cache=True, nogil=True)
def run_steps(o: Any, d: Any, x: Any, w: Any, r: Any, begin: int, max_ops_a_step: int, max_deps_a_step: int) -> int:
    """Write steps from `begin` on while a largest step still fits; returns how many, or -1 - the one that failed."""
    n_steps, n_blocks = r[N_STEPS], 0
    for layer in range(r[N_LAYERS]):
        n_blocks += r[r[BLOCK_OF] + layer] >= 0
    for t in range(begin, n_steps):
        if w[LOCAL] + max_ops_a_step > len(o) or w[DEPS] + max_deps_a_step > len(d):
            return t - begin
        step, n_revealed = r[r[I_STEP] + t], 0
        for layer in range(r[N_LAYERS]):
            _issue(o, w, r, _COMPUTE, r[r[COST_SELF_ATTENTION] + t], step, layer, -1, -1)
            if r[r[COST_CROSS_ATTENTION] + t] >= 0:
                _issue(o, w, r, _COMPUTE, r[r[COST_CROSS_ATTENTION] + t], step, layer, -1, -1)
            block = r[r[BLOCK_OF] + layer]
            if block < 0:
                _issue(o, w, r, _COMPUTE, r[r[COST_DENSE] + t], step, layer, -1, -1)
                continue
            n_revealed = _run_block(o, d, x, w, r, t, block, n_blocks, layer, n_revealed)
            if n_revealed < 0:
                return -1 - t
        if r[WITH_HEAD]:
            head = _issue(o, w, r, _COMPUTE, r[r[COST_HEAD] + t], step, -1, -1, -1)
            _after(d, w, head)
            _issue(o, w, r, _HOST, r[COST_STEP], step, -1, -1, -1)
    return n_steps - begin
