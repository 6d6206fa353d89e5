"""GEMMs of shapes that a table of measured utilisation does not hold: the law of a dense GEMM, met at the table's edge.

Its constants are fitted on the cells of the table, by what is usual of them as much as by the cells: a table of small
matrices says nothing of bandwidth. Of a shape beyond, the law's time is scaled by what measurement over law is at
the nearest shape, so that nothing jumps at the edge. Of 24 parts of three measured grids the rest came out 34 % off on
average, at the edge's utilisation 124 % (`python docs/beyond_tables.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwmodels.compute_formats import computes_in
from hwmodels.kernels.roofline import GemmTable
from hwmodels.laws.gemm import TILES, dense_gemm
from hwmodels.laws.law_forms import FORMS
from hwmodels.laws.rates import CardRates
from hwmodels.specs.spec import Accelerator
from offload.ops import Gemm
from traces.model.dtypes import DTYPES

_USUAL_SPREAD: Mapping[str, float] = {
    "fixed_s": 2.0, "peak": 0.3, "memory": 0.3, "ramp": 1.0, "activations": 0.7, "split_s": 0.5, "step_s": 0.5,
}  # fmt: skip
"""The constants that a table tells, and how far their logarithms may lie from what is usual."""

_NOT_TOLD: dict[str, float] = {"cache": 1.0, "kept": 1.0, "sustained": 1.0, "boost_s": np.inf}
"""The others: no weights are read again, and a power limit shows in the peak of a table of a few cells."""

_CELL_SPREAD = 0.6
"""Of the logarithm of a cell's time about the law: large, as cells are off together, not each by itself."""

_LOW_TILES = ((1, 64), (4, 64), (16, 64), *TILES)
"""Also of few rows: processors and kernels for vectors pad nothing to 64."""

_ROUNDS, _ENOUGH, _STEP = 60, 1e-6, 1e-20
"""Of the fit: most rounds, a step in logarithms that ends it, and the complex step that slopes are taken by."""


@dataclass(frozen=True, slots=True)
class ExtendedTable:
    """A table, and beyond it a law fitted on its cells; `rates`: what the machine claims that it was measured on."""

    table: GemmTable
    rates: CardRates

    def at(self, gemm: Gemm) -> float:
        """Utilisation of the roofline: interpolated where the table covers the shape, else by the law."""
        return self.at_point(float(gemm.m), float(gemm.n * gemm.k), gemm.k / gemm.n)

    def at_point(self, m: float, params: float, aspect: float) -> float:
        """The same of rows, weights and their aspect."""
        if self.table.covers_point(m, params, aspect):
            return self.table.at_point(m, params, aspect)
        return _beyond(self.table, self.rates, m, params, aspect)

    def covers(self, gemm: Gemm) -> bool:
        """Whether the shape lies within the table."""
        return self.table.covers(gemm)


def extended_tables(tables: Iterable[GemmTable], device: Accelerator) -> dict[str, ExtendedTable]:
    """By the format that they were measured in; `device`: the accelerator that they were measured on."""
    stated, found = device.peak_flop_per_s, {}
    for table in tables:
        flop_per_s = stated[computes_in(table.dtype, stated)]
        rates = CardRates(flop_per_s, device.hbm_bytes_per_s, float(device.n_sm), float(device.l2_bytes))
        found[table.dtype] = ExtendedTable(table, rates)
    return found


@lru_cache(maxsize=4096)
def _beyond(table: GemmTable, rates: CardRates, m: float, params: float, aspect: float) -> float:
    """The law's utilisation of a shape, times measured over law at the nearest shape of the table."""
    axes = (m, table.m), (params, table.params), (aspect, table.aspect)
    edge = tuple(min(max(value, axis[0]), axis[-1]) for value, axis in axes)
    points = np.array([(m, params, aspect), edge])
    here, there = _by_law(table, rates, _shapes(*points.T)).tolist()
    return float(here / there) * table.at_point(*edge)


def _shapes(m: NDArray[np.float64], params: NDArray[np.float64], aspect: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n, 3), columns m, n and k."""
    return np.stack([m, np.sqrt(params / aspect), np.sqrt(params * aspect)], axis=1)


def _by_law(table: GemmTable, rates: CardRates, shapes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Utilisation of `shapes` (n, 3), columns m, n and k."""
    seconds = _seconds(np.array(_fitted(table, rates)), rates, shapes, DTYPES[table.dtype].bits)
    return np.asarray(_roofline_s(rates, shapes, DTYPES[table.dtype].bits) / seconds)


def _seconds(log_c: NDArray[Any], rates: CardRates, shapes: NDArray[np.float64], bits: float) -> NDArray[Any]:
    """Of constants by their logarithms, (n_constants,) or (n_constants, n_sets, 1) for several sets of them at once."""
    values = dict(zip(_USUAL_SPREAD, np.exp(log_c), strict=True)) | _NOT_TOLD
    m, n, k = shapes.T
    kernel = dense_gemm(values, rates, m, n, k, weight_bits=bits, activation_bits=bits, tiles=_LOW_TILES)
    return np.asarray(kernel.total_s)


def _roofline_s(rates: CardRates, shapes: NDArray[np.float64], bits: float) -> NDArray[np.float64]:
    m, n, k = shapes.T
    return np.asarray(np.maximum(2 * m * n * k / rates.flop_per_s, n * k * bits / 8 / rates.bytes_per_s))


def _cells(table: GemmTable) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Shapes (n, 3) and utilisation (n,) of every cell."""
    m, params, aspect = (x.ravel() for x in np.meshgrid(table.m, table.params, table.aspect, indexing="ij"))
    return _shapes(m, params, aspect), np.ravel(table.utilisation)


@lru_cache(maxsize=64)
def _fitted(table: GemmTable, rates: CardRates) -> tuple[float, ...]:
    """Logarithms of the constants: damped least squares of ln(law / cell), and of how unusual each constant is."""
    bits = DTYPES[table.dtype].bits
    shapes, utilisation = _cells(table)
    measured = np.log(_roofline_s(rates, shapes, bits) / utilisation)
    usual = np.log([FORMS["gemm"].constants[name][1] for name in _USUAL_SPREAD])
    spread = np.array(list(_USUAL_SPREAD.values()))

    def off(log_c: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Residuals, and their derivatives by each constant: a complex step."""
        steps = log_c[:, None, None] + 1j * _STEP * np.eye(len(log_c))[:, :, None]
        by_cell = (np.log(_seconds(steps, rates, shapes, bits)) - measured) / _CELL_SPREAD
        residuals = np.concatenate([np.real(by_cell[0]), (log_c - usual) / spread])
        return residuals, np.concatenate([np.imag(by_cell).T / _STEP, np.diag(1 / spread)])

    return tuple(_least_squares(off, usual).tolist())


def _least_squares(
    off: Callable[[NDArray[np.float64]], tuple[NDArray[np.float64], NDArray[np.float64]]], start: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Where the squares of `off` are least, from `start` downhill (Levenberg and Marquardt's damping)."""
    at, damping = start, 1e-2
    residuals, slopes = off(at)
    for _ in range(_ROUNDS):
        normal = slopes.T @ slopes
        step = np.linalg.solve(normal + damping * np.diag(np.diag(normal)), -slopes.T @ residuals)
        there = off(at + step)
        if there[0] @ there[0] < residuals @ residuals:
            at, (residuals, slopes), damping = at + step, there, damping / 5
        else:
            damping *= 5
        if float(np.abs(step).max()) < _ENOUGH:
            break
    return at
