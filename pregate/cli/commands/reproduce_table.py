"""`pregate reproduce` of a table in the project's own columns: predicted, or constants from it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from pregate.cli import options
from pregate.cli.option_values import build_machine, distinct
from pregate.cli.output_paths import require_folder
from pregate.cli.progress import spinner
from pregate.draw import render
from traces.errors import InvalidInput
from traces.foundation.atomic_files import whole_file
from traces.foundation.gc_pause import gc_paused

if TYPE_CHECKING:
    from pregate.measured.rows.measured_row import MeasuredRow
    from pregate.measured.table_scores import TablePrediction


def reproduce_table(
    name: str,
    hardware: str | None,
    sets: list[str] | None,
    fit: str | None,
    seed: int,
    format: options.Format,
    spreads: Path | None = None,
    kept: bool = True,
) -> int:
    """A table by path, `field` or `resident`; the status: 1 where no row was scored."""
    from hwmodels.specs.set_options import parse_sets
    from pregate.measured.rows.table import RESIDENT_TABLE, read_field, read_table

    _check_given(hardware, sets, fit, spreads, format, kept)
    if spreads is not None:
        require_folder(spreads)
    rows = read_field() if name == "field" else read_table(RESIDENT_TABLE if name == "resident" else Path(name))
    if fit is not None:
        _fit_stack(rows, fit, seed)
        return 0
    if sets and rows:
        build_machine(hardware or rows[0].hardware, None, None, sets)
    from pregate.measured.table_prediction import predict_table  # once the rows are known to be some

    with gc_paused():  # while it is printed too: nobody looks for circles among the works of its rows
        with spinner("predicting") as update:
            result = predict_table(
                rows, seed=seed, hardware=hardware, overrides=parse_sets(sets), progress=update, cache_dir=kept,
                explained=format is not options.Format.csv,
            )  # fmt: skip
        if spreads is None:
            _print(result, format)
    if spreads is not None:
        _write_spreads(result, spreads)
        return 0
    for doubt in result.doubts:
        typer.echo(f"note: {doubt}", err=True)
    if format is options.Format.table and (hardware is not None or sets):
        asked = " with ".join(part for part in (hardware or "its machine", ", ".join(sets or ())) if part)
        print(f"Each row was asked of {asked}: measured elsewhere, its error is what two machines differ by.")
    return 0 if result.scored else 1


def _fit_stack(rows: Sequence[MeasuredRow], fit: str, seed: int) -> None:
    """Fit what `fit` names, STACK:CONSTANT,CONSTANT,..., on the rows of role stack, and print it."""
    from pregate.measured.constants.stack_fit import fit_stack

    stack, _, names = fit.partition(":")
    wanted = distinct(names, "--fit-stack") if names.strip() else []
    with spinner("fitting (minutes)") as update:
        found = fit_stack(rows, stack, wanted, seed=seed, progress=update)
    for key, value in found.items():
        typer.echo(f"{key}: {value:.4g}")


def _write_spreads(result: TablePrediction, spreads: Path) -> None:
    """Write how far constants scatter, and print how well each is said by the others."""
    from pregate.measured.constants.carried_constants import carried
    from pregate.measured.constants.spreads import fit_spread, interval_coverage, residuals

    rows_off = residuals(result)
    with whole_file(spreads) as partial:
        partial.write_text(fit_spread(rows_off).to_yaml(), encoding="utf-8")
    held = interval_coverage(rows_off)
    typer.echo(f"wrote {spreads}: intervals by the other sources hold {held.n_inside} of {held.n} rows", err=True)
    for one in carried(rows_off):
        typer.echo(
            f"{one.constant}, {one.n_rows} rows, {one.n_groups} {one.by}s: {100 * one.shipped:.1f} % off, "
            f"{100 * one.others:.1f} with what the other {one.by}s ask for, {100 * one.own:.1f} with each own; "
            f"ln scatters by {one.scatter:.2f}"
        )


def _print(result: TablePrediction, format: options.Format) -> None:
    if format is options.Format.json:
        render.print_json(result.to_dict())
    elif format is options.Format.csv:
        typer.echo(result.to_csv(), nl=False)
    else:
        from pregate.draw.field_tables import field_tables

        for table in field_tables(result):
            render.print_table(table)
        print(f"{len(result.scored)} of {len(result.rows)} rows scored.")


def _check_given(
    hardware: str | None, sets: list[str] | None, fit: str | None, spreads: Path | None, format: options.Format,
    kept: bool,
) -> None:  # fmt: skip
    """Raise `InvalidInput` for options that a fit or a file of spreads would leave unheard."""
    what = "--fit-stack" if fit is not None else "--spreads" if spreads is not None else None
    other = {
        "--spreads": fit is not None and spreads is not None,
        "--hardware": hardware is not None,
        "--set": bool(sets),
        "--format": format is not options.Format.table,
        "--no-cache": fit is not None and not kept,
    }
    given = [option for option, is_given in other.items() if is_given]
    if what is not None and given:
        raise InvalidInput(f"{what} is of the machines of the table, in lines of its own: leave out {', '.join(given)}")
