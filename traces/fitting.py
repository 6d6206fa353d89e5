"""Setting the synthetic dials from a recorded trace, and saying how near the copy comes.

Method of moments on the generator itself: each dial is moved until the synthetic trace, as long as the
recorded one, shows the recorded value of one statistic: a layer's entropy for its Zipf exponent, reuse at
lag 1 for the repeats, `layer_following` for the layer correlation and, unless told not to, reuse at lag 8
for the affinity of a sequence to its own experts. The other statistics are not fitted: what they differ by
is what the dials cannot say.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from traces.routing import RoutingTrace, rebatch
from traces.statistics import (
    decode_layers,
    expert_counts,
    expert_reuse,
    layer_entropy_bits,
    layer_following,
    trace_statistics,
)
from traces.synthesis import Dials, synthesize_routing

__all__ = ["Comparison", "FittedDials", "fit_dials"]

_ROUNDS = 4
_HALVINGS = 9
_EXPONENT_STEPS = 6
_MAX_EXPONENT = 8.0
_AFFINITY_LAG = 8


@dataclass(frozen=True, slots=True)
class Comparison:
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
    comparisons: tuple[Comparison, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "dials": asdict(self.dials),
            "comparisons": [
                asdict(row) | {"difference": row.difference, "relative": _number(row.relative)}
                for row in self.comparisons
            ],
        }


def fit_dials(trace: RoutingTrace, rng: np.random.Generator, *, with_affinity: bool = True) -> FittedDials:
    """Fit `Dials` to the decode tokens of `trace`; deterministic for a given `rng` state.

    The synthetic trace has as many sequences (of the mean length) and runs at the batch of the recorded
    one. Layers that no decode token visits (an encoder's) get the mean exponent of the others.
    `with_affinity=False` leaves `sequence_affinity` at 0: the three dials alone. Raises `InvalidInput` for
    a trace without decode tokens.
    """
    decoded = trace.decode_only()
    layers = decode_layers(decoded)
    seed = int(rng.integers(1 << 62))  # common random numbers: every evaluation differs by its dials only

    def imitate(dials: Dials) -> RoutingTrace:
        return _imitation(decoded, len(layers), dials, np.random.default_rng(seed))

    dials = _fit(decoded, layers, imitate, with_affinity)
    synthetic = rebatch(imitate(dials), decoded.batch).decode_only()
    comparisons = _comparisons(decoded, synthetic, with_affinity)
    exponents = np.full(trace.n_moe_layers, float(np.mean(dials.zipf_exponent)))
    exponents[layers] = dials.zipf_exponent
    return FittedDials(replace(dials, zipf_exponent=tuple(exponents.tolist())), comparisons)


def _fit(
    decoded: RoutingTrace, layers: list[int], imitate: Callable[[Dials], RoutingTrace], with_affinity: bool
) -> Dials:
    """Coordinate by coordinate, a few rounds. A moment the trace has no data for leaves its dial at 0."""
    moments: dict[str, Callable[[RoutingTrace], float]] = {
        "sequence_affinity": lambda made: _reuse(made, _AFFINITY_LAG),
        "repeat_probability": lambda made: _reuse(made, 1),
        "layer_correlation": layer_following,
    }
    if not with_affinity:
        del moments["sequence_affinity"]
    targets = {name: moment(decoded) for name, moment in moments.items()}
    entropy = _entropy(decoded)[layers]
    dials = Dials((1.0,) * len(layers), 0.0, 0.0)
    for _ in range(_ROUNDS):
        dials = _fit_exponents(dials, imitate, entropy)
        for name, moment in moments.items():
            if not math.isnan(targets[name]):
                dials = _fit_chance(dials, name, imitate, moment, targets[name])
    return _fit_exponents(dials, imitate, entropy)


def _fit_exponents(
    dials: Dials, imitate: Callable[[Dials], RoutingTrace], entropy: NDArray[np.float64]
) -> Dials:
    """Move the exponents of all layers towards the recorded entropies; the best vector met is kept.

    A layer's entropy falls as its exponent rises (by 0.5 to 2 bits for 1), but layers that follow each
    other share it, so steps are taken together and held short instead of bisected one by one.
    """
    exponents = np.array(dials.zipf_exponent)
    best, least = exponents, math.inf
    for _ in range(_EXPONENT_STEPS):
        surplus = _entropy(imitate(replace(dials, zipf_exponent=tuple(exponents.tolist())))) - entropy
        if (error := float(np.abs(surplus).mean())) < least:
            best, least = exponents, error
        exponents = np.clip(exponents + np.clip(surplus, -0.5, 0.5), 0.0, _MAX_EXPONENT)
    return replace(dials, zipf_exponent=tuple(best.tolist()))


def _fit_chance(
    dials: Dials,
    name: str,
    imitate: Callable[[Dials], RoutingTrace],
    moment: Callable[[RoutingTrace], float],
    target: float,
) -> Dials:
    """Bisect one probability on a moment that rises with it; 0 or 1 when the target lies beyond."""
    low, high = 0.0, 1.0
    if moment(imitate(_with(dials, name, 0.0))) >= target:
        return _with(dials, name, 0.0)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if moment(imitate(_with(dials, name, middle))) < target:
            low = middle
        else:
            high = middle
    return _with(dials, name, (low + high) / 2)


def _with(dials: Dials, name: str, value: float) -> Dials:
    changed: dict[str, Any] = {name: value}
    return replace(dials, **changed)


def _imitation(decoded: RoutingTrace, n_layers: int, dials: Dials, rng: np.random.Generator) -> RoutingTrace:
    """Decode tokens of a synthetic trace as long as `decoded`, of equal sequences side by side."""
    n_sequences = decoded.n_sequences
    return synthesize_routing(
        n_moe_layers=n_layers,
        n_encoder_moe_layers=0,
        n_experts=decoded.n_experts,
        top_k=decoded.top_k,
        input_tokens=1,
        output_tokens=1 + max(1, round(decoded.n_tokens / n_sequences)),
        batch=n_sequences,
        dials=dials,
        rng=rng,
        model_name=decoded.provenance.model,
    ).decode_only()


def _entropy(decoded: RoutingTrace) -> NDArray[np.float64]:
    return layer_entropy_bits(expert_counts(decoded))


def _reuse(decoded: RoutingTrace, lag: int) -> float:
    per_layer = expert_reuse(decoded, lag)
    return float(per_layer[decode_layers(decoded)].mean())


def _comparisons(
    decoded: RoutingTrace, synthetic: RoutingTrace, with_affinity: bool
) -> tuple[Comparison, ...]:
    recorded, made = _figures(decoded), _figures(synthetic)
    fitted = {"reuse at lag 1", "mean entropy (bits)", "layer following"}
    if with_affinity:
        fitted.add(f"reuse at lag {_AFFINITY_LAG}")
    return tuple(
        Comparison(name, value, made[name], name in fitted)
        for name, value in recorded.items()
        if not (math.isnan(value) or math.isnan(made[name]))
    )


def _figures(decoded: RoutingTrace) -> dict[str, float]:
    statistics = trace_statistics(decoded)
    figures = {f"reuse at lag {lag}": value for lag, value in statistics.reuse.items()}
    figures["mean entropy (bits)"] = float(np.nanmean(statistics.entropy_bits))
    figures["layer following"] = layer_following(decoded)
    for batch, count in statistics.distinct_experts.items():
        figures[f"distinct experts, batch {batch}"] = count
    for share, rate in statistics.lru_hit_rate.items():
        figures[f"LRU hit rate, {share:.0%} of experts"] = rate
    return figures


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value
