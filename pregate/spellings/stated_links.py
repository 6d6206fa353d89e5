"""The link that a machine's name states, `RTX 4090 PCIe 3.0 x8`, `3090 (gen4 x4)`, and cards outside of its case."""

from __future__ import annotations

import re
from dataclasses import dataclass

from hwmodels.specs.machine_files import component_names, load_machine
from traces.errors import InvalidInput

_BEFORE = r"\s*[,;@(\[]?\s*(?:\b(?:at|in|on|via|over|through|with|w/|as)\s+(?:an?\s+)?)?"
_AFTER = r"(?:\s+(?:slot|link|riser|lanes))?\s*[)\]]?"
_PCIE = re.compile(
    rf"{_BEFORE}\bPCI-?e(?:xpress)?(?:\s*(?:gen\s*|v)?(?P<generation>[3-6])(?:\.0)?(?![\d.]))?"
    rf"(?:\s*[-@]?\s*[x\u00d7](?P<lanes>\d{{1,2}})\b)?{_AFTER}"
    rf"|(?:(?<=.){_BEFORE}|(?=16))\b(?P<before>\d{{1,2}})\s?[x\u00d7]\s+PCI-?e(?:xpress)?\s*(?:gen\s*|v)?(?P<of>[3-6])(?:\.0)?(?![\d.]|\s*[-@]?\s*x\d){_AFTER}"
    rf"|{_BEFORE}\bgen\s?(?P<gen>[3-6])\s?[x\u00d7](?P<wide>\d{{1,2}})\b{_AFTER}",
    re.IGNORECASE | re.ASCII,
)
"""Fewer than 16 before all else are cards: `4x PCIe 4.0 RTX 3090`."""
_OUTSIDE = re.compile(
    rf"{_BEFORE}\b(?:(?P<lanes_alone>oculink)|thunderbolt[\s-]?[345]?|TB[345]|USB-?\s?4(?:\s?v2)?|"
    rf"e-?gpu(?:\s+(?:enclosure|dock|box))?)\b\s*[)\]]?",
    re.IGNORECASE,
)
"""How cards outside of a case are linked: OCuLink has lanes of PCIe, 3.0 or 4.0, four at most; Thunderbolt 3 and 4 pass
PCIe 3.0 x4 through a protocol of their own, 5 PCIe 4.0 x4, and reach less (Tom's Hardware, OCuLink outpaces Thunderbolt
5 in Nvidia RTX 5070 Ti tests, October 2025: read 2026-12-01, secondary).
"""
_OURS = re.compile(r"pcie(\d)-x(\d{1,2})")


@dataclass(frozen=True, slots=True)
class StatedLink:
    """A generation and lanes of PCIe, 0 of what is not stated."""

    generation: int
    lanes: int

    def beside(self, card: str) -> str:
        """The link as we call it, of a card that we know: what one of the two leaves open, and the most, is the card's
        own. Raises `InvalidInput` for lanes that no link here has.
        """
        own = _OURS.fullmatch(load_machine(card).link.name)
        if own is None:
            raise InvalidInput(f"{card} has no PCIe: leave the link out")
        most = int(own[1]), int(own[2])
        found = f"pcie{min(self.generation or most[0], most[0])}-x{min(self.lanes or most[1], most[1])}"
        if found not in component_names("link"):
            raise InvalidInput(f"no link {found} is described: say what it copies, link.h2d_bytes_per_s")
        return found


def without_link(text: str) -> tuple[str, StatedLink | None]:
    """The name of a machine without the PCIe that it states, and that; the word alone, as of an A100, is a part of the
    card's name.
    """
    for found in _PCIE.finditer(text[:200]):
        generation = found["generation"] or found["gen"] or found["of"]
        lanes = found["lanes"] or found["wide"] or found["before"]
        if generation or lanes:
            return _cut(text, found), StatedLink(int(generation or 0), int(lanes or 0))
    return text, None


def without_outside(text: str) -> tuple[str, str]:
    """The name of a machine without how its card outside of the case is linked, and what is to be said of that; ""
    where it says nothing of the kind.
    """
    found = _OUTSIDE.search(text[:200])
    if found is None:
        return text, ""
    bare = without_outside(_cut(text, found))[0]
    what = re.sub(r"^(?:at|in|on|via|over|through|with|w/|as)\s+(?:an?\s+)?", "", found[0].strip(" ,;@()[]"))
    if found["lanes_alone"]:
        return bare, f"{what} has four lanes of PCIe 3.0 or 4.0: say which, '{bare} PCIe 4.0 x4'"
    return bare, (
        f"what {what} copies is not known: Thunderbolt 3 and 4 pass PCIe 3.0 x4 at most, 5 PCIe 4.0 x4, and less after "
        f"their protocol: say '{bare} PCIe 3.0 x4', and link.h2d_bytes_per_s where it was measured"
    )


def _cut(text: str, found: re.Match[str]) -> str:
    rest = text[found.end() :]
    glue = "" if not rest or rest.startswith((" ", ",", ";", ")")) else " "
    return f"{text[: found.start()].rstrip()}{glue}{rest}".strip()
