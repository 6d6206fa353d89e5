"""Pictures inside a page: their text and lines take the page's own colours."""

from __future__ import annotations

import io
import re
from html import escape
from typing import TYPE_CHECKING

from pregate.draw.style import INK, LINE, PAPER, SOFT, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure


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
    svg = re.sub(SOFT, "currentColor", svg, flags=re.I)
    svg = re.sub(LINE, "var(--line)", svg, flags=re.I)
    svg = re.sub(PAPER, "var(--paper)", svg, flags=re.I)
    head = f'<svg role="img" aria-label="{escape(description)}" '
    svg = re.sub(r' xmlns(:xlink)?="[^"]*"', "", svg.replace("<svg ", head, 1))
    return re.sub(r' (width|height)="[\d.]+pt"', "", svg, count=2)
