"""`pregate monitor`: windows of a running service's routing against a reference."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pregate.cli import options
from pregate.cli.progress import spinner
from pregate.draw import render
from traces.errors import InvalidInput

if TYPE_CHECKING:
    from rich.table import Table

    from pregate.monitoring.report import MonitorReport, ServedDesign

ALERTS = 1
"""Exit status where a window is an alert."""


def monitor(
    traces: Annotated[list[Path], typer.Argument(help="Windows of routing, in order of time: names or files.")],
    reference: Annotated[Path, typer.Option(help="The routing that the placement was chosen on: a name or a file.")],
    model: Annotated[str | None, typer.Option(help="The model that is served, for stalls and hits.")] = None,
    hardware: Annotated[str | None, typer.Option(help="The machine that serves it.")] = None,
    policy: Annotated[str | None, typer.Option(help="The design that serves it; default: pregate.")] = None,
    held: Annotated[float, typer.Option(help="Share of a layer's experts that HBM holds.")] = 0.25,
    alpha: Annotated[float, typer.Option(help="False alarms, over all windows and tests.")] = 0.01,
    hit_rate_loss: Annotated[float, typer.Option(help="Alert where a hit rate is this share lower.")] = 0.05,
    stall_rise: Annotated[float, typer.Option(help="Alert where stalls take this share more of the time.")] = 0.05,
    permutations: Annotated[
        int | None, typer.Option(help="Random exchanges that p-values come from; default: what alpha needs, or 999.")
    ] = None,
    seed: options.Seed = 0,
    format: options.OutputFormat = options.Format.table,
) -> None:
    """Watch a service after launch: skew, hits, stalls, cold experts, drift of routing, and what to do. Alerts exit 1.

    Example: pregate monitor today.safetensors --reference at-launch.safetensors
    """
    names = [str(path) for path in traces]
    if len(set(names)) < len(names):
        raise InvalidInput(f"{max(names, key=names.count)} is given twice: each window once")
    from pregate.monitoring.alerts import Thresholds
    from pregate.monitoring.report import monitor as run_monitor
    from pregate.routing_traces import load_trace

    limits = Thresholds(alpha, hit_rate_loss, stall_rise)
    design = _design(model, hardware, policy)
    with spinner("comparing"):
        report = run_monitor(
            {str(path): load_trace(path) for path in traces},
            load_trace(reference),
            reference_name=str(reference),
            design=design,
            held=held,
            thresholds=limits,
            n_permutations=permutations,
            seed=seed,
        )
    if not render.print_data(format, report.to_dict(), _rows(report)):
        render.print_table(_table(report))
        _print_alerts(report)
    raise typer.Exit(ALERTS if report.alerts else 0)


def _design(model: str | None, hardware: str | None, policy: str | None) -> ServedDesign | None:
    if (model is None) != (hardware is None) or (policy is not None and model is None):
        raise InvalidInput("stalls need --model and --hardware together: give both, or neither and no --policy")
    if model is None or hardware is None:
        return None
    from pregate.cli.option_values import build_machine, build_model
    from pregate.monitoring.report import ServedDesign

    return ServedDesign(build_model(model, None, None), build_machine(hardware, None, None, None), policy or "pregate")


def _rows(report: MonitorReport) -> list[dict[str, object]]:
    return [
        {
            "window": window.name,
            "tokens": window.figures.n_tokens,
            "sequences": window.figures.n_sequences,
            "distance": window.drift.distance,
            "by_chance": window.drift.by_chance,
            "p_value": window.drift.p_value,
            "skew": window.figures.skew,
            "static_hit_rate": window.placement.hit_rate,
            "static_hit_rate_by_chance": window.placement.by_chance,
            "lru_hit_rate": window.figures.lru_hit_rate,
            "colder": len(window.drift.colder),
            "hotter": len(window.drift.hotter),
            "stall_share": None if window.simulated is None else window.simulated.stall_share,
            "alerts": len(window.alerts),
        }
        for window in report.windows
    ]


def _table(report: MonitorReport) -> Table:
    served = report.reference_simulated is not None
    table = render.new_table(f"Windows against {report.reference}")
    table.add_column("window")
    columns = ("tokens", "distance", "by chance", "p", "skew", "static hits", "unmoved", "LRU hits", "cold / hot")
    for column in (*columns, *(("stalled",) if served else ()), "alerts"):
        table.add_column(column, justify="right")
    first = report.reference_figures
    start = [f"{first.n_tokens}", "", "", "", f"{first.skew:.2f}"]
    start += [f"{first.static_hit_rate:.1%}", "", f"{first.lru_hit_rate:.1%}", ""]
    if report.reference_simulated is not None:
        start.append(f"{report.reference_simulated.stall_share:.1%}")
    table.add_row("reference", *start, "")
    for window in report.windows:
        now, drift = window.figures, window.drift
        cells = [f"{now.n_tokens}", f"{drift.distance:.3f}", f"{drift.by_chance:.3f}", f"{drift.p_value:.3g}"]
        cells += [f"{now.skew:.2f}", f"{window.placement.hit_rate:.1%}", f"{window.placement.by_chance:.1%}"]
        cells.append(f"{now.lru_hit_rate:.1%}")
        cells.append(f"{len(drift.colder)} / {len(drift.hotter)}")
        if window.simulated is not None:
            cells.append(f"{window.simulated.stall_share:.1%}")
        table.add_row(window.name, *cells, f"{len(window.alerts)}")
    return table


def _print_alerts(report: MonitorReport) -> None:
    for alert in report.alerts:
        print(f"{alert.window}: {alert.what}.")
        print(f"  To do: {alert.to_do}.")
    if not report.alerts:
        print("No alert: nothing moved further than chance moves it, and what is held is still asked for.")
    if any(not window.drift.by_sequence for window in report.windows):
        print("Fewer than five sequences: blocks of tokens were exchanged, which are alike, so p is too small.")
