"""Where the winner changes: along any axis of numbers, to 0.1 %, by bisection on the recurrence.

A coarse scan, of equal ratios or for `cache_ratio` of equal steps, brackets every change between neighbours, and looks
once at the middle of every interval whose ends agree; each bracket is then halved, both halves where the middle has a
third winner, until its ends are 0.1 % apart, or neighbours where the axis is counted. What can be missed: a winner that
rules only inside one half of a scan interval, a stretch of the axis shorter than a factor
(high / low) ** (1 / (2 (n_scan - 1))), or than (high - low) / (2 (n_scan - 1)). A finer scan sees it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hwmodels.platform import Platform
from offload.policy import Cache, Policy
from pregate.ask.result_display import html_rows, to_dataframe
from pregate.crossover.axis_scale import Scale, read_scale
from pregate.crossover.axis_winners import AxisWinners, Winner
from pregate.crossover.axis_words import axis_value, axis_words
from pregate.spellings.figure_words import figure_named
from pregate.sweeps.machines import MachineRecipe, platform_at
from pregate.sweeps.planning import Subject, read_subject, with_figures
from pregate.sweeps.workloads import TraceRecipe
from simulator.explain.explained_metrics import METRICS
from traces.errors import InvalidInput
from traces.model.architecture import ModelArchitecture
from traces.routing import RoutingTrace

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True)
class Crossover:
    """One change of winner along `axis`, between `low` and `high`: at most 0.1 % apart, or 1 where the axis is counted,
    or a millionth where a `cache_ratio` is below 0.001.

    `value`: their geometric mean, of a `cache_ratio` their mean, of a count `high`. `below`, `above`: who wins on each
    side, None where no policy fits; `below_metric` at `low`, `above_metric` at `high`, NaN where none fits. Along a
    price two policies that cross have about the same there; a winner that stops fitting, or an axis that changes
    schedules, leaves a step.
    """

    axis: str
    value: float
    low: float
    high: float
    below: str | None
    above: str | None
    below_metric: float
    above_metric: float

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True)
class Crossovers:
    """The changes of winner on `axis` from `low` to `high`, in order; iterate over them.

    `first`: who wins at `low`. `calibration`: what the predictions rest on once the axis moves, in plain words.
    `refusal`: why, memory too small apart, some policy could not be somewhere, and so did not win; empty if it could.
    `not_ranked`: policies that win nowhere, for they know the future or change the output; `told_apart`: in words.
    """

    rows: tuple[Crossover, ...]
    axis: str
    low: float
    high: float
    metric: str
    first: str | None
    calibration: str
    refusal: str = ""
    not_ranked: tuple[str, ...] = ()
    told_apart: str = ""

    def __iter__(self) -> Iterator[Crossover]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> Crossover:
        return self.rows[i]

    def verdict(self) -> str:
        """Who wins where, in plain words; along a count up to the last value of each."""
        begins = [self.low, *(row.value for row in self.rows)]
        ends = [*(row.low if row.value == row.high else row.value for row in self.rows), self.high]
        winners = [self.first, *(row.above for row in self.rows)]
        told = [
            f"{winner or 'nothing that fits'} {_span(axis_value(self.axis, begin), axis_value(self.axis, end))}"
            for winner, begin, end in zip(winners, begins, ends, strict=True)
        ]
        words = axis_words(self.axis)
        along = self.axis if words == self.axis else f"{words} ({self.axis})"
        return f"Best {self.metric} along {along}: {', '.join(told)}. {self.told_apart}".rstrip()

    def __repr__(self) -> str:
        return f"Crossovers({self.verdict()})"

    def _repr_html_(self) -> str:
        return html_rows([row.to_dict() for row in self.rows], self.verdict())

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready: the axis, who wins first, every change, the verdict."""
        names = ("axis", "low", "high", "metric", "first", "calibration", "refusal", "not_ranked", "told_apart")
        rows = [row.to_dict() for row in self.rows]
        return {name: getattr(self, name) for name in names} | {"crossovers": rows, "verdict": self.verdict()}

    def to_dataframe(self) -> pd.DataFrame:
        """One row a change (the extra `notebooks`)."""
        return to_dataframe([row.to_dict() for row in self.rows])


