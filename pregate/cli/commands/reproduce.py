"""`pregate reproduce`: published measurements against predictions, row by row."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Annotated

import typer

from pregate.ask.choices import TABLE_ENDINGS
from pregate.cli import options
from pregate.cli.output_paths import require_folder
from pregate.cli.progress import spinner
from pregate.draw import render
from traces.errors import InvalidInput, unknown_name
from traces.foundation.atomic_files import whole_file


def reproduce(
    experiment: Annotated[
        str,
        typer.Argument(
            help="isca24 (Pre-gated MoE on an A100), field (what others measured), resident (all in HBM), or a table."
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
    """Predict every row of a table of measurements: predicted, measured, error, and the accuracy of each group.

    A table of yours is CSV, JSON or Markdown, or what a benchmark of llama.cpp, vLLM or SGLang wrote, its card added.
    Where no row could be scored the status is 1.

    Example: pregate reproduce isca24 --format csv
    """
    from pregate.cli.commands.reproduce_table import reproduce_table

    if experiment in ("field", "resident") or experiment.lower().endswith(TABLE_ENDINGS):
        if rows is not None or refit is not None:
            raise InvalidInput("--rows and --refit are of isca24: name the table instead of the experiment")
        return reproduce_table(experiment, hardware, sets, fit_stack, seed, format, spreads, not no_cache)
    if experiment != "isca24":
        raise unknown_name("experiment", experiment, ("isca24", "field", "resident", "TABLE.csv"))
    if fit_stack is not None or spreads is not None:
        raise InvalidInput("--fit-stack and --spreads are of tables of several sources; for isca24 there is --refit")
    if hardware is not None or sets:
        if refit is not None:
            raise InvalidInput("--refit is of the machine that was measured: leave out --hardware and --set")
        from pregate.measured.reproduction import PUBLISHED_ROWS

        return reproduce_table(str(rows or PUBLISHED_ROWS), hardware, sets, None, seed, format, kept=not no_cache)
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


def _refit(rows: Path | None, target: Path) -> None:
    from pregate.measured.isca24.machine_fit import fit_published
    from pregate.measured.isca24.published_rows import read_rows
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
