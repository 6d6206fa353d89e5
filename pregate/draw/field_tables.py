"""A predicted table of measurements, as the terminal and the documents show it. Nothing here computes a result."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from pregate.draw.render import new_table

if TYPE_CHECKING:
    from rich.table import Table

    from pregate.measured.table_scores import FieldScore, TablePrediction


SCORE_HEADS = (
    "group",
    "rows",
    "MAPE",
    "median",
    "bias",
    "worst",
    "tau",
    "link alone",
    "roofline",
    "first row repeated",
)


def field_tables(result: TablePrediction) -> list[Table]:
    """Every predicted row with its error, the accuracy of each group, what could not be said, constants determined."""
    rows = new_table("Measured against predicted")
    rows.add_column("row", overflow="fold")
    for column in ("measured", "predicted", "95 %", "error"):
        rows.add_column(column, justify="right")
    rows.add_column("role")
    for one in result.rows:
        if not math.isnan(one.predicted):
            measured = f"{one.row.value:.4g} {one.row.unit}"
            ends = "" if one.interval is None else "{:.4g} to {:.4g}".format(*one.interval)
            rows.add_row(
                one.row.name, measured, f"{one.predicted:.4g}", ends, f"{100 * one.error:+.1f} %", one.row.role
            )
    scores = new_table("Accuracy, and what rules of thumb miss by")
    for i, head in enumerate(SCORE_HEADS):
        scores.add_column(head, justify="right" if i else "left", overflow="fold")
    for score in result.scores():
        scores.add_row(*score_cells(score))
    tables = [table for table in (rows, scores) if table.row_count]
    against = result.against_repeating()
    if against:
        held = {f"{one.group} ({one.n} rows)": one.mape / one.repeat_mape for one in against}
        tables.append(
            _pairs("Error over that of the first row repeated, where that misses by 25 % (at most 0.5)", held)
        )
    if result.unsaid():
        tables.append(_unsaid(result))
    if result.constants:
        tables.append(_pairs("Determined by rows", result.constants))
    return tables


def _unsaid(result: TablePrediction) -> Table:
    table = new_table("Not said")
    table.add_column("why", overflow="fold")
    table.add_column("rows", justify="right")
    table.add_column("the first of them", overflow="fold")
    first = result.first_unsaid()
    for reason, n in result.unsaid().items():
        table.add_row(reason, str(n), first[reason])
    return table


def error_percent(error: float | None) -> str:
    """An error in per cent; beyond a thousand it says no more than that."""
    return "-" if error is None else f"{100 * error:.0f}" if error < 10 else ">999"


def score_cells(score: FieldScore) -> list[str]:
    """The cells of one score, as `SCORE_HEADS` names them; errors in per cent."""
    tau = "-" if score.kendall_tau is None else f"{score.kendall_tau:.2f}"
    rules = [error_percent(score.baselines.get(name)) for name in ("link", "roofline", "repeat")]
    own = [
        error_percent(score.mape),
        error_percent(score.median),
        f"{100 * score.bias:+.0f}",
        error_percent(score.worst),
        tau,
    ]
    return [score.group, str(score.n), *own, *rules]


def _pairs(title: str, pairs: Mapping[str, float]) -> Table:
    table = new_table(title)
    table.add_column("what", overflow="fold")
    table.add_column("", justify="right")
    for name, value in pairs.items():
        table.add_row(name, f"{value:.4g}")
    return table
