"""What experts are worth by what gates have said, looked up or not (`offload.caches.eviction_ranked.Rank`)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from offload.caches.eviction import Key
from offload.caches.gate_output import GateOutput
from offload.caches.pool_shape import PoolShape

MRS_ALPHA = 0.75
"""Weight of the newest scores. HybriMoE's paper does not print its own; public reimplementations take 0.75."""

EPSILON = 1e-6
"""What MoE-Infinity's code adds to shares, so that the layer decides between experts that were never chosen."""


class Mrs:
    """Minus recent score (HybriMoE, arXiv:2504.05897, section IV.D): the lowest running mean of gate scores goes.

    At every gate each expert of its layer gets `S = a * TopP(s) + (1 - a) * S`: s its score, the mean over tokens, of
    the p = 2 k highest, 0 for the others. Traces hold the scores of chosen experts alone, so those of the others are 0
    here while the paper has them to p.
    """

    def __init__(self, shape: PoolShape) -> None:
        self._n_experts, self._score = shape.n_experts, np.zeros(shape.n_keys)

    def gated(self, output: GateOutput, first: Key) -> None:
        """Move the scores of the layer's experts towards those of this event."""
        self._score[first : first + self._n_experts] *= 1 - MRS_ALPHA
        ranked = sorted(zip(output.scores, output.experts, strict=True), key=lambda item: (-item[0], item[1]))
        for score, expert in ranked[: 2 * output.top_k]:
            self._score[first + expert] += MRS_ALPHA * (score / output.n_tokens)

    def values(self) -> NDArray[np.float64]:
        """Scores of late."""
        return self._score


class ActivationAware:
    """MoE-Infinity's eviction (arXiv:2401.14361): the lowest `(p + eps) * (1 - i / L)` goes.

    p is the expert's share of what its layer, the i-th of L, has activated in this request, over tokens; it starts anew
    with every request.
    """

    def __init__(self, shape: PoolShape) -> None:
        self._n_activated = np.zeros((shape.n_layers, shape.n_experts))
        self._share = np.zeros((shape.n_layers, shape.n_experts))
        self._of_layer = (1 - np.arange(shape.n_layers) / shape.n_layers)[:, None]
        self._begun_in = -1  # the step that the request began with

    def gated(self, output: GateOutput, first: Key) -> None:
        """Count the activations of this event."""
        if output.new_request and output.i_step != self._begun_in:
            self._n_activated[:] = self._share[:] = 0
            self._begun_in = output.i_step
        row = self._n_activated[output.layer]
        row[output.experts] += output.tokens
        self._share[output.layer] = row / row.sum()

    def values(self) -> NDArray[np.float64]:
        """Shares of the request, for less in a late layer."""
        values: NDArray[np.float64] = ((self._share + EPSILON) * self._of_layer).ravel()
        return values


class ReleasedActivation:
    """The eviction score of MoE-Infinity's released code: the lowest `topology * request * frequency` goes.

    Each factor is a share of 1 plus `EPSILON`: activations of all requests, activations of this request within its
    layer, and a weight of the layer. That is written for encoder and decoder halves, and halves any model: 1 up to the
    layer that runs, in its half; of all others `1 - i / n` in the first half of n layers, `i / (n + 1)` in the second.
    Source: moe_infinity/memory/expert_priority_score.py (priority_score).
    """

    def __init__(self, shape: PoolShape) -> None:
        self._n_layers = shape.n_layers
        self._ever = np.zeros((shape.n_layers, shape.n_experts))
        self._now = np.zeros((shape.n_layers, shape.n_experts))
        self._begun_in, self._layer = -1, 0

    def gated(self, output: GateOutput, first: Key) -> None:
        """Count the activations of this event."""
        if output.new_request and output.i_step != self._begun_in:
            self._now[:] = 0
            self._begun_in = output.i_step
        self._layer = output.layer
        for counts in (self._ever, self._now):
            counts[output.layer, output.experts] += output.tokens

    def values(self) -> NDArray[np.float64]:
        """The product of the three shares."""
        half = self._n_layers // 2
        ever = self._ever.copy()
        for part in (ever[:half], ever[half:]):
            if not part.any():
                part[:] = 1
        request = self._now.copy()
        request[~request.any(axis=1)] = 1
        request /= request.sum(axis=1, keepdims=True)
        values: NDArray[np.float64] = _share(self._topology()[:, None]) * _share(request) * _share(ever)
        return values.ravel()

    def _topology(self) -> NDArray[np.float64]:
        """The weight of each layer, (n_layers,), while `_layer` runs."""
        half, layer = self._n_layers // 2, np.arange(self._n_layers)
        weight: NDArray[np.float64] = np.where(layer < half, 1 - layer / max(half, 1), (layer - half) / (half + 1))
        own = (layer < half) == (self._layer < half)
        weight[own & (layer <= self._layer)] = 1.0
        return weight


def _share(values: NDArray[np.float64]) -> NDArray[np.float64]:
    shares: NDArray[np.float64] = values / values.sum() + EPSILON
    return shares
