"""A table of measured rows: CSV, JSON or Markdown in, checked rows out.

A row says what ran (model, machine, formats, design, stack, workload) and what was measured. A row that cannot be said
carries a reason; it is kept, and predicted by nobody.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pregate.ask.capturing.tier_names import tier_named
from pregate.engines.reading import without_flags
from pregate.measured.isca24.published_rows import COLUMNS as PUBLISHED_COLUMNS
from pregate.measured.rows.command_counts import with_command_counts
from pregate.measured.rows.command_loads import LOAD_COLUMNS, with_load
from pregate.measured.rows.command_model import with_command_model
from pregate.measured.rows.engine_beside import with_engine_beside
from pregate.measured.rows.engine_release import with_release
from pregate.measured.rows.engine_words import in_flags, with_usual_design, without_power
from pregate.measured.rows.measured_row import COLUMNS, METRICS, MeasuredRow
from pregate.measured.rows.metric_aliases import METRIC_ALIASES, underscored
from pregate.measured.rows.note_design import with_design_of_note
from pregate.measured.rows.other_tables import (
    METRIC_MARK,
    RESIDENT_COLUMNS,
    cells_of_bench,
    cells_of_step,
    is_of_bench,
    melted,
    with_flags,
)
from pregate.measured.rows.prose_designs import with_prose_design
from pregate.measured.rows.row_names import with_our_names
from pregate.measured.rows.served_load import load_named
from pregate.measured.rows.stated_lengths import with_lengths
from pregate.measured.rows.stated_units import UNITS, plain_unit, why_no_figure
from pregate.measured.rows.table_header import BESIDE, CARD_MEMORY, MEMORY, column_names, with_card_memory
from pregate.measured.rows.table_text import as_csv
from pregate.measured.rows.token_origin import tokens_of_row
from pregate.measured.rows.unread_cells import unread_reason
from pregate.measured.rows.written_cells import as_written
from pregate.spellings.names import our_name
from traces.errors import InvalidFile, InvalidInput, UnknownName, unknown_name
from traces.foundation.documents import NUMBER, read_text

MAX_TABLE_BYTES = 8 << 20
MAX_ROWS = 20_000

_TABLES = Path(__file__).parents[1] / "tables"

FIELD_TABLE = _TABLES / "offload_field.csv"
"""What others measured, in the project's language; where it is from stands in SOURCES.md beside it."""

FIELD_TABLES = (FIELD_TABLE, _TABLES / "offload_systems.csv")
"""All such tables but that of Pre-gated MoE's authors: `pregate reproduce field`."""

RESIDENT_TABLE = _TABLES / "resident_decode.csv"
"""Decode steps of engines that keep every expert on the accelerator."""


class UnknownWord(UnknownName):
    """A row whose metric or unit is none of ours: it is left out with that reason where another row is read. `column`:
    what is left empty then.
    """

    def __init__(self, message: str, column: str = "") -> None:
        super().__init__(message)
        self.column = column


class UnreadCount(InvalidFile):
    """A row with a count that is none, left out as one of `UnknownWord` is. `column`: of the count."""

    def __init__(self, message: str, column: str) -> None:
        super().__init__(message)
        self.column = column


_COUNTS = {"batch": 1, "input_tokens": 1, "output_tokens": 0, "context_tokens": 0}
"""Columns that are counts, and the least of each."""
_COLUMNS_AT_MOST = range(6)  # of a row that may be unread: counts, unit and metric
_DEFAULTS = {"batch": "1", "input_tokens": "1", "output_tokens": "32", "context_tokens": "0"}


_OF_PROMPTS = ("prefill_tokens_per_s", "ttft")
"""Metrics that say nothing without the length of a prompt."""

_AFTER_PROMPTS = ("decode_tokens_per_s", "tpot")
_REQUIRED = ("model", "hardware", "metric", "value")
_IN_HEADERS = ("metric", "value")
"""Columns that a table with a column a metric has no need of."""


