"""Setting the synthetic dials from a recorded trace, and saying how near the copy comes.

Method of moments on the generator itself: each dial is moved until the synthetic trace, as long as the
recorded one, shows the recorded value of one statistic: a layer's collision entropy for its Zipf exponent, reuse
at lag 1 for the repeats, `layer_following` for the layer correlation; and for the two optional dials, reuse at
lag 8 for the affinity of sequences to experts of their own and the experts of a batch of 32 for the active
fraction. The other statistics are not fitted: what they differ by is what the dials cannot say.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from traces.recorded.dials import recorded_default
from traces.routing import RoutingTrace
from traces.statistics.locality import (
    BATCHES,
    LAGS,
    decode_layers,
    distinct_experts,
    expert_counts,
    expert_reuse,
    layer_following,
    trace_statistics,
)
from traces.synthesis.dials import Dials, synthesize_routing
from traces.synthesis.filling import load_if_it_pays
from traces.transforms.rebatching import rebatch

_ROUNDS = 40
_MAX_EXPONENT = 8.0
_LATE = max(LAGS)
_LARGE = max(BATCHES)
_NAMES = {
    "collision_entropy": "mean collision entropy (bits)",
    "reuse": "reuse at lag 1",
    "late_reuse": f"reuse at lag {_LATE}",
    "following": "layer following",
    "distinct": f"distinct experts, batch {_LARGE}",
}
"""Of the moments: as statistics."""


@dataclass(frozen=True, slots=True)
class FittedStatistic:
    """One statistic of the recorded and of the synthetic trace. `fitted` when a dial was set by it."""

    name: str
    recorded: float
    synthetic: float
    fitted: bool

    @property
    def difference(self) -> float:
        """Synthetic minus recorded."""
        return self.synthetic - self.recorded

    @property
    def relative(self) -> float:
        """Difference as a share of the recorded value; NaN when that is 0."""
        return self.difference / self.recorded if self.recorded else math.nan


@dataclass(frozen=True, slots=True)
class FittedDials:
    """Dials set from a trace, with the comparison of the recorded and the synthetic statistics."""

    dials: Dials
    comparisons: tuple[FittedStatistic, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "dials": asdict(self.dials),
            "comparisons": [
                asdict(row) | {"difference": row.difference, "relative": _number(row.relative)}
                for row in self.comparisons
            ],
        }


def fit_dials(
    trace: RoutingTrace,
    rng: np.random.Generator,
    *,
    all_dials: bool = True,
    every_expert: bool = False,
    exponent: float | None = None,
    correlation: float | None = None,
) -> FittedDials:
    """Fit `Dials` to the decode tokens of `trace`; deterministic for a given `rng` state.

    The synthetic trace has as many sequences (of the mean length) and runs at the batch of the recorded
    one. Layers that no decode token visits (an encoder's) get the mean exponent of the others.
    `all_dials=False` leaves the two optional dials, active fraction and sequence affinity, at their
    defaults; `every_expert` leaves the active fraction: what one prompt did not use, another may. `exponent` and
    `correlation` state the Zipf exponent of every layer and the layer correlation, which are then not fitted. One
    sequence does not tell its own popularity from that of others: its exponent is the default one.
    Raises `InvalidInput` for a trace without decode tokens.
    """
    decoded = trace.decode_only()
    layers = decode_layers(decoded)
    load_if_it_pays(_ROUNDS * decoded.n_tokens * len(layers) * decoded.top_k)  # for all rounds together
    seed = int(rng.integers(1 << 62))  # common random numbers: every evaluation differs by its dials only

    def imitate(dials: Dials) -> RoutingTrace:
        return _imitation(decoded, len(layers), dials, np.random.default_rng(seed))

    fitted = {"reuse"} | ({"following"} if correlation is None else set())
    if all_dials:
        fitted |= {"late_reuse"} if every_expert else {"late_reuse", "distinct"}
    if exponent is None and (decoded.n_sequences > 1 or not all_dials):
        fitted.add("collision_entropy")
    if exponent is None:
        exponent = 1.0 if "collision_entropy" in fitted else float(np.mean(recorded_default().zipf_exponent))
    first = Dials(
        (exponent,) * len(layers),
        0.2,
        0.2 if correlation is None else correlation,
        1.0,
        0.5 if all_dials else 0.0,
    )
    dials = _fit(_Moments.of(decoded), imitate, decoded, first, frozenset(fitted))
    synthetic = rebatch(imitate(dials), decoded.batch)
    exponents = np.full(trace.n_moe_layers, float(np.mean(dials.zipf_exponent)))
    exponents[layers] = dials.zipf_exponent
    comparisons = _comparisons(decoded, synthetic, frozenset(fitted))
    return FittedDials(replace(dials, zipf_exponent=tuple(exponents.tolist())), comparisons)


@dataclass(frozen=True, slots=True, eq=False)
class _Moments:
    """What the dials are fitted to; NaN where the trace is too short to say."""

    collision_entropy: NDArray[np.float64]
    reuse: float
    late_reuse: float
    following: float
    distinct: float

    @classmethod
    def of(cls, decoded: RoutingTrace) -> _Moments:
        layers = decode_layers(decoded)
        return cls(
            collision_entropy=collision_entropy(expert_counts(decoded)[layers]),
            reuse=float(expert_reuse(decoded, 1)[layers].mean()),
            late_reuse=float(expert_reuse(decoded, _LATE)[layers].mean()),
            following=layer_following(decoded),
            distinct=distinct_experts(decoded, _LARGE),
        )

    def distance(self, other: _Moments, fitted: frozenset[str]) -> float:
        """Sum of relative differences of the moments that are fitted."""
        parts = [
            abs(getattr(self, name) - getattr(other, name)) / (abs(getattr(self, name)) or 1.0)
            for name in sorted(fitted - {"collision_entropy"})
        ]
        known = sum(float(part) for part in parts if not math.isnan(part))
        if "collision_entropy" not in fitted:
            return known
        return known + float(
            np.abs(self.collision_entropy - other.collision_entropy).mean() / max(self.collision_entropy.mean(), 1e-9)
        )


def _fit(
    target: _Moments,
    imitate: Callable[[Dials], RoutingTrace],
    decoded: RoutingTrace,
    dials: Dials,
    fitted: frozenset[str],
) -> Dials:
    """Move every dial by the shortfall of its own moment, all at once, and keep the best set met.

    Each moment rises with its dial by 0.2 to 1 for 1, so steps of about the shortfall approach from one side. Where
    an entropy falls by more than 1 bit for 1 in its exponent, whole steps would go ever further past it: they are
    divided by what it falls by at most. Dials that share a moment settle as the rounds go by.
    """
    best, least = dials, math.inf
    for _ in range(_ROUNDS):
        made = _Moments.of(imitate(dials))
        if (distance := target.distance(made, fitted)) < least:
            best, least = dials, distance
        if "collision_entropy" in fitted:
            surplus = np.clip(made.collision_entropy - target.collision_entropy, -0.5, 0.5)
            exponents = np.array(dials.zipf_exponent)
            surplus /= np.maximum(_entropy_fall(exponents, math.ceil(dials.active_fraction * decoded.n_experts)), 1.0)
            exponents = np.clip(exponents + surplus, 0.0, _MAX_EXPONENT)
            dials = replace(dials, zipf_exponent=tuple(exponents.tolist()))
        dials = replace(dials, repeat_probability=_moved(dials.repeat_probability, target.reuse - made.reuse))
        if "following" in fitted:
            correlation = _moved(dials.layer_correlation, target.following - made.following)
            dials = replace(dials, layer_correlation=correlation)
        if "late_reuse" in fitted:
            affinity = _moved(dials.sequence_affinity, target.late_reuse - made.late_reuse)
            dials = replace(dials, sequence_affinity=affinity)
        if "distinct" in fitted:
            enough = max(decoded.top_k, 2 ** target.collision_entropy.max()) / decoded.n_experts
            factor = _moved(1.0, (target.distinct / made.distinct - 1.0) / 2, most=2.0)
            dials = replace(dials, active_fraction=min(1.0, max(enough, dials.active_fraction * factor)))
    return best


def _entropy_fall(exponents: NDArray[np.float64], n_experts: int) -> NDArray[np.float64]:
    """Bits of collision entropy by which Zipf's law of so many experts falls for 1 in each exponent: 2 / ln 2 times
    the mean log rank at the exponent less that at twice it. Experts without replacement, repeats and affinity: less.
    """
    log_rank = np.log(np.arange(1, n_experts + 1))

    def mean(exponents: NDArray[np.float64]) -> NDArray[np.float64]:
        weights = np.exp(-exponents[:, None] * log_rank)
        means: NDArray[np.float64] = weights @ log_rank / weights.sum(axis=1)
        return means

    return 2 / math.log(2) * (mean(exponents) - mean(2 * exponents))


def _moved(value: float, by: float, most: float = 1.0) -> float:
    """`value` moved and kept within [0, most]; where it was when the moment has no data."""
    return value if math.isnan(by) else min(most, max(0.0, value + by))


def _imitation(decoded: RoutingTrace, n_layers: int, dials: Dials, rng: np.random.Generator) -> RoutingTrace:
    """Decode tokens of a synthetic trace as long as `decoded`, of equal sequences side by side."""
    n_sequences = decoded.n_sequences
    return synthesize_routing(
        n_moe_layers=n_layers,
        n_encoder_moe_layers=0,
        n_experts=decoded.n_experts,
        top_k=decoded.top_k,
        input_tokens=1,
        output_tokens=1 + round(decoded.n_tokens / n_sequences),
        batch=n_sequences,
        dials=dials,
        rng=rng,
        model_name=decoded.provenance.model,
    ).decode_only()


def _comparisons(decoded: RoutingTrace, synthetic: RoutingTrace, fitted: frozenset[str]) -> tuple[FittedStatistic, ...]:
    recorded, made = _figures(decoded), _figures(synthetic)
    names = {_NAMES[moment] for moment in fitted}
    return tuple(
        FittedStatistic(name, value, made[name], name in names)
        for name, value in recorded.items()
        if not (math.isnan(value) or math.isnan(made[name]))
    )


def _figures(decoded: RoutingTrace) -> dict[str, float]:
    statistics = trace_statistics(decoded)
    figures = {f"reuse at lag {lag}": value for lag, value in statistics.reuse.items()}
    figures["mean entropy (bits)"] = float(np.nanmean(statistics.entropy_bits))
    counts = expert_counts(decoded)[decode_layers(decoded)]
    figures["mean collision entropy (bits)"] = float(collision_entropy(counts).mean())
    figures["layer following"] = layer_following(decoded)
    for batch, count in statistics.distinct_experts.items():
        figures[f"distinct experts, batch {batch}"] = count
    for share, rate in statistics.lru_hit_rate.items():
        figures[f"LRU hit rate, {share:.0%} of experts"] = rate
    return figures


def collision_entropy(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Renyi entropy of order 2 (bits) of each layer's choices, (n_layers,), of counts (n_layers, n_experts): minus the
    log of the chance that two of them are of one expert, which reuse depends on.
    """
    p = counts / counts.sum(axis=1, keepdims=True)
    bits: NDArray[np.float64] = -np.log2((p * p).sum(axis=1))
    return bits


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value
