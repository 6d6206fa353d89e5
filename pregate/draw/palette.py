"""Colours, markers, dashes and hatches of series: told apart in grey print and by colour-blind eyes.

The first six colours differ by 7 in lightness (CIE L*) and, as those without red, green or blue cones see them, by 25
in CIELAB; so do all twelve by 18. A policy has one colour in every picture, page and report.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

__all__ = ["MARKERS", "PALETTE", "SeriesStyle", "colours_of", "styles_of"]

PALETTE = (
    "#4b2db4", "#a52d4b", "#4b78b4", "#b4873c", "#0fc3b4", "#c3d20f",
    "#691e5a", "#9600ff", "#b4b4ff", "#9669f0", "#e18778", "#a50f0f",
)  # fmt: skip
"""Six that grey tells apart, six more that need their marker or hatch there."""

MARKERS = "osD^vPX*<>hp"
_DASHES = ("-", "--", "-.", ":")
_HATCHES = ("", "///", "...", "\\\\\\", "xx", "++", "oo", "||", "--", "**", "//..", "\\\\..")

_POLICIES = {
    name: PALETTE[i] for i, name in enumerate(("pregate", "on_demand", "gpu_only", "lru", "pregate(2)", "prefetch_all"))
}


@dataclass(frozen=True, slots=True)
class SeriesStyle:
    """How one series is drawn, by whatever a picture has of it: a line, points or an area."""

    colour: str
    marker: str
    dash: str
    hatch: str


def colours_of(policies: Iterable[str]) -> dict[str, str]:
    """A colour a policy: its own where it has one, else the next that none of these has, over and over."""
    names = list(dict.fromkeys(policies))
    taken = {_POLICIES[name] for name in names if name in _POLICIES}
    left = [colour for colour in PALETTE if colour not in taken]
    others = [name for name in names if name not in _POLICIES]
    extra = {name: left[i % len(left)] for i, name in enumerate(others)}
    return {name: _POLICIES.get(name) or extra[name] for name in names}


def styles_of(policies: Iterable[str]) -> dict[str, SeriesStyle]:
    """How each of these is drawn: marker and hatch go with the colour, and a colour that comes again is dashed."""
    seen: dict[str, int] = {}
    styles = {}
    for name, colour in colours_of(policies).items():
        i, again = PALETTE.index(colour), seen.get(colour, 0)
        seen[colour] = again + 1
        styles[name] = SeriesStyle(colour, MARKERS[i], _DASHES[again % len(_DASHES)], _HATCHES[i])
    return styles
