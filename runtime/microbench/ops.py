"""Every kind of op as it runs: the ops of a probe on the back end, grouped by the work they do."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hwmodels.calibrate.measurements import Sample, sample_of, work_parameters
from offload.decode import decode
from offload.execution import EXECUTIONS
from offload.ops import KERNEL_KINDS, KINDS, Gemm, Lane, OpKind, Work
from offload.policies import policy_named
from offload.policy import Policy
from offload.schedule import Schedule
from runtime.backends.backend import Action, Backend, Times
from runtime.loading import load_program
from runtime.microbench.lanes import copies_under_way, timed
from runtime.microbench.probes import Probe
from runtime.model.weights import Experts
from runtime.programs.program import Program, build_program, resident_slots
from traces.phase import Phase

_HOST_KINDS = tuple(kind for kind, row in KINDS.items() if row.lane is Lane.HOST)
_Group = tuple[OpKind, tuple[Gemm, ...], bool]


_LEAST_TOLD = 4
"""Ops with a copy under way, or without, that are worth a sample of their own."""

_WARM_TOKENS = 256
"""Tokens of all prompts that a run to warm up has at most: what libraries first do costs longer ones little."""


def op_samples(
    make: Callable[[], Backend], probe: Probe, experts: Experts, *, warm: bool = True, hold: Action | None = None
) -> list[Sample]:
    """A sample of each kind of op and shape of `probe`: what it takes on its lane, and `issue` what the host takes.

    All experts are resident and nothing runs beside the ops. The first decode pass is left out, and if `warm` all of a
    shorter run before it: libraries choose their kernels when they first meet a shape. `hold`: keeps the compute lane
    busy for as long as the host takes to issue a pass; then ops are timed once more behind it, so that none waits for
    its own kernels to be launched, and that is what they take.
    """
    resident = policy_named("gpu_only")
    if warm:
        prompt = min(probe.input_tokens, max(1, _WARM_TOKENS // probe.batch))
        _run(make, dataclasses.replace(probe, input_tokens=prompt, output_tokens=2), experts, resident, 0)
    return _samples(probe, _run(make, probe, experts, resident, 0, hold), "nothing")


def offloaded_samples(
    make: Callable[[], Backend], probe: Probe, experts: Experts, policy: str, *, quick: bool = False,
    hold: Action | None = None,
) -> list[Sample]:  # fmt: skip
    """The ops of `probe` under a policy that offloads: copies go through the same memory, caches go cold while it
    waits, and its waits and readbacks are timed too. Their `beside` says the policy and its slots. `hold` as of
    `op_samples`. Kernels and readbacks are told once more: those that ended while a copy to the device was under way
    as samples "beside", the others as "apart".

    Once for each of several numbers of slots: those of prompts that activate as few experts as the probe does, all of
    them, and unless `quick` some between. Few slots stay in a cache.
    """
    chosen, n_experts = policy_named(policy), probe.model.n_experts
    active = {probe.n_active, n_experts} if quick else {probe.n_active, min(2 * probe.n_active, n_experts), n_experts}
    samples = []
    for n_active in sorted(active):
        n_slots = chosen.buffers(n_active, n_experts).full
        samples += _samples(probe, _run(make, probe, experts, chosen, n_slots, hold), f"{policy}, {n_slots} slots")
    return samples


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class _Ran:
    """A program, and what its ops took, (n_ops,): on their lane, and the host to issue them; and of which a copy to the
    device was under way when they ended.
    """

    program: Program
    duration_s: NDArray[np.float64]
    issue_s: NDArray[np.float64]
    copying: NDArray[np.bool_]


def _run(
    make: Callable[[], Backend],
    probe: Probe,
    experts: Experts,
    policy: Policy,
    n_slots: int,
    hold: Action | None = None,
) -> _Ran:
    """Times of every op of a probe under a policy; queued behind `hold`, those that the host would hold up."""
    model, trace, offloaded = probe.model, probe.trace, not policy.resident
    schedule = decode(model, trace.steps(), policy, EXECUTIONS["streams"], n_buffers=n_slots).schedule
    program = build_program(model, trace.steps(), schedule, {} if offloaded else resident_slots(model))
    if offloaded:
        experts.require(program.keys(OpKind.FETCH))
    lanes, waits = program.order.lane.tolist(), program.order.waits
    backend, actions = _loaded(make, program, experts)
    run = timed(backend, lanes, actions, waits)
    duration_s, copying = run.times.ran_s, copies_under_way(lanes, run.times)
    if hold is not None:
        backend, actions = _loaded(make, program, experts)
        queued = _queued(program, actions, hold)
        times = timed(backend, queued.lanes, queued.actions, queued.waits).times
        duration_s[queued.ops] = _held_s(queued, times)
        copying[queued.ops] = copies_under_way(queued.lanes, times)[queued.places]
    return _Ran(program, duration_s, run.issue_s, copying)


def _loaded(make: Callable[[], Backend], program: Program, experts: Experts) -> tuple[Backend, list[Action | None]]:
    backend = make()
    try:
        with torch.inference_mode():
            return backend, load_program(backend, program, experts, None).actions
    except BaseException:
        backend.close()
        raise


@dataclasses.dataclass(frozen=True, slots=True)
class _Queued:
    """Ops to issue with no host between them; of them `places` are the ops `ops` of the program."""

    lanes: list[int]
    actions: list[Action | None]
    waits: list[tuple[int, ...]]
    ops: list[int]
    places: list[int]


def _queued(program: Program, actions: Sequence[Action | None], hold: Action) -> _Queued:
    """A program whose host is ahead of the device: each pass begins with `hold`, and what the host would wait for, all
    that it issues from then on waits for.
    """
    found = _Queued([], [], [], [], [])
    place: dict[int, int] = {}
    behind: set[int] = set()
    i_pass = -1
    for op, (lane, action) in enumerate(zip(program.order.lane.tolist(), actions, strict=True)):
        needed = {place[dep] for dep in program.order.waits[op] if dep in place}
        if lane == Lane.HOST:
            behind |= needed
            continue
        if int(program.pass_of[op]) != i_pass:
            i_pass = int(program.pass_of[op])
            _append(found, Lane.COMPUTE, hold, set())
        place[op] = len(found.lanes)
        found.ops.append(op)
        found.places.append(place[op])
        _append(found, lane, action, needed | behind)
    return found


def _held_s(queued: _Queued, times: Times) -> NDArray[np.float64]:
    """How long each op of the program held its lane, the host being ahead: from when the op before had ended and all
    that it waits for, so that what a device takes to see that is the op's.

    A copy that waits for nothing begins when it does: its lane may have been idle.
    """
    taken = times.end_s - times.start_s
    last_s: dict[int, float] = {}
    for op, (lane, waits) in enumerate(zip(queued.lanes, queued.waits, strict=True)):
        if waits or (lane == Lane.COMPUTE and lane in last_s):
            ready_s = max([last_s.get(lane, 0.0), *(float(times.end_s[dep]) for dep in waits)])
            taken[op] = max(times.end_s[op] - ready_s, 0.0)
        last_s[lane] = float(times.end_s[op])
    held: NDArray[np.float64] = taken[queued.places]
    return held


def _append(queued: _Queued, lane: int, action: Action | None, waits: set[int]) -> None:
    """An op, which waits for the last of each other lane of `waits`: lanes serve in order."""
    last: dict[int, int] = {}
    for dep in waits:
        last[queued.lanes[dep]] = max(dep, last.get(queued.lanes[dep], -1))
    queued.waits.append(tuple(sorted(dep for at, dep in last.items() if at != lane)))
    queued.lanes.append(int(lane))
    queued.actions.append(action)


def _samples(probe: Probe, run: _Ran, beside: str) -> list[Sample]:
    """What a run says of each group of like ops: what they took, and what the host took to issue them."""
    program = run.program
    schedule = program.schedule
    samples = []
    for (kind, _, decoding), ops in _groups(program).items():
        work = schedule.works[schedule.cost[ops[len(ops) // 2]]]
        phase = "decode" if decoding else "prefill"
        described: dict[str, Any] = {"probe": probe.name, "phase": phase, "beside": beside} | work_parameters(work)
        samples.append(sample_of("op", run.duration_s[ops].tolist(), **described))
        if (kind in KERNEL_KINDS or kind is OpKind.READBACK) and beside != "nothing":
            samples += _by_copies(run, np.array(ops), described)
        if kind not in _HOST_KINDS:
            of = {"kind": kind.name.lower(), "phase": phase, "probe": probe.name, "beside": beside}
            samples += [
                sample_of("issue", run.issue_s[mine].tolist(), **of, **more) for mine, more in _issued_alike(run, ops)
            ]
    return samples


def _by_copies(run: _Ran, ops: NDArray[np.intp], described: dict[str, Any]) -> Iterator[Sample]:
    """Of ops in a schedule that fetches, those that ended while a copy was under way, and the others."""
    copying = run.copying[ops]
    for what, mine in (("beside", copying), ("apart", ~copying)):
        if np.count_nonzero(mine) >= _LEAST_TOLD:
            yield sample_of(what, run.duration_s[ops[mine]].tolist(), **described)


def _issued_alike(run: _Ran, ops: Sequence[int]) -> Iterator[tuple[list[int], dict[str, str | int]]]:
    """Ops of one group that launch the same kernels, and what tells them from others: of experts whether their tokens
    are gathered, whether one closes its block and so sums what all have found, and their number of matrices.
    """
    program = run.program
    if program.schedule.kind[ops[0]] != OpKind.EXPERTS:
        yield list(ops), {}
        return
    alike: dict[tuple[bool, bool], list[int]] = defaultdict(list)
    for op in ops:
        tokens = program.routed.get(op, (np.zeros(1, np.int64),))[0]
        alike[bool(np.any(np.diff(tokens) != 1)), bool(program.closes[op])].append(op)
    n_matrices = sum(gemm.n_gemms for gemm in _gemms(program.schedule, ops[0]))
    for (gathers, closes), mine in alike.items():
        yield mine, {"gathers": int(gathers), "closes": int(closes), "matrices": n_matrices}


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
