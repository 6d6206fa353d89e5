"""One prediction: model + platform + routing trace + policy -> schedule -> virtual time -> metrics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from hwmodels.cost import Costs, price_figures
from hwmodels.figures import figures_of
from hwmodels.fits.coverage import FitCoverage
from hwmodels.platform import Platform
from offload.metrics import run_metrics
from offload.metrics.prefetches import Prefetches
from offload.ops import OpKind
from offload.policy import Cache, Policy
from offload.schedule import Schedule
from offload.timeline import Timeline
from pregate.ask.calibration_summary import calibration, coverage_of
from pregate.ask.capturing.capture import Captured, capture_request
from pregate.ask.capturing.machine_memory import memory_of
from pregate.ask.capturing.request import Request, request
from pregate.ask.choices import ENGINES
from pregate.ask.result_display import fields_of, html_table, one_line, to_dataframe
from pregate.ask.timing.captured_metrics import metrics_of, prefetches_of
from pregate.ask.timing.intervals import UNCERTAIN, Interval
from pregate.ask.timing.policy_modes import figures_under, modes_of
from pregate.ask.timing.time_errors import Doubt, TimeError, run_doubts
from simulator.explain.bounds import Bounds, lower_bounds
from simulator.explain.critical_path import walk
from simulator.modes import FIFO, Modes
from traces.errors import InvalidInput, PregateError, unknown_name
from traces.model.architecture import ModelArchitecture
from traces.routing import RoutingTrace

if TYPE_CHECKING:
    import pandas as pd


class Disagreement(PregateError):
    """An engine gave an op other times than SimPy, the definition, does."""


@dataclass(frozen=True, slots=True, repr=False)
class SimulationResult(run_metrics.Metrics):
    """What a policy would do to one workload on one platform; definitions in `offload.metrics`.

    Latencies in seconds, sizes in bytes, rates as fractions; `..._ci95` is the 95 % interval: from the fit's
    covariance (`pregate.ask.timing.intervals`), or without a fit from how far claims were off elsewhere
    (`pregate.ask.timing.claimed_intervals`), None of a stream without a fit of its machine. `bound_s`: no interpreter
    of this schedule is faster; `binding`: what that bound comes from. `calibration`: whether the prediction
    interpolates a fit ("fitted"), extrapolates one, or rests on claims; `beyond_fit`: what of it the fit has not
    seen, "" nothing; `fitted_share`: of the kernels' time, at shapes and in formats that the fit was measured on, 0
    without one.
    `asked_machine`: what the policy was told of its machine before it decided, "" where it asks nothing.
    `policy_source`: file and digest of the user's own code that a policy is made of, "" for none. `output`: "exact", or
    "approximate" of a design that skips or rounds experts, or executes others; `changed_share`: of the choices of
    tokens, those that were not executed as the gates had it. `routing`: "synthetic" where it was made up, so that
    `hit_rate` is assumed, else "recorded".
    `batch_size`: most sequences side by side. `n_low_slots`: of copies of fewer bits;
    `storage_bytes`: read from storage; `n_host_slots`: experts that host
    memory keeps above it, `host_hit_rate`: of those looked up there, what it had. `prefetches`: what a policy that
    guesses brought ahead, else None.
    `timeline`: start and end of every op; None of a streamed simulation, which keeps none. `rate_error`: what ln of
    `tokens_per_s` may be off by, None where it has no interval.
    """

    policy: str
    model: str
    hardware: str
    stack: str
    calibration: str
    beyond_fit: str
    fitted_share: float
    asked_machine: str
    policy_source: str
    output: str
    bound_s: float
    binding: str
    n_output_tokens: int
    batch_size: int
    n_expert_slots: int
    n_low_slots: int
    storage_bytes: int
    n_host_slots: int
    host_hit_rate: float
    schedule_digest: str
    trace_digest: str
    routing: str
    changed_share: float
    moe_layer_latency_ci95_s: Interval | None
    tokens_per_s_ci95: Interval | None
    prefetches: Prefetches | None
    timeline: Timeline | None
    rate_error: TimeError | None = None

    def __repr__(self) -> str:
        return one_line("SimulationResult", self.to_dict())

    def _repr_html_(self) -> str:
        return html_table([self.to_dict()], f"{self.model} on {self.hardware} ({self.stack})")

    def to_dict(self) -> dict[str, Any]:
        """Every field but the timeline and the error of the rate, JSON-ready."""
        values = fields_of(self, metrics_before="bound_s")
        return values | {"prefetches": None if self.prefetches is None else self.prefetches.to_dict()}

    def to_dataframe(self) -> pd.DataFrame:
        """One row. Needs pandas (the extra `notebooks`)."""
        return to_dataframe([self.to_dict()])


LONG_TRACE = 50_000
"""Passes times MoE layers beyond which a trace is long: its schedule is some hundred MB, and its timeline as much."""


def simulate(
    model: ModelArchitecture,
    hw: Platform,
    trace: RoutingTrace,
    policy: str | Policy = "pregate",
    *,
    cache: Cache | None = None,
    expert_tier: str = "dram",
    engine: str = "auto",
    modes: Modes = FIFO,
    check: bool = False,
    timeline: bool | None = None,
) -> SimulationResult:
    """Predict `policy` on `trace`.

    `policy`: a preset as typed on the command line (`pregate`, `pregate(2)`, `on_demand+lru:0.1`) or a `Policy`;
    `cache`: an expert cache to add to it; `expert_tier`: where experts wait, as typed on the command line (`dram`,
    `ssd`, `ssd+lru:16GiB`: `pregate.ask.capturing.tier_names`); `engine`: a name in
    `ENGINES`; `modes`: links and HBM that are shared, priorities, cancelled prefetches; `check`: SimPy, the definition,
    runs too and must give every op the same times; `timeline`: whether the result has one (None: unless the trace is
    long, so that memory does not grow with it). Raises `InvalidInput` when the
    trace is not of `model` or has no decode steps, `CapacityExceeded` when HBM is too small, `NotFifo` for modes that
    the engine cannot express.
    """
    if engine not in ENGINES:
        raise unknown_name("engine", engine, ENGINES)
    asked = request(model, hw, trace, policy, cache=cache, expert_tier=expert_tier)
    modes = modes_of(asked.policy, modes)
    if check and engine == "stream":
        raise InvalidInput("the engine stream keeps no times to check: try another engine, or leave out the check")
    if timeline and engine == "stream":
        raise InvalidInput("the engine stream keeps no timeline: try another engine, or ask for none")
    if (
        engine == "auto"
        and modes.is_fifo
        and not check
        and timeline is not True
        and (timeline is False or _is_long(trace))
    ):
        engine = "stream"
    if engine != "stream":
        return interpret(capture_request(asked), hw, engine, modes=modes, check=check)
    from pregate.ask.timing.streaming import stream_request

    modes.require_fifo()
    return stream_request(asked, hw)


def _is_long(trace: RoutingTrace) -> bool:
    return int(np.count_nonzero(np.diff(trace.step)) + 1) * trace.n_moe_layers > LONG_TRACE


def interpret(
    captured: Captured,
    hw: Platform,
    engine: str = "auto",
    *,
    modes: Modes = FIFO,
    with_intervals: bool = True,
    check: bool = False,
) -> SimulationResult:
    """Give a captured schedule its times on `hw`. Raises `UnknownName` for an unknown engine, or one that streams.

    `check`: raises `Disagreement` unless SimPy gives every op the same times.
    """
    schedule, turns = captured.decoded.schedule, captured.policy.placement.turns or 1
    if modes.chunk_bytes is None:
        modes = modes_of(captured.policy, modes)
    costs = price_figures(schedule.works, figures_under(modes, figures_of(hw)))
    explained = walk(schedule, costs) if engine in ("auto", "recurrence") and modes.is_fifo else None
    timeline = explained.timeline if explained else _timeline(schedule, costs, hw, engine, modes, turns)
    if check:
        _check_definition(timeline, _timeline(schedule, costs, hw, "des", modes, turns))
    found: Mapping[str, Doubt] = dict.fromkeys(UNCERTAIN, Doubt(None, None))
    if with_intervals and modes.is_fifo:
        found = run_doubts(captured, hw, UNCERTAIN, explained)
    return _result(captured, hw, timeline, lower_bounds(schedule, costs, modes), found)


def _timeline(schedule: Schedule, costs: Costs, hw: Platform, engine: str, modes: Modes, turns: int) -> Timeline:
    """The times that `engine` gives; an engine is imported when it is asked. `turns`: cards whose memory is one."""
    if engine == "auto":
        engine = "recurrence" if modes.is_fifo else "event"
    match engine:
        case "des":
            from simulator.definition import des

            return des.simulate(schedule, costs, turns * memory_of(hw).hbm_bytes, modes)
        case "event":
            from simulator.events import event_engine

            return event_engine.simulate(schedule, costs, modes)
        case "recurrence":
            from simulator import recurrence

            return recurrence.simulate(schedule, costs, modes)
    raise unknown_name("engine", engine, [name for name in ENGINES if name != "stream"])


def _check_definition(timeline: Timeline, defined: Timeline) -> None:
    """Raise `Disagreement` unless both give every op the same start and end, bit for bit."""
    differ = np.flatnonzero((timeline.start_s != defined.start_s) | (timeline.end_s != defined.end_s))
    if differ.size:
        op = int(differ[0])
        raise Disagreement(
            f"{timeline.source} and SimPy differ on {differ.size} of {len(timeline.schedule)} ops, first on op {op}: "
            f"it ends at {float(timeline.end_s[op])!r} s against {float(defined.end_s[op])!r} s: please report this"
        )


def asked_of(asked: Request, hw: Platform, covered: FitCoverage) -> dict[str, Any]:
    """What a result says of its question, of the memory granted and of the fit, however the schedule is timed."""
    return {
        "policy": asked.policy.name,
        "model": asked.model.name,
        "hardware": hw.hardware,
        "stack": hw.stack.name,
        "calibration": calibration(hw.calibration(asked.model.dtype.name), covered.beyond),
        "beyond_fit": covered.beyond,
        "fitted_share": covered.share,
        "asked_machine": asked.asked_machine,
        "policy_source": asked.policy_source,
        "n_output_tokens": asked.workload.n_output_tokens,
        "batch_size": asked.workload.n_running,
        "n_expert_slots": asked.plan.n_slots,
        "n_low_slots": asked.plan.n_low_slots,
        "trace_digest": asked.trace.digest,
        "routing": asked.trace.routing,
    }


def output_of(captured: Captured) -> str:
    """Whether what is computed is the model: "exact", or "approximate" where the policy or a choice says so."""
    return "approximate" if captured.decoded.n_changed else captured.request.output


def changed_share(n_changed: int, asked: Request) -> float:
    """Of the choices of tokens, those that were not executed as the gates had it, or left out of the trace before."""
    n_all = int(np.count_nonzero(asked.trace.experts >= 0)) + asked.n_left_out
    return (n_changed + asked.n_left_out) / n_all if n_changed + asked.n_left_out else 0.0


def host_figures(n_slots: int, lookups: tuple[int, int], read_bytes: int) -> dict[str, Any]:
    """What a result says of the host memory above storage, by name."""
    n_lookups, n_hits = lookups
    return {
        "storage_bytes": read_bytes,
        "n_host_slots": n_slots,
        "host_hit_rate": n_hits / n_lookups if n_lookups else 0.0,
    }


def host_figures_of(captured: Captured) -> dict[str, Any]:
    """The same of a captured schedule."""
    decoded = captured.decoded
    read = decoded.schedule.bytes[decoded.schedule.kind == OpKind.DISK_READ]
    return host_figures(captured.plan.n_host_slots, (decoded.n_host_lookups, decoded.n_host_hits), int(read.sum()))


def _result(
    captured: Captured, hw: Platform, timeline: Timeline, bounds: Bounds, found: Mapping[str, Doubt]
) -> SimulationResult:
    decoded = captured.decoded
    return SimulationResult(
        **asked_of(captured.request, hw, coverage_of(captured, hw)),
        output=output_of(captured),
        **metrics_of(captured, timeline),
        bound_s=bounds.makespan_s,
        binding=bounds.binding,
        **host_figures_of(captured),
        schedule_digest=decoded.schedule.digest,
        changed_share=changed_share(decoded.n_changed, captured.request),
        moe_layer_latency_ci95_s=found["moe_layer_latency_s"].interval,
        tokens_per_s_ci95=found["tokens_per_s"].interval,
        prefetches=prefetches_of(captured, timeline),
        timeline=timeline,
        rate_error=found["tokens_per_s"].error,
    )
