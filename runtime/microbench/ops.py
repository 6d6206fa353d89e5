"""Every kind of op as it runs: the ops of a probe on the back end, grouped by the work they do."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from hwmodels.calibrate.measurements import Sample, sample_of, work_parameters
from offload.decode import decode
from offload.execution import EXECUTIONS
from offload.ops import KERNEL_KINDS, KINDS, Gemm, Lane, OpKind, Work
from offload.policies import policy_named
from offload.policy import Policy
from offload.schedule import Schedule
from runtime.backend import Backend
from runtime.loading import load_program
from runtime.microbench.lanes import Timed, timed
from runtime.microbench.probes import Probe
from runtime.model.weights import Experts
from runtime.program import Program, build_program, resident_slots
from traces.routing import Phase

__all__ = ["offloaded_samples", "op_samples"]

_HOST_KINDS = tuple(kind for kind, row in KINDS.items() if row.lane is Lane.HOST)
_Group = tuple[OpKind, tuple[Gemm, ...], bool]


_WARM_TOKENS = 256
"""Tokens of all prompts that a run to warm up has at most: what libraries first do costs longer ones little."""


def op_samples(make: Callable[[], Backend], probe: Probe, experts: Experts, *, warm: bool = True) -> list[Sample]:
    """A sample of each kind of op and shape of `probe`: what it takes on its lane, and `issue` what the host takes.

    All experts are resident and nothing runs beside the ops. The first decode pass is left out, and if `warm` all of a
    shorter run before it: libraries choose their kernels when they first meet a shape.
    """
    resident = policy_named("gpu_only")
    if warm:
        prompt = min(probe.input_tokens, max(1, _WARM_TOKENS // probe.batch))
        _run(make, dataclasses.replace(probe, input_tokens=prompt, output_tokens=2), experts, resident, 0)
    return _samples(probe, *_run(make, probe, experts, resident, 0), "nothing")


def offloaded_samples(
    make: Callable[[], Backend], probe: Probe, experts: Experts, policy: str, *, quick: bool = False
) -> list[Sample]:
    """The ops of `probe` under a policy that offloads: copies go through the same memory, caches go cold while it
    waits, and its waits and readbacks are timed too. Their `beside` says the policy and its slots.

    Once for each of several numbers of slots: those of prompts that activate as few experts as the probe does, all of
    them, and unless `quick` some between. Few slots stay in a cache.
    """
    chosen, n_experts = policy_named(policy), probe.model.n_experts
    active = {probe.n_active, n_experts} if quick else {probe.n_active, min(2 * probe.n_active, n_experts), n_experts}
    samples = []
    for n_active in sorted(active):
        n_slots = chosen.buffers(n_active, n_experts).full
        run = _run(make, probe, experts, chosen, n_slots)
        samples += _samples(probe, *run, f"{policy}, {n_slots} slots")
    return samples


def _run(
    make: Callable[[], Backend], probe: Probe, experts: Experts, policy: Policy, n_slots: int
) -> tuple[Program, Timed]:
    model, trace, offloaded = probe.model, probe.trace, not policy.resident
    schedule = decode(model, trace.steps(), policy, EXECUTIONS["streams"], n_buffers=n_slots).schedule
    program = build_program(model, trace.steps(), schedule, {} if offloaded else resident_slots(model))
    backend = make()
    try:
        with torch.inference_mode():
            if offloaded:
                experts.require(program.keys(OpKind.FETCH))
            actions = load_program(backend, program, experts, None).actions
    except BaseException:
        backend.close()
        raise
    return program, timed(backend, program.order.lane.tolist(), actions, program.order.waits)


def _samples(probe: Probe, program: Program, run: Timed, beside: str) -> list[Sample]:
    schedule = program.schedule
    durations_s = run.times.end_s - run.times.start_s
    samples = []
    for (kind, _, decoding), ops in _groups(program).items():
        work = schedule.works[schedule.cost[ops[len(ops) // 2]]]
        phase = "decode" if decoding else "prefill"
        described: dict[str, Any] = {"probe": probe.name, "phase": phase, "beside": beside} | work_parameters(work)
        samples.append(sample_of("op", durations_s[ops].tolist(), **described))
        if kind not in _HOST_KINDS:
            issued = run.issue_s[ops]
            samples.append(
                sample_of(
                    "issue", issued.tolist(), kind=kind.name.lower(), phase=phase, probe=probe.name, beside=beside
                )
            )
    return samples


def _groups(program: Program) -> dict[_Group, list[int]]:
    """Ops that do the same but for the length of the context, those of the first pass of a phase left out."""
    schedule, passes = program.schedule, program.passes.passes
    decoding = np.array([passes[i].phase == Phase.DECODE for i in program.pass_of.tolist()])
    first = _first_passes(program)
    groups: dict[_Group, list[int]] = defaultdict(list)
    for op, kind in enumerate(OpKind(k) for k in schedule.kind.tolist()):
        if int(program.pass_of[op]) not in first and (kind in KERNEL_KINDS or kind in _HOST_KINDS or _copies(kind)):
            groups[kind, _gemms(schedule, op), bool(decoding[op])].append(op)
    return groups


def _copies(kind: OpKind) -> bool:
    return kind in (OpKind.FETCH, OpKind.READBACK)


def _gemms(schedule: Schedule, op: int) -> tuple[Gemm, ...]:
    work: Work = schedule.works[schedule.cost[op]]
    return work.gemms


def _first_passes(program: Program) -> set[int]:
    """The first decode pass, which finds nothing warm; a prefill is the only one of its kind and stays."""
    decoding = [i for i, one in enumerate(program.passes.passes) if one.phase == Phase.DECODE]
    return set(decoding[:1])
