"""`pregate reproduce`: published measurements against predictions, row by row."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Annotated

import typer

from pregate.cli import options
from pregate.cli.progress import spinner
from pregate.draw import render
from traces.whole_file import whole_file


def reproduce(
    experiment: Annotated[str, typer.Argument(help="The experiment: isca24 (Pre-gated MoE on an A100).")] = "isca24",
    rows: Annotated[Path | None, typer.Option(help="CSV of rows; default: the published ones.")] = None,
    refit: Annotated[
        Path | None, typer.Option(help="Fit the machine's constants anew and write this fit file.")
    ] = None,
    seed: options.Seed = 0,
    format: options.OutputFormat = options.Format.table,
) -> None:
    """Predict every row of a published experiment; print predicted, measured, error, and the accuracy of each group.

    Example: pregate reproduce isca24 --format csv
    """
    if refit is not None:
        _refit(rows, refit)
        return
    from pregate.published.reproduction import reproduce as run_reproduce

    with spinner("predicting") as update:
        result = run_reproduce(experiment, rows, seed=seed, progress=update)
    if format is options.Format.json:
        render.print_json(result.to_dict())
        return
    if format is options.Format.csv:
        typer.echo(result.to_csv(), nl=False)
        return
    for table in render.reproduction_tables(result):
        render.print_table(table)
    assumed = ", ".join(f"{name} {getattr(result.activation, name):.4g}" for name in result.activation.__slots__)
    print(f"Machine constants: {result.calibration}. Activation assumed: {assumed}.")


def _refit(rows: Path | None, target: Path) -> None:
    from pregate.published.isca24 import read_rows
    from pregate.published.isca24_fit import fit_published
    from pregate.published.reproduction import PUBLISHED_ROWS

    source = rows if rows is not None else PUBLISHED_ROWS
    provenance = {
        "rows": f"{source.name}: Pre-gated MoE (ISCA 2024) measurements published with its code",
        "machine": "A100-SXM4-80GB, EPYC 7V12, PCIe 4.0 x16; driver and CUDA version not published",
        "command": "pregate reproduce isca24 --refit FILE",
        "date": date.today().isoformat(),
    }
    with whole_file(target) as partial, spinner("fitting (a minute or two)"):
        partial.write_text(fit_published(read_rows(source), provenance).to_yaml(), encoding="utf-8")
    typer.echo(f"wrote {target}", err=True)
