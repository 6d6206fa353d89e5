"""`pregate/next_token`: gates of a token select the experts of the next one, exactly (Edge0-8B-A1B, arXiv 2609.18063).

A layer's head selects for the layer after it and the next token: a pass begins with its experts known. Layers before
the model's `pregated_from` (where it says none, the first with experts) and prompts select for themselves, on demand.

Differs: one block is brought beside each that selects for itself, where Edge0's engine reads all before the pass; a
head is priced as a gate, and ids are read with the token.
"""

from __future__ import annotations

from offload.policy import Policy
from offload.prefetching.selected_ahead import BlocksInFlight

_MOST_BLOCKS = 128
"""Blocks on their way at once: all those of a pass, of any model there is."""


def pregate_next_token() -> Policy:
    """Experts come to the device from the beginning of a pass on, as slots allow."""
    return Policy("pregate/next_token", next_token=True, buffers=BlocksInFlight(_MOST_BLOCKS))
