"""`reproduce`: every published row predicted, and how right that is."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hwmodels.platform import Platform, load_platform
from pregate.ask.capturing.answer_cache import Answer, kept_answer, said_key
from pregate.ask.capturing.schedule_cache import ScheduleCache, schedules_in
from pregate.ask.result_display import html_rows, to_dataframe
from pregate.measured.isca24.machine_fit import ASSUMPTIONS, HARDWARE, STACK, is_fitted
from pregate.measured.isca24.natural_routing import Activation
from pregate.measured.isca24.predicted_rows import MANY_SCHEDULES, RowPrediction, Workbench
from pregate.measured.isca24.published_rows import COLUMNS, Row, read_rows
from pregate.measured.rows.table import predictions_csv
from traces.errors import unknown_name

if TYPE_CHECKING:
    import pandas as pd


PUBLISHED_ROWS = Path(__file__).parent / "tables" / "pregated_isca24_a100.csv"
"""The published measurements; where they are from stands in SOURCES.md beside them."""

EXPERIMENTS = ("isca24",)


@dataclass(frozen=True, slots=True)
class Accuracy:
    """Errors of one group of rows: relative, or differences in percentage points for hit rates (as fractions).

    `mape`: mean of |error|; `bias`: mean of the signed error; `worst`: largest |error|, of `worst_row`; `n_fitted`:
    how many of the `n` rows the constants were fitted on, `mape_unseen` leaves those out.
    """

    group: str
    n: int
    n_fitted: int
    mape: float
    mape_unseen: float
    bias: float
    worst: float
    worst_row: str

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True)
class Reproduction:
    """Predictions beside measurements, with the assumptions they rest on."""

    predictions: tuple[RowPrediction, ...]
    activation: Activation
    calibration: str

    def accuracy(self) -> list[Accuracy]:
        """One entry a metric, then one a metric and design; rows with natural batches above 1 apart, rows that do
        not fit the machine left out.
        """
        groups: dict[str, list[RowPrediction]] = {}
        fitting = [p for p in self.predictions if not math.isnan(p.predicted)]
        for p in fitting:
            apart = ", natural batch" if p.row.natural_batch else ""
            groups.setdefault(f"{p.row.metric}{apart}", []).append(p)
        for p in fitting:
            apart = ", natural batch" if p.row.natural_batch else ""
            groups.setdefault(f"{p.row.metric}, {p.row.design}{apart}", []).append(p)
        return [_accuracy(title, group) for title, group in groups.items()]

    def __repr__(self) -> str:
        return f"Reproduction({len(self.predictions)} rows; {self.calibration})"

    def _repr_html_(self) -> str:
        return html_rows([entry.to_dict() for entry in self.accuracy()], "How right it is, by metric and design")

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready: rows, accuracy, assumptions."""
        rows = [
            dict(zip(COLUMNS, p.row.cells, strict=True))
            | {"predicted": p.predicted, "error": p.error, "fitted": is_fitted(p.row)}
            for p in self.predictions
        ]
        assumed = {name: getattr(self.activation, name) for name in self.activation.__slots__}
        return {
            "rows": rows,
            "accuracy": [entry.to_dict() for entry in self.accuracy()],
            "assumptions": assumed,
            "calibration": self.calibration,
        }

    def to_dataframe(self) -> pd.DataFrame:
        """One row a published row. Needs pandas (the extra `notebooks`)."""
        return to_dataframe(self.to_dict()["rows"])

    def to_csv(self) -> str:
        """The input columns plus `predicted`, in the order of the input; empty for what does not fit the machine."""
        return predictions_csv(COLUMNS, ((p.row.cells, p.predicted) for p in self.predictions))


def _accuracy(title: str, group: Sequence[RowPrediction]) -> Accuracy:
    errors = np.array([p.error for p in group])
    unseen = np.array([p.error for p in group if not is_fitted(p.row)])
    worst = int(np.argmax(np.abs(errors)))
    return Accuracy(
        group=title,
        n=len(group),
        n_fitted=len(group) - len(unseen),
        mape=float(np.abs(errors).mean()),
        mape_unseen=float(np.abs(unseen).mean()) if unseen.size else float("nan"),
        bias=float(errors.mean()),
        worst=float(np.abs(errors)[worst]),
        worst_row=group[worst].row.name,
    )


def published_activation(platform: Platform) -> Activation:
    """The activation assumptions that were fitted with the platform's constants, else the defaults."""
    if platform.fit is None or any(name not in platform.fit.assumptions for name in ASSUMPTIONS):
        return Activation()
    return Activation(**{name: platform.fit.assumptions[name].value for name in ASSUMPTIONS})


def reproduce(
    experiment: str = "isca24",
    rows: str | Path | None = None,
    *,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
    cache_dir: str | Path | ScheduleCache | bool | None = False,
) -> Reproduction:
    """Predict every row of a published experiment; `rows`: a CSV with its columns (None: those shipped).

    `progress` is called with a row's name before it is predicted. `cache_dir`: a folder for what is predicted, row by
    row (None: `~/.cache/pregate/schedules`, False: none). Raises `UnknownName` for an unknown experiment,
    `InvalidFile` for a malformed file.
    """
    if experiment not in EXPERIMENTS:
        raise unknown_name("experiment", experiment, EXPERIMENTS)
    platform = load_platform(HARDWARE, STACK)
    activation = published_activation(platform)
    wanted = read_rows(Path(rows) if rows is not None else PUBLISHED_ROWS)
    many = len({row.configuration for row in wanted if row.is_timed}) >= MANY_SCHEDULES
    bench = Workbench(platform, activation, seed, compiled=True if many else None)
    predictions, kept = [], schedules_in(cache_dir)
    for row in wanted:
        if progress is not None:
            progress(row.name)
        key = None if kept is None else _key(bench, row)
        found = kept_answer(kept, key, partial(_answer, bench, row))
        predictions.append(RowPrediction(row, found["predicted"]))
    return Reproduction(tuple(predictions), activation, platform.describe_calibration("fp32"))


def _answer(bench: Workbench, row: Row) -> Answer:
    (found,) = bench.predict([row])
    return {"predicted": found.predicted}


def _key(bench: Workbench, row: Row) -> str:
    """What an answer about a row is found by: all that it is made from."""
    hw = bench.platform
    said = (*row.configuration, row.metric, bench.model(row.model), bench.activation, bench.seed)
    return said_key("isca24", [*said, hw.machine, hw.stack, hw.overridden, hw.fit])
