"""`pregate train`: gates moved ahead in a small model, trained, fine-tuned and compared on this machine."""

from __future__ import annotations

import json
import platform
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pregate.cli import options
from pregate.cli.progress import spinner
from pregate.draw import render
from pregate.extras import require_torch
from traces.errors import InvalidInput
from traces.whole_file import require_writable, whole_file

if TYPE_CHECKING:
    from runtime.pregated.plan import ExperimentPlan


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
        int | None, typer.Option(help="Seeds side by side, a core each; default: 2, or 1 with --short.", min=1)
    ] = None,
    format: options.OutputFormat = options.Format.table,
) -> None:
    """Train a small model with conventional gates, move them 1, 2, 3 blocks ahead, fine-tune, compare.

    Example: pregate train --short -o pregated
    """
    require_torch()
    require_writable(output)
    from runtime.pregated.experiment import run_experiment
    from runtime.pregated.findings import findings
    from runtime.pregated.text import corpus_of_file

    plan = _plan(short, layout, seeds, base_steps, arm_steps)
    corpus = None if text is None else corpus_of_file(text)
    with spinner("training") as update:
        document = run_experiment(plan, output, corpus, workers or (1 if short else 2), update)
    document |= {"findings": findings(document), "versions": _versions()}
    with whole_file(output / "result.json") as path:
        path.write_text(json.dumps(document, indent=1) + "\n")
    _print(document["findings"], format)
    typer.echo(f"wrote {output / 'result.json'}, and the models of every seed and arm beside it", err=True)


def _plan(short: bool, layout: str, seeds: int | None, base_steps: int | None, arm_steps: int | None) -> ExperimentPlan:
    """The plan that the options change. Raises `InvalidInput`."""
    from runtime.pregated.plan import FULL, SHORT

    if max(seeds or 0, base_steps or 0, arm_steps or 0) > 1_000_000:
        raise InvalidInput("seeds and steps: at most 1,000,000 each")
    plan = SHORT if short else FULL
    return replace(
        plan,
        layout=layout,
        n_seeds=plan.n_seeds if seeds is None else seeds,
        base_steps=plan.base_steps if base_steps is None else base_steps,
        arm_steps=plan.arm_steps if arm_steps is None else arm_steps,
    )


def _versions() -> dict[str, str]:
    return {"python": platform.python_version(), "torch": version("torch")}


def _print(found: dict[str, Any], format: str) -> None:
    rows = [
        {
            "arm": name,
            "loss": arm["loss"]["mean"],
            "loss_difference": arm["loss_difference"]["mean"],
            "loss_difference_ci95": arm["loss_difference"]["ci95"],
            "accuracy": arm["accuracy"]["mean"],
            "accuracy_difference": arm["accuracy_difference"]["mean"],
            "accuracy_difference_ci95": arm["accuracy_difference"]["ci95"],
            "n_seeds": arm["loss"]["n"],
        }
        for name, arm in found["arms"].items()
    ]
    if render.print_data(format, found, rows):
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
