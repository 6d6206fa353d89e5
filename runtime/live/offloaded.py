"""A trained model generates with its experts offloaded: its own gates decide what a policy fetches, as the run goes.

The decode loop writes the schedule op by op and every op is issued at once (`growing_program`). What a policy may see
it is told when the host has it: the ids that a read-back brought, or, of a design that reads none back, what the device
holds once the gate has ended; for that wait a schedule has no op. In the end every gate is compared with what ran.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from offload.answers.by_score import ByScore, Scored
from offload.answers.wrong_guess import executes_guessed, executes_resident
from offload.caches.residency import ResidentSet
from offload.decoding.decode_job import DecodeJob
from offload.decoding.decode_loop import DecodeLoop
from offload.decoding.prompt_chunks import passes_of
from offload.decoding.unions import Union, Unions
from offload.execution import Execution
from offload.ops import Lane
from offload.placing.placed import Placed
from offload.policy import Policy, fetch_misses
from offload.predictors.next_gate import CurveGate, NextGate
from offload.prefetching.guessed_ahead import BringsGuesses
from offload.recorder import assemble
from offload.schedule import Schedule
from offload.slots.host_tier import ReadThrough
from offload.slots.low_bit_copies import LowSlots
from offload.timeline import Timeline
from runtime.backends.backend import Backend
from runtime.live.changes import FORESEES, Changes
from runtime.live.growing_program import GatePlaces, GrowingProgram, IssuingRecorder
from runtime.live.own_gates import Guessing
from runtime.live.prompts import UnroutedRun, trace_of
from runtime.model.fewer_bits import check_bits
from runtime.model.weights import Experts
from runtime.pools import pool_bytes
from runtime.programs.host_layers import HostLayers
from runtime.programs.passes import plan_passes
from runtime.programs.program import Rounding, build_program
from runtime.programs.races import check_races
from runtime.programs.touches import ExpertKey
from runtime.run import MeasuredRun, OutputMismatch
from runtime.storage import ExpertFile
from traces.errors import InvalidInput
from traces.foundation.gc_pause import gc_paused
from traces.model.architecture import ModelArchitecture
from traces.routing import RoutingTrace, Step

_ON_DEVICE = (fetch_misses, executes_guessed, executes_resident)
"""Answers to misses that never have the host compute."""


@dataclass(frozen=True, slots=True)
class Granted:
    """What a policy was granted: as of `offload.decode.decode`, and the experts in slots before the start.

    `through`: how experts are read from files in the folder `storage`; None: they are in host memory.
    """

    policy: Policy
    execution: Execution
    n_buffers: int
    n_slots: int
    static_bytes: int
    placed: Placed
    initial: Mapping[int, ExpertKey]
    cache: ResidentSet | None = None
    storage: Path | None = None
    through: ReadThrough | None = None
    low: LowSlots | None = None


@dataclass(frozen=True, slots=True, eq=False)
class OffloadedRun:
    """What happened. `tokens` (n_sequences, n_new) made; `trace`: what the gates chose; `guesses`: what a design that
    guesses was told by the later gates, by forward pass and MoE layer. `decided_s` (n_ops,): what the host took to
    decide on each op, waits left out; `asked`: op -> the gate whose end it waited for before, with no op that says so.
    `n_changed`: choices of tokens for which another expert was executed, the same in fewer bits, or none; `executed`:
    by forward pass (n_tokens, n_moe_layers, top_k), -1 for none; `rounded`: by forward pass and MoE layer, the choices
    (n_tokens, top_k) whose expert came in fewer bits, and in how many.
    """

    measured: MeasuredRun
    schedule: Schedule
    trace: RoutingTrace
    tokens: NDArray[np.int64]
    guesses: Mapping[tuple[int, int], NDArray[np.int16]]
    decided_s: NDArray[np.float64]
    asked: Mapping[int, int]
    n_changed: int
    executed: tuple[NDArray[np.int16], ...]
    rounded: Mapping[tuple[int, int], Sequence[tuple[NDArray[np.bool_], float]]]


@dataclass(frozen=True, slots=True)
class GivenGuesses:
    """A predictor that says what was said in a run."""

    said: Mapping[tuple[int, int], NDArray[np.int16]] = field(repr=False)

    def __call__(self, i_step: int, layer: int, chosen: NDArray[np.int16], n_experts: int) -> NDArray[np.int16]:
        """As of `offload.policy.Predictor`. Raises `InvalidInput` for what nobody was asked."""
        found = self.said.get((i_step, layer))
        if found is None:
            raise InvalidInput(f"forward pass {i_step}: no guess was made for MoE layer {layer}")
        return found


def guesses_of(policy: Policy) -> Guessing:
    """What a policy guesses by later gates: its stand-in for them gives way to the gates themselves.

    Raises `InvalidInput` for a predictor that stands for something else.
    """
    if policy.predictor is None:
        return Guessing()
    prefetch, predictor = policy.prefetch, policy.predictor
    if not isinstance(predictor, NextGate | CurveGate):
        raise InvalidInput(f"policy {policy.name}: its predictor is no later gate, which a run here could ask")
    return Guessing(prefetch.ahead if isinstance(prefetch, BringsGuesses) else 1, predictor.more)


def check_policy(policy: Policy, model: ModelArchitecture, lookahead: int) -> None:
    """Raise `InvalidInput` for a policy that the runtime cannot execute, or gates `lookahead` blocks ahead serve."""
    if isinstance(policy.start, Scored):
        check_bits(model, policy.start.bits_of(model.expert_dtype.bits))
    if policy.skipping is not None and not policy.can_be_built:
        raise InvalidInput(FORESEES.format(policy.name))
    if policy.lookahead > lookahead and policy.needs_ids:
        raise InvalidInput(
            f"policy {policy.name} fetches what gates select {policy.lookahead} blocks ahead, those of this model look "
            f"{lookahead} ahead: take a model that was trained so, or on_demand"
        )
    if policy.next_token:
        raise InvalidInput(
            f"policy {policy.name} fetches what gates select a token ahead, those of this model look {lookahead} "
            f"blocks ahead: take pregate, or on_demand"
        )
    if policy.encoder == "same" and policy.lookahead and model.is_encoder_decoder:
        raise InvalidInput(f"policy {policy.name}: encoders have conventional gates here, leave :encoder out")
    where = policy.placement
    if where.kv != "device" or where.streams or where.zero_copies:
        raise InvalidInput(
            f"policy {policy.name}: the runtime executes experts=cpu and layers=cpu; it streams no weights, keys or "
            f"values, and its kernels read none of them in host memory"
        )
    if policy.placement.host_layers is not None:
        HostLayers(model, {0})


def generate_offloaded(
    backend: Backend,
    model: ModelArchitecture,
    run: UnroutedRun,
    lookahead: int,
    settings: Granted,
    experts: Experts,
    known: RoutingTrace | None = None,
    *,
    prove: bool = True,
) -> OffloadedRun:
    """Make the tokens of `run` on `backend`, which is closed at the end whatever happens.

    `lookahead`: where the decoder's gates sit. `known`: what the gates will choose, for a policy that is clairvoyant.
    `prove`: look the finished schedule through for races. Raises `InvalidInput` as `check_policy`, `CapacityExceeded`,
    `LaneFailure`, and `OutputMismatch` where gates chose other experts than were executed.
    """
    file: ExpertFile | None = None
    try:
        check_policy(settings.policy, model, lookahead)
        live = _Live(backend, model, run, lookahead, settings, known)
        with torch.inference_mode():
            if settings.through is not None and settings.storage is not None:
                file = ExpertFile(settings.storage, live.keys, experts)
            found = live.run(experts, file)
    finally:
        backend.close()
        if file is not None:
            file.close()
    executed = [
        replace(step, experts=one.experts) for step, one in zip(found.trace.steps(), live.passes.passes, strict=True)
    ]
    program = build_program(model, executed, found.schedule, settings.initial)
    if prove:
        check_races(program)
    return found


class _Live:
    """One run: the passes, what is known of their routing, and the program that grows."""

    def __init__(
        self, backend: Backend, model: ModelArchitecture, run: UnroutedRun, lookahead: int, settings: Granted,
        known: RoutingTrace | None,
    ) -> None:  # fmt: skip
        policy = settings.policy
        clairvoyant = policy.lookahead > 0 and not policy.needs_ids
        if clairvoyant and known is None:
            raise InvalidInput(f"policy {policy.name} knows what gates will say: run another design first")
        self.backend, self.model, self.unrouted, self.settings = backend, model, run, settings
        self.known = list(known.steps()) if clairvoyant and known is not None else None
        self.passes = plan_passes(model, run.steps)
        reads_ahead = 0 if clairvoyant else min(policy.lookahead, lookahead)
        self.places = GatePlaces(lookahead, reads_ahead, guesses_of(policy))
        self.keys = [(layer, expert) for layer in range(model.n_moe_layers) for expert in range(model.n_experts)]
        self.said: dict[tuple[int, int], NDArray[np.int16]] = {}
        self.changes = Changes(policy, [(one, step) for one, step in zip(self.passes.passes, run.steps, strict=True)])
        self.revealed: dict[tuple[int, int], Union] = {}
        for one, step in zip(self.passes.passes, run.steps, strict=True):  # what is known is written to both
            one.experts[...] = -1
            step.experts[...] = -1

    def run(self, experts: Experts, file: ExpertFile | None) -> OffloadedRun:
        """Issue everything, wait for it, and see that what ran is what the gates said."""
        settings, policy = self.settings, self.settings.policy
        kept_on_host = any(one is not None for one in settings.placed.kept)
        through, filed = settings.through, settings.through is not None and settings.through.reads.filed
        elsewhere = self.places.lookahead > 0 or self.places.guessing.ahead > 0
        host = HostLayers(self.model, settings.placed.host_layers, gates_ahead=elsewhere)
        low = settings.low
        rounding = None if policy.is_exact else Rounding() if low is None else Rounding(low.n, low.bits)
        self.backend.budget.check(pool_bytes(self.model, self.passes, settings.n_slots, host, rounding))
        if isinstance(policy.start, Scored):
            experts.pack(self.keys, policy.start.bits_of(self.model.expert_dtype.bits))
        if through is None:
            experts.require(self.keys if not policy.resident or kept_on_host else [])
        recorder = IssuingRecorder()
        guessing = self.places.guessing
        if guessing.ahead:
            policy = replace(policy, predictor=self._ask_gates)
        job = DecodeJob(
            self.model, policy, settings.execution, settings.n_buffers, settings.cache, through is not None,
            settings.placed, through, low,
        )  # fmt: skip
        loop = _LiveLoop(job, recorder)
        loop.live = self
        answer = loop.decisions.on_miss
        on_host = (
            kept_on_host or filed or bool(host.layers) or not (answer in _ON_DEVICE or isinstance(answer, ByScore))
        )
        if answer is not fetch_misses:
            loop.decisions = loop.decisions._replace(on_miss=self.changes.watching(answer))
        warm_bytes = 0 if settings.cache is None else settings.cache.n_resident * self.model.expert_bytes
        self.program = recorder.program = GrowingProgram(
            self.backend, self.model, self.passes, self.unrouted, self.places, experts, initial=settings.initial,
            n_slots=settings.n_slots, file=file, host=host, on_host=on_host, rounding=rounding,
            n_staging=0 if through is None else through.most_places(settings.execution.n_host_buffers),
        )  # fmt: skip
        with gc_paused():
            self.changes.left, self.changes.left_out = self.program.left, self.program.binder.left_out
            for step in self.unrouted.steps:
                for one, n_heads in passes_of(step, self.model, settings.execution):
                    loop.run(one, n_heads)
            self.backend.synchronise()
        schedule = assemble([recorder.take()], settings.static_bytes + warm_bytes)
        return self._found(schedule, file)

    def reveal(self, i_pass: int, moe_layer: int) -> Union:
        """What a MoE layer of a pass executes, as soon as whoever may know it does."""
        found = self.revealed.get((i_pass, moe_layer))
        if found is not None:
            return found
        step = self.unrouted.steps[i_pass]
        program, gates = self.program, self.program.binder.gates[i_pass]
        if (i_pass, moe_layer) in program.arrived:
            chosen = gates.read(moe_layer)
        elif self.known is not None:
            chosen = np.sort(self.known[i_pass].experts[:, moe_layer], axis=1)
        else:
            program.ask(program.gate_of[i_pass, moe_layer])
            chosen = gates.look(moe_layer)
        if (i_pass, moe_layer) in program.gate_of and self.known is None and step.gate_weights is not None:
            step.gate_weights[:, moe_layer] = gates.weights_of(moe_layer)
        found = self.revealed[i_pass, moe_layer] = self.changes.chosen(i_pass, moe_layer, chosen)
        return found

    def _ask_gates(self, i_step: int, layer: int, chosen: NDArray[np.int16], n_experts: int) -> NDArray[np.int16]:
        """What the gate of `layer` says of an earlier block's input: a predictor that is wrong where it is."""
        ahead = self.places.guessing.ahead
        block = max(self.passes.passes[i_step].moe_layers(self.model)[0], layer - ahead)
        found = self.program.binder.gates[i_step].guessed(block, layer - block)
        self.said[i_step, layer] = found
        return found

    def _found(self, schedule: Schedule, file: ExpertFile | None) -> OffloadedRun:
        times, program = self.backend.times(), self.program
        extra = {Lane.D2H: program.d2h_bytes}
        for lane in Lane:
            wanted = int(schedule.bytes[schedule.lane == lane].sum()) + extra.get(lane, 0)
            if times.moved_bytes.get(lane, 0) != wanted:
                raise OutputMismatch(f"lane {lane.name} moved {times.moved_bytes.get(lane, 0)} bytes, not {wanted}")
        self._check_gates()
        states = program.binder.layers.states
        raw = states.cpu().view(torch.uint8).numpy()
        digests = tuple(
            hashlib.sha256(np.ascontiguousarray(raw[one.first : one.first + one.n_tokens]).data).hexdigest()[:16]
            for one in self.passes.passes
        )
        measured = MeasuredRun(
            Timeline(schedule, times.start_s, times.end_s, self.backend.name),
            hashlib.sha256("".join(digests).encode()).hexdigest()[:16],
            digests,
            states.float().cpu().numpy(),
            times.moved_bytes,
            dict(self.backend.budget.taken),
            {phase: (counts[0], counts[1]) for phase, counts in program.touches.lookups.items()},
        )
        trace = trace_of(self.model, self.unrouted, "pregate generate")
        decided_s = np.array(program.decided_ns, dtype=np.float64) * 1e-9
        return OffloadedRun(
            measured,
            schedule,
            trace,
            self._tokens(),
            dict(self.said),
            decided_s,
            dict(program.asked),
            self.changes.n_changed,
            tuple(one.experts for one in self.passes.passes),
            self.changes.rounded,
        )

    def _check_gates(self) -> None:
        """Raise `OutputMismatch` unless every gate on the device chose what was executed; keep its weights."""
        for i, (one, step) in enumerate(zip(self.passes.passes, self.unrouted.steps, strict=True)):
            gates = self.program.binder.gates[i]
            for moe_layer in one.moe_layers(self.model):
                if not np.array_equal(gates.look(moe_layer), self.changes.said[i, moe_layer]):
                    raise OutputMismatch(
                        f"forward pass {one.i_step}, MoE layer {moe_layer}: other experts were executed than the gate "
                        f"chose"
                    )
                if step.gate_weights is not None:
                    step.gate_weights[:, moe_layer] = gates.weights_of(moe_layer)

    def _tokens(self) -> NDArray[np.int64]:
        """(n_sequences, n_new), by sequence."""
        made: dict[int, list[int]] = {}
        for one, kept in zip(self.passes.passes, self.program.binder.made, strict=True):
            for segment, token in zip(one.segments, kept.tolist(), strict=False):
                made.setdefault(segment.sequence, []).append(token)
        return np.array([made[sequence] for sequence in sorted(made)], dtype=np.int64)


class _Revealed:
    """The unions of one forward pass, each known when somebody may know it."""

    def __init__(self, live: _Live, i_pass: int, first: int, n_blocks: int) -> None:
        self._live, self._i_pass, self._first, self._n_blocks = live, i_pass, first, n_blocks
        self._found: dict[int, Union] = {}

    def __len__(self) -> int:
        return self._n_blocks

    def __getitem__(self, block: int, /) -> Union:
        found = self._found.get(block)
        if found is None:
            found = self._found[block] = self._live.reveal(self._i_pass, self._first + block)
        return found

    def names_any(self, block: int) -> bool:
        """Gates of a model that runs always name somebody."""
        return True


class _LiveLoop(DecodeLoop):
    """The decode loop on what gates say as it goes."""

    live: _Live

    def unions(self, step: Step, first: int, n_blocks: int) -> Unions:
        """Those of a pass that has just begun."""
        return _Revealed(self.live, step.i_step, first, n_blocks)
