"""`prefetch_all`: while block N runs, move all experts of block N + 1 (SE-MoE, ZeRO-Inference).

`prefetch_all:dram=2` has those of block N + 2 read from storage into host memory meanwhile, as SE-MoE's two dimensions.

Differs: weights outside of experts stay in HBM, where ZeRO-Inference streams these too (`@weights=stream`).
"""

from __future__ import annotations

from collections.abc import Sequence

from offload.policy import BlockView, Buffers, Fetch, Policy
from offload.prefetching.read_ahead import ReadsAhead, WholeBlocksAhead, said_dram


def prefetch_all(dram: int = 0) -> Policy:
    """Every expert of the next block, whatever its gate will say."""
    prefetch = ReadsAhead(whole_next_block, WholeBlocksAhead(dram)) if dram else whole_next_block
    return Policy(said_dram("prefetch_all", 1, dram), prefetch=prefetch, buffers=_two_blocks, needs_ids=False)


def whole_next_block(view: BlockView) -> Sequence[Fetch]:
    """All experts of the next block; the first block waits for all of its own too."""
    every = tuple(range(view.n_experts))
    fetches = [Fetch(0, every)] if view.block == 0 else []
    if view.block + 1 < view.n_blocks:
        fetches.append(Fetch(view.block + 1, every))
    return fetches


def _two_blocks(n_active: int, n_experts: int) -> Buffers:
    return Buffers(n_experts, 2 * n_experts)
