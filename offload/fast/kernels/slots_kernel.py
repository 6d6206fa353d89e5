"""Expert slots and caches as machine code, for `decode_kernel`: `offload.slots.memory` and `offload.caches.residency`.

Arrays: `offload.fast.kernels.kernel_layout`. Nothing knows time.
"""

from __future__ import annotations

from typing import Any

from offload.fast.kernels.copies_kernel import copy, fetch, issue
from offload.fast.kernels.eviction_kernel import cache_slot, leave, look_up
from offload.fast.kernels.kernel_layout import (
    ALONE,
    BASE,
    BLOCK_BITS,
    CACHED,
    CANCELLED_BY,
    COST_FETCH_RUN,
    COST_ISSUE,
    COST_STAGE,
    COST_STAGE_RUN,
    EXPERT_BYTES,
    FILLED,
    FREE,
    FREE_HEAD,
    FREE_N,
    FREE_SIZE,
    HBM_ACQUIRED,
    HBM_RELEASED,
    HELD,
    HELD_FIRST,
    HELD_HIT,
    HELD_READY,
    HELD_SLOT,
    HELD_TRANSIENT,
    IN_BLOCK,
    IN_RUNS,
    LAST_FETCH,
    MARK,
    N_BUFFERS,
    N_EXPERTS,
    N_HELD,
    N_KEYS,
    N_PINS,
    N_POOLS,
    NAMED,
    NEEDED,
    NONE,
    PINNED,
    PINS,
    PLACE,
    QUEUE_EXPERT,
    QUEUE_HIT,
    QUEUE_LAYER,
    QUEUE_SIZE,
    QUEUE_SLOT,
    QUEUE_STEP,
    READER,
    SLOT_OF,
    SPARE,
    SPARE_FROM,
    SPARE_TOP,
    STAGE,
    STAMP,
    UNION_EXPERT,
    UNION_PTR,
    WAIT_HEAD,
    WAIT_N,
    WAITING,
    WANTED,
)
from offload.ops import Lane

_HOST = int(Lane.HOST)
_H2D = int(Lane.H2D)


def _run_length(x: Any, w: Any, r: Any) -> int:
    """How many of those who wait are brought by one run, from the first: experts and slots that follow."""
    size, at = w[QUEUE_SIZE], w[WAIT_HEAD]
    layer, expert, step = w[w[QUEUE_LAYER] + at], w[w[QUEUE_EXPERT] + at], w[w[QUEUE_STEP] + at]
    first_key = layer * r[N_EXPERTS]
    if x[first_key + expert, ALONE] or w[w[QUEUE_HIT] + at] or w[w[QUEUE_SLOT] + at] >= 0:
        return 1
    buffer = w[w[FREE] + w[FREE_HEAD]]
    for n in range(1, min(w[WAIT_N], w[FREE_N])):
        at = (w[WAIT_HEAD] + n) % size
        slot = w[w[FREE] + (w[FREE_HEAD] + n) % w[FREE_SIZE]]
        if w[w[QUEUE_LAYER] + at] != layer or w[w[QUEUE_STEP] + at] != step or w[w[QUEUE_EXPERT] + at] != expert + n:
            return n
        if x[first_key + expert + n, ALONE] or w[w[QUEUE_HIT] + at] or w[w[QUEUE_SLOT] + at] >= 0:
            return n
        if slot != buffer + n or w[w[READER] + slot] != w[w[READER] + buffer]:
            return n
    return max(min(w[WAIT_N], w[FREE_N]), 1)


