"""How much longer ops take with copies to the device under way than alone: one time, whatever an op does.

An op ends with the record of an event, a write to host memory, which waits behind copies over the same link. So it is a
time an op, where caches gone cold are a factor (`hwmodels.calibrate.offloaded_slowdown`): it is believed in only where
it says better than a factor what was measured.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from hwmodels.calibrate.least_squares import Fitted, fit_factor, fit_more, summary
from hwmodels.calibrate.measurements import Measurements, Sample
from hwmodels.calibrate.offloaded_slowdown import same_op
from offload.ops import KERNEL_KINDS

__all__ = ["fit_beside_copies"]

_NAME = "beside_copies_s"

_LEAST = 8
"""Samples of ops beside copies that are worth a law."""

_BETTER = 0.85
"""Of the scatter of what one factor says of samples that it has not seen, at most, for one time to be believed in."""

_FETCHES_AHEAD = "pregate"
"""In files without samples "beside": the policy under which copies outlast the ops between them in every probe, so that
a copy is under way when the median op of any kind ends.
"""

_KINDS = frozenset(kind.name.lower() for kind in KERNEL_KINDS) - {"head"}
"""A head ends a pass, when all copies have."""


def fit_beside_copies(measured: Measurements) -> Fitted | None:
    """`beside_copies_s`, over ops of decoding of every kind and kernels of several sizes with a record each; None where
    samples do not tell it.
    """
    alone = {same_op(one): one.median_s for one in measured.of("op", beside="nothing") if _decodes(one)}
    pairs = [(one, alone[same_op(one)]) for one in _ops_beside(measured) if same_op(one) in alone]
    pairs += _records_beside(measured)
    samples, over_s = [one for one, _ in pairs], [alone_s for _, alone_s in pairs]
    taken_s = [one.median_s for one in samples]
    if len(pairs) < _LEAST or not np.median(np.array(taken_s) - np.array(over_s)) > 0 or not min(over_s) > 0:
        return None
    found, factor = fit_more(_NAME, samples, over_s, taken_s), fit_factor(_NAME, samples, over_s)
    return found if summary(found.left_out).scatter < _BETTER * summary(factor.left_out).scatter else None


def _ops_beside(measured: Measurements) -> Iterator[Sample]:
    """Ops that ended while a copy was under way."""
    told = any(True for what in ("beside", "record") for _ in measured.of(what))
    for one in measured.of("beside" if told else "op"):
        if _decodes(one) and (told or str(one.parameters["beside"]).startswith(_FETCHES_AHEAD)):
            yield one


def _records_beside(measured: Measurements) -> list[tuple[Sample, float]]:
    """Kernels with a record each beside copies, and what they take alone."""
    alone = {one.parameters["n_bytes"]: one.median_s for one in measured.of("record", kernels=1, beside="nothing")}
    beside = measured.of("record", kernels=1, beside="h2d")
    return [(one, alone[one.parameters["n_bytes"]]) for one in beside if one.parameters["n_bytes"] in alone]


def _decodes(sample: Sample) -> bool:
    return sample.parameters["kind"] in _KINDS and sample.parameters["phase"] == "decode"
