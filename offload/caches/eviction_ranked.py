"""Evictions that rank every resident anew when one has to go: by uses that age, or by what gates have said.

Ranks are arrays over all experts, so that a victim is one pass over the residents. `Ranked` keeps the contract of
`offload.caches.eviction` for all of them: who is there, and who goes where ranks are equal.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Set as AbstractSet
from functools import partial
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from offload.caches.eviction import Key
from offload.caches.gate_output import GateOutput
from offload.caches.pool_shape import PoolShape
from offload.caches.ranks_by_gates import ActivationAware, Mrs, ReleasedActivation
from offload.caches.ranks_by_use import LeastStale, Lfru, LfuDecay, ReleasedLfru

Ties = Literal["used", "inserted", "key"]
"""Of equal ranks goes the least recently used, the first inserted, or the one of the lowest key."""


class Rank(Protocol):
    """What experts are worth, resident or not."""

    def values(self) -> NDArray[np.float64]:
        """(n_keys,) the lowest goes first."""


@runtime_checkable
class CountsLookups(Protocol):
    """A rank that changes with what is looked up."""

    def entered(self, key: Key) -> None:
        """A missing expert becomes resident; the lookup that brought it follows."""

    def looked_up(self, key: Key, resident: bool) -> None:
        """An expert is looked up, resident by now or not."""


@runtime_checkable
class CountsGates(Protocol):
    """A rank that changes with what gates say."""

    def gated(self, output: GateOutput, first: Key) -> None:
        """A gate of one of the pool's layers has run; lookups of its experts, of keys `first` on, follow."""


@runtime_checkable
class WatchesGates(Protocol):
    """An eviction that may look at what gates say."""

    @property
    def watches_gates(self) -> bool:
        """Whether it does."""

    def gated(self, output: GateOutput, first: Key) -> None:
        """A gate of one of the pool's layers has run; lookups of its experts, of keys `first` on, follow."""


class Ranked:
    """The residents of a pool, of which the one of the lowest rank goes."""

    def __init__(self, make: Callable[[PoolShape], Rank], ties: Ties, shape: PoolShape) -> None:
        self._rank = make(shape)
        self._lookups = self._rank if isinstance(self._rank, CountsLookups) else None
        self._gates = self._rank if isinstance(self._rank, CountsGates) else None
        self._inserted = np.full(shape.n_keys, -1, np.int64)  # when, -1 for who is not there
        self._used = np.zeros(shape.n_keys, np.int64)
        self._clock = 0
        self._ties = {"used": self._used, "inserted": self._inserted, "key": np.arange(shape.n_keys)}[ties]

    @property
    def watches_gates(self) -> bool:
        """Whether it is told the output of every gate, before its experts are looked up."""
        return self._gates is not None

    def gated(self, output: GateOutput, first: Key) -> None:
        """A gate of one of the pool's layers has run."""
        if self._gates is not None:
            self._gates.gated(output, first)

    def insert(self, key: Key) -> None:
        """Enter; what was counted of it before stays."""
        self._clock += 1
        self._inserted[key] = self._used[key] = self._clock
        if self._lookups is not None:
            self._lookups.entered(key)

    def touch(self, key: Key) -> None:
        """One more lookup of an expert, resident or not."""
        self._clock += 1
        self._used[key] = self._clock
        if self._lookups is not None:
            self._lookups.looked_up(key, bool(self._inserted[key] >= 0))

    def remove(self, key: Key) -> None:
        """Leave; what was counted of it stays."""
        self._inserted[key] = -1

    def victim(self, protected: AbstractSet[Key]) -> Key | None:
        """The resident of the lowest rank, then of the lowest tie; None where all are protected."""
        free = self._inserted >= 0
        if protected:
            free[list(protected)] = False
        keys = np.flatnonzero(free)
        if not keys.size:
            return None
        ranks = self._rank.values()[keys]
        lowest = keys[ranks == ranks.min()]
        return int(lowest[self._ties[lowest].argmin()])


RANKED: dict[str, Callable[[PoolShape], Ranked]] = {
    "lfu_decay": partial(Ranked, LfuDecay, "used"),
    "lfru": partial(Ranked, Lfru, "key"),
    "lfru_released": partial(Ranked, ReleasedLfru, "inserted"),
    "mrs": partial(Ranked, Mrs, "used"),
    "activation": partial(Ranked, ActivationAware, "used"),
    "activation_released": partial(Ranked, ReleasedActivation, "used"),
    "least_stale": partial(Ranked, LeastStale, "inserted"),
}
"""The evictions that need to know their pool to start, by name."""
