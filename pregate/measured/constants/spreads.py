"""How far the constants of a claimed machine scatter from source to source, from rows that none was fitted on.

A row is off by ln(measured / predicted). That is read as a sum: each constant of the software off by a factor that is
the source's own, times how much the row depends on that constant, and what the row is off by itself. Each factor, and
what each row is off by itself, follows a t law about 0 of its own; scales are about those that make what was measured
most likely (`variance_components`). An interval of a row is judged with the scatter among the other sources only.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from hwmodels.specs.measured_links import measured_links
from hwmodels.specs.measured_products import measured_products
from hwmodels.specs.spread import HALF_95, SPREAD_KEYS, TAIL, ClaimedSpread
from pregate.measured.constants.variance_components import Source, likely_scales
from pregate.measured.rows.measured_row import MeasuredRow
from pregate.measured.table_scores import TablePrediction
from traces.errors import InvalidInput

_LEAST_SOURCES = 4
_STAGED = ("link.pageable_h2d_bytes_per_s", "link.mapped_h2d_bytes_per_s", "stack.storage_efficiency")
_GUESSED = {key: 0.65 if key in _STAGED else 0.25 for key in (*SPREAD_KEYS, "row")}
_GUESSED["stack.reread_exponent"] = 1.25 / HALF_95
_GUESSED_WIDTH = 1.0
"""Scales themselves are taken as log-normal, a factor of e wide: few rows bear on some. About 0.25; what a host stages
for a copy about 0.65, the scatter of ln of the five machines that `hwmodels/specs/links` names; reads of storage, which
the host stages too, are taken to scatter as these. Of weights that rows may read again the interval is from one reading
to one a block, which are e to the power of the elasticity from the middle where nothing else takes time; a quarter
more, for other times weigh less in the longer."""
EXPECTED_SHARE = 0.267
"""Of half a 95 % interval of a t law of four degrees of freedom, its median absolute value: .741 of 2.776 scales."""

_BEARS = 0.05
"""A source bears on a constant when a row of it depends on that by an elasticity beyond this."""


@dataclass(frozen=True, slots=True)
class Residual:
    """One row: its source, accelerator, host, stack and metric, ln(measured / predicted), and what that depends on: d
    ln(measured) / d ln(constant) by `SPREAD_KEYS`. `larger`: ln(predicted so / predicted) and the same in the largest
    usual pass, of a row that leaves its own open.
    """

    name: str
    source: str
    off: float
    elasticities: tuple[float, ...]
    hardware: str = ""
    host: str = ""
    stack: str = ""
    metric: str = ""
    larger: tuple[float, tuple[float, ...]] | None = None

    @property
    def binding(self) -> str:
        """The constant that it depends on most."""
        return SPREAD_KEYS[int(np.argmax(np.abs(self.elasticities)))]


@dataclass(frozen=True, slots=True)
class Coverage:
    """Of `n` rows of `n_sources` that nothing was fitted on, `n_inside` lie in their 95 % interval; the median interval
    reaches from the prediction over `median_factor` to as many times it. `median_share`: of half an interval, what a
    row is off by at the median, which intervals as wide as they should be have at `EXPECTED_SHARE`.
    """

    n: int
    n_inside: int
    median_factor: float
    median_share: float
    n_sources: int

    def to_dict(self) -> dict[str, float]:
        """JSON-ready."""
        return {name: getattr(self, name) for name in self.__slots__}


def residuals(result: TablePrediction) -> list[Residual]:
    """The scored rows of time whose machine no row determined a constant of."""
    fitted = {one.row.machine for one in result.rows if one.row.role.startswith("fit") and not one.row.reason}
    found = []
    for one in result.scored:
        if one.row.machine not in fitted and one.elasticities:
            off = math.log(one.row.value / one.predicted)
            row, larger = one.row, None
            if one.larger is not None:
                larger = math.log(one.larger[0] / one.predicted), _by_key(row, one.larger[1])
            machine = row.hardware, row.host or row.hardware
            depends = _by_key(row, one.elasticities)
            found.append(Residual(row.name, row.source, off, depends, *machine, row.stack, row.metric, larger))
    return found


def _by_key(row: MeasuredRow, elasticities: Mapping[str, float]) -> tuple[float, ...]:
    """By what its metric moves with each number, which those of the time behind it say."""
    sign = -1.0 if row.more_is_better else 1.0
    return tuple(sign * elasticities.get(key, 0.0) for key in SPREAD_KEYS)


def fit_spread(rows: Sequence[Residual]) -> ClaimedSpread:
    """The scatter behind `rows`, about the most likely. Raises `InvalidInput` for rows of fewer than four sources."""
    groups = _by_source(rows)
    if len(groups) < _LEAST_SOURCES:
        raise InvalidInput(f"rows of {len(groups)} sources: scatter from source to source needs {_LEAST_SOURCES}")
    bearing = {
        key: len({one.source for one in rows if abs(one.elasticities[i]) > _BEARS}) for i, key in enumerate(SPREAD_KEYS)
    }
    free = [i for i, key in enumerate(SPREAD_KEYS) if bearing[key]]  # the others stay as they are taken to be
    scales, widths = _priors()
    names = (*(SPREAD_KEYS[i] for i in free), "row")
    prior, width = np.array([scales[name] for name in names]), np.array([widths[name] for name in names])
    sources = [_off_of(group, free) for group in groups]
    *found, row = likely_scales(sources, prior, width, _BEARS).tolist()
    constants = {key: scales[key] for key in SPREAD_KEYS}
    constants |= {SPREAD_KEYS[i]: sigma for i, sigma in zip(free, found, strict=True)}
    return ClaimedSpread(constants, bearing, row, len(rows), len(groups))


def _off_of(group: Sequence[Residual], free: Sequence[int]) -> Source:
    """Rows of a source by the numbers of `free`; one that leaves its pass open is as likely in any, and stands in the
    middle.
    """
    unstated = np.array([row.larger[0] if row.larger else 0.0 for row in group])
    depends = np.array([np.mean([row.elasticities, row.larger[1]], axis=0) if row.larger else row.elasticities
                        for row in group])  # fmt: skip
    return Source(np.array([row.off for row in group]) - unstated / 2, depends[:, free], unstated)


def pinned_link_scatter() -> tuple[float, int]:
    """The scale of ln(measured / ours) of copies from page-locked memory, by the t law of spreads, and of how many
    machines: those of `hwmodels/specs/measured_links.csv`, one way at a time.
    """
    off = [
        -math.log1p(one.error) for one in measured_links()
        if not one.reason and (one.direction, one.beside, one.memory) == ("h2d", "nothing", "pinned")
    ]  # fmt: skip
    return t_scale(off), len(off)


def product_scatter() -> tuple[float, int]:
    """The scale of ln(measured / ours) of single products of matrices, by the same law, and of how many cards: those of
    `hwmodels/specs/measured_products.csv` that say nothing of their card or stack.
    """
    products = [one for one in measured_products() if not one.role]
    return t_scale([-math.log1p(one.error) for one in products]), len({one.hardware for one in products})


def t_scale(off: Sequence[float]) -> float:
    """The most likely scale of a t law about 0 behind what is `off`."""
    from scipy.optimize import minimize_scalar

    seen = np.array(off)

    def unlikely(log: float) -> float:
        scaled = np.log1p((seen / math.exp(log)) ** 2 / TAIL)
        return float((TAIL + 1) / 2 * scaled.sum() + log * len(seen))

    return math.exp(minimize_scalar(unlikely, bounds=(-6.0, 1.0), method="bounded").x)


def width_of(n: int) -> float:
    """How sure `n` measurements make such a scale: the error of its ln, by the information that a t law has of it."""
    return math.sqrt((TAIL + 3) / (2 * TAIL * n))


@cache
def _priors() -> tuple[dict[str, float], dict[str, float]]:
    """What each scale is about before a row is seen, and how wide that is in ln: of what was measured by itself, as
    sure as so many measurements make it.
    """
    scales, widths = dict(_GUESSED), dict.fromkeys(_GUESSED, _GUESSED_WIDTH)
    alone = {"link.h2d_efficiency": pinned_link_scatter(), "stack.gemm_efficiency": product_scatter()}
    for key, (scale, n) in alone.items():
        scales[key], widths[key] = scale, width_of(n)
    return scales, widths


def interval_coverage(rows: Sequence[Residual]) -> Coverage:
    """How many rows lie in the interval that the other sources give them."""
    return _coverage(_judged(rows))


def group_coverage(rows: Sequence[Residual]) -> dict[str, Coverage]:
    """The same of rows of one metric, of one stack, and of those that depend on the same constant most, by the name of
    that; of groups of `_LEAST_SOURCES` sources or more, in which one that is off as a whole does not say it all.
    """
    groups: dict[str, list[_Judged]] = {}
    judged = _judged(rows)
    for field in ("metric", "stack", "binding"):
        for one in judged:
            groups.setdefault(getattr(one[0], field), []).append(one)
    found = {name: _coverage(group) for name, group in groups.items()}
    return {name: one for name, one in found.items() if one.n_sources >= _LEAST_SOURCES}


_Judged = tuple[Residual, float, float]
"""A row, and how far below and above its prediction the interval reaches that the other sources give it, of ln."""


def _judged(rows: Sequence[Residual]) -> list[_Judged]:
    """Each row with the interval that the other sources give it."""
    found = []
    for group in _by_source(rows):
        others = fit_spread([row for row in rows if row.source != group[0].source])
        found += [(row, *_reach(row, others)) for row in group]
    return found


def _reach(row: Residual, others: ClaimedSpread) -> tuple[float, float]:
    """How far below and above its prediction the interval of a row reaches, in all passes that it leaves open."""
    passes = [(0.0, row.elasticities), *([row.larger] if row.larger else [])]
    ends = [(at, others.half_width(dict(zip(SPREAD_KEYS, depends, strict=True)))) for at, depends in passes]
    return max(half - at for at, half in ends), max(half + at for at, half in ends)


def _coverage(judged: Sequence[_Judged]) -> Coverage:
    off = np.array([row.off for row, _, _ in judged])
    down, up = np.array([ends for _, *ends in judged]).T
    share = np.where(off < 0, -off / down, off / up)
    factor = math.exp(float(np.median((down + up) / 2)))
    n_sources = len({row.source for row, _, _ in judged})
    return Coverage(len(judged), int((share <= 1).sum()), factor, float(np.median(share)), n_sources)


def _by_source(rows: Sequence[Residual]) -> list[list[Residual]]:
    groups: dict[str, list[Residual]] = {}
    for row in rows:
        groups.setdefault(row.source, []).append(row)
    return list(groups.values())
