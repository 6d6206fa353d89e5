"""`pregate optimize`: the cheapest or fastest machine, policy and settings under constraints, and the Pareto front."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from pregate.cli import options
from pregate.cli.option_groups import takes
from pregate.cli.output_paths import require_picture
from pregate.cli.progress import spinner
from pregate.cli.search_question import SearchQuestion
from pregate.draw import render

if TYPE_CHECKING:
    from rich.table import Table

    from pregate.optima.optimum import Optimum

NOTHING_FEASIBLE = 1
"""Exit status where no point meets every constraint."""


@takes("question", SearchQuestion)
def optimize(
    *, context: typer.Context, question: SearchQuestion, format: options.OutputFormat = options.Format.table
) -> None:
    """Find the cheapest or fastest machine and design: all settings that meet every constraint, and the Pareto front.

    Without --minimize and --maximize: the lowest price, then the most tokens/s. What is minimised comes first.

    Example: pregate optimize switch-base-8 --output-tokens 8 --minimize tpot_p99_s --subject-to "price_usd<=2000"
    """
    searched, plot = question.searched(context), question.plot
    if plot is not None:
        require_picture(plot)
    from pregate.optima.optimize import DEFAULT_OBJECTIVES
    from pregate.optima.optimize import optimize as run_optimize

    with spinner("searching") as update:
        optimum = run_optimize(
            **searched, objectives=question.objectives() or DEFAULT_OBJECTIVES, constraints=question.subject_to or (),
            method=question.method, jobs=question.jobs, progress=lambda done, total: update(f"{done:,} of {total:,}"),
        )  # fmt: skip
    if not render.print_data(format, optimum.to_dict(), optimum.rows()):
        _print(optimum)
    if plot is not None:
        from pregate.draw.pareto_plot import draw_front

        draw_front(optimum, plot)
        typer.echo(f"wrote {plot}", err=True)
    raise typer.Exit(0 if optimum.best is not None else NOTHING_FEASIBLE)


def _print(optimum: Optimum) -> None:
    """The front as a table, the verdict, and what the figures rest on."""
    if optimum.front:
        render.print_table(_table(optimum))
    print(optimum.verdict())
    if optimum.front:
        print(f"Machine constants: {optimum.calibration}. Prices are of the accelerator alone.")


def _table(optimum: Optimum) -> Table:
    """The front, a row a candidate."""
    from pregate.optima.goals import shown

    fields = [objective.field for objective in optimum.goals.objectives]
    fields += [constraint.field for constraint in optimum.goals.constraints]
    columns = list(dict.fromkeys([*fields, "tokens_per_s", "tpot_s", "peak_hbm_bytes", "price_usd"]))
    where = f"{optimum.hardware.count(',') + 1} machines" if "," in optimum.hardware else optimum.hardware
    table = render.new_table(f"Pareto front: {optimum.model} on {where}")
    for name in ("policy", *optimum.front[0]["settings"]):
        table.add_column(name, justify="left" if name in ("policy", "hardware") else "right")
    for name in columns:
        table.add_column(name, justify="right")
    for row in optimum.front:
        figures = [row["fields"][name] for name in columns]
        cells = ["-" if figure is None else shown(name, figure) for name, figure in zip(columns, figures, strict=True)]
        table.add_row(row["policy"], *optimum.shown_settings(row).values(), *cells)
    return table
