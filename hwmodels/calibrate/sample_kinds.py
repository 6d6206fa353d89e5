"""What can be timed, and what a sample of each says it is of: unknown kinds and shapes that are none are refused."""

from __future__ import annotations

import math
import reprlib
from typing import TYPE_CHECKING

from traces.errors import InvalidFile, InvalidInput, unknown_name
from traces.foundation.documents import Section
from traces.model.dtypes import DTYPES

if TYPE_CHECKING:
    from hwmodels.calibrate.measurements import Sample


SAMPLE_KINDS = (
    "gemm", "h2d", "d2h", "disk_read", "op", "issue", "launch", "edge", "sync", "wait", "readback", "fetch_idle",
    "contention", "decide", "live", "deciding", "beside", "apart", "record",
)  # fmt: skip
"""What microbenchmarks time; files of earlier versions have `edge`, `sync` and `fetch_idle`, which nobody asks for."""

MAX_S = 3600.0
"""No sample takes longer than an hour."""

_MAX_N, _MAX_SCATTER = 10**9, 30.0

_MEAN_OVER_MEDIAN = (0.5, 3.0)
"""Half the timings are no less than the median, and what is more than three times as long counts as three."""


def check_times(sample: Sample) -> None:
    """Raise `InvalidInput` for times of a sample that no clock can give."""
    for name in ("median_s", "p25_s", "p75_s", "mean_s"):
        value = getattr(sample, name)
        if isinstance(value, bool) or not (isinstance(value, int | float) and 0 <= value < math.inf):
            raise InvalidInput(f"sample {sample.what}: {name} = {value!r} is no time")
        if value > MAX_S:
            raise InvalidInput(f"sample {sample.what}: {name} = {value:g} s, at most {MAX_S:g} can be: measure again")
    if isinstance(sample.n, bool) or not (isinstance(sample.n, int) and 1 <= sample.n <= _MAX_N):
        raise InvalidInput(f"sample {sample.what}: n = {sample.n!r}, at least 1 and at most {_MAX_N} needed")
    if sample.scatter is not None and not 0 <= sample.scatter <= _MAX_SCATTER:
        raise InvalidInput(f"sample {sample.what}: scatter = {sample.scatter!r} is no share, 0 to {_MAX_SCATTER:g}")


def check_quartiles(sample: Sample) -> None:
    """Raise `InvalidInput` for a median, quartiles and a mean that are not of the same timings."""
    if not sample.p25_s <= sample.median_s <= sample.p75_s:
        raise InvalidInput(
            f"sample {sample.what}: p25_s, median_s, p75_s = {sample.p25_s:g}, {sample.median_s:g}, {sample.p75_s:g} "
            f"do not ascend: measure again"
        )
    low, high = (factor * sample.median_s for factor in _MEAN_OVER_MEDIAN)
    if not low * (1 - 1e-9) <= sample.mean_s <= high * (1 + 1e-9):
        raise InvalidInput(
            f"sample {sample.what}: mean_s = {sample.mean_s:g} is not between half its median and three times, {low:g} "
            f"and {high:g}: measure again"
        )


def check_kind(sample: Sample, where: str) -> None:
    """Raise `InvalidFile`, or `UnknownName`, unless a sample is of something, and says what that fits are made of."""
    known = Section(sample.parameters, f"{where}: {sample.what}")
    match sample.what:
        case "gemm":
            dtype = _gemm_dtype(known)
        case "op" | "live" | "beside" | "apart":
            for name in ("phase", "beside", "probe"):
                known.text(name)
            try:
                dtype = sample.work.compute
            except InvalidInput as error:
                raise InvalidFile(f"{where}: {error}") from None
        case "h2d" | "d2h" | "disk_read":
            known.integer("n_bytes", minimum=1)
            return
        case "decide" | "deciding":
            for name in ("kind", "after") if sample.what == "decide" else ("of", "beside"):
                known.text(name)
            return
        case what if what not in SAMPLE_KINDS:
            raise unknown_name("kind of sample", what, SAMPLE_KINDS, where)
        case _:
            return
    if dtype not in DTYPES:
        raise unknown_name("number format", dtype, DTYPES, known.where)


def _gemm_dtype(known: Section) -> str:
    """The format of a GEMM whose weights and aspect are those of its shape."""
    _, n, k = (known.integer(name, minimum=1) for name in ("m", "n", "k"))
    params, aspect = known.number("params"), known.number("aspect")
    for name, value, whole in (("params", params, n * k), ("aspect", aspect, k / n)):
        if value <= 0:
            raise InvalidFile(f"{known.where}: {name} = {value:g} is not above 0")
        if not 0.5 <= value / whole <= 2:  # a grid's value, whose shape is rounded to whole tiles
            raise InvalidFile(
                f"{known.where}: {name} = {reprlib.repr(value)}, but n = {n} and k = {k} make {whole:g}: measure again"
            )
    return known.text("dtype")
