"""What a validation is made of: a case, what was predicted of it, what was measured, and how both came about.

Nothing here may score: a number stands as it was predicted or measured, in SI units.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple

from hwmodels.fits.trust import Trust
from hwmodels.quantity import ReadOnly
from offload.timeline import Timeline
from traces.errors import InvalidInput

if TYPE_CHECKING:
    import pandas as pd


COMPARED_METRICS = (
    "tpot_s", "tpot_p50_s", "tpot_p99_s", "ttft_s", "moe_layer_latency_s", "makespan_s", "stall_s", "tokens_per_s",
)  # fmt: skip
"""What is compared; definitions in `offload.metrics`. `stall_s` is compared as a share of the measured makespan."""


class OpTime(NamedTuple):
    """All ops of one kind in the decode phase: how many, and their time together."""

    n: int
    total_s: float


@dataclass(frozen=True, slots=True)
class Case:
    """One configuration that was predicted, then run; policies are compared within a `group`.

    `name` is unique: "switch-mini-16/b1/ratio3/pregate". `group` is model, workload and link:
    "switch-mini-16/b1/ratio3". `transfer_over_compute`: what the link was chosen for (None: it was given).
    """

    name: str
    group: str
    model: str
    workload: str
    batch: int
    transfer_over_compute: float | None
    policy: str


@dataclass(frozen=True, slots=True)
class CasePrediction:
    """Before any run: `metrics` (COMPARED_METRICS), `intervals` of them where the fit has one, time by op kind.

    `naive`: `tpot_s` by baseline ("roofline", "bandwidth", "serialised"). `exact`: what the run must match to the last
    one, by name; names in `_bytes` are bytes moved, the others residency. `bound_s`: the schedule's lower bound at the
    predicted costs. `timeline`: of the cases that are drawn.

    Raises `InvalidInput` for a metric that is missing, negative or not a number, and for an interval upside down.
    """

    metrics: Mapping[str, float]
    intervals: Mapping[str, tuple[float, float]]
    naive: Mapping[str, float]
    ops: Mapping[str, OpTime]
    exact: Mapping[str, int]
    bound_s: float
    schedule_digest: str
    timeline: Timeline | None

    def __post_init__(self) -> None:
        _check_metrics(self.metrics, "predicted")
        _check_numbers(self.naive, "naive prediction")
        _check_numbers({kind: op.total_s for kind, op in self.ops.items()} | {"bound_s": self.bound_s}, "predicted")
        for metric, (low, high) in self.intervals.items():
            if not low <= high:
                raise InvalidInput(f"predicted {metric}: the interval from {low:g} to {high:g} is none")


@dataclass(frozen=True, slots=True)
class Measurement:
    """Metrics (COMPARED_METRICS) of every run that counts; `ops`: medians over runs of the totals by op kind.

    `bound_s`: the schedule's lower bound at this measurement's own op times. `disturbances`: why runs were thrown away.
    `load`: the most beside a run that counts, 1 being the most that leaves times alone. `interrupted`: the largest
    share of a run that is left out of its times, for other work kept its threads from running. Raises `InvalidInput`
    for a metric that is missing, negative or not a number.
    """

    runs: tuple[Mapping[str, float], ...]
    ops: Mapping[str, OpTime]
    exact: Mapping[str, int]
    bound_s: float
    output_digest: str
    disturbances: tuple[str, ...]
    timeline: Timeline | None
    load: float = 0.0
    interrupted: float = 0.0

    def __post_init__(self) -> None:
        for run in self.runs:
            _check_metrics(run, "measured")
        _check_numbers({kind: op.total_s for kind, op in self.ops.items()} | {"bound_s": self.bound_s}, "measured")

    def median(self, metric: str) -> float:
        """The measured value: median over the valid runs."""
        return float(median(run[metric] for run in self.runs))

    def span(self, metric: str) -> tuple[float, float]:
        """Least and most over the valid runs."""
        values = [float(run[metric]) for run in self.runs]
        return min(values), max(values)


@dataclass(frozen=True, slots=True)
class CaseOutcome:
    """A case with what was predicted and measured of it; `measurement` None where it was not run."""

    case: Case
    prediction: CasePrediction
    measurement: Measurement | None

    @property
    def valid(self) -> Measurement | None:
        """The measurement, when there is a run of it."""
        return self.measurement if self.measurement is not None and self.measurement.runs else None

    @property
    def disturbances(self) -> tuple[str, ...]:
        """Why runs were thrown away."""
        return self.measurement.disturbances if self.measurement is not None else ()


@dataclass(frozen=True, slots=True)
class Validation:
    """All outcomes, and how they came about: date, command, versions, commit, digest of the measurements fitted.

    `predicted_first`: digest of the predictions as they were written down before the first run. Groups of which there
    is no outcome, and why: `failed`, `skipped` when the time was up. `fit_trust`: in what the fit was made on. Raises
    `InvalidInput` when two cases share a name.
    """

    outcomes: tuple[CaseOutcome, ...]
    provenance: Mapping[str, str]
    machine: Mapping[str, Any]
    fit: str
    predicted_first: str
    failed: Mapping[str, str] = field(default_factory=lambda: ReadOnly({}))
    skipped: Mapping[str, str] = field(default_factory=lambda: ReadOnly({}))
    fit_trust: Trust = Trust("high")  # noqa: RUF009 (frozen)

    def __post_init__(self) -> None:
        names = [outcome.case.name for outcome in self.outcomes]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise InvalidInput(f"a validation has two cases named {twice[0]!r}: give each its own name")

    def summary(self) -> dict[str, Any]:
        """Every score, JSON-ready (`pregate.validation.scores.validation_summary`)."""
        from pregate.validation.scores.validation_summary import summarise_validation

        return summarise_validation(self)

    def verdict(self) -> str:
        """How right the times and their order are, what is exact, and how far times can be trusted, in words."""
        from pregate.validation.scores.verdict import verdict

        return verdict(self.summary())

    def timelines(self) -> dict[str, tuple[Timeline, Timeline]]:
        """Of the cases that are drawn, by name: what was predicted, and the run in the middle."""
        return {
            one.case.name: (one.prediction.timeline, one.valid.timeline)
            for one in self.outcomes
            if one.prediction.timeline is not None and one.valid is not None and one.valid.timeline is not None
        }

    def rows(self) -> list[dict[str, Any]]:
        """A row a case and metric, then a row a case and kind of op."""
        from pregate.validation.scores.validation_summary import rows

        return rows(self)

    def to_dataframe(self) -> pd.DataFrame:
        """The rows as a pandas DataFrame (the extra `notebooks`)."""
        from pregate.ask.result_display import to_dataframe

        return to_dataframe(self.rows())

    def __repr__(self) -> str:
        return f"Validation({len(self.outcomes)} cases: {self.verdict()})"

    def _repr_html_(self) -> str:
        from pregate.ask.result_display import html_rows

        names = ("name", "predicted", "measured", "error", "unit")
        tpot = [row for row in self.rows() if row["what"] == "metric" and row["kind"] == "tpot_s"]
        return html_rows([{name: row[name] for name in names} for row in tpot], self.verdict())


def _check_metrics(metrics: Mapping[str, float], what: str) -> None:
    missing = [metric for metric in COMPARED_METRICS if metric not in metrics]
    if missing:
        compared = ", ".join(COMPARED_METRICS)
        raise InvalidInput(f"{what} metrics lack {', '.join(missing)}: all of {compared} are compared")
    _check_numbers({metric: metrics[metric] for metric in COMPARED_METRICS}, what)


def _check_numbers(values: Mapping[str, float], what: str) -> None:
    for name, value in values.items():
        if not (math.isfinite(value) and value >= 0):
            raise InvalidInput(f"{what} {name} is {value:g}: it must be a number not below 0")
