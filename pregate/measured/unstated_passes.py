"""Prompts whose rows do not state in which passes they were read: each pass copies the experts of the host again.

Engines of llama.cpp's family read 512 tokens a pass unless they are told more, which who streams experts often does. A
row that states nothing is predicted by the engine's own; its interval reaches from there to what `LARGEST` would give.
"""

from __future__ import annotations

import dataclasses

from hwmodels.platform import Platform
from pregate.engines.power_limits import PROMPT_METRICS
from pregate.measured.rows.measured_row import MeasuredRow

__all__ = ["LARGEST", "in_the_largest_pass"]

LARGEST = 4096
"""Tokens of the largest pass that is usual: rows that state theirs have 2,048 and 4,096, two 8,192."""


def in_the_largest_pass(row: MeasuredRow, hw: Platform) -> MeasuredRow | None:
    """The row with its prompt in the largest usual passes; None where it states its own, where it is no longer than the
    engine's, or where no weights are copied for a prompt.
    """
    placement = row.design().placement
    if row.metric not in PROMPT_METRICS or row.load or placement is None or placement.micro_batch is not None:
        return None
    if not placement.fits and placement.host_experts is None and placement.host_layers is None:
        return None
    own = placement.execution(hw.execution)
    if not own.stream_tokens or own.streams_from != "gate" or not own.micro_batch < row.input_tokens:
        return None
    policy = "@".join(filter(None, (row.policy, row.placement, f"ubatch={min(LARGEST, row.input_tokens)}")))
    return dataclasses.replace(row, policy=policy, placement="")
