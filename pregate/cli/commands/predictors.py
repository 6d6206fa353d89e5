"""`pregate predictors`: how well each predictor would have guessed the experts of a recorded trace."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pregate.cli import options
from pregate.cli.option_values import distinct
from pregate.cli.output_paths import require_picture
from pregate.cli.progress import spinner
from pregate.draw import render
from traces.errors import InvalidInput
from traces.foundation.atomic_files import refuse_overwriting

if TYPE_CHECKING:
    from rich.table import Table

    from pregate.ask.replays.predictors import PredictorCurves


def predictors(
    trace: Annotated[Path, typer.Argument(help="Routing trace, one that ships by name, or a recording to import.")],
    predictors: Annotated[
        str | None,
        typer.Option(
            help="Of markov, maps, matrices, learned, previous_token, sequence, popular, uniform, oracle; "
            "comma-separated. Default: all."
        ),
    ] = None,
    lookahead: Annotated[str, typer.Option(help="Layers ahead, comma-separated.")] = "1,2,3",
    more: Annotated[str, typer.Option(help="Experts guessed beyond the k of a token, comma-separated.")] = "0,2,4",
    metric: Annotated[str, typer.Option(help="recall, exact or top1: not comparable with each other.")] = "recall",
    split: Annotated[
        str, typer.Option(help="Which sequences learn: alternate (every other one) or halves (the first half).")
    ] = "alternate",
    batch: Annotated[
        int, typer.Option(min=1, help="Judged sequences side by side, whose unions of guesses are judged.")
    ] = 1,
    save: Annotated[
        Path | None,
        typer.Option(help="Write what learns (.safetensors), for guess/markov:from=FILE and the other predictors."),
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw the curves (PNG, SVG or PDF).")] = None,
    seed: options.Seed = 0,
    format: options.OutputFormat = options.Format.table,
) -> None:
    """Judge predictors on a recorded trace: recall by lookahead, experts guessed and layer, beside controls.

    Example: pregate predictors gpt-oss-20b-mmlu --lookahead 1,2 --format csv
    """
    if plot is not None:
        require_picture(plot)
    if save is not None:
        _require_lessons(save, trace)
    names = None if predictors is None else distinct(predictors, "--predictors")
    ahead, beyond = _numbers(lookahead, "--lookahead"), _numbers(more, "--more")
    from pregate.ask.replays.predictors import learning_part
    from pregate.ask.replays.predictors import predictors as judge
    from pregate.routing_traces import load_trace
    from traces.storage import save_trace

    recorded = load_trace(trace)
    learning = None if save is None else learning_part(recorded, split)
    with spinner("learning and guessing"):
        found = judge(recorded, names, ahead, beyond, metric=metric, split=split, seed=seed, batch=batch)
        if plot is not None:
            from pregate.draw.predictor_plot import predictor_curves
            from pregate.draw.style import save_figure

            save_figure(predictor_curves(found), plot)
    if format is options.Format.csv:
        typer.echo(found.to_csv(), nl=False)
    elif format is options.Format.json:
        render.print_json(found.to_dict())
    else:
        render.print_table(_table(found, str(trace)))
        print(
            f"{found.metric}: {_metric_is(found)}. Shuffled: recall of the same predictor's guesses for other tokens."
        )
        print(f"{found.note[:1].upper()}{found.note[1:]}.")
    if save is not None and learning is not None:
        save_trace(learning, save)
        typer.echo(f"wrote {save}", err=True)
    if plot is not None:
        typer.echo(f"wrote {plot}", err=True)


def _require_lessons(path: Path, trace: Path) -> None:
    """Raise `InvalidInput` for a file that cannot be written, before anything is learnt."""
    if path.suffix != ".safetensors":
        raise InvalidInput(f"--save {path}: what is learnt from is kept as a routing trace, name it .safetensors")
    if path.is_dir() or not path.parent.is_dir():
        raise InvalidInput(f"--save {path}: {'a folder' if path.is_dir() else f'no folder {path.parent}'}, name a file")
    refuse_overwriting(path, trace)


def _metric_is(found: PredictorCurves) -> str:
    from pregate.ask.choices import GUESS_METRICS

    return GUESS_METRICS[found.metric]


def _numbers(text: str, option: str) -> list[int]:
    """Whole numbers, comma-separated. Raises `InvalidInput` for anything else."""
    words = distinct(text, option)
    for word in words:
        if not (word.isascii() and word.isdigit() and len(word) < 5):
            raise InvalidInput(f"{option}: {word!r} is not a whole number, such as 2")
    return [int(word) for word in words]


def _table(found: PredictorCurves, title: str) -> Table:
    """A line a predictor and lookahead, a column a number of guesses."""
    more = sorted({row.more for row in found})
    table = render.new_table(
        f"{found.metric} of predictors on {title}: top-{found.top_k} of {found.n_experts}, {len(found.layers)} layers"
    )
    table.add_column("predictor")
    table.add_column("ahead", justify="right")
    for one in more:
        table.add_column(f"k + {one}", justify="right")
    table.add_column("95 % at the first", justify="right")
    for column in ("shuffled", "precision", "layers"):
        table.add_column(column, justify="right")
    for first in (row for row in found if row.more == found.rows[0].more):
        line = {r.more: r for r in found if (r.predictor, r.lookahead) == (first.predictor, first.lookahead)}
        known = [value for value in first.by_layer if value is not None]
        table.add_row(
            first.predictor,
            str(first.lookahead),
            *(f"{line[one].value:.1%}" for one in more),
            "-" if first.low is None or first.high is None else f"{first.low:.1%} to {first.high:.1%}",
            "-" if first.shuffled != first.shuffled else f"{first.shuffled:.1%}",
            f"{first.precision:.1%}",
            f"{min(known):.0%} to {max(known):.0%}",
        )
    return table
