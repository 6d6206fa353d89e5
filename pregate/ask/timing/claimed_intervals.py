"""95 % intervals on machines without a fit: by how far claims were off elsewhere (`hwmodels.specs.spread`).

The interval of a metric follows from how much it depends on each number that scatters, along its critical paths, and
from what a measurement is off by itself. Numbers that the user set are exact. No efficiency is above 1, and no copy is
faster than its link.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

import numpy as np

from hwmodels.cost import price_figures
from hwmodels.figures import Figures
from hwmodels.platform import Platform
from hwmodels.specs.spread import SPREAD_KEYS, shipped_spread
from offload.metrics.metric_probes import find_probes
from pregate.ask.capturing.capture import Captured
from simulator.explain.critical_path import ExplainedRun, walk
from simulator.explain.sensitivity import elasticities_of, metric_weights


def scattering(hw: Platform, figures: Figures) -> list[str]:
    """The numbers of `hw` that scatter from source to source: those that it states and that nobody set."""
    exact = set_by_user(hw)
    return [key for key in SPREAD_KEYS if key in figures.values and key not in exact]


def set_by_user(hw: Platform) -> set[str]:
    """The numbers of `hw` that the user set, by dotted key."""
    of_machine = {key for key, one in hw.machine.quantities().items() if one.source == "override"}
    return of_machine | {f"stack.{name}" for name in hw.overridden}


def claimed_intervals(
    captured: Captured,
    hw: Platform,
    figures: Figures,
    metrics: Sequence[str],
    *,
    exact: Collection[str] = (),
) -> dict[str, tuple[float, float] | None]:
    """The interval of each of `metrics` (`simulator.explain.sensitivity.METRICS`), None of 0. `exact`: numbers that are
    sure beside those that the user set.
    """
    explained = claimed_run(captured, figures)
    spread, room = shipped_spread(), room_of(hw, captured, figures)
    found: dict[str, tuple[float, float] | None] = {}
    for name, (value, depends) in claimed_depends(captured, hw, figures, metrics, explained, exact).items():
        found[name] = spread.interval(value, depends, room) if value > 0 else None
    return found


def claimed_run(captured: Captured, figures: Figures) -> ExplainedRun:
    """The run of a captured schedule on `figures`."""
    schedule = captured.decoded.schedule
    return walk(schedule, price_figures(schedule.works, figures, shares=False))


def claimed_depends(
    captured: Captured,
    hw: Platform,
    figures: Figures,
    metrics: Sequence[str],
    explained: ExplainedRun,
    exact: Collection[str] = (),
) -> dict[str, tuple[float, dict[str, float]]]:
    """Of each of `metrics` its value, and d ln(metric) / d ln(number) by the numbers of `hw` that scatter."""
    schedule = captured.decoded.schedule
    figures = figures.for_works(schedule.works)
    probes, keys = find_probes(schedule, captured.trace), [key for key in scattering(hw, figures) if key not in exact]
    found: dict[str, tuple[float, dict[str, float]]] = {}
    every = elasticities_of(explained, probes, figures, metrics, keys)
    for name in metrics:
        value = metric_weights(explained.timeline, probes, name).value(explained.timeline)
        depends = every[name] if value > 0 else {}
        if name == "tokens_per_s" and value > 0:
            value = captured.workload.n_output_tokens / value
        found[name] = value, depends
    return found


def room_of(hw: Platform, captured: Captured, figures: Figures) -> dict[str, float]:
    """By how much ln of a number that scatters may rise, of those with a limit."""
    figures = figures.for_works(captured.decoded.schedule.works)
    keys = scattering(hw, figures)
    limits = {key: 1.0 for key in keys if key.endswith("_efficiency")}
    limits |= {key: figures["link.h2d_bytes_per_s"] for key in keys if key.endswith("_h2d_bytes_per_s")}
    return {
        key: max(math.log(float(np.max(limit)) / float(np.min(figures[key]))), 0.0) for key, limit in limits.items()
    }
