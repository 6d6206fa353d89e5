"""From measurements to a fit: least squares in the logarithm of time, with covariance and leave-one-out errors.

What is fitted, kind by kind: time = fixed + gemm x (GEMMs at the utilisation measured for their shape) + activations
x (what goes into and out of them) + traffic x (other bytes) + arithmetic x (other FLOP), all at the claimed rates.
Copies: latency + bytes / rate. What is a time of its own (a wait, a launch) is the median of its samples. Runs of the
workloads that a fit will be judged on have no place here: microbenchmarks only.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hwmodels.fit import Fit, FittedConstant, LeftOut
from hwmodels.kernels import KERNEL_CONSTANTS, KERNEL_KINDS, GemmTable, activation_bytes
from hwmodels.measured_machine import Rates, machine_of
from hwmodels.measurements import Measurements, Sample
from hwmodels.quantity import ReadOnly
from hwmodels.stack import load_stack
from offload.ops import OpKind, Work
from traces.errors import InvalidInput

__all__ = ["calibrate", "kernel_terms"]

_Z95 = 1.959964
_LEAST_SPREAD = 0.02
"""No constant is known better than this: medians of one session agree better than sessions do."""

_PREFILL_WEIGHT = 0.25
"""Of a prefill's samples beside those of decoding, which runs an op hundreds of times for every time a prefill does."""

_SMALL = 1e-3
"""A term that is below this share of every sample is left out: there is nothing to fit it on."""


_NOTHING: Mapping[str, str] = ReadOnly({})


@dataclass(frozen=True, slots=True, eq=False)
class _Fitted:
    """Constants by name with the covariance of their logarithms, and the error of each sample left out."""

    values: Mapping[str, float]
    covariance: NDArray[np.float64]
    rows: tuple[str, ...]
    left_out: NDArray[np.float64]


def calibrate(measured: Measurements, provenance: Mapping[str, str] = _NOTHING) -> Fit:
    """Fit a machine and its software on what was measured of them; `provenance` is added to the measurements' own.

    Raises `InvalidInput` when a busy machine was measured, or samples of something that a fit needs are missing.
    """
    if not measured.is_clean:
        raise InvalidInput(f"measured on a busy machine ({measured.disturbances[0]}): measure again on a quiet one")
    stack = load_stack(measured.stack)
    hardware, machine, rates = machine_of(measured)
    tables = gemm_tables(measured, rates)
    constants: dict[str, _Fitted] = {}
    kernels: dict[str, _Fitted] = {}
    left_out: dict[str, LeftOut] = {"gemm": _gemm_left_out(measured, tables, rates)}
    by_dtype = {table.dtype: table for table in tables}
    for kind in KERNEL_KINDS:
        samples = [s for s in measured.of("op", kind=kind.name.lower(), beside="nothing") if _counts(kind, s)]
        if samples:
            kernels[kind.name.lower()] = _fit_kernels(samples, by_dtype, rates)
            beside = _fit_beside(kind, measured)
            if beside is not None:
                kernels[f"{kind.name.lower()}/offloaded"] = beside
    constants["link"] = _fit_copies(list(measured.of("h2d", beside="nothing", memory="pinned")), rates.h2d_bytes_per_s)
    for constant, what, parameters in _MEDIANS:
        samples = list(measured.of(what, **parameters))
        if samples:
            constants[constant] = _fit_median(constant, samples)
    readback = list(measured.of("op", kind="readback", phase="decode"))
    if readback:
        kernels["readback"] = _fit_median("fixed_s", readback)
    disk = [sample for sample in measured.of("disk_read", direct=True) if rates.storage_bytes_per_s]
    if disk:
        constants["disk_read"] = _fit_rate("storage_efficiency", disk, rates.storage_bytes_per_s)
    left_out |= {name: _summary(one.left_out) for name, one in {**kernels, **constants}.items()}
    issue = _issue_times(measured)
    entries = _entries("", constants), _entries_of_kernels(kernels)
    order, covariance = _joined([*constants.items()], [*kernels.items()])
    dtypes = tuple(dict.fromkeys(table.dtype for table in tables))
    return Fit(
        name=f"{hardware}.{stack.name}",
        hardware=hardware,
        stack=stack.name,
        dtypes=dtypes,
        constants=ReadOnly(entries[0]),
        assumptions=ReadOnly({}),
        order=order,
        covariance=covariance,
        provenance=ReadOnly({**measured.provenance, **provenance}),
        kernels=ReadOnly({**entries[1], **issue}),
        gemm_tables=tables,
        left_out=ReadOnly(left_out),
        machine=machine,
        probes=measured.probes,
    )


