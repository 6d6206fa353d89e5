"""`chunked_learned`: a learned predictor, whose copies give way to what is missing (ProMoE, arXiv:2410.22134).

Copies are cut, and those brought ahead give way between two chunks, where the link is so: `--modes
priority,chunk:1MiB,cancel`, or as the design's own `:granularity=1MiB`.

Differs: the predictor is linear in what gates have chosen, where the system's reads hidden states.
"""

from __future__ import annotations

from offload.policy import Cache, Policy
from offload.prefetching.guessed_ahead import AheadSlots, LearnsAsItRuns
from offload.prefetching.read_ahead import said_dram


def chunked_learned(lookahead: int = 1, more: int = 0, dram: int = 0) -> Policy:
    """Guesses wait beside an LRU that takes all HBM that is left."""
    name = "chunked_learned" if lookahead == 1 else f"chunked_learned({lookahead})"
    return Policy(
        said_dram(f"{name}:more={more}" if more else name, lookahead, dram),
        start=LearnsAsItRuns("learned", lookahead, more, dram=dram),
        buffers=AheadSlots(lookahead, more),
        cache=Cache("lru"),
    )
