"""What it costs to decide and issue op by op, as a run does whose own gates choose: of the host, and of who shares its
interpreter.

A small model of random weights generates under several designs on a back end that runs every op at once, off the clock:
what is left is the host's own time. Its kernels are then timed again in a queue, alone and beside a host that decides.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from hwmodels.calibrate.measurements import Sample, sample_of, work_parameters
from offload.caches.residency import ResidentSet
from offload.execution import EXECUTIONS
from offload.ops import Lane, OpKind
from offload.placing.placed import place
from offload.policies import policy_named
from offload.schedule import Schedule
from runtime.backends.backend import Action, Backend, Copy
from runtime.backends.cpu import CpuBackend
from runtime.backends.pacing import CHUNK_BYTES, now_ns
from runtime.live.offloaded import Granted, OffloadedRun, generate_offloaded
from runtime.live.prompts import unrouted
from runtime.live.trained_weights import TrainedWeights
from runtime.microbench.lanes import timed
from runtime.model.weights import Experts
from runtime.pregated.training.experiment_plan import ExperimentPlan
from runtime.pregated.transformer import MoeTransformer
from runtime.programs.program import resident_slots
from traces.routing import RoutingTrace

_SHAPE = ExperimentPlan(d_model=128, n_heads=4, d_ff=256, n_blocks=5, n_experts=12)
_DESIGNS = ("on_demand", "pregate", "pregate+lru:0.5", "prefetch_all", "guess/next_gate")
_PROMPT, _NEW_TOKENS = 9, 14
_SEED, _LOOKAHEAD = 16, 1

_COLD_PASSES = 1
"""The prompt's pass and the first that decodes find nothing warm."""

_BUSY, _RUNS = "pregate+lru:1", 5
"""A design under which neither the host nor the compute lane waits for much, and its runs."""

_WAITING = "on_demand"
"""A design whose ops are timed as they run."""

_ASKED = "asked"
"""What an op comes after whose decision the host had to wait for, with no op that says so."""


