"""`pregate residency`: hit rates of expert caches by pure replay."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pregate.cli import options
from pregate.cli.built import distinct
from pregate.cli.progress import spinner
from pregate.draw import render
from traces.errors import InvalidInput

if TYPE_CHECKING:
    from rich.table import Table

    from pregate.ask.replay import Residency


def residency(
    trace: Annotated[Path, typer.Argument(help="Routing trace, or a recording pregate can import.")],
    policies: Annotated[
        str, typer.Option(help="lru, lfu, layer, layerlfu, belady, random; comma-separated.")
    ] = "lru,lfu,layer,layerlfu,belady",
    budgets_mib: Annotated[
        str, typer.Option(help="Budgets in MiB of expert bytes, comma-separated.")
    ] = "250,500,1000,2000,4000,8000",
    expert_bytes: Annotated[int | None, typer.Option(help="Bytes of one expert, where the trace has none.")] = None,
    seed: options.Seed = 0,
    format: options.OutputFormat = options.Format.table,
) -> None:
    """Replay a trace through expert caches, without timing: hit rates and bytes read by budget and policy.

    Example: pregate residency trace.safetensors --policies lru,belady --budgets-mib 500,1000 --format csv
    """
    chosen = distinct(policies, "--policies")
    sizes = [_mib(text) for text in distinct(budgets_mib, "--budgets-mib")]
    from pregate.api import load_trace

    recorded = load_trace(trace)
    from pregate.ask.replay import residency as run_residency

    with spinner("replaying"):
        found = run_residency(recorded, chosen, sizes, expert_bytes=expert_bytes, seed=seed)
    if format is options.Format.csv:
        typer.echo(found.to_csv(), nl=False)
    elif format is options.Format.json:
        render.print_json(found.to_dict())
    else:
        render.print_table(_table(found, str(trace)))


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
