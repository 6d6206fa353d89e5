"""A comparison as bars: how fast each design is, how long a token takes, and the HBM it needs."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from pregate.ask.comparison import Comparison
from pregate.ask.simulation import SimulationResult
from pregate.draw.palette import styles_of
from pregate.draw.render import si
from pregate.draw.style import INK, SOFT, bare, picture
from traces.errors import InvalidInput

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


_PANELS = {
    "tokens_per_s": ("tokens/s, prompt included; line: 95 %", 1.0, ""),
    "tpot_s": ("time per output token (ms)", 1e3, "s"),
    "peak_hbm_bytes": ("peak HBM (GB)", 1e-9, "B"),
}


@picture
def bars(comparison: Comparison) -> Figure:
    """Tokens a second, time per output token and peak HBM of each design; a line: its 95 % interval.

    What does not fit has no bar and says what it would need. Raises `InvalidInput` when nothing fits.
    """
    from matplotlib.figure import Figure

    if not comparison.results:
        raise InvalidInput(f"nothing to draw: {comparison.verdict()}")
    n = len(comparison.order)
    figure = Figure(figsize=(11, 1.2 + 0.42 * n), layout="constrained")
    panels = figure.subplots(1, len(_PANELS), sharey=True)
    for axes, (metric, (title, factor, unit)) in zip(panels, _PANELS.items(), strict=True):
        _panel(axes, comparison, metric, factor, unit)
        axes.set_xlabel(title)
    panels[0].set_yticks(range(n), comparison.order)
    panels[0].set_ylim(n - 0.4, -0.6)
    return figure


def _panel(axes: Axes, comparison: Comparison, metric: str, factor: float, unit: str) -> None:
    results = {result.policy: result for result in comparison}
    needed = {one.policy: one.needed_bytes for one in comparison.unfit}
    styles = styles_of(comparison.order)
    for row, name in enumerate(comparison.order):
        if name not in results:
            told = f"does not fit, needs {si(needed[name], 'B')}" if metric == "tokens_per_s" else "-"
            axes.annotate(told, (0, row), (4, 0), textcoords="offset points", va="center", fontsize=8, color=SOFT)
            continue
        value = float(getattr(results[name], metric))
        style = styles[name]
        axes.barh(row, value * factor, 0.62, color=style.colour, hatch=style.hatch, edgecolor="white", lw=0)
        ends = _interval(results[name], metric)
        if ends is not None:
            axes.plot([end * factor for end in ends], [row, row], color=INK, lw=1.6, solid_capstyle="butt")
        furthest = max(value, ends[1] if ends else value) * factor
        said = si(value, unit) if unit else f"{value:.4g}"
        axes.annotate(said, (furthest, row), (4, 0), textcoords="offset points", va="center", fontsize=8)
    axes.margins(x=0.28)
    axes.set_xlim(left=0)
    axes.tick_params(axis="y", length=0)
    bare(axes, "x")
    axes.spines["left"].set_visible(False)


def _interval(result: SimulationResult, metric: str) -> tuple[float, float] | None:
    ends = result.tokens_per_s_ci95 if metric == "tokens_per_s" else None
    return None if ends is None or not all(map(math.isfinite, ends)) else (ends[0], ends[1])
