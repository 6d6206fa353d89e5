"""Predictors that any other is held against: popularity, the token before, the sequence so far, and no knowledge."""

from __future__ import annotations

import numpy as np

from offload.predictors.guesser import Before, Chosen, Scores, one_hot

_TIE = 1e-4
"""Weight of popularity among experts that are equal otherwise."""


class Popular:
    """The experts that were chosen most, whatever came before."""

    def __init__(self, n_layers: int, n_experts: int) -> None:
        self._counts = np.zeros((n_layers, n_experts), np.float32)
        self._seen: list[tuple[int, Chosen]] = []
        self._before: Before | None = None

    def begin(self, before: Before) -> None:
        """A pass begins."""
        self._seen, self._before = [], before

    def saw(self, layer: int, chosen: Chosen) -> None:
        """Remember what to learn."""
        self._seen.append((layer, chosen))

    def scores(self, layer: int) -> Scores:
        """The share of each expert, the same for every token."""
        assert self._before is not None
        share = self._counts[layer] / max(float(self._counts[layer].sum()), 1.0)
        return np.tile(share, (len(self._before.group), 1))

    def learn(self) -> None:
        """Count the choices of this pass."""
        for layer, chosen in self._seen:
            self._counts[layer] += np.bincount(chosen[chosen >= 0], minlength=self._counts.shape[1])


class PreviousToken(Popular):
    """The experts that the token before chose at the same layer; then the popular ones."""

    def scores(self, layer: int) -> Scores:
        """1 for the experts of the token before, and a little for popularity."""
        assert self._before is not None
        again = one_hot(self._before.previous[:, layer], self._counts.shape[1])
        return again + _TIE * super().scores(layer)


class SequenceSoFar(Popular):
    """The experts that the sequence has chosen most at the layer; then the popular ones."""

    def scores(self, layer: int) -> Scores:
        """How often the sequence has chosen each, and a little for popularity."""
        assert self._before is not None
        own = self._before.counts[:, layer][self._before.group]
        return own + _TIE * super().scores(layer)


class Uniform:
    """Every expert as likely as any other: the control that says what no information is worth."""

    def __init__(self, n_layers: int, n_experts: int, seed: int = 0) -> None:
        self._n_experts, self._n_tokens = n_experts, 0
        self._rng = np.random.default_rng(seed)

    def begin(self, before: Before) -> None:
        """A pass begins."""
        self._n_tokens = len(before.group)

    def saw(self, layer: int, chosen: Chosen) -> None:
        """Learn nothing."""

    def scores(self, layer: int) -> Scores:
        """A draw."""
        return self._rng.random((self._n_tokens, self._n_experts), dtype=np.float32)

    def learn(self) -> None:
        """Learn nothing."""
