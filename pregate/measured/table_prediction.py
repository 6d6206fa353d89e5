"""All rows of a table predicted, with the constants that rows of their machine determine."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from hwmodels.platform import load_platform
from hwmodels.stacks.stack_files import load_stack, stack_names
from hwmodels.stacks.weight_formats import unmeasured_weights, why_unread
from offload.slots.memory import CapacityExceeded
from pregate.ask.capturing.answer_cache import Answer
from pregate.ask.capturing.schedule_cache import ScheduleCache, schedules_in
from pregate.measured.determined_constant import determined_constant
from pregate.measured.row_cache import KeptRows
from pregate.measured.row_prediction import RowBench
from pregate.measured.rows.measured_row import MeasuredRow
from pregate.measured.table_scores import PredictedRow, TablePrediction
from pregate.measured.unstated_passes import in_larger_passes
from traces.errors import PregateError
from traces.foundation.gc_pause import gc_paused

_UNCOLLECTED_ROWS = 500
"""Rows between two searches for cycles of garbage, of which each leaves some 50 kB."""


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
