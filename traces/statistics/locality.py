"""What a trace is like, in the numbers that decide how well experts can be cached and batched.

All figures are of decode tokens; only the load of layers that no decode token visits (an encoder's) is of
the prefill tokens. A figure without data (one token, say) is NaN here and null in `to_dict`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from traces.errors import InvalidInput
from traces.phase import Phase
from traces.routing import RoutingTrace
from traces.statistics.stack_distance import layer_distances

LAGS = (1, 8)
BATCHES = (2, 4, 8, 16, 32)
CACHED_FRACTIONS = (0.25, 0.5)

_CELLS = 1 << 22
"""Array cells worked on at a time."""

_GOLDEN_RATIO = (math.sqrt(5) - 1) / 2


@dataclass(frozen=True, slots=True)
class LayerLoad:
    """How unevenly one MoE layer uses its experts.

    `counts` of choices by expert, the `hottest` experts (at most 5, most used first), the coefficient of
    variation of the counts and the largest count over their mean.
    """

    layer: int
    counts: tuple[int, ...]
    hottest: tuple[int, ...]
    coefficient_of_variation: float
    max_over_mean: float


@dataclass(frozen=True, slots=True)
class TraceStatistics:
    """Locality, diversity and balance of a trace.

    `reuse[lag]` and `reuse_per_layer[lag]`: see `expert_reuse`. `entropy_bits` of a layer's choices, also
    as a share of log2(n_experts). `distinct_experts[batch]`: see `distinct_experts`. `lru_hit_rate[share]`:
    event-atomic LRU a layer, holding that share of its experts, see `lru_hit_rates`.
    """

    n_tokens: int
    n_decode_tokens: int
    n_sequences: int
    n_steps: int
    n_moe_layers: int
    n_experts: int
    top_k: int
    reuse: Mapping[int, float]
    reuse_per_layer: Mapping[int, tuple[float, ...]]
    entropy_bits: tuple[float, ...]
    normalised_entropy: tuple[float, ...]
    mean_normalised_entropy: float
    distinct_experts: Mapping[int, float]
    lru_hit_rate: Mapping[float, float]
    load: tuple[LayerLoad, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready: text keys, lists, and null for figures without data."""
        plain: dict[str, Any] = _plain(asdict(self))
        return plain


def trace_statistics(trace: RoutingTrace) -> TraceStatistics:
    """All statistics of `trace`. Raises `InvalidInput` when it has no decode tokens."""
    decoded = trace.decode_only()
    reuse = {lag: expert_reuse(decoded, lag) for lag in LAGS}
    counts = expert_counts(trace)
    entropy = layer_entropy_bits(counts)
    share = entropy / max(math.log2(trace.n_experts), 1e-300)
    slots = [max(1, round(part * trace.n_experts)) for part in CACHED_FRACTIONS]
    return TraceStatistics(
        n_tokens=trace.n_tokens,
        n_decode_tokens=decoded.n_tokens,
        n_sequences=trace.n_sequences,
        n_steps=trace.n_steps,
        n_moe_layers=trace.n_moe_layers,
        n_experts=trace.n_experts,
        top_k=trace.top_k,
        reuse={lag: _mean(values) for lag, values in reuse.items()},
        reuse_per_layer={lag: tuple(values.tolist()) for lag, values in reuse.items()},
        entropy_bits=tuple(entropy.tolist()),
        normalised_entropy=tuple(share.tolist()),
        mean_normalised_entropy=_mean(share),
        distinct_experts={batch: distinct_experts(decoded, batch) for batch in BATCHES},
        lru_hit_rate=dict(zip(CACHED_FRACTIONS, lru_hit_rates(decoded, slots), strict=True)),
        load=tuple(_layer_load(layer, row) for layer, row in enumerate(counts)),
    )


