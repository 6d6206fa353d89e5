"""`pregate residency`: hit rates of expert caches by pure replay."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from offload.replay import CurveRow, curve_csv
from pregate import api, render
from pregate.commands import options
from traces.errors import InvalidInput


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
    chosen = [name.strip() for name in policies.split(",") if name.strip()]
    sizes = [_number(text) for text in budgets_mib.split(",") if text.strip()]
    with options.spinner("replaying"):
        rows = api.residency(api.load_trace(trace), chosen, sizes, expert_bytes=expert_bytes, seed=seed)
    if format is options.Format.csv:
        typer.echo(curve_csv(rows), nl=False)
    elif format is options.Format.json:
        render.print_json([_as_dict(row) for row in rows])
    else:
        render.print_table(_table(rows, str(trace)))


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise InvalidInput(f"--budgets-mib: {text.strip()!r} is not a number of MiB") from None


def _as_dict(row: CurveRow) -> dict[str, object]:
    names = ("budget_mib", "policy", "hit_pct_cum", "hit_pct_decode", "read_mib")
    return {name: getattr(row, name) for name in names}


def _table(rows: list[CurveRow], title: str) -> Table:
    table = Table(title=f"Residency of {title}", title_justify="left")
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
