"""Fit the published machine: six constants from twelve named rows, then two exponents of its workload from four.

Gauss-Newton on relative residuals (hit rates: on the difference), derivatives by finite differences of the whole
simulation. All constants are positive, so the search and the covariance are in ln(value): s^2 (J^T J)^-1 with s^2 the
residual variance, and the intervals are exp(ln(value) +- t s). They know only these rows and the model's form.
The exponents say how sequences of a batch share experts. Their rows depend on which prompts were drawn, so they are
fitted by themselves, on the machine that the twelve give, and move no constant of it.
The result is a fit file; nothing else reads the other rows.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwmodels.fits.fit import Fit, FittedConstant
from hwmodels.platform import load_platform
from hwmodels.quantity import ReadOnly
from pregate.measured.isca24.natural_routing import Activation
from pregate.measured.isca24.predicted_rows import Workbench
from pregate.measured.isca24.published_rows import Row
from traces.errors import InvalidInput

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
        "encoder_log_sd": ("switch-base-128/pregate/b1/throughput",),
        "decoder_working_set": ("switch-large-128/on_demand/b1/lru0.1/cache_hit_rate",),
        "gate_exponent": (
            "switch-base-8/on_demand/b16/moe_layer_latency",
            "switch-base-8/on_demand/b16/throughput",
            "switch-base-64/on_demand/b16/moe_layer_latency",
            "switch-base-64/on_demand/b16/throughput",
        ),
        "pregate_exponent": (
            "switch-base-8/pregate/b16/moe_layer_latency",
            "switch-base-8/pregate/b16/throughput",
            "switch-base-64/pregate/b16/moe_layer_latency",
            "switch-base-64/pregate/b16/throughput",
        ),
    }
)
"""The constants, each with the rows that chiefly determine it."""

ASSUMPTIONS = ("encoder_log_sd", "decoder_working_set", "gate_exponent", "pregate_exponent")
"""Which of them are of the workload, not of the machine (`pregate.measured.isca24.natural_routing.Activation`)."""

_EXPONENTS = ("gate_exponent", "pregate_exponent")
_STAGES = tuple(name for name in FIT_ROWS if name not in _EXPONENTS), _EXPONENTS
"""What is fitted together, first and then; the later stage holds what the first one found."""

_STEPS = {"encoder_log_sd": 0.08, "decoder_working_set": 0.06} | dict.fromkeys(_EXPONENTS, 0.1)
"""Relative finite-difference steps of what moves a trace; the machine's constants are moved by 1 %."""

_ROUNDS = 6


def is_fitted(row: Row) -> bool:
    """Whether a constant was fitted on the row."""
    return any(row.name in names for names in FIT_ROWS.values())


def fit_published(rows: Sequence[Row], provenance: Mapping[str, str]) -> Fit:
    """Fit the constants of `FIT_ROWS` to those rows of `rows`. Raises `InvalidInput` when one is missing."""
    by_name = {row.name: row for row in rows}
    missing = [name for names in FIT_ROWS.values() for name in names if name not in by_name]
    if missing:
        raise InvalidInput(f"the fit needs the row {missing[0]} ({len(missing)} are missing): give the whole file")
    found: dict[str, float] = {}
    estimates = []
    for stage in _STAGES:
        wanted = dict.fromkeys(name for constant in stage for name in FIT_ROWS[constant])
        problem = _Problem([by_name[name] for name in wanted], stage, found)
        values = _least_squares(problem)
        found |= dict(zip(stage, values.tolist(), strict=True))
        estimates.append(_estimated(problem, values))
    return _as_fit(estimates, provenance)


def _least_squares(problem: _Problem) -> NDArray[np.float64]:
    values = problem.start()
    for _ in range(_ROUNDS):
        residuals, jacobian = problem.residuals(values), problem.jacobian(values)
        step = np.linalg.lstsq(jacobian, -residuals, rcond=None)[0]
        values = problem.moved(values, step)
    return values


class _Problem:
    """Residuals of the fit rows as a function of the constants `names`, with those `found` before held."""

    def __init__(self, rows: Sequence[Row], names: Sequence[str], found: Mapping[str, float]) -> None:
        self.rows, self.names, self.found = rows, tuple(names), dict(found)
        self._claimed = load_platform(HARDWARE, STACK)
        self._benches: dict[tuple[Activation, float], Workbench] = {}

    def start(self) -> NDArray[np.float64]:
        """Where the search begins, (n_constants,): the stack's claims and the default assumptions."""
        assumed, claimed = Activation(), self._claimed.stack.constants
        return np.array([claimed[n].value if n in claimed else getattr(assumed, n) for n in self.names])

    def residuals(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Signed errors of the rows, (n_rows,)."""
        chosen = self.found | dict(zip(self.names, values.tolist(), strict=True))
        assumed = {name: chosen.pop(name) for name in ASSUMPTIONS if name in chosen}
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
        """(n_constants,) after a step, each by a factor of two at most; efficiencies stay below 1, counts whole."""
        moved: NDArray[np.float64] = values * np.exp(np.clip(log_step, -np.log(2), np.log(2)))
        for i, name in enumerate(self.names):
            if name.endswith("_efficiency") or name in _EXPONENTS:
                moved[i] = min(moved[i], 0.999)
            if name == "decoder_working_set":
                moved[i] = round(moved[i])
        return moved


@dataclass(frozen=True, slots=True)
class _Estimated:
    """Constants of one stage, with their intervals, and the covariance (n, n) of their logarithms."""

    constants: Mapping[str, FittedConstant]
    covariance: NDArray[np.floating[Any]]


def _estimated(problem: _Problem, values: NDArray[np.float64]) -> _Estimated:
    from scipy.special import stdtrit

    residuals, jacobian = problem.residuals(values), problem.jacobian(values)
    freedom = len(residuals) - len(values)
    variance = float(residuals @ residuals) / freedom
    covariance = variance * np.linalg.inv(jacobian.T @ jacobian)
    half = stdtrit(freedom, 0.975) * np.sqrt(np.diag(covariance))
    constants = {
        name: FittedConstant(float(v), (float(v * np.exp(-h)), float(v * np.exp(h))), FIT_ROWS[name])
        for name, v, h in zip(problem.names, values, half, strict=True)
    }
    return _Estimated(constants, covariance)


def _as_fit(stages: Sequence[_Estimated], provenance: Mapping[str, str]) -> Fit:
    from scipy.linalg import block_diag

    entries = {name: constant for stage in stages for name, constant in stage.constants.items()}
    covariance = block_diag(*(stage.covariance for stage in stages))
    return Fit(
        name=f"{HARDWARE}.{STACK}",
        hardware=HARDWARE,
        stack=STACK,
        dtypes=("fp32",),
        constants=ReadOnly({name: c for name, c in entries.items() if name not in ASSUMPTIONS}),
        assumptions=ReadOnly({name: c for name, c in entries.items() if name in ASSUMPTIONS}),
        order=tuple(entries),
        covariance=tuple(tuple(float(x) for x in row) for row in covariance),
        provenance=ReadOnly(dict(provenance)),
    )