class AtOnce(CpuBackend):
    """Every op is run by the host when it is issued: no lane, and nothing of what it measures."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: list[Action | None] = []

    def issue(self, op: int) -> None:
        """Run it."""
        action = self._actions[op]
        assert action is not None
        if isinstance(action, Copy):
            action.target.copy_(action.source)
            self._moved[self._lanes[op]] += action.n_bytes
        else:
            action()
        self._end_ns[op] = now_ns()

    def wait(self, op: int) -> None:
        """Nothing is under way."""
        self._end_ns[op] = now_ns()

    def ended(self, op: int) -> None:
        """It has."""

    def close(self) -> None:
        """What was run can be run again."""
        self.kept = self.kept or list(self._actions)
        super().close()


def live_samples(make: Callable[[], Backend]) -> list[Sample]:
    """Samples "decide", host time to decide and issue an op of a kind `after` one of another; "live", what ops take as
    they are live, none beside another; "deciding", what a host and kernels take that are at work together, what they
    would take alone, and how long both were at it; and where host and copies have one core, what a copy takes of it a
    chunk, and what the host lost to copies.

    On a device of its own (`make` gives no CPU back end) nobody shares an interpreter: "decide" alone.
    """
    probe = _Probe()
    gaps: dict[tuple[str, str], list[float]] = defaultdict(list)
    shares = isinstance(_closed(make()), CpuBackend)
    backend = AtOnce() if shares else make()
    resident = probe.run(backend, "gpu_only", None)
    runs = [resident]
    runs += [probe.run(AtOnce() if shares else make(), design, resident.trace) for design in _DESIGNS]
    for run in runs:
        for key, seconds in _decisions(run):
            gaps[key].append(seconds)
    samples = [sample_of("decide", taken, kind=kind, after=after) for (kind, after), taken in sorted(gaps.items())]
    if not isinstance(backend, AtOnce):
        return samples
    kernels = _Kernels(resident, backend.kept)
    waits = _waits_while_fetching(make, probe, resident.trace)
    taken = kernels.samples(make)
    alone_s = {str(sample.parameters["kind"]): sample.mean_s for sample in taken}
    return [*samples, *taken, *waits, *_together(make, probe, resident.trace, alone_s)]


def _closed(backend: Backend) -> Backend:
    backend.close()
    return backend


class _Probe:
    """A model whose only purpose is that its runs are timed."""

    def __init__(self) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(_SEED)
            trained = MoeTransformer(_SHAPE.architecture(), _LOOKAHEAD)
        self.model = trained.architecture
        self.experts = Experts(self.model, weights=TrainedWeights(trained))
        rng = np.random.default_rng(_SEED)
        self.prompt = rng.integers(self.model.vocab_size, size=_PROMPT)

    def run(self, backend: Backend, design: str, known: RoutingTrace | None) -> OffloadedRun:
        """One run under a design, its own gates deciding."""
        policy, model = policy_named(design), self.model
        n_buffers = 0 if policy.resident else policy.buffers(model.n_experts, model.n_experts).full
        cache = None
        if policy.cache is not None:
            n_cached = round((policy.cache.ratio or 1.0) * model.n_moe_layers * model.n_experts)
            cache = ResidentSet(n_cached, policy.cache.eviction, n_layers=model.n_moe_layers, n_experts=model.n_experts)
        initial = resident_slots(model) if policy.resident else {}
        n_slots = len(initial) if policy.resident else n_buffers + (0 if cache is None else cache.capacity)
        granted = Granted(
            policy, EXECUTIONS["streams"], n_buffers, n_slots, 0, place(model, policy.placement), initial, cache
        )
        unknown = unrouted(model, [self.prompt], _NEW_TOKENS)
        return generate_offloaded(backend, model, unknown, _LOOKAHEAD, granted, self.experts, known, prove=False)


def _decisions(run: OffloadedRun) -> list[tuple[tuple[str, str], float]]:
    """Of every op but those of the first passes: its kind and that before, and what the host took."""
    schedule = run.schedule
    names = [OpKind(kind).name.lower() for kind in schedule.kind.tolist()]
    return [
        ((names[op], _ASKED if op in run.asked else names[op - 1]), float(run.decided_s[op]))
        for op in range(1, len(names))
        if schedule.step[op] > _COLD_PASSES
    ]


class _Kernels:
    """The kernels of a resident run, which can be run again."""

    def __init__(self, resident: OffloadedRun, actions: Sequence[Action | None]) -> None:
        self.schedule = resident.schedule
        counts = (self.schedule.lane == Lane.COMPUTE) & (self.schedule.step > _COLD_PASSES)
        self.ops = np.flatnonzero(counts).tolist()
        self.actions = [actions[op] for op in self.ops]

    def samples(self, make: Callable[[], Backend]) -> list[Sample]:
        """What those of each kind take in a queue."""
        return _of_works(self.schedule, self.ops, _queued(make(), self.actions), "nothing")


def _waits_while_fetching(make: Callable[[], Backend], probe: _Probe, known: RoutingTrace) -> list[Sample]:
    """What kernels take that come after fetches, while the host has nothing to decide; read-backs, and what the host
    itself runs.
    """
    backend = make()
    assert isinstance(backend, CpuBackend)
    run = probe.run(backend, _WAITING, known)
    schedule, timeline = run.schedule, run.measured.timeline
    issued, at_s = schedule.lane != Lane.HOST, backend.issued_s()
    counts = np.isin(schedule.kind, (OpKind.READBACK, OpKind.WAIT, OpKind.STEP))
    for op in np.flatnonzero(schedule.lane == Lane.COMPUTE).tolist():
        span = timeline.start_s[op : op + 1], timeline.end_s[op : op + 1]
        counts[op] = not _overlap_s(at_s[issued] - run.decided_s[issued], at_s[issued], *span)
    ops = np.flatnonzero(counts & (schedule.step > _COLD_PASSES)).tolist()
    waits = _of_works(schedule, ops, (timeline.end_s - timeline.start_s)[ops].tolist(), "fetches")
    return [*waits, *_of_copies(schedule, backend)]


def _of_copies(schedule: Schedule, backend: CpuBackend) -> list[Sample]:
    """What copies of each kind take of the core that the host has, a chunk; nothing where it has one to itself."""
    if not backend.copies_on_host_core:
        return []
    chunks, worked_s, found = np.maximum(1, -(-schedule.bytes // CHUNK_BYTES)), backend.worked_s(), []
    for kind in (OpKind.FETCH, OpKind.READBACK):
        mine = (schedule.kind == kind) & (schedule.step > _COLD_PASSES)
        taken = (worked_s[mine] / chunks[mine]).tolist()
        found.append(sample_of("deciding", taken, of=kind.name.lower(), beside="core"))
    return found


def _lost_to_copies_s(run: OffloadedRun, backend: CpuBackend) -> float:
    """What the host's core was doing for copies while the host decided."""
    schedule, timeline, at_s = run.schedule, run.measured.timeline, backend.issued_s()
    issued = (schedule.lane != Lane.HOST) & (schedule.step > _COLD_PASSES)
    copies = np.flatnonzero(np.isin(schedule.lane, (Lane.H2D, Lane.D2H)))
    begin_s, end_s = timeline.start_s[copies], timeline.end_s[copies]
    share = np.minimum(1.0, backend.worked_s()[copies] / np.maximum(end_s - begin_s, 1e-9))
    both_s = np.minimum(at_s[issued][:, None], end_s) - np.maximum((at_s - run.decided_s)[issued][:, None], begin_s)
    return float((np.maximum(both_s, 0.0) * share).sum())


