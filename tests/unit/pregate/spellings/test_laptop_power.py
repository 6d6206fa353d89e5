"""The power that a laptop's card is given sets its clock and its peaks, and the memory of some."""

from __future__ import annotations

from itertools import pairwise

import pytest

from hwmodels.specs.laptop_clocks import clock_at, laptop_clocks
from hwmodels.specs.machine_files import load_machine
from pregate.spellings.machine_names import machine_and_numbers
from traces.errors import InvalidInput


def test_every_listed_card_ships_and_its_clocks_rise() -> None:
    """The clock of its own file lies among them."""
    for card, listed in laptop_clocks().items():
        own = load_machine(card).accelerator
        assert all(a.power_w < b.power_w and a.clock_hz <= b.clock_hz for a, b in pairwise(listed)), card
        assert listed[0].clock_hz <= own.clock_hz <= listed[-1].clock_hz, card
        assert listed[-1].hbm_bytes_per_s in (None, own.hbm_bytes_per_s), card


@pytest.mark.parametrize(
    ("name", "card", "clock_mhz"),
    [
        ("RTX 4060 Laptop 60W", "rtx-4060-mobile", 1751.25),
        ("RTX 4070 mobile (115 W TGP)", "rtx-4070-mobile", 2175),
        ("RTX 4090 Laptop 175W + i9-13980HX, 64GB", "rtx-4090-mobile", 2040),  # with what the processor leaves
        ("RTX 4060 Laptop 60W 64GB DDR5", "rtx-4060-mobile", 1751.25),
        ("RTX 3080 laptop 16GB @ 115W", "rtx-3080-mobile-16gb", 1545),
    ],
)
def test_a_power_sets_clock_and_peaks(name: str, card: str, clock_mhz: float) -> None:
    named, numbers = machine_and_numbers(name)
    own = load_machine(card).accelerator
    assert named == card
    assert numbers["accelerator.clock_hz"] == pytest.approx(clock_mhz * 1e6)
    for dtype, peak in own.peak_flop_per_s.items():
        expected = peak * clock_mhz * 1e6 / own.clock_hz
        assert numbers[f"accelerator.peak_flop_per_s.{dtype}"] == pytest.approx(expected, rel=1e-4)


def test_memory_of_the_thinnest_is_slower() -> None:
    assert machine_and_numbers("RTX 3060 Laptop 70W")[1]["accelerator.hbm_bytes_per_s"] == 288e9
    assert machine_and_numbers("RTX 3060 Laptop 80W")[1]["accelerator.hbm_bytes_per_s"] == 336e9
    assert "accelerator.hbm_bytes_per_s" not in machine_and_numbers("RTX 4060 Laptop 60W")[1]


def test_a_power_that_nobody_sells_is_refused() -> None:
    with pytest.raises(InvalidInput, match="rtx-4060-mobile at 20 W: it is sold with 35 to 115 W, and 25 beyond"):
        machine_and_numbers("RTX 4060 Laptop 20W")
    with pytest.raises(InvalidInput, match="clocks by power are not known"):
        clock_at("rtx-4090", 300)
