"""Colours that grey print and colour-blind eyes tell apart: distances computed, not looked at.

Colour blindness is simulated by the matrices of Machado, Oliveira and Fernandes (IEEE TVCG 15, 2009), severity 1, in
linear RGB; distances are in CIELAB (D65), where about 2 is the least that a trained eye sees.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PathCollection, PolyCollection, QuadMesh
from matplotlib.colors import to_hex, to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray

from offload.ops import KINDS, Lane
from pregate.draw.palette import PALETTE, colours_of, hatch_number, styles_of
from tests.drawn import DRAWN, drawn

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


def test_areas_of_a_page_have_a_hatch_of_their_own_where_grey_confuses_them() -> None:
    hatches = {colour: hatch_number(colour) for colour in PALETTE}
    assert sorted(hatches.values()) == [0] * 6 + [1, 2, 3, 4, 5, 6]
    assert {colour for colour, hatch in hatches.items() if not hatch} == set(PALETTE[:6])


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


Series = tuple[str, str, str]
"""How a series is drawn: what it is made of, its shape (marker and dash, or hatch), its colour."""

LEAST_STEP = 7
"""Of lightness (CIE L*), by which print in grey tells two series apart that have one shape."""


def series_of(axes: Axes) -> set[Series]:
    """The series of a plot: every line, every area and every cloud of points, by how it is drawn.

    What lies in rows, as ops in their lanes, is told apart by its row.
    """
    found = {("line", f"{line.get_marker()} {line.get_linestyle()}", to_hex(line.get_color())) for line in axes.lines}
    found |= {_area(patch) for patch in axes.patches if patch.get_fill()}
    for each in axes.collections:
        seen = [to_hex(one) for one in each.get_facecolor() if to_rgba(one)[3] > 0]
        if isinstance(each, LineCollection):
            found |= {("line", str(each.get_linestyle()[0]), to_hex(one)) for one in each.get_colors()}
        elif isinstance(each, PolyCollection):
            rows = {tuple(np.round(path.get_extents().intervaly, 6)) for path in each.get_paths()}
            row = f" in row {rows.pop()}" if len(rows) == 1 else ""
            found |= {(f"area{row}", each.get_hatch() or "", one) for one in seen}
        elif isinstance(each, PathCollection):
            found |= {("points", str(each.get_paths()[0].vertices.shape), one) for one in seen}
    return found


def _area(patch: Patch) -> Series:
    return "area", patch.get_hatch() or "", to_hex(patch.get_facecolor())


def legends_of(figure: Figure) -> Iterator[set[Series]]:
    """The areas of each legend: what a map is coloured by."""
    legends = [*figure.legends, *(legend for axes in figure.axes if (legend := axes.get_legend()) is not None)]
    for legend in legends:
        yield {_area(patch) for patch in legend.get_patches() if patch.get_fill()}


def confused(figure: Figure) -> Iterator[tuple[Series, Series]]:
    """Pairs of one shape that grey print, or eyes without a cone, do not tell apart."""
    maps = any(axes.images or any(isinstance(each, QuadMesh) for each in axes.collections) for axes in figure.axes)
    for series in [*map(series_of, figure.axes), *(legends_of(figure) if maps else [])]:
        for one, other in combinations(sorted(series), 2):
            if one[:2] != other[:2]:
                continue
            colours = [one[2], other[2]]
            step = abs(lab(colours[0])[0] - lab(colours[1])[0])
            if step < LEAST_STEP or any(least_distance(colours, eyes) < LEAST_STEP for eyes in EYES):
                yield one, other


@pytest.mark.parametrize("name", DRAWN)
def test_series_of_a_picture_differ_in_shape_or_in_lightness(name: str) -> None:
    assert list(confused(drawn(name))) == []


def test_two_lines_of_one_shape_and_one_lightness_are_found() -> None:
    figure = Figure()
    axes = figure.subplots()
    axes.plot([0, 1], color="#c05000")
    axes.plot([1, 0], color="#7a7a00")
    assert len(list(confused(figure))) == 1
    axes.lines[1].set_linestyle("--")
    assert list(confused(figure)) == []