def _of_works(schedule: Schedule, ops: Sequence[int], seconds: Sequence[float], beside: str) -> list[Sample]:
    """A sample a kind, whose work is that of the op in the middle."""
    of_kind: dict[OpKind, list[int]] = defaultdict(list)
    for i, op in enumerate(ops):
        of_kind[OpKind(int(schedule.kind[op]))].append(i)
    return [
        sample_of(
            "live", [seconds[i] for i in mine], probe="live", phase="decode", beside=beside,
            **work_parameters(schedule.works[int(schedule.cost[ops[mine[len(mine) // 2]]])]),
        )
        for mine in of_kind.values()
    ]  # fmt: skip


def _queued(backend: Backend, actions: Sequence[Action | None]) -> list[float]:
    """What each of `actions` takes on the compute lane, the host having issued all."""
    run = timed(backend, [Lane.COMPUTE] * len(actions), actions)
    return [float(seconds) for seconds in run.times.end_s - run.times.start_s]


def _together(
    make: Callable[[], Backend], probe: _Probe, known: RoutingTrace, kernel_s: Mapping[str, float]
) -> list[Sample]:
    """A host that decides beside kernels: what each takes of a run in which they hardly wait for one another, what
    they take alone (`kernel_s` by kind), and for how long both were at it.
    """
    alone = probe.run(AtOnce(), _BUSY, known)
    seen: dict[tuple[str, str], list[float]] = defaultdict(list)
    for _ in range(_RUNS):
        backend = make()
        assert isinstance(backend, CpuBackend)
        run = probe.run(backend, _BUSY, known)
        schedule, timeline = run.schedule, run.measured.timeline
        late = schedule.step > _COLD_PASSES
        issued, computing = late & (schedule.lane != Lane.HOST), late & (schedule.lane == Lane.COMPUTE)
        names = [OpKind(kind).name.lower() for kind in schedule.kind[computing].tolist()]
        at_s = backend.issued_s()
        seen["host", "kernels"].append(float(run.decided_s[issued].sum()))
        seen["host", "nothing"].append(float(alone.decided_s[issued].sum()))
        seen["kernels", "host"].append(float((timeline.end_s - timeline.start_s)[computing].sum()))
        seen["kernels", "nothing"].append(sum(kernel_s[name] for name in names))
        if backend.copies_on_host_core:
            seen["host", "copies"].append(_lost_to_copies_s(run, backend))
        begin_s = at_s[issued] - run.decided_s[issued]
        seen["both", "both"].append(
            _overlap_s(begin_s, at_s[issued], timeline.start_s[computing], timeline.end_s[computing])
        )
    return [sample_of("deciding", several, of=of, beside=beside) for (of, beside), several in seen.items()]


def _overlap_s(
    starts_s: NDArray[np.float64],
    ends_s: NDArray[np.float64],
    others_s: NDArray[np.float64],
    until_s: NDArray[np.float64],
) -> float:
    """How long spans of one kind and of another, none of which overlaps its like, last together."""
    both_s = np.minimum(ends_s[:, None], until_s) - np.maximum(starts_s[:, None], others_s)
    return float(np.maximum(both_s, 0.0).sum())