def _counts(kind: OpKind, sample: Sample) -> bool:
    """The head of a prefill also norms every token of the prompt, which its work does not say."""
    return kind is not OpKind.HEAD or sample.parameters["phase"] == "decode"


_MEDIANS: tuple[tuple[str, str, dict[str, object]], ...] = (
    ("sync_s", "op", {"kind": "wait", "phase": "decode"}),
    ("step_s", "op", {"kind": "step", "phase": "decode"}),
)
"""Stack constants that are a time of their own: the constant, and of which samples it is the median."""


def gemm_tables(measured: Measurements, rates: Rates) -> tuple[GemmTable, ...]:
    """The utilisation of the roofline over the grid that was measured, by number format.

    Raises `InvalidInput` when the grid has holes.
    """
    by_dtype: dict[str, list[Sample]] = defaultdict(list)
    for sample in measured.of("gemm"):
        by_dtype[str(sample.parameters["dtype"])].append(sample)
    if not by_dtype:
        raise InvalidInput("no GEMM was measured: measure again")
    tables = []
    for dtype, samples in by_dtype.items():
        at = {_grid(sample): _utilisation(sample, rates) for sample in samples}
        axes = [tuple(sorted({point[i] for point in at})) for i in range(3)]
        missing = [(m, p, a) for m in axes[0] for p in axes[1] for a in axes[2] if (m, p, a) not in at]
        if missing:
            raise InvalidInput(f"the GEMM grid of {dtype} has no sample at {missing[0]}: measure again")
        cells = tuple(tuple(tuple(at[m, p, a] for a in axes[2]) for p in axes[1]) for m in axes[0])
        tables.append(GemmTable(dtype, axes[0], axes[1], axes[2], cells))
    return tuple(tables)


def _grid(sample: Sample) -> tuple[float, float, float]:
    return tuple(float(sample.parameters[name]) for name in ("m", "params", "aspect"))  # type: ignore[return-value]


def _utilisation(sample: Sample, rates: Rates) -> float:
    """What share of its time the roofline of a GEMM is."""
    m, n, k = (int(sample.parameters[name]) for name in ("m", "n", "k"))
    dtype = str(sample.parameters["dtype"])
    roofline_s = max(2 * m * n * k / rates.flop_per_s[dtype], n * k * rates.bytes_of(dtype) / rates.hbm_bytes_per_s)
    return roofline_s / sample.mean_s


def _gemm_left_out(measured: Measurements, tables: Sequence[GemmTable], rates: Rates) -> LeftOut:
    """Each point between two others, interpolated from its neighbours in the number of rows."""
    errors = []
    for table in tables:
        logs = np.log(np.array(table.utilisation))
        m = np.log(np.array(table.m))
        for i in range(1, len(m) - 1):
            share = (m[i] - m[i - 1]) / (m[i + 1] - m[i - 1])
            errors.append(np.exp(logs[i] - ((1 - share) * logs[i - 1] + share * logs[i + 1])).ravel() - 1)
    return _summary(np.concatenate(errors)) if errors else LeftOut(0, 0.0, 0.0)


def kernel_terms(work: Work, table: GemmTable, rates: Rates) -> dict[str, float]:
    """Seconds by which each constant of `KERNEL_CONSTANTS` is multiplied in the time of `work` (fixed_s by 1)."""
    rate, bandwidth = rates.flop_per_s[work.dtype], rates.hbm_bytes_per_s
    gemm_s = 0.0
    for gemm in work.gemms:
        flop_s = 2 * gemm.m * gemm.n * gemm.k / rate
        bytes_s = gemm.n * gemm.k * work.weight_bits / 8 / bandwidth
        gemm_s += gemm.n_gemms * max(flop_s, bytes_s) / table.at(gemm)
    activations_s = activation_bytes(work) / bandwidth
    return {
        "fixed_s": 1.0,
        "gemm": gemm_s,
        "activations": activations_s,
        "traffic": work.hbm_bytes / bandwidth,
        "arithmetic": work.flop / rate,
    }


