"""`mixed_precision`: a missing expert comes whole, in fewer bits or not at all, by its gate score (HOBBIT).

The experts of a token are taken by falling gate weight, as shares of the token's. What is before an expert in that
order is its unimportance: up to 0.6 it comes as stored, up to 0.9 in a quarter of the bits, else it is skipped. An
expert of several tokens is as important as to the one that needs it most. Copies in fewer bits pass through: what a
cache keeps is as stored. Left out: HOBBIT's cache of such copies, and its prefetches.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from offload.policy import BlockView, Cache, Decisions, MissAction, Policy, RunFacts
from traces.errors import InvalidInput

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["ByScore", "mixed_precision", "stated_weights", "unimportance"]

HIGH, LOW, SHARE_OF_BITS = 0.6, 0.9, 0.25
"""The thresholds of arXiv:2411.01433, and int4 beside float16 or int2 beside int8."""


def mixed_precision() -> Policy:
    """Beside a cache of what was used most, in all HBM that is left."""
    return Policy("mixed_precision", start=_start, cache=Cache("lfu"), is_exact=False)


def _start(facts: RunFacts) -> Decisions:
    return Decisions(on_miss=ByScore(HIGH, LOW, facts.expert_bits * SHARE_OF_BITS))


@dataclass(frozen=True, slots=True)
class ByScore:
    """The answer to each miss by its unimportance: whole up to `high`, in `bits` up to `low`, skipped beyond."""

    high: float
    low: float
    bits: float

    def __post_init__(self) -> None:
        if not 0 <= self.high <= self.low:
            raise InvalidInput(f"high = {self.high:g}, low = {self.low:g}: 0 <= high <= low is needed")

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


def stated_weights(i_step: int, block: int, chosen: NDArray[np.int16], n_experts: int) -> NDArray[np.float64]:
    """Gate weights for a trace that has none: softmax over the k largest of n_experts standard normal router logits.

    The first expert of a token gets the largest. Drawn anew for each step and block, the same in every run.
    """
    import numpy as np

    rng = np.random.default_rng((0, i_step, block))
    logits = -np.sort(-rng.standard_normal((len(chosen), n_experts)), axis=1)[:, : chosen.shape[1]]
    exponents = np.where(chosen >= 0, np.exp(logits), 0.0)
    weights: NDArray[np.float64] = exponents / np.maximum(exponents.sum(axis=1, keepdims=True), 1e-300)
    return weights
