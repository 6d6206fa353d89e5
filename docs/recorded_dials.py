"""Fits the synthetic dials to what was recorded and writes traces/recorded/dials.json.

    python docs/recorded_dials.py

- `models`: dials of each recorded trace that ships, with the decode hit rate of an LRU a layer, by the share of a
  layer's experts resident: of the recording, of a synthetic trace as long by these dials, and by default dials made
  without this model.
- `default`: dials of models that nothing was recorded of. The Zipf exponent is the median over the models whose pooled
  counts of experts are known (expert_counts.csv, and the recording of many sequences), as the generator needs it to
  have their collision entropy. With it, and no layer correlation, repeats and affinity are fitted to each recording;
  their medians are the default.
- `few_experts`: the same where a layer has few, of the one such model with counts by request: its exponent, and the
  affinity with which requests differ as they do.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

import numpy as np

from pregate import routing_traces
from pregate.named import load_model
from traces.foundation.atomic_files import whole_file
from traces.recorded.dials import MODEL_OF, PATH, SHARES
from traces.routing import RoutingTrace
from traces.statistics.locality import expert_counts, lru_hit_rates
from traces.synthesis.dials import Dials, synthesize_routing
from traces.synthesis.fitting import collision_entropy, fit_dials
from traces.transforms.rebatching import rebatch

COUNTS = PATH.parent / "expert_counts.csv"
ROUNDS = 10
REQUEST_TOKENS = 800
"""Of a prompt of five shots, about."""


@dataclass(frozen=True, slots=True)
class Counted:
    """A model whose pooled counts are known; `spread` of its requests where they were counted one by one."""

    model: str
    n_experts: int
    top_k: int
    collision_entropy: float
    spread: float | None

    def made(self, dials: Dials, n_sequences: int, n_tokens: int) -> RoutingTrace:
        """Decode tokens by these dials, of a model of two layers."""
        return synthesize_routing(
            n_moe_layers=2, n_encoder_moe_layers=0, n_experts=self.n_experts, top_k=self.top_k, input_tokens=1,
            output_tokens=1 + n_tokens, batch=n_sequences, dials=dials, rng=np.random.default_rng(0),
            model_name=self.model,
        ).decode_only()  # fmt: skip

    def exponent(self, rest: Dials) -> float:
        """Zipf exponent with which the generator, by the `rest` of its dials, has the collision entropy."""

        def entropy(exponent: float) -> float:
            made = self.made(with_(rest, zipf_exponent=exponent), 600, 20)
            return float(collision_entropy(expert_counts(made)).mean()) / math.log2(self.n_experts)

        return falling(entropy, self.collision_entropy, 0.0, 3.0)

    def affinity(self, rest: Dials) -> float:
        """Affinity with which sequences spread as the requests do."""
        assert self.spread is not None

        def spread(affinity: float) -> float:
            made = self.made(with_(rest, sequence_affinity=affinity), 200, REQUEST_TOKENS)
            each = [expert_counts(made.of_sequences([i])) for i in range(made.n_sequences)]
            shares = np.stack(each) / np.stack(each).sum(axis=2, keepdims=True)
            mean = shares.mean(axis=0)
            return float(np.median((mean * (1 - mean)).sum(axis=1) / shares.var(axis=0, ddof=1).sum(axis=1)) - 1)

        return falling(spread, self.spread, 0.001, 0.9)


def main() -> None:
    """Write the file."""
    counted = read_counts()
    default, evidence = default_of(tuple(MODEL_OF), counted)
    few = few_experts(counted, default)
    document = {
        "default": {"dials": asdict(default), "by_model": evidence},
        "few_experts": {"dials": asdict(few), "model": next(one.model for one in counted if one.spread)},
        "models": {model: entry(model, counted, default) for model in MODEL_OF},
    }
    with whole_file(PATH) as partial:
        partial.write_text(json.dumps(document, indent=1) + "\n")


def read_counts() -> list[Counted]:
    """The rows of expert_counts.csv."""
    lines = [line for line in COUNTS.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    return [
        Counted(
            row["model"], int(row["n_experts"]), int(row["top_k"]), float(row["collision_entropy"]),
            float(row["spread"]) if row["spread"] else None,
        )
        for row in csv.DictReader(lines)
    ]  # fmt: skip


def default_of(models: tuple[str, ...], counted: list[Counted]) -> tuple[Dials, dict[str, Any]]:
    """Default dials from these recordings and counts, and what each model says."""
    dials = Dials(0.6, 0.15, 0.0, 1.0, 0.5)
    traces = {model: routing_traces.load_trace(MODEL_OF[model]) for model in models}
    for _ in range(2):  # exponents depend a little on the affinity, and that on the exponent
        exponents = {one.model: one.exponent(few_affinity(dials) if one.spread else dials) for one in counted}
        for model, trace in traces.items():
            if trace.n_sequences > 1:
                own = fit_dials(trace, np.random.default_rng(0), every_expert=True, correlation=0.0).dials
                exponents[model] = float(np.mean(own.zipf_exponent))
        dials = with_(dials, zipf_exponent=round(median(exponents.values()), 2))
        fitted = {
            model: fit_dials(
                trace, np.random.default_rng(0), every_expert=True, exponent=float(np.mean(dials.zipf_exponent)),
                correlation=0.0,
            ).dials
            for model, trace in traces.items()
        }  # fmt: skip
        dials = with_(
            dials,
            repeat_probability=round(median(one.repeat_probability for one in fitted.values()), 2),
            sequence_affinity=round(median(one.sequence_affinity for one in fitted.values()), 2),
        )
    evidence = {
        "zipf_exponent": {name: round(value, 3) for name, value in exponents.items()},
        "repeat_probability": {name: round(one.repeat_probability, 3) for name, one in fitted.items()},
        "sequence_affinity": {name: round(one.sequence_affinity, 3) for name, one in fitted.items()},
    }
    return dials, evidence


def few_experts(counted: list[Counted], default: Dials) -> Dials:
    """Dials of models of few experts, by the one with counts of requests; repeats as by default."""
    (one,) = (one for one in counted if one.spread)
    dials = few_affinity(default)
    for _ in range(2):
        dials = with_(dials, zipf_exponent=one.exponent(dials))
        dials = with_(dials, sequence_affinity=one.affinity(dials))
    return with_(
        dials,
        zipf_exponent=round(float(np.mean(dials.zipf_exponent)), 2),
        sequence_affinity=round(dials.sequence_affinity, 3),
    )


def few_affinity(dials: Dials) -> Dials:
    """To begin with."""
    return with_(dials, sequence_affinity=0.05)


def entry(name: str, counted: list[Counted], default: Dials) -> dict[str, Any]:
    """Dials and hit rates of one model."""
    trace_name = MODEL_OF[name]
    trace = routing_traces.load_trace(trace_name)
    exponent = None if trace.n_sequences > 1 else float(np.mean(default.zipf_exponent))
    dials = fit_dials(trace, np.random.default_rng(0), every_expert=True, exponent=exponent).dials
    dials = Dials(**{key: rounded(value) for key, value in asdict(dials).items()})
    others = tuple(model for model in MODEL_OF if model != name)
    without, _ = default_of(others, [one for one in counted if one.model != name])
    model = load_model(name, top_k=trace.top_k)
    prompt = max(1, int((trace.phase == 0).sum() / trace.n_sequences))
    length = max(2, round(trace.decode_only().n_tokens / trace.n_sequences))

    def made(given: Dials) -> dict[str, float]:
        seeds = range(max(1, 12 // trace.n_sequences))
        traces = (routing_traces.synthesize(model, prompt, length, trace.n_sequences, i, dials=given) for i in seeds)
        found = [rates(one) for one in traces]
        return {share: round(float(np.mean([one[share] for one in found])), 4) for share in found[0]}

    return {
        "trace": trace_name,
        "digest": trace.digest,
        "note": f"top-{trace.top_k}, {trace.n_sequences} sequences, {trace.decode_only().n_tokens} decode tokens",
        "dials": asdict(dials),
        "lru_hit_rate": {"recorded": rates(trace), "synthetic": made(dials), "left_out": made(without)},
    }


def rates(trace: RoutingTrace) -> dict[str, float]:
    """Decode hit rate of an LRU a layer, sequences one after another, by the share of experts resident."""
    decoded = rebatch(trace, 1)
    slots = [round(share * trace.n_experts) for share in SHARES]
    found = lru_hit_rates(decoded, slots)
    return {f"{share:g}": round(rate, 4) for share, rate in zip(SHARES, found, strict=True)}


def falling(function: Callable[[float], float], value: float, low: float, high: float) -> float:
    """Where a falling function has `value`."""
    for _ in range(ROUNDS):
        middle = (low + high) / 2
        low, high = (middle, high) if function(middle) > value else (low, middle)
    return (low + high) / 2


def with_(dials: Dials, **changes: Any) -> Dials:
    """`dials` with changes."""
    return Dials(**(asdict(dials) | changes))


def rounded(value: Any) -> Any:
    """A dial with as many digits as are kept."""
    return tuple(round(one, 3) for one in value) if isinstance(value, tuple) else round(value, 4)


if __name__ == "__main__":
    from script_arguments import given

    given(__doc__)
    main()
