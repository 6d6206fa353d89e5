"""From measurements to a fit: what was measured, one kind of op after the other, as constants of a cost model.

What is fitted, kind by kind: time = fixed + gemm x (GEMMs at the utilisation measured for their shape) + activations
x (what goes into and out of them) + traffic x (other bytes) + arithmetic x (other FLOP), all at the claimed rates.
Copies: latency + bytes / rate. What is a time of its own (a wait, a launch) is the median of its samples. Runs of the
workloads that a fit will be judged on have no place here: microbenchmarks only.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from hwmodels.calibrate.beside_copies import fit_apart, fit_beside_copies, fit_readback
from hwmodels.calibrate.decision_costs import with_deciding
from hwmodels.calibrate.issue_times import issue_times
from hwmodels.calibrate.least_squares import Fitted, fit_median, fit_sum, summary
from hwmodels.calibrate.link_figures import link_figures
from hwmodels.calibrate.measured_machine import Rates, machine_of
from hwmodels.calibrate.measurements import Measurements, Sample
from hwmodels.calibrate.offloaded_slowdown import fit_offloaded_slowdown
from hwmodels.calibrate.rounds import rounds_left_out
from hwmodels.fits.fit import Fit, FittedConstant, LeftOut
from hwmodels.fits.fit_limits import check_fit
from hwmodels.kernels.roofline import KERNEL_CONSTANTS, GemmTable, kernel_terms
from hwmodels.laws.beyond_table import ExtendedTable, extended_tables
from hwmodels.quantity import ReadOnly
from hwmodels.specs.machine_files import load_machine
from hwmodels.stacks.stack_files import load_stack
from offload.ops import KERNEL_KINDS
from traces.errors import InvalidInput

_Z95 = 1.959964

_SIZED = ("gemm", "h2d", "d2h", "disk_read")
"""Samples that rates are made of."""

_LEAST_SIZES = 3
"""Sizes of copies that tell latency from bandwidth, one to spare."""

_WIDE, _LEAST_GROWTH = 4096, 1.1
"""A copy of so many times the bytes of another takes at least so many times as long."""

_LEAST_OF_FORMAT = 6
"""Samples of ops in a format that are worth constants of their own."""

_LEAST_GEMM = 1e-3
"""Of what GEMMs take alone, where samples tell nothing of them."""

_MOST_OF_LINK, _MOST_OF_STORAGE = 2.0, 16.0
"""What copies may achieve of the rates that the machine claims: a link is what it is, a disk may be a better one."""

_MEDIANS: tuple[tuple[str, str], ...] = (("sync_s", "wait"), ("step_s", "step"))
"""Stack constants that are a time of their own: the constant, and the kind of op whose median it is."""

_OF_HOST: tuple[tuple[str, str, Mapping[str, object]], ...] = (
    ("launch_s", "issue", ReadOnly({"lane": "compute", "waits": 0, "found": "busy"})),
    ("copy_issue_s", "issue", ReadOnly({"lane": "h2d", "waits": 0, "found": "busy"})),
    ("kernel_s", "launch", ReadOnly({"queue": "full"})),
)
"""What the host pays for an op that does next to nothing, and the device for a kernel: for ops of kinds not timed."""

_NOTHING: Mapping[str, str] = ReadOnly({})


def calibrate(measured: Measurements, provenance: Mapping[str, str] = _NOTHING, *, insist: bool = True) -> Fit:
    """Fit a machine and its software on what was measured of them; `provenance` is added to the measurements' own.

    Raises `InvalidInput` when samples of something that a fit needs are missing and, if `insist`, when the machine was
    so busy that its measurements say nothing.
    """
    if insist and measured.trust.level == "none":
        raise InvalidInput(
            f"the measurements say nothing of this machine: {'; '.join(measured.trust.reasons)}: measure again with "
            f"less other work, or fit them as they are (--even-if-busy)"
        )
    _require_times(measured)
    stack = load_stack(measured.stack)
    hardware, machine, rates = machine_of(measured)
    tables = gemm_tables(measured, rates)
    constants = _fit_stack(measured, rates)
    device = (machine or load_machine(hardware)).accelerator
    kernels = _fit_kernels(measured, extended_tables(tables, device), rates)
    of_stack, of_kinds = _by_fit_name(constants, of_kinds=False), _by_fit_name(kernels, of_kinds=True)
    order, covariance = _joined([*of_stack, *of_kinds])
    left_out = _left_out(kernels) | {name: summary(one.left_out, one.weights) for name, one in constants.items()}
    found = Fit(
        name=f"{hardware}.{stack.name}",
        hardware=hardware,
        stack=stack.name,
        dtypes=tuple(table.dtype for table in tables),
        constants=ReadOnly(_entries(of_stack)),
        assumptions=ReadOnly({}),
        order=order,
        covariance=covariance,
        provenance=ReadOnly({**measured.provenance, **measured.trust.recorded(), **provenance}),
        kernels=ReadOnly({**_entries(of_kinds), **issue_times(measured)}),
        gemm_tables=tables,
        left_out=ReadOnly({"gemm": _gemm_left_out(tables), **left_out, "rounds": rounds_left_out(measured.samples)}),
        machine=machine,
        probes=measured.probes,
        link=ReadOnly(link_figures(measured, rates.link_bytes_per_s, described=machine is None)),
    )
    found = with_deciding(found, measured)
    check_fit(found)
    return found


def counts(sample: Sample) -> bool:
    """Whether an op's sample is one to fit its kind on: alone on the machine, and its work says all it does.

    The head of a prefill also norms every token of the prompt, which its work does not say.
    """
    parameters = sample.parameters
    alone = sample.what == "op" and parameters["beside"] == "nothing"
    return alone and (parameters["kind"] != "head" or parameters["phase"] == "decode")


def _require_times(measured: Measurements) -> None:
    """Raise `InvalidInput` for a sample of 0 s where a fit needs its logarithm."""
    kinds = {kind.name.lower() for kind in KERNEL_KINDS}
    for sample in measured.samples:
        of_kind = sample.what == "op" and sample.parameters["kind"] in kinds
        if (of_kind or sample.what in _SIZED) and not min(sample.mean_s, sample.median_s) > 0:
            raise InvalidInput(f"sample {sample.row} took no time at all: measure again")


def _fit_stack(measured: Measurements, rates: Rates) -> dict[str, Fitted]:
    """The constants of the software stack, by what they were fitted on."""
    copies = list(measured.of("h2d", beside="nothing", memory="pinned"))
    fitted = {"link": _fit_copies(copies, rates.link_bytes_per_s["h2d"])}
    for constant, what, parameters in _OF_HOST:
        found = [sample for sample in measured.of(what, **parameters) if sample.mean_s > 0]
        if found:
            fitted[constant] = fit_median(constant, found)
    for constant, kind in _MEDIANS:
        samples = list(measured.of("op", kind=kind, phase="decode"))
        if samples:
            fitted[constant] = fit_median(constant, samples)
    beside = fit_beside_copies(measured)
    if beside:
        fitted["beside_copies_s"] = beside[""]
    reads = list(measured.of("disk_read", direct=True))
    if reads:
        _require_growth(reads, _MOST_OF_STORAGE * rates.storage_bytes_per_s)
        terms = np.array([[_n_bytes(sample) / rates.storage_bytes_per_s] for sample in reads])
        slowdown = fit_sum(["slowdown"], terms, reads, keep_all=True)
        fitted["disk_read"] = slowdown.inverted("slowdown", "storage_efficiency")
    return fitted


def _fit_copies(samples: Sequence[Sample], claimed_bytes_per_s: float) -> Fitted:
    """Latency and achieved share of the link's rate."""
    n_sizes = len({_n_bytes(sample) for sample in samples})
    if n_sizes < _LEAST_SIZES:
        raise InvalidInput(f"{n_sizes} sizes of copies were measured, at least {_LEAST_SIZES} needed: measure again")
    _require_growth(samples, _MOST_OF_LINK * claimed_bytes_per_s)
    terms = np.array([[1.0, _n_bytes(sample) / claimed_bytes_per_s] for sample in samples])
    found = fit_sum(["copy_latency_s", "slowdown"], terms, samples, keep_all=True)
    return found.inverted("slowdown", "link_efficiency")


