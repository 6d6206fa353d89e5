"""Samples of deciding op by op, with measurements of a machine whose constants are known."""

from __future__ import annotations

from dataclasses import replace

from hwmodels.calibrate.measurements import Measurements, Sample, sample_of, work_parameters
from offload.ops import Gemm, OpKind, Work
from tests.made_up_measurements import op_s, synthetic

GATE = Work(OpKind.GATE, (Gemm(1, 512, 128),))


EXPERTS = Work(OpKind.EXPERTS, (Gemm(1, 512, 128),))


def decide(kind: str, after: str, *seconds: float) -> Sample:
    return sample_of("decide", list(seconds), kind=kind, after=after)


def live(work: Work, seconds: float, beside: str = "nothing") -> Sample:
    return sample_of("live", [seconds], probe="live", phase="decode", beside=beside, **work_parameters(work))


def deciding(of: str, beside: str, seconds: float) -> Sample:
    return sample_of("deciding", [seconds], of=of, beside=beside)


def measured() -> Measurements:
    plain = synthetic()
    more = (
        decide("gate", "self_attention", 3e-5, 3e-5), decide("experts", "gate", 5e-5, 7e-5),
        decide("experts", "asked", 9e-5), decide("self_attention", "step", 1e-4),
        live(GATE, 1.5 * op_s(GATE)), live(EXPERTS, 0.5 * op_s(EXPERTS)), live(EXPERTS, 2 * op_s(EXPERTS), "fetches"),
        deciding("host", "kernels", 3.0), deciding("host", "nothing", 2.0), deciding("kernels", "host", 2.5),
        deciding("kernels", "nothing", 1.0), deciding("both", "both", 2.0),
    )  # fmt: skip
    return replace(plain, samples=(*plain.samples, *more))
