"""`pregate crossover`: where another design becomes the best along one axis."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table

from pregate.cli import options
from pregate.draw import render
from pregate.explore.crossover import Crossovers, crossovers, shown
from pregate.explore.sweeps.workloads import TraceRecipe
from traces.routing import RoutingTrace

_AXIS_HELP = (
    "What varies: a hardware number (link.h2d_bytes_per_s, hbm_bytes, stack.sync_s), batch, input_tokens, "
    "output_tokens, n_active, top_k, lookahead or cache_ratio; it takes the place of the option."
)


def crossover(
    model: options.Model,
    hardware: options.Hardware,
    axis: Annotated[str, typer.Option(help=_AXIS_HELP)],
    from_: Annotated[str, typer.Option("--from", help="Its lowest value, SI or with a unit: 4e9, 4GB/s, 1.")],
    to: Annotated[str, typer.Option(help="Its highest value.")],
    policies: Annotated[str, typer.Option(help="Designs, by comma.")] = "gpu_only,on_demand,prefetch_all,pregate",
    metric: Annotated[
        str, typer.Option(help="makespan_s, tokens_per_s, ttft_s, tpot_s or moe_layer_latency_s.")
    ] = "tokens_per_s",
    points: Annotated[int, typer.Option(help="Points of the scan that finds brackets.")] = 33,
    trace: options.TraceFile = None,
    batch: options.Batch = None,
    input_tokens: options.InputTokens = 256,
    output_tokens: options.OutputTokens = 256,
    active: options.Active = None,
    cache: options.CacheText = None,
    tier: options.Tier = "dram",
    hbm: options.Hbm = None,
    sets: options.Sets = None,
    stack: options.Stack = None,
    dtype: options.Dtype = None,
    top_k: options.TopK = None,
    seed: options.Seed = 0,
    format: options.OutputFormat = options.Format.table,
) -> None:
    """Find where another design becomes the best along one axis, to 0.1 %, or to the unit of a count.

    Example: pregate crossover switch-base-8 --hardware a100-sxm4-80gb --axis hbm_bytes --from 2GB --to 80GB
    """
    architecture = options.build_model(model, dtype, top_k)
    machine = options.build_machine(hardware, stack, hbm, sets)
    workload: RoutingTrace | TraceRecipe = TraceRecipe(input_tokens, output_tokens, batch, seed, None, active)
    if trace is not None:
        workload = options.build_trace(
            architecture, trace, batch=batch, input_tokens=input_tokens, output_tokens=output_tokens, active=active,
            seed=seed,
        )  # fmt: skip
        architecture = options.as_recorded(architecture, workload, dtype)
    chosen = [name.strip() for name in policies.split(",") if name.strip()]
    with options.spinner("searching") as update:
        update(axis)
        found = crossovers(
            architecture, machine, workload, chosen, axis, from_, to,
            metric=metric, n_scan=points, cache=options.build_cache(cache), expert_tier=tier,
        )  # fmt: skip
    document = found.to_dict()
    if render.print_data(format, document, document["crossovers"]):
        return
    if len(found):
        render.print_table(_table(found, f"{architecture.name} on {machine.hardware} ({machine.stack.name})"))
    print(found.verdict())
    print(f"Machine constants: {found.calibration}.")
    if found.refusal:
        print(f"Not every point can be: {found.refusal}.")


def _table(found: Crossovers, title: str) -> Table:
    table = Table(title=title, title_justify="left")
    for column in (found.axis, "best below", "best above", f"{found.metric} below", "above"):
        table.add_column(column, justify="left" if column.startswith("best") else "right")
    for row in found:
        names = [name or "nothing fits" for name in (row.below, row.above)]
        metrics = [f"{value:.4g}" if value == value else "-" for value in (row.below_metric, row.above_metric)]
        table.add_row(shown(row.value), *names, *metrics)
    return table
