"""Execute a schedule for real: the second interpreter, whose timeline is measured and whose outcome is checked.

Whatever the policy, a run of one model and trace must end in the same hidden states, bit for bit: `check_same_output`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from offload.ops import KINDS, Lane, OpKind
from offload.schedule import Schedule
from offload.timeline import Timeline
from runtime.backends.backend import Action, Backend, Times
from runtime.backends.interruptions import Interruptions, uninterrupted
from runtime.loading import Loaded, load_program
from runtime.machine.watch import Seen, counting
from runtime.model.weights import Experts
from runtime.pools import pool_bytes
from runtime.programs.precedence import order_of
from runtime.programs.program import ExpertKey, Program, build_program
from runtime.programs.races import check_races
from runtime.storage import ExpertFile
from traces.errors import InvalidInput, PregateError
from traces.foundation.gc_pause import gc_paused
from traces.model.architecture import ModelArchitecture
from traces.phase import Phase
from traces.routing import Step


class OutputMismatch(PregateError):
    """Two runs that must agree do not, or a run did not do what its schedule says: no time of it means anything."""


@dataclass(frozen=True, slots=True, eq=False)
class MeasuredRun:
    """What happened. `timeline.source` names the back end.

    `digest`: of the final hidden states of all forward passes, `pass_digests` of each; `states` (n_tokens, d_model)
    float32, those states, in the order of `runtime.programs.passes`. `moved_bytes`: by lane, equal to the schedule's.
    `pool_bytes`: HBM taken, by what for. `lookups`: by phase, experts looked up a (step, layer) union, and found
    resident. `interruptions`: of its threads, None of a device.
    """

    timeline: Timeline
    digest: str
    pass_digests: tuple[str, ...]
    states: NDArray[np.float32]
    moved_bytes: Mapping[Lane, int]
    pool_bytes: Mapping[str, int]
    lookups: Mapping[Phase, tuple[int, int]]
    interruptions: Interruptions | None = None

    @property
    def uninterrupted(self) -> Timeline:
        """The timeline, had other work not kept its threads from running (`runtime.backends.interruptions`)."""
        whole, lost = self.timeline, self.interruptions
        if lost is None or not lost.total_s:
            return whole
        order = order_of(whole.schedule)
        start_s, end_s = uninterrupted(order.lane.tolist(), order.waits, whole.start_s, whole.end_s, lost)
        return Timeline(whole.schedule, start_s, end_s, whole.source)


def counted_timelines(runs: Sequence[MeasuredRun], seen: Sequence[Seen]) -> list[tuple[MeasuredRun, Timeline]]:
    """The runs that count, each with its timeline: quiet ones as they were, or where none was, the less disturbed half
    without what interrupted them. `seen`: beside each.
    """
    quiet = any(one.disturbance() is None for one in seen)
    return [(runs[i], runs[i].timeline if quiet else runs[i].uninterrupted) for i in counting(seen)]


def execute(
    backend: Backend,
    model: ModelArchitecture,
    steps: Iterable[Step],
    schedule: Schedule,
    *,
    initial: Mapping[int, ExpertKey] | None = None,
    experts: Experts | None = None,
    storage: Path | None = None,
    prove: bool = True,
) -> MeasuredRun:
    """Run `schedule`, that of `steps`, on `backend`, which is closed at the end whatever happens.

    `initial`: experts in slots before the start (`resident_slots`, `cached_slots`). `experts`: weights to share with
    other runs, made from seed 0 otherwise. `storage`: folder for experts that the schedule reads from disk. `prove`:
    refuse a schedule whose outcome depends on timing before running it.

    Raises `UnsafeSchedule`, `InvalidInput` when the schedule is not of this model and trace, `CapacityExceeded` when a
    memory is too small, `LaneFailure` when an op fails, `OutputMismatch` when bytes or ids were not as scheduled.
    """
    file: ExpertFile | None = None
    try:
        program = build_program(model, steps, schedule, initial)
        if any(program.bits(int(op)) for op in np.flatnonzero(schedule.kind == OpKind.FETCH)):
            raise InvalidInput(
                "the schedule fetches experts in fewer bits, by which other tokens are made: pregate generate executes "
                "it, whose gates choose as it goes"
            )
        if prove:
            check_races(program)
        backend.budget.check(pool_bytes(model, program.passes, program.n_slots, program.host))
        made = experts if experts is not None else Experts(model, allocate=backend.allocate_host)
        if made.model != model:
            raise InvalidInput(f"the experts given are of {made.model.name}, the schedule is run on {model.name}")
        with torch.inference_mode():
            file = _prepare(program, made, storage)
            loaded = load_program(backend, program, made, file)
            times = _issue_in_order(backend, program, loaded.actions)
            _check_moved_and_read(program, loaded, times)
            digests = _digests(program, loaded)
    finally:
        backend.close()
        if file is not None:
            file.close()
    timeline = Timeline(schedule, times.start_s, times.end_s, backend.name)
    digest = hashlib.sha256("".join(digests).encode()).hexdigest()[:16]
    states = loaded.states.float().cpu().numpy()
    pools = dict(backend.budget.taken)
    moved, lost = times.moved_bytes, times.interruptions
    return MeasuredRun(timeline, digest, digests, states, moved, pools, program.lookups, lost)


def check_same_output(runs: Mapping[str, MeasuredRun]) -> str:
    """The digest that all `runs`, by name, share. Raises `OutputMismatch`, naming who differs first and where."""
    if not runs:
        raise InvalidInput("no runs to compare: give at least one")
    first, *others = runs
    for other in others:
        here, there = runs[first].pass_digests, runs[other].pass_digests
        if here != there:
            where = next((i for i, (a, b) in enumerate(zip(here, there, strict=False)) if a != b), "count")
            raise OutputMismatch(
                f"{other} and {first} disagree in the hidden states of forward pass {where}: a policy has read what "
                f"was not there, or these are runs of different models, traces or seeds"
            )
    return runs[first].digest


def _prepare(program: Program, experts: Experts, storage: Path | None) -> ExpertFile | None:
    """Put the experts where the schedule takes them from: host memory, or a file."""
    on_disk = program.keys(OpKind.DISK_READ)
    if on_disk and storage is None:
        raise InvalidInput("the schedule reads experts from storage: name a folder for them")
    from_host = [kind for kind, row in KINDS.items() if row.takes == "host"]
    taken = np.isin(program.schedule.kind, from_host) & (program.source < 0)
    experts.require([program.key(op) for op in np.flatnonzero(taken).tolist()])
    return ExpertFile(storage, on_disk, experts) if on_disk and storage is not None else None


def _issue_in_order(backend: Backend, program: Program, actions: list[Action | None]) -> Times:
    """The host lane: issue every op in order, wait where the schedule does."""
    backend.load(program.order, actions)
    with gc_paused():
        for op, action in enumerate(actions):
            if action is None:
                backend.wait(op)
            else:
                backend.issue(op)
        backend.synchronise()
    return backend.times()


def _check_moved_and_read(program: Program, loaded: Loaded, times: Times) -> None:
    """Raise `OutputMismatch` unless the lanes moved the schedule's bytes and the host read the ids of the trace."""
    schedule = program.schedule
    for lane in Lane:
        wanted = int(schedule.bytes[schedule.lane == lane].sum())
        if times.moved_bytes.get(lane, 0) != wanted:
            raise OutputMismatch(f"lane {lane.name} moved {times.moved_bytes.get(lane, 0)} bytes, not {wanted}")
    wrong = np.flatnonzero(loaded.ids.numpy() != loaded.expected_ids)
    if wrong.size:
        raise OutputMismatch(f"{wrong.size} expert ids that the host read back are not those that the gates chose")


def _digests(program: Program, loaded: Loaded) -> tuple[str, ...]:
    """16 hex digits a pass of the SHA-256 of its final hidden states."""
    states = loaded.states.cpu().view(torch.uint8).numpy()
    passes = program.passes.passes
    parts = (states[one.first : one.first + one.n_tokens] for one in passes)
    return tuple(hashlib.sha256(np.ascontiguousarray(part).data).hexdigest()[:16] for part in parts)
