"""`finemoe`: past tokens that took the nearest path say what comes three blocks on (FineMoE, arXiv:2502.05370).

Differs: no search by prompt embeddings; k experts are brought, or k + m, where the system's number follows the
likeness; a guess waits beside the cache, so that a wrong one evicts nothing, where the system lets it.
"""

from __future__ import annotations

from offload.policy import Cache, Policy
from offload.prefetching.guessed_ahead import AheadSlots, LearnsAsItRuns
from offload.prefetching.read_ahead import said_dram

DISTANCE = 3
"""Blocks ahead, as published."""


def finemoe(lookahead: int = DISTANCE, more: int = 0, dram: int = 0) -> Policy:
    """Guesses wait beside a cache by frequency."""
    name = "finemoe" if lookahead == DISTANCE else f"finemoe({lookahead})"
    return Policy(
        said_dram(f"{name}:more={more}" if more else name, lookahead, dram),
        start=LearnsAsItRuns("maps", lookahead, more, dram=dram),
        buffers=AheadSlots(lookahead, more),
        cache=Cache("lfu"),
    )
