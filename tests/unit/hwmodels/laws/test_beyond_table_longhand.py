"""GEMMs beyond a table against the same in longhand: SciPy fits the constants, every shape is priced by itself."""

from __future__ import annotations

import dataclasses
import itertools
import math

import numpy as np
import pytest
from scipy.optimize import least_squares

from hwmodels.kernels.roofline import GemmTable
from hwmodels.laws import beyond_table
from hwmodels.laws.beyond_table import ExtendedTable, extended_tables
from hwmodels.laws.gemm import dense_gemm
from hwmodels.laws.rates import CardRates
from hwmodels.specs.machine_files import load_machine
from offload.ops import Gemm

GPU = CardRates(400e12, 2e12, 108.0, 40e6)
USUAL = {  # where the law's constants start, and how far their logarithms may lie from there
    "fixed_s": (3e-6, 2.0), "peak": (0.8, 0.3), "memory": (0.85, 0.3), "ramp": (150.0, 1.0), "activations": (1.0, 0.7),
    "split_s": (3e-6, 0.5), "step_s": (1e-9, 0.5),
}  # fmt: skip
OTHERS = {"cache": 1.0, "kept": 1.0, "sustained": 1.0, "boost_s": math.inf}
TILES = (
    (1, 64), (4, 64), (16, 64), (64, 64), (64, 128), (128, 64), (128, 128), (128, 256), (256, 128), (64, 256),
)  # fmt: skip
BITS = {"bf16": 16, "fp8": 8, "fp32": 32}
OWN = {
    "fixed_s": 6e-6, "peak": 0.65, "memory": 0.75, "ramp": 200.0, "activations": 1.5, "split_s": 4e-6, "step_s": 1.5e-9,
}  # fmt: skip
"""Of the card that the tables are of: far from usual."""


@pytest.fixture(autouse=True)
def nothing_kept() -> None:
    """Fits of other tests are forgotten, so that every test fits for itself."""
    for kept in (beyond_table._beyond, beyond_table._fitted):
        kept.cache_clear()


def law_s(values: dict[str, float], bits: int, m: float, n: float, k: float) -> float:
    law = dense_gemm({**values, **OTHERS}, GPU, m, n, k, weight_bits=bits, activation_bits=bits, tiles=TILES)
    return float(law.total_s)


def roofline_s(bits: int, m: float, n: float, k: float) -> float:
    return max(2 * m * n * k / 400e12, n * k * bits / 8 / 2e12)


def sides(params: float, aspect: float) -> tuple[float, float]:
    """Columns and inner dimension: their product and the second over the first."""
    return math.sqrt(params / aspect), math.sqrt(params * aspect)


def table_of(dtype: str) -> GemmTable:
    """Of a card that obeys the law, so that no cell pulls the fit to where another tile is the fastest."""
    axes = (1.0, 8.0, 64.0, 512.0), (65536.0, 1048576.0), (0.25, 4.0, 16.0)

    def share(m: float, params: float, aspect: float) -> float:
        shape = m, *sides(params, aspect)
        return roofline_s(BITS[dtype], *shape) / law_s(OWN, BITS[dtype], *shape)

    cells = tuple(tuple(tuple(share(m, p, a) for a in axes[2]) for p in axes[1]) for m in axes[0])
    return GemmTable(dtype, *axes, cells)


TABLE = table_of("bf16")


def fitted(table: GemmTable) -> dict[str, float]:
    """What is least in the squares of ln(law / cell) / 0.6 and of ln(constant / usual) / its spread."""
    bits = BITS[table.dtype]
    cells = [
        (m, *sides(table.params[j], table.aspect[k]), table.utilisation[i][j][k])
        for (i, m), j, k in itertools.product(enumerate(table.m), range(len(table.params)), range(len(table.aspect)))
    ]

    def off(log_c: np.ndarray) -> list[float]:
        values = dict(zip(USUAL, np.exp(log_c).tolist(), strict=True))
        found = [math.log(law_s(values, bits, *cell[:3]) * cell[3] / roofline_s(bits, *cell[:3])) / 0.6
                 for cell in cells]  # fmt: skip
        return found + [(x - math.log(at)) / s for x, (at, s) in zip(log_c.tolist(), USUAL.values(), strict=True)]

    start = [math.log(at) for at, _ in USUAL.values()]
    found = least_squares(off, start, jac="3-point", xtol=1e-12, ftol=1e-12)
    return dict(zip(USUAL, np.exp(found.x).tolist(), strict=True))


