"""95 % intervals on machines without a fit: by how far claims were off elsewhere (`hwmodels.specs.spread`).

The interval of a metric follows from how much it depends on each number that scatters, along its critical paths, and
from what a measurement is off by itself. Numbers that the user set are exact. No efficiency is above 1, and no copy is
faster than its link.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from hwmodels.cost import price_figures
from hwmodels.figures import Figures
from hwmodels.platform import Platform
from hwmodels.specs.spread import SPREAD_KEYS, shipped_spread
from offload.metric_probes import find_probes
from offload.ops import OpKind
from pregate.ask.capturing.capture import Captured
from simulator.explain.critical_path import ExplainedRun, gradient, walk
from simulator.explain.path_sum import PathSum
from simulator.explain.sensitivity import metric_weights

__all__ = ["claimed_intervals", "scattering"]

_MOVE = 1e-4
"""A number is moved by so much, either way, to see what depends on it."""


def scattering(hw: Platform, figures: Figures) -> list[str]:
    """The numbers of `hw` that scatter from source to source: those that it states and that nobody set."""
    set_by_user = {f"stack.{name}" for name in hw.overridden}
    set_by_user |= {key for key, one in hw.machine.quantities().items() if one.source == "override"}
    return [key for key in SPREAD_KEYS if key in figures.values and key not in set_by_user]


def claimed_intervals(
    captured: Captured, hw: Platform, figures: Figures, metrics: Sequence[str], explained: ExplainedRun | None = None
) -> dict[str, tuple[float, float] | None]:
    """The interval of each of `metrics` (`simulator.explain.sensitivity.METRICS`); None of 0, and where storage is
    read, of whose claims nothing is known. `explained`: the run on `figures`, when it is known.
    """
    schedule = captured.decoded.schedule
    if any(work.kind is OpKind.DISK_READ for work in schedule.works):
        return dict.fromkeys(metrics)
    figures = figures.for_works(schedule.works)
    if explained is None:
        explained = walk(schedule, price_figures(schedule.works, figures))
    probes, keys, spread = find_probes(schedule, captured.trace), scattering(hw, figures), shipped_spread()
    moved = _moved(figures, keys)
    found: dict[str, tuple[float, float] | None] = {}
    for name in metrics:
        weights = metric_weights(explained.timeline, probes, name)
        value, along = weights.value(explained.timeline), PathSum()
        if value <= 0:
            found[name] = None
            continue
        along.add(schedule.works, gradient(explained, *weights))
        ends = along.at(moved, 2 * len(keys)) if keys else np.zeros(0)
        depends = (ends[::2] - ends[1::2]) / (2 * math.log1p(_MOVE) * value)
        if name == "tokens_per_s":
            value, depends = captured.workload.n_output_tokens / value, -depends
        found[name] = spread.interval(value, dict(zip(keys, depends.tolist(), strict=True)), _room(figures, keys))
    return found


def _room(figures: Figures, keys: Sequence[str]) -> dict[str, float]:
    """By how much ln of a number may rise, of those with a limit."""
    limits = {key: 1.0 for key in keys if key.endswith("_efficiency")}
    limits |= {key: figures["link.h2d_bytes_per_s"] for key in keys if key.endswith("_h2d_bytes_per_s")}
    return {
        key: max(math.log(float(np.max(limit)) / float(np.min(figures[key]))), 0.0) for key, limit in limits.items()
    }


def _moved(figures: Figures, keys: Sequence[str]) -> Figures:
    """Two machines a key: its number a little above, and a little below."""
    values = {}
    for i, key in enumerate(keys):
        factors = np.ones(2 * len(keys))
        factors[2 * i], factors[2 * i + 1] = 1 + _MOVE, 1 / (1 + _MOVE)
        values[key] = figures[key] * factors
    return figures.with_values(values)
