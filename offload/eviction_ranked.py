"""Evictions that rank every resident anew when one has to go: by uses that age, or by what gates have said.

Ranks are arrays over all experts, so that a victim is one pass over the residents. Each keeps the contract of
`offload.eviction`; those with `gated` are told the output of every gate once, before its experts are looked up.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from offload.eviction import Eviction, Key
from offload.gate_output import GateOutput

__all__ = [
    "RANKED",
    "ActivationAware",
    "LeastStale",
    "Lfru",
    "LfuDecay",
    "Mrs",
    "PoolShape",
    "ReleasedActivation",
    "ReleasedLfru",
    "WatchesGates",
]

LOOKUPS_A_SLOT = 10
"""Lookups a slot after which counts are halved (TinyLFU, ACM ToS 13(4), 2017, section 3.3: 8 to 16 are as good)."""

MRS_ALPHA = 0.75
"""Weight of the newest scores. HybriMoE's paper does not print its own; public reimplementations take 0.75."""

EPSILON = 1e-6
"""What MoE-Infinity's code adds to shares, so that the layer decides between experts that were never chosen."""


@dataclass(frozen=True, slots=True)
class PoolShape:
    """Slots that evict among themselves, and the model that they serve."""

    n_slots: int
    n_layers: int
    n_experts: int

    @property
    def n_keys(self) -> int:
        """Experts of all layers."""
        return self.n_layers * self.n_experts


@runtime_checkable
class WatchesGates(Protocol):
    """An eviction that looks at what gates say."""

    def gated(self, output: GateOutput, first: Key) -> None:
        """A gate of one of the pool's layers has run; lookups of its experts, of keys `first` on, follow."""


class _Residents:
    """Stamps of every resident's insertion and last use; -1 for who is not there."""

    __slots__ = ("clock", "inserted", "used")

    def __init__(self, shape: PoolShape) -> None:
        self.inserted = np.full(shape.n_keys, -1, np.int64)
        self.used = np.zeros(shape.n_keys, np.int64)
        self.clock = 0

    def insert(self, key: Key) -> None:
        self.clock += 1
        self.inserted[key] = self.used[key] = self.clock

    def touch(self, key: Key) -> None:
        self.clock += 1
        self.used[key] = self.clock

    def remove(self, key: Key) -> None:
        self.inserted[key] = -1

    def lowest(self, rank: NDArray[np.float64], ties: NDArray[np.int64], protected: AbstractSet[Key]) -> Key | None:
        """The resident of the lowest `rank`, then of the lowest of `ties`; both (n_keys,)."""
        free = self.inserted >= 0
        if protected:
            free[list(protected)] = False
        keys = np.flatnonzero(free)
        if not keys.size:
            return None
        ranks = rank[keys]
        lowest = keys[ranks == ranks.min()]
        return int(lowest[ties[lowest].argmin()])


class LfuDecay:
    """Least frequently used, all counts halved after every ten lookups a slot; ties go to the least recently used.

    Counts are of every expert, resident or not, and are rounded down. Source: the reset of TinyLFU (Einziger, Friedman
    and Manes, ACM Transactions on Storage 13(4), 2017).
    """

    def __init__(self, shape: PoolShape) -> None:
        self._residents, self._n_uses = _Residents(shape), np.zeros(shape.n_keys)
        self._period, self._since = max(LOOKUPS_A_SLOT * shape.n_slots, 1), 0

    def insert(self, key: Key) -> None:
        """Enter with the count it has."""
        self._residents.insert(key)

    def touch(self, key: Key) -> None:
        """Count one more use; now and then halve all."""
        self._residents.touch(key)
        self._n_uses[key] += 1
        self._since += 1
        if self._since == self._period:
            self._since = 0
            self._n_uses = np.floor(self._n_uses / 2)

    def remove(self, key: Key) -> None:
        """Leave; the count stays."""
        self._residents.remove(key)

    def victim(self, protected: AbstractSet[Key]) -> Key | None:
        """The least often used of late."""
        return self._residents.lowest(self._n_uses, self._residents.used, protected)


