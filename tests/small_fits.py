"""Made-up measurements of a machine that follows simple laws, for tests that need a fit without measuring anything."""

from __future__ import annotations

import dataclasses
from functools import cache

from hwmodels.calibrate.calibration import calibrate
from hwmodels.calibrate.measurements import Measurements, Sample, work_parameters
from hwmodels.fits.fit import Fit
from hwmodels.fits.shared_fit import COMMAND
from hwmodels.platform import Platform, platform_of
from hwmodels.quantity import ReadOnly
from offload.ops import Gemm, OpKind, Work

FLOP_PER_S, BYTES_PER_S, LINK_BYTES_PER_S, LINK_LATENCY_S = 200e9, 20e9, 2e9, 20e-6
FIXED_S = {OpKind.SELF_ATTENTION: 1e-4, OpKind.CROSS_ATTENTION: 5e-5, OpKind.GATE: 5e-5, OpKind.HEAD: 1e-4}
KINDS = (OpKind.SELF_ATTENTION, OpKind.CROSS_ATTENTION, OpKind.GATE, OpKind.EXPERTS, OpKind.DENSE_FFN, OpKind.HEAD)


def gemm_s(m: int, n: int, k: int) -> float:
    """A product that takes the longer of arithmetic and reading its weights."""
    return max(2 * m * n * k / FLOP_PER_S, 4 * n * k / BYTES_PER_S)


def sample(what: str, seconds: float, **parameters: object) -> Sample:
    """A sample without scatter."""
    return Sample(what, parameters, seconds, seconds, seconds, seconds, 10)


def op(work: Work, probe: str, beside: str = "nothing", slower: float = 1.0) -> Sample:
    """An op of the made-up machine."""
    seconds = FIXED_S.get(work.kind, 2e-5) + sum(g.n_gemms * gemm_s(g.m, g.n, g.k) for g in work.gemms)
    seconds += work.hbm_bytes / BYTES_PER_S
    described = {"probe": probe, "phase": "decode", "beside": beside} | work_parameters(work)
    return sample("op", seconds * slower, **described)


def measurements(**changes: object) -> Measurements:
    """Of a machine with a processor for an accelerator."""
    samples = [
        sample("gemm", gemm_s(m, n, k), m=m, n=n, k=k, dtype="fp32", params=n * k, aspect=k / n)
        for m in (1, 16, 256)
        for n, k in ((64, 64), (1024, 1024))
    ]
    samples += [
        sample(way, LINK_LATENCY_S + size / LINK_BYTES_PER_S, n_bytes=size, memory="pinned", beside="nothing")
        for way in ("h2d", "d2h")
        for size in (4096, 1 << 20, 1 << 24)
    ]
    for kind in KINDS:
        for i, (m, width, kv) in enumerate(((1, 256, 4096), (1, 512, 65536), (4, 256, 16384), (16, 512, 1 << 20))):
            work = Work(kind, (Gemm(m, width, 256), Gemm(m, 256, width)), hbm_bytes=kv * (kind != OpKind.EXPERTS))
            samples.append(op(work, f"probe-{i}"))
            samples.append(op(work, f"probe-{i}", "on_demand", 1.1))
    for kind, seconds in ((OpKind.WAIT, 3e-5), (OpKind.STEP, 8e-5), (OpKind.READBACK, 1e-4)):
        samples.append(op(Work(kind), "probe-0", "on_demand", seconds / 2e-5))
    found = {
        "machine": {
            "backend": "cpu", "name": "made-up", "vendor": "nobody", "spec": None, "hbm_bytes": 8 << 30,
            "n_compute_cores": 1, "clock_hz": 2e9, "cache_bytes": 1 << 20, "dram_bytes": 16 << 30, "n_cores": 2,
            "h2d_bytes_per_s": LINK_BYTES_PER_S, "d2h_bytes_per_s": LINK_BYTES_PER_S,
        },
        "stack": "threads",
        "provenance": {"command": "a test"},
        "disturbances": (),
        "probes": ("0123456789abcdef",),
        "samples": tuple(samples),
    }  # fmt: skip
    return Measurements(**{**found, **changes})  # type: ignore[arg-type]


def fit(**changes: object) -> Fit:
    """The fit of `measurements`."""
    return calibrate(measurements(**changes), {"command": "a test"}) if changes else _fit()


@cache
def _fit() -> Fit:
    return calibrate(measurements(), {"command": "a test"})


def shared(**conditions: object) -> Fit:
    """The fit as `pregate measure --share` writes it, of a processor with a name and 16 GiB."""
    of = {"system": "Linux x86_64", "processor": "Made up 8-Core Processor", "dram_bytes": float(16 << 30)}
    return dataclasses.replace(_shared(), conditions=ReadOnly({**of, **conditions}))


@cache
def _shared() -> Fit:
    software = {"torch": "2.13.0+cpu", "date": "2026-11-29 11:29 UTC", "platform": "linux", "trust": "fair"}
    found = measurements(provenance=software)
    about = {**found.machine, "name": "cpu-made-up-8-core-2c", "vendor": "MadeUp"}
    provenance = {"command": COMMAND, "measurements": found.digest}
    return calibrate(dataclasses.replace(found, machine=about), provenance)


def platform(**changes: object) -> Platform:
    """The machine that was fitted."""
    return platform_of(fit(**changes))
