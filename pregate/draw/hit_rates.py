"""Hit rates of caches against their slots."""

from __future__ import annotations

from statistics import fmean
from typing import TYPE_CHECKING

from pregate.ask.replays.cache_hits import CacheHits
from pregate.draw.palette import styles_of
from pregate.draw.style import bare, picture

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@picture
def hit_curves(found: CacheHits) -> Figure:
    """Hit rate against slots of all layers, a line a cache, the best on average first; bounds are black."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.5, 5), layout="constrained")
    axes = figure.subplots()
    styles = styles_of(dict.fromkeys(row.cache for row in found))
    lines = {name: sorted((row.n_slots, 100 * row.hit_rate) for row in found if row.cache == name) for name in styles}
    for name, points in sorted(lines.items(), key=lambda line: -fmean(hits for _, hits in line[1])):
        style, colour = styles[name], "black" if name.startswith("belady") else styles[name].colour
        axes.plot(*zip(*points, strict=True), style.dash, marker=style.marker, ms=5, color=colour, label=name)
    axes.set(xlabel="slots of all layers", ylabel="hits (%)", ylim=(0, 100))
    axes.set_title(found.notes[0], loc="left", fontsize=10)
    figure.legend(loc="outside right center", frameon=False, fontsize=9)
    bare(axes)
    return figure
