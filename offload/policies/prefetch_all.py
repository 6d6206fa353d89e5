"""`prefetch_all`: while block N runs, move all experts of block N + 1 (SE-MoE, ZeRO-Inference)."""

from __future__ import annotations

from collections.abc import Sequence

from offload.policy import BlockView, Buffers, Fetch, Policy


def prefetch_all() -> Policy:
    """Every expert of the next block, whatever its gate will say."""
    return Policy("prefetch_all", prefetch=whole_next_block, buffers=_two_blocks, needs_ids=False)


def whole_next_block(view: BlockView) -> Sequence[Fetch]:
    """All experts of the next block; the first block waits for all of its own too."""
    every = tuple(range(view.n_experts))
    fetches = [Fetch(0, every)] if view.block == 0 else []
    if view.block + 1 < view.n_blocks:
        fetches.append(Fetch(view.block + 1, every))
    return fetches


def _two_blocks(n_active: int, n_experts: int) -> Buffers:
    return Buffers(n_experts, 2 * n_experts)
