"""From a program to actions: memory is taken, weights are made, and every op is tied to the tensors it works on.

After this nothing is decided and no pool grows: a run issues the actions one by one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from offload.ops import KINDS, KindRow, Lane, OpKind, Place
from offload.policy_parts.granularity import matrix_bytes
from runtime.backends.backend import Action, Backend, Copy
from runtime.memory import PAGE_BYTES, Carver, aligned, element_type, pieces, round_up
from runtime.model.attention import KvCache
from runtime.model.bound_pass import BoundPass, bind_pass
from runtime.model.buffer_rows import as_rows
from runtime.model.fewer_bits import PackedExpert, unpack
from runtime.model.layers import Choice, FfnWeights, Layers, Masked, Scratch, ffn_weights
from runtime.model.shapes import expert_shapes
from runtime.model.weights import Experts
from runtime.pools import FEWER_BITS, IDS, SLOTS, carvers, low_bytes, pool_bytes, scratch_shapes, sides
from runtime.programs.host_layers import KIND_OF_PART
from runtime.programs.passes import Pass
from runtime.programs.program import Program
from runtime.storage import ExpertFile

_CROSSING = "activations of experts on the host"

_MASKS_BYTES = 256 << 20
"""Masks of all passes that are made before the clock starts, beside the budget; the others the passes make."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """Everything a run needs. `actions`: one an op, None for what the host does.

    `states` (n_tokens, d_model): the final hidden states, once the run is over. `ids`, `expected_ids` (n,) int32: what
    the readbacks bring to the host, and what the trace says.
    """

    actions: list[Action | None]
    states: Tensor
    ids: Tensor
    expected_ids: NDArray[np.int32]


def load_program(backend: Backend, program: Program, experts: Experts, storage: ExpertFile | None) -> Loaded:
    """Take the memory of `program` on `backend` and bind its ops.

    Raises `CapacityExceeded` when HBM or host memory is too small, `InvalidInput` for a model in a format that the
    runtime does not compute in.
    """
    return Binder(backend, program, experts, storage).bind()


class Binder:
    """What the ops of one run are bound to."""

    def __init__(self, backend: Backend, program: Program, experts: Experts, storage: ExpertFile | None) -> None:
        model = program.model
        self.backend, self.program, self.experts, self.storage = backend, program, experts, storage
        self.dtype, self._expert_bytes = element_type(model), model.expert_bytes
        self.layers, self.host_layers = _load_layers(backend, program, experts)
        self._begun: set[tuple[int, bool]] = set()  # passes that have begun, and whether on the host
        self._masks_bytes = 0
        self.stride = round_up(model.expert_bytes, PAGE_BYTES)
        sizes = pool_bytes(model, program.passes, program.n_slots, program.host, program.rounding)
        pool = backend.allocate(sizes[SLOTS], SLOTS)
        self.slots = pieces(pool, self.stride)
        if program.rounding is not None:
            low = backend.allocate(sizes[FEWER_BITS], FEWER_BITS)
            self.unpacked, low = low[: self._expert_bytes], low[self.stride :]
            if len(low):
                self.slots += pieces(low, low_bytes(model, program.rounding))
        for slot, key in program.initial.items():
            experts.copy_to(self.slots[slot][: model.expert_bytes], key)
        self.slot_weights: dict[int, FfnWeights] = {}
        self.staging = pieces(backend.allocate_host(program.n_staging * self.stride, "staging buffers"), self.stride)
        self.bound = self._bound()
        self.choices = self._all_choices()
        self.ids = backend.allocate(sizes[IDS], IDS).view(torch.int32).view(model.n_moe_layers, -1)
        self.cpu_scratch = self._cpu_scratch()
        if self.cpu_scratch is not None:
            shape = program.passes.n_widest, model.d_model
            n_bytes = math.prod(shape) * self.dtype.itemsize
            self.handed_over = backend.allocate_host(n_bytes, _CROSSING).view(self.dtype).view(shape)
            self.returned = backend.allocate(n_bytes, _CROSSING).view(self.dtype).view(shape)

    def _bound(self) -> list[BoundPass]:
        """The passes with their constants; token ids are drawn, for nobody reads what is made of them."""
        model, seed = self.program.model, self.experts.seed
        passes = self.program.passes
        return [bind_pass(self.backend, model, one, passes.n_context, self.dtype, seed) for one in passes.passes]

    def _all_choices(self) -> list[dict[int, Choice]]:
        """By pass, what the trace has its gates choose."""
        return [self._choices(one) for one in self.program.passes.passes]

    def _choices(self, one: Pass) -> dict[int, Choice]:
        """What the gate of each MoE layer of a pass is made to choose."""
        choices = {}
        for layer in one.moe_layers(self.program.model):
            experts = one.experts[:, layer].astype(np.int64)
            pads = self.backend.upload(experts < 0) if np.any(experts < 0) else None
            ids = self.backend.upload(experts.astype(np.int32).ravel())
            choices[layer] = Choice(self.backend.upload(np.maximum(experts, 0)), pads, ids)
        return choices

    def _cpu_scratch(self) -> Scratch | None:
        if not np.any(self.program.schedule.kind == OpKind.CPU_EXPERT):
            return None
        return self.scratch_of(aligned)

    def scratch_of(self, allocate: Callable[[int], Tensor]) -> Scratch:
        """Buffers to compute experts in, for a lane of its own."""
        carver = Carver(scratch_shapes(self.program.model, self.program.passes), self.dtype)
        return Scratch(**carver.views(allocate(carver.n_bytes)))

    def bind(self) -> Loaded:
        """All ops of a schedule that is whole."""
        schedule, model = self.program.schedule, self.program.model
        sizes = [
            self.program.passes.passes[i].n_tokens * model.top_k if kind == OpKind.READBACK else 0
            for i, kind in zip(self.program.pass_of.tolist(), schedule.kind.tolist(), strict=True)
        ]
        ends = np.cumsum(sizes).tolist()
        host_ids = self.backend.allocate_host(max(1, sum(sizes)) * 4, "ids read back").view(torch.int32)[: sum(sizes)]
        host_ids.fill_(-2)  # what no gate chooses
        expected = np.empty(sum(sizes), dtype=np.int32)
        actions: list[Action | None] = []
        for op, kind in enumerate(OpKind(kind) for kind in schedule.kind.tolist()):
            if kind is OpKind.READBACK:
                here = slice(ends[op] - sizes[op], ends[op])
                one, layer = self.program.passes.passes[self.program.pass_of[op]], int(self.program.moe_layer[op])
                expected[here] = one.experts[:, layer].ravel()
                actions.append(Copy(host_ids[here], self.ids[layer, : sizes[op]]))
            elif kind in (OpKind.HANDOVER, OpKind.RETURN):
                actions.append(self._crossing(op, kind))
            elif KINDS[kind].lane is Lane.HOST:
                actions.append(None)
            else:
                actions.append(self._action(op, kind))
        return Loaded(actions, self.layers.states, host_ids, expected)

    def _crossing(self, op: int, kind: OpKind) -> Copy:
        """The activations of a block, to the host that computes some of its experts, or back; or all there is."""
        n_tokens = self.program.passes.passes[self.program.pass_of[op]].n_tokens
        if op in self.program.host.crossing:
            here, back = (side.hidden[:n_tokens].view(-1) for side in (self.layers, self._of_host()))
            return Copy(back, here) if kind is OpKind.HANDOVER else Copy(here, back)
        here, back = self.layers.normed[:n_tokens], self.returned[:n_tokens]
        away = self.handed_over[:n_tokens]
        return Copy(away.view(-1), here.view(-1)) if kind is OpKind.HANDOVER else Copy(back.view(-1), away.view(-1))

    def _action(self, op: int, kind: OpKind) -> Action:
        """What an op of the compute, copy, storage or CPU lane does; read-backs and crossings apart."""
        row = KINDS[kind]
        if row.puts is not None:
            return self._move(op, row)
        parts = list(self._compute(op, kind))
        return parts[0] if len(parts) == 1 else partial(_in_turn, parts)

    def _move(self, op: int, row: KindRow) -> Action:
        """An expert, or one matrix of it, from where it lies to another place."""
        n_bytes, bits = int(self.program.schedule.bytes[op]), self.program.bits(op)
        to = self._place_of(op, row.puts)
        if row.takes == "storage":
            assert self.storage is not None
            return partial(self.storage.read, self.program.key(op), to, n_bytes)
        if bits and row.takes == "host":
            source = self.experts.in_bits(self.program.key(op), bits).packed
            here = slice(0, len(source))
        else:
            source = self._taken_from(op, row.takes)
            here = slice(0, n_bytes) if row.puts == "buffer" else self._bytes_of(op)  # what is filed comes in pages
        to, source = to[here], source[here]
        return Copy(to, source) if row.lane in (Lane.H2D, Lane.D2H) else partial(_copied, to, source)

    def _taken_from(self, op: int, takes: Place | None) -> Tensor:
        """The bytes of the expert that an op moves or computes, in the buffer that was filled for it, if one was."""
        source = int(self.program.source[op])
        if takes == "slot" or source < 0:
            return self._place_of(op, takes)
        filled: Tensor = self.staging[self.program.staging[source]]
        return filled

    def _place_of(self, op: int, place: Place | None) -> Tensor:
        """The bytes of a place that an op names."""
        if place == "host":
            return self.experts[self.program.key(op)]
        pool, number = (self.slots, self.program.slot) if place == "slot" else (self.staging, self.program.staging)
        found: Tensor = pool[number[op]]
        return found

    def _compute(self, op: int, kind: OpKind) -> Iterator[partial[None]]:
        """The parts of an op of the compute or CPU lane, in order."""
        bound, layers = self.bound[self.program.pass_of[op]], self._side(op)
        layer, moe_layer = int(self.program.schedule.layer[op]), int(self.program.moe_layer[op])
        if kind is OpKind.CPU_LAYER:
            kind = KIND_OF_PART[self.program.host.part[op]]
        if kind is OpKind.SELF_ATTENTION:
            side = int(self.program.pass_of[op]), layers is not self.layers
            if side not in self._begun:
                self._begun.add(side)
                yield partial(layers.begin, bound, self._masked(layers, bound))
            if layer == 0:
                yield partial(layers.embed, bound)
            yield partial(layers.self_attention, bound, layer)
        elif kind is OpKind.CROSS_ATTENTION:
            yield partial(layers.cross_attention, bound, layer)
        elif kind is OpKind.GATE:
            yield self._gate(op, bound, layer, moe_layer)
        elif kind is OpKind.DENSE_FFN:
            yield partial(layers.dense, bound, layer)
        elif kind is OpKind.HEAD:
            yield partial(layers.finish, bound)
            yield partial(layers.head, bound)
        elif kind is OpKind.CPU_EXPERT or self.program.slot[op] >= 0:
            if kind is OpKind.EXPERTS and self.program.bits(op):
                yield self._unpack(op)
            yield self._expert(op, kind)
        elif self.program.model.n_shared_experts:
            yield partial(layers.shared, bound, layer)
        if self.program.closes[op]:
            yield self._combine(op, bound, moe_layer)
        if self.program.ends[op] and not bound.one.has_head:
            yield partial(layers.finish, bound)

    def _masked(self, layers: Layers, bound: BoundPass) -> Masked | None:
        """The masks of a pass, made before the clock starts while there is room for them: they depend on nothing that a
        run computes.
        """
        self._masks_bytes += layers.mask_bytes(bound)
        return layers.masked(bound) if self._masks_bytes <= _MASKS_BYTES else None

    def _side(self, op: int) -> Layers:
        """The layers that an op is of: those on the device, or those on the host."""
        return self._of_host() if self.program.on_host(op) else self.layers

    def _of_host(self) -> Layers:
        assert self.host_layers is not None
        return self.host_layers

    def _gate(self, op: int, bound: BoundPass, layer: int, moe_layer: int) -> partial[None]:
        """A gate, which the trace has choose."""
        choice = self.choices[self.program.pass_of[op]][moe_layer]
        return partial(self._side(op).gate, bound, layer, choice, self.ids[moe_layer, : len(choice.ids)])

    def _combine(self, op: int, bound: BoundPass, moe_layer: int) -> partial[None]:
        return partial(self._side(op).combine, bound)

    def _bytes_of(self, op: int) -> slice:
        """Where in an expert's bytes what an op moves lies."""
        piece = self.program.piece(op)
        if piece is None:
            return slice(0, self._expert_bytes)
        ends = np.cumsum(matrix_bytes(self.program.model)).tolist()
        return slice(0 if not piece.i else ends[piece.i - 1], ends[piece.i])

    def _expert(self, op: int, kind: OpKind) -> partial[None]:
        tokens, ranks = self.program.routed[op]
        places = tokens * self.program.model.top_k + ranks
        layers = self._side(op)
        if kind is OpKind.EXPERTS:
            scratch, rounded = layers.scratch, self.program.bits(op) > 0
            weights = self._weights_at(self.unpacked) if rounded else self._weights_in(int(self.program.slot[op]))
        else:
            memory = self._taken_from(op, KINDS[kind].takes)[: self._expert_bytes]
            own = layers.scratch if layers is self.host_layers else self.cpu_scratch
            assert own is not None
            weights, scratch = self._weights_at(memory), own
        rows = as_rows(self.backend, tokens), as_rows(self.backend, places)
        piece = self.program.piece(op)
        if piece is not None:
            return partial(layers.expert_matrix, *rows, weights, scratch, piece)
        return partial(layers.expert, *rows, weights, scratch)

    def _unpack(self, op: int) -> partial[None]:
        """The expert of an op, which a slot holds in fewer bits, as it is multiplied by."""
        model, bits = self.program.model, self.program.bits(op)
        packed, scales = self.experts.in_bits(self.program.key(op), bits)
        there = PackedExpert(self.slots[self.program.slot[op]][: len(packed)], scales)
        return partial(unpack, there, model, bits, self.unpacked)

    def _weights_in(self, slot: int) -> FfnWeights:
        if slot not in self.slot_weights:
            self.slot_weights[slot] = self._weights_at(self.slots[slot][: self._expert_bytes])
        return self.slot_weights[slot]

    def _weights_at(self, memory: Tensor) -> FfnWeights:
        """Views of an expert's tensors in its bytes."""
        shapes = expert_shapes(self.program.model)
        flat, at, tensors = memory.view(self.dtype), 0, {}
        for name, shape in shapes.items():
            n = math.prod(shape)
            tensors[name] = flat[at : at + n].view(shape)
            at += n
        return ffn_weights(tensors)


