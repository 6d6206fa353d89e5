"""What every op of a schedule touches: slots, staging buffers, tokens. Derived before the clock starts.

The schedule alone says where an expert lies when an FFN reads it, the trace which tokens go to it. Nothing here knows
a device, and nothing here may know time.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from offload.ops import KINDS, Lane, OpKind
from offload.residency import ResidentSet
from offload.schedule import Schedule
from runtime.order import Order, order_of
from runtime.passes import Passes, plan_passes
from traces.errors import InvalidInput
from traces.model.architecture import ModelArchitecture
from traces.phase import Phase
from traces.routing import Step

__all__ = ["ExpertKey", "Program", "Routed", "build_program", "cached_slots", "kept_slots", "resident_slots"]

ExpertKey = tuple[int, int]
"""An expert: MoE layer through the model, encoder first, and its number there."""

_WAY_OUT = "capture the schedule with a stack whose execution is 'streams'"


class Routed(NamedTuple):
    """The tokens that one op computes an expert for: rows of the pass, and for each the rank of the expert in it.

    Both (n,) int64; a token's experts are ranked ascending, so that results are summed in that order whatever the
    order in which they are computed.
    """

    tokens: NDArray[np.int64]
    ranks: NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Program:
    """`schedule` with what its ops touch; arrays (n_ops,), -1 for none.

    `pass_of`: the pass; `moe_layer`: the MoE block through the model; `slot`: the slot filled or read; `source`: the
    op that filled what is read (an expert's slot, a fetch's staging buffer); `staging`: the staging buffer filled
    or read; `closes`: whether an op is the last of its MoE block on the compute lane, `ends`: of its pass.
    `initial`: the experts in slots before the start. `lookups`: by phase, experts looked up a (step, layer) union,
    and found resident.
    """

    model: ModelArchitecture
    schedule: Schedule
    passes: Passes
    order: Order
    pass_of: NDArray[np.int32]
    moe_layer: NDArray[np.int16]
    slot: NDArray[np.int32]
    source: NDArray[np.int32]
    staging: NDArray[np.int32]
    closes: NDArray[np.bool_]
    ends: NDArray[np.bool_]
    routed: Mapping[int, Routed]
    initial: Mapping[int, ExpertKey]
    n_slots: int
    n_staging: int
    lookups: Mapping[Phase, tuple[int, int]]

    def key(self, op: int) -> ExpertKey:
        """The expert that an op moves or computes."""
        return int(self.moe_layer[op]), int(self.schedule.expert[op])

    def keys(self, kind: OpKind) -> list[ExpertKey]:
        """The distinct experts that ops of `kind` move or compute, in order."""
        return list(dict.fromkeys(self.key(int(op)) for op in np.flatnonzero(self.schedule.kind == kind)))


def resident_slots(model: ModelArchitecture) -> dict[int, ExpertKey]:
    """Every expert in a slot of its own: what `gpu_only` starts from."""
    keys = [(layer, expert) for layer in range(model.n_moe_layers) for expert in range(model.n_experts)]
    return dict(enumerate(keys))


def kept_slots(kept: Iterable[tuple[int, Iterable[int]]], first: int) -> dict[int, ExpertKey]:
    """The experts of `kept`, a MoE layer and those of it that stay in HBM each, in slots from `first` on."""
    keys = [(layer, expert) for layer, experts in kept for expert in sorted(experts)]
    return dict(enumerate(keys, first))


def cached_slots(cache: ResidentSet, n_buffers: int) -> dict[int, ExpertKey]:
    """The slots that a warm cache fills before the start, the transient buffers' numbers coming first."""
    asked = copy.deepcopy(cache)  # asking for a resident makes it recent
    slots = {}
    for layer in range(cache.n_layers):
        residents = [expert for expert in range(cache.n_experts) if (layer, expert) in cache]
        slots.update({n_buffers + access.slot: (layer, access.expert) for access in asked.admit(layer, residents)})
    return slots


def build_program(
    model: ModelArchitecture, steps: Iterable[Step], schedule: Schedule, initial: Mapping[int, ExpertKey] | None = None
) -> Program:
    """Derive what each op of `schedule`, the schedule of `steps`, touches; `initial`: experts in slots at the start.

    Raises `InvalidInput` when the schedule stages or groups experts, reads one that no slot holds, moves other bytes
    than the model's experts have, or does not compute exactly what the trace asks for.
    """
    if not model.is_executable:
        raise InvalidInput(
            f"{model.name} has layers without attention, or gates or an indexer in it: the runtime executes plain "
            f"attention, over all tokens or in a window, simulate it instead"
        )
    return _Builder(model, plan_passes(model, steps), schedule, dict(initial or {})).build()


