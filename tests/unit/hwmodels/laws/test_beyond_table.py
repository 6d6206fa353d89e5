"""GEMMs beyond a table of measured ones: made-up machines of a known law, of which a table holds a part."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable

import pytest

from hwmodels.cost import price
from hwmodels.figures import figures_of
from hwmodels.kernels.roofline import GemmTable
from hwmodels.laws.beyond_table import ExtendedTable
from hwmodels.laws.gemm import dense_gemm
from hwmodels.laws.rates import CardRates
from hwmodels.platform import platform_of
from offload.ops import Gemm, OpKind, Work
from tests import small_fits

GPU = CardRates(400e12, 2e12, 108.0, 40e6)
CORE = CardRates(200e9, 20e9, 1.0, 1e6)
ROWS = tuple(float(1 << i) for i in range(12))
PARAMS = tuple(float(1 << i) for i in range(16, 27, 2))
ASPECTS = (0.0625, 0.25, 1.0, 4.0, 16.0)

Law = Callable[[float, float, float], float]


def gpu_s(m: float, n: float, k: float) -> float:
    """Tiles in whole waves, with constants of its own."""
    own = {
        "fixed_s": 6e-6, "peak": 0.65, "memory": 0.75, "cache": 1.0, "kept": 1.0, "ramp": 200.0, "activations": 1.5,
        "split_s": 4e-6, "step_s": 1.5e-9, "sustained": 1.0, "boost_s": 1.0,
    }  # fmt: skip
    return float(dense_gemm(own, GPU, m, n, k).total_s)


def core_s(m: float, n: float, k: float) -> float:
    """A processor: a call, then the longer of arithmetic and reading weights."""
    return 2e-6 + max(2 * m * n * k / (0.9 * CORE.flop_per_s), 4 * n * k / (0.7 * CORE.bytes_per_s))


MACHINES: dict[str, tuple[CardRates, str, float, Law]] = {
    "gpu": (GPU, "bf16", 2.0, gpu_s),
    "core": (CORE, "fp32", 4.0, core_s),
}
PARTS = {
    "few rows": (ROWS[:7], PARAMS, ASPECTS),
    "small weights": (ROWS, PARAMS[:3], ASPECTS),
    "large weights": (ROWS, PARAMS[2:], ASPECTS),
    "square weights": (ROWS, PARAMS, ASPECTS[1:4]),
}


def sides(params: float, aspect: float) -> tuple[int, int]:
    return round(math.sqrt(params / aspect)), round(math.sqrt(params * aspect))


def roofline_s(rates: CardRates, size: float, m: float, n: float, k: float) -> float:
    return max(2 * m * n * k / rates.flop_per_s, n * k * size / rates.bytes_per_s)


def table_of(machine: str, rows: tuple[float, ...], params: tuple[float, ...], aspects: tuple[float, ...]) -> GemmTable:
    rates, dtype, size, law = MACHINES[machine]

    def share(m: float, p: float, a: float) -> float:
        return roofline_s(rates, size, m, *sides(p, a)) / law(m, *sides(p, a))

    cells = tuple(tuple(tuple(share(m, p, a) for a in aspects) for p in params) for m in rows)
    return GemmTable(dtype, rows, params, aspects, cells)


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("machine", MACHINES)
def test_beyond_a_part_of_the_grid_the_law_is_met_and_better_than_the_edge(machine: str, part: str) -> None:
    rates, _, size, law = MACHINES[machine]
    extended = ExtendedTable(table_of(machine, *PARTS[part]), rates)
    errors, at_edge = [], []
    for m, params, aspect in itertools.product(ROWS, PARAMS, ASPECTS):
        gemm = Gemm(int(m), *sides(params, aspect))
        if not extended.covers(gemm):
            right = roofline_s(rates, size, *gemm[:3]) / law(*gemm[:3])
            errors.append(abs(right / extended.at(gemm) - 1))
            at_edge.append(abs(right / extended.table.at(gemm) - 1))
    mean, clamped = sum(errors) / len(errors), sum(at_edge) / len(at_edge)
    assert mean < 0.25
    assert mean < max(clamped, 0.15)  # where nothing changes beyond the edge, the edge is right


@pytest.mark.parametrize("machine", MACHINES)
def test_nothing_jumps_at_the_edge_and_inside_the_table_is_what_counts(machine: str) -> None:
    rates = MACHINES[machine][0]
    table = table_of(machine, ROWS[:7], PARAMS[:3], ASPECTS[1:4])
    extended = ExtendedTable(table, rates)
    inside = Gemm(8, 512, 512)
    assert extended.at(inside) == table.at(inside)
    for last, beyond in ((Gemm(64, 512, 512), Gemm(65, 512, 512)), (Gemm(8, 1024, 1024), Gemm(8, 1025, 1024))):
        assert extended.covers(last)
        assert not extended.covers(beyond)
        assert extended.at(beyond) == pytest.approx(extended.at(last), rel=0.1)


def test_an_op_beyond_the_table_is_priced_by_the_law() -> None:
    """A head that is 64 times as large as the largest matrix that was measured, on the machine of the small fits."""
    hw = platform_of(small_fits.fit())
    assert hw.fit is not None
    gemm = Gemm(1, 1 << 14, 1 << 12)
    table = figures_of(hw).gemm_tables["fp32"]
    assert not table.covers(gemm)
    bare = dataclasses.replace(hw, fit=dataclasses.replace(hw.fit, kernels={}))
    seconds = price([Work(OpKind.HEAD, (gemm,))], bare).duration_s[0]
    assert seconds == pytest.approx(4 * gemm.n * gemm.k / small_fits.BYTES_PER_S / table.at(gemm), rel=1e-9)
    assert seconds == pytest.approx(small_fits.gemm_s(*gemm[:3]), rel=0.2)
