"""What an op takes while experts are fetched, over what it takes alone: pairs of samples that differ in nothing else.

Fetches go round in the slots that a policy was granted. A slot is read again once all others have been filled, so
where all slots together are smaller than a cache, copies land in it and kernels read from it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hwmodels.calibrate.least_squares import Fitted, fit_curve, fit_factor, summary
from hwmodels.calibrate.measurements import Sample
from hwmodels.fits.fit_limits import can_be_ratio
from hwmodels.kernels.roofline import cached_share

_NAMES = ("offloaded", "cached", "cache_bytes")

_LEAST_SIZES = 4
"""Sizes of slots that tell three constants, one to spare; and two samples for each constant."""

_BEYOND = 3
"""Slots so many times a cache are hardly in it: some must be, and some no larger than the cache, for it to be seen."""

_BETTER = 0.85
"""Of the scatter of what one factor says of samples that it has not seen, at most, for a cache to be believed in."""

_BOUNDS = ((0.5, 4.0), (0.1, 1.25))
"""Of `offloaded` and `cached`: beyond them something else was measured."""

_N_STARTS = 5
"""Sizes of a cache to begin with: the squares of a small cache and of a large one have a hill between them."""


def fit_offloaded_slowdown(samples: Sequence[Sample]) -> Fitted | None:
    """The constants of a kind of op, of all of whose `samples` those decode; None where it was not timed both ways.
    A ratio that no op can have tells of other work of the machine alone, and is left out.

    `offloaded`: how many times as long as alone ops take. Where their weights are in slots, of several sizes, and the
    samples tell a cache, also `cached`, by which that is multiplied if it holds all slots, and the `cache_bytes` of
    `cached_share`.
    """
    alone = {same_op(sample): sample.mean_s for sample in samples if sample.parameters["beside"] == "nothing"}
    pairs = [
        sample
        for sample in samples
        if sample.parameters["beside"] != "nothing"
        and sample.parameters["phase"] == "decode"
        and alone.get(same_op(sample), 0.0) > 0
        and can_be_ratio("offloaded", sample.mean_s / alone[same_op(sample)])
    ]
    if not pairs:
        return None
    over_s = [alone[same_op(sample)] for sample in pairs]
    sizes = np.array([sample.work.slots_bytes for sample in pairs])
    plain = fit_factor("offloaded", pairs, over_s)
    if len(set(sizes[sizes > 0].tolist())) < _LEAST_SIZES or len(pairs) < 2 * len(_NAMES):
        return plain
    found = _fit_cache(pairs, over_s, sizes)
    inside = all(low < found.values[name] < high for name, (low, high) in zip(_NAMES, _BOUNDS, strict=False))
    around = sizes[sizes > 0].min() <= found.values["cache_bytes"] <= sizes.max() / _BEYOND
    better = summary(found.left_out).scatter < _BETTER * summary(plain.left_out).scatter
    return found if inside and around and better else plain


def _fit_cache(pairs: Sequence[Sample], over_s: Sequence[float], sizes: NDArray[np.int64]) -> Fitted:
    ratios = np.log([sample.mean_s / seconds for sample, seconds in zip(pairs, over_s, strict=True)])
    least, most = float(sizes[sizes > 0].min()), float(sizes.max())
    bounds = np.log([*_BOUNDS, (least / 8, most)])
    starts = [np.log([1.0, 0.8, size]) for size in np.geomspace(least, most, _N_STARTS + 1)[:-1]]

    def curve(log_c: NDArray[np.float64], rows: NDArray[np.intp]) -> NDArray[np.float64]:
        offloaded, cached, cache_bytes = np.exp(log_c).tolist()
        shares = np.array([cached_share(size, cache_bytes) if size else 0.0 for size in sizes[rows].tolist()])
        return np.asarray(np.log(offloaded * (1 - shares * (1 - cached))))

    return fit_curve(_NAMES, curve, ratios, starts, bounds, pairs)


def same_op(sample: Sample) -> tuple[str, ...]:
    """What an op has in common with itself under another policy."""
    return tuple(str(sample.parameters[name]) for name in ("probe", "phase", "kind", "gemms", "dtype"))