def expert_counts(trace: RoutingTrace) -> NDArray[np.int64]:
    """Choices of every expert: (n_moe_layers, n_experts), of decode tokens where any visit the layer."""
    counts = np.empty((trace.n_moe_layers, trace.n_experts), dtype=np.int64)
    decoding = trace.phase == Phase.DECODE
    for layer in range(trace.n_moe_layers):
        chosen = trace.experts[:, layer]
        at_decode = chosen[decoding]
        used = at_decode if (at_decode >= 0).any() else chosen
        counts[layer] = np.bincount(used[used >= 0], minlength=trace.n_experts)
    return counts


def layer_entropy_bits(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Shannon entropy (bits) of each layer's choices, from (n_moe_layers, n_experts) counts; NaN if none."""
    total = counts.sum(axis=1, keepdims=True)
    p = counts / np.where(total == 0, 1, total)
    bits = -np.sum(p * np.log2(np.where(p == 0, 1, p)), axis=1)
    return np.where(total[:, 0] == 0, np.nan, np.abs(bits))


def expert_reuse(trace: RoutingTrace, lag: int) -> NDArray[np.float64]:
    """Share of a token's experts that the token `lag` earlier in its sequence chose too.

    (n_moe_layers,) float64 over decode tokens, NaN where there is no such pair. Raises `InvalidInput` for
    a lag below 1.
    """
    if lag < 1:
        raise InvalidInput(f"lag = {lag}: it must be at least 1")
    tokens = np.flatnonzero(trace.phase == Phase.DECODE)
    tokens = tokens[np.lexsort((trace.position[tokens], trace.sequence[tokens]))]
    earlier, later = tokens[:-lag], tokens[lag:]
    together = trace.sequence[earlier] == trace.sequence[later]
    earlier, later = earlier[together], later[together]
    reuse = np.full(trace.n_moe_layers, np.nan)
    for layer in range(trace.n_moe_layers):
        chosen = np.ascontiguousarray(trace.experts[:, layer])
        before, now = chosen[earlier], chosen[later]
        valid = now >= 0
        again = np.zeros(now.shape, dtype=bool)
        for slot in range(trace.top_k):
            again |= now == before[:, slot, None]
        if valid.any():
            reuse[layer] = np.count_nonzero(again & valid) / np.count_nonzero(valid)
    return reuse


def distinct_experts(trace: RoutingTrace, batch: int) -> float:
    """Mean number of distinct experts a layer needs for `batch` decode tokens run together.

    The tokens of a group are of different sequences while there are enough, each at another point of its
    life, as in continuous batching: tokens are sorted by how far through its sequence each is, shifted by
    a golden-ratio multiple for each sequence (a low-discrepancy shift, no randomness), and cut into groups
    of `batch`; a rest is dropped. With one sequence the groups are runs of consecutive tokens. NaN with
    fewer tokens than `batch`.
    """
    tokens = np.flatnonzero(trace.phase == Phase.DECODE)
    n_groups = tokens.size // batch
    if not n_groups:
        return math.nan
    tokens = tokens[np.lexsort((trace.position[tokens], trace.sequence[tokens]))]
    _, member, lengths = np.unique(trace.sequence[tokens], return_inverse=True, return_counts=True)
    age = np.arange(tokens.size) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    through = ((age + 0.5) / lengths[member] + member * _GOLDEN_RATIO) % 1.0
    tokens = tokens[np.argsort(through, kind="stable")][: n_groups * batch]
    means = []
    for layer in decode_layers(trace):
        chosen = trace.experts[tokens, layer].reshape(n_groups, batch * trace.top_k)
        means.append(_distinct_per_row(chosen, trace.n_experts).mean())
    return float(np.mean(means))


def lru_hit_rates(
    trace: RoutingTrace, capacities: Sequence[int], *, cold_each_sequence: bool = False
) -> tuple[float, ...]:
    """Hit rate of one LRU cache a layer at each of `capacities` (experts a layer), decode steps only.

    Event-atomic: the union of a step's experts at a layer is looked up, then touched in token and rank
    order, then the least recent are evicted, never one of this event (so an event larger than the cache
    stays whole until the next). One pass serves all capacities (`traces.statistics.stack_distance`). Caches
    start cold; `cold_each_sequence` empties them again whenever the sequence changes and needs a trace of batch 1.
    Raises `InvalidInput` for a capacity below 1 or a larger batch.
    """
    if min(capacities) < 1:
        raise InvalidInput(f"capacity = {min(capacities)}: it must be at least 1 expert a layer")
    if trace.batch == 0:
        return tuple(math.nan for _ in capacities)
    decoded = trace.decode_only()
    if cold_each_sequence and decoded.batch > 1:
        raise InvalidInput(f"caches cold for each sequence need batch 1, the trace has {decoded.batch}")
    each = [layer_distances(decoded, i, cold_each_sequence=cold_each_sequence) for i in decode_layers(decoded)]
    needed = np.concatenate(each)
    return tuple(float(np.count_nonzero(needed <= capacity)) / needed.size for capacity in capacities)


def layer_following(trace: RoutingTrace) -> float:
    """How far a fixed map from a layer's experts to the next layer's predicts decode tokens, beyond popularity.

    For each expert e of a layer, the largest P(f | e) - P(f) over experts f of the next layer, weighted by
    how often e is chosen; mean over neighbouring layers. 0 without any dependence and 1 at most; measured on
    the data that choose f, so biased upwards on short traces: compare traces of equal length. NaN with one
    layer.
    """
    decoded = trace.decode_only()
    layers, n = decode_layers(trace), trace.n_experts
    gains = []
    for before, after in pairwise(layers):
        together = np.zeros(n * n, dtype=np.int64)
        first, second = (
            decoded.experts[:, before].astype(np.int64),
            decoded.experts[:, after].astype(np.int64),
        )
        for i in range(trace.top_k):
            here = first[:, i, None]
            known = (here >= 0) & (second >= 0)
            together += np.bincount((here * n + second)[known], minlength=n * n)
        chosen = np.bincount(first[first >= 0], minlength=n)
        p_after = np.bincount(second[second >= 0], minlength=n) / decoded.n_tokens
        p_given = together.reshape(n, n) / np.maximum(chosen, 1)[:, None]
        gains.append(np.sum((p_given - p_after).max(axis=1) * chosen) / chosen.sum())
    return float(np.mean(gains)) if gains else math.nan


def decode_layers(trace: RoutingTrace) -> list[int]:
    """The MoE layers that decode tokens visit."""
    visited = (trace.experts[trace.phase == Phase.DECODE] >= 0).any(axis=(0, 2))
    return [int(layer) for layer in np.flatnonzero(visited)]


def _distinct_per_row(chosen: NDArray[np.int16], n_experts: int) -> NDArray[np.int64]:
    rows = max(1, _CELLS // n_experts)
    counts = np.empty(len(chosen), dtype=np.int64)
    for start in range(0, len(chosen), rows):
        part = chosen[start : start + rows]
        used = np.zeros((len(part), n_experts + 1), dtype=bool)  # the last column takes the -1 pads
        used[np.arange(len(part))[:, None], part] = True
        counts[start : start + rows] = np.count_nonzero(used[:, :-1], axis=1)
    return counts


def _layer_load(layer: int, counts: NDArray[np.int64]) -> LayerLoad:
    mean = counts.mean()
    hottest = [int(i) for i in np.argsort(-counts, kind="stable")[:5] if counts[i]]
    return LayerLoad(
        layer=layer,
        counts=tuple(counts.tolist()),
        hottest=tuple(hottest),
        coefficient_of_variation=float(counts.std() / mean) if mean else math.nan,
        max_over_mean=float(counts.max() / mean) if mean else math.nan,
    )


def _mean(values: NDArray[np.float64]) -> float:
    """Mean of the values that are not NaN; NaN when none is."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else math.nan


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return None if isinstance(value, float) and math.isnan(value) else value