class Lfru:
    """Least frequently and recently used: uses over the events since the last one, `f / (now - last + 1)`.

    Uses are counted for ever, residents or not; the clock is the gates of the pool. Ties go to the lowest key. Source:
    arXiv:2608.07911, which vLLM's proposal of an expert cache (RFC 38256) draws on.
    """

    def __init__(self, shape: PoolShape) -> None:
        self._residents = _Residents(shape)
        self._n_uses, self._last = np.zeros(shape.n_keys), np.zeros(shape.n_keys, np.int64)
        self._keys, self._now = np.arange(shape.n_keys), 0

    def gated(self, output: GateOutput, first: Key) -> None:
        """One more event."""
        self._now += 1

    def insert(self, key: Key) -> None:
        """Enter with the count it has; a prefetch is new, not used."""
        self._residents.insert(key)
        self._last[key] = self._now

    def touch(self, key: Key) -> None:
        """Count one more use, now."""
        self._n_uses[key] += 1
        self._last[key] = self._now

    def remove(self, key: Key) -> None:
        """Leave; count and time stay."""
        self._residents.remove(key)

    def victim(self, protected: AbstractSet[Key]) -> Key | None:
        """The one of the fewest uses for its age."""
        return self._residents.lowest(self._n_uses / (self._now - self._last + 1), self._keys, protected)


class ReleasedLfru:
    """The LFRU of released code (e1n00r/tinyserve): counted while resident, from 1; the clock is lookups that hit.

    Ties go to the first inserted.
    """

    def __init__(self, shape: PoolShape) -> None:
        self._residents = _Residents(shape)
        self._n_uses, self._last, self._now = np.zeros(shape.n_keys), np.zeros(shape.n_keys, np.int64), 0

    def insert(self, key: Key) -> None:
        """Enter uncounted: the lookup that brought it follows as a `touch`."""
        self._residents.insert(key)
        self._n_uses[key], self._last[key] = 0, self._now

    def touch(self, key: Key) -> None:
        """Count one more lookup of a resident."""
        if self._residents.inserted[key] >= 0:
            self._now += 1
            self._n_uses[key] += 1
            self._last[key] = self._now

    def remove(self, key: Key) -> None:
        """Leave; the count is forgotten."""
        self._residents.remove(key)

    def victim(self, protected: AbstractSet[Key]) -> Key | None:
        """The one of the fewest uses for its age."""
        rank = self._n_uses / (self._now - self._last + 1)
        return self._residents.lowest(rank, self._residents.inserted, protected)


class Mrs:
    """Minus recent score (HybriMoE, arXiv:2504.05897, section IV.D): the lowest running mean of gate scores goes.

    At every gate each expert of its layer gets `S = a * TopP(s) + (1 - a) * S`: s its score, the mean over tokens, of
    the p = 2 k highest, 0 for the others. Traces hold the scores of chosen experts alone, so those of the others are 0
    here while the paper has them to p. Ties go to the least recently used.
    """

    def __init__(self, shape: PoolShape) -> None:
        self._residents, self._n_experts = _Residents(shape), shape.n_experts
        self._score = np.zeros(shape.n_keys)

    def gated(self, output: GateOutput, first: Key) -> None:
        """Move the scores of the layer's experts towards those of this event."""
        self._score[first : first + self._n_experts] *= 1 - MRS_ALPHA
        ranked = sorted(zip(output.scores, output.experts, strict=True), key=lambda item: (-item[0], item[1]))
        for score, expert in ranked[: 2 * output.top_k]:
            self._score[first + expert] += MRS_ALPHA * (score / output.n_tokens)

    def insert(self, key: Key) -> None:
        """Enter with the score it has."""
        self._residents.insert(key)

    def touch(self, key: Key) -> None:
        """Only the order of ties changes."""
        self._residents.touch(key)

    def remove(self, key: Key) -> None:
        """Leave; the score stays."""
        self._residents.remove(key)

    def victim(self, protected: AbstractSet[Key]) -> Key | None:
        """The one whose scores were lowest of late."""
        return self._residents.lowest(self._score, self._residents.used, protected)


class ActivationAware:
    """MoE-Infinity's eviction (arXiv:2401.14361): the lowest `(p + eps) * (1 - i / L)` goes.

    p is the expert's share of what its layer, the i-th of L, has activated in this request, over tokens; it starts anew
    with every request. Ties go to the least recently used.
    """

    def __init__(self, shape: PoolShape) -> None:
        self._residents, self._n_experts = _Residents(shape), shape.n_experts
        self._n_activated = np.zeros((shape.n_layers, shape.n_experts))
        self._share = np.zeros((shape.n_layers, shape.n_experts))
        self._of_layer = (1 - np.arange(shape.n_layers) / shape.n_layers)[:, None]
        self._begun_in = -1  # the step that the request began with

    def gated(self, output: GateOutput, first: Key) -> None:
        """Count the activations of this event."""
        if output.new_request and output.i_step != self._begun_in:
            self._n_activated[:] = self._share[:] = 0
            self._begun_in = output.i_step
        row = self._n_activated[output.layer]
        row[output.experts] += output.tokens
        self._share[output.layer] = row / row.sum()

    def insert(self, key: Key) -> None:
        """Enter with the share it has."""
        self._residents.insert(key)

    def touch(self, key: Key) -> None:
        """Only the order of ties changes."""
        self._residents.touch(key)

    def remove(self, key: Key) -> None:
        """Leave; the share stays."""
        self._residents.remove(key)

    def victim(self, protected: AbstractSet[Key]) -> Key | None:
        """The one least activated, and of a late layer."""
        rank = ((self._share + EPSILON) * self._of_layer).ravel()
        return self._residents.lowest(rank, self._residents.used, protected)


