"""What the terminal shows: tables for people, JSON and CSV for programs. Nothing here computes a result.

rich is imported for tables alone.
"""

from __future__ import annotations

import csv
import io
import json
import math
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from pregate.ask.comparison import Comparison
    from pregate.ask.simulation import SimulationResult
    from pregate.measured.reproduction import Accuracy, Reproduction


def si(value: float, unit: str) -> str:
    """A number in a unit people read: `0.00113, s` is 1.13 ms, bytes are powers of 1000. Dash for NaN."""
    if math.isnan(value):
        return "-"
    if unit == "s":
        for factor, name in ((1.0, "s"), (1e-3, "ms"), (1e-6, "us")):
            if _shown(value / factor) >= 1 or factor == 1e-6:
                return f"{_three(value / factor)} {name}" if value else "0 s"
    if unit == "B":
        for factor, name in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
            if _shown(value / factor) >= 1:
                return f"{_three(value / factor)} {name}"
        return f"{value:.0f} B"
    return f"{value:.4g} {unit}".strip()


def _shown(value: float) -> float:
    """A number without its sign as three digits show it: 0.9996 is shown as 1, so that a unit never has a thousand."""
    return abs(float(f"{value:.3g}"))


def _three(value: float) -> str:
    """Three digits, and never a power of ten."""
    return f"{value:.3g}" if _shown(value) < 1000 else f"{float(f'{value:.3g}'):,.0f}"


def share(value: float | None) -> str:
    """A share in per cent, a dash for one of nothing."""
    return "-" if value is None else f"{value:.1%}"


_WORD = 36
"""Widest that a word of a text that folds is kept whole: a key of a machine; addresses are broken."""


def new_table(title: str | None = None, caption: str | None = None) -> Table:
    """A table without columns or rows."""
    from rich.table import Table

    return Table(title=title, caption=caption, title_justify="left", caption_justify="left")


def print_table(table: Table) -> None:
    """A table on standard output, as wide as the terminal or, when piped, as wide as it needs."""
    from rich.console import Console

    width = None if sys.stdout.isatty() else 160
    console = Console(width=width, soft_wrap=False, markup=False, highlight=False, emoji=False)
    left_out = fit_to_width(table, console)
    if len(table.rows) < _LONG or not _print_long(table, console):
        console.print(table)
    if left_out:
        print(f"Left out, {console.width} columns are too few: {', '.join(left_out)}. --format json has all.")


_LONG = 40
"""Rows from which a table is written line by line where that says the same: rich takes a millisecond for each."""


def _print_long(table: Table, console: Console) -> bool:
    """Print `table` as rich does, its rows padded here; False, and nothing, where cells may take more than that."""
    columns, width = table.columns, 1 + sum(3 + (column.width or console.width) for column in table.columns)
    cells = [[str(cell) for cell in column.cells] for column in columns]
    is_plain = all(cell.isascii() and cell.isprintable() and cell == cell.strip() for of in cells for cell in of)
    is_styled = console.legacy_windows or table.caption or any(row.style for row in table.rows)
    if not is_plain or is_styled or width > console.width or not {c.justify for c in columns} <= _PADDED.keys():
        return False
    frame = new_table(None if table.title is None else str(table.title))
    for column in columns:
        frame.add_column(str(column.header), justify=column.justify, width=column.width)
    frame.add_row("")
    with console.capture() as shown:
        console.print(frame)
    *head, row, end = shown.get().splitlines(keepends=True)
    left, between, right = f"{row[0]} ", f" {row[0]} ", f" {row[0]}\n"
    padded = [[_PADDED[c.justify](cell, c.width) for cell in of] for c, of in zip(columns, cells, strict=True)]
    lines = [left + between.join(line) + right for line in zip(*padded, strict=True)]
    console.file.write("".join([*head, *lines, end]))
    return True


_PADDED: dict[str, Callable[[str, Any], str]] = {"left": str.ljust, "right": str.rjust}


def fit_to_width(table: Table, console: Console) -> list[str]:
    """Take the last columns out until what is left fits the console uncut; returns their titles. Texts may fold, and
    long words of theirs, such as addresses, are broken.
    """
    from rich.measure import Measurement

    left_out: list[str] = []
    room = console.options.update(max_width=10_000)
    folds = any(column.overflow == "fold" for column in table.columns)
    if not folds:
        _fix_widths(table)
    while len(table.columns) > 1:
        needed = _folded_width(table) if folds else Measurement.get(console, room, table).maximum
        if needed <= console.width:
            break
        left_out.insert(0, str(table.columns.pop().header))
    else:
        for column in table.columns if not folds else ():
            column.width = None
    return left_out