def _require_growth(samples: Sequence[Sample], most_bytes_per_s: float) -> None:
    """Raise `InvalidInput` unless larger copies take longer, and none outruns what moves it."""
    least, largest = (pick(samples, key=_n_bytes) for pick in (min, max))
    spans = _n_bytes(largest) >= _WIDE * _n_bytes(least)
    if spans and largest.mean_s < _LEAST_GROWTH * least.mean_s:
        raise InvalidInput(
            f"{largest.row} took {largest.mean_s:.3g} s and {least.row} {least.mean_s:.3g} s: larger copies "
            f"take longer, measure again"
        )
    if _n_bytes(largest) > most_bytes_per_s * largest.mean_s:
        raise InvalidInput(
            f"{largest.row} took {largest.mean_s:.3g} s, {_n_bytes(largest) / largest.mean_s:.3g} B/s: at most "
            f"{most_bytes_per_s:.3g} B/s can be on this machine: it is another than its rates say, measure again"
        )


def _n_bytes(sample: Sample) -> int:
    return int(sample.parameters["n_bytes"])


def _fit_kernels(measured: Measurements, tables: Mapping[str, ExtendedTable], rates: Rates) -> dict[str, Fitted]:
    """The constants of each kind of op, by `kind.dtype` where several formats were measured, whose kernels differ in
    more than their rates; by `kind/offloaded` what they are multiplied by beside fetches, and by `kind/apart` and
    `kind/beside` the same where the clock tells which run beside copies.

    Raises `InvalidInput` when a kind was not measured.
    """
    fitted: dict[str, Fitted] = {}
    for kind in (kind.name.lower() for kind in KERNEL_KINDS):
        samples = [sample for sample in measured.of("op", kind=kind) if counts(sample)]
        if not samples:
            raise InvalidInput(f"no op of kind {kind} was measured: measure again")
        fitted |= {f"{kind}{at}": _fit_kind(some, tables, rates) for at, some in _by_format(samples).items()}
        beside = fit_offloaded_slowdown(list(measured.of("op", kind=kind)))
        if beside is not None:
            fitted[f"{kind}/offloaded"] = beside
    fitted |= {f"{kind}/apart": one for kind, one in fit_apart(measured).items()}
    fitted |= {f"{kind}/beside": one for kind, one in fit_beside_copies(measured).items() if kind}
    return fitted | fit_readback(measured)


