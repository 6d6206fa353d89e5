"""Pictures of a sweep: lines by policy along one axis; over two, the best policy and its tokens/s with iso lines.

A sweep is an `xarray.Dataset` as `pregate.sweep` returns it, or the table of the same; a part that was selected of one
is drawn too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pregate.draw.iso_lines import draw_iso_lines, number_lines
from pregate.draw.metric_words import metric_words
from pregate.draw.palette import SeriesStyle, styles_of
from pregate.draw.style import bare, log_axis, picture, save_figure
from pregate.explore.axis_words import axis_label, axis_value, axis_words, scale_of
from pregate.explore.sweeps.summary import apart, best_policy
from pregate.explore.sweeps.sweep_table import SweepTable, table_of
from traces.errors import InvalidFile, InvalidInput, unknown_name

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes
    from matplotlib.contour import QuadContourSet
    from matplotlib.figure import Figure

__all__ = ["check_drawable", "draw_sweep", "sweep_lines", "sweep_map"]

MAX_PICTURES = 24
"""Most pictures of one sweep: further axes are drawn a picture a value."""

MOST_COLUMNS = 6
"""Most maps side by side."""

MOST_MARKED = 40
"""Most points of a line that are marked each."""

_METRIC_SCALES = {"s": (1e-3, "ms"), "B": (1e9, "GB")}
"""What a metric in SI is drawn in."""


@picture
def draw_sweep(data: SweepTable | xr.Dataset, folder: Path) -> list[Path]:
    """PNGs in `folder`, which is made when missing: the first two numeric axes, a picture for each value of the others.

    Returns what was written. Raises `InvalidInput` as `check_drawable`, `InvalidFile` when it cannot be written.
    """
    table = table_of(data)
    check_drawable(table)
    drawn, others = _axes_of(table)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidFile(f"{folder}: cannot be made ({error.strerror or error})") from error
    written = []
    for place in product(*(range(table.sizes[name]) for name in others)):
        part = table
        for name, i in zip(others, place, strict=True):
            part = part.take(name, i)
        part, values = part.ascending(drawn), tuple(part[name].values.item() for name in others)
        tag = "".join(f"-{name}={value:.6g}" if isinstance(value, float) else f"-{name}={value}"
                      for name, value in zip(others, values, strict=True)).replace("/", "_")  # fmt: skip
        pictures = {"tokens": _lines(part, "tokens_per_s")} if len(drawn) == 1 else _maps(part, *drawn)
        for name, figure in pictures.items():
            figure.suptitle(_title(table, others, values), x=0.01, ha="left", fontsize=10)
            written.append(folder / f"{name}{tag}.png")
            save_figure(figure, written[-1])
    return written


def check_drawable(table: SweepTable) -> None:
    """Raise `InvalidInput`, with the way out, for a sweep without a grid of numbers or with too many pictures."""
    if "sample" in table.sizes:
        raise InvalidInput("a Latin hypercube has no lines to draw: leave out the plots, or sweep a grid")
    drawn, others = _axes_of(table)
    if not drawn:
        raise InvalidInput("no numeric axis with two values or more to draw along: leave out the plots")
    n = int(np.prod([table.sizes[name] for name in others], dtype=np.int64)) * len(drawn)
    if n > MAX_PICTURES:
        raise InvalidInput(
            f"{n} pictures, one for each value of {', '.join(others)}, at most {MAX_PICTURES}: select some of the data"
        )


def _maps(table: SweepTable, x: str, y: str) -> dict[str, Figure]:
    """Each as a picture of its own; one policy has only its tokens."""
    best = {"best": _best_map(table, x, y, "tokens_per_s")} if table.sizes["policy"] > 1 else {}
    return best | {"tokens": _value_map(table, x, y, "tokens_per_s")}


@picture
def sweep_lines(dataset: xr.Dataset, metric: str = "tokens_per_s") -> Figure:
    """`metric` of every policy along the one numeric axis of `dataset`; a line ends where its policy no longer fits.
    A band: the 95 % interval, where the sweep was made with `draws`.

    Raises `InvalidInput` for a sweep of more axes, or of none that is numeric.
    """
    return _lines(table_of(dataset), metric)


def _lines(table: SweepTable, metric: str) -> Figure:
    from matplotlib.figure import Figure

    _check_metric(table, metric)
    names, others = _axes_of(table)
    if len(names) != 1 or others:
        has = ", ".join([*names, *others]) or "none"
        raise InvalidInput(f"lines are drawn along one numeric axis, this sweep has {has}")
    part = table.ascending(names)
    at, label = _scaled(part, names[0])
    factor, said = _metric_scale(part, metric)
    figure = Figure(figsize=(7.5, 4.4), layout="constrained")
    axes = figure.subplots()
    for policy, style in styles_of(part.policies).items():
        here = part.take("policy", part.policies.index(policy))
        values = here[metric].values / factor
        if f"{metric}_ci95" in here.variables:
            low, high = here[f"{metric}_ci95"].along("bound") / factor
            axes.fill_between(at, low, high, color=style.colour, alpha=0.15, lw=0)
        marker = style.marker if len(at) <= MOST_MARKED else None
        axes.plot(at, values, style.dash, marker=marker, ms=4, color=style.colour, label=policy)
    _scale_axis(axes, "x", at, label)
    axes.set_ylabel(said)
    axes.set_ylim(bottom=0)
    bare(axes)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=5, frameon=False, fontsize=9)
    return figure


@picture
def sweep_map(dataset: xr.Dataset, metric: str = "tokens_per_s") -> Figure:
    """Over two numeric axes: which policy has the best `metric`, and below it that best with lines of equal value.

    The first numeric axis goes across, the second upwards, a third is a column a value (at most six). White: nothing
    fits. Raises `InvalidInput` for fewer axes or more, `UnknownName` for a metric that the sweep does not have.
    """
    from matplotlib.figure import Figure

    table = table_of(dataset)
    _check_metric(table, metric)
    (names, others), columns = _axes_of(table), [table]
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
        grid[0, i].set_title(_point(others[0], part[others[0]].values.item()), loc="left", fontsize=11)
    for axes in grid[:, 0]:
        axes.set_ylabel(maps[0].y_label)
    for axes in grid[1]:
        axes.set_xlabel(maps[0].x_label)
    _legend(figure, styles, maps)
    figure.suptitle(_title(table, [], ()), x=0.01, ha="left", fontsize=11)
    _number(figure, picture_of)
    return figure


def _best_map(table: SweepTable, x: str, y: str, metric: str) -> Figure:
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


def _value_map(table: SweepTable, x: str, y: str, metric: str) -> Figure:
    from matplotlib.figure import Figure

    shown = _Map.of(table, x, y, metric)
    figure = Figure(figsize=(7, 4.6), layout="constrained")
    axes = figure.subplots()
    lines = _draw_values(figure, [axes], [shown], metric)
    axes.set(xlabel=shown.x_label, ylabel=shown.y_label)
    axes.set_title(f"{_label(metric)} of the best policy", loc="left", fontsize=11)
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
        values = table[metric].along("policy", y, x) / _metric_scale(table, metric)[0]
        value = np.take_along_axis(values, np.maximum(best, 0)[np.newaxis], axis=0)[0]
        at_x, at_y = _scaled(table, x), _scaled(table, y)
        policies = tuple(table.policies)
        return cls(at_x[0], at_y[0], at_x[1], at_y[1], policies, best, np.where(best >= 0, value, np.nan))


def _draw_winners(axes: Axes, shown: _Map, styles: Mapping[str, SeriesStyle]) -> None:
    from matplotlib.colors import ListedColormap

    edges = (_edges(shown.x), _edges(shown.y))
    for i, policy in enumerate(shown.policies):
        mine = np.ma.masked_where(shown.best != i, shown.best)
        if mine.count():
            axes.pcolormesh(*edges, mine, cmap=ListedColormap([styles[policy].colour]))
            if styles[policy].hatch:
                _hatch(axes, shown.best == i, *edges, styles[policy].hatch)
    _scale_axis(axes, "x", shown.x, "")
    _scale_axis(axes, "y", shown.y, "")


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
            _edges(shown.x), _edges(shown.y), np.ma.masked_invalid(shown.value), cmap="cividis", norm=norm
        )
        found = draw_iso_lines(axes, shown.x, shown.y, shown.value, log=log)
        if found is not None:
            lines.append((axes, found))
        _scale_axis(axes, "x", shown.x, "")
        _scale_axis(axes, "y", shown.y, "")
    bar = figure.colorbar(mesh, ax=panels, label=_label(metric))
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


def _check_metric(table: SweepTable, metric: str) -> None:
    known = [name for name, found in table.variables.items() if found.data.dtype.kind == "f"]
    if metric not in known:
        raise unknown_name("metric", metric, known)


def _metric_scale(table: SweepTable, metric: str) -> tuple[float, str]:
    """What a metric in SI is divided by to be read, and its label with that unit."""
    return _METRIC_SCALES.get(str(table[metric].attrs.get("units", "")), (1.0, ""))[0], _label(metric)


def _point(name: str, value: Any) -> str:
    """One value of an axis that is not drawn along."""
    return f"{axis_words(name)} {axis_value(name, value)}" if isinstance(value, float) else f"{name} {value}"


def _axes_of(table: SweepTable) -> tuple[list[str], list[str]]:
    """The axes drawn along (at most two numeric ones, the first with several values), and the others."""
    dims = [name for name in table["fits"].dims if name != "policy"]
    numeric = [name for name in dims if table[name].data.dtype.kind == "f" and table.sizes[name] > 1]
    return numeric[:2], [name for name in dims if name not in numeric[:2]]


def _scaled(table: SweepTable, name: str) -> tuple[NDArray[np.float64], str]:
    """Values of an axis in a unit people read, and its label."""
    return table[name].values / scale_of(name)[0], axis_label(name)


def _scale_axis(axes: Axes, side: Any, at: NDArray[np.float64], label: str) -> None:
    """Logarithmic where the values spread over a factor of four, more evenly in their logarithms."""
    log = _is_log(at)
    axes.set(**{f"{side}label": label, f"{side}scale": "log" if log else "linear"})
    if log:
        log_axis(getattr(axes, f"{side}axis"), float(at.min()), float(at.max()), most=5)


def _is_log(at: NDArray[np.float64]) -> bool:
    low, high = float(at.min()), float(at.max())
    return low > 0 and high / low >= 4 and _unevenness(np.log(at)) < _unevenness(at)


def _edges(at: NDArray[np.float64]) -> NDArray[np.float64]:
    """The edges of the cells around ascending values: halfway between two, in ratio where the axis is logarithmic."""
    if _is_log(at):
        return np.asarray(np.exp(_halfway(np.log(at))))
    return _halfway(at)


def _halfway(at: NDArray[np.float64]) -> NDArray[np.float64]:
    inner = (at[:-1] + at[1:]) / 2
    return np.concatenate([[2 * at[0] - inner[0]], inner, [2 * at[-1] - inner[-1]]])


def _unevenness(at: NDArray[np.float64]) -> float:
    """How much the gaps between ascending values differ, 0 for a regular space."""
    gaps = np.diff(at)
    return float(gaps.std() / gaps.mean())


def _label(metric: str) -> str:
    unit = (
        "ms" if metric.endswith("_s") and not metric.endswith("per_s") else "GB" if metric == "peak_hbm_bytes" else ""
    )
    return metric_words(metric) + (f" ({unit})" if unit else "")


def _title(table: SweepTable, others: list[str], values: tuple[Any, ...]) -> str:
    at = ", ".join(_point(name, value) for name, value in zip(others, values, strict=True))
    title = f"{table.attrs['model']} on {table.attrs['hardware']}" + (f": {at}" if at else "")
    return "\n".join([title, *apart(table)])