def _place_run(o: Any, d: Any, x: Any, w: Any, r: Any, layer: int, expert: int, step: int, n: int,
               needed: int) -> None:  # fmt: skip
    """`n` experts from `expert` on into as many free slots, by one op a hop."""
    buffer, first_key = w[w[FREE] + w[FREE_HEAD]], layer * r[N_EXPERTS]
    reader, staged = w[w[READER] + buffer], r[STAGE] != 0
    target, after_fetch = (NONE, NONE) if staged else (buffer, reader)
    of_run = layer * (r[N_EXPERTS] + 1) + n
    cost = r[r[COST_FETCH_RUN] + of_run]
    first = copy(o, d, w, r, _H2D, cost, layer, expert, target, step, after_fetch, NONE, needed)
    ready = first
    if staged:
        cost = r[r[COST_STAGE_RUN] + of_run]
        ready = copy(o, d, w, r, _H2D, cost, layer, expert, buffer, step, first, reader, needed)
    at = ready - w[BASE]
    o[at >> BLOCK_BITS, HBM_ACQUIRED, at & IN_BLOCK] = n * r[EXPERT_BYTES]
    issue(o, w, r, _HOST, r[r[COST_ISSUE] + n], step, r[r[PLACE] + layer], NONE, NONE)
    w[LAST_FETCH] = first
    w[WAIT_HEAD] = (w[WAIT_HEAD] + n) % w[QUEUE_SIZE]
    w[WAIT_N] -= n
    w[FREE_HEAD] = (w[FREE_HEAD] + n) % w[FREE_SIZE]
    w[FREE_N] -= n
    for i in range(n):
        key = first_key + expert + i
        x[key, WAITING] = 0
        x[key, HELD_SLOT], x[key, HELD_READY], x[key, HELD_FIRST] = buffer + i, ready, first
        x[key, HELD_HIT], x[key, HELD_TRANSIENT] = 0, 1
        x[first_key + w[w[N_HELD] + layer], HELD] = expert + i
        w[w[N_HELD] + layer] += 1


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
        n = _run_length(x, w, r)
        if n > 1:
            _place_run(o, d, x, w, r, layer, expert, step, n, needed)
            continue
        w[WAIT_HEAD] = (at + 1) % size
        w[WAIT_N] -= 1
        x[key, WAITING] = 0
        buffer = NONE
        if transient:
            buffer = w[w[FREE] + w[FREE_HEAD]]
            w[FREE_HEAD] = (w[FREE_HEAD] + 1) % w[FREE_SIZE]
            w[FREE_N] -= 1
        cached = r[N_BUFFERS] + cache_slot if cache_slot >= 0 else NONE
        ready = NONE
        if cached >= 0 and w[w[FILLED] + cached] >= 0:
            ready = w[w[FILLED] + cached]
        first = ready
        if not hit:
            target = cached if cached >= 0 else (NONE if r[STAGE] else buffer)
            first = fetch(o, d, w, r, layer, expert, target, step, needed)
            ready = w[LAST_FETCH]
            if cached >= 0:
                w[w[FILLED] + cached] = ready
        slot = cached if cached >= 0 else buffer
        if r[STAGE]:
            reader = w[w[READER] + buffer]
            cost = r[r[COST_STAGE] + layer]
            ready = copy(o, d, w, r, _H2D, cost, layer, expert, buffer, step, ready, reader, needed)
            if cached >= 0:
                w[w[READER] + cached] = ready
            slot, transient = buffer, True
        x[key, HELD_SLOT], x[key, HELD_READY] = slot, ready
        x[key, HELD_FIRST] = first if cached < 0 else -1
        x[key, HELD_HIT], x[key, HELD_TRANSIENT] = hit, transient
        x[layer * r[N_EXPERTS] + w[w[N_HELD] + layer], HELD] = expert
        w[w[N_HELD] + layer] += 1


def bring(o: Any, d: Any, x: Any, w: Any, r: Any, layer: int, n_wanted: int, step: int, needed: int, u: int) -> None:
    """Bring the first `n_wanted` experts of `WANTED` for the next FFN of `layer`; one event for the cache.

    `u`: the union that the gate of the layer names; copies of other experts may become runs. -1: none do.
    """
    first_key = layer * r[N_EXPERTS]
    w[STAMP] += 1
    in_runs = r[IN_RUNS] != 0 and u >= 0
    if in_runs:
        for at in range(r[r[UNION_PTR] + u], r[r[UNION_PTR] + u + 1]):
            w[w[NAMED] + r[r[UNION_EXPERT] + at]] = w[STAMP]
    pool = layer if r[N_POOLS] > 1 else 0
    size = w[QUEUE_SIZE]
    n_new = 0
    for i in range(n_wanted):
        expert = w[w[WANTED] + i]
        if x[first_key + expert, HELD_SLOT] != -2 or x[first_key + expert, WAITING]:
            continue
        w[w[WANTED] + n_new] = expert
        n_new += 1
        x[first_key + expert, ALONE] = not in_runs or w[w[NAMED] + expert] == w[STAMP]
        if r[CACHED]:
            x[first_key + expert, MARK] = w[STAMP]
    for i in range(n_new):
        expert = w[w[WANTED] + i]
        key, slot, hit = first_key + expert, NONE, False
        if r[CACHED]:
            slot = x[key, SLOT_OF]
            hit = slot >= 0
            if not hit:
                slot = cache_slot(x, w, r, pool, key)
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
            look_up(x, w, r, w[N_KEYS] + pool, first_key + w[w[WANTED] + i])
        for i in range(w[w[N_PINS] + layer]):
            x[first_key + x[first_key + i, PINS], PINNED] = 1
    _grant(o, d, x, w, r, needed)


