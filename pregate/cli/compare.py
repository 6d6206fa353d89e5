"""`pregate compare`: several designs on one workload and machine, one table."""

from __future__ import annotations

from typing import Annotated

import typer

from offload.policies import policy_named
from pregate.ask.comparison import compare as run_compare
from pregate.ask.routing_source import describe_routing
from pregate.cli import options
from pregate.draw import render

NOTHING_FITS = 1
"""Exit status where no design fits the machine."""

DEFAULT_POLICIES = "gpu_only,on_demand,prefetch_all,pregate"


def compare(
    model: options.Model,
    hardware: options.Hardware,
    trace: options.TraceFile = None,
    policies: Annotated[
        str, typer.Option(help="Designs, comma-separated: pregate, pregate(2), pregate:encoder, on_demand+lru:0.1.")
    ] = DEFAULT_POLICIES,
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
    """Compare designs: MoE-layer latency, tokens/s, TTFT, TPOT, HBM, link traffic; who wins and what binds it.

    Example: pregate compare switch-base-128 --hardware a100-sxm4-80gb
    """
    chosen = [policy_named(name).name for name in policies.split(",") if name.strip()]
    architecture = options.build_model(model, dtype, top_k)
    machine = options.build_machine(hardware, stack, hbm, sets)
    workload = options.build_trace(
        architecture, trace, batch=batch, input_tokens=input_tokens, output_tokens=output_tokens, active=active,
        seed=seed, popularity=popularity, yes=yes,
    )  # fmt: skip
    architecture = options.as_recorded(architecture, workload, dtype)
    with options.spinner("simulating") as update:
        comparison = run_compare(
            architecture,
            machine,
            workload,
            chosen,
            cache=options.build_cache(cache),
            expert_tier=tier,
            engine=engine,
            modes=options.build_modes(modes),
            check=check,
            progress=update,
        )
    document = comparison.to_dict()
    unfit = [row | {"fits": False} for row in document["does_not_fit"]]
    if render.print_data(format, document, document["results"] + unfit):
        raise typer.Exit(0 if comparison.results else NOTHING_FITS)
    title = f"{architecture.name} on {machine.hardware} ({machine.stack.name}), batch {max(workload.batch, 1)}"
    render.print_table(render.comparison_table(comparison, title))
    print(comparison.verdict())
    print("Tokens/s are output tokens over the whole run, prompt included.")
    print(f"Machine constants: {comparison.calibration}.")
    print(f"Routing: {describe_routing(architecture, workload, comparison)}.")
    if check:
        print(options.CHECKED)
    raise typer.Exit(0 if comparison.results else NOTHING_FITS)
