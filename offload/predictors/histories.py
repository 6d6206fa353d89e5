"""What each sequence has done so far, as predictors are told it: pass by pass, or of many tokens at once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from offload.predictors.guesser import Before, one_hot

_CELLS = 1 << 24
"""Cells (tokens x layers x experts) of counts that are kept at a time."""

_FORGOTTEN = 4096
"""Sequences that are remembered; beyond it the one that ran longest ago is forgotten."""


class Histories:
    """Of every sequence the last token's experts and how often it has chosen each, kept pass by pass."""

    def __init__(self, n_layers: int, n_experts: int) -> None:
        self._shape = (n_layers, n_experts)
        self._counts: dict[int, NDArray[np.float32]] = {}
        self._last: dict[int, NDArray[np.int16]] = {}

    def before(self, sequence: NDArray[np.int32], top_k: int) -> Before:
        """What the sequences of a pass, (n_tokens,), did before it; several tokens of one share their counts."""
        named, group = np.unique(sequence, return_inverse=True)
        zeros = np.zeros(self._shape, np.float32)
        counts = np.stack([self._counts.get(one, zeros) for one in named.tolist()])
        none = np.full((self._shape[0], top_k), -1, np.int16)
        previous = np.stack([self._last.get(one, none) for one in named.tolist()])[group]
        alone = np.bincount(group)[group] == 1  # of a prompt's tokens the one before is of the same pass
        return Before(np.where(alone[:, None, None], previous, np.int16(-1)), counts, group, named.astype(np.int64))

    def after(self, sequence: NDArray[np.int32], chosen: NDArray[np.int16]) -> None:
        """The pass is over: its tokens chose `chosen` (n_tokens, n_layers, top_k)."""
        hot = _all_hot(chosen, self._shape[1])
        for i, one in enumerate(sequence.tolist()):
            self._counts[one] = self._counts.pop(one, 0) + hot[i]
            self._last[one] = chosen[i]
        for one in list(self._counts)[: max(0, len(self._counts) - _FORGOTTEN)]:
            del self._counts[one], self._last[one]


class Tokens(NamedTuple):
    """Some tokens in the order of their sequences and positions: where they are, and what came before each."""

    at: NDArray[np.intp]
    before: Before


def tokens_of_sequences(
    sequence: NDArray[np.int32], chosen: NDArray[np.int16], n_experts: int, wanted: NDArray[np.bool_]
) -> Iterator[Tokens]:
    """The `wanted` of many tokens, some at a time, with what came before each in its sequence; one group a token.

    `sequence`, `wanted` (n_tokens,), `chosen` (n_tokens, n_layers, top_k), sorted by sequence and position.
    """
    n, n_layers = len(sequence), chosen.shape[1]
    n_at_once = max(1, _CELLS // (n_layers * n_experts))
    counts, last = np.zeros((n_layers, n_experts), np.float32), np.full(chosen.shape[1:], -1, np.int16)
    for start in range(0, n, n_at_once):
        stop = min(start + n_at_once, n)
        so_far = np.empty((stop - start, n_layers, n_experts), np.float32)
        previous = np.empty_like(chosen[start:stop])
        for i in range(start, stop):
            if i == 0 or sequence[i] != sequence[i - 1]:
                counts, last = np.zeros_like(counts), np.full_like(last, -1)
            so_far[i - start], previous[i - start] = counts, last
            counts, last = counts + _all_hot(chosen[i : i + 1], n_experts)[0], chosen[i]
        keep = np.flatnonzero(wanted[start:stop])
        if keep.size:
            at = keep + start
            yield Tokens(at, Before(previous[keep], so_far[keep], np.arange(keep.size), sequence[at].astype(np.int64)))


def _all_hot(chosen: NDArray[np.int16], n_experts: int) -> NDArray[np.float32]:
    """(n_tokens, n_layers, n_experts) float32, 1 where a token has chosen."""
    n_tokens, n_layers, top_k = chosen.shape
    return one_hot(chosen.reshape(n_tokens * n_layers, top_k), n_experts).reshape(n_tokens, n_layers, n_experts)
