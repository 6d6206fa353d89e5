"""What no cache of so many slots can hit more than, whatever it lets in and begins with.

Belady's rule without its two duties: an expert that an event asks for need not be kept, and what is there at the start
may be chosen. After an event the slots have those, of what they had and what it asked for, that are asked for next;
exchanging a later one for any of them loses a hit (Belady, 1966, of caches that may be bypassed).
"""

from __future__ import annotations

import heapq

import numpy as np
from numpy.typing import NDArray

from offload.caches.trace_events import TraceEvents


def most_hits(
    events: TraceEvents, n_slots: int, *, per_layer: bool = False, cold: bool = False, filled: bool = False
) -> NDArray[np.bool_]:
    """The hits, (n_lookups,) by event and expert, of the best cache of `n_slots`, pooled or split `per_layer`.

    `cold`: it is emptied where another request begins. `filled`: it then begins with what is asked for first, instead
    of empty.
    """
    n_events = len(events.layer)
    group = events.group if cold else np.zeros_like(events.group)
    following = _following(events, group).tolist()
    keys, ptr, layers = events.keys.tolist(), events.ptr.tolist(), events.layer.tolist()
    n_pools = events.n_layers if per_layer else 1
    each, n_larger = divmod(n_slots, n_pools)
    room = [each + (pool < n_larger) for pool in range(n_pools)]
    hits = np.zeros(events.n_lookups, np.bool_)
    held: list[dict[int, int]] = [{} for _ in room]  # key -> the event that asks for it next
    latest: list[list[tuple[int, int]]] = [[] for _ in room]  # heap of -event and key, some of them outdated
    begun = -1
    for event in range(n_events):
        if group[event] != begun:
            begun = group[event]
            held, latest = [{} for _ in room], [[] for _ in room]
            if filled:
                _fill(events, group, event, per_layer, room, held, latest)
        pool = layers[event] if per_layer else 0
        kept, heap = held[pool], latest[pool]
        for i in range(ptr[event], ptr[event + 1]):
            hits[i] = keys[i] in kept
        for i in range(ptr[event], ptr[event + 1]):
            kept[keys[i]] = following[i]
            heapq.heappush(heap, (-following[i], keys[i]))
        while len(kept) > room[pool]:
            last, key = heapq.heappop(heap)
            if kept.get(key) == -last:
                del kept[key]
    return hits


def _following(events: TraceEvents, group: NDArray[np.int64]) -> NDArray[np.int64]:
    """The event of the same group that asks for each lookup's expert next, the number of events where none does."""
    event = np.repeat(np.arange(len(events.layer)), np.diff(events.ptr))
    of = group[event]
    order = np.lexsort((event, events.keys, of))
    found = np.full(events.n_lookups, len(events.layer), np.int64)
    same = (np.diff(events.keys[order]) == 0) & (np.diff(of[order]) == 0)
    found[order[:-1][same]] = event[order[1:][same]]
    return found


def _fill(
    events: TraceEvents,
    group: NDArray[np.int64],
    first: int,
    per_layer: bool,
    room: list[int],
    held: list[dict[int, int]],
    latest: list[list[tuple[int, int]]],
) -> None:
    """What the events from `first` on, of its group, ask for first."""
    left = sum(room)
    for event in range(first, len(events.layer)):
        if group[event] != group[first] or not left:
            return
        pool = int(events.layer[event]) if per_layer else 0
        for key in events.keys[events.ptr[event] : events.ptr[event + 1]].tolist():
            if key not in held[pool] and len(held[pool]) < room[pool]:
                held[pool][key] = event
                heapq.heappush(latest[pool], (-event, key))
                left -= 1
