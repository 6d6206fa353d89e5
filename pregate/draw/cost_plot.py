"""What designs cost, with the range that the assumptions leave."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from pregate.draw.palette import styles_of
from pregate.draw.style import INK, bare, picture
from traces.errors import InvalidInput

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from pregate.economics.costing import CostReport


_PANELS = {
    "per_million_tokens": "US$ per million output tokens",
    "joules_per_token": "joules per output token, at the wall",
    "total": "US$ over the period, engineering included",
}


@picture
def cost_ranges(report: CostReport) -> Figure:
    """Money per token, energy per token and the total of each design: the middle, and 95 % of the draws as a line.

    Raises `InvalidInput` when no design serves the requests.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    if not report.designs:
        raise InvalidInput(f"nothing to draw: {report.verdict()}")
    names = [design.served.design for design in report.designs]
    styles = styles_of(names)
    figure = Figure(figsize=(11, 1.2 + 0.42 * len(names)), layout="constrained")
    panels = figure.subplots(1, len(_PANELS), sharey=True)
    for axes, (field, title) in zip(panels, _PANELS.items(), strict=True):
        for row, design in enumerate(report.designs):
            found = getattr(design, field)
            if not math.isfinite(found.value):
                continue
            style = styles[names[row]]
            axes.plot([found.low, found.high], [row, row], color=style.colour, lw=3, solid_capstyle="butt")
            axes.plot([found.value], [row], style.marker, color=style.colour, mec=INK, ms=7)
            axes.annotate(
                _shown(found.value), (found.value, row), (0, 6), textcoords="offset points", ha="center", fontsize=8
            )
        axes.set_xlabel(title)
        axes.set_xlim(left=0)
        axes.margins(x=0.1)
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.xaxis.set_major_formatter("{x:,g}")
        axes.tick_params(axis="y", length=0)
        bare(axes, "x")
        axes.spines["left"].set_visible(False)
    panels[0].set_yticks(range(len(names)), names)
    panels[0].set_ylim(len(names) - 0.4, -0.7)
    return figure


def _shown(value: float) -> str:
    """Three digits, in full."""
    return f"{float(f'{value:.3g}'):,.0f}" if value >= 1000 else f"{value:.3g}"
