"""One design on one job: seconds to the first token, a token, a request; each with an interval and what it rests on."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hwmodels.fits.coverage import unfitted_device
from offload.policy import fetch_misses
from pregate.ask.capturing.capture import Captured, capture_request
from pregate.ask.capturing.own_policy_checks import is_own
from pregate.ask.capturing.request import Request
from pregate.ask.capturing.schedule_cache import ScheduleCache
from pregate.ask.choices import OBJECTIVES
from pregate.ask.comparison import what_binds
from pregate.ask.simulation import SimulationResult, interpret
from pregate.ask.timing.intervals import Interval, intervals
from pregate.card.designs import EngineDesign, Planned
from pregate.card.job import RequestLoad
from pregate.card.record import spread_of
from traces.errors import unknown_name

__all__ = ["TAGS", "Expected", "Judged", "judge", "objective_of"]

NORMAL_95 = 1.96
"""Standard deviations on each side of a 95 % interval."""

TAGS = ("claimed", "extrapolated", "fitted")
"""What a number rests on, the weakest first."""


@dataclass(frozen=True, slots=True)
class Expected:
    """A predicted number, its 95 % interval, what they rest on (claimed, extrapolated or fitted), and `why` in words.

    `spread`: the standard deviation of ln(value); `within`: what of it two designs of a machine and stack do not share.
    """

    value: float
    spread: float
    within: float
    tag: str
    why: str

    @property
    def interval(self) -> Interval:
        """The 95 % interval."""
        factor = math.exp(NORMAL_95 * self.spread)
        return self.value / factor, self.value * factor

    def inverse(self, total: float) -> Expected:
        """`total` over this, as sure as this."""
        return dataclasses.replace(self, value=total / self.value)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {"value": self.value, "ci95": list(self.interval), "rests_on": self.tag, "why": self.why}


@dataclass(frozen=True, slots=True)
class Judged:
    """What a design makes of a job. `prompt_binds`, `token_binds`: what each phase waits for, in plain words."""

    design: EngineDesign
    job: RequestLoad
    ttft: Expected
    tpot: Expected
    request: Expected
    throughput: Expected
    hit_rate: float
    peak_hbm_bytes: int
    prompt_binds: str
    token_binds: str
    beyond_fit: str
    planned: Planned = field(repr=False, compare=False)
    captured: tuple[Captured, Captured] = field(repr=False, compare=False)

    def estimate(self, objective: str) -> Expected:
        """The number that `objective` names. Raises `UnknownName`."""
        if objective not in OBJECTIVES:
            raise unknown_name("objective", objective, OBJECTIVES)
        found: Expected = getattr(self, objective)
        return found

    def cost(self, objective: str) -> float:
        """The objective as a number of which less is better."""
        value = self.estimate(objective).value
        return -value if objective == "throughput" else value

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "design": self.design.policy,
            "stack": self.design.stack,
            "ttft_s": self.ttft.to_dict(),
            "tpot_s": self.tpot.to_dict(),
            "request_s": self.request.to_dict(),
            "tokens_per_s": self.throughput.to_dict(),
            "hit_rate": self.hit_rate,
            "peak_hbm_bytes": self.peak_hbm_bytes,
            "prompt_binds": self.prompt_binds,
            "token_binds": self.token_binds,
        }


def objective_of(ttft: Any, tpot: Any, job: RequestLoad, objective: str) -> Any:
    """The objective of two times, numbers or arrays, as less is better: a throughput is negative."""
    request = ttft + job.n_steps * tpot
    return {"ttft": ttft, "tpot": tpot, "request": request, "throughput": -job.batch * job.output_tokens / request}[
        objective
    ]


def judge(planned: Planned, job: RequestLoad, schedules: ScheduleCache | None = None) -> Judged:
    """Write the schedules of a design, and time them; `schedules`: where those are kept that take long to write.

    Raises `CapacityExceeded` where a layer's experts do not fit.
    """
    prompt = _captured(planned.prompt, schedules)
    tokens = prompt if planned.tokens is planned.prompt else _captured(planned.tokens, schedules)
    hw = planned.hw
    first = interpret(prompt, hw, "recurrence", with_intervals=False)
    rest = first if tokens is prompt else interpret(tokens, hw, "recurrence", with_intervals=False)
    ttft = _estimate("prefill", first.ttft_s, first, prompt, planned)
    tpot = _estimate("decode", rest.tpot_s, rest, tokens, planned)
    whole = _together(ttft, tpot, job)
    return Judged(
        design=planned.design,
        job=job,
        ttft=ttft,
        tpot=tpot,
        request=whole,
        throughput=whole.inverse(job.batch * job.output_tokens),
        hit_rate=rest.hit_rate,
        peak_hbm_bytes=max(first.peak_hbm_bytes, rest.peak_hbm_bytes),
        prompt_binds=what_binds(first),
        token_binds=what_binds(rest),
        beyond_fit=rest.beyond_fit or first.beyond_fit,
        planned=planned,
        captured=(prompt, tokens),
    )


def _captured(asked: Request, schedules: ScheduleCache | None) -> Captured:
    """The schedule of a request: kept where Python writes it, which takes longer than to read it again."""
    policy = asked.policy
    quick = asked.model.is_uniform and policy.on_miss is fetch_misses and asked.placed.is_plain
    if schedules is None or quick or is_own(policy):
        return capture_request(asked)
    return schedules.captured(asked)


def _estimate(phase: str, value: float, result: SimulationResult, captured: Captured, planned: Planned) -> Expected:
    """A time with its spread: that of a fit, and where no fit is of this machine what claims were off elsewhere."""
    hw, tag = planned.hw, result.calibration
    metric = "ttft_s" if phase == "prefill" else "tpot_s"
    own = 0.0
    if hw.fit is not None and not unfitted_device(captured.decoded.schedule.works, hw):
        found = intervals(captured, hw, np.random.default_rng(0), metrics=(metric,))[metric]
        if found is not None and found[0] > 0:
            own = math.log(found[1] / found[0]) / (2 * NORMAL_95)
    if tag == "fitted" and own:
        return Expected(value, own, own / math.sqrt(2), tag, "the covariance of the fit")
    known = spread_of(phase, planned.design.stack)
    return Expected(value, max(own, known.rms), max(own, known.within), tag, str(known))


def _together(ttft: Expected, tpot: Expected, job: RequestLoad) -> Expected:
    """A whole request: its parts are off independently of each other."""
    parts = ttft.value, job.n_steps * tpot.value
    whole = sum(parts)
    spread, within = (
        math.hypot(parts[0] * one, parts[1] * other) / whole
        for one, other in ((ttft.spread, tpot.spread), (ttft.within, tpot.within))
    )
    tag = min(ttft.tag, tpot.tag, key=TAGS.index)
    longer = ttft if parts[0] > parts[1] else tpot
    return Expected(whole, spread, within, tag, longer.why)
