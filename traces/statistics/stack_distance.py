"""All capacities of an LRU at once: how much cache every lookup needs to hit, from one pass over a trace.

The rules are those of `offload.caches.budget_replay` (bytes) and of `offload.caches.residency` (slots): an event is one
(step, layer), looked up whole before anything leaves, and the residents after it are its own experts and the most
recently used others that fit. Stack distances: R. L. Mattson et al., Evaluation techniques for storage hierarchies, IBM
Systems Journal 9(2), 1970. For atomic events, an expert x last used in event s of its pool and looked up again in event
t of it needs

    0                                             if s = t - 1,
    the size of x and of all used after x so far  otherwise (after x within s counts too, by last appearance),

and hits a capacity exactly when that is at least what x needs. Proof. Order all experts ever used by last use, latest
first; the depth of x is the size of this order down to x, x included. (1) After every event the residents are a prefix
of the order: the event's own come first, nothing changes the order of the rest, and evictions take the last until the
others fit. (2) So an event u that does not use x evicts it exactly when its depth is then above the capacity; s itself
never does. (3) Until x is used again its depth never falls, so x outlives s + 1 .. t - 1 exactly when its depth after
t - 1 is at most the capacity, and with s = t - 1 it has nothing to outlive. No step needs a capacity as large as an
event: a larger event overshoots, until the next.

Slots cannot overshoot: of an event with more experts than slots, a `ResidentSet` keeps some by an order that is not
recency, so (1) fails. From the largest event up the rules are the same; there the curve in slots begins, and it refuses
less.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from compiled.machine_code import Kernel, loaded
from traces.errors import InvalidInput
from traces.phase import Phase
from traces.routing import RoutingTrace

EVENTS = Kernel(
    __name__, "_find_events",
    ("int16[3]", "int64[1]", "int64", "int64[1]", "int32[1]", "int32[1]", "int64[1]"), returns=True,
)  # fmt: skip
DISTANCES = Kernel(
    __name__, "_measure",
    ("int64[1]", "int32[1]", "int32[1]", "int64[1]", "int64", "int64[2]", "int64[2]", *["int64[1]"] * 6),
)  # fmt: skip

NEVER = int(np.iinfo(np.int64).max)
"""What a first use needs: no capacity makes it a hit."""

_CELLS = 1 << 22
"""Cells of the tables that `layer_distances` makes at a time."""


@dataclass(frozen=True, slots=True, eq=False)
class StackDistances:
    """What every lookup needs; a lookup is one unique expert of one event. Arrays `(n_lookups,)`, read-only.

    They are in the order of the trace: step, layer, first appearance of the expert.
    needed: int64, the least capacity (of all layers together) at which it hits, `NEVER` for a first use.
    layer: int32. decode: bool, of a decode step.
    smallest_capacity: the least one that is answered: 0 in bytes, in slots what the largest event needs.
    """

    needed: NDArray[np.int64]
    layer: NDArray[np.int32]
    decode: NDArray[np.bool_]
    smallest_capacity: int

    def __post_init__(self) -> None:
        for array in (self.needed, self.layer, self.decode):
            array.setflags(write=False)


def stack_distances(
    trace: RoutingTrace, expert_bytes: Sequence[int] | NDArray[np.int64] | None = None, *, per_layer: bool = False
) -> StackDistances:
    """What every lookup of `trace` needs, in bytes, or in slots of equal experts when `expert_bytes` is None.

    expert_bytes: `(n_moe_layers,)` bytes of one expert, by layer. One pool for all layers; with `per_layer` one a
    layer, which share the capacity as the replay of policy "layer" and as `ResidentSet` do: in bytes
    `capacity // n_moe_layers` each, in slots the same and the first `capacity % n_moe_layers` layers one more.
    Raises what `expert_sizes` raises, and `InvalidInput` for sizes that add up beyond int64.

    Takes O(log(n_moe_layers * n_experts)) time and about 30 bytes of memory a lookup; a curve sorts them, 50 bytes.
    """
    sizes = size_by_layer(trace, expert_bytes)
    n_layers = trace.n_moe_layers
    first_token = np.concatenate(([0], np.flatnonzero(np.diff(trace.step)) + 1, [trace.n_tokens]))
    end, keys, by_recency = _events(trace, first_token)
    needed = _needed(end, keys, by_recency, sizes, trace.n_experts, per_layer)
    n_experts_of_event = np.diff(end)
    layer = np.tile(np.arange(n_layers, dtype=np.int32), first_token.size - 1)  # of every event
    decode = np.repeat(trace.phase[first_token[:-1]] == Phase.DECODE, n_layers)
    smallest = 0
    if expert_bytes is None:
        smallest = int((_total(n_experts_of_event, layer, n_layers) if per_layer else n_experts_of_event).max())
    layer, decode = np.repeat(layer, n_experts_of_event), np.repeat(decode, n_experts_of_event)
    if per_layer:
        total = needed * n_layers if expert_bytes is not None else _total(needed, layer, n_layers)
        needed = np.where(needed == NEVER, NEVER, total)
    return StackDistances(needed, layer, decode, smallest)


def layer_distances(trace: RoutingTrace, layer: int, *, cold_each_sequence: bool = False) -> NDArray[np.int64]:
    """What every lookup of one layer needs, in slots of a pool of its own; an event may overshoot them, as in bytes.

    (n_lookups,) by event and expert. `cold_each_sequence`: the pool is emptied whenever the sequence changes. Takes no
    compiled code, which pays where traces are small, and memory for a part of the events at a time.
    """
    token, slot = np.nonzero(trace.experts[:, layer] >= 0)
    expert = trace.experts[token, layer, slot].astype(np.int64)
    _, event = np.unique(trace.step[token], return_inverse=True)
    serial = np.arange(1, token.size + 1)  # when touched; 0 is never
    since = np.ones(int(event[-1]) + 1 if event.size else 0, dtype=np.int64)  # first touch that counts, by event
    if cold_each_sequence:
        changed = np.flatnonzero(np.diff(trace.sequence[token])) + 1
        since[event[changed]] = serial[changed]
        since = np.maximum.accumulate(since)
    needed, size_before = [np.zeros(0, dtype=np.int64)], 0
    last = np.zeros(trace.n_experts, dtype=np.int64)
    rows = max(1, _CELLS // (trace.n_experts * min(trace.n_experts, trace.top_k * max(trace.batch, 1))))
    for start in range(0, since.size, rows):
        n_events = min(rows, since.size - start)
        here = slice(*np.searchsorted(event, (start, start + n_events)))
        touched = np.zeros((n_events + 1, trace.n_experts), dtype=np.int64)
        touched[0] = last
        np.maximum.at(touched, (event[here] - start + 1, expert[here]), serial[here])
        looked_up = touched[1:] > 0
        np.maximum.accumulate(touched, axis=0, out=touched)
        last = touched[-1]
        i_event, i_expert = np.nonzero(looked_up)
        recency = touched[:-1][i_event]  # [lookups, n_experts], before this event
        own = recency[np.arange(i_event.size), i_expert]
        depth = np.count_nonzero(recency > own[:, None], axis=1)
        sizes = np.concatenate(([size_before], np.count_nonzero(looked_up, axis=1)))
        outlives = np.where(depth < sizes[i_event], 0, depth + 1)
        needed.append(np.where(own >= since[start + i_event], outlives, NEVER))
        size_before = sizes[-1]
    return np.concatenate(needed)


def expert_sizes(trace: RoutingTrace, expert_bytes: Sequence[int] | NDArray[np.int64]) -> list[int]:
    """`expert_bytes` as one whole number a MoE layer of `trace`.

    Raises `InvalidInput` when there are more or fewer, or when one is below 1 byte.
    """
    sizes = [int(size) for size in expert_bytes]
    if len(sizes) != trace.n_moe_layers:
        raise InvalidInput(f"expert_bytes has {len(sizes)} values, the trace {trace.n_moe_layers} MoE layers")
    if min(sizes, default=1) < 1:
        raise InvalidInput(f"expert_bytes = {min(sizes)}: every expert needs at least 1 byte")
    return sizes


def size_by_layer(trace: RoutingTrace, expert_bytes: Sequence[int] | NDArray[np.int64] | None) -> NDArray[np.int64]:
    """Bytes of an expert, or 1 slot, `(n_moe_layers,)` int64. Raises `InvalidInput` where they add up beyond int64."""
    sizes = [1] * trace.n_moe_layers if expert_bytes is None else expert_sizes(trace, expert_bytes)
    most = max(sum(sizes) * trace.n_experts * trace.n_moe_layers, max(sizes) * trace.experts.size)
    if most >= NEVER:
        raise InvalidInput(f"expert_bytes = {max(sizes)}: the trace's experts add up to {most} bytes, above 2**63 - 1")
    return np.array(sizes, dtype=np.int64)


def _total(slots: NDArray[np.int64], layer: NDArray[np.int32], n_layers: int) -> NDArray[np.int64]:
    """The least total capacity that gives each of `layer` its `slots`, split as `ResidentSet` splits it."""
    return np.where(slots == 0, 0, (slots - 1) * n_layers + layer + 1)


def _events(
    trace: RoutingTrace, first_token: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.int32]]:
    """Unique experts of every (step, layer): where each event ends, by first and by last appearance."""
    experts, n_layers = np.ascontiguousarray(trace.experts), trace.n_moe_layers
    end = np.zeros((first_token.size - 1) * n_layers + 1, np.int64)
    keys, by_recency = np.empty(experts.size, np.int32), np.empty(experts.size, np.int32)
    seen = np.full(n_layers * trace.n_experts, -1, np.int64)
    n = loaded(EVENTS)(experts, first_token, trace.n_experts, end, keys, by_recency, seen)
    return end, keys[:n], by_recency[:n]


def _find_events(
    experts: NDArray[np.int16],
    first_token: NDArray[np.int64],
    n_experts: int,
    end: NDArray[np.int64],
    keys: NDArray[np.int32],
    by_recency: NDArray[np.int32],
    seen: NDArray[np.int64],
) -> int:
    """Fills `end`, `keys` and `by_recency`; `seen` (n_keys,) -1: the event that a key has been met in. Returns how many
    keys there are.
    """
    _, n_layers, top_k = experts.shape
    n_steps = first_token.size - 1
    n = 0
    for step in range(n_steps):
        for layer in range(n_layers):
            event = step * n_layers + layer
            for token in range(first_token[step], first_token[step + 1]):
                for rank in range(top_k):
                    key = layer * n_experts + experts[token, layer, rank]
                    if experts[token, layer, rank] >= 0 and seen[key] != event:
                        seen[key] = event
                        keys[n] = key
                        n += 1
            end[event + 1] = place = n
            for token in range(first_token[step + 1] - 1, first_token[step] - 1, -1):
                for rank in range(top_k - 1, -1, -1):
                    key = layer * n_experts + experts[token, layer, rank]
                    if experts[token, layer, rank] >= 0 and seen[key] == event:
                        seen[key] = -1
                        place -= 1
                        by_recency[place] = key
    return n


def _needed(
    end: NDArray[np.int64],
    keys: NDArray[np.int32],
    by_recency: NDArray[np.int32],
    sizes: NDArray[np.int64],
    n_experts: int,
    per_layer: bool,
) -> NDArray[np.int64]:
    """What every lookup needs of its own pool."""
    n_pools, n_keys = sizes.size if per_layer else 1, n_experts * sizes.size
    room = 2 * (n_keys // n_pools)
    tree, holder = np.zeros((n_pools, room + 1), np.int64), np.full((n_pools, room), -1, np.int64)
    total, next_stamp, n_events = np.zeros((3, n_pools), np.int64)
    stamp, last_event, needed = np.full(n_keys, -1, np.int64), np.zeros(n_keys, np.int64), np.empty(len(keys), np.int64)
    loaded(DISTANCES)(
        end, keys, by_recency, sizes, n_experts, tree, holder, total, next_stamp, n_events, stamp, last_event, needed
    )
    return needed


def _before(tree: NDArray[np.int64], stamp: int) -> int:
    """The sizes of all stamps below one."""
    at, found = stamp, 0
    while at > 0:
        found += tree[at]
        at &= at - 1
    return found


def _add(tree: NDArray[np.int64], stamp: int, size: int) -> None:
    """So much more at one stamp."""
    at = stamp + 1
    while at < tree.size:
        tree[at] += size
        at += at & -at


def _numbered_anew(
    tree: NDArray[np.int64], holder: NDArray[np.int64], stamp: NDArray[np.int64], sizes: NDArray[np.int64],
    n_experts: int,
) -> int:  # fmt: skip
    """The stamps of one pool from 0 on, in their order; returns the next."""
    n = 0
    for at in range(tree.size):
        tree[at] = 0
    for old in range(holder.size):
        key = holder[old]
        if key >= 0:
            holder[old] = -1
            holder[n], stamp[key], tree[n + 1] = key, n, sizes[key // n_experts]
            n += 1
    for at in range(1, holder.size):
        above = at + (at & -at)
        if above <= holder.size:
            tree[above] += tree[at]
    return n


def _measure(
    end: NDArray[np.int64],
    keys: NDArray[np.int32],
    by_recency: NDArray[np.int32],
    sizes: NDArray[np.int64],
    n_experts: int,
    tree: NDArray[np.int64],
    holder: NDArray[np.int64],
    total: NDArray[np.int64],
    next_stamp: NDArray[np.int64],
    n_events: NDArray[np.int64],
    stamp: NDArray[np.int64],
    last_event: NDArray[np.int64],
    needed: NDArray[np.int64],
) -> None:
    """Fills `needed`, by lookup.

    A pool keeps its experts' sizes in a Fenwick tree (P. M. Fenwick, Software: Practice and Experience 24(3), 1994) by
    stamp, a number that rises with each use, and numbers them anew when the tree is full: `tree` (n_pools, room + 1),
    `holder` (n_pools, room).
    """
    n_pools, room = holder.shape
    for event in range(end.size - 1):
        if end[event] == end[event + 1]:
            continue
        layer = event % sizes.size
        pool = layer if n_pools > 1 else 0
        for i in range(end[event], end[event + 1]):
            key = keys[i]
            if stamp[key] < 0:
                needed[i] = NEVER
            elif last_event[key] == n_events[pool]:
                needed[i] = 0
            else:
                needed[i] = total[pool] - _before(tree[pool], stamp[key])
            last_event[key] = n_events[pool] + 1
        n_events[pool] += 1
        if next_stamp[pool] + end[event + 1] - end[event] > room:
            next_stamp[pool] = _numbered_anew(tree[pool], holder[pool], stamp, sizes, n_experts)
        for i in range(end[event], end[event + 1]):
            key = by_recency[i]
            old, new = stamp[key], next_stamp[pool]
            stamp[key], holder[pool, new] = new, key
            next_stamp[pool] = new + 1
            total[pool] += sizes[layer] if old < 0 else 0
            if old >= 0:
                holder[pool, old] = -1
                _add(tree[pool], old, -sizes[layer])
            _add(tree[pool], new, sizes[layer])
