"""Where the experts that a cache keeps lie in HBM: it may take one over where it is, and give its own slot for it.

Nothing here may know time.
"""

from __future__ import annotations

from collections.abc import Iterable

from offload.caches.residency import ResidentSet
from offload.slots.copies import Copies, CopyWriter
from offload.slots.write_back import WriteBacks


class CacheSlots:
    """The slots of a cache, behind `n_buffers` others, which change places with these; `n_slots` are of either.

    `at`: by slot of the cache, the slot that it is now. `filled`: of its slots that hold something, the op that filled
    it, -1 before the first. `static`: slots whose HBM is taken throughout. `writes_back`: whether what leaves is copied
    back to host memory.
    """

    def __init__(
        self, writer: CopyWriter, copies: Copies, cache: ResidentSet | None, n_buffers: int, n_slots: int
    ) -> None:
        warm = () if cache is None else cache.slots_in_use
        self.n_warm = len(warm)
        self.filled = dict.fromkeys((n_buffers + slot for slot in warm), -1)
        self.static: frozenset[int] = frozenset()
        self.at = list(range(n_buffers, n_slots))
        self._backs: WriteBacks | None = None
        self.writes_back = copies.write_back is not None and cache is not None
        if copies.write_back is not None and cache is not None:
            places_of = {n_buffers + slot: divmod(key, cache.n_experts) for slot, key in cache.residents.items()}
            self._backs = WriteBacks(writer, copies.write_back, places_of)
            self.static = frozenset(places_of)

    def live_ops(self) -> Iterable[int]:
        """The ops that a later op may have to wait for, -1 among them."""
        return (*self.filled.values(), *(() if self._backs is None else self._backs.live_ops()))

    def fill(self, slot: int, by: int, layer: int, expert: int) -> None:
        """Op `by` brings what the cache keeps in `slot`."""
        self.filled[slot] = by
        if self._backs is not None:
            self._backs.keep(slot, layer, expert)

    def takes_hbm(self, slot: int) -> bool:
        """Whether HBM is taken for what is copied into `slot`: a transient one, or one of the cache the first time."""
        return slot >= 0 and slot not in self.filled and slot not in self.static

    def swaps(self, cached: int) -> bool:
        """Whether what goes there takes the place of an expert that is written back: it goes to a spare slot."""
        return self.writes_back and self.at[cached] in self.filled

    def written(self, layer: int, expert: int) -> int:
        """The op that wrote an expert back last, which a fetch of it waits for; -1 none."""
        return -1 if self._backs is None else self._backs.last_of(layer, expert)

    def write_back(self, slot: int, step: int, reader: int) -> int:
        """Write back what the cache kept in `slot`, read last by `reader`; returns the copy."""
        assert self._backs is not None
        return self._backs.give(slot, step, self.filled.pop(slot), reader)
