"""What a predictor may know when it guesses, and what it must be able to do. Nothing of the future is in here.

A pass is some tokens that run through the layers together, ascending. `begin` says what the sequences of these tokens
did before; `saw` what a gate has chosen; `scores` asks for a layer whose gate has not run; `learn` closes the pass.
Learning and judging are separate calls, so that what is judged need never have been learnt from.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

Chosen = NDArray[np.int16]
"""The experts of each token at one layer: (n_tokens, top_k), -1 pads."""

Scores = NDArray[np.float32]
"""How likely each expert is, in any unit that ranks: (n_tokens, n_experts)."""


class Before(NamedTuple):
    """What the sequences of a pass did before it.

    previous  (n_tokens, n_layers, top_k) int16: what the token before chose in its sequence; -1 where there is none
    counts    (n_groups, n_layers, n_experts) float32: how often the sequence has chosen each expert
    group     (n_tokens,) int64: the row of `counts` that is of the token's sequence
    sequence  (n_groups,) int64: which sequence that is
    """

    previous: NDArray[np.int16]
    counts: NDArray[np.float32]
    group: NDArray[np.int64]
    sequence: NDArray[np.int64]


class Guesser(Protocol):
    """A predictor that ranks the experts of later layers."""

    def begin(self, before: Before) -> None:
        """A pass begins."""

    def saw(self, layer: int, chosen: Chosen) -> None:
        """The gate of `layer` has chosen; layers come ascending."""

    def scores(self, layer: int) -> Scores:
        """Every expert of a layer beyond those seen, for each token: the higher the likelier."""

    def learn(self) -> None:
        """Learn from the pass that began last."""


def one_hot(chosen: Chosen, n_experts: int) -> Scores:
    """(n_tokens, n_experts) float32, 1 where a token has chosen."""
    hot = np.zeros((len(chosen), n_experts + 1), np.float32)
    hot[np.arange(len(chosen))[:, None], chosen] = 1  # the last column takes the -1 pads
    return hot[:, :n_experts]


def ranked(scores: Scores, n: int) -> NDArray[np.int16]:
    """(n_tokens, n): the experts of the highest scores, the highest first; of equal ones the lowest number."""
    found: NDArray[np.int16] = np.argsort(-scores, axis=1, kind="stable")[:, :n].astype(np.int16)
    return found
