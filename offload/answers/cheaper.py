"""Each miss fetched or computed on the host, whichever is cheaper (Fiddler, ICLR 2025): as in its paper, and its code.

Both know two times of their machine, of one expert on the host and of its copy. Arithmetic on the device and the
hand-over of activations do not count.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from offload.policy import BlockView, MissAction
from offload.policy_parts.miss_costs import MissCosts, known, loads_of


@dataclass(frozen=True, slots=True)
class ShorterLane:
    """Minimise max(host, link) over the misses of a block.

    Copies take equally long, so those that are fetched are the ones that would take the host longest. Of equal choices
    the one with the fewest copies.
    """

    costs: MissCosts | None = None

    def __call__(self, view: BlockView, missing: Sequence[int]) -> Mapping[int, MissAction]:
        """The answer to each missing expert."""
        costs, loads = known(self.costs), loads_of(view, missing)
        n_fetched, shortest, host_s = len(loads), float(len(loads)), 0.0
        for n in range(len(loads) - 1, -1, -1):
            host_s += costs.on_host(loads[n].n_tokens)
            if max(n, host_s) <= shortest:
                n_fetched, shortest = n, max(float(n), host_s)
        return {load.expert: MissAction.FETCH if i < n_fetched else MissAction.CPU for i, load in enumerate(loads)}


@dataclass(frozen=True, slots=True)
class CheaperEach:
    """The host computes an expert where its tokens, one by one, take it less than the copy takes."""

    costs: MissCosts | None = None

    def __call__(self, view: BlockView, missing: Sequence[int]) -> Mapping[int, MissAction]:
        """The answer to each missing expert."""
        host = known(self.costs).on_host(1)
        return {
            expert: MissAction.CPU if n_tokens * host < 1.0 else MissAction.FETCH
            for expert, n_tokens in loads_of(view, missing)
        }