def _span(begin: str, end: str) -> str:
    """From one value to another, or at one alone."""
    return f"from {begin} to {end}" if begin != end else f"at {begin}"


MAX_SCAN = 100_000
"""Most points of a scan: far more than changes of the winner that anybody has seen."""


def crossovers(
    model: ModelArchitecture | str | Path,
    hw: Platform | MachineRecipe | str | Path,
    trace: RoutingTrace | TraceRecipe | str | Path | None,
    policies: Sequence[str | Policy],
    axis: str,
    low: float | str,
    high: float | str,
    *,
    metric: str = "tokens_per_s",
    n_scan: int = 33,
    cache: Cache | None = None,
    expert_tier: str = "dram",
) -> Crossovers:
    """Where along `axis`, from `low` to `high` (SI, or text with a unit), another of `policies` has the best `metric`.

    `axis`: any of `pregate.sweep` whose values are numbers: a hardware number by dotted key, `hbm_bytes`, `batch`,
    `input_tokens`, `output_tokens`, `n_active`, `top_k`, `lookahead`, `gamma`, `tier_bytes`, and `cache_ratio` or
    `acceptance` (from 0). `model`, `hw`, `trace`, `cache` are what a sweep takes too, and a point says what a sweep
    says of it; an axis of the workload needs a `TraceRecipe` (None: 256 + 256 tokens), `batch` can also rebatch a
    recording. All else stays.

    A policy that does not fit, or cannot be, at a value cannot win there. Raises `UnknownName` for an axis, policy or
    metric that does not exist, `InvalidInput` for an axis of names, a range that is none, values that the axis cannot
    have, an axis that moves no policy or not this trace, no policies, one twice, fewer than 2 points to scan, or when
    no policy can be anywhere.
    """
    scale = read_scale(axis, low, high)
    metric = figure_named("metric", metric, METRICS)
    if not 2 <= n_scan <= MAX_SCAN:
        raise InvalidInput(f"n_scan = {n_scan}: a scan has 2 to {MAX_SCAN:,} points")
    key = scale.axis.key
    subject = read_subject(model, hw, trace, policies, {key: scale.axis}, cache=cache, expert_tier=expert_tier)
    winners = AxisWinners(subject, scale.axis, metric)
    points = scale.spaced(n_scan).tolist()
    intervals = list(pairwise(points))
    winners.scan(np.unique([*points, *(scale.middle(*interval) for interval in intervals)]))
    rows = [row for interval in intervals for row in _changes_between(scale, *interval, winners.at, look=True)]
    return Crossovers(
        tuple(rows), key, scale.low, scale.high, metric, winners.at(scale.low).name, _calibration(subject, scale),
        winners.refusal, winners.not_ranked, winners.told_apart,
    )  # fmt: skip


def _calibration(subject: Subject, scale: Scale) -> str:
    """What predictions rest on where the axis has moved the machine, if it does."""
    moved = {scale.axis.key: scale.low} if "." in scale.axis.key else {}
    return with_figures(platform_at(subject.hw, {}), moved).describe_calibration(subject.model.dtype.name)


def _changes_between(
    scale: Scale, low: float, high: float, winner_at: Callable[[float], Winner], *, look: bool
) -> list[Crossover]:
    """The changes between two points; `look`: at the middle even where the ends agree."""
    below, above = winner_at(low), winner_at(high)
    if below.name == above.name and not look:
        return []
    if scale.is_narrow(low, high):
        if below.name == above.name:
            return []
        value = scale.edge(low, high)
        return [Crossover(scale.axis.key, value, low, high, below.name, above.name, below.metric, above.metric)]
    middle = scale.middle(low, high)
    return [
        *_changes_between(scale, low, middle, winner_at, look=False),
        *_changes_between(scale, middle, high, winner_at, look=False),
    ]
