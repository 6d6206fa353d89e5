"""What all pictures share: fonts and text, bare axes, ticks of a logarithmic axis, and how a file is written.

matplotlib is loaded on first use.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import numpy as np

from traces.errors import InvalidInput
from traces.foundation.atomic_files import whole_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure


INK, SOFT, LINE, PAPER = "#1f2328", "#555555", "#dddddd", "#ffffff"
"""Text, quieter text, grid and background: the colours that a page replaces by its own."""

_STYLE: Any = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 10.0,
    "text.parse_math": False,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "svg.fonttype": "none",
    "svg.hashsalt": "pregate",
    "figure.dpi": 100.0,
}

P = ParamSpec("P")
T = TypeVar("T")


def styled() -> Any:
    """A context in which figures are made and saved."""
    from matplotlib import rc_context

    return rc_context(_STYLE)


def picture(draw: Callable[P, T]) -> Callable[P, T]:
    """`draw` in that context, whatever the caller's own settings are."""

    @wraps(draw)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> T:
        _show_in_notebooks()
        with styled():
            return draw(*args, **kwargs)

    return drawn


def _show_in_notebooks() -> None:
    """Have a notebook show a figure that ends a cell, without `%matplotlib inline`."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    if shell is not None:
        shell.display_formatter.formatters["image/png"].for_type_by_name("matplotlib.figure", "Figure", _png)


def _png(figure: Figure) -> bytes:
    found = io.BytesIO()
    with styled():
        figure.savefig(found, format="png", dpi=80)
    return found.getvalue()


def bare(axes: Axes, grid: str = "both") -> None:
    """A quiet grid below what is drawn, no frame above or to the right."""
    axes.grid(axis=grid, color=LINE, lw=0.6)  # type: ignore[arg-type]
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def log_axis(axis: Axis, low: float, high: float, most: int = 7) -> None:
    """At most so many round numbers between the ends: 1, 2, 5 or tens only; in a narrow range finer ones."""
    ticks = _log_ticks(low, high, most)
    axis.set_ticks(ticks, [f"{tick:,g}" if tick < 1e6 else f"{tick:.0e}" for tick in ticks])
    axis.set_ticks([], minor=True)


def _log_ticks(low: float, high: float, most: int) -> list[float]:
    decades = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    ticks: list[float] = []
    for steps in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 4, 5, 7), tuple(np.arange(10, 100) / 10)):
        finer = [float(step * 10.0**k) for k in decades for step in steps if low <= step * 10.0**k <= high]
        if len(finer) > most and len(ticks) > 1:
            break
        ticks = finer[:: max(1, -(-len(finer) // most))]
        if len(ticks) >= 4:
            break
    return ticks


@picture
def save_figure(figure: Figure, path: str | Path) -> None:
    """Write a figure as its suffix says; whole or not at all. Raises `InvalidInput` for a suffix, `InvalidFile`."""
    kind = Path(path).suffix.lower().removeprefix(".")
    if kind not in ("png", "svg", "pdf"):
        raise InvalidInput(f"{path}: pictures are written as .png, .svg or .pdf")
    with whole_file(Path(path)) as partial:
        figure.savefig(partial, format=kind, dpi=150)
