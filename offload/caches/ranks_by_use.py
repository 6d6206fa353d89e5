"""What experts are worth by how often and how lately they were looked up (`offload.caches.eviction_ranked.Rank`)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from offload.caches.eviction import Key
from offload.caches.gate_output import GateOutput
from offload.caches.pool_shape import PoolShape

LOOKUPS_A_SLOT = 10
"""Lookups a slot after which counts are halved (TinyLFU, ACM ToS 13(4), 2017, section 3.3: 8 to 16 are as good)."""


class LfuDecay:
    """Least frequently used, all counts halved after every ten lookups a slot.

    Counts are of every expert, resident or not, and are rounded down. Source: the reset of TinyLFU (Einziger, Friedman
    and Manes, ACM Transactions on Storage 13(4), 2017).
    """

    def __init__(self, shape: PoolShape) -> None:
        self._n_uses = np.zeros(shape.n_keys)
        self._period, self._since = max(LOOKUPS_A_SLOT * shape.n_slots, 1), 0

    def entered(self, key: Key) -> None:
        """Enter with the count it has."""

    def looked_up(self, key: Key, resident: bool) -> None:
        """Count one more use; now and then halve all."""
        self._n_uses[key] += 1
        self._since += 1
        if self._since == self._period:
            self._since = 0
            self._n_uses = np.floor(self._n_uses / 2)

    def values(self) -> NDArray[np.float64]:
        """Uses, the old ones for less."""
        return self._n_uses


class Lfru:
    """Least frequently and recently used: uses over the events since the last one, `f / (now - last + 1)`.

    Uses are counted for ever, residents or not; the clock is the gates of the pool. Source: arXiv:2608.07911, which
    vLLM's proposal of an expert cache (RFC 38256) draws on.
    """

    def __init__(self, shape: PoolShape) -> None:
        self._n_uses, self._last, self._now = np.zeros(shape.n_keys), np.zeros(shape.n_keys, np.int64), 0

    def gated(self, output: GateOutput, first: Key) -> None:
        """One more event."""
        self._now += 1

    def entered(self, key: Key) -> None:
        """Enter with the count it has; a prefetch is new, not used."""
        self._last[key] = self._now

    def looked_up(self, key: Key, resident: bool) -> None:
        """Count one more use, now."""
        self._n_uses[key] += 1
        self._last[key] = self._now

    def values(self) -> NDArray[np.float64]:
        """Uses for their age."""
        return _for_age(self._n_uses, self._now - self._last)


class ReleasedLfru:
    """The LFRU of released code (e1n00r/tinyserve): counted while resident, from 1; the clock is lookups that hit."""

    def __init__(self, shape: PoolShape) -> None:
        self._n_uses, self._last, self._now = np.zeros(shape.n_keys), np.zeros(shape.n_keys, np.int64), 0

    def entered(self, key: Key) -> None:
        """Enter uncounted, whatever was counted before: the lookup that brought it follows."""
        self._n_uses[key], self._last[key] = 0, self._now

    def looked_up(self, key: Key, resident: bool) -> None:
        """Count one more lookup of a resident."""
        if resident:
            self._now += 1
            self._n_uses[key] += 1
            self._last[key] = self._now

    def values(self) -> NDArray[np.float64]:
        """Uses for their age."""
        return _for_age(self._n_uses, self._now - self._last)


class LeastStale:
    """Residents not used in this forward pass go before the others.

    What came in during the pass, used yet or not, is of it. Source: SpecMD (arXiv:2602.03921), read in its abstract and
    in public reimplementations alone.
    """

    def __init__(self, shape: PoolShape) -> None:
        self._pass_of, self._i_step = np.zeros(shape.n_keys), -1

    def gated(self, output: GateOutput, first: Key) -> None:
        """Perhaps a new pass."""
        self._i_step = output.i_step

    def entered(self, key: Key) -> None:
        """Enter, of this pass."""
        self._pass_of[key] = self._i_step

    def looked_up(self, key: Key, resident: bool) -> None:
        """Be of this pass."""
        self._pass_of[key] = self._i_step

    def values(self) -> NDArray[np.float64]:
        """1 of what is of this pass, 0 of what is stale."""
        values: NDArray[np.float64] = (self._pass_of == self._i_step).astype(np.float64)
        return values


def _for_age(n_uses: NDArray[np.float64], age: NDArray[np.int64]) -> NDArray[np.float64]:
    values: NDArray[np.float64] = n_uses / (age + 1)
    return values
