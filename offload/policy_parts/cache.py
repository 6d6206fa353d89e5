"""A cache of experts in HBM as a design names it: how large, whom it lets go, and whom it lets in."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from offload.caches.admission import ADMISSIONS
from traces.errors import InvalidInput, unknown_name
from traces.foundation.type_checks import check_fields

if TYPE_CHECKING:
    from traces.statistics.popularity import PopularityProfile


_SMALLEST_RATIO = 1e-12
"""A millionth of one expert of any model: what is smaller is a mistake."""


@dataclass(frozen=True, slots=True)
class Cache:
    """An expert cache in HBM beside the transient buffers.

    Capacity: `n_slots` experts, or `ratio` of the decoder's experts (`round(layers x experts x ratio)`, at
    least 1), or with neither all the HBM that is left. `eviction`: a name of `offload.caches.eviction`; `per_layer`:
    split evenly over the layers. `warm`: the cache has served one such request before. `popularity`: the counts by
    which a static cache, or the `hot` share of a `hot_lru` (None: half), holds what was chosen most (None: those of the
    trace itself). `admit`: a name of `offload.caches.admission`; `budget`: most experts that one (step, layer) brings
    in. `write_back`: what is let go is copied back to host memory, as by an engine that keeps one copy of each expert.
    Raises `InvalidInput` on a ratio outside (0, 1], fewer slots than one, or both, and for what another eviction does
    not look at.
    """

    eviction: str = "lru"
    ratio: float | None = None
    n_slots: int | None = None
    per_layer: bool = False
    warm: bool = False
    popularity: PopularityProfile | None = None
    admit: str = "always"
    budget: int | None = None
    hot: float | None = None
    write_back: bool = False

    def __post_init__(self) -> None:
        check_fields(self)
        from offload.policies import eviction_names  # the policies are made of this module

        if self.eviction not in eviction_names():
            raise unknown_name("eviction", self.eviction, eviction_names())
        if self.popularity is not None and not self.holds_popular:
            raise InvalidInput(f"cache {self.eviction} chooses as it runs: popularity says what a static cache holds")
        if self.admit not in ADMISSIONS:
            raise unknown_name("admission rule", self.admit, ADMISSIONS, f"cache {self.eviction}")
        if self.budget is not None and self.budget < 0:
            raise InvalidInput(f"cache {self.eviction}: budget = {self.budget} experts is below 0: give 0 or more")
        if self.eviction == "static" and (self.admit != "always" or self.budget is not None):
            raise InvalidInput("cache static keeps what it holds: leave admit= and budget= out")
        if self.eviction == "static" and self.write_back:
            raise InvalidInput("cache static keeps what it holds, nothing is written back: leave write_back out")
        if self.hot is not None and self.eviction != "hot_lru":
            raise InvalidInput(f"cache {self.eviction} holds nothing for good: hot= is of hot_lru")
        if self.hot is not None and not 0 <= self.hot <= 1:
            raise InvalidInput(f"cache hot_lru: hot = {self.hot:g} is a share of its slots, from 0 to 1")
        if self.ratio is not None and self.n_slots is not None:
            raise InvalidInput("a cache has a ratio (0..1] or a number of slots, not both: lru:0.1")
        if self.ratio is not None and not _SMALLEST_RATIO <= self.ratio <= 1:
            raise InvalidInput(
                f"cache ratio = {self.ratio:g} is outside (0, 1]: give the share of all experts that it holds"
            )
        if self.n_slots is not None and self.n_slots < 1:
            raise InvalidInput(f"cache slots = {self.n_slots} is below 1: leave the cache out instead")

    @property
    def holds_popular(self) -> bool:
        """Whether it holds what is popular, all of it or a part."""
        return self.eviction in ("static", "hot_lru")

    @property
    def hot_share(self) -> float:
        """Of the slots of a `hot_lru`, those whose experts stay."""
        return 0.5 if self.hot is None else self.hot

    def placed(self, popularity: PopularityProfile) -> Cache:
        """A cache that holds what was chosen most in `popularity`; one that chooses as it runs stays as it is."""
        return replace(self, popularity=popularity) if self.holds_popular else self

    def capacity(self, n_layers: int, n_experts: int) -> int | None:
        """Slots for `n_layers` MoE layers of `n_experts`; None: what is left."""
        if self.n_slots is not None or self.ratio is None:
            return self.n_slots
        return max(1, round(n_layers * n_experts * self.ratio))
