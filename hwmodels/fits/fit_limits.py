"""What a fit can say: names that exist, constants within the bounds of their law, a covariance that is one.

A fit is written by a command and believed by every prediction, so what no measurement can give is refused where the fit
is made or read, and never called "fitted".
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from hwmodels.kernels.roofline import kernel_constant, measured_alone
from hwmodels.quantity import PLAUSIBLE, check_plausible
from hwmodels.specs.machine_files import hardware_names
from hwmodels.stacks.stack import BACKEND_STACKS, CONSTANTS, check_constant
from hwmodels.stacks.stack_files import stack_names
from offload.ops import KERNEL_KINDS, OpKind
from traces.errors import InvalidInput, unknown_name
from traces.model.dtypes import DTYPES, find_dtype

if TYPE_CHECKING:
    from hwmodels.fits.fit import Fit, FittedConstant


_BOUNDS: dict[str, tuple[float, float]] = {
    "offloaded": (0.1, 10.0),
    "cached": (0.1, 1.25),
    "apart": (0.1, 10.0),
    "gemm": (1e-6, 1e6),
    "activations": (1e-6, 1e6),
    "traffic": (1e-6, 1e6),
    "arithmetic": (1e-6, 1e6),
    "live": (0.01, 100.0),
    "live_offloaded": (0.01, 100.0),
    "beside_kernels": (1.0, 1e3),
    "slows_kernels": (1.0, 1e3),
}
"""Of the ratios of a kind of op. What only multiplies a small claim may be large: of attention on an H200 `activations`
is 330; beside fetches nothing is ten times as long, or a tenth."""

_MOST_UTILISATION = 4.0
"""Of the roofline: a cache feeds a GEMM some times as fast as the memory that is claimed, no more."""

_MOST_LOG_SPREAD = 3.5
"""Standard deviation of the logarithm of a constant: one that samples say nothing of is known to 3."""

_SPREADS = (1.5, 13.0)
"""Half a 95 % interval over the standard deviation: 1.96, with few samples Student's, 12.7 for two of them."""

_MOST_SCATTER = 30.0
"""Of the logarithm of predicted over measured; a nanosecond for an hour is 29."""

_NOT_KINDS = ("gemm", "rounds", "link", "disk_read")
"""What leave-one-out errors are of besides kinds of op and constants of the stack."""


_FETCHING = ("offloaded", "apart", "beside")
"""What is fitted of a kind of op in schedules that fetch."""


def can_be_ratio(name: str, value: float) -> bool:
    """Whether a ratio of a kind of op, such as "experts.live", can be `value`."""
    low, high = _BOUNDS[name.rpartition(".")[2]]
    return low <= value <= high


def check_fit(fit: Fit) -> None:
    """Raise `InvalidInput` for the first thing in `fit` that no calibration can have found; `UnknownName` for names."""
    _check_names(fit)
    for table in fit.gemm_tables:
        most = float(max(max(row) for plane in table.utilisation for row in plane))
        if most > _MOST_UTILISATION:
            raise InvalidInput(
                f"gemm_tables: {table.dtype} reaches {most:g} of the roofline, at most {_MOST_UTILISATION:g} can be: "
                f"the machine is another than its rates say, measure again"
            )
    for name, constant in fit.constants.items():
        check_constant(name, constant.value, "constants")
        _check_interval(name, constant, "constants")
    for name, constant in fit.assumptions.items():
        _check_interval(name, constant, "assumptions")
    for name, constant in fit.kernels.items():
        _check_kernel(name, constant)
    _check_covariance(fit)
    _check_left_out(fit)


def _check_names(fit: Fit) -> None:
    """The machine, the stack and the number formats exist and belong together."""
    if fit.stack not in stack_names():
        raise unknown_name("stack", fit.stack, stack_names())
    if fit.machine is None and fit.hardware not in hardware_names():
        raise unknown_name("hardware", fit.hardware, hardware_names())
    if fit.machine is not None and fit.machine.accelerator.name != fit.hardware:
        raise InvalidInput(
            f"hardware = {fit.hardware!r}, but the machine described is {fit.machine.accelerator.name!r}: "
            f"calibrate again"
        )
    if not fit.dtypes or len(set(fit.dtypes)) != len(fit.dtypes):
        raise InvalidInput(f"dtypes = {list(fit.dtypes)}: the formats that were measured are needed, each once")
    for dtype in fit.dtypes:
        if dtype not in DTYPES and not fit.laws:
            raise unknown_name("number format", dtype, DTYPES, "dtypes")
        find_dtype(dtype, "dtypes")
    if fit.laws:
        _check_laws(fit)
    if not fit.kernels:
        return
    if not fit.gemm_tables:
        raise InvalidInput("kernels without gemm_tables: calibrate again")
    if sorted(table.dtype for table in fit.gemm_tables) != sorted(fit.dtypes):
        raise InvalidInput(f"dtypes = {list(fit.dtypes)}, but gemm_tables are of other formats: calibrate again")
    software, described = fit.provenance, fit.machine is not None  # makers describe no processor
    ran = "cuda" if "cuda" in software or not described else "cpu" if "torch" in software else None
    runs = [name for backend, names in BACKEND_STACKS.items() if ran in (None, backend) for name in names]
    if fit.stack not in runs:
        raise InvalidInput(f"stack = {fit.stack!r}, but what was measured ran on {' or '.join(runs)}: calibrate again")


