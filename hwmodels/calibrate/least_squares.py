"""Positive constants from times: least squares in the logarithm of time, with covariance and leave-one-out errors.

Constants are positive and errors are relative, so both are taken in logarithms: the covariance is that of ln(constant).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwmodels.calibrate.measurements import Sample
from hwmodels.fits.fit import LeftOut
from traces.errors import InvalidInput

_LEAST_SPREAD = 0.02
"""No constant is known better than this: medians of one session agree better than sessions do."""

_LONE_SPREAD = 0.1
"""Of the logarithm of a factor that one pair of samples tells."""

_UNKNOWN = 1.0
"""Standard deviation of the logarithm of a constant that samples do not tell: the least term of those is left out."""

_VAGUE = 3.0
"""Standard deviation of the logarithm of a constant before there are samples: what they say nothing of stays as vague,
not certain.
"""

_PREFILL_WEIGHT = 0.25
"""Of a prefill's samples beside those of decoding, which runs an op hundreds of times for every time a prefill does."""

_SMALL = 1e-3
"""A term that is below this share of every sample is left out: there is nothing to fit it on."""

_ALIKE = 1e-9
"""Terms whose cosine is so close to 1 are one to the samples: the first of them stands for both."""

_OF_A_MEDIAN = 1.2533
"""Standard error of a median over that of a mean, sqrt(pi / 2), for normal scatter."""


@dataclass(frozen=True, slots=True, eq=False)
class Fitted:
    """Constants by name, (n, n) covariance of their logarithms in that order, names of the samples they were fitted on.

    `left_out`: relative error of the prediction of each sample by a fit of the others; (0,) where none can do without.
    `weights`: by which the samples counted, None for all alike.
    """

    values: Mapping[str, float]
    covariance: NDArray[np.float64]
    rows: tuple[str, ...]
    left_out: NDArray[np.float64]
    weights: NDArray[np.float64] | None = None

    def inverted(self, name: str, new: str) -> Fitted:
        """With the share `new` = 1 / `name`, at most 1, in its place: its logarithm has the other sign."""
        values = {key: value for key, value in self.values.items() if key != name}
        order = [*values, new]
        at = [list(self.values).index(name if key == new else key) for key in order]
        sign = np.array([-1.0 if key == new else 1.0 for key in order])
        covariance = self.covariance[np.ix_(at, at)] * np.outer(sign, sign)
        values |= {new: min(1.0, 1 / self.values[name])}
        return Fitted(values, covariance, self.rows, self.left_out, self.weights)


def fit_sum(
    names: Sequence[str],
    terms: NDArray[np.float64],
    samples: Sequence[Sample],
    *,
    keep_all: bool = False,
    kept_always: str | None = None,
) -> Fitted:
    """Positive constants c that make terms @ c the means of `samples`: least squares of ln(terms @ c / mean).

    `terms`: (n_samples, n_names), seconds that each constant is multiplied by. Unless `keep_all`, a term that has no
    part in any sample, or that samples do not tell from nothing, is left out, `kept_always` never.
    """
    times = np.array([sample.mean_s for sample in samples])
    weights = np.array([_PREFILL_WEIGHT if s.parameters.get("phase") == "prefill" else 1.0 for s in samples])
    always = names.index(kept_always) if kept_always in names else None
    kept = list(range(len(names))) if keep_all else _kept(terms, times, weights, always)
    log_c, covariance = solve(terms[:, kept], times, weights)
    left_out = np.zeros(len(times) if len(times) > len(kept) else 0)
    for i in range(len(left_out)):
        others = (np.delete(x, i, 0) for x in (terms[:, kept], times, weights))
        left_out[i] = terms[i, kept] @ np.exp(solve(*others)[0]) / times[i] - 1
    values = {names[j]: float(np.exp(c)) for j, c in zip(kept, log_c, strict=True)}
    return Fitted(values, covariance, _rows(samples), left_out, weights)


def _kept(
    terms: NDArray[np.float64], times: NDArray[np.float64], weights: NDArray[np.float64], always: int | None = None
) -> list[int]:
    """The terms worth fitting, two samples each at least: none that vanishes, is like another, or is known to a factor
    of e only; one that explains less goes before one that explains more. Term `always` goes only where it vanishes.
    """
    directions = terms / np.maximum(np.linalg.norm(terms, axis=0), 1e-300)
    kept: list[int] = []
    for j in np.flatnonzero(terms.any(axis=0)).tolist():
        if not np.any(directions[:, kept].T @ directions[:, j] > 1 - _ALIKE):
            kept.append(j)
    while len(kept) > 1:
        log_c, covariance = solve(terms[:, kept], times, weights)
        shares = (terms[:, kept] * np.exp(log_c) / times[:, None]).max(axis=0)
        may_go = np.array(kept) != always
        doubtful = ((shares <= _SMALL) | (np.sqrt(np.diag(covariance)) >= _UNKNOWN)) & may_go
        if not doubtful.any():
            if 2 * len(kept) <= len(times):
                break
            doubtful = may_go
        del kept[int(np.argmin(np.where(doubtful, shares, np.inf)))]
    return kept


