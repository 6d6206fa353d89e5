"""Which hardware number matters how much: exact elasticities of a metric, and what a change of each number does.

A metric that is a weighted sum of op times has an exact gradient by cost (`critical_path.gradient`), and every cost an
exact derivative by every number of the machine: one complex step, price(x (1 + ih)) = price + ih dprice/dln x for h so
small that its square is lost (Squire and Trapp, SIAM Review 40, 1998). Their product is the derivative of the metric.

The schedule stays as it was captured: sizes of memories, which decide what is captured, have no elasticity. Whole waves
of tiles are a step function of `accelerator.n_sm`: their number is held, so its elasticity is that of the same peak
rate spread over more multiprocessors.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hwmodels.cost import price_figures
from hwmodels.figures import MEMORY_FIGURES, Figures
from offload.metrics.metric_probes import Probes
from offload.timeline import Timeline
from simulator.explain.critical_path import ExplainedRun, gradient
from simulator.explain.explained_metrics import METRICS
from traces.errors import unknown_name

_STEP = 1e-30
"""Relative size of the imaginary step: far below what rounding keeps, far above the smallest number."""


class Weights(NamedTuple):
    """A metric as a sum over ops: `start` and `end`, (n_ops,) float64, by which their start and end count."""

    start: NDArray[np.float64]
    end: NDArray[np.float64]

    def value(self, timeline: Timeline) -> float:
        """The metric of a timeline on which the same ops are first and last."""
        # No inner product: a linear algebra library wakes its threads for it, which takes longer than all else here.
        return float((self.start * timeline.start_s).sum() + (self.end * timeline.end_s).sum())


def metric_weights(timeline: Timeline, probes: Probes, metric: str) -> Weights:
    """The weights of `metric` by the definitions of `offload.metrics`; all 0 where there is nothing to measure.

    `tokens_per_s` has those of the makespan, the end of the last op (the first of several). Raises `UnknownName` for
    another metric.
    """
    n_ops = len(timeline.schedule)
    weights = Weights(np.zeros(n_ops), np.zeros(n_ops))
    match metric:
        case "makespan_s" | "tokens_per_s":
            if n_ops:
                weights.end[np.argmax(timeline.end_s)] = 1.0
        case "ttft_s":
            weights.end[probes.step_ends[:1]] = 1.0
        case "tpot_s":
            n_gaps = max(probes.gap_to.size, 1)
            np.add.at(weights.end, probes.step_ends[probes.gap_to], 1.0 / n_gaps)
            np.add.at(weights.end, probes.step_ends[probes.gap_from], -1.0 / n_gaps)
        case "moe_layer_latency_s":
            n_layers = max(probes.layer_first.size, 1)
            np.add.at(weights.end, probes.layer_last, 1.0 / n_layers)
            np.add.at(weights.start, probes.layer_first, -1.0 / n_layers)
        case _:
            raise unknown_name("metric", metric, METRICS)
    return weights


def elasticities(
    explained: ExplainedRun, probes: Probes, figures: Figures, metric: str, wanted: Collection[str] | None = None
) -> dict[str, float]:
    """d ln(metric) / d ln(number) for every number of `figures` but `MEMORY_FIGURES`: 1 % more of it is that many %.

    `explained`: the run on `figures`. `wanted`: of these numbers alone, the others being left out. All 0.0 for a
    metric that is 0. Raises `UnknownName` for an unknown metric.
    """
    return elasticities_of(explained, probes, figures, (metric,), wanted)[metric]


def elasticities_of(
    explained: ExplainedRun,
    probes: Probes,
    figures: Figures,
    metrics: Collection[str],
    wanted: Collection[str] | None = None,
) -> dict[str, dict[str, float]]:
    """`elasticities` of each of `metrics`; what costs are by every number is asked for once."""
    timeline, found = explained.timeline, dict[str, dict[str, float]]()
    keys = [key for key in figures.values if key not in MEMORY_FIGURES]
    places = [i for i, key in enumerate(keys) if wanted is None or key in wanted]
    by_figure: tuple[NDArray[np.float64], NDArray[np.float64]] | None = None
    for metric in metrics:
        weights = metric_weights(timeline, probes, metric)
        value = weights.value(timeline)
        if not value:
            found[metric] = {keys[i]: 0.0 for i in places}
            continue
        by = gradient(explained, *weights)
        issue_s, duration_s = by_figure = by_figure or _by_log_figure(timeline, figures, keys, places)
        sign = -1.0 if metric == "tokens_per_s" else 1.0
        slopes = (by.issue_s @ issue_s + by.duration_s @ duration_s) / (sign * value) + 0.0  # no -0.0
        found[metric] = {keys[i]: float(slopes[i]) for i in places}
    return found


def _by_log_figure(
    timeline: Timeline, figures: Figures, keys: Sequence[str], places: Sequence[int]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """d issue_s / d ln(number) and d duration_s / d ln(number), each (n_works, n_keys): a machine a moved number, of
    those at `places`; 0 of the others.
    """
    works, steps = timeline.schedule.works, (1 + 1j * _STEP * np.eye(len(keys)))[:, places]
    moved = figures.with_values({key: figures[key] * steps[i] for i, key in enumerate(keys)})
    costs = price_figures(works, moved, len(places), shares=False)
    by_issue, by_duration = np.zeros((2, len(works), len(keys)))
    by_issue[:, places], by_duration[:, places] = np.imag(costs.issue_s) / _STEP, np.imag(costs.duration_s) / _STEP
    return by_issue, by_duration
