"""What an operator reads off one window of routing, and what stands in for quality where no labels are at hand."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from traces.phase import Phase
from traces.routing import RoutingTrace
from traces.statistics.locality import (
    decode_layers,
    expert_counts,
    expert_reuse,
    layer_entropy_bits,
    lru_hit_rates,
)
from traces.statistics.popularity import PopularityProfile


@dataclass(frozen=True, slots=True)
class WindowFigures:
    """Figures of the decode tokens of one trace.

    `skew`: mean over layers of the busiest expert's load over the mean; `entropy`: mean over layers of the entropy of
    choices, as a share of its maximum; `reuse`: share of a token's experts that the token before chose too; `n_unused`:
    (layer, expert) that no token chose. With the share `held` of every layer's experts in HBM: `static_hit_rate` of a
    placement by the reference's counts, `best_static_hit_rate` of one by the window's own, which no placement made
    beforehand exceeds, `lru_hit_rate` of an LRU a layer, cold at the start. NaN where there is no such figure.
    """

    n_tokens: int
    n_sequences: int
    skew: float
    entropy: float
    reuse: float
    n_unused: int
    held: float
    static_hit_rate: float
    best_static_hit_rate: float
    lru_hit_rate: float


def window_figures(trace: RoutingTrace, reference: PopularityProfile, held: float) -> WindowFigures:
    """The figures of `trace`, its placement made from `reference`; `held`: a share above 0, at most 1."""
    layers = decode_layers(trace)
    counts = expert_counts(trace)[layers]
    entropy = layer_entropy_bits(counts) / max(math.log2(trace.n_experts), 1e-300)
    n_held = max(1, round(held * trace.n_experts))
    reuse = expert_reuse(trace, 1)[layers]
    return WindowFigures(
        n_tokens=int(np.count_nonzero(trace.phase == Phase.DECODE)),
        n_sequences=trace.n_sequences,
        skew=float((counts.max(axis=1) / np.maximum(counts.mean(axis=1), 1e-300)).mean()),
        entropy=float(np.nanmean(entropy)),
        reuse=float(np.nanmean(reuse)) if not np.isnan(reuse).all() else math.nan,
        n_unused=int(np.count_nonzero(counts == 0)),
        held=n_held / trace.n_experts,
        static_hit_rate=_held_share(counts, reference.counts[layers], n_held),
        best_static_hit_rate=_held_share(counts, counts.astype(np.float64), n_held),
        lru_hit_rate=lru_hit_rates(trace, [n_held])[0],
    )


def _held_share(counts: NDArray[np.int64], popularity: NDArray[np.float64], n_held: int) -> float:
    """The share of choices that fall on the `n_held` most popular experts of each layer."""
    held = np.argsort(-popularity, axis=1, kind="stable")[:, :n_held]
    return float(np.take_along_axis(counts, held, axis=1).sum() / counts.sum())


def gate_confidence(trace: RoutingTrace) -> NDArray[np.float64] | None:
    """(n_decode_tokens,) the largest gate weight over the sum of those chosen, mean over layers; None without weights.

    With one expert a token: the weight itself.
    """
    if trace.gate_weights is None:
        return None
    weights = trace.gate_weights[trace.phase == Phase.DECODE][:, decode_layers(trace)].astype(np.float64)
    largest, total = weights.max(axis=2), weights.sum(axis=2)
    known = total > 0  # 0 pads
    share = np.where(known, largest / np.where(known & (trace.top_k > 1), total, 1.0), 0.0)
    n_known = known.sum(axis=1)
    return np.where(n_known > 0, share.sum(axis=1) / np.maximum(n_known, 1), np.nan)


def routed_as_before(trace: RoutingTrace) -> NDArray[np.float64] | None:
    """(n_decode_tokens,) the share of layers in which a token's experts are those of the token before it.

    Text that repeats itself routes alike. NaN for the first token of a sequence.
    """
    tokens = np.flatnonzero(trace.phase == Phase.DECODE)
    order = np.lexsort((trace.position[tokens], trace.sequence[tokens]))
    chosen = np.sort(trace.experts[tokens[order]][:, decode_layers(trace)], axis=2)
    alike = np.full(tokens.size, np.nan)
    if tokens.size > 1:
        same = (chosen[1:] == chosen[:-1]).all(axis=2).mean(axis=1)
        together = trace.sequence[tokens[order]][1:] == trace.sequence[tokens[order]][:-1]
        alike[1:] = np.where(together, same, np.nan)
    by_token = np.empty_like(alike)
    by_token[order] = alike
    return by_token


PROXIES: Mapping[str, Callable[[RoutingTrace], NDArray[np.float64] | None]] = {
    "gate_confidence": gate_confidence,
    "routed_as_before": routed_as_before,
}
"""What can move when answers get worse, and is seen without reading them. Neither is quality."""
