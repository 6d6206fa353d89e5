"""How popular experts are with one sequence, where `sequence_affinity` lets sequences differ.

With a sequence an expert has its weight times a gamma variate of mean 1, drawn for every sequence, layer and expert,
and a share of what these sum to; the relative variance of the variate, affinity / (1 - affinity), is the same for a
rare expert and a popular one, and for few experts and many. The weights are such that the mean share is the popularity
that all sequences share, which therefore stays what it is. Of equally popular experts the shares are a symmetric
Dirichlet, so drawing from them is Polya's urn: what was drawn before comes again, however long ago it was
(N. L. Johnson, S. Kotz, Urn Models and Their Application, 1977, chapter 4).
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

_LEAST_SHAPE = 0.02
"""Of the gamma variates: the popularity of a sequence with affinity 1, which has an expert or two of its own."""
_LEAST_AFFINITY = 1e-6
"""Below it sequences have the shared popularity itself."""
_SHARED_PART = 1e-9
"""Of the shared popularity in a sequence's own: no expert is quite impossible, so that a token finds enough of them."""
_STEP = 0.5
"""Of the logarithm of t, along which the integrand is smooth: errors below the tolerance."""
_AT_ONCE = 4096
"""Values of the integrand that are computed at once, of a layer and an expert each."""
_ROUNDS = 60
_TOLERANCE = 1e-4
"""Of the mean shares, summed over the experts of a layer."""


class SequencePopularity:
    """Draws the popularity of sequences around the shared one, cumulative by rank (n_layers, n_active + 1)."""

    def __init__(self, shared: NDArray[np.float64], affinity: float, correlation: float) -> None:
        self._shared, self._correlation = shared, correlation
        self._differ = affinity >= _LEAST_AFFINITY
        if self._differ:
            self._shape = max(1.0 / affinity - 1.0, _LEAST_SHAPE)
            self._shares = np.diff(shared, axis=1)
            self._weights = _kept_weights(self._shares.tobytes(), self._shares.shape, self._shape)

    def drawn(self, rng: np.random.Generator) -> NDArray[np.float64]:
        """One sequence's, as `shared`; that itself without affinity."""
        if not self._differ:
            return self._shared
        variates = rng.standard_gamma(self._shape, self._shares.shape, dtype=np.float32)
        if self._correlation:  # what a layer follows at the one before, it favours as the one before does
            layers = np.arange(len(variates))[:, None]
            source = np.where(rng.random(variates.shape) < self._correlation, 0, layers)
            variates = np.take_along_axis(variates, np.maximum.accumulate(source, axis=0), axis=0)
        weights = self._weights * variates
        weights += self._shares * (_SHARED_PART * (weights.sum(axis=1, keepdims=True) + 1e-30))
        own = np.zeros_like(self._shared)
        np.cumsum(weights, axis=1, out=own[:, 1:])
        own /= own[:, -1:].copy()
        return own


@lru_cache(maxsize=64)
def _kept_weights(shares: bytes, shape: tuple[int, int], gamma_shape: float) -> NDArray[np.float64]:
    """`weights_of` each different layer of `shares`."""
    layers, layer_of = np.unique(np.frombuffer(shares).reshape(shape), axis=0, return_inverse=True)
    weights: NDArray[np.float64] = weights_of(layers, gamma_shape)[layer_of]
    weights.flags.writeable = False
    return weights


@np.errstate(under="ignore")  # what is too small to add is 0, whatever a caller makes of that
def weights_of(shares: NDArray[np.float64], gamma_shape: float) -> NDArray[np.float64]:
    """Weights (n_layers, n_experts), the largest of a layer 1, with which mean shares are `shares` (all above 0)."""
    target = np.maximum(shares, 1e-300)
    log_weights = np.log(target)
    for _ in range(_ROUNDS):
        mean = _mean_shares(log_weights, gamma_shape)
        if np.abs(mean - target).sum(axis=1).max() < _TOLERANCE:
            break
        log_weights += np.log(target / np.maximum(mean, 1e-300))
        log_weights -= log_weights.max(axis=1, keepdims=True)
    weights: NDArray[np.float64] = np.exp(log_weights - log_weights.max(axis=1, keepdims=True))
    return weights


def _mean_shares(log_weights: NDArray[np.float64], gamma_shape: float) -> NDArray[np.float64]:
    """Mean of w_i G_i / sum(w_j G_j) over gamma variates G: the integral over t > 0 of
    w_i a / (1 + w_i t) * prod((1 + w_j t) ** -a), by the trapezoidal rule in log t.
    """
    mean = np.zeros_like(log_weights)
    n_points = max(_AT_ONCE // mean.size, 1)
    steps, decayed_least = np.full(n_points, _STEP), 0.0
    steps[0] = -float(log_weights.max()) - 34.0
    while decayed_least <= 40.0:
        at = np.add.accumulate(steps)
        odds = log_weights + at[:, None, None]  # [n_points, n_layers, n_experts]
        log_sum = np.logaddexp(0.0, odds)
        decayed = gamma_shape * log_sum.sum(axis=2, keepdims=True)
        least = decayed.min(axis=(1, 2))
        n = int(np.searchsorted(least, 40.0, side="right")) + 1  # it rises: the first beyond is the last that counts
        terms = np.exp((odds - log_sum - decayed)[:n])
        mean = np.add.reduce(np.concatenate([mean[None], terms]), axis=0)
        decayed_least, steps[0] = float(least[min(n, n_points) - 1]), at[-1] + _STEP
    shares: NDArray[np.float64] = mean / mean.sum(axis=1, keepdims=True)
    return shares


def guides_of(popularity: NDArray[np.float64]) -> NDArray[np.int16]:
    """Where a search for a draw begins: of each layer the ranks at `n_cells` + 1 numbers from 0 to 1, evenly spaced;
    (n_layers, n_cells + 1). `n_cells` is a power of 2, twice the experts at least.
    """
    n_layers, n_active = popularity.shape[0], popularity.shape[1] - 1
    n_cells = 1 << (2 * n_active).bit_length()
    cells = np.ceil(popularity[:, 1:] * n_cells).astype(np.intp)  # the first number at or above each edge
    cells += (np.arange(n_layers) * (n_cells + 1))[:, None]
    passed = np.bincount(cells.ravel(), minlength=n_layers * (n_cells + 1)).reshape(n_layers, -1)
    guides: NDArray[np.int16] = np.minimum(np.cumsum(passed, axis=1), n_active - 1).astype(np.int16)
    return guides