def fit_curve(
    names: Sequence[str],
    curve: Callable[[NDArray[np.float64], NDArray[np.intp]], NDArray[np.float64]],
    logs: NDArray[np.float64],
    starts: Sequence[NDArray[np.float64]],
    bounds: NDArray[np.float64],
    samples: Sequence[Sample],
) -> Fitted:
    """Positive constants c that make `curve(ln c, rows)` the `logs` of those rows: the best from any of `starts`.

    `bounds`: (n_names, 2), of ln c. What samples do not tell stays as vague as before (`_VAGUE`).
    """
    from scipy.optimize import least_squares

    def found(rows: NDArray[np.intp], start: NDArray[np.float64]) -> Any:
        return least_squares(lambda log_c: curve(log_c, rows) - logs[rows], start, bounds=bounds.T, x_scale=0.1)

    everything = np.arange(len(logs))
    best = min((found(everything, start) for start in starts), key=lambda one: float(one.cost))
    n_free = max(len(logs) - len(names), 1)
    variance = max(float(best.fun @ best.fun) / n_free, _LEAST_SPREAD**2)
    covariance = np.linalg.inv(best.jac.T @ best.jac / variance + np.eye(len(names)) / _VAGUE**2)
    left_out = np.zeros(len(logs))
    for i in everything:
        log_c = found(np.delete(everything, i), best.x).x
        left_out[i] = np.exp(curve(log_c, np.array([i]))[0] - logs[i]) - 1
    values = {name: float(np.exp(c)) for name, c in zip(names, best.x, strict=True)}
    return Fitted(values, (covariance + covariance.T) / 2, _rows(samples), left_out)


def solve(
    terms: NDArray[np.float64], times: NDArray[np.float64], weights: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """ln(c) of the constants that make terms @ c the `times`, and its covariance, (J'J / s^2 + 1 / v^2) ^ -1.

    Residuals count `weights` times; s is their spread, `_LEAST_SPREAD` at least, and v is `_VAGUE`.
    `terms`: (n_samples, n_constants); `times` in seconds and `weights`: (n_samples,).
    """
    from scipy.optimize import least_squares

    shares = terms / times[:, None]
    start = np.log(1 / np.maximum(shares.mean(axis=0) * terms.shape[1], 1e-12))

    def residuals(log_c: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(weights * np.log(shares @ np.exp(log_c)))

    found = least_squares(residuals, start, bounds=(start - 25, start + 25), max_nfev=400)
    n_free = max(float(np.sum(weights**2)) - len(start), 1.0)
    variance = max(float(found.fun @ found.fun) / n_free, _LEAST_SPREAD**2)
    information = found.jac.T @ found.jac / variance + np.eye(len(start)) / _VAGUE**2
    covariance = np.linalg.inv(information)
    return found.x, (covariance + covariance.T) / 2


def fit_median(name: str, samples: Sequence[Sample]) -> Fitted:
    """A time of its own: the median of the means, and how well their scatter tells it."""
    means = np.maximum([sample.mean_s for sample in samples], 1e-9)
    value, n = float(np.median(means)), len(means)
    scatter = float(np.median(np.abs(np.log(means / value)))) * 1.4826
    variance = _told(_OF_A_MEDIAN * scatter / np.sqrt(n))
    others = np.array([np.median(np.delete(means, i)) for i in range(n if n > 1 else 0)])
    return Fitted({name: value}, np.array([[variance]]), _rows(samples), others / means[: len(others)] - 1)


def _told(spread: float) -> float:
    """The variance of a logarithm that samples tell to `spread`: no less than a clock's, no more than without them."""
    return float(np.clip(spread, _LEAST_SPREAD, _VAGUE) ** 2)


def fit_factor(name: str, samples: Sequence[Sample], over_s: Sequence[float]) -> Fitted:
    """How many times `over_s` the means of `samples` are: the geometric mean, and how well their scatter tells it."""
    logs = np.log([sample.mean_s / seconds for sample, seconds in zip(samples, over_s, strict=True)])
    n, mean = len(logs), float(logs.mean())
    spread = float(logs.std(ddof=1)) / np.sqrt(n) if n > 1 else _LONE_SPREAD
    variance = _told(spread)
    others = (n * mean - logs) / (n - 1) if n > 1 else np.zeros(0)
    return Fitted(
        {name: float(np.exp(mean))}, np.array([[variance]]), _rows(samples), np.exp(others - logs[: len(others)]) - 1
    )


def fit_more(name: str, samples: Sequence[Sample], over_s: Sequence[float], taken_s: Sequence[float]) -> Fitted:
    """How much longer than `over_s` ops take, `taken_s` each: the median, and how well its scatter tells it.

    `left_out`: of the whole time. Raises `InvalidInput` unless it is above 0.
    """
    more_s = np.array(taken_s) - np.array(over_s)
    value, n = float(np.median(more_s)), len(more_s)
    if not value > 0:
        raise InvalidInput(f"{name}: {samples[0].row} and {n - 1} others take no longer than alone: nothing to fit")
    scatter = float(np.median(np.abs(more_s - value))) * 1.4826 / value
    others = np.array([np.median(np.delete(more_s, i)) for i in range(n if n > 1 else 0)])
    left_out = (np.array(over_s)[: len(others)] + others) / np.array(taken_s)[: len(others)] - 1
    variance = _told(_OF_A_MEDIAN * scatter / np.sqrt(n))
    return Fitted({name: value}, np.array([[variance]]), _rows(samples), left_out)


def summary(errors: NDArray[np.float64], weights: NDArray[np.float64] | None = None) -> LeftOut:
    """Relative errors summed up, to a hundredth of a per cent; 0 of no errors. `weights`: of their scatter."""
    if not errors.size:
        return LeftOut(0, 0.0, 0.0, 0.0)
    median, p90 = np.quantile(np.abs(errors), (0.5, 0.9)).tolist()
    counts = None if weights is None else weights**2
    scatter = float(np.sqrt(np.average(np.log1p(errors) ** 2, weights=counts)))
    return LeftOut(errors.size, round(median, 4), round(p90, 4), round(scatter, 4))


def _rows(samples: Sequence[Sample]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(sample.row for sample in samples))
