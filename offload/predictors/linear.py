"""A learned predictor: one linear map a layer from what is known to the experts, by ridge regression.

What is known of a token: the experts of the last two layers seen, those of the token before at the layer asked for, and
how often its sequence has chosen each there. It stands for the small networks of learned designs (ProMoE), which read
hidden states; those are not in a routing trace, so this is a lower bound of them.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from offload.predictors.guesser import Before, Chosen, Scores, one_hot

_RIDGE = 3.0
"""Weight of the penalty, in tokens."""

_KEPT = 4096
"""Tokens that are learnt from at most, the newest."""

_KEPT_CELLS = 1 << 24
"""Cells (tokens x layers x experts) of the counts that are kept with them at most."""


class _Past(NamedTuple):
    """Tokens to learn from: what they chose, what came before in their sequences, and how often."""

    chosen: NDArray[np.int16]
    previous: NDArray[np.int16]
    counts: NDArray[np.float32]


class Linear:
    """Expert indicators regressed on what is known, anew each time that the tokens to learn from have doubled, or as
    many new ones have come as are kept.
    """

    def __init__(self, n_layers: int, n_experts: int) -> None:
        self._n_layers, self._n_experts = n_layers, n_experts
        self._n_kept = max(64, min(_KEPT, _KEPT_CELLS // (n_layers * n_experts)))
        self._past: list[_Past] = []
        self._n_past = self._n_seen = 0
        self._due = 1
        self._weights: dict[tuple[int, int], NDArray[np.float32]] = {}
        self._fitted: _Past | None = None
        self._seen: list[Chosen | None] = []
        self._before: Before | None = None
        self._last = -1

    def begin(self, before: Before) -> None:
        """A pass begins."""
        self._before, self._seen, self._last = before, [None] * self._n_layers, -1
        if self._n_seen >= self._due:
            whole = _Past(*(np.concatenate(parts)[-self._n_kept :] for parts in zip(*self._past, strict=True)))
            self._past, self._fitted, self._weights = [whole], whole, {}
            self._due = self._n_seen + min(len(whole.chosen), self._n_kept)

    def saw(self, layer: int, chosen: Chosen) -> None:
        """Remember the experts of a layer."""
        self._seen[layer], self._last = chosen, layer

    def scores(self, layer: int) -> Scores:
        """The experts of `layer` by the map learnt for it; zeros before there is one."""
        assert self._before is not None
        before, last = self._before, self._seen[self._last]
        second = self._seen[self._last - 1] if self._last else None
        if self._fitted is None or last is None or (second is None and self._last):
            return np.zeros((len(before.group), self._n_experts), np.float32)
        found: Scores = self._known(
            last, second, before.previous[:, layer], before.counts[:, layer][before.group]
        ) @ self._weights_of(layer)  # fmt: skip
        return found

    def learn(self) -> None:
        """Keep the tokens of this pass that chose at every layer."""
        before = self._before
        if before is None or any(chosen is None for chosen in self._seen):
            return
        chosen = np.stack([one for one in self._seen if one is not None], axis=1)[-self._n_kept :]
        rows = slice(len(before.group) - len(chosen), None)
        whole = (chosen >= 0).all(axis=(1, 2))
        counts = before.counts[before.group[rows]]
        self._past.append(_Past(chosen[whole], before.previous[rows][whole], counts[whole]))
        self._n_seen += int(whole.sum())

    def _known(
        self, last: Chosen, second: Chosen | None, previous: Chosen, counts: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """(n_tokens, n_features) of what is known of tokens for one layer."""
        n = self._n_experts
        columns = [one_hot(last, n), one_hot(previous, n)]
        columns.append(counts / np.maximum(counts.sum(axis=1, keepdims=True), 1.0) * last.shape[1])
        columns += [] if second is None else [one_hot(second, n)]
        return np.concatenate([*columns, np.ones((len(last), 1), np.float32)], axis=1)

    def _weights_of(self, layer: int) -> NDArray[np.float32]:
        """(n_features, n_experts): the map to `layer` from the last layer seen."""
        key = (layer, self._last)
        if key not in self._weights:
            past = self._fitted
            assert past is not None
            second = past.chosen[:, self._last - 1] if self._last else None
            known = self._known(past.chosen[:, self._last], second, past.previous[:, layer], past.counts[:, layer])
            self._weights[key] = _ridge(known, one_hot(past.chosen[:, layer], self._n_experts))
        return self._weights[key]


def _ridge(known: NDArray[np.float32], wanted: NDArray[np.float32]) -> NDArray[np.float32]:
    """The least squares of `known @ weights - wanted`, penalised; by whichever of its two forms is smaller."""
    n, n_features = known.shape
    penalty = _RIDGE * np.eye(min(n, n_features), dtype=np.float32)
    found: NDArray[np.float32]
    if n < n_features:
        found = known.T @ np.linalg.solve(known @ known.T + penalty, wanted)
    else:
        found = np.linalg.solve(known.T @ known + penalty, known.T @ wanted)
    return found
