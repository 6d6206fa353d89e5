"""`pregate crossover`: where another design becomes the best along one axis."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from pregate.cli import options, usual_designs
from pregate.cli.arguments import is_typed
from pregate.cli.consent import require_consent_along
from pregate.cli.option_values import listed
from pregate.cli.progress import spinner
from pregate.cli.question import ENGINES, Question, asks
from pregate.cli.speculative import drafting_of
from pregate.draw import render
from traces.errors import InvalidInput

if TYPE_CHECKING:
    from rich.table import Table

    from hwmodels.platform import Platform
    from pregate.crossover.crossover import Crossovers
    from pregate.sweeps.workloads import TraceRecipe
    from traces.model.architecture import ModelArchitecture
    from traces.routing import RoutingTrace

_AXIS_HELP = (
    "What varies: a hardware number (link.h2d_bytes_per_s, hbm_bytes, stack.sync_s), batch, input_tokens, "
    "output_tokens, n_active, top_k, lookahead, cache_ratio, tier_bytes (of --tier ssd+lru), gamma or "
    "acceptance; it takes the place of the option."
)


_GIVEN_BY = {
    "batch": "batch",
    "active": "n_active",
    "top_k": "top_k",
    "input_tokens": "input_tokens",
    "output_tokens": "output_tokens",
    "hbm": "accelerator.hbm_bytes",
}
"""Axes, by the option that gives one a value."""


@asks(*ENGINES)
def crossover(
    *,
    context: typer.Context,
    axis: Annotated[str, typer.Option(help=_AXIS_HELP)],
    from_: Annotated[str, typer.Option("--from", help="Its lowest value, SI or with a unit: 4e9, 4GB/s, 1.")],
    to: Annotated[str, typer.Option(help="Its highest value.")],
    policies: Annotated[
        str | None,
        typer.Option(help=f"Designs, by comma; default: {usual_designs.OFFLOADING}, {usual_designs.OR_ENGINE}."),
    ] = None,
    metric: options.Metric = "tokens_per_s",
    points: Annotated[int, typer.Option(help="Points of the scan that finds brackets.")] = 33,
    question: Question,
) -> None:
    """Find where another design becomes the best along one axis: to 0.1 %, or to the unit of a count.

    Example: pregate crossover switch-base-8 --hardware a100-sxm4-80gb --axis hbm_bytes --from 2GB --to 80GB
    """
    names = [] if policies is None else question.several(listed(policies))
    if policies is not None and len(names) < 2:
        raise InvalidInput(f"--policies {policies!r}: one design crosses nothing, name two or more")
    typed = {name for name in context.params if is_typed(context, name)}
    architecture, machine, workload = _subject(question, typed, axis, from_, to)
    if policies is None:
        names = _usual(question, axis, architecture, machine)
    designs, cache = question.designs(names, architecture)
    from pregate.crossover.crossover import Crossover, crossovers

    with spinner("searching") as update:
        update(axis)
        found = crossovers(
            architecture, machine, workload, names if question.popularity is None else designs, axis, from_, to,
            metric=metric, n_scan=points, cache=cache, expert_tier=question.tier,
        )  # fmt: skip
    document = found.to_dict()
    if render.print_data(question.format, document, document["crossovers"], Crossover.__slots__):
        return
    if len(found):
        render.print_table(_table(found, f"{architecture.name} on {machine.hardware} ({machine.stack.name})"))
    print(found.verdict())
    print(f"Machine constants: {found.calibration}.")
    if found.refusal:
        print(f"Not every point can be: {found.refusal}.")


def _usual(question: Question, axis: str, model: ModelArchitecture, machine: Platform) -> list[str]:
    """The designs where none is named. Raises `InvalidInput` for an engine that has one."""
    if usual_designs.asks_about_offloading(question.cache, question.tier, placement=question.placement, axes=(axis,)):
        return question.several(listed(usual_designs.OFFLOADING))
    names = question.several(usual_designs.along_axes(usual_designs.OFFLOADING, model, [machine.stack.name]))
    if len(names) < 2:
        raise InvalidInput(f"{machine.stack.name} runs {names[0]} alone whatever the memory: name others by --policies")
    return names


def _subject(
    question: Question, typed: set[str], axis: str, low: str, high: str
) -> tuple[ModelArchitecture, Platform, RoutingTrace | TraceRecipe]:
    """Model, machine and trace; a synthetic trace stays a recipe, for an axis may change what it is made of."""
    if question.trace is not None:
        from pregate.sweeps.axes import find_axis

        find_axis(axis)
        model, machine, trace = question.subject()
        from pregate.sweeps.workloads import TraceRecipe

        return model, machine, TraceRecipe(batch="max", path=question.trace) if question.fills_memory else trace
    model = question.architecture()
    _require_free(question, typed, axis)
    from pregate.routing_traces import load_popularity
    from pregate.sweeps.workloads import TraceRecipe

    recipe = TraceRecipe(
        question.input_tokens,
        question.output_tokens,
        "max" if question.fills_memory else question.n_sequences,
        question.seed,
        None,
        question.active,
        popularity=None if question.popularity is None else load_popularity(question.popularity, model=model),
    )
    if not question.yes:
        require_consent_along(model, recipe, {axis: (low, high)})
    return model, question.machine(), recipe


def _require_free(question: Question, typed: set[str], axis: str) -> None:
    """Raise `InvalidInput` for a number that varies and is `typed` too."""
    from hwmodels.specs.machine_fields import ALIASES
    from pregate.sweeps.axes import find_axis

    given = {axis for name, axis in _GIVEN_BY.items() if name in typed}
    given |= {ALIASES.get(key, key) for key in (text.partition("=")[0] for text in question.sets or ())}
    drafting = drafting_of(question.speculative)
    given |= set() if drafting is None else drafting.overrides.keys()
    if find_axis(axis) in given:
        raise InvalidInput(f"{axis} is what varies, and it is given a value too: leave out one of the two")


def _table(found: Crossovers, title: str) -> Table:
    from pregate.crossover.axis_words import axis_value

    table = render.new_table(title)
    for column in (found.axis, "best below", "best above", f"{found.metric} below", "above"):
        table.add_column(column, justify="left" if column.startswith("best") else "right")
    for row in found:
        names = [name or "nothing fits" for name in (row.below, row.above)]
        metrics = [f"{value:.4g}" if value == value else "-" for value in (row.below_metric, row.above_metric)]
        table.add_row(axis_value(found.axis, row.value), *names, *metrics)
    return table
