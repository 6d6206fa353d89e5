"""Tables of measured GEMMs: exact on their grid, between its points, and as documents."""

from __future__ import annotations

import itertools
import math
import sys
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from hwmodels.kernels.roofline import GemmTable, binding_term, read_gemm_table
from offload.ops import Gemm
from tests.unit.hwmodels.kernels.measured_kernels import TABLE
from traces.errors import PregateError
from traces.foundation.documents import Section

POINT = GemmTable("fp32", (1.0,), (4096.0,), (1.0,), (((0.5,),),))


def shape(m: int, params: int, aspect: float) -> Gemm:
    """A GEMM at a place of a table: n k = params, k / n = aspect."""
    n = math.isqrt(round(params / aspect))
    return Gemm(m, n, params // n)


def test_a_table_is_exact_on_its_grid_and_its_edge_counts_beyond() -> None:
    for (i, m), (j, params), (k, aspect) in itertools.product(
        enumerate((1, 4)), enumerate((4096, 65536)), enumerate((0.25, 4.0))
    ):
        gemm = shape(m, params, aspect)
        assert TABLE.at(gemm) == pytest.approx(TABLE.utilisation[i][j][k], rel=1e-14)
        assert TABLE.covers(gemm)
    below, above = Gemm(1, 64, 16), Gemm(4096, 1 << 14, 1 << 17)
    assert TABLE.at(below) == pytest.approx(0.1)
    assert TABLE.at(above) == pytest.approx(0.8)
    assert not TABLE.covers(below)
    assert not TABLE.covers(above)
    assert not TABLE.covers(Gemm(1, 1024, 64))


def test_a_table_of_three_points_an_axis_is_exact_on_its_grid_and_covers_all_of_it() -> None:
    m, params, aspect = [1, 4, 64], [4096, 65536, 1 << 20], [0.25, 1.0, 4.0]
    cells = (np.arange(1.0, 28.0).reshape(3, 3, 3) / 100).tolist()
    table = read_gemm_table(
        Section({"dtype": "fp32", "m": m, "params": params, "aspect": aspect, "utilisation": cells}, "")
    )
    for i, j, k in itertools.product(range(3), repeat=3):
        gemm = shape(m[i], params[j], aspect[k])
        assert table.at(gemm) == pytest.approx(cells[i][j][k], rel=1e-14)
        assert table.covers(gemm)
    for m_between, (low, high) in ((2, (0, 1)), (16, (1, 2))):  # half way by ratio in either cell
        wanted = math.sqrt(cells[low][1][1] * cells[high][1][1])
        assert table.at(shape(m_between, params[1], aspect[1])) == pytest.approx(wanted, rel=1e-14)


def test_between_two_points_a_table_is_linear_in_logarithms() -> None:
    """Half way by ratio along each axis: the geometric mean of the ends."""
    assert TABLE.at(shape(2, 4096, 0.25)) == pytest.approx(math.sqrt(0.1 * 0.5))
    assert TABLE.at(shape(1, 16384, 0.25)) == pytest.approx(math.sqrt(0.1 * 0.3))
    assert TABLE.at(shape(1, 4096, 1.0)) == pytest.approx(math.sqrt(0.1 * 0.2))
    quarter = GemmTable("fp32", (1.0, 16.0), (4096.0,), (1.0,), (((0.2,),), ((0.8,),)))
    assert quarter.at(Gemm(2, 64, 64)) == pytest.approx(0.2 * 4**0.25)
    cells = np.array(TABLE.utilisation)
    assert TABLE.at(shape(2, 16384, 1.0)) == pytest.approx(float(np.exp(np.log(cells).mean())))


@given(st.integers(1, 10_000), st.integers(1, 100_000), st.integers(1, 100_000))
def test_a_table_of_one_point_says_the_same_of_every_shape(m: int, n: int, k: int) -> None:
    assert POINT.at(Gemm(m, n, k)) == pytest.approx(0.5)


@st.composite
def tables(draw: st.DrawFn) -> GemmTable:
    axes = [tuple(sorted(draw(st.sets(st.integers(1, 10_000).map(float), min_size=1, max_size=4)))) for _ in range(3)]
    cell = st.floats(1e-3, 1.0)
    cells = tuple(tuple(tuple(draw(cell) for _ in axes[2]) for _ in axes[1]) for _ in axes[0])
    return GemmTable("fp32", axes[0], axes[1], axes[2], cells)


def cell_of(axis: tuple[float, ...], value: float) -> slice:
    """The neighbours of `value`, the nearest edge beyond the axis."""
    above = next((i for i, x in enumerate(axis) if x >= value), len(axis) - 1)
    below = next((i for i in reversed(range(len(axis))) if axis[i] <= value), 0)
    return slice(min(below, above), max(below, above) + 1)


@given(tables(), st.integers(1, 20_000), st.integers(1, 200), st.integers(1, 200))
def test_utilisation_lies_between_the_extremes_of_its_cell(table: GemmTable, m: int, n: int, k: int) -> None:
    here = np.array(table.utilisation)[
        cell_of(table.m, m), cell_of(table.params, float(n * k)), cell_of(table.aspect, k / n)
    ]
    assert here.min() * (1 - 1e-12) <= table.at(Gemm(m, n, k)) <= here.max() * (1 + 1e-12)


@given(tables())
def test_a_table_survives_its_own_document(table: GemmTable) -> None:
    assert read_gemm_table(Section(table.to_dict(), "a test")) == table


def test_the_largest_table_and_the_largest_number_are_read() -> None:
    ascending = [float(i) for i in range(1, 4096)]
    document = {"dtype": "fp32", "m": [*ascending, sys.float_info.max], "params": [1.0], "aspect": [1.0]}
    table = read_gemm_table(Section({**document, "utilisation": [[[0.5]]] * 4096}, ""))
    assert len(table.m) == 4096
    assert table.m[-1] == sys.float_info.max


def test_of_two_that_overlap_the_longer_counts_and_arithmetic_at_a_tie() -> None:
    for flop_s, bytes_s, wanted in ((2.0, 1.0, (2.0, 0.0)), (1.0, 2.0, (0.0, 2.0)), (3.0, 3.0, (3.0, 0.0))):
        found = binding_term(flop_s, bytes_s)
        assert found == wanted
        assert [type(value) for value in found] == [float, float]
        many = binding_term(np.full(2, flop_s), bytes_s)
        assert [value.tolist() for value in many] == [[value] * 2 for value in wanted]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dtype": "fp33"}, "unknown number format 'fp33'"),
        ({"dtype": 7}, "dtype = 7 is not text"),
        ({"m": []}, "does not ascend"),
        ({"m": [4.0, 1.0]}, "does not ascend"),
        ({"m": [1.0, 1.0]}, "does not ascend"),
        ({"m": [0.0, 1.0]}, "not a finite number above 0"),
        ({"m": [1.0, float("nan")]}, "not a finite number above 0"),
        ({"m": [1.0, float("inf")]}, "not a finite number above 0"),
        ({"m": [1, 10**400]}, "not a finite number above 0"),
        ({"m": [True, 4.0]}, "True is not a finite number"),
        ({"m": "1, 4"}, "m is not a list"),
        ({"m": [float(i) for i in range(1, 4098)]}, "cells, at most 4096"),
        ({"params": [1.0]}, "not as long as its axes"),
        ({"utilisation": [[[0.1, 0.2], [0.3, 0.4]]]}, "not as long as its axes"),
        ({"utilisation": [0.5, 0.5]}, "not as long as its axes"),
        ({"utilisation": [[[0.1, 0.2], [0.3]], [[0.5, 0.6], [0.7, 0.8]]]}, r"not as long as its axes \(2 expected"),
        ({"utilisation": [[[0.1, 0.2], 0.3], [[0.5, 0.6], [0.7, 0.8]]]}, r"not as long as its axes \(2 expected"),
        ({"utilisation": [[[0.1, -0.2], [0.3, 0.4]], [[0.5, 0.6], [0.7, 0.8]]]}, "-0.2 is not a finite number above 0"),
        ({"utilisation": [[[0.1, "x"], [0.3, 0.4]], [[0.5, 0.6], [0.7, 0.8]]]}, "'x' is not a finite number above 0"),
        ({"utilization": []}, "did you mean 'utilisation'"),
    ],
)
def test_a_malformed_table_is_one_clear_line(change: dict[str, Any], message: str) -> None:
    with pytest.raises(PregateError, match=message) as caught:
        read_gemm_table(Section({**TABLE.to_dict(), **change}, "fit.yaml: gemm_tables[0]"))
    assert "fit.yaml: gemm_tables[0]" in str(caught.value)
    assert str(caught.value).count("fit.yaml") == 1
    assert "\n" not in str(caught.value)
