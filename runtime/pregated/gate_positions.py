"""Where the gate of a MoE block sits: in the block itself, or n blocks before it (Pre-gated MoE, ISCA 2024).

The first block has its own gate and, pre-gated, those of the next n blocks; the last n blocks have none. Nothing here
knows a tensor.
"""

from __future__ import annotations

from traces.errors import InvalidInput


def gates_at(block: int, lookahead: int, n_blocks: int) -> range:
    """The MoE blocks whose gates run in `block`: its own alone where `lookahead` is 0, none in the last blocks."""
    if not lookahead:
        return range(block, block + 1)
    first = 0 if block == 0 else block + lookahead
    return range(first, min(block + lookahead, n_blocks - 1) + 1)


def check_lookahead(lookahead: int, n_blocks: int) -> None:
    """Raise `InvalidInput` for gates that would look behind, or past the last of `n_blocks` MoE blocks."""
    if not 0 <= lookahead < n_blocks:
        raise InvalidInput(f"lookahead = {lookahead} of {n_blocks} MoE blocks: from 0 (conventional) to {n_blocks - 1}")
