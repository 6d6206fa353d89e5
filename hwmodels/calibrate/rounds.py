"""Several rounds of the same samples made one, with how far they lie from each other."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence

import numpy as np

from hwmodels.calibrate.measurements import Sample
from hwmodels.fits.fit import LeftOut
from hwmodels.fits.trust import TIMED_ONCE_SCATTER


def merged_rounds(counted: Sequence[Sequence[Sample]], everything: Sequence[Sequence[Sample]]) -> list[Sample]:
    """Each sample of the rounds that count: the median over rounds of every time of it, and all its timings counted.

    Its scatter is the standard deviation of the logarithm of its mean between those rounds; between all rounds,
    `everything`, where one only counts. Samples that one round has and another lacks are of those that have them.
    """
    of_all = _by_what(everything)
    return [_merged(samples, of_all[key]) for key, samples in _by_what(counted).items()]


def _by_what(rounds: Sequence[Sequence[Sample]]) -> dict[str, list[Sample]]:
    found: dict[str, list[Sample]] = {}
    for samples in rounds:
        for sample in samples:
            key = json.dumps([sample.what, dict(sample.parameters)], sort_keys=True)
            found.setdefault(key, []).append(sample)
    return found


def _merged(samples: Sequence[Sample], everything: Sequence[Sample]) -> Sample:
    return dataclasses.replace(
        samples[0],
        median_s=_middle([sample.median_s for sample in samples]),
        p25_s=_middle([sample.p25_s for sample in samples]),
        p75_s=_middle([sample.p75_s for sample in samples]),
        mean_s=_middle([sample.mean_s for sample in samples]),
        n=sum(sample.n for sample in samples),
        scatter=_scatter(samples if len(samples) > 1 else everything),
    )


def _middle(times_s: Sequence[float]) -> float:
    return float(np.median(times_s))


def _scatter(samples: Sequence[Sample]) -> float | None:
    means = [sample.mean_s for sample in samples]
    return float(np.std(np.log(means), ddof=1)) if len(means) > 1 and min(means) > 0 else None


def rounds_left_out(samples: Sequence[Sample]) -> LeftOut:
    """How far one round of a session lies from another, over the samples that were timed in several: `n` of them.

    What was timed once counts as far off as trust in such a session allows: it is known no better.
    """
    n = sum(sample.scatter is not None for sample in samples)
    scatter = np.array([TIMED_ONCE_SCATTER if one.scatter is None else one.scatter for one in samples])
    median, p90 = np.quantile(scatter, (0.5, 0.9)).tolist()
    return LeftOut(n, round(median, 4), round(p90, 4), round(median, 4))
