"""`pregate run`: one design executed for real on this machine, with its timeline."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from hwmodels.platform import load_platform
from offload.policies import policy_named
from pregate import extras
from pregate.cli import options
from pregate.cli.device import DeviceOptions
from pregate.cli.option_groups import takes
from pregate.cli.option_values import build_model, build_trace
from pregate.cli.output_paths import require_timelines, say_written, write_timelines
from pregate.cli.progress import spinner
from pregate.cli.question import placed_by_counts
from pregate.draw import render
from traces.errors import InvalidInput

if TYPE_CHECKING:
    from rich.table import Table

    from pregate.running.measured_run import RunResult


@takes("device", DeviceOptions)
def run(
    *,
    model: options.Model,
    policy: options.Policy = "pregate",
    trace: options.TraceFile = None,
    device: DeviceOptions,
    chunk: Annotated[str | None, typer.Option(help="CUDA: copy experts in parts of this size, such as 1MiB.")] = None,
    graphs: options.Graphs = False,
    repeats: Annotated[int, typer.Option(min=1, help="Runs; medians are printed.")] = 1,
    warmup: Annotated[
        bool | None,
        typer.Option("--warmup/--no-warmup", help="One run first that does not count; default: with --repeats."),
    ] = None,
    timeline: options.TimelineFile = None,
    hardware: Annotated[
        str | None, typer.Option("--fit", help="A fit: what it predicts stands over the real run in --timeline.")
    ] = None,
    gantt: options.Gantt = None,
    batch: options.Batch = None,
    input_tokens: options.InputTokens = 256,
    output_tokens: options.OutputTokens = 256,
    active: options.Active = None,
    popularity: options.Popularity = None,
    cache: options.CacheText = None,
    dtype: options.Dtype = None,
    top_k: options.TopK = None,
    seed: options.Seed = 0,
    yes: options.Yes = False,
    format: options.OutputFormat = options.Format.table,
) -> None:
    """Execute one design for real on this machine: random weights of the true shapes, the trace's routing.

    Example: pregate run switch-mini-16 --backend cpu --link 2GB/s --output-tokens 8 --timeline out.json
    """
    extras.require_torch()
    require_timelines(timeline, gantt)
    device.check()
    policy_named(policy)
    if hardware is not None and timeline is None:
        raise InvalidInput("--fit draws a prediction over the run: say into which file, --timeline out.json")
    machine = None if hardware is None else load_platform(hardware)
    architecture = build_model(model, dtype, top_k)
    workload = build_trace(
        architecture, trace, batch=batch, input_tokens=input_tokens, output_tokens=output_tokens, active=active,
        seed=seed, popularity=popularity, yes=yes,
    )  # fmt: skip
    (chosen,), placed = placed_by_counts([policy], cache, popularity, architecture, synthetic=trace is None)
    from pregate.draw.perfetto import simulated_again, write_comparison
    from pregate.running.measured_run import run as run_for_real

    with spinner("running") as update:
        result = run_for_real(
            architecture,
            workload,
            chosen,
            device=device.device(chunk, graphs),
            cache=placed,
            expert_tier=device.tier,
            repeats=repeats,
            warmup=warmup,
            say=update,
        )
        write_timelines(result.timeline, result.policy, None if machine else timeline, gantt, update)
        if machine is not None and timeline is not None:
            update(f"writing {timeline}")
            write_comparison(simulated_again(result.timeline, machine), result.timeline, timeline)
    _print(result, format)
    say_written(timeline, gantt)


def _print(result: RunResult, format: str) -> None:
    """The figures on standard output; what makes them doubtful on standard error."""
    if not render.print_data(format, result.to_dict(), [result.to_row()]):
        render.print_table(_table(result))
    if result.disturbance is not None:
        typer.echo(f"warning: these times are of a busy machine: {result.disturbance}", err=True)
    elif result.n_disturbed:
        whole = result.n_runs + result.n_disturbed
        typer.echo(f"{result.n_disturbed} of {whole} runs do not count: the machine was busy", err=True)


def _table(result: RunResult) -> Table:
    table = render.new_table(f"{result.policy}: {result.model} run on {result.device}")
    table.add_column("figure")
    table.add_column("value", justify="right")
    for name, value in result.to_row().items():
        table.add_row(name, _shown(name, value))
    return table


def _shown(name: str, value: object) -> str:
    if isinstance(value, float):
        return render.si(value, "s") if name.endswith("_s") and not name.endswith("per_s") else f"{value:.4g}"
    if isinstance(value, int) and "_bytes" in name:
        return render.si(value, "B")
    return "-" if value is None else str(value)
