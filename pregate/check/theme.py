"""How pictures of a validation look: one colour a policy everywhere, and text and lines in the page's own colours.

The palette is Okabe and Ito's, safe for the colour-blind. matplotlib is loaded on first use.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable
from html import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["INK", "LINE", "MARKERS", "NAIVE", "PAPER", "colours_of", "inline_svg", "styled"]

INK, LINE, PAPER = "#1f2328", "#dddddd", "#ffffff"
"""Text, grid and background: the colours that a page replaces by its own."""

_POLICIES = {
    "gpu_only": "#0072b2",
    "on_demand": "#d55e00",
    "prefetch_all": "#e69f00",
    "pregate": "#009e73",
    "pregate(2)": "#56b4e9",
    "lru": "#cc79a7",
}
_MORE = ("#882255", "#999933", "#6f5fc7", "#a05a2c", "#44aa99", "#777777")
NAIVE = ("#bbbbbb", "#88aacc", "#ddaa55", "#aa7799")
MARKERS = "osD^vPX*<>hp"
_STYLE: Any = {
    "font.family": "sans-serif",
    "font.size": 10.0,
    "text.parse_math": False,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "hatch.color": "#888888",
    "svg.fonttype": "none",
    "svg.hashsalt": "pregate",
    "figure.dpi": 100.0,
}


def colours_of(policies: Iterable[str]) -> dict[str, str]:
    """A colour a policy: its own where it has one, else the next that is left."""
    names = list(dict.fromkeys(policies))
    others = [name for name in names if name not in _POLICIES]
    extra = {name: _MORE[i % len(_MORE)] for i, name in enumerate(others)}
    return {name: _POLICIES.get(name) or extra[name] for name in names}


def styled() -> Any:
    """A context in which figures are made and saved."""
    from matplotlib import rc_context

    return rc_context(_STYLE)


def inline_svg(figure: Figure, name: str, description: str) -> str:
    """A figure as SVG inside a page: its text and lines take the page's colours, its ids begin with `name`.

    `name` of letters, digits and hyphens. `description` is what a screen reader says.
    """
    text = io.StringIO()
    with styled():
        figure.savefig(
            text, format="svg", transparent=True, metadata=dict.fromkeys(("Creator", "Date", "Format", "Type"))
        )
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r'(xlink:href="|url\()#', rf"\1#{name}-", svg)
    svg = re.sub(INK, "currentColor", svg, flags=re.I)
    svg = re.sub("#555555", "currentColor", svg, flags=re.I)
    svg = re.sub(LINE, "var(--line)", svg, flags=re.I)
    svg = re.sub(PAPER, "var(--paper)", svg, flags=re.I)
    head = f'<svg role="img" aria-label="{escape(description)}" '
    svg = re.sub(r' xmlns(:xlink)?="[^"]*"', "", svg.replace("<svg ", head, 1))
    return re.sub(r' (width|height)="[\d.]+pt"', "", svg, count=2)
