"""Tables in other forms than CSV as CSV: rows of JSON, in a list or a line each, tables of Markdown, and SQL.

llama-bench writes all of them (`-o json`, `-o jsonl`, `-o md`, `-o sql`). Above its Markdown it names the cards, which
become a column where the table has none; several runs in one file have a table each, under the same header. Files of
other benchmarks: `benchmark_files`.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from pregate.measured.rows.benchmark_files import (
    client_of,
    not_of_a_batch,
    of_batched_table,
    rows_of_benchmark,
    rows_of_printed,
)
from pregate.measured.rows.command_loads import LOAD_COLUMNS
from pregate.measured.rows.measured_row import COLUMNS
from pregate.measured.rows.metric_aliases import underscored
from pregate.measured.rows.printed_results import is_printed, printed_results
from pregate.measured.rows.written_cells import COLUMN_ALIASES
from traces.errors import InvalidFile

_RULE = re.compile(r"[\s|:-]+")
_BETWEEN_CELLS = re.compile(r"(?<!\\)\|")
_LINK = re.compile(r"\[(?P<text>[^\[\]]+)\]\([^()]*\)")
_DEVICE = re.compile(r"\s*Device (?P<n>\d+): (?P<name>.+?)(?: \([^()]*\))?, (?:compute capability|gfx)")
_INSERT = re.compile(r"INSERT INTO \w+ \((?P<columns>[^()]*)\) VALUES \((?P<values>.*)\);", re.IGNORECASE)
_HARDWARE = ("hardware", "gpu", "gpus", "card", "device", "accelerator", "machine", "gpu_info")


def as_csv(text: str, where: str) -> str:
    """A table as CSV with a header, CSV as it is. Raises `InvalidFile` for JSON that is no rows, and for tables of
    Markdown that are not one.
    """
    start = text.lstrip("\ufeff \t\r\n")
    client = client_of(start)
    if client:
        raise not_of_a_batch(f"{where}: of {client}")
    if start[:1] in ("[", "{"):
        return _of_json(start, where)
    if start[:12].upper() in ("CREATE TABLE", "INSERT INTO "):
        return _of_sql(start, where)
    if start.startswith("Metric,avg,"):
        raise not_of_a_batch(f"{where}: of GenAI-Perf or AIPerf")
    if is_printed(text):
        return _of_cells(rows_of_printed(printed_results(text, where), where))
    lines = [line.strip() for line in text.splitlines() if line.strip().startswith("|")]
    if lines and (start.startswith("|") or any(_RULE.fullmatch(line) for line in lines[:2])):
        return _of_markdown(text, where)
    return _of_other_marks(start)


_POINT = re.compile(r"(?<![\w.])\d+\.\d{1,2}(?![\w.])")
_COMMA = re.compile(r"~?(?P<number>(?:\d{1,3}(?:\.\d{3})+|\d+),\d+)(?P<beside>\s*[^\d,]*)", re.ASCII)
"""A number with a decimal comma, and its unit."""


def _of_other_marks(text: str) -> str:
    """Cells that `;` or tabs part as CSV, by the header; numbers with a decimal comma, as spreadsheets that part by `;`
    write them, with a point, unless others have one. Text that commas part as it is.
    """
    header = text.partition("\n")[0]
    known = {mark: sum(map(_is_column, header.split(mark))) for mark in (";", "\t", ",")}
    mark = max(known, key=lambda mark: known[mark])
    if mark == "," or known[mark] <= known[","]:
        return text
    rows = list(csv.reader(io.StringIO(text), delimiter=mark))
    if mark == ";" and not any(_POINT.fullmatch(cell.strip()) for row in rows for cell in row):
        rows = [[_with_point(cell) for cell in row] for row in rows]
    return _written([row for row in rows if any(row)])


def _with_point(cell: str) -> str:
    found = _COMMA.fullmatch(cell.strip())
    return cell if found is None else found["number"].replace(".", "").replace(",", ".") + found["beside"]


def _of_json(text: str, where: str) -> str:
    """Objects as rows; lists and objects that are no column of ours are left out."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        try:
            found = [json.loads(line) for line in text.splitlines() if line.strip()]
        except (ValueError, RecursionError) as error:
            raise InvalidFile(f"{where}: no JSON, whole or a line a row ({type(error).__name__})") from None
    rows = found if isinstance(found, list) else [found]
    if not rows or not all(isinstance(row, dict) for row in rows):
        raise InvalidFile(f"{where}: JSON of no rows: a list of objects, or one a line, with names of columns")
    of_tool = rows_of_benchmark(rows, where)
    if of_tool is not None:
        return _of_cells(of_tool)
    nested = {key for row in rows for key, value in row.items() if isinstance(value, list | dict)}
    meant = next((key for key in sorted(nested) if _is_column(key)), None)
    if meant is not None:
        raise InvalidFile(f"{where}: {meant!r} is a list or an object in a row: write it as text, as a cell of CSV is")
    columns = [key for key in dict.fromkeys(key for row in rows for key in row) if key not in nested]
    if not columns:
        raise InvalidFile(f"{where}: JSON of no rows: its objects hold nothing but lists and objects")
    return _written([columns, *([_cell(row.get(key)) for key in columns] for row in rows)])


