"""What gates have selected is brought ahead of their blocks, exactly (Pre-gated MoE, ISCA 2024)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from offload.policy import BlockView, Buffers, Fetch


@dataclass(frozen=True, slots=True)
class SelectedAhead:
    """Fetch what the gates have selected, `lookahead` blocks ahead; the first block also for the blocks between."""

    lookahead: int

    def blocks(self, block: int, n_blocks: int) -> range:
        """The blocks, of `n_blocks`, whose experts are brought at `block`."""
        first = 1 if block == 0 else block + self.lookahead
        return range(first, min(block + self.lookahead, n_blocks - 1) + 1)

    def __call__(self, view: BlockView) -> Sequence[Fetch]:
        """The newly revealed blocks."""
        revealed = ((block, view.revealed(block)) for block in self.blocks(view.block, view.n_blocks))
        return [Fetch(block, experts) for block, experts in revealed if experts is not None]


@dataclass(frozen=True, slots=True)
class BlocksInFlight:
    """Slots for the union of one block at least, of `n_blocks` to overlap fully."""

    n_blocks: int

    def __call__(self, n_active: int, n_experts: int) -> Buffers:
        """One block's at least, and `n_blocks` of it."""
        return Buffers(n_active, self.n_blocks * n_active)
