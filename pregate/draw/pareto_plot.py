"""The picture of a search: every feasible candidate over two figures, the Pareto front joined and numbered."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pregate.draw.metric_words import metric_words
from pregate.draw.palette import styles_of
from pregate.draw.style import SOFT, bare, log_axis, picture, save_figure
from pregate.optima.goals import shown, unit
from pregate.optima.optimum import Optimum, Row
from traces.errors import InvalidInput

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


_MAX_NUMBERED = 10
_SCALES = {"s": (1e-3, "ms"), "B": (1e9, "GB"), "USD": (1.0, "US$")}


@picture
def draw_front(optimum: Optimum, path: str | Path | None = None) -> Figure:
    """Feasible candidates small by policy, those that miss a constraint grey, the front joined and numbered.

    Drawn over the first two objectives, a price across; where there is only one, over price or else tokens/s. Between
    two points of a front of two objectives nothing better is known than the one before: it is joined by steps. Saved
    to `path` (PNG, SVG or PDF) when given. Raises `InvalidInput` when nothing is feasible, or for another suffix.
    """
    from matplotlib.figure import Figure

    if not optimum.front:
        raise InvalidInput(f"nothing to draw: {optimum.verdict()}")
    x, y = _coordinates(optimum)
    rows, numbered = _ordered(optimum, x)
    n_lines = len(numbered) + (len(numbered) < len(rows))
    figure = Figure(figsize=(8.5, 5 + 0.2 * n_lines), layout="constrained")
    axes, below = figure.subplots(2, 1, height_ratios=(24, 1 + n_lines))
    _draw_candidates(axes, optimum, x, y)
    _draw_limits(axes, optimum, x, y)
    at = np.array([[row["fields"][field] / _scale(field)[0] for field in (x, y)] for row in rows])
    joined = len(optimum.goals.objectives) == 2 and len(rows) > 1
    axes.plot(*at.T, "-" if joined else "", drawstyle="steps-post", color="#222222", lw=1.2, label="Pareto front")
    axes.plot(*at[numbered].T, "o", ms=7, mfc="none", mew=1.2, color="#222222")
    _style(axes, optimum, x, y)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=5, frameon=False, fontsize=8, markerscale=1.5)
    told = [f"{number}  {_figures(rows[i], x, y)}: {optimum.describe(rows[i])}" for number, i in enumerate(numbered, 1)]
    if len(numbered) < len(rows):
        told.append(f"{len(numbered)} of the {len(rows)} points of the front have a number")
    below.text(0, 1, "\n".join(told), transform=below.transAxes, va="top", fontsize=8, linespacing=1.5)
    below.set_axis_off()
    where = optimum.hardware if "," not in optimum.hardware else f"{optimum.hardware.count(',') + 1} machines"
    held = ", ".join(constraint.text for constraint in optimum.goals.constraints)
    figure.suptitle(f"{optimum.model} on {where}" + (f": {held}" if held else ""), x=0.01, ha="left", fontsize=11)
    _number_points(figure, axes, at[numbered], up=_goes_up(optimum, y))
    if path is not None:
        save_figure(figure, path)
    return figure


def _coordinates(optimum: Optimum) -> tuple[str, str]:
    """The figures across and up."""
    fields = [objective.field for objective in optimum.goals.objectives][:2]
    if len(fields) == 1:
        known = np.isfinite(optimum.candidates.values("price_usd")[optimum.feasible]).all()
        second = "price_usd" if known and fields[0] != "price_usd" else "tokens_per_s"
        if second == fields[0]:
            raise InvalidInput("one objective and no prices: give a second objective to draw a front")
        fields.append(second)
    first, second = fields
    return (second, first) if second == "price_usd" else (first, second)


def _draw_candidates(axes: Axes, optimum: Optimum, x: str, y: str) -> None:
    across, up = _scaled(optimum, x), _scaled(optimum, y)
    missed = optimum.candidates.fits & ~optimum.feasible & np.isfinite(across) & np.isfinite(up)
    if missed.any():
        axes.plot(across[missed], up[missed], "x", ms=3, mew=0.7, color="#BBBBBB", label="misses a constraint")
    for i, (policy, style) in enumerate(styles_of(optimum.candidates.policies).items()):
        mine = optimum.feasible & (optimum.candidates.i_policy == i)
        if mine.any():
            axes.plot(across[mine], up[mine], style.marker, ms=4, alpha=0.7, mew=0, color=style.colour, label=policy)


def _draw_limits(axes: Axes, optimum: Optimum, x: str, y: str) -> None:
    """A line at each limit of a figure that is drawn."""
    for constraint in optimum.goals.constraints:
        for field, draw in ((x, axes.axvline), (y, axes.axhline)):
            if constraint.field == field:
                draw(constraint.limit / _scale(field)[0], color=SOFT, lw=0.9, ls="--")


def _ordered(optimum: Optimum, x: str) -> tuple[list[Row], list[int]]:
    """The front from its best `x` on, and which of it get a number: the two ends and what is evenly between."""
    rows = sorted(optimum.front, key=lambda row: float(row["fields"][x]), reverse=_goes_up(optimum, x))
    return rows, np.unique(np.linspace(0, len(rows) - 1, _MAX_NUMBERED).round().astype(int)).tolist()


def _style(axes: Axes, optimum: Optimum, x: str, y: str) -> None:
    """Labels; logarithmic where what is drawn spreads over a factor of eight."""
    for side, field in (("x", x), ("y", y)):
        values = _scaled(optimum, field)[optimum.candidates.fits]
        values = values[np.isfinite(values)]
        log = values.min() > 0 and values.max() > 8 * values.min()
        axes.set(**{f"{side}label": _label(field), f"{side}scale": "log" if log else "linear"})
        axis = axes.xaxis if side == "x" else axes.yaxis
        if log:
            log_axis(axis, *axis.get_view_interval())
        else:
            axis.set_major_formatter("{x:,g}")
    bare(axes)


def _number_points(figure: Figure, axes: Axes, at: NDArray[np.float64], *, up: bool) -> None:
    """A number beside each point, on the side that nothing is better on: left, or up (down) of a close neighbour."""
    figure.draw_without_rendering()
    pixels = axes.transData.transform(at)
    for i, point in enumerate(at):
        crowded = i > 0 and abs(pixels[i] - pixels[i - 1]).max() < 0.28 * figure.dpi
        offset = (0, 8 if up else -15) if crowded else (-10, 2 if up else -9)
        axes.annotate(str(i + 1), point, offset, textcoords="offset points", ha="center", fontsize=9, weight="bold")


def _goes_up(optimum: Optimum, field: str) -> bool:
    """Whether more of a figure is better."""
    return any(objective.field == field and objective.maximise for objective in optimum.goals.objectives)


def _figures(row: Row, *fields: str) -> str:
    return ", ".join(shown(field, row["fields"][field]) for field in fields)


def _scaled(optimum: Optimum, field: str) -> NDArray[np.float64]:
    return optimum.candidates.values(field) / _scale(field)[0]


def _scale(field: str) -> tuple[float, str]:
    return _SCALES.get(unit(field), (1.0, ""))


def _label(field: str) -> str:
    scale = _scale(field)[1]
    return f"{metric_words(field)} ({scale})" if scale else metric_words(field)