class _Builder:
    """The state of one walk over the ops."""

    def __init__(
        self, model: ModelArchitecture, passes: Passes, schedule: Schedule, initial: Mapping[int, ExpertKey]
    ) -> None:
        self.model, self.passes, self.schedule, self.initial = model, passes, schedule, initial
        self.order = order_of(schedule)
        self.content: dict[int, ExpertKey] = dict(initial)  # slot -> expert
        self.holder: dict[ExpertKey, tuple[int, int]] = {
            key: (slot, -1) for slot, key in initial.items()
        }  # slot, filler
        self.read_by: list[int] = []  # staging buffer -> the fetch that empties it, or the read until there is one
        self.routed: dict[int, Routed] = {}
        self.lookups = {phase: [0, 0] for phase in Phase}
        self.computed: set[tuple[int, int, int]] = set()  # pass, MoE layer, expert
        n = len(schedule)
        self.slot, self.source, self.staging = (np.full(n, -1, dtype=np.int32) for _ in range(3))
        self.moe_layer = np.full(n, -1, dtype=np.int16)
        self.pass_of = self._pass_of()

    def _pass_of(self) -> NDArray[np.int32]:
        index = {one.i_step: i for i, one in enumerate(self.passes.passes)}
        missing = set(self.schedule.step.tolist()) - index.keys()
        if missing:
            raise InvalidInput(f"the schedule runs step {min(missing)}, which the trace does not have")
        return np.array([index[step] for step in self.schedule.step.tolist()], dtype=np.int32)

    def build(self) -> Program:
        schedule, model = self.schedule, self.model
        kinds = [OpKind(kind) for kind in schedule.kind.tolist()]
        layers, lanes = schedule.layer.tolist(), schedule.lane.tolist()
        closes, ends = np.zeros(len(kinds), dtype=np.bool_), np.zeros(len(kinds), dtype=np.bool_)
        last: dict[tuple[int, int], int] = {}
        for op, kind in enumerate(kinds):
            self._check_kind(op, kind, lanes[op])
            one = self.passes.passes[self.pass_of[op]]
            in_stack = one.stack(model).moe_layers
            if layers[op] in in_stack:
                self.moe_layer[op] = one.moe_layers(model)[in_stack.index(layers[op])]
            if kind is OpKind.EXPERTS:
                last[one.i_step, layers[op]] = op
            self._touch(op, kind)
        closes[list(last.values())] = True
        of_compute = np.flatnonzero(schedule.lane == Lane.COMPUTE)
        edges = np.flatnonzero(np.diff(self.pass_of[of_compute], append=-1))
        ends[of_compute[edges]] = True
        self._check_all_done()
        return Program(
            model, schedule, self.passes, self.order, self.pass_of, self.moe_layer, self.slot, self.source,
            self.staging, closes, ends, self.routed, self.initial,
            n_slots=max([-1, *self.initial, *schedule.slot.tolist()]) + 1,
            n_staging=len(self.read_by),
            lookups={phase: (counts[0], counts[1]) for phase, counts in self.lookups.items()},
        )  # fmt: skip

    def _check_kind(self, op: int, kind: OpKind, lane: int) -> None:
        """Raise `InvalidInput` for an op that the runtime does not execute, or one on another lane than its kind's."""
        if kind is OpKind.ISSUE:
            raise InvalidInput(f"op {op} issues a run of copies: the runtime copies experts one by one, {_WAY_OUT}")
        if kind in (OpKind.STREAM, OpKind.CPU_LAYER):
            what = "streams weights, keys or values" if kind is OpKind.STREAM else "is a part of a layer on the host"
            raise InvalidInput(
                f"op {op} {what}: the runtime executes placements of experts only (experts=cpu), simulate it instead"
            )
        if kind is OpKind.SORT:
            raise InvalidInput(f"op {op} sorts rows by expert on the host: the runtime sorts on the device, {_WAY_OUT}")
        if kind is OpKind.STAGE:
            raise InvalidInput(
                f"op {op} copies an expert within HBM: the runtime reads experts where they land, {_WAY_OUT}"
            )
        wanted = KINDS[kind].lane
        if lane != wanted:
            raise InvalidInput(f"op {op}, a {kind.name}, is on lane {Lane(lane).name}: it runs on {wanted.name}")

    def _touch(self, op: int, kind: OpKind) -> None:
        """What an op does to the experts that are held: it moves one, or computes with one. Raises `InvalidInput`."""
        if kind in (OpKind.FETCH, OpKind.DISK_READ):
            moved = int(self.schedule.bytes[op])
            if moved != self.model.expert_bytes:
                raise InvalidInput(
                    f"op {op} moves {moved} bytes, an expert of {self.model.name} has {self.model.expert_bytes}: the "
                    f"schedule is of another model, or fetches a part of an expert, which is simulated only"
                )
        if kind is OpKind.FETCH:
            self._fill(op)
        elif kind is OpKind.DISK_READ:
            self._read(op)
        elif kind is OpKind.CPU_EXPERT or (kind is OpKind.EXPERTS and self.schedule.expert[op] >= 0):
            self._compute(op, on_device=kind is OpKind.EXPERTS)

    def _fill(self, op: int) -> None:
        """A slot changes hands; the expert comes from a staging buffer when the fetch waits for a read of it."""
        key, slot = (int(self.moe_layer[op]), int(self.schedule.expert[op])), int(self.schedule.slot[op])
        if slot < 0:
            raise InvalidInput(f"op {op} fetches expert {key[1]} of MoE layer {key[0]} into no slot: {_WAY_OUT}")
        before = self.content.get(slot)
        if before is not None and self.holder.get(before, (-1, -1))[0] == slot:
            del self.holder[before]
        self.content[slot], self.holder[key], self.slot[op] = key, (slot, op), slot
        for dep in self.schedule.deps(op).tolist():
            if self.schedule.kind[dep] == OpKind.DISK_READ:
                if (int(self.moe_layer[dep]), int(self.schedule.expert[dep])) != key:
                    raise InvalidInput(f"op {op} fetches another expert than op {dep} has read for it")
                self.source[op], self.staging[op] = dep, self.staging[dep]
                self.read_by[self.staging[dep]] = op

    def _read(self, op: int) -> None:
        """A read takes the lowest staging buffer that is free by then, or a new one."""
        free = [i for i, reader in enumerate(self.read_by) if self.order.before(reader, op) and self._is_fetch(reader)]
        buffer = free[0] if free else len(self.read_by)
        self.read_by[buffer : buffer + 1] = [op]
        self.staging[op] = buffer

    def _is_fetch(self, op: int) -> bool:
        return bool(self.schedule.kind[op] == OpKind.FETCH)

    def _compute(self, op: int, on_device: bool) -> None:
        """An expert is computed for the tokens that chose it, once a pass; counts it as looked up, and as found."""
        i_pass, key = int(self.pass_of[op]), (int(self.moe_layer[op]), int(self.schedule.expert[op]))
        one = self.passes.passes[i_pass]
        chosen = one.experts[:, key[0]] if key[0] >= 0 else np.zeros((0, 1), dtype=np.int16)
        tokens, ranks = np.nonzero(chosen == key[1])
        if not tokens.size or (i_pass, *key) in self.computed:
            again = "a second time" if tokens.size else "for no token"
            raise InvalidInput(
                f"op {op} computes expert {key[1]} of MoE layer {key[0]} {again}: not of this trace, or in parts "
                f"(micro=), which only a simulation knows"
            )
        self.computed.add((i_pass, *key))
        self.routed[op] = Routed(tokens, ranks)
        self.lookups[one.phase][0] += 1
        if not on_device:
            return
        if key not in self.holder:
            raise InvalidInput(f"op {op} reads expert {key[1]} of MoE layer {key[0]}, which no slot holds by then")
        self.slot[op], self.source[op] = self.holder[key]
        filler = int(self.source[op])
        self.lookups[one.phase][1] += int(filler < 0 or self.schedule.step[filler] < one.i_step)

    def _check_all_done(self) -> None:
        """What is read is fetched; what the trace asks for is computed, else the final states would be of no model."""
        taken = set(self.source[self.staging >= 0].tolist())
        for op in np.flatnonzero(self.schedule.kind == OpKind.DISK_READ).tolist():
            if op not in taken:
                raise InvalidInput(f"op {op} reads an expert from storage that no fetch waits for and takes on")
        n_wanted = 0
        for one in self.passes.passes:
            for layer in one.moe_layers(self.model):
                chosen = np.unique(one.experts[:, layer])
                n_wanted += int(np.count_nonzero(chosen >= 0))
        if n_wanted != len(self.computed):
            raise InvalidInput(
                f"the trace asks for {n_wanted} expert FFNs, the schedule has {len(self.computed)}: it groups them, or "
                f"is not of this trace; {_WAY_OUT}"
            )
