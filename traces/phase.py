"""What a forward pass does: read a prompt, or make tokens."""

from __future__ import annotations

from enum import IntEnum


class Phase(IntEnum):
    """What a forward pass does: read the prompt (or run the encoder), or make one token a sequence."""

    PREFILL = 0
    DECODE = 1
