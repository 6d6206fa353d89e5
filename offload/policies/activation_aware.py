"""`activation_aware`: the nearest past sequence says what comes, the likely and the near first (MoE-Infinity).

arXiv:2401.14361: priority p x (1 - (i - l) / L), eviction of the least (p + eps) x (1 - i / L). Where the system keeps
one queue and sorts it anew at every layer, k experts are sent for at every block, of the next `HORIZON` blocks.
`activation_aware:dram=8` reads k of the four blocks behind these from storage into host memory.

Differs: a guess waits beside the cache, so that a wrong one evicts nothing, where the system lets it; the queue is k
experts of four blocks.
"""

from __future__ import annotations

from dataclasses import dataclass

from offload.policy import Cache, Decisions, Policy, RunFacts
from offload.prefetching.guessed_ahead import AheadSlots
from offload.prefetching.read_ahead import said_dram

HORIZON = 4
"""Blocks that are looked at; those beyond have so little priority that the link would seldom come to them."""


def activation_aware(dram: int = 0) -> Policy:
    """Its own eviction in all HBM that is left."""
    name, buffers = said_dram("activation_aware", HORIZON, dram), AheadSlots(HORIZON, 0)
    return Policy(name, start=_MostUrgent(dram), buffers=buffers, cache=Cache("activation"))


@dataclass(frozen=True, slots=True)
class _MostUrgent:
    """The prefetch of one run, made anew."""

    dram: int

    def __call__(self, facts: RunFacts) -> Decisions:
        from offload.predictors.running_guesses import ByPriority

        return Decisions(ByPriority("matrices", facts, HORIZON, facts.top_k, self.dram))
