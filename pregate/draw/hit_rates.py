"""Hit rates against capacity, a line a cache: for slots and for bytes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pregate.ask.cache_hits import CacheHits, CacheRow
from pregate.ask.replay import Residency
from pregate.draw.timelines import residency_curves, save_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["draw_hit_rates"]


def draw_hit_rates(found: CacheHits | Residency, path: Path) -> Figure:
    """The picture, saved to `path` (PNG, SVG or PDF). Belady is dashed, caches of one pool are dotted."""
    figure = residency_curves(found.rows) if isinstance(found, Residency) else _by_slots(found)
    save_figure(figure, path)
    return figure


def _by_slots(found: CacheHits) -> Figure:
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    lines: dict[str, list[CacheRow]] = {}
    for row in found:
        lines.setdefault(row.cache, []).append(row)
    families = list(dict.fromkeys(name.partition(":")[0] for name in lines))
    colours = colormaps["tab20"]
    for name, rows in lines.items():
        family = name.partition(":")[0]
        colour = "black" if family == "belady" else colours(families.index(family) % 20)
        style = "--" if family == "belady" else "-" if "per_layer" in name else ":"
        points = sorted((row.n_slots, 100 * row.hit_rate) for row in rows)
        axes.plot(*zip(*points, strict=True), style, marker="o", ms=3, color=colour, label=name)
    axes.set(xlabel="slots of all layers", ylabel="hits (%)", ylim=(0, 100))
    axes.grid(axis="y", color="#DDDDDD", lw=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(found.notes[0], loc="left", fontsize=10)
    figure.legend(loc="outside right center", frameon=False, fontsize=8)
    return figure
