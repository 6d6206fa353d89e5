"""Kernels as they were measured: what a GEMM of a shape achieves of the roofline, and what an op takes beside it.

Utilisation is interpolated, not time: between two measured shapes it changes little where time changes manifold. numpy
is imported on use: a machine that is only read, listed or refused needs none.
"""

from __future__ import annotations

import bisect
import math
import reprlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol

from offload.ops import Gemm, OpKind, Work
from traces.errors import InvalidFile, unknown_name
from traces.foundation.documents import Section
from traces.model.dtypes import DTYPES

KERNEL_CONSTANTS: dict[str, str] = {
    "fixed_s": "time",
    "gemm": "ratio",
    "activations": "ratio",
    "traffic": "ratio",
    "arithmetic": "ratio",
}
"""What is fitted of a kind of op, by dimension; of each format it was measured in, where these are several.

fixed_s: per op. gemm: its GEMMs over what they take alone. activations: what goes into and comes out of its GEMMs, over
its time at the claimed memory rate. traffic, arithmetic: what lies outside of them (KV cache, attention scores) over
its time at the claimed rates. Measured as they are: `issue_s`, host time to issue one, and of experts what it is more
where tokens are gathered, `issue_rows_s`, and where there is a third matrix, `issue_gated_s`; `offloaded`, how many
times as long it takes in a schedule that fetches experts (copies through the same memory, caches gone cold in a stall),
`apart` the same where no copy is under way, and `beside_copies_s` how much longer it takes where one is (the stack's,
of kinds without), both of engines that know the clock; and of experts `cached`, how many times as long as that from
slots that a cache holds, and its `cache_bytes`.

Of a run whose host decides as it goes (`pregate generate`): `decide_s`, host time to decide on one, and
`decide_after_KIND_s` where one of another kind was before it (`asked`: where the host had to wait for what no op says);
`live`, what one takes there over what the other constants say, gates choosing for themselves, and `live_offloaded`, the
same in a schedule that fetches experts; and of `wait`, which
stands for the host, how many times as long as alone it takes to decide (`beside_kernels`), and kernels while it does
(`slows_kernels`). `core_s`: processor time of the host's own core that a copy takes, a chunk of it, where a thread
imitates the link and the machine has no other core for it."""

_MEASURED = {
    "issue_s": "time", "issue_rows_s": "time", "issue_gated_s": "time", "offloaded": "ratio", "cached": "ratio",
    "cache_bytes": "size", "apart": "ratio", "beside_copies_s": "time", "decide_s": "time",
    "live": "ratio", "live_offloaded": "ratio", "beside_kernels": "ratio", "slows_kernels": "ratio",
    "core_s": "time",
}  # fmt: skip

_FITTED_TOGETHER = ("offloaded", "cached", "cache_bytes", "apart", "beside_copies_s", *KERNEL_CONSTANTS)

_AFTER = ("decide_after_", "_s")

_MAX_TABLE = 4096
"""More cells than any table has."""


def kernel_constant(key: str) -> str | None:
    """The dimension of `kind.constant`, or of `kind.dtype.constant`, which ops that compute in a format have; None when
    there is no such thing.
    """
    kind, _, name = key.partition(".")
    if kind.upper() not in OpKind.__members__:
        return None
    dtype, dot, of_format = name.partition(".")
    if dot:
        return KERNEL_CONSTANTS.get(of_format) if dtype in DTYPES else None
    begin, end = _AFTER
    if name.startswith(begin) and name.endswith(end):
        after = name[len(begin) : -len(end)]
        return "time" if after == "asked" or after.upper() in OpKind.__members__ else None
    return _MEASURED.get(name) or KERNEL_CONSTANTS.get(name)


def measured_alone(key: str) -> bool:
    """Whether `kind.constant` is a figure of samples, beside the covariance of what was fitted."""
    return kernel_constant(key) is not None and key.rpartition(".")[2] not in _FITTED_TOGETHER


