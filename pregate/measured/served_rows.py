"""A row of a server's benchmark predicted: its requests served, as `pregate arrivals` serves them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hwmodels.cost import price_figures
from hwmodels.figures import figures_of
from hwmodels.platform import Platform
from hwmodels.specs.spread import SPREAD_KEYS
from hwmodels.stacks.usual_passes import MOST_SLOTS, has_none_within, usual_pass_tokens, usual_slots
from offload.metrics.metric_probes import find_probes
from offload.placing.workload import measure_workload
from offload.policy import Policy
from offload.slots.memory import CapacityExceeded
from pregate.ask.capturing.capture import capture_request
from pregate.ask.capturing.request import request
from pregate.economics.batching import batching_of, passing
from pregate.economics.step_times import PassTimes, PassTraces, pass_times, pass_traces
from pregate.measured.rows.measured_row import MeasuredRow
from pregate.measured.rows.served_load import ServedLoad, load_named, metric_of_requests
from pregate.routing_traces import random_token_dials, synthesize
from simulator.explain.critical_path import walk
from simulator.explain.sensitivity import elasticities
from simulator.serving.arrivals import PASS_TOKENS, Batching, RequestTimes, StepTimes, serve_arrivals
from traces.errors import InvalidInput
from traces.model.architecture import ModelArchitecture
from traces.requests import ArrivalTrace
from traces.routing import RoutingTrace

_STEP = 1e-3
"""By how much passes are longer where it is asked what a metric depends on."""


_FIRST_SLOTS = 16
"""Slots that are tried first where requests come at a rate."""


@dataclass(frozen=True, slots=True, eq=False)
class ServedRow:
    """A row whose requests are served by a design, with the passes that it takes."""

    row: MeasuredRow
    passes: PassTraces
    found: PassTimes
    requests: ArrivalTrace
    slots: int
    pass_tokens: int
    batching: Batching
    machine: Platform
    design: Policy

    @classmethod
    def of(cls, row: MeasuredRow, model: ModelArchitecture, hw: Platform, seed: int) -> ServedRow:
        """Raises `InvalidInput` for what no server does, `CapacityExceeded`, and as `simulate`."""
        if row.context_tokens or row.expert_tier != "dram":
            raise InvalidInput(f"{row.name}: requests of a load keep nothing from before, and no experts on a disk")
        load, design = load_named(row.load), row.design()
        requests = _requests(load, row, seed)
        batching = batching_of(hw, model, load.prompts or None)
        most = _pass_tokens(load, hw, design)
        design = passing(design, hw, model, most)
        slots = min(
            row.batch, load.requests, load.slots or usual_slots(hw.execution, hw.machine.accelerator), MOST_SLOTS, most
        )
        slots = _with_memory_for(slots, model, hw, design, requests, most)
        drawn = random_token_dials(model) if row.is_of_random_tokens else None
        n = slots if math.isinf(load.rate) else min(_FIRST_SLOTS, slots)
        while True:  # who comes at a rate may never fill all of them, and each takes time to predict
            passes = pass_traces(
                model, requests, n, most, seed, mixes=batching.mixes, dials=drawn, execution=hw.execution
            )
            times = pass_times(passes, hw, design, alone=True)
            served = cls(row, passes, times, requests, n, most, batching, hw, design)
            if n == slots or not served.fills_slots:
                return served
            n = min(4 * n, slots)

    @property
    def fills_slots(self) -> bool:
        """Whether as many as there are slots are there at once, so that the next has to wait."""
        run = self._served(self._times)
        gone = np.searchsorted(np.sort(run.last_s), run.came_s, side="right")
        return bool(np.any(np.arange(1, len(gone) + 1) - gone >= self.slots))

    @property
    def predicted(self) -> float:
        """The metric of the row, in its unit."""
        if self.row.metric == "peak_hbm_bytes":
            return float(self.found.peak_hbm_bytes)
        return self._metric(self._times)

    @property
    def elasticities(self) -> dict[str, float]:
        """d ln(time behind the metric) / d ln(number): of passes with prompts and of others, as much as the metric
        depends on each.
        """
        at, found = math.log(self.predicted), dict.fromkeys(SPREAD_KEYS, 0.0)
        lengths, usual = np.array(self.passes.prompt_tokens), min(self.requests.input_tokens.mean(), self.pass_tokens)
        prompt = self.passes.prompts[int(np.abs(lengths - usual).argmin())]
        tokens = self.passes.tokens_for(self.design)[-1][0]
        parts = ((prompt, "ttft_s", (1 + _STEP, 1.0)), (tokens, "tpot_s", (1.0, 1 + _STEP)))
        for trace, metric, longer in parts:
            depends = (math.log(self._metric(_longer(self._times, *longer))) - at) / math.log1p(_STEP)
            for key, value in self._of_pass(trace, metric).items():
                found[key] += value * (-depends if self.row.more_is_better else depends)
        return {key: value for key, value in found.items() if abs(value) > 1e-6}

    @property
    def _times(self) -> StepTimes:
        return self.found.as_predicted

    def _served(self, times: StepTimes) -> RequestTimes:
        return serve_arrivals(self.requests, times, self.slots, self.pass_tokens, self.batching, self.row.batch)

    def _metric(self, times: StepTimes) -> float:
        run, asked = self._served(times), self.requests
        whole_s = float(run.last_s.max())
        name, percentile = metric_of_requests(self.row.metric)
        counted = {
            "tokens_per_s": asked.output_tokens.sum(), "requests_per_s": len(asked),
            "total_tokens_per_s": (asked.input_tokens + asked.output_tokens).sum(),
        }  # fmt: skip
        if name in counted:
            return float(counted[name]) / whole_s
        of_each: dict[str, Callable[[], NDArray[np.float64]]] = {
            "ttft": lambda: run.ttft_s, "tpot": lambda: run.tpot_s(asked), "e2el": lambda: run.last_s - run.came_s,
        }  # fmt: skip
        each = of_each[name]()
        if not len(each):
            raise InvalidInput(f"{self.row.name}: answers of one token have no time of another")
        return float(np.percentile(each, percentile) if percentile else each.mean())

    def _of_pass(self, trace: RoutingTrace, metric: str) -> dict[str, float]:
        """What a pass depends on."""
        placed = self.design.placed(self.passes.popularity)
        asked = request(self.passes.model, self.machine, trace, placed, workload=self.passes.whole)
        captured = capture_request(asked)
        schedule, figures = captured.decoded.schedule, figures_of(self.machine)
        run = walk(schedule, price_figures(schedule.works, figures, shares=False))
        return elasticities(
            run, find_probes(schedule, captured.trace), figures.for_works(schedule.works), metric, SPREAD_KEYS
        )


def _requests(load: ServedLoad, row: MeasuredRow, seed: int) -> ArrivalTrace:
    """Who asks when, of lengths drawn evenly where they vary."""
    rng, n = np.random.default_rng(seed), load.requests
    low, high = load.lengths
    tokens = [
        np.full(n, mean) if low == high == 1 else rng.integers(max(int(low * mean), 1), max(int(high * mean), 1) + 1, n)
        for mean in (row.input_tokens, max(row.output_tokens, 1))
    ]
    came_s = np.zeros(n) if math.isinf(load.rate) else np.cumsum(rng.exponential(1 / load.rate, n))
    if n == 1:  # a trace has two: the second is its twin
        raise InvalidInput(f"{row.name}: a load of one request is a batch of one: leave the load out")
    return ArrivalTrace(came_s, tokens[0], tokens[1], "a row's load")


def _pass_tokens(load: ServedLoad, hw: Platform, design: Policy) -> int:
    """Tokens of a pass at most: as the flags of an engine that has no smaller passes within say, or as is usual."""
    stated = design.placement.micro_batch if has_none_within(hw.execution) else None
    return stated or usual_pass_tokens(hw.execution, hw.machine.accelerator, offline=load.offline)


def _with_memory_for(
    slots: int, model: ModelArchitecture, hw: Platform, design: Policy, requests: ArrivalTrace, pass_tokens: int
) -> int:
    """As many of `slots` as there is memory for, each as long as the longest. Raises `CapacityExceeded` for one."""
    longest = int((requests.input_tokens + requests.output_tokens).max())
    trace = synthesize(model, min(int(requests.input_tokens.max()), PASS_TOKENS), 2, 1)
    workload = dataclasses.replace(measure_workload(model, trace.steps()), n_active=model.n_experts)

    def fits(n: int) -> bool:
        try:
            n_tokens = max(n, min(pass_tokens, int(np.sort(requests.input_tokens)[-n:].sum())))
            asked = dataclasses.replace(
                workload, n_cached_tokens=n * longest, n_context=longest, n_running=n, n_tokens=n_tokens
            )
            request(model, hw, trace, design, workload=asked)
        except CapacityExceeded:
            if n == 1:
                raise
            return False
        return True

    if fits(slots):
        return slots
    low, high = 1, slots  # `low` fits, `high` does not
    fits(1)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def _longer(times: StepTimes, prompts: float, tokens: float) -> StepTimes:
    """Passes with prompts and without so many times as long."""
    return dataclasses.replace(
        times, prompt_s=times.prompt_s * prompts, before_s=times.each_before_s * prompts,
        beside_s=times.each_beside_s * tokens, token_s=times.token_s * tokens, context_s=times.context_s * tokens,
    )  # fmt: skip