def _by_format(samples: Sequence[Sample]) -> dict[str, list[Sample]]:
    """Samples by the suffix of their constants: ".bf16", or "" of all together where a format has too few."""
    of: dict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        of[f".{sample.work.compute}"].append(sample)
    if len(of) == 1 or min(map(len, of.values())) < _LEAST_OF_FORMAT:
        return {"": list(samples)}
    return of


def _left_out(kernels: Mapping[str, Fitted]) -> dict[str, LeftOut]:
    """By kind of op, the errors of its formats together, and what else was fitted of it."""
    errors: dict[str, list[Fitted]] = defaultdict(list)
    for key, one in kernels.items():
        errors[key.partition(".")[0]].append(one)
    return {
        name: summary(
            np.concatenate([one.left_out for one in several]),
            np.concatenate(
                [
                    np.ones(len(one.left_out)) if one.weights is None else one.weights[: len(one.left_out)]
                    for one in several
                ]
            ),
        )
        for name, several in errors.items()
    }


def _fit_kind(samples: Sequence[Sample], tables: Mapping[str, ExtendedTable], rates: Rates) -> Fitted:
    """The constants of one kind of op."""
    names, rows = list(KERNEL_CONSTANTS), []
    for sample in samples:
        work = sample.work
        if work.compute not in tables:
            raise InvalidInput(f"ops were measured in {work.compute}, but no GEMM was: measure again")
        rate, rest = (rates.flop_per_s.get(name, 0.0) for name in (work.compute, work.flop_format))
        if not rest:
            raise InvalidInput(
                f"ops computed in {work.flop_format}, which the machine claims no rate for: leave it out"
            )
        terms = kernel_terms(work, tables[work.compute], rate, rates.hbm_bytes_per_s, rest)
        rows.append([1.0 if name == "fixed_s" else sum(terms[name]) for name in names])
    found = fit_sum(names, np.array(rows), samples, kept_always="gemm")
    if "gemm" not in found.values:
        return found
    return replace(found, values=ReadOnly({**found.values, "gemm": max(found.values["gemm"], _LEAST_GEMM)}))