def _fit_kernels(samples: Sequence[Sample], tables: Mapping[str, GemmTable], rates: Rates) -> _Fitted:
    """The constants of one kind of op."""
    works = [sample.work for sample in samples]
    rows = [kernel_terms(work, tables.get(work.dtype, next(iter(tables.values()))), rates) for work in works]
    names = list(KERNEL_CONSTANTS)
    terms = np.array([[row[name] for name in names] for row in rows])
    return _fit_sum(names, terms, samples)


def _fit_beside(kind: OpKind, measured: Measurements) -> _Fitted | None:
    """How many times as long ops of a kind take while experts are fetched: pairs that differ in nothing else."""
    alone = {_same_op(s): s.mean_s for s in measured.of("op", kind=kind.name.lower(), beside="nothing")}
    samples = [
        s for s in measured.of("op", kind=kind.name.lower(), phase="decode") if s.parameters["beside"] != "nothing"
    ]
    pairs = [(s, np.log(s.mean_s / alone[_same_op(s)])) for s in samples if _same_op(s) in alone]
    if not pairs:
        return None
    logs = np.array([log for _, log in pairs])
    mean = float(logs.mean())
    spread = float(logs.std(ddof=1)) / np.sqrt(len(logs)) if len(logs) > 1 else 0.1
    variance = max(spread, _LEAST_SPREAD) ** 2
    rows = tuple(s.row for s, _ in pairs)
    return _Fitted({"offloaded": float(np.exp(mean))}, np.array([[variance]]), rows, np.exp(mean - logs) - 1)


def _same_op(sample: Sample) -> tuple[str, ...]:
    """What an op has in common with itself under another policy."""
    return tuple(str(sample.parameters[name]) for name in ("probe", "phase", "kind", "gemms"))


def _fit_copies(samples: Sequence[Sample], claimed_bytes_per_s: float) -> _Fitted:
    """Latency and achieved share of the link's rate."""
    if len(samples) < 3:
        raise InvalidInput(f"{len(samples)} sizes of copies were measured, at least 3 are needed: measure again")
    terms = np.array([[1.0, int(sample.parameters["n_bytes"]) / claimed_bytes_per_s] for sample in samples])
    found = _fit_sum(["copy_latency_s", "slowdown"], terms, samples)
    values = dict(found.values)
    values["link_efficiency"] = min(1.0, 1 / values.pop("slowdown"))
    return _Fitted(values, found.covariance, found.rows, found.left_out)


def _fit_rate(name: str, samples: Sequence[Sample], claimed_bytes_per_s: float) -> _Fitted:
    """The achieved share of a rate."""
    terms = np.array([[int(sample.parameters["n_bytes"]) / claimed_bytes_per_s] for sample in samples])
    found = _fit_sum(["slowdown"], terms, samples)
    return _Fitted({name: min(1.0, 1 / found.values["slowdown"])}, found.covariance, found.rows, found.left_out)


def _fit_median(name: str, samples: Sequence[Sample]) -> _Fitted:
    """A time of its own: the median, and the scatter of the medians around it."""
    medians = np.array([sample.mean_s for sample in samples])
    value = float(np.median(medians))
    scatter = float(np.median(np.abs(np.log(np.maximum(medians, 1e-9) / value)))) * 1.4826
    variance = max(scatter / np.sqrt(len(medians)), _LEAST_SPREAD) ** 2
    others = np.array([np.median(np.delete(medians, i)) for i in range(len(medians))]) if len(medians) > 1 else medians
    return _Fitted({name: value}, np.array([[variance]]), tuple(s.row for s in samples), others / medians - 1)


def _fit_sum(names: list[str], terms: NDArray[np.float64], samples: Sequence[Sample]) -> _Fitted:
    """Positive constants c that make terms @ c the medians of `samples`: least squares of ln(terms @ c / median).

    A term that has no part in any sample, or that fits best as nothing, is left out.
    """
    times = np.array([sample.mean_s for sample in samples])
    weights = np.array([_PREFILL_WEIGHT if s.parameters.get("phase") == "prefill" else 1.0 for s in samples])
    kept = _kept(terms, times, weights)
    log_c, covariance = _solve(terms[:, kept], times, weights)
    left_out = np.zeros(len(times))
    for i in range(len(times) if len(times) > len(kept) else 0):
        others = (np.delete(x, i, 0) for x in (terms[:, kept], times, weights))
        left_out[i] = terms[i, kept] @ np.exp(_solve(*others)[0]) / times[i] - 1
    values = {names[j]: float(np.exp(c)) for j, c in zip(kept, log_c, strict=True)}
    return _Fitted(values, covariance, tuple(dict.fromkeys(s.row for s in samples)), left_out)


