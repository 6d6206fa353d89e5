"""Setting the synthetic dials from a recorded trace, and saying how near the copy comes.

Method of moments on the generator itself: each dial is moved until the synthetic trace, as long as the
recorded one, shows the recorded value of one statistic: a layer's entropy for its Zipf exponent, reuse at
lag 1 for the repeats, `layer_following` for the layer correlation; and for the two optional dials, reuse at
lag 8 for the affinity of a sequence to its own experts and the experts of a batch of 32 for the active
fraction. The other statistics are not fitted: what they differ by is what the dials cannot say.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from traces.routing import RoutingTrace
from traces.statistics.locality import (
    BATCHES,
    LAGS,
    decode_layers,
    distinct_experts,
    expert_counts,
    expert_reuse,
    layer_entropy_bits,
    layer_following,
    trace_statistics,
)
from traces.synthesis.dials import Dials, filler, synthesize_routing
from traces.transforms.rebatching import rebatch

__all__ = ["FittedDials", "FittedStatistic", "fit_dials"]

_ROUNDS = 40
_MAX_EXPONENT = 8.0
_LATE = max(LAGS)
_LARGE = max(BATCHES)


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
    trace: RoutingTrace, rng: np.random.Generator, *, all_dials: bool = True, every_expert: bool = False
) -> FittedDials:
    """Fit `Dials` to the decode tokens of `trace`; deterministic for a given `rng` state.

    The synthetic trace has as many sequences (of the mean length) and runs at the batch of the recorded
    one. Layers that no decode token visits (an encoder's) get the mean exponent of the others.
    `all_dials=False` leaves the two optional dials, active fraction and sequence affinity, at their
    defaults; `every_expert` leaves the active fraction: what one prompt did not use, another may.
    Raises `InvalidInput` for a trace without decode tokens.
    """
    decoded = trace.decode_only()
    layers = decode_layers(decoded)
    filler(_ROUNDS * decoded.n_tokens * len(layers) * decoded.top_k)  # compiled where that pays for all of them
    seed = int(rng.integers(1 << 62))  # common random numbers: every evaluation differs by its dials only

    def imitate(dials: Dials) -> RoutingTrace:
        return _imitation(decoded, len(layers), dials, np.random.default_rng(seed))

    dials = _fit(_Moments.of(decoded), imitate, decoded, all_dials, every_expert)
    synthetic = rebatch(imitate(dials), decoded.batch)
    exponents = np.full(trace.n_moe_layers, float(np.mean(dials.zipf_exponent)))
    exponents[layers] = dials.zipf_exponent
    comparisons = _comparisons(decoded, synthetic, all_dials, every_expert)
    return FittedDials(replace(dials, zipf_exponent=tuple(exponents.tolist())), comparisons)


@dataclass(frozen=True, slots=True, eq=False)
class _Moments:
    """What the dials are fitted to; NaN where the trace is too short to say."""

    entropy: NDArray[np.float64]
    reuse: float
    late_reuse: float
    following: float
    distinct: float

    @classmethod
    def of(cls, decoded: RoutingTrace) -> _Moments:
        layers = decode_layers(decoded)
        return cls(
            entropy=layer_entropy_bits(expert_counts(decoded))[layers],
            reuse=float(expert_reuse(decoded, 1)[layers].mean()),
            late_reuse=float(expert_reuse(decoded, _LATE)[layers].mean()),
            following=layer_following(decoded),
            distinct=distinct_experts(decoded, _LARGE),
        )

    def distance(self, other: _Moments, all_dials: bool, every_expert: bool) -> float:
        """Sum of relative differences of the moments that are fitted."""
        names = ["reuse", "following", *(["late_reuse"] if all_dials else [])]
        if all_dials and not every_expert:
            names.append("distinct")
        parts = [abs(getattr(self, name) - getattr(other, name)) / (abs(getattr(self, name)) or 1.0) for name in names]
        known = sum(float(part) for part in parts if not math.isnan(part))
        return known + float(np.abs(self.entropy - other.entropy).mean() / max(self.entropy.mean(), 1e-9))


def _fit(
    target: _Moments,
    imitate: Callable[[Dials], RoutingTrace],
    decoded: RoutingTrace,
    all_dials: bool,
    every_expert: bool,
) -> Dials:
    """Move every dial by the shortfall of its own moment, all at once, and keep the best set met.

    Each moment rises with its dial by 0.2 to 1 for 1 (an entropy falls by 0.5 to 2 bits for 1 in its
    exponent), so steps of about the shortfall approach from one side; dials that share a moment settle as
    the rounds go by.
    """
    dials = Dials((1.0,) * target.entropy.size, 0.2, 0.2, 1.0, 0.2 if all_dials else 0.0)
    best, least = dials, math.inf
    for _ in range(_ROUNDS):
        made = _Moments.of(imitate(dials))
        if (distance := target.distance(made, all_dials, every_expert)) < least:
            best, least = dials, distance
        surplus = np.clip(made.entropy - target.entropy, -0.5, 0.5)
        exponents = np.clip(np.array(dials.zipf_exponent) + surplus, 0.0, _MAX_EXPONENT)
        dials = replace(
            dials,
            zipf_exponent=tuple(exponents.tolist()),
            repeat_probability=_moved(dials.repeat_probability, target.reuse - made.reuse),
            layer_correlation=_moved(dials.layer_correlation, target.following - made.following),
        )
        if all_dials:
            enough = max(decoded.top_k, 2 ** target.entropy.max()) / decoded.n_experts
            factor = _moved(1.0, (target.distinct / made.distinct - 1.0) / 2, most=2.0)
            dials = replace(
                dials,
                sequence_affinity=_moved(dials.sequence_affinity, target.late_reuse - made.late_reuse),
                active_fraction=1.0 if every_expert else min(1.0, max(enough, dials.active_fraction * factor)),
            )
    return best


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
        output_tokens=1 + max(1, round(decoded.n_tokens / n_sequences)),
        batch=n_sequences,
        dials=dials,
        rng=rng,
        model_name=decoded.provenance.model,
    ).decode_only()


def _comparisons(
    decoded: RoutingTrace, synthetic: RoutingTrace, all_dials: bool, every_expert: bool
) -> tuple[FittedStatistic, ...]:
    recorded, made = _figures(decoded), _figures(synthetic)
    fitted = {"reuse at lag 1", "mean entropy (bits)", "layer following"}
    if all_dials:
        fitted.add(f"reuse at lag {_LATE}")
    if all_dials and not every_expert:
        fitted.add(f"distinct experts, batch {_LARGE}")
    return tuple(
        FittedStatistic(name, value, made[name], name in fitted)
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
