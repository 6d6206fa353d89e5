"""Fit the published machine: six constants from twelve named rows of the published measurements.

Gauss-Newton on relative residuals (hit rates: on the difference), derivatives by finite differences of the whole
simulation. All constants are positive, so the search and the covariance are in ln(value): s^2 (J^T J)^-1 with s^2 the
residual variance, and the intervals are exp(ln(value) +- t s). They know only the twelve rows and
the model's form. The result is a fit file; nothing else reads the other rows.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwmodels.fit import Fit, FittedConstant
from hwmodels.platform import load_platform
from hwmodels.quantity import ReadOnly
from pregate.measured.isca24 import Activation, Row, Workbench
from traces.errors import InvalidInput

__all__ = ["FIT_ROWS", "fit_published"]

HARDWARE, STACK = "a100-sxm4-80gb", "fastertransformer"

FIT_ROWS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "kernel_s": (
            "switch-base-64/gpu_only/b1/moe_layer_latency",
            "switch-base-64/gpu_only/b1/throughput",
        ),
        "gemm_efficiency": ("switch-base-64/gpu_only/b64/forced32/moe_layer_latency",),
        "link_efficiency": (
            "switch-base-64/on_demand/b64/forced16/moe_layer_latency",
            "switch-base-8/prefetch_all/b1/moe_layer_latency",
            "switch-base-64/pregate/b64/forced4/moe_layer_latency",
            "switch-base-64/on_demand/b1/moe_layer_latency",
            "switch-base-64/pregate/b1/moe_layer_latency",
        ),
        "reserve_bytes": (
            "switch-base-8/pregate/b1/peak_gpu_memory",
            "switch-base-64/pregate/b1/peak_gpu_memory",
        ),
        "encoder_zipf_exponent": ("switch-base-128/pregate/b1/throughput",),
        "decoder_working_set": ("switch-large-128/on_demand/b1/lru0.1/cache_hit_rate",),
    }
)
"""The constants, each with the rows that chiefly determine it; all are fitted to all twelve together."""

ASSUMPTIONS = ("encoder_zipf_exponent", "decoder_working_set")
"""Which of them are of the workload, not of the machine (`pregate.measured.isca24.Activation`)."""

_STEPS = {"encoder_zipf_exponent": 0.08, "decoder_working_set": 0.06}
"""Relative finite-difference steps of what moves a trace; the machine's constants are moved by 1 %."""

_ROUNDS = 6


def fit_published(rows: Sequence[Row], provenance: Mapping[str, str]) -> Fit:
    """Fit the constants of `FIT_ROWS` to those rows of `rows`. Raises `InvalidInput` when one is missing."""
    by_name = {row.name: row for row in rows}
    wanted = list(dict.fromkeys(name for names in FIT_ROWS.values() for name in names))
    missing = [name for name in wanted if name not in by_name]
    if missing:
        raise InvalidInput(f"the fit needs the row {missing[0]} ({len(missing)} are missing): give the whole file")
    problem = _Problem([by_name[name] for name in wanted])
    values = problem.start()
    for _ in range(_ROUNDS):
        residuals, jacobian = problem.residuals(values), problem.jacobian(values)
        step = np.linalg.lstsq(jacobian, -residuals, rcond=None)[0]
        values = problem.moved(values, step)
    return _as_fit(problem, values, wanted, provenance)


class _Problem:
    """Residuals of the fit rows as a function of the constants, in the order of `FIT_ROWS`."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows, self.names = rows, tuple(FIT_ROWS)
        self._claimed = load_platform(HARDWARE, STACK)
        self._benches: dict[tuple[Activation, float], Workbench] = {}

    def start(self) -> NDArray[np.float64]:
        """Where the search begins: the stack's claims and the default assumptions."""
        assumed, claimed = Activation(), self._claimed.stack.constants
        return np.array([claimed[n].value if n in claimed else getattr(assumed, n) for n in self.names])

    def residuals(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Signed errors of the rows, (n_rows,)."""
        chosen = dict(zip(self.names, values.tolist(), strict=True))
        assumed = {name: chosen.pop(name) for name in ASSUMPTIONS}
        platform = dataclasses.replace(self._claimed, fit=None, overridden=ReadOnly(chosen))
        key = Activation(**assumed), platform.constant("reserve_bytes")
        bench = self._benches.setdefault(key, Workbench(platform, key[0]))
        return np.array([p.error for p in bench.on(platform).predict(self.rows)])

    def jacobian(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """d residual / d ln(value), central differences, (n_rows, n_constants)."""
        columns = []
        for i, name in enumerate(self.names):
            step = _STEPS.get(name, 0.01)
            up, down = values.copy(), values.copy()
            up[i], down[i] = values[i] * np.exp(step), values[i] * np.exp(-step)
            columns.append((self.residuals(up) - self.residuals(down)) / (2 * step))
        return np.stack(columns, axis=1)

    def moved(self, values: NDArray[np.float64], log_step: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        """One step, no constant by more than a factor of two; efficiencies stay below 1, expert counts whole."""
        moved: NDArray[np.float64] = values * np.exp(np.clip(log_step, -np.log(2), np.log(2)))
        for i, name in enumerate(self.names):
            if name.endswith("_efficiency"):
                moved[i] = min(moved[i], 0.999)
            if name == "decoder_working_set":
                moved[i] = round(moved[i])
        return moved


def _as_fit(
    problem: _Problem, values: NDArray[np.float64], wanted: Sequence[str], provenance: Mapping[str, str]
) -> Fit:
    residuals, jacobian = problem.residuals(values), problem.jacobian(values)
    from scipy.special import stdtrit

    freedom = len(wanted) - len(values)
    variance = float(residuals @ residuals) / freedom
    covariance = variance * np.linalg.inv(jacobian.T @ jacobian)
    half = stdtrit(freedom, 0.975) * np.sqrt(np.diag(covariance))
    entries = {
        name: FittedConstant(float(v), (float(v * np.exp(-h)), float(v * np.exp(h))), FIT_ROWS[name])
        for name, v, h in zip(problem.names, values, half, strict=True)
    }
    return Fit(
        name=f"{HARDWARE}.{STACK}",
        hardware=HARDWARE,
        stack=STACK,
        dtypes=("fp32",),
        constants=ReadOnly({name: c for name, c in entries.items() if name not in ASSUMPTIONS}),
        assumptions=ReadOnly({name: c for name, c in entries.items() if name in ASSUMPTIONS}),
        order=problem.names,
        covariance=tuple(tuple(float(x) for x in row) for row in covariance),
        provenance=ReadOnly(dict(provenance)),
    )