def read_table(path: Path) -> list[MeasuredRow]:
    """Parse a table whose header names columns of `COLUMNS`, in capitals and with spaces as anybody may: CSV, JSON or
    Markdown (`table_text`).

    The columns of Pre-gated MoE's authors are read too (`table_rows`). Raises `InvalidFile` or `UnknownName` naming
    the line and the value.
    """
    reader = csv.DictReader(io.StringIO(as_csv(read_text(path, MAX_TABLE_BYTES), str(path))), strict=True)
    try:
        header = list(reader.fieldnames or ())
        theirs, bench = tuple(header) == PUBLISHED_COLUMNS, is_of_bench(header)
        steps = tuple(header) == RESIDENT_COLUMNS
        header = list(COLUMNS) if theirs or bench or steps else column_names(header, COLUMNS, str(path))
        if not theirs and not bench and not steps and reader.fieldnames:
            reader.fieldnames = header
        wide = any(column.startswith(METRIC_MARK) for column in header) or CARD_MEMORY in header
        missing = [column for column in _REQUIRED if column not in header and not (wide and column in _IN_HEADERS)]
        if missing or len(set(header)) != len(header):
            raise InvalidFile(f"{path}: columns are {','.join(header)[:200]!r}: missing or twice {', '.join(missing)}")
        if theirs:
            from pregate.measured.isca24.table_rows import cells_of  # with all that predicts their rows: on use
        rows: list[MeasuredRow] = []
        unread: list[UnknownWord | UnreadCount] = []
        for cells in reader:
            if None in cells or None in cells.values():
                raise InvalidFile(
                    f"{path} line {reader.line_num}: as many cells as columns, {len(reader.fieldnames or ())}, "
                    f"expected: a cell with a comma stands in quotes, and numbers of set are parted by ;"
                )
            where = f"{path} line {reader.line_num}"
            if bench:
                cells = cells_of_bench(cells)
            elif steps:
                cells = cells_of_step(cells)
            elif theirs:
                cells = cells_of(list(cells.values()), where)
            of_line = [
                _row_or_reason(one, where, unread) for one in melted(with_flags(with_card_memory(cells, header)))
            ]
            measured = {(r.metric, r.input_tokens, r.output_tokens, r.context_tokens) for r in of_line}
            if len(measured) < len(of_line):
                valued = [column.removeprefix(METRIC_MARK) for column in header if column.startswith(METRIC_MARK)]
                raise InvalidFile(
                    f"{where}: two columns of one metric: keep one (of values are {', '.join(map(repr, valued))}; call "
                    f"lengths input_tokens and output_tokens)"
                )
            rows += of_line
            if len(rows) > MAX_ROWS:
                raise InvalidFile(f"{path}: more than {MAX_ROWS} rows: split it")
    except csv.Error as error:
        raise InvalidFile(f"{path}: no CSV ({error})") from None
    if not rows:
        raise InvalidFile(f"{path}: no rows")
    if len(unread) == len(rows):
        raise unread[0]
    return rows


def read_field() -> list[MeasuredRow]:
    """The rows of every table of what others measured that ships."""
    return [row for path in FIELD_TABLES for row in read_table(path)]


