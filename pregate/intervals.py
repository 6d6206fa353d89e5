"""95 % intervals of a prediction from its fit's covariance, to first order.

Every metric m of a captured schedule is repriced with each fitted constant moved up and down (one compiled pass each);
with g = d ln(m) / d ln(constants) and C the covariance of ln(constants), the standard error of ln(m) is sqrt(g' C g).
The interval knows what the fit knows: scatter of the rows it was made on, not what the model leaves out.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping

import numpy as np

from hwmodels.cost import price
from hwmodels.platform import Platform
from hwmodels.quantity import ReadOnly
from offload.schedule import Schedule
from offload.timeline import Timeline
from simulator import recurrence

__all__ = ["Interval", "intervals"]

Interval = tuple[float, float]

_STEP = 0.01
"""Relative move of a constant for its derivative."""

_Z95 = 1.959963984540054
"""97.5 % quantile of the normal distribution."""


def intervals(
    schedule: Schedule, hw: Platform, metrics: Mapping[str, Callable[[Timeline], float]]
) -> dict[str, Interval | None]:
    """The interval of each metric on `hw`; None for all without a fit, and for a metric that is 0.

    Constants set by the user are taken as exact.
    """
    if hw.fit is None:
        return dict.fromkeys(metrics)
    names = [name for name in hw.fit.constants if name not in hw.overridden and not name.endswith("_bytes")]
    rows = [hw.fit.order.index(name) for name in names]
    covariance = np.array(hw.fit.covariance)[np.ix_(rows, rows)]
    centre = _priced(schedule, hw, metrics)
    gradients = {name: np.zeros(len(names)) for name in metrics}
    for i, constant in enumerate(names):
        up = _priced(schedule, _moved(hw, constant, _STEP), metrics)
        down = _priced(schedule, _moved(hw, constant, -_STEP), metrics)
        for name in metrics:
            if up[name] > 0 and down[name] > 0:
                gradients[name][i] = math.log(up[name] / down[name]) / (2 * _STEP)
    found: dict[str, Interval | None] = {}
    for name, gradient in gradients.items():
        half = _Z95 * math.sqrt(max(float(gradient @ covariance @ gradient), 0.0))
        low, high = centre[name] * math.exp(-half), centre[name] * math.exp(half)
        found[name] = (low, high) if centre[name] else None
    return found


def _priced(schedule: Schedule, hw: Platform, metrics: Mapping[str, Callable[[Timeline], float]]) -> dict[str, float]:
    costs = price(schedule.works, hw)
    timeline = recurrence.simulate(schedule, costs)
    return {name: metric(timeline) for name, metric in metrics.items()}


def _moved(hw: Platform, constant: str, log_step: float) -> Platform:
    value = hw.constant(constant) * math.exp(log_step)
    return dataclasses.replace(hw, overridden=ReadOnly({**hw.overridden, constant: value}))