def _kept(terms: NDArray[np.float64], times: NDArray[np.float64], weights: NDArray[np.float64]) -> list[int]:
    """The terms worth fitting: no more than samples allow, none that vanishes."""
    kept = [j for j in range(terms.shape[1]) if np.any(terms[:, j] > 0)][: len(times)]
    while len(kept) > 1:
        shares = terms[:, kept] * np.exp(_solve(terms[:, kept], times, weights)[0]) / times[:, None]
        least = int(np.argmin(shares.max(axis=0)))
        if shares[:, least].max() > _SMALL:
            break
        del kept[least]
    return kept


def _solve(
    terms: NDArray[np.float64], times: NDArray[np.float64], weights: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """ln(c), and its covariance from the Jacobian and what is left over."""
    from scipy.optimize import least_squares

    shares = terms / times[:, None]
    start = np.log(1 / np.maximum(shares.mean(axis=0) * terms.shape[1], 1e-12))

    def residuals(log_c: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(weights * np.log(shares @ np.exp(log_c)))

    found = least_squares(residuals, start, bounds=(start - 25, start + 25), max_nfev=400)
    n_free = max(float(np.sum(weights**2)) - len(start), 1.0)
    variance = max(float(found.fun @ found.fun) / n_free, _LEAST_SPREAD**2)
    return found.x, variance * np.linalg.pinv(found.jac.T @ found.jac, rcond=1e-10)


def _summary(errors: NDArray[np.float64]) -> LeftOut:
    size = np.abs(errors)
    return LeftOut(len(size), float(np.median(size)), float(np.quantile(size, 0.9)))


def _issue_times(measured: Measurements) -> dict[str, FittedConstant]:
    """Host time to issue an op of each kind, where nothing made the host wait: the lower quartile of the samples."""
    by_kind: dict[str, list[Sample]] = defaultdict(list)
    for sample in measured.of("issue"):
        kind = sample.parameters.get("kind")
        if isinstance(kind, str) and kind.upper() in OpKind.__members__:
            by_kind[kind].append(sample)
    found = {}
    for kind, samples in by_kind.items():
        low, value, high = np.quantile([sample.median_s for sample in samples], (0.05, 0.25, 0.95)).tolist()
        if value > 0:
            rows = tuple(dict.fromkeys(sample.row for sample in samples))
            found[f"{kind}.issue_s"] = FittedConstant(value, (min(low, value), max(high, value)), rows)
    return found


def _entries(prefix: str, fitted: Mapping[str, _Fitted]) -> dict[str, FittedConstant]:
    entries = {}
    for one in fitted.values():
        spreads = np.sqrt(np.diag(one.covariance))
        for (name, value), spread in zip(one.values.items(), spreads.tolist(), strict=True):
            factor = float(np.exp(_Z95 * min(spread, 5.0)))
            entries[prefix + name] = FittedConstant(value, (value / factor, value * factor), one.rows)
    return entries


def _entries_of_kernels(kernels: Mapping[str, _Fitted]) -> dict[str, FittedConstant]:
    entries: dict[str, FittedConstant] = {}
    for kind, one in kernels.items():
        entries |= _entries(f"{kind.partition('/')[0]}.", {kind: one})
    return entries


def _joined(
    constants: Sequence[tuple[str, _Fitted]], kernels: Sequence[tuple[str, _Fitted]]
) -> tuple[tuple[str, ...], tuple[tuple[float, ...], ...]]:
    """One covariance of all: what was fitted apart is independent."""
    order = [name for _, one in constants for name in one.values]
    order += [f"{kind.partition('/')[0]}.{name}" for kind, one in kernels for name in one.values]
    matrix = np.zeros((len(order), len(order)))
    at = 0
    for _, one in [*constants, *kernels]:
        n = len(one.values)
        matrix[at : at + n, at : at + n] = one.covariance
        at += n
    return tuple(order), tuple(tuple(float(f"{x:.6g}") for x in row) for row in matrix.tolist())