def _folded_width(table: Table) -> int:
    """The fewest columns of the console in which texts of a table fold, their words broken at `_WORD`."""
    from rich.cells import cell_len

    width = 1
    for column in table.columns:
        words = " ".join(map(str, [column.header, *column.cells])).split()
        widest = max(map(cell_len, words), default=0)
        width += 3 + (min(widest, _WORD) if column.overflow == "fold" else widest)
    return width


def _fix_widths(table: Table) -> None:
    """State how wide columns of one-line texts are that never fold: rich measures each of their cells several times."""
    from rich.cells import cell_len

    for column in table.columns:
        cells = [column.header, *column.cells]
        if all(isinstance(cell, str) and "\n" not in cell for cell in cells):
            column.width = max(cell_len(str(cell)) for cell in cells)


def print_json(value: Any) -> None:
    """JSON on standard output; what is not a number is null."""
    print(json.dumps(_finite(value), indent=2))


def print_data(format: str, document: Any, rows: Sequence[dict[str, Any]], columns: Sequence[str] = ()) -> bool:
    """Print `document` as JSON or `rows` as CSV, as `format` says; False, and nothing, when it asks for a table.

    `columns`: of rows that may be none.
    """
    if format == "json":
        print_json(document)
    elif format == "csv":
        print_rows(rows, columns)
    return format in ("json", "csv")


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def print_rows(rows: Sequence[dict[str, Any]], columns: Sequence[str] = ()) -> None:
    """CSV on standard output, empty where there is no figure: the columns of the first row that has most, then what
    others say beside; without any row those given.
    """
    text = io.StringIO()
    rows = [_interval_columns(row) for row in rows]
    widest = max((list(row) for row in rows), key=len, default=list(columns))
    beside = dict.fromkeys(name for row in rows for name in row if row[name] is not None and name not in widest)
    writer = csv.DictWriter(text, [*widest, *beside], restval="", extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: "" if value != value else value for name, value in row.items()} for row in rows)
    sys.stdout.write(text.getvalue())


def _interval_columns(row: dict[str, Any]) -> dict[str, Any]:
    """Intervals as two columns, `..._low` and `..._high`; what has parts as one a part."""
    flat: dict[str, Any] = {}
    for key, value in row.items():
        if isinstance(value, dict):
            flat |= {f"{key}.{name}": part for name, part in value.items()}
        elif "_ci95" in key:
            flat[f"{key}_low"], flat[f"{key}_high"] = value if value is not None else ("", "")
        else:
            flat[key] = value
    return flat


def comparison_table(comparison: Comparison, title: str, with_batch: bool = False) -> Table:
    """One row a policy: what does not fit is shown with what it would need; `with_batch`: each its own. Columns are in
    the order of their worth: a narrow screen has the first.
    """
    table = new_table(title)
    table.add_column("policy", no_wrap=True)
    if with_batch:
        table.add_column("batch", justify="right")
    said = any(result.output != "exact" for result in comparison)
    columns = (
        "tokens/s", "95 %", "TTFT", "TPOT", "peak HBM", "vs best", "stalled", "hits", "link bytes", "MoE layer",
        *(["output"] if said else []),
    )  # fmt: skip
    for column in columns:
        table.add_column(column, justify="right")
    results = {result.policy: result for result in comparison}
    unfit = {row.policy: row for row in comparison.unfit}
    for name in comparison.order:
        if name in results:
            result = results[name]
            policy, *figures = _cells(result, comparison.ratio_to_best(result))
            output = result.output + (f", {result.changed_share:.1%}" if result.changed_share else "")
            table.add_row(policy, *([str(result.batch_size)] * with_batch), *figures, *([output] * said))
        else:
            needed = f"needs {si(unfit[name].needed_bytes, 'B')} {unfit[name].memory}"
            rest = ["-"] * (len(columns) - 2)
            table.add_row(name, *["-"] * with_batch, "does not fit", needed, *rest, style="dim")
    return table


def prefetch_table(comparison: Comparison) -> Table | None:
    """What the policies that guess brought ahead; None where none does."""
    found = [(result.policy, result.prefetches) for result in comparison if result.prefetches is not None]
    if not found:
        return None
    table = new_table("Brought ahead of its gate")
    table.add_column("policy", no_wrap=True)
    reads = any(ahead.n_read_ahead for _, ahead in found)
    of_reads = ("read into host memory", "precision", "wasted") if reads else ()
    for column in ("experts", "precision", "recall", "wasted", "an oracle brings", "early", "in time", *of_reads):
        table.add_column(column, justify="right")
    for name, ahead in found:
        row = (
            name, str(ahead.n_ahead), share(ahead.precision), share(ahead.recall), si(ahead.wasted_bytes, "B"),
            si(ahead.oracle_bytes, "B"), "-" if ahead.early_s is None else si(ahead.early_s, "s"), share(ahead.in_time),
            str(ahead.n_read_ahead), share(ahead.read_precision), si(ahead.read_wasted_bytes, "B"),
        )  # fmt: skip
        table.add_row(*row[: len(table.columns)])
    return table