def _check_laws(fit: Fit) -> None:
    """Laws stand for themselves: with one of GEMMs, which every op has, and no two of the same kernels."""
    if fit.kernels or fit.gemm_tables:
        raise InvalidInput("laws beside kernels: a fit is of a table of kernels or of this project's measurements")
    known = [(law.form, law.compute, law.stored) for law in fit.laws]
    if len(set(known)) != len(known):
        raise InvalidInput("laws: two of the same kernels: calibrate again")
    if not any(law.form == "gemm" for law in fit.laws):
        raise InvalidInput("laws without one of GEMMs, which every op has: calibrate again")


def _check_kernel(name: str, constant: FittedConstant) -> None:
    value, what = constant.value, name.rpartition(".")[2]
    dimension = kernel_constant(name)
    if dimension is None:
        raise InvalidInput(f"kernels: {name!r} is no constant of a kind of op, such as experts.fixed_s")
    if what in _BOUNDS:
        if not can_be_ratio(name, value):
            low, high = _BOUNDS[what]
            raise InvalidInput(f"kernels: {name} = {value:g}: {low:g} to {high:g} can be, measure again")
    elif value > 0:
        check_plausible(max(value, PLAUSIBLE[dimension][0]), dimension, f"kernels: {name}")
    _check_interval(name, constant, "kernels")


def _check_interval(name: str, constant: FittedConstant, where: str) -> None:
    """A positive value inside its interval, fitted on something."""
    (low, high), value = constant.ci95, constant.value
    least = 0.0 if measured_alone(name) else math.ulp(0.0)  # issuing can be faster than a clock ticks
    if not (value > 0 and math.isfinite(value)):
        raise InvalidInput(f"{where}: {name} = {value:g} is not above 0 and finite")
    if not least <= low <= value <= high < math.inf:
        raise InvalidInput(f"{where}: {name}: ci95 = {[low, high]} is not an interval above 0 around {value:g}")
    if not constant.rows:
        raise InvalidInput(f"{where}: {name} was fitted on no rows: calibrate again")


def _check_covariance(fit: Fit) -> None:
    """Symmetric, positive semidefinite, no constant known exactly, and the intervals are its own."""
    known: Mapping[str, FittedConstant] = {**fit.constants, **fit.assumptions, **fit.kernels}
    if sorted(fit.order) != sorted(name for name in known if not measured_alone(name)):
        raise InvalidInput("log_covariance is not of the constants and assumptions of this fit: calibrate again")
    import numpy as np  # on use: a listing reads no fit

    matrix = np.array(fit.covariance, dtype=np.float64).reshape(len(fit.order), len(fit.order))
    if not matrix.size:
        return
    for name, variance in zip(fit.order, np.diag(matrix).tolist(), strict=True):
        if not 0 < variance <= _MOST_LOG_SPREAD**2:
            raise InvalidInput(
                f"log_covariance: variance of ln {name} = {variance:g}: above 0 to {_MOST_LOG_SPREAD**2:g} can be"
            )
        low, high = known[name].ci95
        spreads = math.log(high / low) / 2 / math.sqrt(variance)
        if not _SPREADS[0] <= spreads <= _SPREADS[1]:
            raise InvalidInput(
                f"log_covariance: ci95 of {name} is {2 * spreads:.3g} standard deviations wide, 3 to 26 can be: "
                f"calibrate again"
            )
    scale = np.sqrt(np.diag(matrix))
    correlation = matrix / np.outer(scale, scale)
    if np.abs(correlation - correlation.T).max() > 1e-6:
        raise InvalidInput("log_covariance: the matrix is not symmetric: calibrate again")
    least = float(np.linalg.eigvalsh(correlation).min())
    if least < -1e-4:
        raise InvalidInput(f"log_covariance: its least eigenvalue is {least:.3g}, not 0 or above: calibrate again")


def _check_left_out(fit: Fit) -> None:
    """The errors of every kind of op that was fitted, none beyond what a logarithm of times can be."""
    kinds = [kind.name.lower() for kind in OpKind]
    known = [*_NOT_KINDS, *CONSTANTS, *kinds, *(f"{kind}/{what}" for kind in kinds for what in _FETCHING)]
    for name, error in fit.left_out.items():
        if name not in known:
            raise unknown_name("leave-one-out error", name, known)
        if not 0 <= error.scatter <= _MOST_SCATTER or not 0 <= error.median <= error.p90 < 1e13:
            raise InvalidInput(
                f"leave_one_out: {name}: median {error.median:g}, p90 {error.p90:g}, scatter {error.scatter:g}: errors "
                f"ascend from 0, and scatter is at most {_MOST_SCATTER:g}"
            )
    if not fit.kernels:
        return
    fitted = {name.partition(".")[0] for name in fit.kernels if not measured_alone(name)}
    for kind in (kind.name.lower() for kind in KERNEL_KINDS):
        if kind not in fitted or kind not in fit.left_out:
            what = "kernels has" if kind not in fitted else "leave_one_out has"
            raise InvalidInput(f"{what} nothing of {kind}, which every calibration fits: calibrate again")
