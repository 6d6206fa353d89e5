"""Activation matrices (MoE-Infinity, arXiv:2401.14361): the past sequence whose counts are nearest says what comes.

A sequence is a matrix of how often it chose each expert of each layer. The matrix so far is compared by its cosine,
over the layers that have run, with those of other sequences; the row of a later layer in the nearest is the guess.
"""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
from numpy.typing import NDArray

from offload.predictors.guesser import Before, Chosen, Scores, one_hot

CAPACITY = 256
"""Sequences that are kept, the oldest go."""

_OWN = 1e-3
"""Weight of the sequence's own counts, which decide where no other is near and among equals."""


class ActivationMatrices:
    """The nearest of at most `capacity` other sequences, by cosine; one with no other is guessed by its own counts."""

    def __init__(self, n_layers: int, n_experts: int, capacity: int = CAPACITY) -> None:
        self._shape, self._capacity = (n_layers, n_experts), capacity
        self._kept: OrderedDict[int, NDArray[np.float32]] = OrderedDict()  # sequence -> (n_layers, n_experts)
        self._library: NDArray[np.float32] | None = None  # (n_kept, n_layers, n_experts), made when asked for
        self._begin_state()

    def _begin_state(self) -> None:
        self._before: Before | None = None
        self._own: NDArray[np.float32] | None = None
        self._dot = self._norm2 = self._kept_norm2 = np.zeros(0, np.float32)

    def begin(self, before: Before) -> None:
        """A pass begins: every sequence starts from its counts."""
        if self._library is None:
            self._library = (
                np.stack(list(self._kept.values())) if self._kept else np.zeros((0, *self._shape), np.float32)
            )
        self._before, self._own = before, before.counts.copy()
        n_groups, n_kept = len(before.sequence), len(self._library)
        self._dot = np.zeros((n_groups, n_kept), np.float32)
        self._norm2, self._kept_norm2 = np.zeros(n_groups, np.float32), np.zeros(n_kept, np.float32)

    def saw(self, layer: int, chosen: Chosen) -> None:
        """Add what the layer chose, and compare this layer."""
        assert self._before is not None
        assert self._own is not None
        assert self._library is not None
        np.add.at(self._own[:, layer], self._before.group, one_hot(chosen, self._shape[1]))
        own, kept = self._own[:, layer], self._library[:, layer]
        self._dot += own @ kept.T
        self._norm2 += (own * own).sum(axis=1)
        self._kept_norm2 += (kept * kept).sum(axis=1)

    def scores(self, layer: int) -> Scores:
        """The row of `layer` in the nearest matrix of another sequence."""
        assert self._before is not None
        assert self._own is not None
        assert self._library is not None
        own = _OWN * _rows_to_one(self._own[:, layer])
        if len(self._library):
            near = self._dot / np.sqrt(np.maximum(self._norm2[:, None] * self._kept_norm2, 1e-9))
            itself = np.array(list(self._kept))[None, :] == self._before.sequence[:, None]
            nearest = np.where(itself, -1.0, near).argmax(axis=1)
            own = own + np.where(itself.all(axis=1), 0.0, 1.0)[:, None] * _rows_to_one(self._library[nearest, layer])
        found: Scores = own[self._before.group].astype(np.float32)
        return found

    def learn(self) -> None:
        """Keep the matrix of every sequence of the pass as it is now."""
        assert self._before is not None
        assert self._own is not None
        for sequence, matrix in zip(self._before.sequence.tolist(), self._own, strict=True):
            self._kept.pop(sequence, None)
            self._kept[sequence] = matrix
        while len(self._kept) > self._capacity:
            self._kept.popitem(last=False)
        self._library = None


def _rows_to_one(counts: NDArray[np.float32]) -> NDArray[np.float32]:
    shares: NDArray[np.float32] = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1.0)
    return shares
