"""Colours that grey print and colour-blind eyes tell apart: distances computed, not looked at.

Colour blindness is simulated by the matrices of Machado, Oliveira and Fernandes (IEEE TVCG 15, 2009), severity 1, in
linear RGB; distances are in CIELAB (D65), where about 2 is the least that a trained eye sees.
"""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from numpy.typing import NDArray

from offload.ops import KINDS, Lane
from pregate.draw.palette import PALETTE, colours_of, styles_of

EYES = {
    "all cones": np.eye(3),
    "protanopia": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "deuteranopia": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
    "tritanopia": np.array(
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]]
    ),
}
TO_XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)


def lab(colour: str, eyes: str = "all cones") -> NDArray[np.float64]:
    """(L*, a*, b*) of `#rrggbb` as such eyes see it."""
    rgb = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    seen = np.clip(EYES[eyes] @ linear, 0, 1)
    xyz = TO_XYZ @ seen / np.array([0.95047, 1.0, 1.08883])
    f = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def least_distance(colours: list[str], eyes: str) -> float:
    return min(float(np.linalg.norm(lab(a, eyes) - lab(b, eyes))) for a, b in combinations(colours, 2))


def test_lab_is_that_of_the_standard() -> None:
    assert lab("#ffffff") == pytest.approx([100, 0, 0], abs=0.02)
    assert lab("#ff0000") == pytest.approx([53.24, 80.09, 67.20], abs=0.02)


def test_what_is_known_to_be_confused_is_found_close() -> None:
    red, green = "#c05000", "#7a7a00"
    assert least_distance([red, green], "deuteranopia") < 0.4 * least_distance([red, green], "all cones")


@pytest.mark.parametrize("eyes", EYES)
def test_colours_are_told_apart_by_every_eye(eyes: str) -> None:
    assert least_distance(list(PALETTE[:6]), eyes) >= 25
    assert least_distance(list(PALETTE), eyes) >= 12


def test_the_first_six_are_told_apart_in_grey_and_stand_out_from_paper() -> None:
    lightness = sorted(lab(colour)[0] for colour in PALETTE[:6])
    assert np.diff(lightness).min() >= 7
    assert max(lab(colour)[0] for colour in PALETTE) <= 85


@pytest.mark.parametrize("lane", Lane)
def test_families_that_meet_in_a_lane_are_told_apart(lane: Lane) -> None:
    colours = {row.family: row.colour for row in KINDS.values() if row.lane is lane}
    for (one, a), (other, b) in combinations(colours.items(), 2):
        assert abs(lab(a)[0] - lab(b)[0]) >= 7, (one, other)
        assert all(least_distance([a, b], eyes) >= 14 for eyes in EYES), (one, other)


def test_a_policy_is_drawn_alike_everywhere_and_no_two_are_drawn_alike() -> None:
    few, many = ["lru", "pregate"], ["pregate", "lfu", "on_demand", "lru", *(f"lru:{i}" for i in range(20))]
    assert styles_of(few)["lru"] == styles_of(many)["lru"]
    assert len(set(colours_of(many[:12]).values())) == 12
    drawn = [(style.colour, style.dash) for style in styles_of(many).values()]
    assert len(set(drawn)) == len(many)
    marked = {(style.marker, style.hatch, style.dash) for style in styles_of(many).values()}
    assert len(marked) == len(many)


def test_a_name_chooses_its_colour_whatever_is_drawn_beside_it() -> None:
    others = [f"guess/{name}" for name in ("markov", "maps", "learned", "popular")] + ["finemoe", "adap_moe", "lfu"]
    alone = {name: colours_of([name])[name] for name in others}
    assert set(alone.values()) <= set(PALETTE[6:])
    assert len(set(alone.values())) >= 3
    for name, colour in alone.items():
        assert colours_of(["pregate", name, "gpu_only"])[name] == colour
        assert colours_of([name, "on_demand", "lru", "pregate(2)", "prefetch_all"])[name] == colour


def test_colours_do_not_depend_on_the_order_and_no_two_of_a_dozen_are_alike() -> None:
    names = ["pregate", "gpu_only", *(f"guess/{i}" for i in range(10))]
    assert colours_of(names) == colours_of(names[::-1])
    assert len(set(colours_of(names).values())) == 12
    assert len({(s.colour, s.dash) for s in styles_of([f"guess/{i}" for i in range(36)]).values()}) == 36