def _copied(to: Tensor, source: Tensor) -> int:
    """Bytes copied within host memory."""
    to.copy_(source)
    return to.nbytes


def _in_turn(parts: list[partial[None]]) -> None:
    for part in parts:
        part()


def _load_layers(backend: Backend, program: Program, experts: Experts) -> tuple[Layers, Layers | None]:
    """The weights outside the experts, the KV cache and the activations of a run, in the HBM budget; the same of the
    layers on the host, in its memory, where there are any.
    """
    model, passes, host = program.model, program.passes, program.host.layers
    here, there = sides(program.host)
    states = backend.upload(np.zeros((passes.n_tokens, model.d_model), dtype=np.float32)).to(element_type(model))
    made: list[Layers] = []
    for static, allocate in ((here, backend.allocate), (there, backend.allocate_host))[: 2 if host else 1]:
        carved = carvers(model, passes, static)
        pools = {what: allocate(carver.n_bytes, what) for what, carver in carved.items()}
        tensors, kept, buffers = (carver.views(pools[what]) for what, carver in carved.items())
        experts.copy_static(tensors)
        prefixes = dict.fromkeys(name.rpartition(".")[0] for name in kept)
        caches = {f"{p}.": KvCache(kept[f"{p}.keys"], kept.get(f"{p}.values", kept[f"{p}.keys"])) for p in prefixes}
        made.append(Layers(model, tensors, buffers, caches, states, made[0].tokens if made else None))
    return made[0], made[1] if host else None
