"""`finemoe`: past tokens that took the nearest path say what comes three blocks on (FineMoE, arXiv:2502.05370).

Left out: the search by prompt embeddings, and a number of guesses that follows the likeness; k are brought, or k + m.
"""

from __future__ import annotations

from offload.policy import Cache, Policy
from offload.prefetching.guessed_ahead import AheadSlots, LearnsAsItRuns
from offload.prefetching.read_ahead import said_dram

DISTANCE = 3
"""Blocks ahead, as published."""


def finemoe(lookahead: int = DISTANCE, more: int = 0, dram: int = 0) -> Policy:
    """Guesses wait beside a cache by frequency: a wrong one evicts nothing, where the system lets it."""
    name = "finemoe" if lookahead == DISTANCE else f"finemoe({lookahead})"
    return Policy(
        said_dram(f"{name}:more={more}" if more else name, lookahead, dram),
        start=LearnsAsItRuns("maps", lookahead, more, dram=dram),
        buffers=AheadSlots(lookahead, more),
        cache=Cache("lfu"),
    )
