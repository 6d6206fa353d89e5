"""Rows of measured tables, as the csv that a user writes."""

from __future__ import annotations

import csv
from pathlib import Path

from pregate.measured.rows.measured_row import MeasuredRow
from pregate.measured.rows.table import read_table

ROW = {
    "source": "a test", "model": "switch-mini-16", "hardware": "rtx-4090", "policy": "on_demand", "stack": "streams",
    "input_tokens": "4", "output_tokens": "6", "metric": "decode_tokens_per_s", "value": "100", "unit": "tokens/s",
}  # fmt: skip


def table(path: Path, *rows: dict[str, str]) -> Path:
    """`rows` as a csv at `path`, with a column for every name in one of them."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, names, restval="")
        writer.writeheader()
        writer.writerows(rows)
    return path


def read(path: Path, *rows: dict[str, str]) -> list[MeasuredRow]:
    """What is read of `rows` as a csv in the folder `path`."""
    return read_table(table(path / "rows.csv", *rows))
