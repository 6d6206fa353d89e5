"""Rows of a table beside their predictions: errors, intervals, scores by metric and source, beside rules of thumb."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from hwmodels.specs.spread import shipped_spread
from pregate.ask.result_display import html_rows, to_dataframe
from pregate.measured.rows.measured_row import COLUMNS, MeasuredRow
from pregate.measured.rows.table import predictions_csv
from pregate.validation.scores.rank_agreement import kendall_tau

if TYPE_CHECKING:
    import pandas as pd

BASELINES = ("link", "roofline", "repeat")
"""Bytes over the link; a roofline; the first row of the same source, machine and metric repeated."""

_REPEATS_BADLY = 0.25
"""Where repeating a row misses by more than that, a prediction should miss by at most half of it."""


@dataclass(frozen=True, slots=True)
class PredictedRow:
    """A row, what is predicted (NaN where it is not) and why not; `baselines` by name, those that say anything.

    `elasticities` of the time behind the metric, by number of the machine, but those that are stated or determined.
    `larger`: both in the largest usual pass, where the row does not state in which its prompt was read.
    """

    row: MeasuredRow
    predicted: float
    baselines: Mapping[str, float]
    reason: str
    elasticities: Mapping[str, float] = field(default_factory=dict)
    larger: tuple[float, Mapping[str, float]] | None = None

    @property
    def interval(self) -> tuple[float, float] | None:
        """95 %, by how far constants scatter from source to source, of all passes that a row leaves open; None where
        nothing of them is known.
        """
        if not self.elasticities:
            return None
        asked = [(self.predicted, self.elasticities), *([self.larger] if self.larger else [])]
        ends = [shipped_spread().interval(value, depends) for value, depends in asked]
        return min(low for low, _ in ends), max(high for _, high in ends)

    @property
    def note(self) -> str:
        """The row's own, and why its interval is wide where it does not say in which pass its prompt was read."""
        if self.larger is None:
            return self.row.note
        unstated = f"its pass is not stated (-ub): {self.larger[0]:.4g} {self.row.unit} in the largest usual"
        return "; ".join(filter(None, (self.row.note, unstated)))

    @property
    def error(self) -> float:
        """Predicted over measured, less 1; of hit rates the difference."""
        if self.row.metric == "hit_rate":
            return self.predicted - self.row.value
        return self.predicted / self.row.value - 1


@dataclass(frozen=True, slots=True)
class FieldScore:
    """Errors of one group of scored rows, relative: `mape` and `median` of |error|, `bias`, `worst`; `kendall_tau` of
    the order. `baselines`: their MAPE, on the rows that each says something of.
    """

    group: str
    n: int
    mape: float
    median: float
    bias: float
    worst: float
    worst_row: str
    kendall_tau: float | None
    baselines: Mapping[str, float]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {name: getattr(self, name) for name in self.__slots__} | {"baselines": dict(self.baselines)}


@dataclass(frozen=True, slots=True)
class AgainstRepeating:
    """What `n` rows of one source and metric are off by on average: predicted, and the first of them repeated."""

    group: str
    n: int
    mape: float
    repeat_mape: float

    @property
    def holds(self) -> bool:
        """Whether a prediction is at most half as far off."""
        return self.mape <= self.repeat_mape / 2

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {name: getattr(self, name) for name in (*self.__slots__, "holds")}


