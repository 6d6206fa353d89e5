"""Who is best at each point of one hardware number: every policy's schedule written once, each point measured once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from hwmodels.figures import MEMORY_FIGURES, figures_of
from hwmodels.platform import Platform
from hwmodels.quantity import ReadOnly
from offload.footprint import Workload, measure_workload
from offload.memory import CapacityExceeded
from offload.policy import Cache, Policy
from pregate.capture import Captured, capture_request, check_trace, request
from pregate.intervals import compiled, measured
from simulator.batch import Compiled
from traces.architecture import ModelArchitecture
from traces.errors import InvalidInput
from traces.routing import RoutingTrace

__all__ = ["Contest", "Winner", "moved"]

_TIE = 1e-12
"""Policies this close are one: the first asked for wins, and rounding makes no difference."""


@dataclass(frozen=True, slots=True)
class Winner:
    """Who has the best metric at one point, and what it is; None and NaN when no policy fits."""

    name: str | None
    metric: float


class Contest:
    """Every policy's metric at any point of the axis, each schedule written and each point measured once."""

    def __init__(
        self,
        model: ModelArchitecture,
        hw: Platform,
        trace: RoutingTrace,
        policies: Sequence[str | Policy],
        axis: str,
        metric: str,
        cache: Cache | None,
        expert_tier: str,
    ) -> None:
        names = [policy if isinstance(policy, str) else policy.name for policy in policies]
        if not names:
            raise InvalidInput("no policies to compare: give at least two, such as on_demand and pregate")
        if len(set(names)) < len(names):
            raise InvalidInput(f"policies {', '.join(names)}: one is given twice")
        check_trace(model, trace)
        self.workload: Workload = measure_workload(model, trace.steps())
        self.model, self.hw, self.trace = model, hw, trace
        self.policies = dict(zip(names, policies, strict=True))
        self.axis, self.metric, self.cache, self.expert_tier = axis, metric, cache, expert_tier
        self._runs: dict[tuple[str, int, int], tuple[Compiled, Captured]] = {}
        self._scored: dict[str, float] = {}
        self._winners: dict[float, Winner] = {}

    def at(self, value: float) -> Winner:
        """Who wins where the axis is `value`."""
        if value not in self._winners:
            self.scan(np.array([value]))
        return self._winners[value]

    def scan(self, values: NDArray[np.float64]) -> None:
        """Find the winner at each of `values`."""
        scores = {name: self._scores(name, values) for name in self.policies}
        more_is_better = self.metric == "tokens_per_s"
        for i, value in enumerate(values.tolist()):
            here = {name: float(score[i]) for name, score in scores.items() if np.isfinite(score[i])}
            if not here:
                self._winners[value] = Winner(None, math.nan)
                continue
            best = max(here.values()) if more_is_better else min(here.values())
            name = next(name for name, score in here.items() if abs(score - best) <= _TIE * best)
            self._winners[value] = Winner(name, here[name])

    def _scores(self, name: str, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """The metric of one policy at `values`, (n,); NaN where it does not fit."""
        scores, figures = np.full(len(values), np.nan), figures_of(self.hw)
        if self.axis not in MEMORY_FIGURES:
            run = self._captured_run(name, self.hw)
            if run is not None:
                scores[:] = measured(*run, figures.with_values({self.axis: values}), len(values))[self.metric]
            return scores
        for i, value in enumerate(values.tolist()):
            run = self._captured_run(name, moved(self.hw, self.axis, value))
            if run is None:
                continue
            schedule = run[1].decoded.schedule
            if schedule.digest not in self._scored:  # memory has no part in prices
                self._scored[schedule.digest] = float(measured(*run, figures, 1)[self.metric][0])
            scores[i] = self._scored[schedule.digest]
        return scores

    def _captured_run(self, name: str, hw: Platform) -> tuple[Compiled, Captured] | None:
        """The schedule of one policy on `hw`, ready to be measured; None where it does not fit."""
        try:
            asked = request(
                self.model, hw, self.trace, self.policies[name],
                cache=self.cache, expert_tier=self.expert_tier, workload=self.workload,
            )  # fmt: skip
            key = (name, asked.plan.n_buffers, asked.plan.n_cache_slots)
            if key not in self._runs:
                captured = capture_request(asked)
                self._runs[key] = compiled(captured), captured
        except CapacityExceeded:
            return None
        return self._runs[key]


def moved(hw: Platform, key: str, value: float) -> Platform:
    """`hw` with one number changed."""
    name = key.removeprefix("stack.")
    if key != name:
        return replace(hw, overridden=ReadOnly({**hw.overridden, name: value}))
    return replace(hw, machine=hw.machine.with_overrides({key: value}))