def predictions_csv(columns: Sequence[str], rows: Iterable[tuple[Sequence[object], float]]) -> str:
    """A table with a column `predicted` behind its own, empty where nothing is (NaN)."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*columns, "predicted"])
    writer.writerows([*cells, "" if math.isnan(value) else f"{value:.6g}"] for cells, value in rows)
    return text.getvalue()


def _row_or_reason(cells: Mapping[str, str], where: str, unread: list[UnknownWord | UnreadCount]) -> MeasuredRow:
    """A row, left out with a reason where its metric or a count of it is none, which `unread` is told once of a row."""
    n_before, one = len(unread), dict(cells)
    for _ in _COLUMNS_AT_MOST:
        try:
            return _row(one, where)
        except (UnknownWord, UnreadCount) as error:
            unread += [] if len(unread) > n_before else [error]
            one["reason"] = one.get("reason") or str(error).removeprefix(f"{where}: ")
            if error.column:
                one[error.column] = ""
    return _row(one, where)


def _row(cells: Mapping[str, str], where: str) -> MeasuredRow:
    try:
        text = as_written({column: cells.get(column, "").strip() for column in (*COLUMNS, MEMORY, *LOAD_COLUMNS)})
    except InvalidInput as error:
        raise UnreadCount(f"{where}: {error}", "unit") from None
    typed, text = text["stack"], with_engine_beside(text)
    told = [f"{column} {cells[column].strip()}" for column in BESIDE if cells.get(column, "").strip()]
    text["note"] = "; ".join(filter(None, (text["note"], *told)))
    text = with_prose_design(with_command_model(with_release(text, typed)))
    metric = text["metric"] = _metric(text["metric"])
    text = with_usual_design(with_design_of_note(text), our_name("stack", text["stack"]))
    text = with_load(with_command_counts(with_lengths(text)))
    metric = text["metric"]
    if text["load"]:
        text["batch"] = text["batch"] or str(load_named(text["load"], f"{where}: load").requests)
    if not text["unit"] and METRICS.get(metric, ("",))[0] in ("tokens/s", "requests/s"):
        text["unit"] = METRICS[metric][0]
    text["reason"] = text["reason"] or unread_reason(text)
    left_out = bool(text["reason"]) or text["role"] == "input"
    if metric not in METRICS and not (metric and left_out):
        raise UnknownWord(str(unknown_name("metric", metric, METRICS, where)))
    fills = text["batch"] == "max"
    if metric in _AFTER_PROMPTS and text["input_tokens"] == "0":  # none before the answer
        text["input_tokens"] = ""
    counts = {
        column: 0 if fills and column == "batch" else _count(text[column] or _DEFAULTS[column], column, least, where)
        for column, least in _COUNTS.items()
    }
    if text["role"] not in ("", "input", "stack", "fit") and not text["role"].startswith("fit "):
        raise InvalidFile(
            f"{where}: role {text['role'][:40]!r}: empty, input, stack, or fit KEY (fit link.h2d_bytes_per_s)"
        )
    key = text["role"].removeprefix("fit").strip() if text["role"].startswith("fit") else ""
    if key:
        from hwmodels.figures import figure_keys  # on use: with all that fits are

        if key not in figure_keys():
            raise unknown_name("number", key, figure_keys(), f"{where}: role")
    no_figure = why_no_figure(text["value"])
    if no_figure and text["role"] and text["role"] != "input":
        raise InvalidFile(f"{where}: {no_figure}, and its role {text['role'][:40]!r} asks for a figure")
    text["reason"] = text["reason"] or no_figure
    value = math.nan if no_figure else _value(text["value"], text["unit"], metric, where)
    if metric in _OF_PROMPTS and not text["input_tokens"] and not left_out:
        text["reason"] = "input_tokens is empty: how long a prompt takes depends on its length, state it"
    text["policy"] = text["policy"] or "gpu_only"
    text["expert_tier"] = text["expert_tier"] or "dram"
    try:
        tier_named(text["expert_tier"])
    except InvalidInput as error:
        raise InvalidInput(f"{where}: {error}") from None
    design = "@".join(filter(None, (text["policy"], text["placement"])))
    if not text["name"]:
        what = f"{text['model']} on {text['hardware']}, {design}, {metric}"
        text["name"] = f"{text['source']}: {what}" if text["source"] else what
    named = with_our_names(text | {"hardware": without_power(text["hardware"])})
    text = without_flags(in_flags(named, text["stack"], text["hardware"]))
    text["routing"] = tokens_of_row(text, where)
    rest: dict[str, Any] = {name: cell for name, cell in text.items() if name not in (*_COUNTS, "value", "unit")}
    unit = METRICS[metric][0] if metric in METRICS else text["unit"]
    return MeasuredRow(**rest, **counts, value=value, unit=unit)  # type: ignore[arg-type]


def _metric(text: str) -> str:
    """A metric by its name or another of it, written as anybody may: `Decode throughput`."""
    plain = underscored(text)
    name = METRIC_ALIASES.get(plain, plain)
    return name if name in METRICS else text


def _count(text: str, column: str, least: int, where: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 9 or int(text) < least:
        raise UnreadCount(f"{where}: {column} {text[:40]!r} is not a whole number of {least} or more", column)
    return int(text)


def _value(text: str, unit: str, metric: str, where: str) -> float:
    unit, factor = plain_unit(unit, metric)
    if metric == "hit_rate":
        if NUMBER.fullmatch(text) is None or not 0 <= float(text) * factor <= 1 or unit != "fraction":
            raise InvalidFile(f"{where}: hit_rate {text[:40]!r} {unit[:20]} is no fraction from 0 to 1")
        return float(text) * factor
    if NUMBER.fullmatch(text) is None or not (math.isfinite(float(text)) and float(text) > 0):
        raise InvalidFile(f"{where}: value {text[:40]!r} is not a number above 0")
    if metric not in METRICS:
        return float(text)
    known = UNITS[METRICS[metric][0]]
    if unit not in known and METRICS[metric][0] in ("s", "tokens/s", "requests/s"):  # of bytes, capitals tell
        unit = unit.lower()
    if unit not in known:
        raise UnknownWord(str(unknown_name("unit", unit, known, f"{where}: {metric}")), "value")
    return float(text) * known[unit]