@dataclass(frozen=True, slots=True)
class TablePrediction:
    """Every row of a table beside its prediction; `constants`: what rows determined, by machine and key."""

    rows: tuple[PredictedRow, ...]
    constants: Mapping[str, float]
    doubts: tuple[str, ...] = ()
    """Formats that rows say and their engines do not read, or read by kernels that were not measured."""

    @property
    def scored(self) -> list[PredictedRow]:
        """The rows that are judged."""
        return [one for one in self.rows if one.row.is_scored and not math.isnan(one.predicted)]

    def scores(self) -> list[FieldScore]:
        """One a metric, then one a source and metric."""
        groups: dict[str, list[PredictedRow]] = {}
        for one in self.scored:
            groups.setdefault(one.row.metric, []).append(one)
        for one in self.scored:
            if one.row.source:
                groups.setdefault(f"{one.row.metric}, {one.row.source}", []).append(one)
        return [_score(title, group) for title, group in groups.items()]

    def against_repeating(self) -> list[AgainstRepeating]:
        """One a source and metric in which repeating the first row misses by more than `_REPEATS_BADLY`."""
        groups: dict[str, list[PredictedRow]] = {}
        for one in self.scored:
            if "repeat" in one.baselines:
                groups.setdefault(f"{one.row.source}, {one.row.metric}", []).append(one)
        found = []
        for title, group in groups.items():
            ours = float(np.mean([abs(one.predicted / one.row.value - 1) for one in group]))
            theirs = float(np.mean([abs(one.baselines["repeat"] / one.row.value - 1) for one in group]))
            if theirs > _REPEATS_BADLY:
                found.append(AgainstRepeating(title, len(group), ours, theirs))
        return found

    def unsaid(self) -> dict[str, int]:
        """Why rows are not predicted, and how many."""
        counts: dict[str, int] = {}
        for one in self.rows:
            if one.reason:
                counts[one.reason] = counts.get(one.reason, 0) + 1
        return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))

    def first_unsaid(self) -> dict[str, str]:
        """Of each reason the first row that has it, by name."""
        return {one.reason: one.row.name for one in reversed(self.rows) if one.reason}

    def __repr__(self) -> str:
        return f"TablePrediction({len(self.scored)} of {len(self.rows)} rows scored)"

    def _repr_html_(self) -> str:
        return html_rows([score.to_dict() for score in self.scores()], "How right it is, by metric and source")

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready: rows, scores, constants, what could not be said."""
        rows = []
        for one in self.rows:
            known = not math.isnan(one.predicted)
            cells = {name: getattr(one.row, name) for name in COLUMNS} | {"reason": one.reason, "note": one.note}
            cells["value"] = None if math.isnan(one.row.value) else one.row.value
            said = {
                "predicted": one.predicted if known else None,
                "error": one.error if known else None,
                "ci95": None if one.interval is None else list(one.interval),
            }
            rows.append(cells | said | {"baselines": dict(one.baselines), "scored": one in self.scored})
        return {
            "rows": rows,
            "scores": [score.to_dict() for score in self.scores()],
            "constants": dict(self.constants),
            "against_repeating": [one.to_dict() for one in self.against_repeating()],
            "unsaid": self.unsaid(),
            "doubts": list(self.doubts),
        }

    def to_dataframe(self) -> pd.DataFrame:
        """One row a row. Needs pandas (the extra `notebooks`)."""
        return to_dataframe(self.to_dict()["rows"])

    def to_csv(self) -> str:
        """The table with `predicted`, empty where nothing is."""
        rows = []
        for one in self.rows:
            cells = [getattr(one.row, name) for name in COLUMNS]
            cells[COLUMNS.index("reason")] = one.reason
            cells[COLUMNS.index("value")] = "" if math.isnan(one.row.value) else one.row.value
            rows.append((cells, one.predicted))
        return predictions_csv(COLUMNS, rows)


def _score(title: str, group: Sequence[PredictedRow]) -> FieldScore:
    errors = np.array([one.error for one in group])
    worst = int(np.argmax(np.abs(errors)))
    baselines = {}
    for name in BASELINES:
        found = [abs(one.baselines[name] / one.row.value - 1) for one in group if name in one.baselines]
        if found:
            baselines[name] = float(np.mean(found))
    tau = kendall_tau([one.predicted for one in group], [one.row.value for one in group])
    return FieldScore(
        group=title,
        n=len(group),
        mape=float(np.abs(errors).mean()),
        median=float(np.median(np.abs(errors))),
        bias=float(errors.mean()),
        worst=float(np.abs(errors)[worst]),
        worst_row=group[worst].row.name,
        kendall_tau=tau,
        baselines=baselines,
    )
