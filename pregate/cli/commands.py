"""The commands, one file each; `register` hangs them on the application."""

from __future__ import annotations

import typer

from pregate.cli import (
    calibrate,
    catalogue,
    compare,
    crossover,
    explain,
    measure,
    optimize,
    reproduce,
    residency,
    run,
    simulate,
    sweep,
    trace,
    validate,
)

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add every command."""
    app.command("compare")(compare.compare)
    app.command("simulate")(simulate.simulate)
    app.command("run")(run.run)
    app.command("explain")(explain.explain)
    app.command("crossover")(crossover.crossover)
    app.command("sweep")(sweep.sweep)
    app.command("optimize")(optimize.optimize)
    app.command("measure")(measure.measure)
    app.command("calibrate")(calibrate.calibrate)
    app.command("validate")(validate.validate)
    app.command("reproduce")(reproduce.reproduce)
    app.command("residency")(residency.residency)
    app.add_typer(trace.app, name="trace")
    app.add_typer(catalogue.models, name="models")
    app.add_typer(catalogue.hardware, name="hardware")
