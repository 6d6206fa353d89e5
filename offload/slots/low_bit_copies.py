"""Copies of experts in fewer bits that a cache of their own keeps in HBM, beside the cache of those as stored (HOBBIT).

An expert may be in both. Its slots are as large as what they hold; a copy into one waits for the last read of what it
held. Nothing here may know time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from offload.caches.eviction import EVICTIONS
from offload.caches.residency import ResidentSet
from offload.ops import Lane, Work
from offload.policy import Cache
from offload.recorder import Recorder
from traces.model.architecture import ModelArchitecture


class LowSlots(NamedTuple):
    """Room for `n` copies of `bits` a parameter, that leave as those of `cache` do."""

    n: int
    bits: float
    cache: Cache

    def residents(self, model: ModelArchitecture) -> ResidentSet:
        """An empty cache of them; evictions that look at gates leave the least recently used."""
        eviction = self.cache.eviction if self.cache.eviction in EVICTIONS else "lru"
        return ResidentSet(
            self.n, eviction, per_layer=self.cache.per_layer, n_layers=model.n_moe_layers, n_experts=model.n_experts
        )


class LowAccess(NamedTuple):
    """An expert that is here, or on its way: `ready`, the op that brings it, -1 none."""

    expert: int
    slot: int
    ready: int
    hit: bool


@dataclass(slots=True)
class LowCopies:
    """Writes the copies that fill the slots, `fetch` each. `places`: the layer of the model, by MoE layer; `first`: the
    number of its first slot; `readers`: by slot, the op that read it last.
    """

    recorder: Recorder
    bits: float
    fetch: Work
    residents: ResidentSet
    places: Sequence[int]
    first: int
    readers: list[int]
    filled: dict[int, int]

    def bring(self, layer: int, experts: Sequence[int], step: int) -> list[LowAccess]:
        """One event: what of `experts` has a slot here, copies being written for what had none."""
        found = []
        for access in self.residents.admit(layer, experts):
            slot = self.first + access.slot
            if access.slot < 0:
                continue
            if not access.hit:
                reader = self.readers[slot]
                self.filled[slot] = self.recorder.issue(
                    Lane.H2D, self.fetch, (reader,) if reader >= 0 else (), step=step, layer=self.places[layer],
                    expert=access.expert, slot=slot, hbm_acquired=0 if slot in self.filled else self.fetch.copy_bytes,
                )  # fmt: skip
            found.append(LowAccess(access.expert, slot, self.filled[slot], access.hit))
        return found