def _cells(result: SimulationResult, ratio: float) -> list[str]:
    return [
        result.policy,
        f"{result.tokens_per_s:.4g}",
        _ends(result.tokens_per_s_ci95),
        si(result.ttft_s, "s"),
        si(result.tpot_s, "s"),
        si(result.peak_hbm_bytes, "B"),
        f"{ratio:.3f}",
        f"{result.stall_share:.1%}",
        f"{result.hit_rate:.1%}",
        si(result.h2d_bytes, "B"),
        si(result.moe_layer_latency_s, "s"),
    ]


def _ends(interval: tuple[float, float] | None) -> str:
    """An interval, in few digits."""
    return "-" if interval is None else f"{interval[0]:.3g} to {interval[1]:.3g}"


_NONE_OF = (
    "written_back_bytes", "storage_bytes", "n_low_slots", "n_host_slots", "host_hit_rate", "changed_share",
)  # fmt: skip
"""Figures that are 0 of most designs, which have no such thing."""


def result_table(result: SimulationResult) -> Table:
    """One result, a figure a line; what has nothing to say, and what it has none of, is left out."""
    table = new_table(f"{result.policy}: {result.model} on {result.hardware}")
    table.add_column("figure")
    table.add_column("value", justify="right")
    parts = {} if result.prefetches is None else result.prefetches.to_dict()
    shown_rows = result.to_dict() | {f"prefetches.{name}": value for name, value in parts.items()}
    for name, value in shown_rows.items():
        if isinstance(value, dict) or value in ("", None) or (value == 0 and name in _NONE_OF):
            continue
        if isinstance(value, tuple):
            shown = " to ".join(si(end, "s" if name.endswith("_s") else "") for end in value)
        elif name.endswith("_s") and not name.endswith("per_s"):
            shown = si(value, "s")
        elif name.endswith("_bytes"):
            shown = si(value, "B")
        else:
            shown = f"{value:.4g}" if isinstance(value, float) else str(value)
        table.add_row(name, shown)
    return table


def reproduction_tables(reproduction: Reproduction) -> list[Table]:
    """Every row with its error, then the accuracy of each group."""
    rows = new_table("Published against predicted")
    rows.add_column("row", overflow="fold")
    for column in ("measured", "predicted", "error"):
        rows.add_column(column, justify="right")
    rows.add_column("fitted")
    for row in reproduction.to_dict()["rows"]:
        name = " ".join(str(row[key]) for key in ("model", "design", "metric") if row[key])
        rest = ", ".join(f"{key} {row[key]}" for key in ("batch", "forced_active_experts") if row[key])
        cached = f", {row['cache_policy']} {row['cache_ratio']}" if row["cache_policy"] != "none" else ""
        tier = ", ssd" if row["expert_tier"] == "ssd" else ""
        points = row["metric"] == "cache_hit_rate"
        rows.add_row(
            f"{name}: {rest}{cached}{tier}",
            f"{float(row['value']):.6g} {row['unit']}",
            "does not fit" if math.isnan(row["predicted"]) else f"{row['predicted']:.6g}",
            "-" if math.isnan(row["error"]) else f"{100 * row['error']:+.2f} {'points' if points else '%'}",
            "yes" if row["fitted"] else "",
        )
    return [rows, accuracy_table(reproduction.accuracy())]


def accuracy_table(accuracy: Sequence[Accuracy]) -> Table:
    """MAPE, signed bias and worst of each group (hit rates: percentage points)."""
    table = new_table("Accuracy")
    table.add_column("group")
    for column in ("rows", "fitted", "MAPE", "MAPE unseen", "bias", "worst"):
        table.add_column(column, justify="right")
    table.add_column("worst row", overflow="fold")
    for entry in accuracy:
        unseen = "-" if math.isnan(entry.mape_unseen) else f"{100 * entry.mape_unseen:.2f}"
        table.add_row(
            entry.group, str(entry.n), str(entry.n_fitted), f"{100 * entry.mape:.2f}", unseen,
            f"{100 * entry.bias:+.2f}", f"{100 * entry.worst:.2f}", entry.worst_row,
        )  # fmt: skip
    return table
