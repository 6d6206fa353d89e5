"""Latency of requests that queue, over the rate at which they arrive."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from pregate.draw.palette import SeriesStyle, styles_of
from pregate.draw.style import SOFT, bare, log_axis, picture
from traces.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from pregate.economics.arrival_report import ArrivalReport, UnderArrivals


_APART = 1.03
"""Designs of one rate stand so far beside each other, a factor, that their intervals can be told apart."""

_PANELS = {
    "ttft_s": ("p99 TTFT (s)", 1.0),
    "tpot_s": ("p99 TPOT (ms)", 1e3),
}


@picture
def latency_by_rate(report: ArrivalReport) -> Figure:
    """p99 TTFT and p99 TPOT of each design over requests a second, logarithmic; upright: 95 % intervals, an arrow where
    the queue may grow.

    A line ends before its queue grows, at the dotted line of its colour. A broken line across is the promise. Raises
    `InvalidInput` where every queue grows at every rate.
    """
    from matplotlib.figure import Figure

    if all(row.grows for row in report.rows):
        raise InvalidInput(f"nothing to draw: {' '.join(report.verdict()) or 'no design has the memory'}")
    figure = Figure(figsize=(11, 4.4), layout="constrained")
    panels = figure.subplots(1, len(_PANELS), sharex=True)
    names = list(dict.fromkeys(row.design for row in report.rows))
    styles = styles_of(names)
    for axes, (field, (label, factor)) in zip(panels, _PANELS.items(), strict=True):
        axes.set(xscale="log", yscale="log", xlabel="requests/s", ylabel=label)
        for i, name in enumerate(names):
            rows = sorted((row for row in report.rows if row.design == name), key=lambda row: row.requests_per_s)
            _line(axes, rows, field, factor, styles[name], _APART ** (i - (len(names) - 1) / 2))
        promised = getattr(report.promise, field)
        if promised is not None and math.isfinite(promised):
            axes.axhline(promised * factor, color=SOFT, ls="--", lw=1)
        for axis in (axes.xaxis, axes.yaxis):
            low, high = axis.get_view_interval()
            log_axis(axis, low, high, most=5)
        bare(axes)
    told = f"{report.model} on {report.hardware}; upright: 95 %; dotted: the rate from which the queue grows"
    figure.suptitle(told, x=0.01, ha="left", fontsize=11)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    return figure


def _line(
    axes: Axes, rows: Sequence[UnderArrivals], field: str, factor: float, style: SeriesStyle, beside: float
) -> None:
    """One design: its values where its queue does not grow, their intervals, and the rate from which it does."""
    found = [(row.requests_per_s * beside, getattr(row, field)[99]) for row in rows if not row.grows]
    values = [one.value * factor for _, one in found]
    axes.plot(
        [at for at, _ in found], values, style.dash, marker=style.marker, color=style.colour, label=rows[0].design
    )
    for at, one in found:
        ends = [end * factor if math.isfinite(end) else one.value * factor for end in (one.low, one.high)]
        axes.plot([at, at], ends, color=style.colour, lw=1.6, solid_capstyle="butt")
        if not math.isfinite(one.high):
            axes.annotate(
                "", (at, one.value * factor), (0, 26), textcoords="offset points",
                arrowprops={"arrowstyle": "<-", "color": style.colour, "lw": 1.6},
            )  # fmt: skip
    axes.axvline(max(row.capacity.value for row in rows), color=style.colour, ls=":", lw=1.2)
