"""What others state of a model's parameter counts, with sources, to hold the counts of its architecture against."""

from __future__ import annotations

import math
from dataclasses import dataclass

from traces.errors import InvalidInput


@dataclass(frozen=True, slots=True)
class PublishedCount:
    """A parameter count that the model's authors, or those who measured its checkpoint, state.

    `rounding` is how far the printed digits may lie from the exact count, 0 when they are precise enough.
    `counts_input_embedding` is False where the source leaves the input table out of the count.
    """

    value: float
    source: str
    rounding: float = 0.0
    counts_input_embedding: bool = True
    note: str = ""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.value) and self.value > 0):
            raise InvalidInput(f"published count {self.value}, expected a positive number")
        if not 0 <= self.rounding < self.value:
            raise InvalidInput(f"rounding {self.rounding} of a published count of {self.value:g}")


@dataclass(frozen=True, slots=True)
class PublishedCounts:
    """The published counts of one model; None where no source states one.

    "Active" means the parameters one token meets, which encoder-decoder models do not publish.
    """

    total_params: PublishedCount | None = None
    active_params: PublishedCount | None = None


NOT_PUBLISHED = PublishedCounts()
"""Of a model whose counts nobody states."""
