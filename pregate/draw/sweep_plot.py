"""Pictures of a sweep: lines by policy along one axis; over two, the best policy and its tokens/s with iso lines."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pregate.draw.timelines import COLOURS, save_figure
from pregate.explore.sweeps.summary import best_policy
from traces.errors import InvalidFile, InvalidInput

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["check_drawable", "draw_sweep", "sweep_heat", "sweep_lines"]

MAX_PICTURES = 24
"""Most pictures of one sweep: further axes are drawn a picture a value."""

_COLOURS = [
    COLOURS[name] for name in ("attention", "fetch", "expert FFN", "stage", "read-back", "gate", "head", "host")
]
_SCALES = {"B/s": (1e9, "GB/s"), "B": (1e9, "GB"), "FLOP/s": (1e12, "TFLOP/s"), "s": (1e-6, "us"), "Hz": (1e9, "GHz")}
"""What an axis in SI is drawn in."""


def draw_sweep(dataset: xr.Dataset, folder: Path) -> list[Path]:
    """PNGs in `folder`, which is made when missing: the first two numeric axes, a picture for each value of the others.

    Returns what was written. Raises `InvalidInput` as `check_drawable`, `InvalidFile` when it cannot be written.
    """
    check_drawable(dataset)
    drawn, others = _axes_of(dataset)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidFile(f"{folder}: cannot be made ({error.strerror or error})") from error
    written = []
    for values in product(*(dataset[name].values.tolist() for name in others)):
        part = dataset.sel(dict(zip(others, values, strict=True))).sortby(drawn)
        tag = "".join(f"-{name}={value:.6g}" if isinstance(value, float) else f"-{name}={value}"
                      for name, value in zip(others, values, strict=True)).replace("/", "_")  # fmt: skip
        pictures = {"tokens": sweep_lines(part)} if len(drawn) == 1 else sweep_heat(part)
        for name, figure in pictures.items():
            figure.suptitle(_title(dataset, others, values), x=0.01, ha="left", fontsize=10)
            written.append(folder / f"{name}{tag}.png")
            save_figure(figure, written[-1])
    return written


def check_drawable(dataset: xr.Dataset) -> None:
    """Raise `InvalidInput`, with the way out, for a sweep without a grid of numbers or with too many pictures."""
    if "sample" in dataset.dims:
        raise InvalidInput("a Latin hypercube has no lines to draw: leave out the plots, or sweep a grid")
    drawn, others = _axes_of(dataset)
    if not drawn:
        raise InvalidInput("no numeric axis with two values or more to draw along: leave out the plots")
    n = int(np.prod([dataset.sizes[name] for name in others], dtype=np.int64)) * len(drawn)
    if n > MAX_PICTURES:
        raise InvalidInput(
            f"{n} pictures, one for each value of {', '.join(others)}, at most {MAX_PICTURES}: select some of the data"
        )


def sweep_lines(dataset: xr.Dataset, metric: str = "tokens_per_s") -> Figure:
    """`metric` of every policy along the one numeric axis of `dataset`; a line ends where its policy no longer fits."""
    from matplotlib.figure import Figure

    name = _axes_of(dataset)[0][0]
    at, label = _scaled(dataset, name)
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    for i, policy in enumerate(dataset["policy"].values.tolist()):
        values = dataset[metric].isel(policy=i).values
        axes.plot(at, values, "o-" if len(at) <= 40 else "-", ms=3, color=_COLOURS[i % len(_COLOURS)], label=policy)
    _scale_axis(axes, "x", at, label)
    axes.set_ylabel(_label(metric))
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False, fontsize=9)
    axes.grid(color="#DDDDDD", lw=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def sweep_heat(dataset: xr.Dataset, metric: str = "tokens_per_s") -> dict[str, Figure]:
    """Over the two numeric axes of `dataset`: which policy is the best, and its `metric` with iso lines.

    By name: "best" and "tokens" (one policy has only "tokens"). White: nothing fits.
    """
    x, y = _axes_of(dataset)[0]
    table = dataset.transpose("policy", y, x)
    best = best_policy(table, metric)
    value = np.where(best >= 0, np.nan_to_num(table[metric].values, nan=-np.inf).max(axis=0), np.nan)
    figures = {"best": _best_map(table, x, y, best)} if table.sizes["policy"] > 1 else {}
    return figures | {"tokens": _value_map(table, x, y, value, metric)}


def _best_map(table: xr.Dataset, x: str, y: str, best: NDArray[np.int64]) -> Figure:
    from matplotlib.colors import ListedColormap
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    figure = Figure(figsize=(7, 4.6), layout="constrained")
    axes = figure.subplots()
    policies = table["policy"].values.tolist()
    colours = [_COLOURS[i % len(_COLOURS)] for i in range(len(policies))]
    shown = np.ma.masked_less(best, 0)
    at_x, at_y = _scaled(table, x), _scaled(table, y)
    edges = (_edges(at_x[0]), _edges(at_y[0]))
    axes.pcolormesh(*edges, shown, cmap=ListedColormap(colours), vmin=-0.5, vmax=len(policies) - 0.5)
    _scale_axis(axes, "x", *at_x)
    _scale_axis(axes, "y", *at_y)
    handles = [Patch(facecolor=colours[i], label=policies[i]) for i in range(len(policies)) if np.any(best == i)]
    figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    axes.set_title("best policy", loc="left", fontsize=11)
    return figure


def _value_map(table: xr.Dataset, x: str, y: str, value: NDArray[np.float64], metric: str) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.6), layout="constrained")
    axes = figure.subplots()
    at_x, at_y = _scaled(table, x), _scaled(table, y)
    shown = np.ma.masked_invalid(value)
    picture = axes.pcolormesh(_edges(at_x[0]), _edges(at_y[0]), shown, cmap="viridis")
    if shown.count() and shown.max() > shown.min():
        lines = axes.contour(at_x[0], at_y[0], shown, levels=6, colors="white", linewidths=0.9)
        axes.clabel(lines, fontsize=8, fmt="%.3g")
    _scale_axis(axes, "x", *at_x)
    _scale_axis(axes, "y", *at_y)
    figure.colorbar(picture, ax=axes, label=_label(metric))
    axes.set_title(f"{_label(metric)} of the best policy", loc="left", fontsize=11)
    return figure


def _axes_of(dataset: xr.Dataset) -> tuple[list[str], list[str]]:
    """The axes drawn along (at most two numeric ones, the first with several values), and the others."""
    dims = [str(name) for name in dataset["fits"].dims if name != "policy"]
    numeric = [name for name in dims if dataset[name].dtype.kind == "f" and dataset.sizes[name] > 1]
    return numeric[:2], [name for name in dims if name not in numeric[:2]]


def _scaled(dataset: xr.Dataset, name: str) -> tuple[NDArray[np.float64], str]:
    """Values of an axis in a unit people read, and its label."""
    unit = str(dataset[name].attrs.get("units", ""))
    factor, shown = _SCALES.get(unit, (1.0, "" if unit == "1" else unit))
    return dataset[name].values / factor, f"{name} ({shown})" if shown else name


def _scale_axis(axes: Axes, side: Any, at: NDArray[np.float64], label: str) -> None:
    """Logarithmic where the values spread over a factor of four, more evenly in their logarithms."""
    from matplotlib.ticker import LogLocator, NullLocator

    log = _is_log(at)
    axes.set(**{f"{side}label": label, f"{side}scale": "log" if log else "linear"})
    if log:
        axis = getattr(axes, f"{side}axis")
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_minor_locator(NullLocator())
        axis.set_major_formatter("{x:g}")


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
    return {"tokens_per_s": "tokens/s", "moe_layer_latency_s": "MoE layer (s)"}.get(metric, metric)


def _title(dataset: xr.Dataset, others: list[str], values: tuple[Any, ...]) -> str:
    at = ", ".join(f"{name} {value:.6g}" if isinstance(value, float) else f"{name} {value}"
                   for name, value in zip(others, values, strict=True))  # fmt: skip
    return f"{dataset.attrs['model']} on {dataset.attrs['hardware']}" + (f": {at}" if at else "")
