"""The power that a laptop's card is given, as a machine's name states it: `RTX 4060 Laptop 60W`, `4070m (115 W)`."""

from __future__ import annotations

import re

from hwmodels.specs.laptop_clocks import clock_at, laptop_clocks
from hwmodels.specs.machine_files import load_machine

_POWER = re.compile(
    r"\s*[,;@(\[]?\s*(?:\b(?:at|with|of|TGP|TDP|power|limited|limit|to)\b:?\s*)*"
    r"\b(?P<power_w>\d{2,3})\s?W(?:atts?)?\b(?!/)\s*(?:\b(?:TGP|TDP)\b)?\s*[)\]]?",
    re.IGNORECASE | re.ASCII,
)


def stated_power(text: str) -> tuple[str, float]:
    """The name of a machine without the one power that it states, and that in watts; the name and 0 of others."""
    found = list(_POWER.finditer(text[:200]))
    if len(found) != 1:
        return text, 0.0
    return f"{text[: found[0].start()]} {text[found[0].end() :]}".strip(), float(found[0]["power_w"])


def figures_at(card: str, power_w: float) -> dict[str, float | str]:
    """The numbers of `card` that its power sets: its clock, peaks in proportion, the rate of its memory; none of a card
    that is no laptop's. Raises `InvalidInput` as `clock_at`.
    """
    if card not in laptop_clocks():
        return {}
    accelerator, at = load_machine(card).accelerator, clock_at(card, power_w)
    share = at.clock_hz / accelerator.clock_hz
    made: dict[str, float | str] = {"accelerator.clock_hz": at.clock_hz}
    made |= {
        f"accelerator.peak_flop_per_s.{dtype}": share * peak for dtype, peak in accelerator.peak_flop_per_s.items()
    }
    if at.hbm_bytes_per_s is not None:
        made["accelerator.hbm_bytes_per_s"] = at.hbm_bytes_per_s
    return made
