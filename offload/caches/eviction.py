"""Which resident expert goes: one small class a discipline, pure decisions, no clock and no device.

Whoever keeps the residents (`offload.caches.residency` by slots, `offload.caches.budget_replay` by bytes) tells an
eviction what came, what was looked up and what left, and asks for a victim. The contract:

- `insert` when an expert becomes resident, fetched or prefetched; `remove` when it leaves;
- `touch` once for every lookup, whether it hit or missed and whether the expert could be kept or not;
- `victim` decides and changes nothing: the caller removes.
"""

from __future__ import annotations

import heapq
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    import numpy as np

    from offload.caches.gate_output import GateOutput


Key = int
"""An expert of a layer: `layer * n_experts + expert`."""

_Entry = TypeVar("_Entry", bound=tuple[int, ...])
"""What a resident is worth, its key last."""


class Eviction(Protocol):
    """A pure decision: which resident expert goes."""

    def insert(self, key: Key) -> None:
        """`key` became resident; it was not before."""

    def touch(self, key: Key) -> None:
        """`key` was looked up, once per event; it need not be resident."""

    def remove(self, key: Key) -> None:
        """`key` is resident no more; it was before."""

    def victim(self, protected: AbstractSet[Key]) -> Key | None:
        """The resident that should go first, never one of `protected`; None: everything is protected."""


def _first_free(keys: Iterable[Key], protected: AbstractSet[Key]) -> Key | None:
    return next((key for key in keys if key not in protected), None)


def _lowest(heap: list[_Entry], now: Callable[[_Entry], _Entry | None], protected: AbstractSet[Key]) -> Key | None:
    """The key of the lowest entry that holds and is not `protected`, or None; others are brought up to date, or go.

    `now`: what an entry, whose key is its last, has become; None where another one stands for its key, or none does.
    """
    aside, found = [], None
    while heap:
        entry, current = heap[0], now(heap[0])
        if current is None:
            heapq.heappop(heap)
        elif current != entry:
            heapq.heapreplace(heap, current)
        elif entry[-1] in protected:
            aside.append(heapq.heappop(heap))
        else:
            found = entry[-1]
            break
    for entry in aside:
        heapq.heappush(heap, entry)
    return found


class Lru:
    """Least recently used: the resident whose last touch (or insertion) is furthest in the past."""

    def __init__(self) -> None:
        self._by_recency: OrderedDict[Key, None] = OrderedDict()

    def __iter__(self) -> Iterator[Key]:
        """The residents, the oldest first."""
        return iter(self._by_recency)

    def insert(self, key: Key) -> None:
        """Enter as the most recently used."""
        self._by_recency[key] = None

    def touch(self, key: Key) -> None:
        """Become the most recently used."""
        if key in self._by_recency:
            self._by_recency.move_to_end(key)

    def remove(self, key: Key) -> None:
        """Leave; nothing is remembered."""
        del self._by_recency[key]

    def victim(self, protected: AbstractSet[Key]) -> Key | None:
        """The least recently used."""
        return _first_free(self._by_recency, protected)


