"""`pregate train`: gates moved ahead in a small model, trained, fine-tuned and compared on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pregate.cli import options
from pregate.cli.progress import spinner
from pregate.draw import render

if TYPE_CHECKING:
    from pregate.trained.gate_study import GateStudy


def train(
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder of the models and result.json; goes on with what it holds.")
    ],
    short: Annotated[bool, typer.Option("--short", help="Seconds: that it runs, nothing about gates.")] = False,
    text: Annotated[
        Path | None, typer.Option("--text", help="Text to train on (UTF-8); default: the documentation of Python.")
    ] = None,
    layout: Annotated[str, typer.Option(help="decoder, or encoder-decoder (T5's).")] = "decoder",
    seeds: Annotated[int | None, typer.Option(help="Models trained from scratch; default: 6, short 2.")] = None,
    base_steps: Annotated[int | None, typer.Option(help="Steps of the conventional model.")] = None,
    arm_steps: Annotated[int | None, typer.Option(help="Steps of fine-tuning, the same for every arm.")] = None,
    workers: Annotated[
        int | None, typer.Option(help="Trainings side by side, a core each; default: 2, or 1 with --short.", min=1)
    ] = None,
    format: options.OutputFormat = options.Format.table,
) -> None:
    """Train a small model whose gates look ahead: conventional gates first, moved 1, 2, 3 blocks, fine-tuned, compared.

    Example: pregate train --short -o pregated
    """
    from pregate.trained.gate_study import train as train_gates

    with spinner("training") as update:
        study = train_gates(
            output,
            short=short,
            text=text,
            layout=layout,
            seeds=seeds,
            base_steps=base_steps,
            arm_steps=arm_steps,
            workers=workers,
            progress=update,
        )
    _print(study, format)
    typer.echo(f"wrote {output / 'result.json'}, and the models of every seed and arm beside it", err=True)


def _print(study: GateStudy, format: str) -> None:
    rows = study.rows()
    if render.print_data(format, study.findings, rows):
        return
    table = render.new_table(f"differences from the conventional arm, 95 % over {rows[0]['n_seeds']} seeds")
    for name in ("arm", "loss", "difference", "accuracy", "difference, points"):
        table.add_column(name, justify="left" if name == "arm" else "right")
    for row in rows:
        table.add_row(
            str(row["arm"]), f"{row['loss']:.4f}", f"{row['loss_difference']:+.4f} ± {row['loss_difference_ci95']:.4f}",
            f"{row['accuracy']:.2%}",
            f"{100 * row['accuracy_difference']:+.2f} ± {100 * row['accuracy_difference_ci95']:.2f}",
        )  # fmt: skip
    render.print_table(table)