@dataclass(frozen=True, slots=True)
class GemmTable:
    """Utilisation of the roofline, 0 to 1, over rows `m`, weights `params` = n k and their `aspect` = k / n.

    Axes ascend; `utilisation` [m][params][aspect]. Beyond the table its edge counts (`hwmodels.laws.beyond_table` knows
    better).
    """

    dtype: str
    m: tuple[float, ...]
    params: tuple[float, ...]
    aspect: tuple[float, ...]
    utilisation: tuple[tuple[tuple[float, ...], ...], ...]

    def at(self, gemm: Gemm) -> float:
        """Multilinear in the logarithms of axes and utilisation."""
        return self.at_point(float(gemm.m), float(gemm.n * gemm.k), gemm.k / gemm.n)

    def at_point(self, m: float, params: float, aspect: float) -> float:
        """The same of rows, weights and their aspect."""
        points = ((self.m, m), (self.params, params), (self.aspect, aspect))
        (i, u), (j, v), (k, w) = (_place(axis, value) for axis, value in points)
        total = 0.0
        for di, a in ((0, 1 - u), (1, u)):
            for dj, b in ((0, 1 - v), (1, v)):
                for dk, c in ((0, 1 - w), (1, w)):
                    if a * b * c:
                        total += a * b * c * math.log(self.utilisation[i + di][j + dj][k + dk])
        return math.exp(total)

    def covers(self, gemm: Gemm) -> bool:
        """Whether the shape lies within the table, so that nothing is extrapolated."""
        return self.covers_point(float(gemm.m), float(gemm.n * gemm.k), gemm.k / gemm.n)

    def covers_point(self, m: float, params: float, aspect: float) -> bool:
        """The same of rows, weights and their aspect."""
        points = (self.m, m), (self.params, params), (self.aspect, aspect)
        return all(axis[0] <= value <= axis[-1] for axis, value in points)

    def to_dict(self) -> dict[str, Any]:
        """YAML-ready."""
        cells = [[list(row) for row in plane] for plane in self.utilisation]
        axes = {name: list(getattr(self, name)) for name in ("m", "params", "aspect")}
        return {"dtype": self.dtype, **axes, "utilisation": cells}


class Utilisation(Protocol):
    """What says how much of the roofline a GEMM achieves: a table, or one that is extended beyond its edge."""

    def at(self, gemm: Gemm) -> float:
        """The share of the roofline."""
        ...


def kernel_terms(
    work: Work, table: Utilisation, flop_per_s: Any, bytes_per_s: Any, rest_flop_per_s: Any
) -> dict[str, tuple[Any, Any]]:
    """What each constant but fixed_s is multiplied by in the time of `work`: seconds of (arithmetic, traffic).

    `flop_per_s`, `bytes_per_s`: what the machine claims, numbers or (n,); `rest_flop_per_s` for what is no GEMM.
    """
    compute_s: Any = 0.0
    hbm_s: Any = 0.0
    for gemm in work.gemms:
        flop_s, bytes_s = binding_term(*roofline_s(gemm, work.weight_bits, flop_per_s, bytes_per_s))
        utilisation = table.at(gemm)
        compute_s, hbm_s = compute_s + flop_s / utilisation, hbm_s + bytes_s / utilisation
    return {
        "gemm": (compute_s, hbm_s),
        "activations": (0.0, activation_bytes(work) / bytes_per_s),
        "traffic": (0.0, work.hbm_bytes / bytes_per_s),
        "arithmetic": (work.flop / rest_flop_per_s, 0.0),
    }


def roofline_s(gemm: Gemm, weight_bits: float, flop_per_s: Any, bytes_per_s: Any) -> tuple[Any, Any]:
    """Seconds of `n_gemms` products: arithmetic, and reading the weights once."""
    flop_s = 2 * gemm.m * gemm.n * gemm.k / flop_per_s
    bytes_s = gemm.n * gemm.k * weight_bits / 8 / bytes_per_s
    return gemm.n_gemms * flop_s, gemm.n_gemms * bytes_s


