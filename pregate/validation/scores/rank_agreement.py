"""Did the prediction put configurations in the right order, and what does trusting it cost?

Kendall's tau-b, regret, and what a measurement can tell apart at all. Times only: less is better.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

import numpy as np

_TIE = 1e-9
"""Predictions closer than this, relative, are equal: rounding, not opinion."""


def kendall_tau(predicted: Sequence[float], measured: Sequence[float]) -> float | None:
    """Kendall's tau-b of two rankings, -1 to 1: pairs in the same order less pairs in the other, over all pairs.

    A pair tied in one ranking only counts for neither order but stays in the denominator (tau-b: M. G. Kendall, "The
    treatment of ties in ranking problems", Biometrika 33, 1945). None when it is not defined: fewer than two, or all
    tied in either.
    """
    if len(set(predicted)) < 2 or len(set(measured)) < 2:
        return None
    from scipy.stats import kendalltau

    return float(kendalltau(predicted, measured).statistic)


def resolved_tau(predicted: Sequence[float], spans: Sequence[tuple[float, float]]) -> float | None:
    """The same over those pairs only whose measured `spans`, least to most over runs, do not overlap.

    Two configurations whose runs overlap have no measured order that a prediction could miss: the medians order them
    by noise. A predicted tie of a resolved pair counts as half right. None without such a pair.
    """
    x = np.asarray(predicted, dtype=np.float64)
    low, high = np.asarray(spans, dtype=np.float64).reshape(-1, 2).T
    slower = low[:, None] > high[None, :]  # (n, n): the row is certainly slower than the column
    if not slower.any():
        return None
    return float(np.sign(x[:, None] - x[None, :])[slower].mean())


def regret(predicted: Sequence[float], measured: Sequence[float]) -> float | None:
    """Measured time of what was predicted fastest, over the fastest measured, less 1.

    Of several predicted equally fast one is taken blindly: their mean counts. None for fewer than two, or when the
    fastest took no time.
    """
    if len(predicted) < 2 or min(measured) <= 0:
        return None
    fastest = min(predicted) * (1 + _TIE)
    chosen = [m for p, m in zip(predicted, measured, strict=True) if p <= fastest]
    return fmean(chosen) / min(measured) - 1
