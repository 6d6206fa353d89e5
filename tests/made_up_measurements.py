"""Measurements of a machine whose constants are known."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from hwmodels.calibrate.calibration import calibrate
from hwmodels.calibrate.measurements import (
    Measurements,
    Sample,
    sample_of,
    work_parameters,
)
from hwmodels.fits.fit import Fit
from hwmodels.kernels.roofline import activation_bytes
from offload.ops import KERNEL_KINDS, Gemm, OpKind, Work
from tests import small_fits

FLOP_PER_S, BYTES_PER_S, LINK_BYTES_PER_S = 19.5e12, 2.039e12, 31.5e9
"""What the makers of the machine below claim."""

TRUE = {"fixed_s": 2e-5, "gemm": 1.2, "activations": 3.0, "traffic": 1.7, "arithmetic": 2.5}
STACK = {"copy_latency_s": 9e-6, "link_efficiency": 0.8, "sync_s": 3e-5, "step_s": 8e-5}
READBACK_S, OFFLOADED, ISSUE_S = 4e-5, 1.15, 6e-6
ROWS, PARAMS, ASPECTS = (1, 16, 256), (1 << 16, 1 << 20, 1 << 24), (0.25, 1.0, 4.0)


def roofline_s(m: int, n: int, k: int) -> float:
    """The longer of arithmetic and reading the weights, as claimed."""
    return max(2 * m * n * k / FLOP_PER_S, 4 * n * k / BYTES_PER_S)


def utilisation(m: int, n: int, k: int) -> float:
    """A made-up law, three digits of it."""
    return float(f"{0.2 + 0.1 * np.log2(m) / 8 + 0.2 * np.log2(n * k) / 24 + 0.01 * np.log2(k / n):.3g}")


def shapes(m: int) -> list[Gemm]:
    """GEMMs on the grid, so that nothing is interpolated."""
    return [Gemm(m, round((p / a) ** 0.5), round((p * a) ** 0.5)) for p in PARAMS for a in ASPECTS]


def op_s(work: Work) -> float:
    """What an op takes by the constants above."""
    gemm_s = sum(g.n_gemms * roofline_s(g.m, g.n, g.k) / utilisation(g.m, g.n, g.k) for g in work.gemms)
    seconds = TRUE["fixed_s"] + TRUE["gemm"] * gemm_s + TRUE["activations"] * activation_bytes(work) / BYTES_PER_S
    return seconds + TRUE["traffic"] * work.hbm_bytes / BYTES_PER_S + TRUE["arithmetic"] * work.flop / FLOP_PER_S


def ops(kind: OpKind) -> list[Work]:
    """Ops in which every term has its say in some."""
    works = [Work(kind, (gemm,)) for m in ROWS for gemm in shapes(m)[::4]]
    works += [Work(kind, (gemm._replace(n_gemms=200),)) for m in (1, 256) for gemm in shapes(m)[:3]]
    works += [Work(kind, (Gemm(1, 512, 128),), hbm_bytes=n_bytes) for n_bytes in (1 << 26, 1 << 28)]
    return works + [Work(kind, (Gemm(1, 512, 128),), flop=flop) for flop in (1 << 31, 1 << 33)]


@cache
def noisy_fit() -> Fit:
    """Of a machine whose samples scatter by three hundredths; made once for all who ask."""
    return calibrate(synthetic(noise=0.03))


def synthetic(noise: float = 0.0, seed: int = 0, **changes: Any) -> Measurements:
    """Samples of a machine that follows the constants above, `noise` being the spread of each sample's logarithm."""
    rng = np.random.default_rng(seed)

    def sample(what: str, seconds: float, **parameters: Any) -> Sample:
        return sample_of(what, [seconds * float(np.exp(noise * rng.standard_normal()))] * 3, **parameters)

    def op(work: Work, seconds: float, beside: str = "nothing", probe: str = "probe") -> Sample:
        return sample("op", seconds, probe=probe, phase="decode", beside=beside, **work_parameters(work))

    samples = [
        sample_of(
            "gemm",
            [roofline_s(*gemm[:3]) / utilisation(*gemm[:3])],
            **gemm._asdict(),
            dtype="fp32",
            params=gemm.n * gemm.k,
            aspect=gemm.k / gemm.n,
        )
        for m in ROWS
        for gemm in shapes(m)
    ]
    link = LINK_BYTES_PER_S * STACK["link_efficiency"]
    sizes = (4096, 65536, 1 << 20, 1 << 22, 1 << 24, 1 << 26)
    copies = ((n_bytes, STACK["copy_latency_s"] + n_bytes / link) for n_bytes in sizes)
    samples += [sample("h2d", seconds, n_bytes=n, memory="pinned", beside="nothing") for n, seconds in copies]
    for kind in KERNEL_KINDS:
        for i, work in enumerate(ops(kind)):
            samples.append(op(work, op_s(work), probe=f"probe-{i}"))
            samples.append(op(work, op_s(work) * OFFLOADED, "pregate", f"probe-{i}"))
        samples.append(
            sample("issue", ISSUE_S, kind=kind.name.lower(), phase="decode", probe="probe", beside="nothing")
        )
    for kind, seconds in (
        (OpKind.WAIT, STACK["sync_s"]),
        (OpKind.STEP, STACK["step_s"]),
        (OpKind.READBACK, READBACK_S),
    ):
        samples += [op(Work(kind), seconds, "pregate", f"probe-{i}") for i in range(5)]
    found: dict[str, Any] = {"machine": {"spec": "a100-sxm4-80gb"}, "stack": "pytorch-eager", "samples": tuple(samples)}
    return small_fits.measurements(**{**found, **changes})
