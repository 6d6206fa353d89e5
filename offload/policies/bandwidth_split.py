"""`bandwidth_split`: the misses of a block are divided between link and host by their bandwidths (FreeToken).

The link brings B_link / (B_link + B_cpu) of what is missing while the host computes the rest, so that both end at once.
`bandwidth_split` divides whole experts by their count, rounded to the nearest; `bandwidth_split/within` divides the
hidden units of every missing expert, which hits the fraction exactly and adds two partial results.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from offload.miss_costs import MissCosts, known, loads_of
from offload.policy import BlockView, Cache, MissAction, Policy

__all__ = ["ByBandwidth", "ByBandwidthWithin", "bandwidth_split", "bandwidth_split_within"]


def bandwidth_split() -> Policy:
    """Whole experts, beside a cache of what was used last."""
    return Policy("bandwidth_split", on_miss=ByBandwidth(), cache=Cache("lru"))


def bandwidth_split_within() -> Policy:
    """A share of every missing expert, beside a cache of the most popular, which are whole."""
    return Policy("bandwidth_split/within", on_miss=ByBandwidthWithin(), cache=Cache("static"))


@dataclass(frozen=True, slots=True)
class ByBandwidth:
    """Fetch the share of the misses that the link brings meanwhile, those first that serve most tokens."""

    costs: MissCosts | None = None

    def __call__(self, view: BlockView, missing: Sequence[int]) -> Mapping[int, MissAction]:
        """The answer to each missing expert."""
        n_fetched = int(len(missing) * known(self.costs).fetched_share + 0.5)
        loads = loads_of(view, missing)
        return {load.expert: MissAction.FETCH if i < n_fetched else MissAction.CPU for i, load in enumerate(loads)}


@dataclass(frozen=True, slots=True)
class ByBandwidthWithin:
    """Fetch that share of every missing expert; the host computes the rest of it."""

    costs: MissCosts | None = None

    def __call__(self, view: BlockView, missing: Sequence[int]) -> Mapping[int, MissAction]:
        """The answer to each missing expert."""
        return dict.fromkeys(missing, MissAction(share=known(self.costs).fetched_share))
