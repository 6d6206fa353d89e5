"""A miss comes whole, in fewer bits or not at all, by its gate score (HOBBIT, arXiv:2411.01433).

The experts of a token are taken by falling gate weight, as shares of the token's. What is before an expert in that
order is its unimportance. An expert of several tokens is as important as to the one that needs it most.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from offload.caches.gate_output import stated_weights
from offload.policy import BlockView, Decisions, MissAction, RunFacts
from traces.errors import InvalidInput

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


SHARE_OF_BITS = 0.25
"""Of the stored bits, where a design does not say how many: int4 beside float16, or int2 beside int8."""


@dataclass(frozen=True, slots=True)
class Scored:
    """Makes the decisions of a run by its thresholds. Raises `InvalidInput` for what `ByScore` refuses."""

    high: float
    low: float
    bits: float | None

    def __post_init__(self) -> None:
        ByScore(self.high, self.low, 1.0 if self.bits is None else self.bits)

    def __call__(self, facts: RunFacts) -> Decisions:
        """Misses are answered by score."""
        return Decisions(on_miss=ByScore(self.high, self.low, self.bits_of(facts.expert_bits)))

    def bits_of(self, stored: float) -> float:
        """Of a parameter that a model stores in `stored` bits, those in which it comes where it comes in fewer."""
        return stored * SHARE_OF_BITS if self.bits is None else self.bits


@dataclass(frozen=True, slots=True)
class ByScore:
    """The answer to each miss by its unimportance: whole up to `high`, in `bits` up to `low`, skipped beyond."""

    high: float
    low: float
    bits: float

    def __post_init__(self) -> None:
        if not 0 <= self.high <= self.low <= 1:
            raise InvalidInput(f"high = {self.high:g}, low = {self.low:g}: 0 <= high <= low <= 1 is needed")
        if not 0 < self.bits <= 64:
            raise InvalidInput(f"bits = {self.bits:g} a parameter: above 0, at most 64")

    def __call__(self, view: BlockView, missing: Sequence[int]) -> Mapping[int, MissAction]:
        """The answer to each missing expert. Raises `InvalidInput` where nobody knows what tokens chose."""
        chosen = view.chosen(view.block)
        if chosen is None:
            raise InvalidInput("mixed_precision decides by what each token chose, which this block does not say")
        weights: Any = view.gate_weights(view.block)
        if weights is None:
            weights = stated_weights(view.i_step, view.block, chosen, view.n_experts)
        scores = unimportance(chosen, weights, view.n_experts)
        return {expert: self._answer(float(scores[expert])) for expert in missing}

    def _answer(self, score: float) -> MissAction:
        if score <= self.high:
            return MissAction.FETCH
        return MissAction(bits=self.bits) if score <= self.low else MissAction.SKIP


def unimportance(chosen: NDArray[np.int16], weights: NDArray[Any], n_experts: int) -> NDArray[np.float64]:
    """(n_experts,): the share of gate weight before each expert, of the token where that is least; 1 for the others.

    `chosen`, `weights`: (n_tokens, top_k), -1 pads. A token whose weights are all 0 weighs its experts alike.
    """
    import numpy as np

    named = chosen >= 0
    own = np.where(named, np.maximum(weights.astype(np.float64), 0.0), 0.0)
    own = np.where(named & (own.sum(axis=1, keepdims=True) == 0), 1.0, own)
    order = np.argsort(-np.where(named, own, -1.0), axis=1, kind="stable")
    sorted_own = np.take_along_axis(own, order, axis=1)
    total = np.maximum(sorted_own.sum(axis=1, keepdims=True), 1e-300)
    before = (np.cumsum(sorted_own, axis=1) - sorted_own) / total
    experts, there = np.take_along_axis(chosen, order, axis=1), np.take_along_axis(named, order, axis=1)
    found = np.ones(n_experts)
    np.minimum.at(found, experts[there], before[there])
    return found
