"""Why a prediction is what it is: where its time goes, and which number of the machine would change it by how much."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from hwmodels.cost import price_figures
from hwmodels.figures import MEMORY_FIGURES, Figures, figures_of
from hwmodels.platform import Platform
from hwmodels.quantity import ReadOnly
from hwmodels.specs.machine_fields import FIELDS
from hwmodels.stacks.stack import CONSTANTS
from offload.metrics.metric_probes import find_probes
from offload.policy import Cache, Policy
from pregate.ask.capturing.capture import Captured, capture
from pregate.ask.result_display import html_rows, to_dataframe
from pregate.ask.simulation import SimulationResult, interpret
from pregate.ask.timing.intervals import measured, prepared
from pregate.spellings.figure_words import figure_named
from simulator.explain.attribution import partition
from simulator.explain.critical_path import walk
from simulator.explain.explained_metrics import METRICS
from simulator.explain.sensitivity import elasticities
from traces.errors import InvalidInput
from traces.model.architecture import ModelArchitecture
from traces.routing import RoutingTrace

if TYPE_CHECKING:
    import pandas as pd


MOVE = 0.1
"""How far a number is moved for its `Swing`: 10 %."""

_WORDS = {
    "compute": "arithmetic",
    "kernel": "starting and draining kernels",
    "hbm": "HBM traffic",
    "h2d": "exposed fetches over the link",
    "disk": "storage reads",
    "cpu": "experts on the host",
    "host": "launches and bookkeeping on the host",
    "sync": "read-backs, waits of the host and sums over cards",
    "slot": "copies that wait for a slot or the pinned buffer",
}
"""`simulator.explain.attribution.CLASSES` in plain words."""


@dataclass(frozen=True, slots=True)
class Swing:
    """A number moved down to `low_value` and up to `high_value`, and the metric there, all else as it was."""

    value: float
    low_value: float
    high_value: float
    low: float
    high: float

    @property
    def span(self) -> float:
        """How far apart the two metrics are."""
        return abs(self.high - self.low)


_LEAST_ELASTICITY, _LEAST_SPAN = 5e-4, 1e-4
"""What 1 % of a number does, in per cent, and a tenth of it, as a share: below both nobody sees an effect."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """One prediction and why.

    `seconds`: the makespan by class (`simulator.explain.attribution`), summing to it. `elasticities`: per cent that
    `metric` changes for 1 % more of a number, exact, by dotted key. `swings`: what a tenth less and more of it does,
    recomputed on the same schedule. Numbers that decide which schedule is captured (memory sizes) have neither.
    """

    result: SimulationResult
    metric: str
    seconds: Mapping[str, float]
    elasticities: Mapping[str, float]
    swings: Mapping[str, Swing]

    @property
    def value(self) -> float:
        """The metric itself."""
        value: float = getattr(self.result, self.metric)
        return value

    @property
    def shares(self) -> dict[str, float]:
        """The fraction of the makespan in each class; they sum to 1."""
        total_s = sum(self.seconds.values())
        return {name: seconds / total_s for name, seconds in self.seconds.items()}

    def verdict(self) -> str:
        """Where the time goes and what would change it most, in plain words."""
        shares = sorted(self.shares.items(), key=lambda item: -item[1])
        told = [f"{share:.0%} on {_WORDS[name]}" for name, share in shares[:4] if share >= 0.005]
        software = ("stack.", "kernel.")
        machine = [key for key in self.elasticities if not key.startswith(software) and key != "accelerator.n_sm"]
        overheads = [f"stack.{name}" for name, dimension in CONSTANTS.items() if dimension == "time"]
        overheads = [key for key in overheads if key in self.elasticities]
        overheads += [key for key in self.elasticities if key.startswith("kernel.")]
        buys = [text for text in (self._buys(machine), self._buys(overheads)) if text]
        return "; ".join([f"{self.result.policy} spends its time: {', '.join(told)}", *buys]) + "."

    def _buys(self, keys: Sequence[str]) -> str:
        """What 1 % of the number that matters most does; empty when that is less than 0.005 %."""
        key = max(keys, key=lambda name: abs(self.elasticities[name]))
        size, more_is_better = self.elasticities[key], self.metric == "tokens_per_s"
        if abs(size) < 5e-3:
            return ""
        way = "more" if (size > 0) == more_is_better else "less"
        effect = f"adds {abs(size):.2g}% to" if more_is_better else f"takes {abs(size):.2g}% off"
        return f"1% {way} {key} {effect} {self.metric}"

    def __repr__(self) -> str:
        return f"Explanation({self.metric}: {self.verdict()})"

    def _repr_html_(self) -> str:
        return html_rows(self.rows(), self.verdict(), most=12)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready: what was simulated, shares, seconds, a row a number, the verdict."""
        result = self.result
        names = ("policy", "model", "hardware", "stack", "calibration", "makespan_s", "schedule_digest", "trace_digest")
        return {name: getattr(result, name) for name in names} | {
            "metric": self.metric,
            "value": self.value,
            "shares": self.shares,
            "seconds": dict(self.seconds),
            "numbers": self.rows(),
            "verdict": self.verdict(),
        }

    def by_size(self) -> list[tuple[str, float]]:
        """Every number with its elasticity, the largest first."""
        return sorted(self.elasticities.items(), key=lambda item: -abs(item[1]))

    def that_matter(self) -> list[str]:
        """The numbers with an effect that anyone would see, the largest elasticity first."""
        moved = {key for key, swing in self.swings.items() if swing.span >= _LEAST_SPAN * abs(self.value)}
        return [key for key, elasticity in self.by_size() if key in moved or abs(elasticity) >= _LEAST_ELASTICITY]

    def rows(self) -> list[dict[str, Any]]:
        """One row a number, the largest elasticity first."""
        rows = []
        for key, elasticity in self.by_size():
            swing = self.swings[key]
            row: dict[str, Any] = {"number": key, "value": swing.value, "elasticity": elasticity}
            row |= {"low_value": swing.low_value, "high_value": swing.high_value}
            rows.append(row | {f"{self.metric}_at_low": swing.low, f"{self.metric}_at_high": swing.high})
        return rows

    def to_dataframe(self) -> pd.DataFrame:
        """The same rows as a pandas DataFrame (the extra `notebooks`)."""
        return to_dataframe(self.rows())


