"""Copies from a kind of host memory whose rate and latency are known, and measurements with them."""

from __future__ import annotations

import dataclasses

from hwmodels.calibrate.measurements import Measurements, Sample, sample_of
from tests import small_fits

SIZES = (4 << 10, 32 << 10, 1 << 20, 16 << 20, 64 << 20)


def copies(memory: str, latency_s: float, bytes_per_s: float, sizes: tuple[int, ...] = SIZES) -> list[Sample]:
    return [
        sample_of("h2d", [latency_s + n / bytes_per_s] * 3, n_bytes=n, memory=memory, beside="nothing") for n in sizes
    ]


def with_copies(*more: Sample) -> Measurements:
    measured = small_fits.measurements()
    return dataclasses.replace(measured, samples=(*measured.samples, *more))
