"""Pictures of a sweep: lines by policy along one axis; over two, maps (`pregate.draw.sweep_maps`).

A sweep is an `xarray.Dataset` as `pregate.sweep` returns it, or the table of the same; a part that was selected of one
is drawn too.
"""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pregate.draw.palette import styles_of
from pregate.draw.style import bare, picture, save_figure
from pregate.draw.sweep_maps import best_map, value_map
from pregate.draw.swept_axes import drawn_axes, metric_scale, scale_axis, scaled_axis, sweep_title, swept_metric
from pregate.sweeps.sweep_table import SweepTable, table_of
from traces.errors import InvalidFile, InvalidInput

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure


MAX_PICTURES = 24
"""Most pictures of one sweep: further axes are drawn a picture a value."""

MOST_MARKED = 40
"""Most points of a line that are marked each."""


@picture
def draw_sweep(data: SweepTable | xr.Dataset, folder: Path) -> list[Path]:
    """PNGs in `folder`, which is made when missing: the first two numeric axes, a picture for each value of the others.

    Returns what was written. Raises `InvalidInput` as `check_drawable`, `InvalidFile` when it cannot be written.
    """
    table = table_of(data)
    check_drawable(table)
    drawn, others = drawn_axes(table)
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
            figure.suptitle(sweep_title(table, others, values), x=0.01, ha="left", fontsize=10)
            written.append(folder / f"{name}{tag}.png")
            save_figure(figure, written[-1])
    return written


def check_drawable(table: SweepTable) -> None:
    """Raise `InvalidInput`, with the way out, for a sweep without a grid of numbers or with too many pictures."""
    if "sample" in table.sizes:
        raise InvalidInput("a Latin hypercube has no lines to draw: leave out the plots, or sweep a grid")
    drawn, others = drawn_axes(table)
    if not drawn:
        raise InvalidInput("no numeric axis with two values or more to draw along: leave out the plots")
    n = int(np.prod([table.sizes[name] for name in others], dtype=np.int64)) * len(drawn)
    if n > MAX_PICTURES:
        raise InvalidInput(
            f"{n} pictures, one for each value of {', '.join(others)}, at most {MAX_PICTURES}: select some of the data"
        )


def _maps(table: SweepTable, x: str, y: str) -> dict[str, Figure]:
    """Each as a picture of its own; one policy has only its tokens."""
    best = {"best": best_map(table, x, y, "tokens_per_s")} if table.sizes["policy"] > 1 else {}
    return best | {"tokens": value_map(table, x, y, "tokens_per_s")}


@picture
def sweep_lines(dataset: xr.Dataset, metric: str = "tokens_per_s") -> Figure:
    """`metric` of every policy along the one numeric axis of `dataset`; a line ends where its policy no longer fits.
    A band: the 95 % interval, where the sweep was made with `draws`.

    Raises `InvalidInput` for a sweep of more axes, or of none that is numeric.
    """
    return _lines(table_of(dataset), metric)


def _lines(table: SweepTable, metric: str) -> Figure:
    from matplotlib.figure import Figure

    metric = swept_metric(table, metric)
    names, others = drawn_axes(table)
    if len(names) != 1 or others:
        has = ", ".join([*names, *others]) or "none"
        raise InvalidInput(f"lines are drawn along one numeric axis, this sweep has {has}")
    part = table.ascending(names)
    at, label = scaled_axis(part, names[0])
    factor, said = metric_scale(part, metric)
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
    scale_axis(axes, "x", at, label)
    axes.set_ylabel(said)
    axes.set_ylim(bottom=0)
    bare(axes)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=5, frameon=False, fontsize=9)
    return figure
