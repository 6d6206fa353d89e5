"""Residency replay as machine code: the decisions of `offload.caches.eviction`, in array heaps, by the rules of
`offload.caches.budget_replay`, hit for hit and byte for byte.

A heap holds the residents of one pool at `first` on, the lowest `rank` on top; `place[key]` is where `key` is in it, -1
for none. No two residents share a rank.
"""

from __future__ import annotations

from typing import Any

from offload.fast.kernels.draws_kernel import drawn_below

LRU, LFU, BELADY, RANDOM = range(4)


def batches(experts: Any, bounds: Any, n_experts: int, ptr: Any, step_of: Any, keys: Any, recent: Any,
            mark: Any) -> int:  # fmt: skip
    """Of every (step, layer) with experts: where its keys begin, its step, and its keys by first and last appearance;
    returns how many they are.

    `experts` (n_tokens, n_layers, top_k), step s being tokens `bounds[s]` to `bounds[s + 1]`; `mark` (n_keys,) -1.
    """
    n_steps, n_layers, top_k = len(bounds) - 1, experts.shape[1], experts.shape[2]
    n_batches = n_keys = 0
    for step in range(n_steps):
        for layer in range(n_layers):
            begin, event = n_keys, 2 * (step * n_layers + layer)
            for token in range(bounds[step], bounds[step + 1]):
                for k in range(top_k):
                    expert = experts[token, layer, k]
                    key = layer * n_experts + expert
                    if expert >= 0 and mark[key] != event:
                        mark[key] = event
                        keys[n_keys] = key
                        n_keys += 1
            at = n_keys
            for token in range(bounds[step + 1] - 1, bounds[step] - 1, -1):
                for k in range(top_k - 1, -1, -1):
                    expert = experts[token, layer, k]
                    key = layer * n_experts + expert
                    if expert >= 0 and mark[key] != event + 1:
                        mark[key] = event + 1
                        at -= 1
                        recent[at] = key
            if n_keys > begin:
                step_of[n_batches] = step
                n_batches += 1
                ptr[n_batches] = n_keys
    return n_batches


def next_uses(ptr: Any, keys: Any, following: Any, coming: Any) -> None:
    """Of every lookup the batch that looks its key up again, the number of batches for none; `coming` (n_keys,):
    that number.
    """
    n_batches = len(ptr) - 1
    for batch in range(n_batches - 1, -1, -1):
        for at in range(ptr[batch], ptr[batch + 1]):
            following[at] = coming[keys[at]]
        for at in range(ptr[batch], ptr[batch + 1]):
            coming[keys[at]] = batch


def _sift_up(heap: Any, rank: Any, first: int, at: int, place: Any) -> None:
    key, own = heap[first + at], rank[first + at]
    while at > 0:
        parent = (at - 1) >> 1
        if rank[first + parent] < own:
            break
        heap[first + at], rank[first + at] = heap[first + parent], rank[first + parent]
        place[heap[first + at]] = at
        at = parent
    heap[first + at], rank[first + at] = key, own
    place[key] = at


def _sink(heap: Any, rank: Any, first: int, n: int, key: int, own: int, place: Any) -> None:
    """Put `key` of rank `own` where the top of a heap of `n` was."""
    at = 0
    while True:
        child = 2 * at + 1
        if child >= n:
            break
        if child + 1 < n and rank[first + child + 1] < rank[first + child]:
            child += 1
        if rank[first + child] > own:
            break
        heap[first + at], rank[first + at] = heap[first + child], rank[first + child]
        place[heap[first + at]] = at
        at = child
    heap[first + at], rank[first + at] = key, own
    place[key] = at


def _draw(heap: Any, n: int, mark: Any, batch: int, bits: Any, n_used: Any, place: Any) -> int:
    """A resident drawn at random leaves, the last one takes its place; -1 when all are protected."""
    key = heap[drawn_below(bits, n_used, n)]
    if mark[key] == batch:
        n_free = 0
        for i in range(n):
            n_free += mark[heap[i]] != batch
        if n_free == 0:
            return -1
        skip = drawn_below(bits, n_used, n_free)
        for i in range(n):
            if mark[heap[i]] != batch:
                if skip == 0:
                    key = heap[i]
                    break
                skip -= 1
    last = heap[n - 1]
    heap[place[key]] = last
    place[last] = place[key]
    place[key] = -1
    return int(key)