class ReleasedActivation:
    """The eviction score of MoE-Infinity's released code: the lowest `topology * request * frequency` goes.

    Each factor is a share of 1 plus `EPSILON`: activations of all requests, activations of this request within its
    layer, and a weight of the layer. That is written for encoder and decoder halves, and halves any model: 1 up to the
    layer that runs, in its half; of all others `1 - i / n` in the first half of n layers, `i / (n + 1)` in the second.
    Source: moe_infinity/memory/expert_priority_score.py
    (priority_score). Ties go to the least recently used.
    """

    def __init__(self, shape: PoolShape) -> None:
        self._residents, self._n_layers = _Residents(shape), shape.n_layers
        self._ever = np.zeros((shape.n_layers, shape.n_experts))
        self._now = np.zeros((shape.n_layers, shape.n_experts))
        self._begun_in, self._layer = -1, 0

    def gated(self, output: GateOutput, first: Key) -> None:
        """Count the activations of this event."""
        if output.new_request and output.i_step != self._begun_in:
            self._now[:] = 0
            self._begun_in = output.i_step
        self._layer = output.layer
        for counts in (self._ever, self._now):
            counts[output.layer, output.experts] += output.tokens

    def insert(self, key: Key) -> None:
        """Enter with the score it has."""
        self._residents.insert(key)

    def touch(self, key: Key) -> None:
        """Only the order of ties changes."""
        self._residents.touch(key)

    def remove(self, key: Key) -> None:
        """Leave; counts stay."""
        self._residents.remove(key)

    def victim(self, protected: AbstractSet[Key]) -> Key | None:
        """The one of the lowest score."""
        half = self._n_layers // 2
        ever = self._ever.copy()
        for part in (ever[:half], ever[half:]):
            if not part.any():
                part[:] = 1
        request = self._now.copy()
        request[~request.any(axis=1)] = 1
        request /= request.sum(axis=1, keepdims=True)
        rank = _share(self._topology()[:, None]) * _share(request) * _share(ever)
        return self._residents.lowest(rank.ravel(), self._residents.used, protected)

    def _topology(self) -> NDArray[np.float64]:
        """The weight of each layer, (n_layers,), while `_layer` runs."""
        half, layer = self._n_layers // 2, np.arange(self._n_layers)
        weight: NDArray[np.float64] = np.where(layer < half, 1 - layer / max(half, 1), (layer - half) / (half + 1))
        own = (layer < half) == (self._layer < half)
        weight[own & (layer <= self._layer)] = 1.0
        return weight


def _share(values: NDArray[np.float64]) -> NDArray[np.float64]:
    shares: NDArray[np.float64] = values / values.sum() + EPSILON
    return shares


class LeastStale:
    """Residents not used in this forward pass go first, first in, first out; then the others, in the same way.

    What came in during the pass, used yet or not, is of it. Source: SpecMD (arXiv:2602.03921), read in its abstract and
    in public reimplementations alone.
    """

    def __init__(self, shape: PoolShape) -> None:
        self._residents = _Residents(shape)
        self._pass_of = np.zeros(shape.n_keys)
        self._i_step = -1

    def gated(self, output: GateOutput, first: Key) -> None:
        """Perhaps a new pass."""
        self._i_step = output.i_step

    def insert(self, key: Key) -> None:
        """Enter, of this pass."""
        self._residents.insert(key)
        self._pass_of[key] = self._i_step

    def touch(self, key: Key) -> None:
        """Be of this pass."""
        self._pass_of[key] = self._i_step

    def remove(self, key: Key) -> None:
        """Leave."""
        self._residents.remove(key)

    def victim(self, protected: AbstractSet[Key]) -> Key | None:
        """The first inserted that is stale, or else of all."""
        is_fresh = (self._pass_of == self._i_step).astype(np.float64)
        return self._residents.lowest(is_fresh, self._residents.inserted, protected)


RANKED: dict[str, Callable[[PoolShape], Eviction]] = {
    "lfu_decay": LfuDecay,
    "lfru": Lfru,
    "lfru_released": ReleasedLfru,
    "mrs": Mrs,
    "activation": ActivationAware,
    "activation_released": ReleasedActivation,
    "least_stale": LeastStale,
}
"""The evictions that need to know their pool to start, by name."""