def gemm_tables(measured: Measurements, rates: Rates) -> tuple[GemmTable, ...]:
    """The utilisation of the roofline over the grid that was measured, by number format, to three digits.

    Raises `InvalidInput` when the grid has holes, or is in a format that the machine claims no rate for.
    """
    by_dtype: dict[str, list[Sample]] = defaultdict(list)
    for sample in measured.of("gemm"):
        by_dtype[str(sample.parameters["dtype"])].append(sample)
    if not by_dtype:
        raise InvalidInput("no GEMM was measured: measure again")
    tables = []
    for dtype, samples in by_dtype.items():
        if dtype not in rates.flop_per_s:
            raise InvalidInput(f"GEMMs were measured in {dtype}, which the machine claims no rate for: leave it out")
        at = {_grid(sample): _utilisation(sample, rates) for sample in samples}
        if len(at) < len(samples):
            raise InvalidInput(f"{len(samples)} GEMMs in {dtype} are of {len(at)} shapes: each once is needed")
        m, params, aspect = (tuple(sorted({point[i] for point in at})) for i in range(3))
        missing = [(x, p, a) for x in m for p in params for a in aspect if (x, p, a) not in at]
        if missing:
            raise InvalidInput(f"the GEMM grid of {dtype} has no sample at {missing[0]}: measure again")
        cells = tuple(tuple(tuple(at[x, p, a] for a in aspect) for p in params) for x in m)
        tables.append(GemmTable(dtype, m, params, aspect, cells))
    return tuple(tables)


def _grid(sample: Sample) -> tuple[float, float, float]:
    m, params, aspect = (float(sample.parameters[name]) for name in ("m", "params", "aspect"))
    return m, params, aspect


def _utilisation(sample: Sample, rates: Rates) -> float:
    """What share of its time the roofline of a GEMM is; three digits are more than a measurement has."""
    m, n, k = (int(sample.parameters[name]) for name in ("m", "n", "k"))
    dtype = str(sample.parameters["dtype"])
    roofline_s = max(2 * m * n * k / rates.flop_per_s[dtype], n * k * rates.bytes_of(dtype) / rates.hbm_bytes_per_s)
    return float(f"{roofline_s / sample.mean_s:.3g}")


def _gemm_left_out(tables: Sequence[GemmTable]) -> LeftOut:
    """Each point between two others, interpolated from its neighbours in the number of rows."""
    errors = [np.zeros(0)]
    for table in tables:
        logs = np.log(np.array(table.utilisation))
        m = np.log(np.array(table.m))
        for i in range(1, len(m) - 1):
            share = (m[i] - m[i - 1]) / (m[i + 1] - m[i - 1])
            errors.append(np.exp(logs[i] - ((1 - share) * logs[i - 1] + share * logs[i + 1])).ravel() - 1)
    return summary(np.concatenate(errors))


def _by_fit_name(fitted: Mapping[str, Fitted], *, of_kinds: bool) -> list[tuple[tuple[str, ...], Fitted]]:
    """What was fitted together, with the names its constants have in a fit: those of a kind of op begin with it."""
    named = []
    for key, one in fitted.items():
        prefix = f"{key.partition('/')[0]}." if of_kinds else ""
        named.append((tuple(prefix + name for name in one.values), one))
    return named


def _entries(named: Iterable[tuple[Sequence[str], Fitted]]) -> dict[str, FittedConstant]:
    """Each constant with the interval of its own."""
    entries = {}
    for names, one in named:
        spreads = np.sqrt(np.diag(one.covariance)).tolist()
        for name, value, spread in zip(names, one.values.values(), spreads, strict=True):
            factor = float(np.exp(_Z95 * spread))
            entries[name] = FittedConstant(value, (value / factor, value * factor), one.rows)
    return entries


def _joined(
    named: Sequence[tuple[Sequence[str], Fitted]],
) -> tuple[tuple[str, ...], tuple[tuple[float, ...], ...]]:
    """One covariance of all, to six digits: what was fitted apart is independent."""
    order = tuple(name for names, _ in named for name in names)
    matrix = np.zeros((len(order), len(order)))
    at = 0
    for names, one in named:
        here = slice(at, at + len(names))
        matrix[here, here] = one.covariance
        at += len(names)
    return order, tuple(tuple(float(f"{x:.6g}") for x in row) for row in matrix.tolist())
