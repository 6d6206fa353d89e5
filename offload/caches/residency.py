"""The experts resident on the device while decoding: slots, counted; no bytes and no clock.

An event is everything one step needs at one layer, and it is atomic: the whole event is looked up before
anything is evicted, and none of its own experts is evicted for it (POLICIES.md: one by one instead
inflates the misses of LRU by 27-29 %). Pooled LRU therefore hits exactly 0 while the capacity is at most
one token's cycle less k (`n_layers * k - k`); one by one it stays at 0 up to the cycle itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from offload.caches.admission import Admission, admission_of
from offload.caches.eviction import EVICTIONS, Eviction, HotLru, Key, Random, Static
from offload.caches.eviction_ranked import RANKED, WatchesGates
from offload.caches.gate_output import GateOutput
from offload.caches.pool_shape import PoolShape
from traces.errors import InvalidInput, unknown_name


@dataclass(frozen=True, slots=True)
class Access:
    """What one expert met: `slot` it is in (-1: passes through, not kept) and `victim` that left the slot."""

    expert: int
    hit: bool
    slot: int
    victim: Key | None = None


class PoolState(NamedTuple):
    """What a pool has: its free slots, the next one last, and its residents with their slots.

    `order`: the residents that may go, the first to go first, or from the oldest where the newest goes; `counts`: the
    lookups that an eviction has counted; `last_in`: the key that entered last, -1 none or of no interest.
    """

    free: list[int]
    slots: dict[Key, int]
    order: list[Key]
    counts: Mapping[Key, int]
    last_in: Key


class _Pool:
    """Slots that evict among themselves."""

    __slots__ = ("admission", "eviction", "free")

    def __init__(self, slots: range, eviction: Eviction, admission: Admission | None) -> None:
        self.free = list(reversed(slots))  # the lowest free slot is taken first
        self.eviction, self.admission = eviction, admission


def count_slots(n_buffers: int, cache: ResidentSet | None) -> int:
    """Expert slots in HBM: transient ones, and those of a cache."""
    return n_buffers + (0 if cache is None else cache.capacity)


class ResidentSet:
    """Expert cache of the decode loop: `capacity` slots, event-atomic.

    capacity: slots in all, 0 or more. Pooled over the layers, or with `per_layer` split evenly: each
        layer has `capacity // n_layers` slots and the first `capacity % n_layers` layers one more.
    eviction: a name in `EVICTIONS` or `RANKED`, "random" (one stream drawn from `seed`), or a function that
        makes an `Eviction` (one call a pool), which is how `Belady` gets its future.
    admit: a name of `offload.caches.admission`: whether a missing expert takes the slot of a victim, or passes through.
    budget: most experts that one event may bring in, the others pass through; None: all.

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
        admit: str = "always",
        budget: int | None = None,
    ) -> None:
        if capacity < 0:
            raise InvalidInput(f"capacity = {capacity} slots is below 0: give 0 to keep nothing")
        if budget is not None and budget < 0:
            raise InvalidInput(f"budget = {budget} experts an event is below 0: give 0 to bring none in")
        if n_layers < 1 or n_experts < 1:
            raise InvalidInput(f"n_layers = {n_layers}, n_experts = {n_experts}: both must be at least 1")
        self.capacity, self.n_layers, self.n_experts = capacity, n_layers, n_experts
        n_pools = n_layers if per_layer else 1
        make = _eviction_maker(eviction, seed)
        each, n_larger = divmod(capacity, n_pools)
        starts = [i * each + min(i, n_larger) for i in range(n_pools + 1)]
        self._pools = []
        for begin, end in pairwise(starts):
            shape = PoolShape(end - begin, n_layers, n_experts)
            self._pools.append(_Pool(range(begin, end), make(shape), admission_of(admit, shape.n_slots)))
        self._budget = capacity if budget is None else budget
        self.eviction_kind: type[Eviction] = type(self._pools[0].eviction)
        self.is_selective = admit != "always" or budget is not None
        """Whether what misses may pass through although a slot could be had."""
        first = self._pools[0].eviction
        self.watches_gates = isinstance(first, WatchesGates) and first.watches_gates
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

    def pools(self) -> list[PoolState]:
        """What each pool has and how it would evict, for evictions that say their order themselves."""
        slots: list[dict[Key, int]] = [{} for _ in self._pools]
        for key, slot in self._slots.items():
            slots[key // self.n_experts if self.n_pools > 1 else 0][key] = slot
        found = []
        for pool, own in zip(self._pools, slots, strict=True):
            said: Any = pool.eviction
            order: list[Key] = list(said)
            counts = getattr(said, "counts", {})
            found.append(PoolState(list(pool.free), own, order, counts, getattr(said, "last_inserted", -1)))
        return found

    @property
    def slots_in_use(self) -> tuple[int, ...]:
        """The slots that hold a resident, ascending."""
        return tuple(sorted(self._slots.values()))

    @property
    def residents(self) -> dict[int, Key]:
        """The resident of each slot in use."""
        return {slot: key for key, slot in self._slots.items()}

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
        if len(wanted) == 1 and pool.admission is None:
            return (self._admit_one(pool, first, wanted[0], pinned),)
        event = dict.fromkeys(first + expert for expert in wanted)
        found = {key: self._slots[key] for key in event if key in self._slots}  # before anything is evicted
        self.n_lookups += len(event)
        self.n_hits += len(found)
        protected = event.keys() | pinned
        if pool.admission is not None:
            pool.admission.looked_up(event)
        accesses, n_left = [], self._budget
        for key in event:
            if key in found:
                accesses.append(Access(key - first, True, found[key]))
            else:
                slot, victim = self._place(pool, key, protected) if n_left else (-1, None)
                n_left -= slot >= 0
                accesses.append(Access(key - first, False, slot, victim))
        for expert in reversed(dict.fromkeys(reversed(wanted))):  # by last appearance
            pool.eviction.touch(first + expert)
        return tuple(accesses)

    def _admit_one(self, pool: _Pool, first: Key, expert: int, pinned: AbstractSet[Key]) -> Access:
        """An event of one expert, of the layer whose keys begin with `first`."""
        key = first + expert
        self.n_lookups += 1
        slot = self._slots.get(key)
        if slot is not None:
            self.n_hits += 1
            accessed = Access(expert, True, slot)
        else:
            accessed = Access(expert, False, *(self._place(pool, key, {key, *pinned}) if self._budget else (-1, None)))
        pool.eviction.touch(key)
        return accessed

    def fill(self, places: Iterable[tuple[int, int]]) -> None:
        """Look up (layer, expert) of `places`, each an event of its own, and keep those for which a slot is free.

        For evictions of which nobody goes: the same as to `admit` one after the other.
        """
        slots, pools = self._slots, self._pools
        for layer, expert in places:
            key, pool = layer * self.n_experts + expert, pools[layer if len(pools) > 1 else 0]
            if pool.admission is not None or self.eviction_kind is not Static:
                self.admit(layer, [expert])
                continue
            self.n_lookups += 1
            self.n_hits += key in slots
            if key not in slots and pool.free and self._budget:
                slots[key] = pool.free.pop()

    def gated(self, output: GateOutput) -> None:
        """The gate of a layer has run: what evictions look at that see more than lookups."""
        eviction = self._pools[output.layer if len(self._pools) > 1 else 0].eviction
        if isinstance(eviction, WatchesGates):
            eviction.gated(output, output.layer * self.n_experts)

    def hold(self, places: Iterable[tuple[int, int]], share: float) -> None:
        """Keep the first of `places`, (layer, expert), for good in a share of the slots of each pool, to the nearest.

        Before the first event. Raises `InvalidInput` for an eviction that holds nothing.
        """
        if not issubclass(self.eviction_kind, HotLru):
            raise InvalidInput(f"cache {self.eviction_kind.__name__} holds nothing for good: take hot_lru")
        left = [int(len(pool.free) * share + 0.5) for pool in self._pools]
        for layer, expert in places:
            i_pool, key = layer if len(self._pools) > 1 else 0, layer * self.n_experts + expert
            pool = self._pools[i_pool]
            if left[i_pool] and isinstance(pool.eviction, HotLru):
                left[i_pool] -= 1
                self._slots[key] = pool.free.pop()
                pool.eviction.insert(key)
                pool.eviction.hold(key)

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
            if victim is None or not (pool.admission is None or pool.admission.admits(key, victim)):
                return -1, None
            pool.eviction.remove(victim)
            slot = self._slots.pop(victim)
        pool.eviction.insert(key)
        self._slots[key] = slot
        return slot, victim


def _eviction_maker(eviction: str | Callable[[], Eviction], seed: int) -> Callable[[PoolShape], Eviction]:
    """The function that makes a pool's eviction; the pools of one set share one random stream."""
    if not isinstance(eviction, str):
        return lambda shape: eviction()
    if eviction == "random":
        rng = np.random.default_rng(seed)
        return lambda shape: Random(rng)
    if eviction in RANKED:
        return RANKED[eviction]
    if eviction not in EVICTIONS:
        raise unknown_name("eviction", eviction, [*EVICTIONS, *RANKED, "random"])
    return lambda shape: EVICTIONS[eviction]()
