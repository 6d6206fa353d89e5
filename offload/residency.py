"""The experts resident on the device while decoding: slots, counted; no bytes and no clock.

An event is everything one step needs at one layer, and it is atomic: the whole event is looked up before
anything is evicted, and none of its own experts is evicted for it (POLICIES.md: one by one instead
inflates the misses of LRU by 27-29 %). Pooled LRU therefore hits exactly 0 while the capacity is at most
one token's cycle less k (`n_layers * k - k`); one by one it stays at 0 up to the cycle itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

import numpy as np

from offload.eviction import EVICTIONS, Eviction, Fifo, Key, Lifo, Lru, Random
from traces.errors import InvalidInput, unknown_name

__all__ = ["Access", "ResidentSet", "count_slots"]


@dataclass(frozen=True, slots=True)
class Access:
    """What one expert met: `slot` it is in (-1: passes through, not kept) and `victim` that left the slot."""

    expert: int
    hit: bool
    slot: int
    victim: Key | None = None


class _Pool:
    """Slots that evict among themselves."""

    __slots__ = ("eviction", "free")

    def __init__(self, slots: range, eviction: Eviction) -> None:
        self.free = list(reversed(slots))  # the lowest free slot is taken first
        self.eviction = eviction


def count_slots(n_buffers: int, cache: ResidentSet | None) -> int:
    """Expert slots in HBM: transient ones, and those of a cache."""
    return n_buffers + (0 if cache is None else cache.capacity)


class ResidentSet:
    """Expert cache of the decode loop: `capacity` slots, event-atomic.

    capacity: slots in all, 0 or more. Pooled over the layers, or with `per_layer` split evenly: each
        layer has `capacity // n_layers` slots and the first `capacity % n_layers` layers one more.
    eviction: a name in `EVICTIONS`, "random" (one stream drawn from `seed`), or a function that
        makes an `Eviction` (one call a pool), which is how `Belady` gets its future.

    Slots are integers in `range(capacity)` and an expert keeps its slot while it is resident.
    Raises `InvalidInput` on a negative capacity or an impossible shape, `UnknownName` on an unknown eviction.
    """

    def __init__(
        self,
        capacity: int,
        eviction: str | Callable[[], Eviction] = "lru",
        *,
        per_layer: bool = False,
        n_layers: int,
        n_experts: int,
        seed: int = 0,
    ) -> None:
        if capacity < 0:
            raise InvalidInput(f"capacity = {capacity} slots is below 0: give 0 to keep nothing")
        if n_layers < 1 or n_experts < 1:
            raise InvalidInput(f"n_layers = {n_layers}, n_experts = {n_experts}: both must be at least 1")
        self.capacity, self.n_layers, self.n_experts = capacity, n_layers, n_experts
        n_pools = n_layers if per_layer else 1
        make = _eviction_maker(eviction, seed)
        each, n_larger = divmod(capacity, n_pools)
        starts = [i * each + min(i, n_larger) for i in range(n_pools + 1)]
        self._pools = [_Pool(range(starts[i], starts[i + 1]), make()) for i in range(n_pools)]
        self.eviction_kind: type[Eviction] = type(self._pools[0].eviction)
        self._slots: dict[Key, int] = {}
        self.n_hits = 0
        self.n_lookups = 0

    @property
    def hit_rate(self) -> float:
        """Hits over lookups so far, one lookup per unique expert of an event; 0.0 before the first."""
        return self.n_hits / self.n_lookups if self.n_lookups else 0.0

    @property
    def n_resident(self) -> int:
        """Slots in use, at most `capacity`."""
        return len(self._slots)

    @property
    def n_pools(self) -> int:
        """Sets of slots that evict among themselves: one, or one a layer."""
        return len(self._pools)

    def pools(self) -> list[tuple[list[int], list[tuple[Key, int]]]]:
        """Of each pool the free slots, the next one last, and the residents with their slots, the oldest first.

        Only for evictions that keep an age (`Lru`, `Fifo`, `Lifo`).
        """
        found = []
        for pool in self._pools:
            assert isinstance(pool.eviction, Lru | Fifo | Lifo)
            found.append((list(pool.free), [(key, self._slots[key]) for key in pool.eviction]))
        return found

    @property
    def slots_in_use(self) -> tuple[int, ...]:
        """The slots that hold a resident, ascending."""
        return tuple(sorted(self._slots.values()))

    def __contains__(self, place: tuple[int, int]) -> bool:
        """Whether expert `place[1]` of layer `place[0]` is resident."""
        layer, expert = place
        return 0 <= expert < self.n_experts and layer * self.n_experts + expert in self._slots

    def admit(self, layer: int, experts: Sequence[int], pinned: AbstractSet[Key] = frozenset()) -> tuple[Access, ...]:
        """One event (step, layer): look up `experts`, then make the missing ones resident.

        Returns one `Access` per unique expert, in order of first appearance; a repeated expert is one
        lookup, but its last appearance is what recency sees. When the event needs more slots than there
        are, its hits and then its first missing experts are kept and the others pass through (slot -1).
        `pinned`: keys of earlier events still in use, which are not evicted either.
        Raises `InvalidInput` for a layer or an expert out of range: strip the -1 pads first.
        """
        if not 0 <= layer < self.n_layers:
            raise InvalidInput(f"layer {layer} is outside 0..{self.n_layers - 1}")
        wanted = [int(expert) for expert in experts]
        if wanted and not (min(wanted) >= 0 and max(wanted) < self.n_experts):
            wrong = next(expert for expert in wanted if not 0 <= expert < self.n_experts)
            raise InvalidInput(f"expert {wrong} of layer {layer} is outside 0..{self.n_experts - 1}")
        pool = self._pools[layer if len(self._pools) > 1 else 0]
        first = layer * self.n_experts
        event = dict.fromkeys(first + expert for expert in wanted)
        found = {key: self._slots[key] for key in event if key in self._slots}  # before anything is evicted
        self.n_lookups += len(event)
        self.n_hits += len(found)
        protected = event.keys() | pinned
        accesses = []
        for key in event:
            if key in found:
                accesses.append(Access(key - first, True, found[key]))
            else:
                slot, victim = self._place(pool, key, protected)
                accesses.append(Access(key - first, False, slot, victim))
        for expert in reversed(dict.fromkeys(reversed(wanted))):  # by last appearance
            pool.eviction.touch(first + expert)
        return tuple(accesses)

    def forget(self, layer: int, expert: int) -> None:
        """A resident leaves, its slot is free: it was admitted but never brought. Raises `KeyError` for any other."""
        key = layer * self.n_experts + expert
        pool = self._pools[layer if len(self._pools) > 1 else 0]
        pool.free.append(self._slots.pop(key))
        pool.eviction.remove(key)

    def _place(self, pool: _Pool, key: Key, protected: AbstractSet[Key]) -> tuple[int, Key | None]:
        victim = None
        if pool.free:
            slot = pool.free.pop()
        else:
            victim = pool.eviction.victim(protected)
            if victim is None:
                return -1, None
            pool.eviction.remove(victim)
            slot = self._slots.pop(victim)
        pool.eviction.insert(key)
        self._slots[key] = slot
        return slot, victim


def _eviction_maker(eviction: str | Callable[[], Eviction], seed: int) -> Callable[[], Eviction]:
    """The function that makes a pool's eviction; the pools of one set share one random stream."""
    if not isinstance(eviction, str):
        return eviction
    if eviction == "random":
        rng = np.random.default_rng(seed)
        return lambda: Random(rng)
    if eviction not in EVICTIONS:
        raise unknown_name("eviction", eviction, [*EVICTIONS, "random"])
    return EVICTIONS[eviction]