def explain(
    model: ModelArchitecture,
    hw: Platform,
    trace: RoutingTrace,
    policy: str | Policy = "pregate",
    *,
    cache: Cache | None = None,
    expert_tier: str = "dram",
    metric: str = "makespan_s",
) -> Explanation:
    """Why `simulate` predicts what it does for `policy` on `trace`: arguments as there.

    `metric`: one of `simulator.explain.sensitivity.METRICS`. Raises `UnknownName` for another, `InvalidInput` for a 0
    (a time per token with one token), and what `simulate` raises.
    """
    metric = figure_named("metric", metric, METRICS)
    captured = capture(model, hw, trace, policy, cache=cache, expert_tier=expert_tier)
    result = interpret(captured, hw, "recurrence", with_intervals=False)
    if not getattr(result, metric):
        raise InvalidInput(f"{metric} of this trace is 0: explain makespan_s instead")
    figures = figures_of(hw)
    schedule = captured.decoded.schedule
    explained = walk(schedule, price_figures(schedule.works, figures))
    return Explanation(
        result,
        metric,
        ReadOnly(partition(explained, figures)),
        ReadOnly(elasticities(explained, find_probes(schedule, trace), figures, metric)),
        ReadOnly(_swings(captured, figures, metric)),
    )


def _swings(captured: Captured, figures: Figures, metric: str) -> dict[str, Swing]:
    """The metric with each number a tenth lower and a tenth higher: two machines a number, in one evaluation.

    An efficiency stops at 1 and what is counted moves to the nearest whole number.
    """
    keys = [key for key in figures.values if key not in MEMORY_FIGURES]
    moved = {}
    for i, key in enumerate(keys):
        moved[key] = np.full(2 * len(keys), figures[key])
        for column, factor in ((2 * i, 1 - MOVE), (2 * i + 1, 1 + MOVE)):
            moved[key][column] = _possible(key, figures[key] * factor)
    found = measured(prepared(captured, 2 * len(keys)), captured, figures.with_values(moved), 2 * len(keys))[metric]
    return {
        key: Swing(
            figures[key],
            float(moved[key][2 * i]),
            float(moved[key][2 * i + 1]),
            float(found[2 * i]),
            float(found[2 * i + 1]),
        )
        for i, key in enumerate(keys)
    }


def _possible(key: str, value: float) -> float:
    """`value`, or the nearest one that number `key` can have."""
    kind, _, name = key.partition(".")
    if kind == "kernel":
        return value
    dimension = CONSTANTS[name] if kind == "stack" else FIELDS[kind][name].dimension
    if dimension == "ratio":
        return min(value, 1.0)
    return float(max(1, round(value))) if dimension == "count" else value
