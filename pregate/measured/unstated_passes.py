"""Prompts whose rows do not state in which passes they were read: each pass copies the experts of the host again.

Engines of llama.cpp's family read 512 tokens a pass unless they are told more, which who streams experts often does. A
row that states nothing is predicted by the engine's own; its interval reaches from there to what `LARGEST` would give,
or the largest that memory has room for.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from hwmodels.platform import Platform
from pregate.measured.rows.measured_row import MeasuredRow

LARGEST = 4096
"""Tokens of the largest pass that is usual: of fifteen prompts of the field that state theirs eight have it."""

_WITH_A_PROMPT = ("prefill_tokens_per_s", "ttft", "tokens_per_s", "total_tokens_per_s", "requests_per_s", "e2el")
"""Metrics of rows whose time has a prompt in it."""


def in_larger_passes(row: MeasuredRow, hw: Platform) -> Iterator[MeasuredRow]:
    """The row with its prompts in larger passes than the engine's own, the largest usual ones first, each half of that
    before; none where it states its own, where prompts are no longer than one, or where no weights wait on the host.
    """
    placement = row.design().placement
    if row.metric not in _WITH_A_PROMPT or row.load or placement is None or placement.micro_batch is not None:
        return
    if not placement.fits and placement.host_experts is None and placement.host_layers is None:
        return
    own = placement.execution(hw.execution)
    if not own.stream_tokens or own.streams_from != "gate":
        return
    size = min(LARGEST, row.input_tokens * max(row.batch, 1))
    while size > own.micro_batch > 0:
        policy = "@".join(filter(None, (row.policy, row.placement, f"ubatch={size}")))
        yield dataclasses.replace(row, policy=policy, placement="")
        size //= 2
