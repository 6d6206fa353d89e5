"""How far the times of a validation can be trusted: runs against each other, the load beside them, and the fit."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median, stdev

from hwmodels.fits.trust import Trust, least_trusted, trust_of
from pregate.validation.outcome import Measurement, Validation

_TIMED = "makespan_s"


def trust_in(validation: Validation) -> Trust:
    """The lesser of the trust in the runs and in what the fit was made on; "none" where nothing was run."""
    measured = [outcome.valid for outcome in validation.outcomes if outcome.valid is not None]
    if not measured:
        return Trust("none", ("nothing was measured",))
    of_runs = trust_of(_scatter(measured), [one.load for one in measured], "configurations")
    of_fit = validation.fit_trust
    reasons = tuple(f"the fit: {reason}" for reason in of_fit.reasons)
    return least_trusted(of_runs, Trust(of_fit.level, reasons, of_fit.scatter))


def _scatter(measured: Sequence[Measurement]) -> float | None:
    """Of the same run done again: the standard deviation of the logarithm of its time, the median over cases."""
    spreads = []
    for one in measured:
        times_s = [run[_TIMED] for run in one.runs]
        if len(times_s) > 1 and min(times_s) > 0:
            spreads.append(stdev(math.log(time_s) for time_s in times_s))
    return median(spreads) if spreads else None