class Lfu:
    """Least frequently used, with counts that are kept for ever; ties go to the least recently used.

    The count of an expert is its lookups since the start, residents or not: an expert that returns after
    an eviction takes up its old count. A prefetch (insert without touch) counts nothing. This is the
    frequency that the published phone replay uses (BigMoeOnEdge, scripts/route-replay.py, Apache-2.0).
    """

    def __init__(self) -> None:
        self._n_touches: Counter[Key] = Counter()
        self._stamps: dict[Key, int] = {}  # resident -> its last touch or insertion
        self._born: dict[Key, int] = {}  # resident -> its insertion
        self._clock = 0
        self._heap: list[tuple[int, int, int, Key]] = []  # count, stamp, born, key; a lower bound of the truth

    def __iter__(self) -> Iterator[Key]:
        """The residents, the first to go first."""
        return iter(sorted(self._stamps, key=lambda key: (self._n_touches[key], self._stamps[key])))

    @property
    def counts(self) -> Mapping[Key, int]:
        """The lookups of every expert so far, resident or not."""
        return self._n_touches

    def insert(self, key: Key) -> None:
        """Enter with the count it had."""
        self._clock += 1
        self._stamps[key] = self._born[key] = self._clock
        heapq.heappush(self._heap, (self._n_touches[key], self._clock, self._clock, key))

    def touch(self, key: Key) -> None:
        """Count one more use."""
        self._n_touches[key] += 1
        if key in self._stamps:
            self._clock += 1
            self._stamps[key] = self._clock

    def remove(self, key: Key) -> None:
        """Leave; the count stays."""
        del self._stamps[key], self._born[key]

    def victim(self, protected: AbstractSet[Key]) -> Key | None:
        """The least often used."""
        return _lowest(self._heap, self._now, protected)

    def _now(self, entry: tuple[int, int, int, Key]) -> tuple[int, int, int, Key] | None:
        born, key = entry[2:]
        return (self._n_touches[key], self._stamps[key], born, key) if self._born.get(key) == born else None


class Fifo:
    """First in, first out: the resident inserted longest ago; lookups change nothing."""

    def __init__(self) -> None:
        self._by_insertion: dict[Key, None] = {}

    def __iter__(self) -> Iterator[Key]:
        """The residents, the oldest first."""
        return iter(self._by_insertion)

    def insert(self, key: Key) -> None:
        """Enter as the newest."""
        self._by_insertion[key] = None

    def touch(self, key: Key) -> None:
        """Change nothing."""

    def remove(self, key: Key) -> None:
        """Leave."""
        del self._by_insertion[key]

    def victim(self, protected: AbstractSet[Key]) -> Key | None:
        """The oldest resident."""
        return _first_free(self._by_insertion, protected)


class Lifo(Fifo):
    """Last in, first out: the most recently inserted resident goes; lookups change nothing.

    What filled the cache first therefore stays, and one slot's worth of residents is replaced at each miss.
    An event never evicts its own experts, so it is the newest of the earlier events that goes.
    """

    def victim(self, protected: AbstractSet[Key]) -> Key | None:
        """The newest resident."""
        return _first_free(reversed(self._by_insertion), protected)


class Static:
    """Nobody goes: what is resident at the start, or comes first, stays."""

    def __iter__(self) -> Iterator[Key]:
        """Those that may go: none."""
        return iter(())

    def insert(self, key: Key) -> None:
        """Stay for ever."""

    def touch(self, key: Key) -> None:
        """Change nothing."""

    def remove(self, key: Key) -> None:
        """Leave: it was admitted but never brought."""

    def victim(self, protected: AbstractSet[Key]) -> Key | None:
        """None."""
        return None


class HotLru:
    """What is held stays, the least recently used of the others goes: popular experts in a part of the slots."""

    def __init__(self) -> None:
        self._others, self._held = Lru(), set[Key]()

    def __iter__(self) -> Iterator[Key]:
        """The residents that may go, the oldest first."""
        return iter(self._others)

    def hold(self, key: Key) -> None:
        """Keep a resident for good."""
        self._others.remove(key)
        self._held.add(key)

    def insert(self, key: Key) -> None:
        """Enter as the most recently used of the others."""
        self._others.insert(key)

    def touch(self, key: Key) -> None:
        """Become the most recently used of the others."""
        self._others.touch(key)

    def remove(self, key: Key) -> None:
        """Leave; whoever was held is held no more."""
        if key in self._held:
            self._held.remove(key)
        else:
            self._others.remove(key)

    def victim(self, protected: AbstractSet[Key]) -> Key | None:
        """The least recently used of those not held."""
        return self._others.victim(protected)


