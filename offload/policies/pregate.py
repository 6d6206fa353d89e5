"""`pregate`: the gate of block N selects the experts of block N + n, exactly (Pre-gated MoE, ISCA 2024).

The first block has a gate for itself and for every block its pre-gate would have needed an earlier one for;
the last n blocks have none; nothing crosses forward passes.
"""

from __future__ import annotations

from typing import Literal

from offload.policy import Policy
from offload.prefetching.read_ahead import said_dram, selected_ahead
from offload.prefetching.selected_ahead import BlocksInFlight
from traces.errors import InvalidInput


def pregate(lookahead: int = 1, encoder: Literal["on_demand", "same"] = "on_demand", dram: int = 0) -> Policy:
    """Experts come to the device `lookahead` >= 1 blocks ahead, which gates select as far ahead as that, or `dram`.

    Raises `InvalidInput` below 1: 0 is `on_demand`.
    """
    if lookahead < 1:
        raise InvalidInput(f"pregate lookahead = {lookahead} is below 1: 0 blocks ahead is on_demand")
    return Policy(
        said_dram("pregate" if lookahead == 1 else f"pregate({lookahead})", lookahead, dram),
        lookahead=max(lookahead, dram),
        prefetch=selected_ahead(lookahead, dram),
        buffers=BlocksInFlight(lookahead + 1),
        encoder=encoder,
    )
