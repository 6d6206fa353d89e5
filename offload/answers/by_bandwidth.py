"""Misses divided between link and host by their bandwidths, so that both end at once (FreeToken).

The link brings B_link / (B_link + B_cpu) of what is missing while the host computes the rest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from offload.policy import BlockView, MissAction
from offload.policy_parts.miss_costs import MissCosts, known, loads_of


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
