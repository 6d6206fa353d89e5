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

from offload.caches.residency import ResidentSet
from offload.ops import KINDS, Lane, OpKind, Piece, Work
from offload.schedule import Schedule
from runtime.programs.host_layers import HostLayers
from runtime.programs.passes import Passes, plan_passes
from runtime.programs.precedence import Order, order_of
from runtime.programs.touches import WAY_OUT, ExpertKey, Routed, Touches
from traces.errors import InvalidInput
from traces.model.architecture import ModelArchitecture
from traces.phase import Phase
from traces.routing import Step

__all__ = [
    "ExpertKey",
    "Program",
    "Rounding",
    "Routed",
    "build_program",
    "cached_slots",
    "kept_slots",
    "resident_slots",
]


class Rounding(NamedTuple):
    """Experts in fewer bits: `n_slots` for copies of `bits`, behind all others; they may come into any other too."""

    n_slots: int = 0
    bits: float = 0.0


_IN_HOST = tuple(kind for kind, row in KINDS.items() if row.puts == "buffer")
"""Kinds of op whose slot is one of host memory."""


@dataclass(frozen=True, slots=True, eq=False)
class Program:
    """`schedule` with what its ops touch; arrays (n_ops,), -1 for none.

    `pass_of`: the pass; `moe_layer`: the MoE block through the model; `slot`: the slot filled or read; `source`: the
    op that filled what is read (an expert's slot, a fetch's staging buffer); `staging`: the staging buffer filled
    or read; `closes`: whether an op is the last of its MoE block on the compute lane, `ends`: of its pass.
    `initial`: the experts in slots before the start. `lookups`: by phase, experts looked up a (step, layer) union,
    and found resident. `host`: the layers that the host computes. `rounding`: of a run that rounds experts; None of any
    other. `n_matrices`: by which experts come one after the other, 1 whole.
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
    host: HostLayers
    rounding: Rounding | None = None
    n_matrices: int = 1

    def key(self, op: int) -> ExpertKey:
        """The expert that an op moves or computes."""
        return int(self.moe_layer[op]), int(self.schedule.expert[op])

    def piece(self, op: int) -> Piece | None:
        """The matrix of its expert that an op moves or multiplies by; None: all of it."""
        return self.schedule.works[int(self.schedule.cost[op])].piece

    def on_host(self, op: int) -> bool:
        """Whether an op is of a layer that the host computes."""
        return op in self.host.part or int(self.schedule.layer[op]) in self.host.layers

    def bits(self, op: int) -> float:
        """Of a parameter, of the expert that an op moves or reads, where it is stored in more; else 0."""
        bits = self.schedule.works[int(self.schedule.cost[op])].weight_bits
        return bits if bits < self.model.expert_dtype.bits else 0.0

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
    """A program from a schedule that is whole."""

    def __init__(
        self, model: ModelArchitecture, passes: Passes, schedule: Schedule, initial: Mapping[int, ExpertKey]
    ) -> None:
        self.model, self.passes, self.schedule, self.initial = model, passes, schedule, initial
        self.order = order_of(schedule)
        self.touches = Touches(model, passes, schedule, self.order.before, initial, len(schedule), self._work)
        self.pass_of = self.touches.pass_of = self._pass_of()
        self.host = HostLayers(model, self._host_layers())

    def _work(self, op: int) -> Work:
        return self.schedule.works[int(self.schedule.cost[op])]

    def _pass_of(self) -> NDArray[np.int32]:
        index = {one.i_step: i for i, one in enumerate(self.passes.passes)}
        missing = set(self.schedule.step.tolist()) - index.keys()
        if missing:
            raise InvalidInput(f"the schedule runs step {min(missing)}, which the trace does not have")
        return np.array([index[step] for step in self.schedule.step.tolist()], dtype=np.int32)

    def _host_layers(self) -> set[int]:
        """The layers that the host computes whole: their attention is nowhere else."""
        kind, layer = self.schedule.kind, self.schedule.layer
        there = set(layer[kind == OpKind.CPU_LAYER].tolist()) - {-1}
        return there - set(layer[kind == OpKind.SELF_ATTENTION].tolist()) if there else there

    def build(self) -> Program:
        schedule, model, touches = self.schedule, self.model, self.touches
        kinds = [OpKind(kind) for kind in schedule.kind.tolist()]
        layers, lanes = schedule.layer.tolist(), schedule.lane.tolist()
        closes, ends = np.zeros(len(kinds), dtype=np.bool_), np.zeros(len(kinds), dtype=np.bool_)
        last: dict[tuple[int, int], int] = {}
        self._check_reads()
        self._check_parts()
        for op, kind in enumerate(kinds):
            touches.check_kind(op, kind, lanes[op])
            one = self.passes.passes[self.pass_of[op]]
            in_stack = one.stack(model).moe_layers
            if layers[op] in in_stack:
                touches.moe_layer[op] = one.moe_layers(model)[in_stack.index(layers[op])]
            self.host.note(op, kind, int(self.pass_of[op]), layers[op])
            if kind is OpKind.EXPERTS or self.host.may_close(op, kind, layers[op]):
                last[one.i_step, layers[op]] = op
            touches.touch(op, kind)
        closes[list(last.values())] = True
        of_compute = np.flatnonzero(schedule.lane == Lane.COMPUTE)
        edges = np.flatnonzero(np.diff(self.pass_of[of_compute], append=-1))
        ends[of_compute[edges]] = True
        self._check_all_done()
        return Program(
            model, schedule, self.passes, self.order, self.pass_of, touches.moe_layer, touches.slot, touches.source,
            touches.staging, closes, ends, touches.routed, self.initial,
            n_slots=max([-1, *self.initial, *schedule.slot[~np.isin(schedule.kind, _IN_HOST)].tolist()]) + 1,
            n_staging=len(touches.read_by),
            lookups={phase: (counts[0], counts[1]) for phase, counts in touches.lookups.items()},
            host=self.host,
            n_matrices=max((work.piece.n for work in schedule.works if work.piece is not None), default=1),
        )  # fmt: skip

    def _check_parts(self) -> None:
        """Raise `InvalidInput` where the host computes layers of a pass without a head: nothing waits for its end
        before the next pass begins there.
        """
        if self.host.layers:
            for one in self.passes.passes:
                if not (one.has_head or one.encoding):
                    raise InvalidInput(
                        f"step {one.i_step} reads a part of a prompt, of which the host computes layers: leave out "
                        f"layers=cpu, have a step read the whole prompt (rebatch), or simulate it instead"
                    )

    def _check_reads(self) -> None:
        """Raise `InvalidInput` where storage is not read a whole expert at a time."""
        schedule = self.schedule
        odd = [work.reading is not None and work.reading != (1, work.copy_bytes) for work in schedule.works]
        if any(odd):
            op = int(np.flatnonzero(np.array(odd)[schedule.cost])[0])
            raise InvalidInput(
                f"op {op} reads an expert in pieces or several at once (read=, depth=, mapped), which is simulated "
                f"only: leave these words out of the tier, align=4KiB may stay"
            )

    def _check_all_done(self) -> None:
        """What is read is fetched, or kept in host memory; what the trace asks for is computed, else the final states
        would be of no model.
        """
        taken = set(self.touches.source[self.touches.staging >= 0].tolist())
        for op in np.flatnonzero(np.isin(self.schedule.kind, _IN_HOST)).tolist():
            if op not in taken and self.schedule.slot[op] < 0:
                raise InvalidInput(f"op {op} fills a buffer with an expert that no later op waits for and takes on")
        n_wanted = 0
        for one in self.passes.passes:
            for layer in one.moe_layers(self.model):
                chosen = np.unique(one.experts[:, layer])
                n_wanted += int(np.count_nonzero(chosen >= 0))
        if n_wanted != len(self.touches.computed):
            raise InvalidInput(
                f"the trace asks for {n_wanted} expert FFNs, the schedule has {len(self.touches.computed)}: "
                f"it groups them, or is not of this trace; {WAY_OUT}"
            )