class Random:
    """Every unprotected resident is equally likely to go: what no information at all is worth."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng
        self._keys: list[Key] = []
        self._place: dict[Key, int] = {}

    def insert(self, key: Key) -> None:
        """Enter the lottery."""
        self._place[key] = len(self._keys)
        self._keys.append(key)

    def touch(self, key: Key) -> None:
        """Change nothing."""

    def remove(self, key: Key) -> None:
        """Leave the lottery; the last key takes its place."""
        place, last = self._place.pop(key), self._keys.pop()
        if last != key:
            self._keys[place] = last
            self._place[last] = place

    def victim(self, protected: AbstractSet[Key]) -> Key | None:
        """A uniform draw; a protected one is drawn again among the unprotected."""
        if not self._keys:
            return None
        key = self._keys[int(self._rng.integers(len(self._keys)))]
        if key not in protected:
            return key
        free = [key for key in self._keys if key not in protected]
        return free[int(self._rng.integers(len(free)))] if free else None


class Belady:
    """Clairvoyant: the resident whose next use is furthest away goes; the bound for equal-sized experts.

    `events` is the whole future, in order: the keys looked up at each event. The clock is the lookups
    themselves (a touch uses up one event of its key), so each event must touch each of its keys once; or, where
    `gated` says what gates ask for, these, so that prefetches, right or wrong, do not move it.
    Ties, which are experts never used again or used again at one event, go to the first inserted.
    Source: L. A. Belady, IBM Systems Journal 5(2), 1966. With experts of several sizes it is no longer
    a bound on bytes, and is replayed as the published curves have it.
    """

    def __init__(self, events: Iterable[Iterable[Key]]) -> None:
        self._uses: dict[Key, list[int]] = {}
        self._never = 0
        for i_event, keys in enumerate(events):
            self._never = i_event + 1
            for key in set(keys):
                self._uses.setdefault(key, []).append(i_event)
        for uses in self._uses.values():
            uses.reverse()  # the next use is the last item
        self._born: dict[Key, int] = {}
        self._n_inserts = 0
        self._by_gates = False
        self._heap: list[tuple[int, int, Key]] = []  # -next use, born, key; stale entries are skipped

    def _entry(self, key: Key) -> tuple[int, int, Key]:
        uses: Sequence[int] = self._uses.get(key, ())
        return (-(uses[-1] if uses else self._never), self._born[key], key)

    def insert(self, key: Key) -> None:
        """Enter, with the next use that the future holds."""
        self._n_inserts += 1
        self._born[key] = self._n_inserts
        heapq.heappush(self._heap, self._entry(key))

    @property
    def watches_gates(self) -> bool:
        """It may: gates say what is used, where there are any."""
        return True

    def gated(self, output: GateOutput, first: Key) -> None:
        """Move on to the uses after this event, which lookups then leave alone."""
        self._by_gates = True
        for expert in output.experts:
            self._use(first + expert)

    def touch(self, key: Key) -> None:
        """Move on to the use after this one."""
        if not self._by_gates:
            self._use(key)

    def _use(self, key: Key) -> None:
        if self._uses.get(key):
            self._uses[key].pop()
        if key in self._born:
            heapq.heappush(self._heap, self._entry(key))
        if len(self._heap) > 2 * len(self._born) + 1024:
            self._heap = [self._entry(resident) for resident in self._born]
            heapq.heapify(self._heap)

    def remove(self, key: Key) -> None:
        """Leave; its future stays known."""
        del self._born[key]

    def victim(self, protected: AbstractSet[Key]) -> Key | None:
        """The one needed last."""
        return _lowest(self._heap, self._now, protected)

    def _now(self, entry: tuple[int, int, Key]) -> tuple[int, int, Key] | None:
        key = entry[2]
        return entry if key in self._born and entry == self._entry(key) else None


EVICTIONS: dict[str, Callable[[], Eviction]] = {
    "lru": Lru, "lfu": Lfu, "lifo": Lifo, "fifo": Fifo, "hot_lru": HotLru,
}  # fmt: skip
"""The evictions that need nothing to start: `Random` wants a generator, `Belady` the future, `Static` its residents."""
