"""Who wins along an axis, and where that changes: one strip, a stretch a winner."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pregate.crossover.axis_words import axis_label, axis_value, scale_of
from pregate.crossover.crossover import Crossovers
from pregate.draw.metric_words import metric_words
from pregate.draw.palette import styles_of
from pregate.draw.style import bare, log_axis, picture
from traces.errors import InvalidInput

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


_NOTHING = "nothing fits"
_STEP_IN = 0.05
"""Of the strip's length: two changes that lie closer are named on different lines."""


@picture
def winners(*found: Crossovers) -> Figure:
    """A strip for each search along the same axis, its changes of winner named above it, in the axis's unit.

    Raises `InvalidInput` for none, or for searches along several axes.
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    axes_of = list(dict.fromkeys(one.axis for one in found))
    if len(axes_of) != 1:
        raise InvalidInput(
            f"searches along one axis are drawn together, these are along {', '.join(axes_of) or 'none'}"
        )
    factor, _ = scale_of(found[0].axis)
    low, high = min(one.low for one in found) / factor, max(one.high for one in found) / factor
    log = low > 0 and high / low >= 4
    figure = Figure(figsize=(9, 1.3 + 0.8 * len(found)), layout="constrained")
    axes = figure.subplots()
    styles = styles_of(dict.fromkeys(name or _NOTHING for one in found for name in _names(one)))
    for row, one in enumerate(found):
        edges = [one.low, *(change.value for change in one), one.high]
        for name, begin, end in zip(_names(one), edges[:-1], edges[1:], strict=True):
            style = styles[name or _NOTHING]
            axes.barh(
                row, (end - begin) / factor, 0.5, begin / factor, color=style.colour, hatch=style.hatch,
                edgecolor="white", lw=0,
            )  # fmt: skip
    axes.set(xlim=(low, high), ylim=(len(found) - 0.5, -0.75), xscale="log" if log else "linear")
    if log:
        log_axis(axes.xaxis, low, high)
    _name_changes(axes, found, factor)
    axes.set_xlabel(axis_label(found[0].axis))
    axes.set_yticks(range(len(found)), [f"best {metric_words(one.metric)}" for one in found])
    axes.tick_params(axis="y", length=0)
    bare(axes, "x")
    axes.spines["left"].set_visible(False)
    handles = [Patch(facecolor=s.colour, hatch=s.hatch, edgecolor="white", label=name) for name, s in styles.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=5, frameon=False, fontsize=9)
    return figure


def _names(one: Crossovers) -> list[str | None]:
    return [one.first, *(change.above for change in one)]


def _name_changes(axes: Axes, found: tuple[Crossovers, ...], factor: float) -> None:
    to_share = axes.transAxes.inverted()
    for row, one in enumerate(found):
        last = -1.0
        for change in one:
            at = change.value / factor
            share = float(to_share.transform(axes.transData.transform((at, row)))[0])
            if share - last < _STEP_IN:
                continue
            axes.annotate(axis_value(change.axis, change.value), (at, row - 0.27), ha="center", va="bottom", fontsize=8)
            last = share