def _is_column(key: str) -> bool:
    plain = underscored(key)
    return COLUMN_ALIASES.get(plain, plain) in COLUMNS


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float) and value.is_integer():  # a count, where what wrote it has no whole numbers
        return f"{value:.0f}"
    return str(int(value)) if isinstance(value, bool) else str(value)


def _of_markdown(text: str, where: str) -> str:
    """The rows of tables of one header, each with the cards that are named last above it."""
    lines = text.splitlines()
    cards: dict[str, str] = {}
    header: list[str] = []
    rows: list[list[str]] = []
    for number, line in enumerate(lines, 1):
        device = _DEVICE.match(line)
        if device is not None:
            cards = ({} if device["n"] in cards else cards) | {device["n"]: device["name"].strip()}
        if not line.strip().startswith("|") or _RULE.fullmatch(line):
            continue
        cells = _cells_of(line)
        again = number < len(lines) and "-" in lines[number] and _RULE.fullmatch(lines[number])
        if header and (cells != header if again else len(cells) != len(header)):
            raise InvalidFile(
                f"{where} line {number}: {len(cells)} cells that are not of the {len(header)} columns above: one table "
                f"a file, and \\| for a bar within a cell"
            )
        if not header:
            header = cells
        elif not again:
            rows.append([*cells, _called(cards)])
    if cards and not {name.lower() for name in header} & set(_HARDWARE):
        header = [*header, "hardware"]
    of_tool = of_batched_table(header, rows, where)
    if of_tool is not None:
        return _of_cells(of_tool)
    if header[-1:] == ["hardware"] and cards:
        return _written([header, *rows])
    return _written([header, *(row[:-1] for row in rows)])


def _cells_of(line: str) -> list[str]:
    """The cells of a line of Markdown, without marks and links."""
    inner = line.strip().removeprefix("|")
    inner = inner[:-1] if inner.endswith("|") and not inner.endswith("\\|") else inner
    plain = (
        cell.replace("`", "").strip().strip("*").strip().replace("\\|", "|") for cell in _BETWEEN_CELLS.split(inner)
    )
    return [_LINK.sub(r"\g<text>", cell) for cell in plain]


def _called(cards: Mapping[str, str]) -> str:
    """Cards as a machine of several: `2x NVIDIA GeForce RTX 3090`."""
    names = list(cards.values())
    return f"{len(names)}x {names[0]}" if len(names) > 1 and len(set(names)) == 1 else " + ".join(names)


def _of_sql(text: str, where: str) -> str:
    """The rows that statements of SQL insert, as llama-bench writes them."""
    made: list[list[str]] = []
    for line in text.splitlines():
        found = _INSERT.fullmatch(line.strip())
        if found is None:
            continue
        header = [name.strip() for name in found["columns"].split(",")]
        values = next(csv.reader([found["values"]], quotechar="'", skipinitialspace=True), [])
        if len(values) != len(header) or (made and header != made[0]):
            raise InvalidFile(f"{where}: an INSERT of {len(values)} values for its {len(header)} columns")
        made = made or [header]
        made.append(values)
    if not made:
        raise InvalidFile(f"{where}: SQL of no rows: INSERT INTO ... VALUES, a line each, as llama-bench -o sql writes")
    return _written(made)


def _of_cells(rows: Sequence[Mapping[str, str]]) -> str:
    """Rows by our columns, and by those of who asks."""
    columns = (*COLUMNS, *LOAD_COLUMNS)
    return _written([columns, *([row.get(column, "") for column in columns] for row in rows)])


def _written(rows: Sequence[Sequence[str]]) -> str:
    made = io.StringIO()
    csv.writer(made, lineterminator="\n").writerows(rows)
    return made.getvalue()
