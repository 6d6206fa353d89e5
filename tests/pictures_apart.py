"""How two small pictures are told apart, and which of their texts touch."""

from __future__ import annotations

import io
from collections.abc import Iterator
from itertools import combinations

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PolyCollection
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.image import imread
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.text import Text
from matplotlib.transforms import Bbox
from numpy.typing import NDArray
from PIL import Image

DPI = 50
CELL = 8
"""Pixels of a cell: the colours of cells are compared, so that how a letter is smoothed does not matter."""

WHOLE, CORNER = 0.9, 24.0
"""Two pictures differ where their cells do by more than this on average, or one of them by more than that; of 255.

Letters hinted in another way are 0.4 and 19 apart. What so small a picture hides is written into it (`contents`).
"""


def picture_bytes(figure: Figure) -> bytes:
    """The figure as a small PNG, by Agg and in the font that comes with matplotlib."""
    FigureCanvasAgg(figure)
    found = io.BytesIO()
    figure.savefig(found, format="png", dpi=DPI, metadata={"Software": None, "Description": contents(figure)})
    return found.getvalue()


def contents(figure: Figure) -> str:
    """Every text and every colour of lines and areas, a line each."""
    FigureCanvasAgg(figure)
    figure.draw_without_rendering()
    texts = sorted({f"text {text.get_text()!r}" for text in _texts(figure)})
    colours = {to_hex(line.get_color()) for line in figure.findobj(Line2D) if line.get_visible()}
    colours |= {to_hex(patch.get_facecolor()) for patch in figure.findobj(Patch) if patch.get_visible()}
    colours |= {to_hex(row) for found in figure.findobj(PolyCollection) for row in found.get_facecolor()}
    return "\n".join([*texts, *sorted(f"colour {colour}" for colour in colours)])


def told_in(png: bytes) -> str:
    """The contents that a picture carries."""
    with Image.open(io.BytesIO(png)) as picture:
        return str(picture.info["Description"])


def cells(png: bytes) -> NDArray[np.float64]:
    """Mean colours, 0 to 255, of cells of `CELL` pixels a side; (rows, columns, 3)."""
    pixels = np.asarray(imread(io.BytesIO(png), format="png"), dtype=np.float64)[..., :3] * 255
    rows, columns = pixels.shape[0] // CELL, pixels.shape[1] // CELL
    blocks = pixels[: rows * CELL, : columns * CELL].reshape(rows, CELL, columns, CELL, 3)
    return np.asarray(blocks.mean(axis=(1, 3)))


def difference(one: bytes, other: bytes) -> tuple[float, float]:
    """How far two pictures are apart, on average and where most; infinite where their sizes differ."""
    a, b = cells(one), cells(other)
    if a.shape != b.shape:
        return (float("inf"), float("inf"))
    apart = np.abs(a - b).max(axis=2)
    return (float(apart.mean()), float(apart.max()))


def alike(one: bytes, other: bytes) -> bool:
    """Whether two pictures show the same: texts and colours as they are written into them, the rest as it looks."""
    if told_in(one) != told_in(other):
        return False
    whole, corner = difference(one, other)
    return whole <= WHOLE and corner <= CORNER


def overlapping(figure: Figure) -> list[tuple[str, str]]:
    """Pairs of texts that touch each other, and texts that leave the picture."""
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw_without_rendering()
    placed = [(text, text.get_window_extent(renderer)) for text in _texts(figure)]
    page = figure.bbox.padded(1.0)
    out = [(text.get_text(), "the edge") for text, box in placed if not _within(box, page)]
    pairs = [(a.get_text(), b.get_text()) for (a, one), (b, other) in combinations(placed, 2) if one.overlaps(other)]
    return out + pairs


def _texts(figure: Figure) -> Iterator[Text]:
    hidden = {text for axes in figure.axes if not axes.get_visible() for text in axes.findobj(Text)}
    bare = {
        text
        for axes in figure.axes
        if not axes.axison
        for axis in (axes.xaxis, axes.yaxis)
        for text in axis.findobj(Text)
    }
    shared = {
        label
        for axes in figure.axes
        for axis in (axes.xaxis, axes.yaxis)
        for tick in [*axis.get_major_ticks(), *axis.get_minor_ticks()]
        for label in (tick.label1, tick.label2)
        if not label.get_visible() or not _in_view(axis, tick)
    }
    for text in figure.findobj(Text):
        if text.get_visible() and text.get_text().strip() and text not in hidden | bare | shared:
            yield text


def _in_view(axis: object, tick: object) -> bool:
    low, high = sorted(axis.get_view_interval())  # type: ignore[attr-defined]
    slack = 1e-9 * max(abs(low), abs(high))
    return bool(low - slack <= tick.get_loc() <= high + slack)  # type: ignore[attr-defined]


def _within(box: Bbox, page: Bbox) -> bool:
    return bool(page.x0 <= box.x0 and box.x1 <= page.x1 and page.y0 <= box.y0 and box.y1 <= page.y1)
