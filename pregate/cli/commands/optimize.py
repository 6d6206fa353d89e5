"""`pregate optimize`: the cheapest or fastest machine, policy and settings under constraints, and the Pareto front."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from hwmodels.platform import machines_of
from pregate.cli import options, usual_designs
from pregate.cli.arguments import is_typed
from pregate.cli.consent import require_consent_along
from pregate.cli.option_values import build_cache, build_model, listed
from pregate.cli.output_paths import require_picture
from pregate.cli.progress import spinner
from pregate.cli.speculative import drafting_of
from pregate.draw import render
from traces.errors import InvalidInput

if TYPE_CHECKING:
    from rich.table import Table

    from pregate.explore.optima.optimum import Optimum
    from pregate.explore.sweeps.machines import MachineRecipe
    from pregate.explore.sweeps.workloads import TraceRecipe

NOTHING_FEASIBLE = 1
"""Exit status where no point meets every constraint."""

_USUAL = "gpu_only,on_demand,pregate"
_RANGE = re.compile(r"(.+?)\.\.(.+?)(?::(linear|log))?")
_SEARCHED = (
    "model", "hardware", "policies", "axis", "trace", "batch", "input_tokens", "output_tokens", "active", "cache",
    "speculative", "tier", "stack", "dtype", "formats", "top_k",
)  # fmt: skip
"""Options that a sweep's file takes the place of."""


def optimize(
    context: typer.Context,
    model: Annotated[str | None, typer.Argument(help="Model name, YAML file or Hugging Face config.json.")] = None,
    sweep: Annotated[Path | None, typer.Option(help="Search what this file of `pregate sweep` states.")] = None,
    hardware: Annotated[
        str | None, typer.Option(help="Machines, by comma; default: all that ship and that --stack runs on.")
    ] = None,
    policies: Annotated[
        str | None, typer.Option(help=f"Designs, by comma; default: {_USUAL}, {usual_designs.OR_ENGINE}.")
    ] = None,
    axis: Annotated[
        list[str] | None,
        typer.Option(help="What varies: batch=1,2,4 or link=pcie4-x16,pcie5-x16; a range: hbm_bytes=8GB..80GB:log."),
    ] = None,
    minimize: Annotated[list[str] | None, typer.Option(help="A figure: price_usd, tpot_p99_s, ...")] = None,
    maximize: Annotated[list[str] | None, typer.Option(help="A figure: tokens_per_s, hit_rate, ...")] = None,
    subject_to: Annotated[
        list[str] | None, typer.Option(help="A constraint: tpot_p99_s<=50ms, tokens_per_s>=20, price_usd<=2000.")
    ] = None,
    method: Annotated[str, typer.Option(help="exhaustive, optuna, or auto: exhaustive where small.")] = "auto",
    trials: Annotated[int | None, typer.Option(help="Points that Optuna tries; default: 2000.", min=1)] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw the front (PNG, SVG or PDF).")] = None,
    jobs: options.Jobs = None,
    trace: options.TraceFile = None,
    batch: options.BatchOrMax = None,
    input_tokens: options.InputTokens = 256,
    output_tokens: options.OutputTokens = 256,
    active: options.Active = None,
    cache: options.CacheText = None,
    speculative: options.Speculative = None,
    tier: options.Tier = "dram",
    stack: options.Stack = None,
    dtype: options.Dtype = None,
    formats: options.Formats = None,
    top_k: options.TopK = None,
    seed: Annotated[int, typer.Option(help="Seed of synthetic traces and of Optuna.", min=0)] = 0,
    yes: options.Yes = False,
    format: options.OutputFormat = options.Format.table,
) -> None:
    """Find the cheapest or fastest machine, policy and settings that meet every constraint, and the Pareto front.

    Without --minimize and --maximize: the lowest price, then the most tokens/s. What is minimised comes first.

    Example: pregate optimize switch-base-8 --output-tokens 8 --minimize tpot_p99_s --subject-to "price_usd<=2000"
    """
    objectives = [*(f"{name}:min" for name in minimize or ()), *(f"{name}:max" for name in maximize or ())]
    if sweep is not None:
        searched = _of_file(context, sweep)
        trials = trials if trials is not None else searched.pop("n_trials", None)
    elif model is None:
        raise InvalidInput("nothing to search: name a model (`pregate models`), or a file with --sweep")
    else:
        architecture = build_model(model, dtype, top_k, formats)
        from pregate.explore.speculative import with_and_without
        from pregate.spellings.names import our_name

        stack = None if stack is None else our_name("stack", stack)

        drafting = drafting_of(speculative)
        axes, recipe = _axes(axis or (), hardware, stack, {} if drafting is None else drafting.overrides)
        engines = [] if stack is None or usual_designs.asks_about_offloading(cache, tier, axes=axes) else [stack]
        named = usual_designs.along_axes(_USUAL, architecture, engines) if policies is None else listed(policies)
        workload = _workload(trace, batch, input_tokens, output_tokens, active, seed)
        searched = {
            "model": architecture, "hw": recipe, "trace": workload, "axes": axes,
            "policies": with_and_without(named, drafting), "cache": build_cache(cache), "expert_tier": tier,
        }  # fmt: skip
    if trials is not None:
        searched["n_trials"] = trials
    if not yes:
        require_consent_along(searched["model"], searched["trace"], searched["axes"])
    if plot is not None:
        require_picture(plot)
    from pregate.explore.optima.optimize import DEFAULT_OBJECTIVES
    from pregate.explore.optima.optimize import optimize as run_optimize

    with spinner("searching") as update:
        optimum = run_optimize(
            **{"seed": seed, **searched}, objectives=objectives or DEFAULT_OBJECTIVES, constraints=subject_to or (),
            method=method, jobs=jobs, progress=lambda done, total: update(f"{done:,} of {total:,}"),
        )  # fmt: skip
    if not render.print_data(format, optimum.to_dict(), optimum.rows()):
        _print(optimum)
    if plot is not None:
        from pregate.draw.pareto_plot import draw_front

        draw_front(optimum, plot)
        typer.echo(f"wrote {plot}", err=True)
    raise typer.Exit(0 if optimum.best is not None else NOTHING_FEASIBLE)


