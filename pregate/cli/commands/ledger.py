"""`pregate ledger`: what was predicted, beside what was measured afterwards."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pregate.cli import options
from pregate.draw import render
from traces.errors import InvalidFile, InvalidInput
from traces.foundation.documents import NUMBER, read_text

if TYPE_CHECKING:
    from rich.table import Table

    from pregate.validation.ledger import Ledger

Typed = tuple[str, float]
"""A key as it was typed, `ID.METRIC` or `METRIC`, and what was measured."""


def ledger(
    file: Annotated[Path, typer.Argument(help="The ledger that `plan --ledger` or `validate --ledger` wrote.")],
    measured: Annotated[
        list[str] | None,
        typer.Option("--measured", help="What was measured: ID.METRIC=NUMBER in SI, METRIC=NUMBER, or FILE.csv."),
    ] = None,
    format: options.OutputFormat = options.Format.table,
) -> None:
    """Score predictions against what was measured afterwards: held, failed, by how much. Failures stay.

    A CSV has the columns key (ID.METRIC, or METRIC of the last prediction) and value.

    Example: pregate ledger predictions.jsonl --measured tpot_s=0.031
    """
    from pregate.validation.ledger import append_measured, load_ledger

    found = load_ledger(file)
    given = [pair for word in measured or () for pair in _read(word)]
    if given:
        append_measured(file, [(*found.find(key), value) for key, value in given])
        found = load_ledger(file)
    rows = [score.to_dict() for score in found.scores()]
    if not render.print_data(format, {"scores": rows, "verdict": found.verdict()}, rows):
        render.print_table(_table(found, str(file)))
        print(found.verdict())


def _read(word: str) -> list[Typed]:
    """`KEY=NUMBER`, or the rows of a CSV. Raises `InvalidInput` for other text."""
    key, equals, number = word.partition("=")
    if equals:
        return [(key.strip(), _number(number.strip(), f"--measured {word}"))]
    path = Path(word)
    rows = csv.DictReader(io.StringIO(read_text(path)), strict=True)
    if set(rows.fieldnames or ()) != {"key", "value"}:
        raise InvalidFile(f"{path}: a table of measurements has the columns key and value, no others")
    try:
        return [(row["key"], _number(row["value"], f"{path} line {rows.line_num}")) for row in rows]
    except (csv.Error, KeyError, TypeError) as error:
        raise InvalidFile(f"{path} line {rows.line_num}: no row of two cells ({error})") from None


def _number(text: str | None, where: str) -> float:
    if text is None or NUMBER.fullmatch(text.strip()) is None:
        raise InvalidInput(f"{where}: {text!r} is no number, such as 0.031: seconds and tokens/s, no unit")
    return float(text)


def _table(found: Ledger, title: str) -> Table:
    table = render.new_table(f"Predictions of {title}")
    for column in ("id", "subject", "metric"):
        table.add_column(column, overflow="fold")
    for column in ("predicted", "95 % interval", "measured", "error", "verdict"):
        table.add_column(column, justify="right")
    before = ""
    for score in found.scores():
        interval, one = score.predicted.interval, score.prediction
        told = partial(_shown, metric=score.metric)
        table.add_row(
            *(("", "") if one.id == before else (one.id, _subject(one.subject))),
            score.metric,
            told(score.predicted.value),
            "-" if interval is None else " to ".join(map(told, interval)),
            "-" if score.measured is None else told(score.measured.value),
            "-" if score.error is None else f"{score.error:+.1%}",
            score.verdict,
        )
        before = one.id
    return table


def _subject(subject: Mapping[str, str]) -> str:
    """What was predicted, without the digests of its schedules, which nobody reads."""
    return ", ".join(text for name, text in subject.items() if name != "schedules")


def _shown(value: float, metric: str) -> str:
    """A number in the unit that the name of its metric ends in."""
    return render.si(value, "s") if metric.endswith("_s") and not metric.endswith("_per_s") else f"{value:.4g}"
