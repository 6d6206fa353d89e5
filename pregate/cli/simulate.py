"""`pregate simulate`: one design in detail, with its timeline."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from offload.policies import policy_named
from pregate.ask.routing_source import describe_routing
from pregate.ask.simulation import describe_calibration
from pregate.ask.simulation import simulate as run_simulate
from pregate.cli import options
from pregate.draw import render
from traces.errors import InvalidInput


def simulate(
    model: options.Model,
    hardware: options.Hardware,
    policy: Annotated[
        str, typer.Option(help="Design: pregate, pregate(2), pregate:encoder, on_demand+lru:0.1.")
    ] = "pregate",
    trace: options.TraceFile = None,
    timeline: Annotated[Path | None, typer.Option(help="Write the timeline for ui.perfetto.dev (JSON).")] = None,
    gantt: Annotated[Path | None, typer.Option(help="Draw one decode step as a Gantt chart (PNG or SVG).")] = None,
    batch: options.Batch = None,
    input_tokens: options.InputTokens = 256,
    output_tokens: options.OutputTokens = 256,
    active: options.Active = None,
    popularity: options.Popularity = None,
    cache: options.CacheText = None,
    tier: options.Tier = "dram",
    engine: options.Engine = "auto",
    check: options.Check = False,
    yes: options.Yes = False,
    modes: options.ModesText = None,
    hbm: options.Hbm = None,
    sets: options.Sets = None,
    stack: options.Stack = None,
    dtype: options.Dtype = None,
    top_k: options.TopK = None,
    seed: options.Seed = 0,
    format: options.OutputFormat = options.Format.table,
) -> None:
    """Simulate one design op by op and write its timeline.

    Example: pregate simulate switch-base-8 --hardware a100-sxm4-80gb --output-tokens 8 --timeline out.json
    """
    if engine == "stream" and (timeline is not None or gantt is not None):
        raise InvalidInput(
            "--engine stream keeps no timeline: leave out --timeline and --gantt, or take another engine"
        )
    if gantt is not None:
        options.require_picture(gantt)
    if timeline is not None:
        options.require_folder(timeline)
    if gantt is not None and gantt == timeline:
        raise InvalidInput(f"--timeline and --gantt are both {gantt}: name two files")
    chosen = policy_named(policy)
    architecture = options.build_model(model, dtype, top_k)
    machine = options.build_machine(hardware, stack, hbm, sets)
    workload = options.build_trace(
        architecture, trace, batch=batch, input_tokens=input_tokens, output_tokens=output_tokens, active=active,
        seed=seed, popularity=popularity, yes=yes,
    )  # fmt: skip
    architecture = options.as_recorded(architecture, workload, dtype)
    with options.spinner("simulating") as update:
        update(policy)
        result = run_simulate(
            architecture,
            machine,
            workload,
            chosen,
            cache=options.build_cache(cache),
            expert_tier=tier,
            engine=engine,
            modes=options.build_modes(modes),
            check=check,
            timeline=True if timeline is not None or gantt is not None else None,
        )
        if timeline is not None and result.timeline is not None:
            from pregate.draw.perfetto import write_trace

            update(f"writing {timeline}")
            write_trace(result.timeline, timeline)
        if gantt is not None and result.timeline is not None:
            from pregate.draw.timelines import gantt as draw

            update(f"drawing {gantt}")
            draw({result.policy: result.timeline}, gantt)
    if not render.print_data(format, result.to_dict(), [result.to_dict()]):
        render.print_table(render.result_table(result))
        print(f"Machine constants: {describe_calibration(machine, architecture, [result])}.")
        print(f"Routing: {describe_routing(architecture, workload, [result])}.")
        if check:
            print(options.CHECKED)
    for path in (timeline, gantt):
        if path is not None:
            typer.echo(f"wrote {path}", err=True)
