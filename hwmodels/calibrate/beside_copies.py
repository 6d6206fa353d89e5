"""How much longer ops take with copies to the device under way than without: a time an op, whatever its size.

An op ends with the record of an event, a write to host memory, which waits behind copies over the same link. So it is a
time, where caches gone cold are a factor (`hwmodels.calibrate.offloaded_slowdown`): it is believed in only where it
says better than a factor what was measured. Ops of a schedule that fetches take longer than alone without a copy under
way, too: experts wait for another stream. That is a factor of the kind, `apart`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from hwmodels.calibrate.least_squares import Fitted, fit_factor, fit_median, fit_more, summary
from hwmodels.calibrate.measurements import Measurements, Sample
from hwmodels.calibrate.offloaded_slowdown import same_op
from hwmodels.fits.fit_limits import can_be_ratio
from offload.ops import KERNEL_KINDS

_NAME = "beside_copies_s"
"""Of the stack, over all kinds, and of each kind that has enough samples."""

_LEAST, _LEAST_OF_KIND = 8, 4
"""Samples of ops beside copies that are worth a law, and a time of the kind's own."""

_BETTER = 0.85
"""Of the scatter of what a factor says of samples that it has not seen, at most, for a time to be believed in."""

_FETCHES_AHEAD = "pregate"
"""In files without samples "beside": the policy under which copies outlast the ops between them in every probe, so that
a copy is under way when the median op of any kind ends.
"""

_KINDS = frozenset(kind.name.lower() for kind in KERNEL_KINDS) - {"head"}
"""A head ends a pass, when all copies have."""

_RECORD = "record"
"""Kernels with a record each, which are ops of no kind."""

_Pair = tuple[Sample, float]
"""A sample beside copies, and the seconds of the same without."""


def fit_apart(measured: Measurements) -> dict[str, Fitted]:
    """By kind `apart`: how many times as long as alone ops take in a schedule that fetches, no copy being under way.

    A ratio that no op can have tells of other work of the machine alone, and is left out.
    """
    alone = _alone(measured)
    pairs: dict[str, list[Sample]] = defaultdict(list)
    for one in measured.of("apart"):
        over_s = alone.get(same_op(one), 0.0) if _decodes(one) else 0.0
        if over_s > 0 and can_be_ratio("apart", one.median_s / over_s):
            pairs[str(one.parameters["kind"])].append(one)
    return {kind: fit_factor("apart", some, [alone[same_op(one)] for one in some]) for kind, some in pairs.items()}


def fit_beside_copies(measured: Measurements) -> dict[str, Fitted]:
    """`beside_copies_s` over ops of decoding of every kind and kernels of several sizes with a record each, as "", and
    by kind; empty where samples do not tell it.
    """
    pairs = _pairs(measured)
    ops = [pair for kind, some in pairs.items() if kind != _RECORD for pair in some]
    judged = {kind: some for kind, some in pairs.items() if kind != _RECORD or len(ops) < _LEAST}
    every = [pair for some in pairs.values() for pair in some]
    if len(every) < _LEAST or not min(over_s for _, over_s in every) > 0:
        return {}
    of_kind = {kind: some for kind, some in judged.items() if len(some) >= _LEAST_OF_KIND}
    rest = [pair for kind, some in judged.items() if kind not in of_kind for pair in some]
    groups = [*of_kind.values(), *([rest] if rest else [])]
    if any(np.median([one.median_s - over_s for one, over_s in some]) <= 0 for some in (*groups, every)):
        return {}
    times, factors = (summary(np.concatenate([fit(some).left_out for some in groups])) for fit in (_more, _factor))
    if not times.scatter < _BETTER * factors.scatter:
        return {}
    return {"": _more(every), **{kind: _more(some) for kind, some in of_kind.items() if kind != _RECORD}}


def fit_readback(measured: Measurements) -> dict[str, Fitted]:
    """`fixed_s` of a readback, without a copy under way where samples tell it; then also its `beside_copies_s`. Empty
    where none was timed.
    """
    apart, beside = (list(measured.of(what, kind="readback", phase="decode")) for what in ("apart", "beside"))
    readbacks = apart or list(measured.of("op", kind="readback", phase="decode"))
    if not readbacks:
        return {}
    fixed = fit_median("fixed_s", readbacks)
    found, taken_s = {"readback": fixed}, [one.median_s for one in beside]
    if apart and beside and np.median(taken_s) > fixed.values["fixed_s"]:
        found["readback/beside"] = fit_more(_NAME, beside, [fixed.values["fixed_s"]] * len(beside), taken_s)
    return found


def _pairs(measured: Measurements) -> Mapping[str, list[_Pair]]:
    """By kind of op."""
    alone, apart = _alone(measured), fit_apart(measured)
    found: dict[str, list[_Pair]] = defaultdict(list)
    for one in _ops_beside(measured):
        kind = str(one.parameters["kind"])
        if same_op(one) in alone:
            factor = apart[kind].values["apart"] if kind in apart else 1.0
            found[kind].append((one, alone[same_op(one)] * factor))
    records = {one.parameters["n_bytes"]: one.median_s for one in measured.of(_RECORD, kernels=1, beside="nothing")}
    for one in measured.of(_RECORD, kernels=1, beside="h2d"):
        if one.parameters["n_bytes"] in records:
            found[_RECORD].append((one, records[one.parameters["n_bytes"]]))
    return found


def _alone(measured: Measurements) -> Mapping[tuple[str, ...], float]:
    return {same_op(one): one.median_s for one in measured.of("op", beside="nothing") if _decodes(one)}


def _ops_beside(measured: Measurements) -> Iterator[Sample]:
    """Ops that ended while a copy was under way."""
    told = any(True for what in ("beside", _RECORD) for _ in measured.of(what))
    for one in measured.of("beside" if told else "op"):
        if _decodes(one) and (told or str(one.parameters["beside"]).startswith(_FETCHES_AHEAD)):
            yield one


def _more(pairs: Sequence[_Pair]) -> Fitted:
    return fit_more(_NAME, [one for one, _ in pairs], [s for _, s in pairs], [one.median_s for one, _ in pairs])


def _factor(pairs: Sequence[_Pair]) -> Fitted:
    return fit_factor("factor", [one for one, _ in pairs], [s for _, s in pairs])


def _decodes(sample: Sample) -> bool:
    return sample.parameters["kind"] in _KINDS and sample.parameters["phase"] == "decode"
