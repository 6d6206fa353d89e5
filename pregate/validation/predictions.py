"""What is written down before the first run: metrics, times by kind of op, and what three rules of thumb would say."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwmodels.compute_formats import computes_in
from hwmodels.cost import price
from hwmodels.fits.coverage import unfitted_device
from hwmodels.platform import Platform
from hwmodels.quantity import ReadOnly
from hwmodels.specs.overrides import with_overrides
from offload.metrics import run_metrics
from offload.ops import Lane, OpKind
from offload.schedule import Schedule
from offload.timeline import Timeline
from pregate.ask.capturing.capture import Captured, capture, capture_request
from pregate.ask.capturing.machine_memory import MachineMemory, memory_of
from pregate.ask.capturing.request import request
from pregate.ask.simulation import interpret
from pregate.ask.timing.intervals import full_intervals
from pregate.ask.timing.policy_modes import modes_measured
from pregate.validation.cases import CaseGroup
from pregate.validation.outcome import COMPARED_METRICS, Case, CasePrediction, OpTime
from runtime.programs.precedence import follows_of, order_of
from simulator.explain.explained_metrics import METRICS as SIMULATED
from traces.errors import InvalidInput
from traces.model.architecture import ModelArchitecture
from traces.routing import RoutingTrace

_MOVING = {"h2d_bytes": Lane.H2D, "d2h_bytes": Lane.D2H, "disk_bytes": Lane.DISK}


@dataclasses.dataclass(frozen=True, slots=True)
class PreparedCase:
    """A case ready to be predicted and run: the schedule that both execute, and the machine with its link."""

    case: Case
    captured: Captured
    hw: Platform
    link_bytes_per_s: float | None


def prepare_cases(
    group: CaseGroup,
    hw: Platform,
    link_bytes_per_s: float | None = None,
    slots: Mapping[str, tuple[int, int]] = ReadOnly({}),
    routing: RoutingTrace | None = None,
) -> list[PreparedCase]:
    """The cases of a group on `hw`, whose link becomes `link_bytes_per_s`, or what the group says without.

    `slots`: by the name of a case the transient slots and those of its cache that it ran with, where it has run; others
    get what `plan_memory` grants. `routing`: in place of the one that the workload makes. Raises as `pregate.simulate`.
    """
    model, trace = group.model, routing or group.workload.trace(group.model)
    whole = memory_of(hw)
    link = link_bytes_per_s or group.link_bytes_per_s
    if link is None and group.ratio is not None:
        link = _link_of_ratio(model, trace, hw, group.ratio)
    here = hw if link is None else _with_link(hw, link)
    prepared = []
    for policy in group.policies:
        memory = whole if policy == "gpu_only" else _limited(model, trace, whole, group.hbm_share)
        asked = request(model, memory, trace, policy, expert_tier=group.expert_tier)
        if group.case_name(policy) in slots:
            n_buffers, n_cache_slots = slots[group.case_name(policy)]
            plan = dataclasses.replace(asked.plan, n_buffers=n_buffers, n_cache_slots=n_cache_slots)
            asked = dataclasses.replace(asked, plan=plan)
        captured = capture_request(asked)
        case = Case(
            group.case_name(policy),
            group.name,
            model.name,
            group.workload.description,
            group.workload.batch or trace.batch,
            group.ratio,
            policy,
        )
        prepared.append(PreparedCase(case, captured, here, link))
    return prepared


def _with_link(hw: Platform, bytes_per_s: float) -> Platform:
    figures: dict[str, float | str] = {"link.h2d_bytes_per_s": bytes_per_s, "link.d2h_bytes_per_s": bytes_per_s}
    return dataclasses.replace(hw, machine=with_overrides(hw.machine, figures))


def _limited(model: ModelArchitecture, trace: RoutingTrace, memory: MachineMemory, share: float) -> MachineMemory:
    """HBM that holds what every policy needs and `share` of the experts."""
    resident = capture(model, memory, trace, "gpu_only").plan.static_bytes
    experts = model.n_moe_layers * model.n_experts * model.expert_bytes
    return dataclasses.replace(memory, hbm_bytes=int(resident - (1 - share) * experts))


def _link_of_ratio(model: ModelArchitecture, trace: RoutingTrace, hw: Platform, ratio: float) -> float:
    """The link on which fetching what on-demand decoding fetches takes `ratio` times as long as its compute."""
    memory = memory_of(hw)
    schedule = capture(model, memory, trace, "on_demand").decoded.schedule
    costs = price(schedule.works, hw)
    decoding = np.isin(schedule.step, run_metrics.decode_steps(trace))
    compute_s = float(costs.duration_s[schedule.cost[decoding & (schedule.lane == Lane.COMPUTE)]].sum())
    n_bytes = int(schedule.bytes[decoding & (schedule.kind == OpKind.FETCH)].sum())
    if not n_bytes:
        raise InvalidInput(f"{model.name}: decoding fetches nothing, so no link has a ratio: give a link speed")
    return n_bytes / (ratio * compute_s)


def predict(prepared: PreparedCase, *, keep_timeline: bool = False) -> CasePrediction:
    """Simulate a prepared case: by the event engine where the fit says what copies cost the kernels beside them."""
    captured, hw = prepared.captured, prepared.hw
    schedule = captured.decoded.schedule
    modes = modes_measured(hw)
    result = interpret(captured, hw, "recurrence" if modes.is_fifo else "event", modes=modes, with_intervals=False)
    assert result.timeline is not None
    known = not unfitted_device(schedule.works, hw)
    found = full_intervals(
        captured, hw if known else dataclasses.replace(hw, fit=None), np.random.default_rng(0), metrics=SIMULATED
    )
    values = result.to_dict()
    metrics = {name: float(values[name]) for name in COMPARED_METRICS}
    if not modes.is_fifo:  # what is drawn are FIFO machines: how far they lie from their own middle
        middle = interpret(captured, hw, "recurrence", with_intervals=False).to_dict()
        moved = {name: metrics[name] / float(middle[name]) for name in found if middle[name]}
        found = {
            name: ends and (ends[0] * moved.get(name, 1.0), ends[1] * moved.get(name, 1.0))
            for name, ends in found.items()
        }
    return CasePrediction(
        metrics=metrics,
        intervals={name: ends for name, ends in found.items() if ends is not None},
        naive=_naive(prepared),
        ops=op_times(result.timeline, captured.trace),
        exact=exact_figures(schedule, captured),
        bound_s=result.bound_s,
        schedule_digest=schedule.digest,
        timeline=result.timeline if keep_timeline else None,
    )


def exact_figures(schedule: Schedule, captured: Captured) -> dict[str, int]:
    """Bytes by lane, experts looked up and found resident: what no run may miss by one."""
    decoded = captured.decoded
    return exact_counts(
        {lane: int(schedule.bytes[schedule.lane == lane].sum()) for lane in _MOVING.values()},
        (decoded.n_lookups, decoded.n_hits),
        (decoded.n_prefill_lookups, decoded.n_prefill_hits),
    )


def exact_counts(moved_bytes: Mapping[Lane, int], decode: tuple[int, int], prefill: tuple[int, int]) -> dict[str, int]:
    """Bytes by lane, and experts looked up and found by phase, under the names they are compared by."""
    moved = {name: moved_bytes.get(lane, 0) for name, lane in _MOVING.items()}
    looked_up = {"lookups": decode[0], "hits": decode[1], "prefill_lookups": prefill[0], "prefill_hits": prefill[1]}
    return moved | looked_up


def op_times(timeline: Timeline, trace: RoutingTrace) -> dict[str, OpTime]:
    """The time of the ops of each kind in the decode phase; of one that comes right after another of the compute lane,
    from when that had ended: what it waits to be launched is its own.
    """
    schedule = timeline.schedule
    decoding = np.isin(schedule.step, run_metrics.decode_steps(trace))
    begin_s = timeline.start_s.copy()
    after = np.array(follows_of(order_of(schedule)), dtype=np.bool_)
    computing = np.flatnonzero(schedule.lane == Lane.COMPUTE)
    before = dict(zip(computing[1:].tolist(), computing[:-1].tolist(), strict=True))
    right_after = np.flatnonzero(after)
    begin_s[right_after] = timeline.end_s[[before[op] for op in right_after.tolist()]]
    durations: NDArray[np.float64] = timeline.end_s - begin_s
    found = {}
    for kind in OpKind:
        mine = decoding & (schedule.kind == kind)
        if mine.any():
            found[kind.name.lower()] = OpTime(int(mine.sum()), float(durations[mine].sum()))
    return found


def _naive(prepared: PreparedCase) -> dict[str, float]:
    """`tpot_s` by three rules of thumb, all at claimed rates, nothing fitted.

    roofline: FLOP or bytes of every kernel, transfers free. bandwidth: bytes over the link, kernels free. serialised:
    their sum.
    """
    captured, machine = prepared.captured, prepared.hw.machine
    schedule = captured.decoded.schedule
    works, accelerator = schedule.works, machine.accelerator
    rates = accelerator.peak_flop_per_s
    row_s = np.zeros(len(works))
    for i, work in enumerate(works):
        if work.gemms or work.flop:
            flop_s = work.total_flop / rates[computes_in(work.compute, rates)]
            row_s[i] = max(flop_s, (work.weight_bytes + work.hbm_bytes) / accelerator.hbm_bytes_per_s)
    steps = run_metrics.decode_steps(captured.trace)
    decoding = np.isin(schedule.step, steps)
    n_steps = max(len(steps), 1)
    compute_s = float(row_s[schedule.cost[decoding & (schedule.lane == Lane.COMPUTE)]].sum()) / n_steps
    moved = int(schedule.bytes[decoding & (schedule.lane == Lane.H2D)].sum())
    link_s = moved / machine.link.h2d_bytes_per_s / n_steps
    return {"roofline": compute_s, "bandwidth": link_s, "serialised": compute_s + link_s}


def predictions_document(predicted: Sequence[tuple[PreparedCase, CasePrediction]]) -> tuple[str, str]:
    """JSON of all predictions, to be written before any run, and its digest (16 hex digits of the SHA-256)."""
    rows: list[dict[str, Any]] = [
        {
            "case": prepared.case.name,
            "link_bytes_per_s": prepared.link_bytes_per_s,
            "schedule": prediction.schedule_digest,
            "metrics": dict(prediction.metrics),
            "intervals": {name: list(ends) for name, ends in prediction.intervals.items()},
            "naive_tpot_s": dict(prediction.naive),
            "exact": dict(prediction.exact),
        }
        for prepared, prediction in predicted
    ]
    text = json.dumps(rows, indent=1) + "\n"
    return text, hashlib.sha256(text.encode()).hexdigest()[:16]