def binding_term(flop_s: Any, bytes_s: Any) -> tuple[Any, Any]:
    """The longer of two that overlap, and 0 for the other: (arithmetic, traffic)."""
    if type(flop_s) is float and type(bytes_s) is float:
        return (flop_s, 0.0) if flop_s >= bytes_s else (0.0, bytes_s)
    import numpy as np

    bound = np.real(flop_s) >= np.real(bytes_s)
    return np.where(bound, flop_s, 0.0), np.where(bound, 0.0, bytes_s)


def activation_bytes(work: Work) -> float:
    """Bytes of activations that go into and come out of the GEMMs of `work`, in the format that they compute in."""
    rows = sum(gemm.n_gemms * gemm.m * (gemm.n + gemm.k) for gemm in work.gemms)
    return rows * DTYPES[work.compute].bytes_per_param


def cached_share(slots_bytes: int, cache_bytes: Any) -> Any:
    """The share of reads of `slots_bytes`, read round and round, that a cache of `cache_bytes`, maybe (n,), answers.

    Of random replacement, as last-level caches nearly are: while a line waits for its next turn each miss on the others
    throws out one line of the cache, so h = exp(-(1 - h) slots / cache), which Lambert's W solves; 1 if all slots fit.
    """
    import numpy as np
    from scipy.special import lambertw

    turns = slots_bytes / np.asarray(cache_bytes)
    beyond = np.real(turns) > 1
    turns = np.where(beyond, turns, 2.0)
    found = -lambertw(-turns * np.exp(-turns))  # not a number where rounding takes it past the branch at 1
    found = found if np.iscomplexobj(turns) else np.real(found)
    share = np.where(beyond & np.isfinite(found), found / turns, 1.0)
    return share if share.ndim else share.item()


def _place(axis: Sequence[float], value: float) -> tuple[int, float]:
    """The cell of `value` on an ascending axis and how far into it, by ratio; an axis of one point has one cell."""
    if len(axis) == 1:
        return 0, 0.0
    i = min(max(bisect.bisect_right(axis, value) - 1, 0), len(axis) - 2)
    share = math.log(max(value, 1e-300) / axis[i]) / math.log(axis[i + 1] / axis[i])
    return i, min(max(share, 0.0), 1.0)


def read_gemm_table(section: Section) -> GemmTable:
    """A table from its section of a fit. Raises `InvalidFile` unless it is whole, `UnknownName` for its format."""
    dtype = section.text("dtype")
    if dtype not in DTYPES:
        raise unknown_name("number format", dtype, DTYPES, section.where)
    m, params, aspect = (
        _ascending(section.items(name), f"{section.where}: {name}") for name in ("m", "params", "aspect")
    )
    cells = section.items("utilisation")
    section.done()
    shape = [len(m), len(params), len(aspect)]
    if math.prod(shape) > _MAX_TABLE:
        raise InvalidFile(f"{section.where}: {math.prod(shape)} cells, at most {_MAX_TABLE}")
    table = []
    for plane in _sized(cells, shape[0], section.where):
        rows = []
        for row in _sized(plane, shape[1], section.where):
            numbers = tuple(_number(u, section.where) for u in _sized(row, shape[2], section.where))
            rows.append(numbers)
        table.append(tuple(rows))
    return GemmTable(dtype, m, params, aspect, tuple(table))


def _sized(raw: object, n: int, where: str) -> list[Any]:
    if not isinstance(raw, list) or len(raw) != n:
        raise InvalidFile(f"{where}: utilisation is not as long as its axes ({n} expected)")
    return raw


def _number(raw: object, where: str) -> float:
    if isinstance(raw, bool) or not isinstance(raw, int | float) or not 0 < raw <= sys.float_info.max:
        raise InvalidFile(f"{where}: {reprlib.repr(raw)} is not a finite number above 0")
    return float(raw)


def _ascending(raw: Sequence[object], where: str) -> tuple[float, ...]:
    numbers = tuple(_number(x, where) for x in raw)
    if not numbers or any(b <= a for a, b in pairwise(numbers)):
        raise InvalidFile(f"{where}: {list(numbers)[:4]} does not ascend")
    return numbers
