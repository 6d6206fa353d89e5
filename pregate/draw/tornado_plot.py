"""What each number of a machine does to a metric, the widest bar on top. matplotlib is loaded on first use."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pregate.draw.metric_words import metric_words
from pregate.draw.palette import PALETTE
from pregate.draw.style import SOFT, bare, picture, save_figure
from traces.errors import check_least

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from pregate.ask.explanation import Explanation


_SEEN = 1 / 200
"""The least bar, of the widest: about two pixels."""

_SIDES = {"low": ("a tenth less", PALETTE[3], ""), "high": ("a tenth more", PALETTE[0], "///")}


@picture
def tornado(explanation: Explanation, path: str | Path | None = None, *, n_bars: int = 12) -> Figure:
    """What a tenth less and a tenth more of each number does to the metric, the `n_bars` that matter most.

    In per cent of the metric, each recomputed with all other numbers as they are; one too narrow to be seen beside the
    widest has no bar. Saved to `path` (PNG, SVG or PDF) when given. Raises `InvalidInput` for fewer than one bar,
    `InvalidFile` when `path` cannot be written.
    """
    from matplotlib.figure import Figure

    check_least("n_bars", n_bars, 1)
    widest = max((swing.span for swing in explanation.swings.values()), default=0.0)
    moved = {key: swing for key, swing in explanation.swings.items() if swing.span > _SEEN * widest}
    order = sorted(moved, key=lambda key: -moved[key].span)[:n_bars]
    figure = Figure(figsize=(9, 1.4 + 0.36 * len(order)), layout="constrained")
    axes = figure.subplots()
    for side, (said, colour, hatch) in _SIDES.items():
        changes = [100 * (getattr(moved[key], side) / explanation.value - 1) for key in order]
        axes.barh(
            range(len(order)), changes, color=colour, label=said, height=0.7, hatch=hatch, edgecolor="white", lw=0
        )  # fmt: skip
    axes.axvline(0, color=SOFT, lw=1)
    axes.set_yticks(range(len(order)), order)
    axes.set_ylim(len(order) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel(f"change of {metric_words(explanation.metric)} (%)")
    axes.set_title(f"{explanation.result.policy} on {explanation.result.hardware}", loc="left", fontsize=11)
    bare(axes, "x")
    axes.spines["left"].set_visible(False)
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    if path is not None:
        save_figure(figure, path)
    return figure
