"""Whether an expert that misses may take a resident's slot: small rules that look at lookups. No clock here.

A free slot is taken by whoever comes first; a rule is asked where somebody would have to go.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable
from typing import Protocol

from offload.caches.eviction import Key
from traces.errors import unknown_name


class Admission(Protocol):
    """A pure decision: whether a miss becomes resident."""

    def looked_up(self, keys: Iterable[Key]) -> None:
        """One event looks `keys` up; what it may admit is decided after that."""

    def admits(self, key: Key, victim: Key) -> bool:
        """Whether `key` takes the slot of `victim`."""


class SecondHit:
    """A miss is kept when it is the second within memory: of as many turned away, the latest, as there are slots.

    Source: the queue of keys once seen of 2Q (Johnson and Shasha, VLDB 1994).
    """

    def __init__(self, n_slots: int) -> None:
        self._n_slots, self._turned_away = n_slots, OrderedDict[Key, None]()

    def looked_up(self, keys: Iterable[Key]) -> None:
        """Only misses count."""

    def admits(self, key: Key, victim: Key) -> bool:
        """Yes for who was turned away of late, and forgets that; the others are turned away."""
        if key in self._turned_away:
            del self._turned_away[key]
            return True
        self._turned_away[key] = None
        if len(self._turned_away) > self._n_slots:
            self._turned_away.popitem(last=False)
        return False


class MorePopular:
    """A miss is kept when it was looked up more often than the victim, counts being halved every ten lookups a slot.

    Source: TinyLFU (Einziger, Friedman and Manes, ACM Transactions on Storage 13(4), 2017), with exact counts.
    """

    def __init__(self, n_slots: int) -> None:
        self._n_lookups: Counter[Key] = Counter()
        self._period, self._since = max(10 * n_slots, 1), 0

    def looked_up(self, keys: Iterable[Key]) -> None:
        """Count the lookups of one event."""
        for key in keys:
            self._n_lookups[key] += 1
            self._since += 1
            if self._since == self._period:
                self._since = 0
                self._n_lookups = Counter({one: n // 2 for one, n in self._n_lookups.items() if n > 1})

    def admits(self, key: Key, victim: Key) -> bool:
        """Yes for who is looked up more often than the victim."""
        return self._n_lookups[key] > self._n_lookups[victim]


ADMISSIONS: dict[str, Callable[[int], Admission] | None] = {"always": None, "second": SecondHit, "popular": MorePopular}
"""The rules by name, made for a number of slots; None asks nobody."""


def admission_of(name: str, n_slots: int) -> Admission | None:
    """The rule of one pool. Raises `UnknownName`."""
    if name not in ADMISSIONS:
        raise unknown_name("admission rule", name, ADMISSIONS)
    make = ADMISSIONS[name]
    return None if make is None else make(n_slots)
