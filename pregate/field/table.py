"""A table of measured rows: CSV in, checked rows out.

A row says what ran (model, machine, formats, design, stack, workload) and what was measured. A row that cannot be said
carries a reason; it is kept, and predicted by nobody.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from hwmodels.figures import figure_keys
from hwmodels.quantity import ReadOnly
from offload.placement import placement_named
from offload.policies import policy_named
from offload.policy import Policy
from traces.documents import NUMBER, read_text
from traces.errors import InvalidFile, unknown_name

__all__ = ["COLUMNS", "FIELD_TABLE", "METRICS", "MeasuredRow", "read_table"]

MAX_TABLE_BYTES = 8 << 20
MAX_ROWS = 20_000

METRICS: Mapping[str, tuple[str, bool]] = ReadOnly(
    {
        "decode_tokens_per_s": ("tokens/s", True),
        "prefill_tokens_per_s": ("tokens/s", True),
        "tokens_per_s": ("tokens/s", True),
        "ttft": ("s", False),
        "tpot": ("s", False),
        "moe_layer_latency": ("s", False),
    }
)
"""Metrics by name: their unit, and whether more is better. Decode and prefill rates are of one sequence's tokens times
the batch; `tokens_per_s` is output tokens over the whole run."""

FIELD_TABLE = Path(__file__).parent / "tables" / "offload_field.csv"
"""What others measured, in the project's language; where it is from stands in SOURCES.md beside it."""

ALIASES: Mapping[str, str] = ReadOnly(
    {
        "decode_throughput": "decode_tokens_per_s",
        "prefill_throughput": "prefill_tokens_per_s",
        "throughput": "tokens_per_s",
        "ttft_s": "ttft",
        "tpot_s": "tpot",
        "moe_layer_latency_s": "moe_layer_latency",
    }
)
"""Other names of metrics."""

_RATES = ("tokens/s", "tok/s", "t/s")
_SECONDS = {"s": 1.0, "ms": 1e-3, "us": 1e-6}
_COUNTS = {"batch": 1, "input_tokens": 1, "output_tokens": 0, "context_tokens": 0}
"""Columns that are counts, and the least of each."""
_DEFAULTS = {"batch": "1", "input_tokens": "1", "output_tokens": "32", "context_tokens": "0"}


@dataclass(frozen=True, slots=True)
class MeasuredRow:
    """One measurement, in the project's words.

    `host`, `link`: of the machine, "" as `hardware` has them; `formats`, `placement`, `policy`, `set`: as the options
    of the same name take them (no policy: `gpu_only`), `set` with `;` between. `context_tokens`: kept from before the
    prompt. `value` in seconds or tokens/s. `role`: "" is predicted and scored; "fit KEY" determines the constant KEY of
    its source and machine ("fit": that of what binds it), "stack" those of its stack (`stack_fit`), and neither is
    scored; "input" is no measurement of a run. `reason`: why it cannot be said, "" where it can.
    """

    name: str
    source: str
    model: str
    hardware: str
    host: str
    link: str
    formats: str
    placement: str
    policy: str
    stack: str
    batch: int
    input_tokens: int
    output_tokens: int
    context_tokens: int
    metric: str
    value: float
    unit: str
    set: str
    role: str
    reason: str
    note: str

    @property
    def machine(self) -> tuple[str, str, str, str]:
        """The source and the machine: rows of one share a fitted constant."""
        return self.source, self.hardware, self.host, self.link

    def design(self) -> Policy:
        """The policy, the model placed as the row says. Raises `InvalidInput` for what is none."""
        placement = placement_named(self.placement) if self.placement else None
        return policy_named(self.policy).with_placement(placement)

    @property
    def more_is_better(self) -> bool:
        """Whether a larger value is the better one."""
        return METRICS[self.metric][1]

    @property
    def is_scored(self) -> bool:
        """Whether it is predicted to be judged."""
        return not self.reason and not self.role


COLUMNS = tuple(field.name for field in fields(MeasuredRow))
"""The columns of a table, in order; those that a file leaves out are empty."""

_REQUIRED = ("model", "hardware", "metric", "value", "unit")


def read_table(path: Path) -> list[MeasuredRow]:
    """Parse a CSV whose header names columns of `COLUMNS`.

    Raises `InvalidFile` or `UnknownName` naming the line and the value.
    """
    reader = csv.DictReader(io.StringIO(read_text(path, MAX_TABLE_BYTES)), strict=True)
    try:
        header = list(reader.fieldnames or ())
        for column in header:
            if column not in COLUMNS:
                raise unknown_name("column", column, COLUMNS, str(path))
        missing = [column for column in _REQUIRED if column not in header]
        if missing or len(set(header)) != len(header):
            raise InvalidFile(f"{path}: columns are {','.join(header)[:200]!r}: missing or twice {', '.join(missing)}")
        rows = []
        for cells in reader:
            if None in cells or None in cells.values():
                raise InvalidFile(f"{path} line {reader.line_num}: as many cells as columns, {len(header)}, expected")
            rows.append(_row(cells, f"{path} line {reader.line_num}"))
            if len(rows) > MAX_ROWS:
                raise InvalidFile(f"{path}: more than {MAX_ROWS} rows: split it")
    except csv.Error as error:
        raise InvalidFile(f"{path}: no CSV ({error})") from None
    if not rows:
        raise InvalidFile(f"{path}: no rows")
    return rows


def _row(cells: Mapping[str, str], where: str) -> MeasuredRow:
    text = {column: cells.get(column, "").strip() for column in COLUMNS}
    metric = text["metric"] = ALIASES.get(text["metric"], text["metric"])
    if metric not in METRICS:
        raise unknown_name("metric", metric, METRICS, where)
    counts = {
        column: _count(text[column] or _DEFAULTS[column], column, least, where) for column, least in _COUNTS.items()
    }
    if text["role"] not in ("", "input", "stack", "fit") and not text["role"].startswith("fit "):
        raise InvalidFile(
            f"{where}: role {text['role'][:40]!r}: empty, input, stack, or fit KEY (fit link.h2d_bytes_per_s)"
        )
    key = text["role"].removeprefix("fit").strip() if text["role"].startswith("fit") else ""
    if key and key not in figure_keys():
        raise unknown_name("number", key, figure_keys(), f"{where}: role")
    value = _value(text["value"], text["unit"], metric, where)
    text["policy"] = text["policy"] or "gpu_only"
    design = "@".join(filter(None, (text["policy"], text["placement"])))
    text["name"] = text["name"] or f"{text['source']}: {text['model']} on {text['hardware']}, {design}, {metric}"
    rest: dict[str, Any] = {name: cell for name, cell in text.items() if name not in (*_COUNTS, "value", "unit")}
    return MeasuredRow(**rest, **counts, value=value, unit=METRICS[metric][0])  # type: ignore[arg-type]


def _count(text: str, column: str, least: int, where: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 9 or int(text) < least:
        raise InvalidFile(f"{where}: {column} {text[:40]!r} is not a whole number of {least} or more")
    return int(text)


def _value(text: str, unit: str, metric: str, where: str) -> float:
    if NUMBER.fullmatch(text) is None or not (math.isfinite(float(text)) and float(text) > 0):
        raise InvalidFile(f"{where}: value {text[:40]!r} is not a number above 0")
    wanted = METRICS[metric][0]
    known = _SECONDS if wanted == "s" else dict.fromkeys(_RATES, 1.0)
    if unit not in known:
        raise unknown_name("unit", unit, known, f"{where}: {metric}")
    return float(text) * known[unit]