@pytest.mark.parametrize("dtype", BITS)
def test_a_shape_beyond_the_table_is_the_law_there_times_measured_over_law_at_the_nearest(dtype: str) -> None:
    table, bits = table_of(dtype), BITS[dtype]
    values, extended = fitted(table), ExtendedTable(table, GPU)
    for (m, params, aspect), edge in (
        ((2048.0, 2.0**18, 1.0), (512.0, 2.0**18, 1.0)),
        ((16.0, 2.0**26, 4.0), (16.0, 2.0**20, 4.0)),
        ((0.5, 2.0**14, 2.0), (1.0, 2.0**16, 2.0)),
        ((8.0, 2.0**20, 64.0), (8.0, 2.0**20, 16.0)),
        ((300.0, 2.0**24, 1 / 16), (300.0, 2.0**20, 0.25)),
    ):  # fmt: skip
        there, here = (
            roofline_s(bits, rows, *sides(p, a)) / law_s(values, bits, rows, *sides(p, a))
            for rows, p, a in ((m, params, aspect), edge)
        )
        wanted = there / here * table.at_point(*edge)
        assert extended.at_point(m, params, aspect) == pytest.approx(wanted, rel=1e-4)
        n, k = sides(params, aspect)
        if m == int(m) and n == int(n):
            assert extended.at(Gemm(int(m), int(n), int(k))) == extended.at_point(m, params, aspect)


def test_what_the_table_holds_is_not_asked_of_the_law() -> None:
    extended = ExtendedTable(TABLE, GPU)
    for m, params, aspect in ((1.0, 65536.0, 0.25), (512.0, 1048576.0, 16.0), (20.0, 262144.0, 1.0)):
        assert extended.at_point(m, params, aspect) == TABLE.at_point(m, params, aspect)
    inside, outside = Gemm(20, 512, 512), Gemm(513, 512, 512)
    assert extended.at(inside) == TABLE.at(inside)
    assert (extended.covers(inside), extended.covers(outside)) == (True, False)


def test_each_table_is_met_with_the_rates_of_the_machine_in_the_format_that_it_computes_in() -> None:
    card = load_machine("h100-sxm").accelerator
    narrow = dataclasses.replace(TABLE, dtype="fp8")
    found = extended_tables([TABLE, narrow], card)
    assert list(found) == ["bf16", "fp8"]
    assert (found["bf16"].table, found["fp8"].table) == (TABLE, narrow)
    rest = card.hbm_bytes_per_s, card.n_sm, card.l2_bytes
    assert found["bf16"].rates == (card.peak_flop_per_s["bf16"], *rest)
    assert found["fp8"].rates == (card.peak_flop_per_s["fp8"], *rest)
    assert found["fp8"].rates.flop_per_s > 1.9 * found["bf16"].rates.flop_per_s


def valley(at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rosenbrock's: a bent valley whose floor is at (1, 1), into which whole steps overshoot."""
    x, y = at.tolist()
    return np.array([10 * (y - x * x), 1 - x]), np.array([[-20 * x, 10.0], [-1.0, 0.0]])


@pytest.mark.parametrize("start", [(-1.2, 1.0), (3.0, -2.0), (1.0, 1.0), (0.0, 0.0)])
def test_least_squares_are_found_where_steps_overshoot(start: tuple[float, float]) -> None:
    asked: list[tuple[float, ...]] = []

    def off(at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        asked.append(tuple(at.tolist()))
        return valley(at)

    found = beyond_table._least_squares(off, np.array(start))
    assert found.tolist() == pytest.approx([1.0, 1.0], abs=1e-6)
    assert asked[0] == start
    assert len(asked) <= 61


def test_a_search_stops_once_a_step_changes_nothing() -> None:
    """Residuals are linear, damped by a hundredth at first and by five times less each round: four steps."""
    n_asked = 0

    def off(at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        nonlocal n_asked
        n_asked += 1
        return np.array([3.0, 4.0]) @ np.diag(at - [2.0, -5.0]), np.diag([3.0, 4.0])

    assert beyond_table._least_squares(off, np.zeros(2)).tolist() == pytest.approx([2.0, -5.0], abs=1e-7)
    assert n_asked == 5


def test_a_step_that_overshoots_is_tried_anew_five_times_as_damped_until_it_gains() -> None:
    """Of the arc tangent at 50 a whole step leads to -3,800, a seventh one, damped 156-fold, to 25."""
    asked: list[float] = []

    def off(at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        asked.append(float(at[0]))
        return np.arctan(at), np.diag(1 / (1 + at * at))

    def after(at: float, damping: float) -> float:
        return at - math.atan(at) * (1 + at * at) / (1 + damping)

    assert beyond_table._least_squares(off, np.array([50.0])).tolist() == pytest.approx([0.0], abs=1e-6)
    wanted = [50.0, *(after(50.0, 0.01 * 5**i) for i in range(7))]
    assert asked[:8] == pytest.approx(wanted, rel=1e-9)
    assert abs(asked[6]) > 50 > asked[7] > 0
    assert asked[8] == pytest.approx(after(asked[7], 0.01 * 5**5), rel=1e-9)


def test_a_step_that_gains_nothing_is_not_taken_and_one_of_a_millionth_is_not_the_last() -> None:
    step = 1e-6
    n_asked = 0

    def off(at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        nonlocal n_asked
        n_asked += 1
        return np.array([1.01 * step]), np.array([[1.0]])

    assert 1.01 * step / (1 + 0.01) == step
    assert beyond_table._least_squares(off, np.array([7.0])).tolist() == [7.0]
    assert n_asked == 3
