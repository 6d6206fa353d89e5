"""All capacities of an LRU at once: how much cache every lookup needs to hit, from one pass over a trace.

The rules are those of `offload.replay` (bytes) and of `offload.residency` (slots): an event is one (step, layer),
looked up whole before anything leaves, and the residents after it are its own experts and the most recently used
others that fit. Stack distances: R. L. Mattson et al., Evaluation techniques for storage hierarchies, IBM Systems
Journal 9(2), 1970. For atomic events, an expert x last used in event s of its pool and looked up again in event t of
it needs

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

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from traces.errors import InvalidInput
from traces.routing import Phase, RoutingTrace

__all__ = ["NEVER", "HitCurve", "StackDistances", "expert_sizes", "lru_curve", "stack_distances"]

NEVER = int(np.iinfo(np.int64).max)
"""What a first use needs: no capacity makes it a hit."""


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


@dataclass(frozen=True, slots=True, eq=False)
class HitCurve:
    """Hits of an LRU at every capacity: a step function, exact everywhere. Arrays `(n_steps,)` int64, read-only.

    unit: "slots" or "bytes", of all layers together.
    capacities: ascending: the smallest one answered, then every one at which hits are gained.
    n_hits, n_hits_decode: lookups that hit from there on, all and those of decode steps.
    n_read: slots or bytes of what misses from there on, prefill included.
    """

    unit: str
    capacities: NDArray[np.int64]
    n_hits: NDArray[np.int64]
    n_hits_decode: NDArray[np.int64]
    n_read: NDArray[np.int64]
    n_lookups: int
    n_lookups_decode: int

    def __post_init__(self) -> None:
        for array in (self.capacities, self.n_hits, self.n_hits_decode, self.n_read):
            array.setflags(write=False)

    def hits(self, capacities: ArrayLike, *, decode_only: bool = False) -> NDArray[np.int64]:
        """Lookups that hit at `capacities`, a whole number or an array of them: int64 of the same shape.

        Raises `InvalidInput` for what is no whole number, and below the smallest capacity answered.
        """
        return (self.n_hits_decode if decode_only else self.n_hits)[self._step_at(capacities)]

    def hit_rate(self, capacities: ArrayLike, *, decode_only: bool = False) -> NDArray[np.float64]:
        """Hits over lookups, 0.0 without lookups: float64, otherwise as `hits`."""
        n_lookups = self.n_lookups_decode if decode_only else self.n_lookups
        return self.hits(capacities, decode_only=decode_only) / max(n_lookups, 1)

    def read(self, capacities: ArrayLike) -> NDArray[np.int64]:
        """Slots or bytes (`unit`) of all misses, prefill included; otherwise as `hits`."""
        return self.n_read[self._step_at(capacities)]

    def _step_at(self, capacities: ArrayLike) -> NDArray[np.intp]:
        asked = np.asarray(capacities)
        if asked.dtype.kind not in "iu" or int(asked.max(initial=0)) >= NEVER:
            raise InvalidInput(f"capacities {capacities!r}: give whole numbers of {self.unit} below {NEVER}")
        lowest, smallest = int(asked.min(initial=NEVER - 1)), int(self.capacities[0])
        if lowest < 0:
            raise InvalidInput(f"capacity = {lowest} {self.unit} is below 0: give 0 to keep nothing")
        if lowest < smallest:
            raise InvalidInput(
                f"capacity = {lowest} slots is below {smallest}, which the largest event needs: give at least that, "
                "or ask in bytes (1 byte an expert will do), where an event may overshoot"
            )
        return self.capacities.searchsorted(asked.astype(np.int64), side="right") - 1


def lru_curve(
    trace: RoutingTrace, expert_bytes: Sequence[int] | NDArray[np.int64] | None = None, *, per_layer: bool = False
) -> HitCurve:
    """Hits of an event-atomic LRU over `trace` at every capacity; arguments and errors as for `stack_distances`.

    In bytes it equals `replay_residency`, policy "lru", or "layer" with `per_layer`, at every budget; in slots a
    `ResidentSet` at every capacity answered.
    """
    found = stack_distances(trace, expert_bytes, per_layer=per_layer)
    sizes = _sizes(trace, expert_bytes)
    hitting = np.flatnonzero(found.needed < NEVER)
    hitting = hitting[np.argsort(found.needed[hitting])]
    # One row before the lookups that hits nothing: the smallest capacity is a step even where none is gained.
    needed = np.append(found.smallest_capacity, np.maximum(found.needed[hitting], found.smallest_capacity))
    n_hits = np.flatnonzero(np.append(needed[1:] != needed[:-1], True))  # the last row of every step
    n_hits_decode = np.append(0, np.cumsum(found.decode[hitting], dtype=np.int64))[n_hits]
    n_found = np.append(0, np.cumsum(sizes[found.layer[hitting]]))[n_hits]
    n_looked_up = int(sizes @ np.bincount(found.layer, minlength=sizes.size))
    return HitCurve(
        unit="slots" if expert_bytes is None else "bytes",
        capacities=needed[n_hits],
        n_hits=n_hits,
        n_hits_decode=n_hits_decode,
        n_read=n_looked_up - n_found,
        n_lookups=found.needed.size,
        n_lookups_decode=int(np.count_nonzero(found.decode)),
    )


def stack_distances(
    trace: RoutingTrace, expert_bytes: Sequence[int] | NDArray[np.int64] | None = None, *, per_layer: bool = False
) -> StackDistances:
    """What every lookup of `trace` needs, in bytes, or in slots of equal experts when `expert_bytes` is None.

    expert_bytes: `(n_moe_layers,)` bytes of one expert, by layer. One pool for all layers; with `per_layer` one a
    layer, which share the capacity as the replay of policy "layer" and as `ResidentSet` do: in bytes
    `capacity // n_moe_layers` each, in slots the same and the first `capacity % n_moe_layers` layers one more.
    Raises what `expert_sizes` raises, and `InvalidInput` for sizes that add up beyond int64.

    Takes O(log(n_moe_layers * n_experts)) time and about 30 bytes of memory a lookup; `lru_curve` sorts them, 50 bytes.
    """
    sizes = _sizes(trace, expert_bytes)
    n_layers = trace.n_moe_layers
    find_events, measure = _compiled()
    first_token = np.concatenate(([0], np.flatnonzero(np.diff(trace.step)) + 1, [trace.n_tokens]))
    end, keys, by_recency = find_events(np.ascontiguousarray(trace.experts), first_token, trace.n_experts)
    needed = measure(end, keys, by_recency, sizes, trace.n_experts, per_layer)
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


def _sizes(trace: RoutingTrace, expert_bytes: Sequence[int] | NDArray[np.int64] | None) -> NDArray[np.int64]:
    sizes = [1] * trace.n_moe_layers if expert_bytes is None else expert_sizes(trace, expert_bytes)
    most = max(sum(sizes) * trace.n_experts * trace.n_moe_layers, max(sizes) * trace.experts.size)
    if most >= NEVER:
        raise InvalidInput(f"expert_bytes = {max(sizes)}: the trace's experts add up to {most} bytes, above 2**63 - 1")
    return np.array(sizes, dtype=np.int64)


def _total(slots: NDArray[np.int64], layer: NDArray[np.int32], n_layers: int) -> NDArray[np.int64]:
    """The least total capacity that gives each of `layer` its `slots`, split as `ResidentSet` splits it."""
    return np.where(slots == 0, 0, (slots - 1) * n_layers + layer + 1)


def _find_events(
    experts: NDArray[np.int16], first_token: NDArray[np.int64], n_experts: int
) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.int32]]:
    """Unique experts of every (step, layer): where each event ends, by first and by last appearance."""
    _, n_layers, top_k = experts.shape
    n_steps = first_token.size - 1
    end = np.zeros(n_steps * n_layers + 1, np.int64)
    keys, by_recency = np.empty(experts.size, np.int32), np.empty(experts.size, np.int32)
    seen = np.full(n_layers * n_experts, -1, np.int64)  # the event that a key has been met in
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
    return end, keys[:n], by_recency[:n]


def _measure(
    end: NDArray[np.int64],
    keys: NDArray[np.int32],
    by_recency: NDArray[np.int32],
    sizes: NDArray[np.int64],
    n_experts: int,
    per_layer: bool,
) -> NDArray[np.int64]:
    """What every lookup needs of its own pool.

    A pool keeps its experts' sizes in a Fenwick tree (P. M. Fenwick, Software: Practice and Experience 24(3), 1994) by
    stamp, a number that rises with each use, and numbers them anew when the tree is full.
    """
    n_pools = sizes.size if per_layer else 1
    room = 2 * (n_experts * sizes.size // n_pools)
    tree, holder = np.zeros((n_pools, room + 1), np.int64), np.full((n_pools, room), -1, np.int64)  # by stamp
    total, next_stamp, n_events = np.zeros(n_pools, np.int64), np.zeros(n_pools, np.int64), np.zeros(n_pools, np.int64)
    stamp, last_event = np.full(n_experts * sizes.size, -1, np.int64), np.zeros(n_experts * sizes.size, np.int64)
    needed = np.empty(keys.size, np.int64)
    for event in range(end.size - 1):
        if end[event] == end[event + 1]:
            continue
        layer = event % sizes.size
        pool = layer if per_layer else 0
        for i in range(end[event], end[event + 1]):
            key = keys[i]
            if stamp[key] < 0:
                needed[i] = NEVER
            elif last_event[key] == n_events[pool]:
                needed[i] = 0
            else:
                needed[i] = total[pool]
                at = stamp[key]
                while at > 0:  # less what was last used before the key
                    needed[i] -= tree[pool, at]
                    at &= at - 1
            last_event[key] = n_events[pool] + 1
        n_events[pool] += 1
        if next_stamp[pool] + end[event + 1] - end[event] > room:
            n = 0
            tree[pool, :] = 0
            for old in range(room):
                key = holder[pool, old]
                if key >= 0:
                    holder[pool, old] = -1
                    holder[pool, n], stamp[key], tree[pool, n + 1] = key, n, sizes[key // n_experts]
                    n += 1
            for at in range(1, room):
                above = at + (at & -at)
                if above <= room:
                    tree[pool, above] += tree[pool, at]
            next_stamp[pool] = n
        for i in range(end[event], end[event + 1]):
            key = by_recency[i]
            old, new = stamp[key], next_stamp[pool]
            stamp[key], holder[pool, new] = new, key
            next_stamp[pool] = new + 1
            total[pool] += sizes[layer] if old < 0 else 0
            if old >= 0:
                holder[pool, old] = -1
                at = old + 1
                while at <= room:
                    tree[pool, at] -= sizes[layer]
                    at += at & -at
            at = new + 1
            while at <= room:
                tree[pool, at] += sizes[layer]
                at += at & -at
    return needed


@cache
def _compiled() -> tuple[Callable[..., Any], Callable[..., Any]]:
    from traces.compiled import njit

    compile_function: Callable[..., Any] = njit(cache=True)
    return compile_function(_find_events), compile_function(_measure)
