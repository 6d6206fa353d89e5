"""Trees of drafts that are grown anew for each pass, by how sure the draft is of what it proposes there.

EAGLE-2 (Li et al., arXiv:2406.16858, sections 3 and 4): acceptance depends on the context, and a draft's confidence
says it. The draft expands the `width` most confident nodes of a level, each by as many proposals, and of all of them
the model verifies those of the largest products of confidences on their paths.
"""

from __future__ import annotations

from dataclasses import dataclass

from traces.errors import InvalidInput
from traces.transforms.draft_trees import MAX_DEPTH, MAX_PROPOSALS

MAX_WIDTH = 64
"""Most nodes of a level that a draft expands: six times as many as EAGLE-2's ten."""


@dataclass(frozen=True, slots=True)
class GrownTrees:
    """`n_proposals` of a pass at most, in `n_levels` levels of which a draft expands `width` nodes each.

    `varies`: how much of the variance of what is taken is known from the context, from 0 (a place is like any other of
    its depth) to below 1 (a draft knows of each place which of its guesses are as likely as one another). Raises
    `InvalidInput` for numbers out of range.
    """

    n_proposals: int
    n_levels: int
    width: int
    varies: float

    def __post_init__(self) -> None:
        if not 1 <= self.n_proposals <= MAX_PROPOSALS:
            raise InvalidInput(f"grown = {self.n_proposals}: 1 to {MAX_PROPOSALS} are drafted for a pass")
        if not 1 <= self.n_levels <= MAX_DEPTH:
            raise InvalidInput(f"depth = {self.n_levels}: a draft is 1 to {MAX_DEPTH} tokens deep")
        if not 1 <= self.width <= MAX_WIDTH:
            raise InvalidInput(f"width = {self.width}: a draft expands 1 to {MAX_WIDTH} nodes of a level")
        if not 0 <= self.varies < 1:
            raise InvalidInput(f"varies = {self.varies:g}: how much is known from the context, from 0 to below 1")

    @property
    def n_read(self) -> tuple[int, ...]:
        """Nodes that the draft reads at each depth, from 0, whatever becomes of them."""
        return (1,) + (self.width,) * (self.n_levels - 1)
