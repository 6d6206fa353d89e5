"""Colours, markers, dashes and hatches of series: told apart in grey print and by colour-blind eyes.

The first six colours differ by 7 in lightness (CIE L*) and, as those without red, green or blue cones see them, by 25
in CIELAB; so do all twelve by 18. A policy has one colour in every picture, page and report.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from zlib import crc32

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


_N_OWNED = len(_POLICIES)
_N_FREE = len(PALETTE) - _N_OWNED


@dataclass(frozen=True, slots=True)
class SeriesStyle:
    """How one series is drawn, by whatever a picture has of it: a line, points or an area."""

    colour: str
    marker: str
    dash: str
    hatch: str


def colours_of(policies: Iterable[str]) -> dict[str, str]:
    """A colour a policy: its own where it has one, else one that its name chooses, whatever else is drawn and in which
    order. Two names that choose the same are told apart, the later one in the alphabet moves; when all twelve are
    taken they come again.
    """
    names = list(dict.fromkeys(policies))
    found = {name: _POLICIES[name] for name in names if name in _POLICIES}
    taken = set(found.values())
    for name in sorted(set(names) - found.keys()):
        wanted = _wanted(name)
        found[name] = next((colour for colour in wanted if colour not in taken), wanted[0])
        taken.add(found[name])
        if len(taken) == len(PALETTE):
            taken.clear()
    return {name: found[name] for name in names}


def hatch_number(colour: str) -> int:
    """0 for the six colours that grey tells apart, 1 to 6 for the others: how a page hatches an area of that colour."""
    return max(PALETTE.index(colour) + 1 - _N_OWNED, 0)


def _wanted(name: str) -> list[str]:
    """All colours, in the order in which a policy takes one: those that no policy owns before the others."""
    first = crc32(name.encode()) % _N_FREE
    return [*PALETTE[_N_OWNED + first :], *PALETTE[_N_OWNED : _N_OWNED + first], *PALETTE[_N_OWNED - 1 :: -1]]


def styles_of(policies: Iterable[str]) -> dict[str, SeriesStyle]:
    """How each of these is drawn: marker and hatch go with the colour, and a colour that comes again is dashed."""
    seen: dict[str, int] = {}
    styles = {}
    for name, colour in colours_of(policies).items():
        i, again = PALETTE.index(colour), seen.get(colour, 0)
        seen[colour] = again + 1
        styles[name] = SeriesStyle(colour, MARKERS[i], _DASHES[again % len(_DASHES)], _HATCHES[i])
    return styles
