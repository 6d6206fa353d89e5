"""`pregate reproduce`: published measurements against predictions, row by row."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Annotated

import typer

from pregate.cli import options
from pregate.cli.option_values import build_machine, distinct
from pregate.cli.output_paths import require_folder
from pregate.cli.progress import spinner
from pregate.draw import render
from traces.errors import InvalidInput, unknown_name
from traces.whole_file import whole_file


def reproduce(
    experiment: Annotated[
        str,
        typer.Argument(
            help="isca24 (Pre-gated MoE on an A100), field (what others measured), resident (all in HBM), or a CSV."
        ),
    ] = "isca24",
    rows: Annotated[Path | None, typer.Option(help="CSV of rows; default: the published ones.")] = None,
    refit: Annotated[
        Path | None, typer.Option(help="Fit the machine's constants anew and write this fit file.")
    ] = None,
    hardware: Annotated[str | None, typer.Option(help="Ask a table's workloads of this machine instead.")] = None,
    sets: options.Sets = None,
    fit_stack: Annotated[
        str | None,
        typer.Option(help="Fit constants of a stack on a table's rows of role stack: ik-llama:cpu_efficiency,sync_s."),
    ] = None,
    spreads: Annotated[
        Path | None, typer.Option(help="Write how far constants scatter from source to source of a table, as YAML.")
    ] = None,
    seed: options.Seed = 0,
    no_cache: Annotated[
        bool, typer.Option("--no-cache", help="Predict every row anew, and keep nothing on disk.")
    ] = False,
    format: options.OutputFormat = options.Format.table,
) -> int:
    """Predict every row of a table of measurements; print predicted, measured, error, and the accuracy of each group.

    Where no row could be scored the status is 1.

    Example: pregate reproduce isca24 --format csv
    """
    if experiment in ("field", "resident") or experiment.lower().endswith(".csv"):
        if rows is not None or refit is not None:
            raise InvalidInput("--rows and --refit are of isca24: name the table instead of the experiment")
        return _table(experiment, hardware, sets, fit_stack, seed, format, spreads, not no_cache)
    if experiment != "isca24":
        raise unknown_name("experiment", experiment, ("isca24", "field", "resident", "TABLE.csv"))
    if fit_stack is not None or spreads is not None:
        raise InvalidInput("--fit-stack and --spreads are of tables of several sources; for isca24 there is --refit")
    if hardware is not None or sets:
        if refit is not None:
            raise InvalidInput("--refit is of the machine that was measured: leave out --hardware and --set")
        from pregate.measured.reproduction import PUBLISHED_ROWS

        return _table(str(rows or PUBLISHED_ROWS), hardware, sets, None, seed, format, kept=not no_cache)
    if refit is not None:
        if no_cache:
            raise InvalidInput("--refit keeps nothing on disk: leave out --no-cache")
        _refit(rows, refit)
        return 0
    from pregate.measured.reproduction import reproduce as run_reproduce

    with spinner("predicting") as update:
        result = run_reproduce(experiment, rows, seed=seed, progress=update, cache_dir=not no_cache)
    if format is options.Format.json:
        render.print_json(result.to_dict())
        return 0
    if format is options.Format.csv:
        typer.echo(result.to_csv(), nl=False)
        return 0
    for table in render.reproduction_tables(result):
        render.print_table(table)
    assumed = ", ".join(f"{name} {getattr(result.activation, name):.4g}" for name in result.activation.__slots__)
    print(f"Machine constants: {result.calibration}. Activation assumed: {assumed}.")
    return 0


def _table(
    name: str,
    hardware: str | None,
    sets: list[str] | None,
    fit: str | None,
    seed: int,
    format: options.Format,
    spreads: Path | None = None,
    kept: bool = True,
) -> int:
    """A table in the project's own language; the status: 1 where no row was scored."""
    from hwmodels.specs.set_options import parse_sets
    from pregate.measured.table import RESIDENT_TABLE, read_field, read_table

    _check_given(hardware, sets, fit, spreads, format, kept)
    if spreads is not None:
        require_folder(spreads)
    rows = read_field() if name == "field" else read_table(RESIDENT_TABLE if name == "resident" else Path(name))
    if fit is not None:
        from pregate.measured.stack_fit import fit_stack

        stack, _, names = fit.partition(":")
        wanted = distinct(names, "--fit-stack") if names.strip() else []
        with spinner("fitting (minutes)") as update:
            found = fit_stack(rows, stack, wanted, seed=seed, progress=update)
        for key, value in found.items():
            typer.echo(f"{key}: {value:.4g}")
        return 0
    if sets and rows:
        build_machine(hardware or rows[0].hardware, None, None, sets)
    from pregate.measured.table_prediction import predict_table  # once the rows are known to be some

    with spinner("predicting") as update:
        result = predict_table(
            rows, seed=seed, hardware=hardware, overrides=parse_sets(sets), progress=update, cache_dir=kept
        )
    if spreads is not None:
        from pregate.measured.carried_constants import carried
        from pregate.measured.spreads import fit_spread, interval_coverage, residuals

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
        return 0
    if format is options.Format.json:
        render.print_json(result.to_dict())
    elif format is options.Format.csv:
        typer.echo(result.to_csv(), nl=False)
    else:
        from pregate.draw.field_tables import field_tables

        for table in field_tables(result):
            render.print_table(table)
        print(f"{len(result.scored)} of {len(result.rows)} rows scored.")
        if hardware is not None or sets:
            asked = " with ".join(part for part in (hardware or "its machine", ", ".join(sets or ())) if part)
            print(f"Each row was asked of {asked}: measured elsewhere, its error is what two machines differ by.")
    return 0 if result.scored else 1


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


def _refit(rows: Path | None, target: Path) -> None:
    from pregate.measured.isca24_fit import fit_published
    from pregate.measured.isca24_rows import read_rows
    from pregate.measured.reproduction import PUBLISHED_ROWS

    source = rows if rows is not None else PUBLISHED_ROWS
    provenance = {
        "rows": f"{source.name}: Pre-gated MoE (ISCA 2024) measurements published with its code",
        "machine": "A100-SXM4-80GB, EPYC 7V12, PCIe 4.0 x16; driver and CUDA version not published",
        "command": "pregate reproduce isca24 --refit FILE",
        "date": date.today().isoformat(),
    }
    require_folder(target)
    with spinner("fitting (a minute or two)"):
        fit = fit_published(read_rows(source), provenance)
    with whole_file(target) as partial:
        partial.write_text(fit.to_yaml(), encoding="utf-8")
    typer.echo(f"wrote {target}", err=True)
