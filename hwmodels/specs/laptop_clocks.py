"""Clocks of a laptop's card by the power that its maker gives it: `specs/laptop_clocks.csv`."""

from __future__ import annotations

import csv
import functools
import io
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

from hwmodels.shipped import SPECS
from traces.errors import InvalidInput
from traces.foundation.documents import read_text

_TABLE, _MAX_BYTES = SPECS / "laptop_clocks.csv", 1 << 16
_DYNAMIC_W = 25
"""What a processor that idles leaves to the card beyond that (Dynamic Boost: hardwarenexus.com, Nvidia announces
GeForce RTX 40 laptop GPU series, read 2026-12-01, secondary); laptops are often sold by the sum, at the same clock."""


@dataclass(frozen=True, slots=True)
class LaptopClock:
    """The boost clock of a card at a power, and the rate of its memory there; None: it is the same at all."""

    power_w: float
    clock_hz: float
    hbm_bytes_per_s: float | None


@functools.cache
def laptop_clocks() -> Mapping[str, tuple[LaptopClock, ...]]:
    """By card, with the power rising."""
    made: dict[str, list[LaptopClock]] = {}
    for row in csv.DictReader(io.StringIO(read_text(_TABLE, _MAX_BYTES))):
        rate = float(row["memory_gb_per_s"]) * 1e9 if row["memory_gb_per_s"] else None
        made.setdefault(row["card"], []).append(LaptopClock(float(row["power_w"]), float(row["boost_mhz"]) * 1e6, rate))
    return {card: tuple(clocks) for card, clocks in made.items()}


def clock_at(card: str, power_w: float) -> LaptopClock:
    """The clock of `card` at a power, in proportion between those that are listed; its memory as at the power listed
    below. Between two ends alone that is within 5 % of the eleven clocks of an RTX 3060, and 4 % more than the 1520 MHz
    of an RTX 4060 at 45 W (hmc-tech.com, read 2026-12-01). Raises `InvalidInput` for a card whose clocks are not
    listed, and for a power that it is not sold with.
    """
    listed = laptop_clocks().get(card)
    if listed is None:
        raise InvalidInput(f"{card} at {power_w:g} W: its clocks by power are not known: --set accelerator.clock_hz=")
    least, most = listed[0].power_w, listed[-1].power_w
    if not least <= power_w <= most + _DYNAMIC_W:
        raise InvalidInput(f"{card} at {power_w:g} W: it is sold with {least:g} to {most:g} W, and {_DYNAMIC_W} beyond")
    for below, above in pairwise(listed):
        if power_w < above.power_w:
            share = (power_w - below.power_w) / (above.power_w - below.power_w)
            clock_hz = below.clock_hz + share * (above.clock_hz - below.clock_hz)
            return LaptopClock(power_w, clock_hz, below.hbm_bytes_per_s)
    return LaptopClock(power_w, listed[-1].clock_hz, listed[-1].hbm_bytes_per_s)
