"""What copies from each kind of host memory were measured to take, as figures of a link."""

from __future__ import annotations

import numpy as np

from hwmodels.calibrate.least_squares import fit_sum
from hwmodels.calibrate.measurements import Measurements, Sample
from hwmodels.specs.machine_fields import HOST_MEMORY
from traces.errors import InvalidInput

_LEAST_SIZES = 3
"""A rate and a latency are told apart by so many sizes of copies."""

_PIECE_BYTES = (16 << 10, 64 << 10)
"""Pieces that a gathered expert lies in: some tens of KB, a call each."""

_RATE, _LATENCY = "{}_h2d_bytes_per_s", "{}_copy_latency_s"


def memory_figures(measured: Measurements) -> dict[str, float]:
    """Rates and latencies by field of a link (`mapped_h2d_bytes_per_s`), for the kinds whose copies were timed.

    A queue of small pinned copies is what a gathered expert takes. Empty where one kind of memory was timed only: all
    host memory is alike there.
    """
    copies = {kind: list(measured.of("h2d", beside="nothing", memory=kind)) for kind in HOST_MEMORY}
    found: dict[str, float] = {}
    for kind in ("pageable", "mapped", "remote"):
        if len({_n_bytes(sample) for sample in copies[kind]}) >= _LEAST_SIZES:
            latency_s, bytes_per_s = copy_line(copies[kind])
            found |= {_RATE.format(kind): bytes_per_s, _LATENCY.format(kind): latency_s}
    for kind in ("pageable", "remote"):
        back = list(measured.of("d2h", beside="nothing", memory=kind))
        if len({_n_bytes(sample) for sample in back}) >= _LEAST_SIZES:
            found[f"{kind}_d2h_bytes_per_s"] = copy_line(back)[1]
    small = [sample for sample in copies["pinned"] if _PIECE_BYTES[0] <= _n_bytes(sample) <= _PIECE_BYTES[1]]
    if found and small:
        piece = min(small, key=lambda sample: abs(_n_bytes(sample) - 32 * 1024))
        found[_RATE.format("gathered")] = _n_bytes(piece) / piece.median_s
    return found


def copy_line(samples: list[Sample]) -> tuple[float, float]:
    """Latency and rate of copies. Raises `InvalidInput` for copies that took no time."""
    if not min(sample.mean_s for sample in samples) > 0:
        raise InvalidInput(f"sample {samples[0].row} took no time at all: measure again")
    terms = np.array([[1.0, _n_bytes(sample) * 1e-9] for sample in samples])
    fitted = fit_sum(["latency_s", "s_per_gb"], terms, samples, keep_all=True).values
    return fitted["latency_s"], 1e9 / fitted["s_per_gb"]


def _n_bytes(sample: Sample) -> float:
    return float(sample.parameters["n_bytes"])
