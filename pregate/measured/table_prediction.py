"""All rows of a table predicted, with the constants that rows of their machine determine, and how right that is."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hwmodels.platform import load_platform
from hwmodels.specs.spread import shipped_spread
from hwmodels.stacks.stack_files import load_stack, stack_names
from hwmodels.stacks.weight_formats import unmeasured_weights, why_unread
from offload.slots.memory import CapacityExceeded
from pregate.ask.capturing.answer_cache import Answer
from pregate.ask.capturing.schedule_cache import ScheduleCache, schedules_in
from pregate.ask.result_display import html_rows, to_dataframe
from pregate.measured.determined_constant import determined_constant
from pregate.measured.row_cache import KeptRows
from pregate.measured.row_prediction import RowBench
from pregate.measured.rows.measured_row import COLUMNS, MeasuredRow
from pregate.measured.rows.table import predictions_csv
from pregate.measured.unstated_passes import in_larger_passes
from pregate.validation.scores.rank_agreement import kendall_tau
from traces.errors import PregateError
from traces.foundation.gc_pause import gc_paused

if TYPE_CHECKING:
    import pandas as pd


BASELINES = ("link", "roofline", "repeat")
"""Bytes over the link; a roofline; the first row of the same source, machine and metric repeated."""

_REPEATS_BADLY = 0.25
"""Where repeating a row misses by more than that, a prediction should miss by at most half of it."""

_UNCOLLECTED_ROWS = 500
"""Rows between two searches for cycles of garbage, of which each leaves some 50 kB."""


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
            rows.append((cells, one.predicted))
        return predictions_csv(COLUMNS, rows)


def predict_table(
    rows: Sequence[MeasuredRow],
    *,
    seed: int = 0,
    hardware: str | None = None,
    overrides: Mapping[str, str] | None = None,
    progress: Callable[[str], None] = lambda _: None,
    cache_dir: str | Path | ScheduleCache | bool | None = False,
    explained: bool = True,
) -> TablePrediction:
    """Predict every row that can be said; those with a role "fit KEY" first, to determine KEY on their machine.

    `hardware`, `overrides`: ask the same workloads of another machine, or with other numbers. A row that the simulator
    refuses keeps its refusal as the reason. `cache_dir`: a folder for what is predicted, row by row, so that who asks
    again pays for what has changed (None: `~/.cache/pregate/schedules`, False: none). `explained`: with rules of thumb
    and elasticities; without them there are neither baselines nor intervals. Raises `UnknownName` for a `hardware` that
    is none.
    """
    if hardware is not None:
        load_platform(hardware)
    bench = RowBench(seed, overrides, hardware)
    kept = KeptRows(bench, schedules_in(cache_dir))
    constants: dict[tuple[str, str, str, str], dict[str, float]] = {}
    said: dict[str, float] = {}
    for row in rows:
        if row.role.startswith("fit") and not row.reason:
            progress(row.name)
            found = kept.found(f"{row.role} {row.value!r}", row, None, partial(_fitted, bench, row))
            if not found:
                continue  # the row itself then keeps the refusal as its reason
            key, value, left = found["key"], found["value"], found["left"]
            constants[row.machine] = {key: value}
            bound = f", the nearest that is tried: its row stays {100 * left:+.0f} % off" if abs(left) > 1e-3 else ""
            said[f"{f'{row.source}, ' * bool(row.source)}{row.hardware}: {key}{bound}"] = value
    first: dict[Any, MeasuredRow] = {}
    for row in sorted(rows, key=lambda row: not row.role.startswith("fit")):
        if not row.reason and row.role != "input":
            first.setdefault((*row.machine, row.metric), row)
    predicted: dict[int, PredictedRow] = {}
    order = sorted(range(len(rows)), key=lambda i: _workload_of(rows[i]))
    for start in range(0, len(rows), _UNCOLLECTED_ROWS):
        with gc_paused():
            for i in order[start : start + _UNCOLLECTED_ROWS]:
                predicted[i] = _predicted(kept, bench, rows[i], constants, first, progress, explained)
    answered = tuple(predicted[i] for i in range(len(rows)))
    return TablePrediction(answered, said, tuple(_doubts(bench, answered)))


def _doubts(bench: RowBench, predicted: Sequence[PredictedRow]) -> list[str]:
    """What `TablePrediction.doubts` says, each once."""
    asked = {(one.row.model, one.row.formats, one.row.stack): one.row for one in predicted if not one.reason}
    told: dict[str, None] = {}
    for row in asked.values():
        if row.stack in stack_names():
            model, stack = bench.model(row), load_stack(row.stack)
            if why := why_unread(model, stack):
                told[f"{why.partition(': try')[0]}, predicted all the same: column formats says another"] = None
            elif why := unmeasured_weights(model, stack):
                told[f"{model.expert_dtype.name} under {row.stack}: {why}"] = None
    return list(told)


def _workload_of(row: MeasuredRow) -> tuple[str, int, int, int]:
    """What rows that share a trace, or begin with the same tokens, have in common: they are asked one after the other,
    shorter ones first, so that few traces are kept at a time.
    """
    return row.model, row.input_tokens, row.output_tokens, row.batch


def _predicted(
    kept: KeptRows,
    bench: RowBench,
    row: MeasuredRow,
    constants: Mapping[Any, Mapping[str, float]],
    first: Mapping[Any, MeasuredRow],
    progress: Callable[[str], None],
    explained: bool,
) -> PredictedRow:
    if row.reason or row.role == "input":
        return PredictedRow(row, math.nan, {}, row.reason or "an input of its source, no measurement of a run")
    progress(row.name)
    determined = constants.get(row.machine)
    found = kept.found("prediction", row, determined, partial(_asked, lambda: _prediction(bench, row, determined)))
    if explained and "refusal" not in found:
        found = found | kept.found(
            "why", row, determined, partial(_asked, lambda: _explanation(bench, row, determined))
        )
    if "refusal" in found:
        return PredictedRow(row, math.nan, {}, found["refusal"])
    if not explained:
        return PredictedRow(row, found["predicted"], {}, "")
    anchor, baselines = first[(*row.machine, row.metric)], found["baselines"]
    if anchor is not row:
        baselines = baselines | {"repeat": anchor.value}
    sure, larger = {**row.overrides, **(determined or {})}, found["larger"]

    def unsure(depends: Mapping[str, float]) -> dict[str, float]:
        return {key: value for key, value in depends.items() if key not in sure}

    other = (larger["predicted"], unsure(larger["elasticities"])) if larger else None
    return PredictedRow(row, found["predicted"], baselines, "", unsure(found["elasticities"]), other)


def _asked(make: Callable[[], Answer]) -> Answer:
    """What `make` says, or why it is refused."""
    try:
        return make()
    except CapacityExceeded as error:
        said = (
            str(error).replace("--tier ", "expert_tier ").replace("--set ", "set ")
        )  # columns, of a command's options
        return {"refusal": f"does not fit: {said}"}
    except PregateError as error:
        return {"refusal": str(error)}


def _prediction(bench: RowBench, row: MeasuredRow, constants: Mapping[str, float] | None) -> Answer:
    return {"predicted": float(bench.predict(row, constants))}


def _explanation(bench: RowBench, row: MeasuredRow, constants: Mapping[str, float] | None) -> Answer:
    """What rules of thumb say of a row, and what its prediction depends on, in the largest usual pass too."""
    baselines = {name: float(value) for name, value in bench.rules_of_thumb(row).items()}
    return {
        "baselines": baselines,
        "elasticities": _depends(bench, row, constants),
        "larger": _larger(bench, row, constants),
    }


def _depends(bench: RowBench, row: MeasuredRow, constants: Mapping[str, float] | None) -> dict[str, float]:
    return {key: float(value) for key, value in bench.elasticities(row, constants).items()}


def _larger(bench: RowBench, row: MeasuredRow, constants: Mapping[str, float] | None) -> Answer | None:
    """A row in the largest usual pass that memory has room for; None where its pass is known, or copies nothing."""
    passes = [*in_larger_passes(row, bench.platform(row, constants))]
    for larger in passes if passes and bench.copies(row, constants) else ():
        with suppress(CapacityExceeded):
            predicted = float(bench.predict(larger, constants))
            return {"predicted": predicted, "elasticities": _depends(bench, larger, constants)}
    return None


def _fitted(bench: RowBench, row: MeasuredRow) -> Answer:
    """The constant that a row determines, and by how much it is off with that; nothing where it is refused."""
    try:
        key = row.role.removeprefix("fit").strip() or bench.binding_constant(row)
        value = determined_constant(bench, row, key)
    except PregateError:
        return {}
    return {"key": key, "value": value, "left": bench.predict(row, {key: value}) / row.value - 1}


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