def drop_waiting(o: Any, d: Any, x: Any, w: Any, r: Any, layer: int, stamp: int, needed: int) -> None:
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
                leave(x, key)
            continue
        to = (w[WAIT_HEAD] + kept) % size
        w[w[QUEUE_LAYER] + to], w[w[QUEUE_EXPERT] + to], w[w[QUEUE_SLOT] + to] = w[w[QUEUE_LAYER] + at], expert, slot
        w[w[QUEUE_HIT] + to], w[w[QUEUE_STEP] + to] = w[w[QUEUE_HIT] + at], w[w[QUEUE_STEP] + at]
        kept += 1
    w[WAIT_N] = kept
    _grant(o, d, x, w, r, needed)


def cancel(o: Any, x: Any, w: Any, r: Any, layer: int, stamp: int, by: int) -> None:
    """Prefetches of `layer` not selected by its gate and kept by no cache are pointless once op `by` has ended."""
    first_key = layer * r[N_EXPERTS]
    for i in range(w[w[N_HELD] + layer]):
        expert = x[first_key + i, HELD]
        first = x[first_key + expert, HELD_FIRST]
        if w[w[NEEDED] + expert] != stamp and first >= 0 and not x[first_key + expert, HELD_HIT]:
            for op in range(first, x[first_key + expert, HELD_READY] + 1):
                at = op - w[BASE]
                o[at >> BLOCK_BITS, CANCELLED_BY, at & IN_BLOCK] = by


def _no_longer_held(x: Any, w: Any, r: Any, layer: int, expert: int) -> None:
    """Take `expert` out of the list of what `layer` holds; the others keep their order."""
    first_key, n = layer * r[N_EXPERTS], 0
    for i in range(w[w[N_HELD] + layer]):
        if x[first_key + i, HELD] != expert:
            x[first_key + n, HELD] = x[first_key + i, HELD]
            n += 1
    w[w[N_HELD] + layer] = n
    x[first_key + expert, HELD_SLOT] = -2


def _free(w: Any, slot: int, reader: int) -> None:
    """`slot` is free once op `reader` has run."""
    w[w[READER] + slot] = reader
    w[w[FREE] + (w[FREE_HEAD] + w[FREE_N]) % w[FREE_SIZE]] = slot
    w[FREE_N] += 1


def hand_on(o: Any, d: Any, x: Any, w: Any, r: Any, layer: int, expert: int, reader: int) -> None:
    """The FFN of one expert of `layer` is op `reader`: its slot goes to who waits, once that has run."""
    key = layer * r[N_EXPERTS] + expert
    slot = x[key, HELD_SLOT]
    w[w[READER] + slot] = reader
    if x[key, HELD_TRANSIENT]:
        _free(w, slot, reader)
    _no_longer_held(x, w, r, layer, expert)
    _grant(o, d, x, w, r, layer)


def give_up(o: Any, d: Any, x: Any, w: Any, r: Any, layer: int, stamp: int) -> bool:
    """Take the slots of what `layer` holds and does not need, once the copies have ended; whether it had any."""
    first_key, found, i = layer * r[N_EXPERTS], False, 0
    while i < w[w[N_HELD] + layer]:
        expert = x[first_key + i, HELD]
        key = first_key + expert
        if w[w[NEEDED] + expert] == stamp or not x[key, HELD_TRANSIENT]:
            i += 1
            continue
        ready, slot = x[key, HELD_READY], x[key, HELD_SLOT]
        _free(w, slot, max(ready, w[w[READER] + slot]))
        at = ready - w[BASE]
        o[at >> BLOCK_BITS, HBM_RELEASED, at & IN_BLOCK] += r[EXPERT_BYTES]
        _no_longer_held(x, w, r, layer, expert)
        found = True
    _grant(o, d, x, w, r, layer)
    return found


def release(o: Any, d: Any, x: Any, w: Any, r: Any, layer: int, reader: int, all_used: bool, stamp: int) -> None:
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
                at = ready - w[BASE]
                o[at >> BLOCK_BITS, HBM_RELEASED, at & IN_BLOCK] += r[EXPERT_BYTES]
        x[first_key + expert, HELD_SLOT] = -2
    w[w[N_HELD] + layer] = 0
    for i in range(w[w[N_PINS] + layer]):
        x[first_key + x[first_key + i, PINS], PINNED] = 0
    w[w[N_PINS] + layer] = 0
    _grant(o, d, x, w, r, layer)
