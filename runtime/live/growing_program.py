"""A program that is bound and issued op by op, while its schedule is written: nothing of the routing is known before.

Each op that the recorder writes down becomes an action at once and is handed to the back end, and the host blocks
where it waits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from offload.ops import KINDS, Lane, OpKind, Work
from offload.recorder import Recorder
from offload.schedule import Schedule
from runtime.backends.backend import Action, Backend, Copy
from runtime.backends.pacing import now_ns
from runtime.live.own_gates import Guessing, OwnGates
from runtime.live.prompts import UnroutedRun
from runtime.loading import Binder
from runtime.memory import aligned
from runtime.model.bound_pass import BoundPass, bind_pass
from runtime.model.layers import Choice, Layers
from runtime.model.weights import Experts
from runtime.pregated.gate_positions import gates_at
from runtime.programs.host_layers import HostLayers
from runtime.programs.passes import Pass, Passes
from runtime.programs.precedence import GrowingOrder, Order
from runtime.programs.program import Program, Rounding
from runtime.programs.touches import ExpertKey, Touches
from runtime.storage import ExpertFile
from traces.model.architecture import ModelArchitecture


@dataclass(frozen=True, slots=True)
class GatePlaces:
    """Where gates sit and what is read of them: the model's `lookahead` in its decoder, how many blocks ahead the
    policy reads (`reads_ahead`), and what it guesses.
    """

    lookahead: int
    reads_ahead: int
    guessing: Guessing


def most_ops(model: ModelArchitecture, passes: Passes) -> int:
    """More ops than any schedule of `passes` has."""
    layers = sum(stack.n_layers for stack in model.stacks)
    return len(passes.passes) * (8 * layers + model.n_moe_layers * (12 * model.n_experts + 16) + 8)


@dataclass(slots=True)
class _Ops:
    """The columns of a schedule, as far as it is written."""

    kind: list[int] = field(default_factory=list)
    step: list[int] = field(default_factory=list)
    layer: list[int] = field(default_factory=list)
    expert: list[int] = field(default_factory=list)
    slot: list[int] = field(default_factory=list)
    bytes: list[int] = field(default_factory=list)
    after: list[Sequence[int]] = field(default_factory=list)
    works: list[Work] = field(default_factory=list)  # one an op
    cost: list[int] = field(default_factory=list)

    def deps(self, op: int) -> NDArray[np.int32]:
        """The ops that `op` waits for, (n_deps,)."""
        return np.array(self.after[op], dtype=np.int32)


class IssuingRecorder(Recorder):
    """A recorder that hands every op to a program at once."""

    is_live = True

    def __init__(self) -> None:
        super().__init__()
        self.program: GrowingProgram | None = None

    def issue(self, lane: Lane, work: Work, after: Sequence[int] = (), **about: Any) -> int:
        """As of `Recorder`."""
        op = super().issue(lane, work, after, **about)
        assert self.program is not None
        self.program.add(op, lane, work, after, about)
        return op


class GrowingProgram:
    """Ops of one run so far, bound on a back end; `add` binds the next and has it run."""

    def __init__(
        self,
        backend: Backend,
        model: ModelArchitecture,
        passes: Passes,
        run: UnroutedRun,
        places: GatePlaces,
        experts: Experts,
        *,
        initial: Mapping[int, ExpertKey],
        n_slots: int,
        file: ExpertFile | None,
        n_staging: int,
        host: HostLayers,
        on_host: bool,
        rounding: Rounding | None = None,
    ) -> None:
        n = most_ops(model, passes)
        self.host = host
        self.model, self.passes, self._backend, self._gates = model, passes, backend, places
        self._ops, self.order = _Ops(), GrowingOrder()
        self.touches = Touches(model, passes, self._ops, self.order.before, initial, n, self._ops.works.__getitem__)
        self._closes, self._ends = np.zeros(n, dtype=np.bool_), np.zeros(n, dtype=np.bool_)
        touches = self.touches
        program = Program(
            model, cast(Schedule, self._ops), passes, cast(Order, self.order), touches.pass_of, touches.moe_layer,
            touches.slot, touches.source, touches.staging, self._closes, self._ends, touches.routed, initial,
            n_slots, n_staging, lookups={}, host=host, rounding=rounding,
        )  # fmt: skip
        self.binder = _LiveBinder(backend, program, experts, file, run, places, on_host=on_host)
        self._places = {one.i_step: _place(model, i, one) for i, one in enumerate(passes.passes)}
        self.gate_of: dict[tuple[int, int], int] = {}  # pass and MoE layer -> the op in which its gate runs
        self.arrived: set[tuple[int, int]] = set()  # those whose ids the host has read
        self.left: dict[tuple[int, int], int] = {}  # of those whose ids it knows, experts that no op computes yet
        self.d2h_bytes = 0
        self.decided_ns: list[int] = []  # by op, what the host took to decide on it, waits left out
        self.asked: dict[int, int] = {}  # op -> the op whose end the host waited for first, which no op says
        lanes = [Lane.HOST, Lane.COMPUTE, Lane.H2D, Lane.D2H, *([Lane.DISK] if file else [])]
        backend.open(n, [*lanes, *([Lane.CPU] if on_host else [])])
        self._goes_on_ns = now_ns()

    def ask(self, op: int) -> None:
        """Block the host until `op` has ended, for what it decides next."""
        begin_ns = now_ns()
        self._backend.ended(op)
        self._goes_on_ns += now_ns() - begin_ns
        self.asked[len(self._ops.kind)] = op

    def add(self, op: int, lane: Lane, work: Work, after: Sequence[int], about: Mapping[str, Any]) -> None:
        """Bind op `op` and issue it; the host blocks where it is a wait."""
        kind, layer, expert = work.kind, about.get("layer", -1), about.get("expert", -1)
        ops, touches = self._ops, self.touches
        ops.kind.append(kind)
        ops.step.append(about["step"])
        ops.layer.append(layer)
        ops.expert.append(expert)
        ops.slot.append(about.get("slot", -1))
        ops.bytes.append(work.copy_bytes)
        ops.after.append(after)
        ops.works.append(work)
        ops.cost.append(op)
        touches.check_kind(op, kind, lane)
        place = self._places[about["step"]]
        moe_layer = place.moe_layer.get(layer, -1)
        touches.pass_of[op], touches.moe_layer[op] = place.i_pass, moe_layer
        waits = self.order.add(lane, after)
        touches.touch(op, kind)
        self.host.note(op, kind, place.i_pass, layer)
        if kind in _ENDING:
            self._note_ends(op, kind, (place.i_pass, moe_layer), layer, layer == place.last_layer)
        self._backend.add(lane, waits, self._action(op, kind, place.i_pass, moe_layer))
        self.decided_ns.append(now_ns() - self._goes_on_ns)
        if lane is Lane.HOST:
            self._backend.wait(op)
        else:
            self._backend.issue(op)
        self._goes_on_ns = now_ns()

    def _note_ends(self, op: int, kind: OpKind, at: tuple[int, int], layer: int, is_last_layer: bool) -> None:
        """Whether an op is the last of its block: it is once all that the block executes has been computed."""
        if kind is not OpKind.DENSE_FFN and self._ops.expert[op] >= 0:
            self.left[at] -= 1
        closes = (kind is OpKind.EXPERTS or self.host.may_close(op, kind, layer)) and self.left.get(at) == 0
        self._closes[op], self._ends[op] = closes, is_last_layer and (closes or kind is OpKind.DENSE_FFN)

    def _action(self, op: int, kind: OpKind, i_pass: int, moe_layer: int) -> Action | None:
        if kind is OpKind.READBACK:
            copy = self._read_back(i_pass, moe_layer)
            self.d2h_bytes += copy.n_bytes - self._ops.bytes[op]
            return copy
        if kind is OpKind.GATE or self.host.part.get(op) == "gate":
            for later in self.binder.hosted(i_pass, moe_layer):
                self.gate_of.setdefault((i_pass, later), op)
        return self.binder.action(op, kind)

    def _read_back(self, i_pass: int, moe_layer: int) -> Copy:
        """What has been chosen at a block and not been read, as far ahead as the policy reads."""
        last = min(moe_layer + self._gates.reads_ahead, self.passes.passes[i_pass].moe_layers(self.model)[-1])
        if self.passes.passes[i_pass].encoding:
            last = moe_layer
        unread = [one for one in range(moe_layer, last + 1) if (i_pass, one) not in self.arrived] or [moe_layer]
        self.arrived.update((i_pass, one) for one in unread)
        return self.binder.gates[i_pass].read_back(unread[0], unread[-1], guesses=unread[0] == moe_layer)


class _Place(NamedTuple):
    """A pass: its number, the MoE layer through the model of each layer that has one, and its last if it encodes."""

    i_pass: int
    moe_layer: Mapping[int, int]
    last_layer: int


def _place(model: ModelArchitecture, i_pass: int, one: Pass) -> _Place:
    stack = one.stack(model)
    moe_layer = dict(zip(stack.moe_layers, one.moe_layers(model), strict=True))
    return _Place(i_pass, moe_layer, stack.n_layers - 1 if one.encoding else -1)


_ENDING = (OpKind.EXPERTS, OpKind.CPU_EXPERT, OpKind.CPU_LAYER, OpKind.DENSE_FFN)
"""Kinds of op that may be the last of a block."""


class _LiveBinder(Binder):
    """What the ops of a run without a known routing are bound to."""

    def __init__(
        self,
        backend: Backend,
        program: Program,
        experts: Experts,
        file: ExpertFile | None,
        run: UnroutedRun,
        places: GatePlaces,
        *,
        on_host: bool,
    ) -> None:
        self._run, self._places, self._on_host = run, places, on_host
        super().__init__(backend, program, experts, file)
        model = program.model
        self.gates = [
            OwnGates(backend, one, model.n_moe_layers, model.top_k, places.guessing, self.dtype)
            for one in program.passes.passes
        ]
        heads = [0 if one.encoding else len(one.segments) for one in program.passes.passes]
        self.made = [backend.upload(np.full(n, -1, dtype=np.int64)) for n in heads]
        self._entered: set[tuple[int, int]] = set()
        self.left_out: dict[tuple[int, int], NDArray[np.bool_]] = {}  # by pass and MoE layer, choices not executed

    def _bound(self) -> list[BoundPass]:
        seed, model = self.experts.seed, self.program.model
        return [
            bind_pass(
                self.backend, model, one, self.program.passes.n_context, self.dtype, seed,
                ids=np.zeros(one.n_tokens, dtype=np.int64) if ids is None else ids, continues=ids is None,
            )
            for one, ids in zip(self.program.passes.passes, self._run.ids, strict=True)
        ]  # fmt: skip

    def _all_choices(self) -> list[dict[int, Choice]]:
        return []

    def _cpu_scratch(self) -> Any:
        return self.scratch_of(aligned) if self._on_host else None

    def hosted(self, i_pass: int, moe_layer: int) -> range:
        """The MoE layers whose gates run in the block of `moe_layer`."""
        one = self.program.passes.passes[i_pass]
        layers = one.moe_layers(self.program.model)
        ahead = 0 if one.encoding else self._places.lookahead
        blocks = gates_at(moe_layer - layers[0], ahead, len(layers))
        return range(layers[0] + blocks.start, layers[0] + blocks.stop)

    def action(self, op: int, kind: OpKind) -> Action | None:
        """What an op does; None for what the host does. Read-backs apart."""
        if kind in (OpKind.HANDOVER, OpKind.RETURN):
            return self._crossing(op, kind)
        if KINDS[kind].lane is Lane.HOST:
            return None
        action = self._action(op, kind)
        if kind is OpKind.HEAD or self.program.host.part.get(op) == "head":
            return partial(_then_keep, action, self.made[self.program.pass_of[op]], self.layers.tokens)
        return action

    def _gate(self, op: int, bound: BoundPass, layer: int, moe_layer: int) -> partial[None]:
        """The gates that sit in a block; asked a second time, what a design guesses there."""
        i_pass = int(self.program.pass_of[op])
        layers, stack = bound.one.moe_layers(self.program.model), bound.one.stack(self.program.model)
        gates, at = self.gates[i_pass], (i_pass, moe_layer)
        place = dict(zip(layers, stack.moe_layers, strict=True))
        if at not in self._entered:
            self._entered.add(at)
            here = [(place[one], one) for one in self.hosted(i_pass, moe_layer)]
            return partial(gates.choose, self._side(op), bound, layer, here)
        last = min(moe_layer + self._places.guessing.ahead, layers[-1])
        return partial(
            gates.guess, self.layers, bound, moe_layer, [place[one] for one in range(moe_layer + 1, last + 1)]
        )

    def _combine(self, op: int, bound: BoundPass, moe_layer: int) -> partial[None]:
        i_pass, layers = bound.one.i_step, self._side(op)
        weights, left_out = self.gates[i_pass].weights[moe_layer], self.left_out.get((i_pass, moe_layer))
        if left_out is None:
            return partial(layers.combine, bound, weights)
        return partial(_combine_rest, layers, bound, weights, self.backend.upload(left_out))


def _then_keep(action: Any, kept: Any, tokens: Any) -> None:
    """The head, and its tokens where the next pass does not overwrite them."""
    action()
    kept.copy_(tokens[: len(kept)])


def _combine_rest(layers: Layers, bound: BoundPass, weights: Tensor, left_out: Tensor) -> None:
    """As `Layers.combine` without the choices that are `left_out`: the weights of a token's others take theirs over."""
    kept = weights.masked_fill(left_out, 0)
    total = kept.sum(1, keepdim=True)
    layers.combine(bound, torch.where(total > 0, kept * (weights.sum(1, keepdim=True) / total), kept))
