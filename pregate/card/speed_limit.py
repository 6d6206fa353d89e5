"""The speed limit of a machine: every byte that a step needs read once, from HBM and DRAM at once, and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
from numpy.typing import NDArray

from hwmodels.compute_formats import computes_in
from hwmodels.platform import Platform
from offload.metrics.run_metrics import decode_steps
from offload.ops import OpKind
from offload.policies import policy_named
from offload.schedule import Schedule
from pregate.ask.capturing.answer_cache import Answer, answer_key, kept_answer
from pregate.ask.capturing.capture import capture_request
from pregate.ask.capturing.demands import passes_that_ask
from pregate.ask.capturing.machine_memory import MachineMemory, memory_of
from pregate.ask.capturing.request import Request, request
from pregate.ask.capturing.schedule_cache import ScheduleCache
from pregate.card.job import Workpiece
from pregate.card.judged_design import objective_of
from traces.model.architecture import ModelArchitecture
from traces.phase import Phase
from traces.routing import RoutingTrace

_ROOMY = 1 << 50
"""Bytes of a memory that holds any model."""


@dataclass(frozen=True, slots=True)
class Limit:
    """Seconds to the first token and a token that no design on the machine can beat, at its claimed rates, and what of
    each binds: HBM, DRAM or arithmetic.
    """

    ttft_s: float
    tpot_s: float
    prompt_binds: str
    token_binds: str


def roomy_memory(hw: Platform, n_cards: int = 1) -> MachineMemory:
    """The memory of a platform, were there room for everything in HBM and on the host."""
    found = memory_of(hw)
    return replace(found, hbm_bytes=_ROOMY, dram_bytes=_ROOMY, costs_of=None, n_cards=n_cards, is_one=False)


def cards_at_once(model: ModelArchitecture, asked: Sequence[Request], prompt: RoutingTrace) -> tuple[int, int]:
    """Cards that compute at once for requests as asked, at most: in a prompt, where several passes of it may be in
    one card each, and in a token.
    """
    n_tokens = np.unique(_to_first_token(model, prompt).step, return_counts=True)[1]
    sharing = [one.placed.n_cards for one in asked if one.execution.shares_layers]
    passing = [
        min(one.placed.n_cards, int(np.sum(-(-n_tokens // one.execution.micro_batch))))
        for one in asked
        if one.execution.input_copies and one.execution.micro_batch
    ]
    return max([1, *sharing, *passing]), max([1, *sharing])


def speed_limit(
    model: ModelArchitecture,
    hw: Platform,
    work: Workpiece,
    at_once: tuple[int, int] = (1, 1),
    kept: ScheduleCache | None = None,
) -> Limit:
    """The limit of a job. In HBM are the experts for which most passes of the phase ask, known beforehand. Cards that
    compute `at_once`, in a prompt and in a token, read and compute as one that is as many times as fast.

    `kept`: where answers of earlier runs lie.
    """
    asked = [
        request(model, roomy_memory(hw), trace, policy_named("gpu_only"), workload=work.workload)
        for trace in (work.prompt, work.tokens)
    ]
    room = hw.machine.n_cards * hw.machine.accelerator.hbm_bytes - asked[0].plan.static_bytes
    experts_bytes = model.n_moe_layers * model.n_experts * model.expert_bytes
    n_experts = max(int((room + experts_bytes) / max(model.expert_bytes, 1)), 0)
    until_first = _to_first_token(model, work.prompt)
    uses = passes_that_ask(model, until_first), passes_that_ask(model, work.tokens, Phase.DECODE)
    resident = [_share_of_uses(one, n_experts) for one in uses]
    said = f"speed limit of {at_once!r} cards with {resident!r} of uses in HBM, first token after {until_first.n_steps}"
    key = answer_key(said, asked, hw)
    return Limit(**kept_answer(kept, key, lambda: _limit(asked, hw, work, until_first, resident, at_once)))


def _limit(
    asked: Sequence[Request],
    hw: Platform,
    work: Workpiece,
    until_first: RoutingTrace,
    resident: Sequence[float],
    at_once: tuple[int, int],
) -> Answer:
    schedules = [capture_request(one).decoded.schedule for one in asked]
    first = schedules[0].step <= until_first.step[-1]
    rest = np.isin(schedules[1].step, decode_steps(work.tokens))
    n_tokens = max(len(decode_steps(work.tokens)), 1)
    ttft_s, prompt_binds = _least(schedules[0], first, hw, resident[0], at_once[0])
    token_s, token_binds = _least(schedules[1], rest, hw, resident[1], at_once[1])
    return asdict(Limit(ttft_s, token_s / n_tokens, prompt_binds, token_binds))


def limit_of(limit: Limit, work: Workpiece, objective: str) -> float:
    """The limit as the objective has it."""
    return abs(float(objective_of(limit.ttft_s, limit.tpot_s, work.job, objective)))


def _to_first_token(model: ModelArchitecture, trace: RoutingTrace) -> RoutingTrace:
    """The passes to the first token: to the end of the first prompt, of an encoder-decoder what is encoded before, and
    where no prompt was recorded the first.
    """
    decodes, unfinished = trace.phase == Phase.DECODE, trace.unfinished
    if model.is_encoder_decoder and not decodes[0]:
        return trace.first_steps(int(trace.step[decodes][0]))
    makes = trace.step if unfinished is None else trace.step[~unfinished]
    return trace.first_steps(int(makes[0]) + 1)


def _share_of_uses(asked: NDArray[np.int64], n_experts: int) -> float:
    """The share of what passes ask for, `asked` of each expert, that the `n_experts` asked for most have; 1 where
    nothing is asked for.
    """
    uses = np.sort(asked, axis=None)[::-1]
    return float(uses[:n_experts].sum() / max(uses.sum(), 1)) if uses.any() else 1.0


def _least(schedule: Schedule, counted: NDArray[np.bool_], hw: Platform, resident: float, n: int) -> tuple[float, str]:
    """Seconds of the counted ops on `n` cards together: the longest of HBM, DRAM and arithmetic, and which that is."""
    machine = hw.machine
    times = np.bincount(schedule.cost[counted], minlength=len(schedule.works)).tolist()
    hbm = dram = arithmetic_s = 0.0
    for n_times, work in zip(times, schedule.works, strict=True):
        if not n_times or not (work.gemms or work.flop):
            continue
        here = resident if work.kind is OpKind.EXPERTS else 1.0
        hbm += n_times * (work.weight_bytes * here + work.hbm_bytes)
        dram += n_times * work.weight_bytes * (1 - here)
        peaks = machine.accelerator.peak_flop_per_s
        arithmetic_s += n_times * work.total_flop / peaks[computes_in(work.compute, peaks)]
    seconds = {
        "HBM": hbm / (n * machine.accelerator.hbm_bytes_per_s),
        "DRAM": dram / machine.host.dram_bytes_per_s,
        "arithmetic": arithmetic_s / n,
    }
    longest = max(seconds, key=lambda name: seconds[name])
    return seconds[longest], longest
