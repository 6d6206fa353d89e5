"""`oracle`: every block's experts are known `lookahead` blocks before, and evicted is what is needed last (Belady).

The ceiling of designs that fetch within a forward pass: exact guesses that cost no gate and wait for no id.
"""

from __future__ import annotations

from offload.policy import Cache, Policy
from offload.prefetching.read_ahead import said_dram, selected_ahead
from offload.prefetching.selected_ahead import BlocksInFlight
from traces.errors import InvalidInput


def oracle(lookahead: int = 1, dram: int = 0) -> Policy:
    """The cache takes all HBM that is left. Raises `InvalidInput` below 1."""
    if lookahead < 1:
        raise InvalidInput(f"oracle({lookahead}) knows at least 1 block ahead: 0 is on_demand+belady")
    return Policy(
        said_dram("oracle" if lookahead == 1 else f"oracle({lookahead})", lookahead, dram),
        lookahead=max(lookahead, dram),
        prefetch=selected_ahead(lookahead, dram),
        buffers=BlocksInFlight(lookahead + 1),
        needs_ids=False,
        cache=Cache("belady"),
        is_ceiling=True,
    )
