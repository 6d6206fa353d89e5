"""`pregate`: the gate of block N selects the experts of block N + n, exactly (Pre-gated MoE, ISCA 2024).

The first block has a gate for itself and for every block its pre-gate would have needed an earlier one for;
the last n blocks have none; nothing crosses forward passes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from offload.policy import BlockView, Buffers, Fetch, Policy
from traces.errors import InvalidInput


def pregate(lookahead: int = 1, encoder: Literal["on_demand", "same"] = "on_demand") -> Policy:
    """Pre-gating `lookahead` >= 1 blocks ahead. Raises `InvalidInput` below 1: 0 is `on_demand`."""
    if lookahead < 1:
        raise InvalidInput(f"pregate lookahead = {lookahead} is below 1: 0 blocks ahead is on_demand")
    return Policy(
        "pregate" if lookahead == 1 else f"pregate({lookahead})",
        lookahead=lookahead,
        prefetch=_selected_ahead(lookahead),
        buffers=lambda n_active, n_experts: Buffers(n_active, (lookahead + 1) * n_active),
        encoder=encoder,
    )


def _selected_ahead(lookahead: int) -> Callable[[BlockView], Sequence[Fetch]]:
    def prefetch(view: BlockView) -> Sequence[Fetch]:
        first = 1 if view.block == 0 else view.block + lookahead
        last = min(view.block + lookahead, view.n_blocks - 1)
        revealed = ((block, view.revealed(block)) for block in range(first, last + 1))
        return [Fetch(block, experts) for block, experts in revealed if experts is not None]

    return prefetch