def _of_file(context: typer.Context, path: Path) -> dict[str, Any]:
    """What a sweep's file states; a sample's ranges and number of points become ranges and trials."""
    from pregate.explore.sweeps.sweep_file import read_sweep

    typed = [name for name in context.params if is_typed(context, name)]
    for name in typed:
        if name in _SEARCHED:
            raise InvalidInput(f"--sweep {path} states what is searched: leave out {name.replace('_', '-')}")
    arguments = read_sweep(path)
    sample, draws = arguments.pop("sample"), arguments.pop("draws")
    if draws:
        raise InvalidInput(f"{path}: draws = {draws}: a search has no intervals, leave it out")
    if sample is not None:
        arguments |= {"n_trials": sample.n, "seed": sample.seed}
    return arguments | ({"seed": context.params["seed"]} if "seed" in typed else {})


def _axes(
    texts: Sequence[str], hardware: str | None, stack: str | None, overrides: dict[str, float | str]
) -> tuple[dict[str, Any], MachineRecipe]:
    """The axes of the options, machines first where there are several. Raises `InvalidInput` for other text."""
    from pregate.explore.sweeps.machines import MachineRecipe
    from pregate.spellings.names import our_name

    machines = list(machines_of(stack)) if hardware is None else [our_name("hardware", one) for one in listed(hardware)]
    if not machines:
        raise InvalidInput(
            f"--hardware {hardware!r} names no machine: leave it out for every machine that --stack runs on"
        )
    axes: dict[str, Any] = {}
    for text in texts:
        name, _, values = text.partition("=")
        match = _RANGE.fullmatch(values)
        if not name or not values:
            raise InvalidInput(f"--axis {text!r} is neither NAME=VALUE,VALUE,... nor NAME=LOW..HIGH")
        if name in axes:
            raise InvalidInput(f"--axis {name} is given twice")
        axes[name] = listed(values) if match is None else tuple(part for part in match.groups() if part)
    if "hardware" in axes and hardware is not None:
        raise InvalidInput("--hardware and --axis hardware are the same: give one")
    if "hardware" not in axes and len(machines) > 1:
        axes = {"hardware": machines, **axes}
    return axes, MachineRecipe("" if "hardware" in axes else machines[0], stack, overrides or None)


def _workload(
    path: Path | None, batch: str | None, input_tokens: int, output_tokens: int, active: int | None, seed: int
) -> TraceRecipe:
    """The trace of the options."""
    from pregate.explore.sweeps.workloads import TraceRecipe

    n: int | Literal["max"] | None = "max" if batch == "max" else None if batch is None else int(batch)
    if path is None:
        return TraceRecipe(input_tokens, output_tokens, n, seed, n_active=active)
    return TraceRecipe(path=path, batch=n)


def _print(optimum: Optimum) -> None:
    """The front as a table, the verdict, and what the figures rest on."""
    if optimum.front:
        render.print_table(_table(optimum))
    print(optimum.verdict())
    if optimum.front:
        print(f"Machine constants: {optimum.calibration}. Prices are of the accelerator alone.")


def _table(optimum: Optimum) -> Table:
    """The front, a row a candidate."""
    from pregate.explore.optima.goals import shown

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