def _smallest(heap: Any, rank: Any, first: int, n: int, now: Any, mark: Any, batch: int, place: Any,
              aside: Any) -> int:  # fmt: skip
    """The unprotected resident of the lowest rank leaves; -1 when all are protected.

    Ranks only rise, so the heap is ordered by those seen last and its top is brought up to date.
    """
    n_aside, found, n_left = 0, -1, n
    while n_left > 0:
        key = heap[first]
        if rank[first] != now[key]:
            _sink(heap, rank, first, n_left, key, now[key], place)
            continue
        place[key] = -1
        n_left -= 1
        if n_left:
            _sink(heap, rank, first, n_left, heap[first + n_left], rank[first + n_left], place)
        if mark[key] == batch:
            aside[n_aside] = key
            n_aside += 1
            continue
        found = key
        break
    for i in range(n_aside):
        heap[first + n_left], rank[first + n_left] = aside[i], now[aside[i]]
        _sift_up(heap, rank, first, n_left, place)
        n_left += 1
    return found


def _oldest(pool: int, older: Any, newer: Any, n_keys: int, mark: Any, batch: int, place: Any) -> int:
    """The unprotected resident used least recently leaves; -1 when all are protected."""
    key = newer[n_keys + pool]
    while key < n_keys and mark[key] == batch:
        key = newer[key]
    if key >= n_keys:
        return -1
    after, before = newer[key], older[key]
    newer[before], older[after] = after, before
    newer[key] = older[key] = key
    place[key] = -1
    return int(key)


def replay(
    ptr: Any, keys: Any, recent: Any, following: Any, sizes: Any, n_experts: int, kind: int, per_layer: int,
    budget: int, bits: Any, n_used: Any, heap: Any, rank: Any, place: Any, n_in: Any, bytes_in: Any, uses: Any,
    now: Any, born: Any, mark: Any, aside: Any, older: Any, newer: Any, hits: Any, found: Any,
) -> None:  # fmt: skip
    """Fill `hits` by lookup, and `found` with the bytes read and the most resident after a batch.

    Ranks: uses and last use of LFU, next use (the furthest first) and entry of Belady, as one number of base `base`.
    `place`, `mark` (n_keys,) -1; `older`, `newer`: each key, then each pool, its own neighbour; the others 0 or room.
    """
    n_keys, base = len(place), 2 * len(keys) + 2
    clock = read = total = peak = 0
    for batch in range(len(ptr) - 1):
        begin, end = ptr[batch], ptr[batch + 1]
        layer = keys[begin] // n_experts
        size, pool = sizes[layer], (layer if per_layer else 0)
        first = pool * n_experts if per_layer else 0
        for at in range(begin, end):
            key = keys[at]
            mark[key] = batch
            hits[at] = place[key] >= 0
            if not hits[at]:
                clock += 1
                born[key] = clock
                heap[first + n_in[pool]] = key
                place[key] = n_in[pool]
                n_in[pool] += 1
                bytes_in[pool] += size
                read += size
                total += size
        for at in range(begin, end):
            key = recent[at]
            clock += 1
            if kind == LFU:
                uses[key] += 1
                now[key] = uses[key] * base + clock
            elif kind == LRU:
                after, before = newer[key], older[key]
                newer[before], older[after] = after, before
                last = older[n_keys + pool]
                newer[last], older[key] = key, last
                newer[key], older[n_keys + pool] = n_keys + pool, key
        if kind in (LFU, BELADY):
            for at in range(begin, end):  # new ones enter the heap in order of their place in it
                key = keys[at]
                if kind == BELADY:
                    now[key] = born[key] - following[at] * base
                if kind == BELADY or not hits[at]:
                    rank[first + place[key]] = now[key]
                    _sift_up(heap, rank, first, place[key], place)
        while bytes_in[pool] > budget and n_in[pool] > 0:
            if kind == RANDOM:
                key = _draw(heap, n_in[pool], mark, batch, bits, n_used, place)
            elif kind == LRU:
                key = _oldest(pool, older, newer, n_keys, mark, batch, place)
            else:
                key = _smallest(heap, rank, first, n_in[pool], now, mark, batch, place, aside)
            if key < 0:
                break
            n_in[pool] -= 1
            bytes_in[pool] -= sizes[key // n_experts]
            total -= sizes[key // n_experts]
        peak = max(peak, total)
    found[0], found[1] = read, peak
