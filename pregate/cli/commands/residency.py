"""`pregate residency`: hit rates of expert caches by pure replay."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pregate.cli import options
from pregate.cli.option_values import build_cache, distinct
from pregate.cli.output_paths import require_picture, say_written
from pregate.cli.progress import spinner
from pregate.draw import render
from traces.errors import InvalidInput

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.table import Table

    from pregate.ask.replays.cache_hits import CacheHits
    from pregate.ask.replays.replay import Residency


def residency(
    trace: Annotated[str, typer.Argument(help="Routing trace: a name, a file, or a recording pregate can import.")],
    caches: Annotated[
        str | None,
        typer.Option(
            help="Caches as policies name them, such as lru:per_layer,mrs:pooled; by comma. All where left out."
        ),
    ] = None,
    capacity: Annotated[
        str | None, typer.Option(help="Shares of all experts (0.25), slots (64) or k (top-k a layer); by comma.")
    ] = None,
    keep: Annotated[
        bool, typer.Option("--keep", help="One cache for all requests, not an empty one for each.")
    ] = False,
    serial: Annotated[bool, typer.Option("--serial", help="Look experts up one by one, as some replays do.")] = False,
    train: Annotated[
        float | None,
        typer.Option(help="Share of the requests that popular experts are counted on; judged on the others."),
    ] = None,
    policies: Annotated[
        str | None, typer.Option(help="By bytes: lru, lfu, layer, layerlfu, belady, random; comma-separated.")
    ] = None,
    budgets_mib: Annotated[
        str | None, typer.Option(help="By bytes: budgets in MiB of expert bytes, comma-separated.")
    ] = None,
    expert_bytes: Annotated[int | None, typer.Option(help="Bytes of one expert, where the trace has none.")] = None,
    seed: options.Seed = 0,
    format: options.OutputFormat = options.Format.table,
    plot: Annotated[Path | None, typer.Option(help="Picture of hit rates by capacity: .png, .svg or .pdf.")] = None,
) -> None:
    """Replay a trace through expert caches, without timing: hit rates, and what Belady would add, by capacity.

    With --policies or --budgets-mib by bytes, as a published phone engine does (docs/residency.md).

    Example: pregate residency trace.safetensors --caches lru:per_layer,lfru:pooled,belady:pooled --capacity k,0.25,0.5

    Example: pregate residency trace.safetensors --policies lru,belady --budgets-mib 500,1000 --format csv
    """
    by_bytes, in_slots = policies is not None or budgets_mib is not None, caches is not None or capacity is not None
    if by_bytes and (in_slots or keep or serial or train is not None):
        raise InvalidInput(
            "--policies and --budgets-mib replay by bytes: leave --caches, --capacity, --keep, --serial and --train out"
        )
    if plot is not None:
        require_picture(plot)
    found: Residency | CacheHits
    if by_bytes:
        found = _by_bytes(trace, policies, budgets_mib, expert_bytes, seed)
    else:
        how = {"keep": keep, "serial": serial, "train": train, "expert_bytes": expert_bytes, "seed": seed}
        found = _in_slots(trace, caches, capacity, how)
    _print(found, format, trace)
    if plot is not None:
        from pregate.draw.style import save_figure

        save_figure(_curves(found), plot)
        say_written(plot)


BY_BYTES, BUDGETS = "lru,lfu,layer,layerlfu,belady", "250,500,1000,2000,4000,8000"


def _by_bytes(
    trace: str, policies: str | None, budgets_mib: str | None, expert_bytes: int | None, seed: int
) -> Residency:
    """The replay by bytes, of what is typed or all there is."""
    chosen = distinct(BY_BYTES if policies is None else policies, "--policies")
    sizes = [_mib(text) for text in distinct(BUDGETS if budgets_mib is None else budgets_mib, "--budgets-mib")]
    from pregate.routing_traces import load_trace

    recorded = load_trace(trace)
    from pregate.ask.replays.replay import residency

    with spinner("replaying"):
        return residency(recorded, chosen, sizes, expert_bytes=expert_bytes, seed=seed)


def _in_slots(trace: str, caches: str | None, capacity: str | None, how: dict[str, Any]) -> CacheHits:
    """The replay in slots, of what is typed or all there is; `how` as of `cache_hits`."""
    asked = [] if caches is None else distinct(caches, "--caches")
    for name in asked:
        build_cache(name)
    capacities = [] if capacity is None else distinct(capacity, "--capacity")
    from pregate.routing_traces import load_trace

    recorded = load_trace(trace)
    from pregate.ask.replays.cache_hits import CACHES, CAPACITIES, cache_hits

    with spinner("replaying"):
        return cache_hits(recorded, asked or CACHES, capacities or CAPACITIES, **how)


def _curves(found: Residency | CacheHits) -> Figure:
    """The picture of either replay."""
    from pregate.ask.replays.replay import Residency
    from pregate.draw.hit_rates import hit_curves
    from pregate.draw.trace_plots import residency_curves

    return residency_curves(found) if isinstance(found, Residency) else hit_curves(found)


def _print(found: Residency | CacheHits, format: options.Format, title: str) -> None:
    if format is options.Format.csv:
        typer.echo(found.to_csv(), nl=False)
    elif format is options.Format.json:
        render.print_json(found.to_dict())
    else:
        from pregate.ask.replays.replay import Residency

        render.print_table(_table(found, title) if isinstance(found, Residency) else _hits_table(found, title))


def _hits_table(found: CacheHits, title: str) -> Table:
    table = render.new_table(f"Caches on {title}", "\n".join(found.notes))
    table.add_column("capacity", justify="right")
    table.add_column("slots", justify="right")
    table.add_column("cache")
    columns = ["hits", "in decode", "to Belady", "worst request", "best"]
    sized = any(row.read_mib is not None for row in found)
    for column in (*columns, *(["read"] if sized else [])):
        table.add_column(column, justify="right")
    for row in found:
        rates = (row.hit_rate, row.decode_hit_rate, row.to_belady, row.worst_request, row.best_request)
        read = [] if row.read_mib is None else [f"{row.read_mib:.0f} MiB"]
        table.add_row(row.capacity, str(row.n_slots), row.cache, *(f"{100 * rate:.1f} %" for rate in rates), *read)
    return table


def _mib(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise InvalidInput(f"--budgets-mib: {text!r} is not a number of MiB") from None


def _table(rows: Residency, title: str) -> Table:
    table = render.new_table(f"Residency of {title}")
    table.add_column("budget", justify="right")
    table.add_column("policy")
    for column in ("hits", "hits in decode", "read"):
        table.add_column(column, justify="right")
    for row in rows:
        table.add_row(
            f"{row.budget_mib:g} MiB", row.policy, f"{row.hit_pct_cum:.2f} %", f"{row.hit_pct_decode:.2f} %",
            f"{row.read_mib:.0f} MiB",
        )  # fmt: skip
    return table
