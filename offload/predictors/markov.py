"""Layer-to-layer correlation: what follows the experts that the layer before has just chosen (a first-order chain)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from offload.predictors.guesser import Before, Chosen, Scores, one_hot


class Markov:
    """Sum over the experts e of the last layer seen of P(f | e) = (n(e, f) + p(f) / 2) / (n(e) + 1).

    n(e): tokens that chose e; n(e, f): of these, those that chose f a layer on; p(f): the share of all tokens that
    chose f. It gives the recalls that came with three recordings (LOG.md, 2026-11-29), which shares of choices, summing
    to 1, do not. A layer before any was seen is guessed by popularity.
    """

    def __init__(self, n_layers: int, n_experts: int, depths: tuple[int, ...] = (1,)) -> None:
        self._n_layers, self._n_experts = n_layers, n_experts
        self._popular = np.zeros((n_layers, n_experts), np.float32)
        self._n_learnt = np.zeros(n_layers, np.int64)
        self._after = {depth: np.zeros((n_layers, n_experts, n_experts), np.float32) for depth in depths}
        self._hot: list[Scores | None] = []
        self._n_tokens, self._last = 0, -1

    def begin(self, before: Before) -> None:
        """A pass begins."""
        self._hot, self._n_tokens, self._last = [None] * self._n_layers, len(before.group), -1

    def saw(self, layer: int, chosen: Chosen) -> None:
        """Remember the experts of the last layer."""
        self._hot[layer], self._last = one_hot(chosen, self._n_experts), layer

    def scores(self, layer: int) -> Scores:
        """The experts of `layer`, from those of the last layer seen."""
        popular = self._popular[layer] / np.float32(max(int(self._n_learnt[layer]), 1))
        hot = self._hot[self._last] if self._last >= 0 and layer - self._last in self._after else None
        if hot is None:
            return np.tile(popular, (self._n_tokens, 1))
        rows = np.flatnonzero(hot.any(axis=0))
        found: Scores = hot[:, rows] @ self._given(layer, rows, popular)
        return found

    def _given(self, layer: int, rows: NDArray[np.intp], popular: NDArray[np.float32]) -> Scores:
        """P(f | e) of experts `rows` of the last layer seen."""
        after = self._after[layer - self._last][self._last, rows]
        n_each = self._popular[self._last, rows][:, None]
        found: Scores = (after + np.float32(0.5) * popular) / (n_each + 1)
        return found

    def learn(self) -> None:
        """Count what followed what in this pass."""
        for layer, hot in enumerate(self._hot):
            if hot is None:
                continue
            self._popular[layer] += hot.sum(axis=0)
            self._n_learnt[layer] += len(hot)
            for depth, after in self._after.items():
                earlier = self._hot[layer - depth] if layer >= depth else None
                if earlier is not None:
                    rows = np.flatnonzero(earlier.any(axis=0))
                    after[layer - depth, rows] += earlier[:, rows].T @ hot
