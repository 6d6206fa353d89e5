"""Maps of a sweep over two numeric axes: the best policy, and its metric with lines of equal value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pregate.draw.iso_lines import draw_iso_lines, number_lines
from pregate.draw.palette import SeriesStyle, styles_of
from pregate.draw.style import log_axis, picture
from pregate.draw.swept_axes import (
    cell_edges,
    drawn_axes,
    metric_label,
    metric_scale,
    point_words,
    scale_axis,
    scaled_axis,
    sweep_title,
    swept_metric,
)
from pregate.sweeps.summary import best_policy
from pregate.sweeps.sweep_table import SweepTable, table_of
from traces.errors import InvalidInput

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes
    from matplotlib.contour import QuadContourSet
    from matplotlib.figure import Figure


MOST_COLUMNS = 6
"""Most maps side by side."""


@picture
def sweep_map(dataset: xr.Dataset, metric: str = "tokens_per_s") -> Figure:
    """Over two numeric axes: which policy has the best `metric`, and below it that best with lines of equal value.

    The first numeric axis goes across, the second upwards, a third is a column a value (at most six). White: nothing
    fits. Raises `InvalidInput` for fewer axes or more, `UnknownName` for a metric that the sweep does not have.
    """
    from matplotlib.figure import Figure

    table = table_of(dataset)
    metric = swept_metric(table, metric)
    (names, others), columns = drawn_axes(table), [table]
    if len(names) != 2 or len(others) > 1:
        raise InvalidInput(
            f"a map has two numeric axes and one more at most, this sweep {', '.join([*names, *others])}"
        )
    if others:
        columns = [table.take(others[0], i) for i in range(table.sizes[others[0]])]
    if len(columns) > MOST_COLUMNS:
        raise InvalidInput(f"{len(columns)} values of {others[0]} side by side, at most {MOST_COLUMNS}: select some")
    maps = [_Map.of(part, names[0], names[1], metric) for part in columns]
    figure = Figure(figsize=(2.4 + 3.4 * len(maps), 7.2), layout="constrained")
    grid = figure.subplots(2, len(maps), sharex=True, sharey=True, squeeze=False)
    styles = styles_of(table.policies)
    for axes, shown in zip(grid[0], maps, strict=True):
        _draw_winners(axes, shown, styles)
    picture_of = _draw_values(figure, list(grid[1]), maps, metric)
    for i, part in enumerate(columns if others else []):
        grid[0, i].set_title(point_words(others[0], part[others[0]].values.item()), loc="left", fontsize=11)
    for axes in grid[:, 0]:
        axes.set_ylabel(maps[0].y_label)
    for axes in grid[1]:
        axes.set_xlabel(maps[0].x_label)
    _legend(figure, styles, maps)
    figure.suptitle(sweep_title(table, [], ()), x=0.01, ha="left", fontsize=11)
    _number(figure, picture_of)
    return figure


def best_map(table: SweepTable, x: str, y: str, metric: str) -> Figure:
    """Which policy has the best `metric` over the axes `x` and `y`, alone."""
    from matplotlib.figure import Figure

    shown = _Map.of(table, x, y, metric)
    figure = Figure(figsize=(7, 4.6), layout="constrained")
    axes = figure.subplots()
    styles = styles_of(table.policies)
    _draw_winners(axes, shown, styles)
    axes.set(xlabel=shown.x_label, ylabel=shown.y_label)
    _legend(figure, styles, [shown])
    axes.set_title("best policy", loc="left", fontsize=11)
    return figure


def value_map(table: SweepTable, x: str, y: str, metric: str) -> Figure:
    """The best `metric` over the axes `x` and `y`, alone."""
    from matplotlib.figure import Figure

    shown = _Map.of(table, x, y, metric)
    figure = Figure(figsize=(7, 4.6), layout="constrained")
    axes = figure.subplots()
    lines = _draw_values(figure, [axes], [shown], metric)
    axes.set(xlabel=shown.x_label, ylabel=shown.y_label)
    axes.set_title(f"{metric_label(metric)} of the best policy", loc="left", fontsize=11)
    _number(figure, lines)
    return figure


@dataclass(frozen=True, slots=True, eq=False)
class _Map:
    """Over `x` across and `y` upwards, in the units of their labels: the index of the best policy, and its metric."""

    x: NDArray[np.float64]
    y: NDArray[np.float64]
    x_label: str
    y_label: str
    policies: tuple[str, ...]
    best: NDArray[np.int64]
    value: NDArray[np.float64]

    @classmethod
    def of(cls, table: SweepTable, x: str, y: str, metric: str) -> _Map:
        table = table.ascending([x, y])
        best = best_policy(table, metric, y, x)
        values = table[metric].along("policy", y, x) / metric_scale(table, metric)[0]
        value = np.take_along_axis(values, np.maximum(best, 0)[np.newaxis], axis=0)[0]
        at_x, at_y = scaled_axis(table, x), scaled_axis(table, y)
        policies = tuple(table.policies)
        return cls(at_x[0], at_y[0], at_x[1], at_y[1], policies, best, np.where(best >= 0, value, np.nan))


def _draw_winners(axes: Axes, shown: _Map, styles: Mapping[str, SeriesStyle]) -> None:
    from matplotlib.colors import ListedColormap

    edges = (cell_edges(shown.x), cell_edges(shown.y))
    for i, policy in enumerate(shown.policies):
        mine = np.ma.masked_where(shown.best != i, shown.best)
        if mine.count():
            axes.pcolormesh(*edges, mine, cmap=ListedColormap([styles[policy].colour]))
            if styles[policy].hatch:
                _hatch(axes, shown.best == i, *edges, styles[policy].hatch)
    scale_axis(axes, "x", shown.x, "")
    scale_axis(axes, "y", shown.y, "")


def _hatch(axes: Axes, mine: NDArray[np.bool_], x: NDArray[np.float64], y: NDArray[np.float64], pattern: str) -> None:
    """The pattern over some cells, as few rectangles: those of rows that have the same run are one."""
    from matplotlib.collections import PolyCollection

    lower: dict[tuple[int, int], int] = {}
    corners = []
    for row, line in enumerate([*mine, np.zeros(mine.shape[1], dtype=bool)]):
        edges = np.flatnonzero(np.diff(np.concatenate([[False], line, [False]]).astype(np.int8)))
        runs = set(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))
        for run in [run for run in lower if run not in runs]:
            (left, right), (bottom, top) = x[list(run)], y[[lower.pop(run), row]]
            corners.append([(left, bottom), (right, bottom), (right, top), (left, top)])
        for run in runs:
            lower.setdefault(run, row)
    axes.add_collection(PolyCollection(corners, facecolors="none", hatch=pattern, edgecolors="#ffffff80", linewidths=0))


def _draw_values(
    figure: Figure, panels: list[Axes], maps: list[_Map], metric: str
) -> list[tuple[Axes, QuadContourSet]]:
    """Draw the best value of each map on one scale; returns the lines of equal value, to be numbered."""
    from matplotlib.colors import LogNorm, Normalize

    finite = np.concatenate([shown.value[np.isfinite(shown.value)] for shown in maps])
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    log = low > 0 and high / low > 8
    norm = LogNorm(low, high) if log else Normalize(low, high)
    lines = []
    for axes, shown in zip(panels, maps, strict=True):
        mesh = axes.pcolormesh(
            cell_edges(shown.x), cell_edges(shown.y), np.ma.masked_invalid(shown.value), cmap="cividis", norm=norm
        )
        found = draw_iso_lines(axes, shown.x, shown.y, shown.value, log=log)
        if found is not None:
            lines.append((axes, found))
        scale_axis(axes, "x", shown.x, "")
        scale_axis(axes, "y", shown.y, "")
    bar = figure.colorbar(mesh, ax=panels, label=metric_label(metric))
    if log:
        log_axis(bar.ax.yaxis, low, high)
    return lines


def _number(figure: Figure, lines: list[tuple[Axes, QuadContourSet]]) -> None:
    figure.draw_without_rendering()
    for axes, found in lines:
        number_lines(axes, found, [])


def _legend(figure: Figure, styles: Mapping[str, SeriesStyle], maps: list[_Map]) -> None:
    from matplotlib.patches import Patch

    seen = [name for i, name in enumerate(styles) if any(np.any(shown.best == i) for shown in maps)]
    handles = [
        Patch(facecolor=styles[name].colour, hatch=styles[name].hatch, edgecolor="white", lw=0, label=name)
        for name in seen
    ]
    if any(np.any(shown.best < 0) for shown in maps):
        handles.append(Patch(facecolor="white", edgecolor="#999999", lw=0.8, label="nothing fits"))
    figure.legend(handles=handles, loc="outside lower center", ncols=5, frameon=False, fontsize=9)
