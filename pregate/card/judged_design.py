"""One design on one job: seconds to the first token, a token, a request; each with an interval and what it rests on."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hwmodels.cost import price_figures
from hwmodels.figures import figures_of
from hwmodels.platform import Platform
from hwmodels.specs.spread import shipped_spread
from offload.metrics.run_metrics import moved_bytes, stall_s
from offload.ops import Lane
from offload.timeline import Timeline
from pregate.ask.calibration_summary import beyond_fit_of, calibration
from pregate.ask.capturing.answer_cache import Answer
from pregate.ask.capturing.capture import Captured
from pregate.ask.capturing.schedule_cache import ScheduleCache
from pregate.ask.choices import OBJECTIVES
from pregate.ask.comparison import what_binds_it
from pregate.ask.timing.captured_metrics import metrics_of
from pregate.ask.timing.intervals import Interval
from pregate.ask.timing.policy_modes import modes_of
from pregate.ask.timing.time_errors import TimeError, summed, time_error
from pregate.card.design_schedules import DesignSchedules
from pregate.card.designs import EngineDesign, Planned
from pregate.card.job import RequestLoad
from simulator.explain.critical_path import ExplainedRun, walk
from simulator.modes import FIFO
from traces.errors import unknown_name

TAGS = ("claimed", "extrapolated", "fitted")
"""What a number rests on, the weakest first."""


@dataclass(frozen=True, slots=True)
class Expected:
    """A predicted number, how far it may be off, what that rests on (claimed, extrapolated or fitted), and `why` in
    words.
    """

    value: float
    error: TimeError
    tag: str
    why: str

    @property
    def interval(self) -> Interval:
        """The 95 % interval."""
        return self.error.interval(self.value)

    def inverse(self, total: float) -> Expected:
        """`total` over this, as sure as this."""
        return dataclasses.replace(self, value=total / self.value, error=self.error.inverse())

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {"value": self.value, "ci95": list(self.interval), "rests_on": self.tag, "why": self.why}


@dataclass(frozen=True, slots=True)
class PhaseUse:
    """What a phase keeps busy: shares of its time in which the compute lane and the host's processor are, and bytes
    that cross the link to the device in a second of it.
    """

    compute_share: float
    host_share: float
    h2d_bytes_per_s: float

    @classmethod
    def of(cls, timeline: Timeline) -> PhaseUse:
        """Of a run, or a part of one. All 0 where that takes no time."""
        span_s = timeline.makespan_s
        if not span_s:
            return cls(0.0, 0.0, 0.0)
        compute, host = (min(timeline.busy_s(lane) / span_s, 1.0) for lane in (Lane.COMPUTE, Lane.CPU))
        moved = moved_bytes(timeline.schedule.kind, timeline.moved_bytes)["h2d_bytes"]
        return cls(compute, host, moved / span_s)

    def at_pace(self, pace: float) -> PhaseUse:
        """Where the phase takes `pace` times as long."""
        return PhaseUse(self.compute_share / pace, self.host_share / pace, self.h2d_bytes_per_s / pace)


@dataclass(frozen=True, slots=True)
class Judged:
    """What a design makes of a job. `prompt_binds`, `token_binds`: what each phase waits for, in plain words;
    `prompt_use`, `token_use`: what its schedule keeps busy.
    """

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
    prompt_use: PhaseUse
    token_use: PhaseUse
    beyond_fit: str
    planned: Planned = field(repr=False, compare=False)
    schedules: DesignSchedules = field(repr=False, compare=False)

    @property
    def n_under_way(self) -> int:
        """Passes of tokens that are under way at the same time."""
        return self.planned.n_under_way

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
            "passes_under_way": self.n_under_way,
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


def judge(planned: Planned, job: RequestLoad, kept: ScheduleCache | None = None) -> Judged:
    """Write the schedules of a design, and time them; `kept`: where answers of earlier runs lie.

    Raises `CapacityExceeded` where a layer's experts do not fit.
    """
    schedules = DesignSchedules(planned, kept)
    found = schedules.found("times", lambda: _times(schedules))
    prompt, tokens = found["prompt"], found["tokens"]
    pace = schedules.token_pace()
    ttft, tpot = _expected(prompt), _expected(tokens)
    tpot = dataclasses.replace(tpot, value=pace * tpot.value)
    whole = _together(ttft, tpot, job)
    return Judged(
        design=planned.design,
        job=job,
        ttft=ttft,
        tpot=tpot,
        request=whole,
        throughput=whole.inverse(job.batch * job.output_tokens),
        hit_rate=tokens["hit_rate"],
        peak_hbm_bytes=max(prompt["peak_hbm_bytes"], tokens["peak_hbm_bytes"]),
        prompt_binds=prompt["binds"],
        token_binds=tokens["binds"],
        prompt_use=PhaseUse(**prompt["use"]),
        token_use=PhaseUse(**tokens["use"]).at_pace(pace),
        beyond_fit=tokens["beyond_fit"] or prompt["beyond_fit"],
        planned=planned,
        schedules=schedules,
    )


def _times(schedules: DesignSchedules) -> Answer:
    """What a design takes, by phase."""
    prompt, tokens, hw = schedules.prompt, schedules.tokens, schedules.planned.hw
    first = _timed(prompt, hw)
    rest = first if tokens is prompt else _timed(tokens, hw)
    return {"prompt": first.of("ttft_s"), "tokens": rest.of("tpot_s")}


@dataclass(frozen=True, slots=True, eq=False)
class _Timed:
    """A schedule on a machine: its run, its metrics by name, and what of it a fit has not seen."""

    captured: Captured
    hw: Platform
    run: ExplainedRun
    metrics: Mapping[str, Any]
    beyond_fit: str

    def of(self, metric: str) -> Answer:
        """A phase: the `value` of its metric, what that rests on, how far it may be off, what it waits for."""
        hw, found, timeline = self.hw, self.metrics, self.run.timeline
        if metric == "tpot_s":  # what made the first token fills a cache, or is the prompt
            timeline = timeline.since(found["ttft_s"])
        return {
            "value": found[metric],
            "tag": calibration(hw.calibration(self.captured.model.dtype.name), self.beyond_fit),
            "error": time_error(self.captured, hw, metric, self.run).to_dict(),
            "hit_rate": found["hit_rate"],
            "peak_hbm_bytes": found["peak_hbm_bytes"],
            "binds": what_binds_it(timeline, timeline.makespan_s, stall_s(timeline) / timeline.makespan_s),
            "use": dataclasses.asdict(PhaseUse.of(timeline)),
            "beyond_fit": self.beyond_fit,
        }


def _timed(captured: Captured, hw: Platform) -> _Timed:
    modes_of(captured.policy, FIFO).require_fifo()
    schedule = captured.decoded.schedule
    run = walk(schedule, price_figures(schedule.works, figures_of(hw), shares=False))
    return _Timed(captured, hw, run, metrics_of(captured, run.timeline), beyond_fit_of(captured, hw))


def _expected(found: Answer) -> Expected:
    """The time of a phase."""
    error = TimeError.from_dict(found["error"])
    return Expected(found["value"], error, found["tag"], _why(error))


def _why(error: TimeError) -> str:
    if not any(error.fitted):
        return str(shipped_spread())
    return "the covariance of the fit" + " and the scatter of claims for numbers that were set" * bool(error.depends)


def _together(ttft: Expected, tpot: Expected, job: RequestLoad) -> Expected:
    """A whole request."""
    parts = ttft.value, job.n_steps * tpot.value
    tag = min(ttft.tag, tpot.tag, key=TAGS.index)
    longer = ttft if parts[0] > parts[1] else tpot
    return Expected(sum(parts), summed([(parts[0], ttft.error), (parts[1], tpot.error)]), tag, longer.why)
