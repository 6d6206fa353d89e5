"""Lines of equal value with their numbers, none over another and none out of the axes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.contour import QuadContourSet
    from matplotlib.transforms import Bbox


_MARGIN_PX = 4.0
_SIZE_PT = 8.0


def draw_iso_lines(
    axes: Axes, x: NDArray[np.float64], y: NDArray[np.float64], values: NDArray[np.float64], *, log: bool
) -> QuadContourSet | None:
    """At most five lines at round numbers between the ends of what is finite; None where all is equal or no grid is."""
    from matplotlib.patheffects import withStroke

    shown = np.ma.masked_invalid(values)
    if min(values.shape) < 2 or not shown.count() or shown.max() <= shown.min():
        return None
    low, high = float(shown.min()), float(shown.max())
    spaced = np.geomspace(low, high, 7) if log else np.linspace(low, high, 7)
    for digits in (1, 2):
        levels = np.unique([float(f"{level:.{digits}g}") for level in spaced[1:-1]])
        levels = levels[(levels > low) & (levels < high)]
        if levels.size > 2:
            break
    if not levels.size:
        return None
    lines = axes.contour(x, y, shown, levels=levels, colors="white", linewidths=1.1)
    lines.set_path_effects([withStroke(linewidth=2.2, foreground="#333333")])
    return lines


def number_lines(axes: Axes, lines: QuadContourSet, placed: list[Bbox]) -> None:
    """Write the value of each line on it, where there is room beside what is in `placed`; a line without room has none.

    To be called when the figure has its final layout; `placed` grows by what is written.
    """
    from matplotlib.patheffects import withStroke

    inside = axes.get_window_extent()
    for level, segments in zip(lines.levels, lines.allsegs, strict=True):
        points = [axes.transData.transform(segment) for segment in segments if len(segment) > 1]
        told = axes.text(
            0, 0, f"{level:.4g}", transform=None, fontsize=_SIZE_PT, ha="center", va="center", color="white",
            path_effects=[withStroke(linewidth=2.0, foreground="#222222")],
        )  # fmt: skip
        told.set_in_layout(False)
        spot = _free_spot(told, [at for path in points for at in _from_the_middle(path)], inside, placed)
        if spot is None:
            told.remove()
            continue
        told.set_transform(axes.transData)
        x, y = axes.transData.inverted().transform(spot)
        told.set_position((float(x), float(y)))
        placed.append(told.get_window_extent())


def _from_the_middle(path: NDArray[np.float64]) -> NDArray[np.float64]:
    """The points of a path, those in its middle first, every few pixels."""
    along = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(path, axis=0).T))])
    at = np.linspace(0, along[-1], max(3, int(along[-1] / 8)))
    spots = np.column_stack([np.interp(at, along, path[:, 0]), np.interp(at, along, path[:, 1])])
    order: NDArray[np.int64] = np.argsort(np.abs(at - along[-1] / 2), kind="stable")
    return np.asarray(spots[order])


def _free_spot(
    told: Any, spots: list[NDArray[np.float64]], inside: Bbox, placed: list[Bbox]
) -> NDArray[np.float64] | None:
    for spot in spots:
        told.set_position(spot)
        box = told.get_window_extent().padded(_MARGIN_PX)
        within = inside.x0 < box.x0 and box.x1 < inside.x1 and inside.y0 < box.y0 and box.y1 < inside.y1
        if within and not any(box.overlaps(other) for other in placed):
            return spot
    return None
