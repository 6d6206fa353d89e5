"""What an op touches, given those before it: slot, buffer and tokens. Nothing here knows a device, or time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from offload.ops import KINDS, Lane, OpKind, Piece, Work
from offload.placing.tiers import PAGE_BYTES
from offload.policy_parts.granularity import matrix_bytes
from runtime.programs.passes import Passes
from traces.errors import InvalidInput
from traces.model.architecture import ModelArchitecture
from traces.phase import Phase

ExpertKey = tuple[int, int]
"""An expert: MoE layer through the model, encoder first, and its number there."""

_Copy = tuple[ExpertKey, float]
"""An expert as a slot holds it: its bits a parameter."""

_LANDS = tuple(kind for kind, row in KINDS.items() if row.puts == "buffer")
"""Kinds of op that fill a staging buffer."""

WAY_OUT = "capture the schedule with a stack whose execution is 'streams'"

_REFUSED = {
    OpKind.ISSUE: f"issues a run of copies: the runtime copies experts one by one, {WAY_OUT}",
    OpKind.STREAM: (
        "streams weights, keys or values: the runtime executes experts=cpu and layers=cpu, simulate it instead"
    ),
    OpKind.ZERO_COPY: "reads weights in host memory: the runtime's kernels read them in HBM, simulate it instead",
    OpKind.JOIN: "reads weights in host memory: the runtime's kernels read them in HBM, simulate it instead",
    OpKind.ALL_REDUCE: "adds up over several cards: the runtime runs one card, simulate it instead",
    OpKind.SEND: "sends activations to another card: the runtime runs one card, simulate it instead",
    OpKind.SORT: f"sorts rows by expert on the host: the runtime sorts on the device, {WAY_OUT}",
    OpKind.MASK: f"fills a mask on the host: the runtime's attention is told lengths alone, {WAY_OUT}",
    OpKind.SCHEDULE: f"decides on a pass while another computes: the runtime decides between passes, {WAY_OUT}",
    OpKind.STAGE: f"copies an expert within HBM: the runtime reads experts where they land, {WAY_OUT}",
}
"""What an op of a kind does that the runtime does not, and the way out."""

_EXECUTED = frozenset(
    {
        OpKind.SELF_ATTENTION, OpKind.CROSS_ATTENTION, OpKind.GATE, OpKind.EXPERTS, OpKind.DENSE_FFN, OpKind.HEAD,
        OpKind.READBACK, OpKind.WAIT, OpKind.STEP, OpKind.CPU_EXPERT, OpKind.CPU_LAYER, OpKind.HANDOVER, OpKind.RETURN,
        *(kind for kind, row in KINDS.items() if row.puts is not None),
    }
    - _REFUSED.keys()
)  # fmt: skip
"""Kinds of op that are bound to something; of those that move an expert the table says all that is to be known."""


class Routed(NamedTuple):
    """The tokens that one op computes an expert for: rows of the pass, and for each the rank of the expert in it.

    Both (n,) int64; a token's experts are ranked ascending, so that results are summed in that order whatever the
    order in which they are computed.
    """

    tokens: NDArray[np.int64]
    ranks: NDArray[np.int64]


class OpsSoFar(Protocol):
    """The columns of a schedule, whole or as far as it is written, that say what an op touches."""

    @property
    def kind(self) -> Any:
        """By op, as of `Schedule`, and so the others."""

    @property
    def step(self) -> Any:
        """By op."""

    @property
    def expert(self) -> Any:
        """By op."""

    @property
    def slot(self) -> Any:
        """By op."""

    @property
    def bytes(self) -> Any:
        """By op."""

    def deps(self, op: int) -> NDArray[np.int32]:
        """The ops that `op` waits for, (n_deps,)."""


class Touches:
    """What each op touches, walked in order: `touch` an op once its `pass_of` and `moe_layer` are set.

    `before`: as of `Order`; `n_ops`: at most; `work`: what an op asks for. Arrays and mappings are those of `Program`.
    """

    def __init__(
        self,
        model: ModelArchitecture,
        passes: Passes,
        ops: OpsSoFar,
        before: Callable[[int, int], bool],
        initial: Mapping[int, ExpertKey],
        n_ops: int,
        work: Callable[[int], Work],
    ) -> None:
        self._work, self._expert_bytes, self._stored = work, model.expert_bytes, model.expert_dtype.bits
        self.matrices: dict[ExpertKey, dict[int, int]] = {}  # of an expert in a slot, by which op each came
        self.model, self.passes, self.schedule, self._before = model, passes, ops, before
        self.content: dict[int, _Copy] = {slot: (key, self._stored) for slot, key in initial.items()}
        self.holder: dict[_Copy, tuple[int, int]] = {
            (key, self._stored): (slot, -1) for slot, key in initial.items()
        }  # slot, filler
        self.read_by: list[int] = []  # staging buffer -> the op that empties it, or the read until there is one
        self._full: set[int] = set()  # staging buffers that nobody has taken on from
        self._lands: list[OpKind] = []  # staging buffer -> the kind of op that fills it, one of `_LANDS`
        self.kept_in: dict[int, int] = {}  # slot of host memory above storage -> its staging buffer
        self.routed: dict[int, Routed] = {}
        self.lookups = {phase: [0, 0] for phase in Phase}
        self.computed: set[tuple[int, int, int]] = set()  # pass, MoE layer, expert
        self.slot, self.source, self.staging = (np.full(n_ops, -1, dtype=np.int32) for _ in range(3))
        self.moe_layer = np.full(n_ops, -1, dtype=np.int16)
        self.pass_of = np.zeros(n_ops, dtype=np.int32)

    def _piece(self, op: int) -> Piece | None:
        """The matrix of an expert that an op is of, None all of it."""
        return self._work(op).piece

    def _bits(self, op: int) -> float:
        """Of a parameter, of an expert that an op brings or reads."""
        return self._work(op).weight_bits

    def check_kind(self, op: int, kind: OpKind, lane: int) -> None:
        """Raise `InvalidInput` for an op that the runtime does not execute, or one on another lane than its kind's."""
        if kind is OpKind.FETCH and self.schedule.expert[op] < 0:
            raise InvalidInput(
                f"op {op} copies all experts of a layer at once (granularity=layer): the runtime copies experts one by "
                f"one or by matrix, simulate it instead"
            )
        if self._piece(op) is not None and self.model.expert_bias:
            raise InvalidInput(
                f"op {op} moves or multiplies by one matrix (granularity=matrix): experts of {self.model.name} have "
                f"biases, which the runtime keeps apart, simulate it instead"
            )
        if kind not in _EXECUTED:
            what = _REFUSED.get(kind, f"is a {kind.name}: the runtime executes none, simulate it instead")
            raise InvalidInput(f"op {op} {what}")
        wanted = KINDS[kind].lane
        if lane >= len(Lane):
            raise InvalidInput(f"op {op} is of a card beside the first: the runtime runs one card, {WAY_OUT}")
        if lane != wanted:
            raise InvalidInput(f"op {op}, a {kind.name}, is on lane {Lane(lane).name}: it runs on {wanted.name}")

    def touch(self, op: int, kind: OpKind) -> None:
        """Note what an op does to the experts that are held: it moves or computes one. Raises `InvalidInput`."""
        puts = KINDS[kind].puts
        if puts is not None:
            self._check_size(op, in_pages=puts == "buffer")
        if puts == "slot":
            self._fill(op)
        elif puts == "buffer":
            self._land(op, kind)
        elif puts == "host":
            self._write_back(op)
        elif kind is OpKind.CPU_EXPERT or (kind is OpKind.EXPERTS and self.schedule.expert[op] >= 0):
            self._compute(op, on_device=kind is OpKind.EXPERTS)

    def _check_size(self, op: int, in_pages: bool) -> None:
        """Raise `InvalidInput` for a move of other bytes than an expert has, or a matrix; storage is read in pages."""
        moved, whole, piece = int(self.schedule.bytes[op]), self._expert_bytes, self._piece(op)
        if piece is not None:
            whole = matrix_bytes(self.model)[piece.i]
        elif self._bits(op) < self._stored:
            whole = int(whole * self._bits(op) / self._stored)
        if not whole <= moved <= (-(-whole // PAGE_BYTES) * PAGE_BYTES if in_pages else whole):
            raise InvalidInput(
                f"op {op} moves {moved} bytes, an expert of {self.model.name} has {whole}: the "
                f"schedule is of another model, or fetches a part of an expert, which is simulated only"
            )

    def _fill(self, op: int) -> None:
        """A slot changes hands; the expert comes from a staging buffer when the fetch waits for a read of it."""
        key, slot = (int(self.moe_layer[op]), int(self.schedule.expert[op])), int(self.schedule.slot[op])
        if slot < 0:
            raise InvalidInput(f"op {op} fetches expert {key[1]} of MoE layer {key[0]} into no slot: {WAY_OUT}")
        before, copy = self.content.get(slot), (key, self._bits(op))
        if before is not None and self.holder.get(before, (-1, -1))[0] == slot:
            del self.holder[before]
        piece = self._piece(op)
        if piece is None:
            self.matrices.pop(key, None)
        else:
            self.matrices[key] = {**(self.matrices.get(key, {}) if piece.i else {}), piece.i: op}
        self.content[slot], self.holder[copy], self.slot[op] = copy, (slot, op), slot
        self._take_on(op, key)

    def _take_on(self, op: int, key: ExpertKey) -> None:
        """An op that waits for a read or a filing of its expert takes it from where that has put it. What is filed may
        also wait for what the slot of host memory held before, which nobody took.
        """
        filed_in = int(self.schedule.slot[op]) if self.schedule.kind[op] in _LANDS else -1
        for dep in self.schedule.deps(op).tolist():
            if self.schedule.kind[dep] in _LANDS:
                if (int(self.moe_layer[dep]), int(self.schedule.expert[dep])) != key:
                    if 0 <= filed_in == int(self.schedule.slot[dep]):
                        continue
                    raise InvalidInput(f"op {op} fetches another expert than op {dep} has read for it")
                self.source[op], self.staging[op] = dep, self.staging[dep]
                self.read_by[self.staging[dep]] = op
                self._full.discard(int(self.staging[dep]))

    def _write_back(self, op: int) -> None:
        """An expert leaves its slot for host memory."""
        slot, expert = int(self.schedule.slot[op]), int(self.schedule.expert[op])
        copy = self.content.get(slot)
        if copy is None or copy[0][1] != expert:
            raise InvalidInput(f"op {op} writes expert {expert} back, which slot {slot} does not hold")
        self.slot[op], self.source[op], self.moe_layer[op] = slot, self.holder.get(copy, (-1, -1))[1], copy[0][0]

    def _land(self, op: int, kind: OpKind) -> None:
        """A read, or a copy in host memory, takes the buffer of its slot of host memory, or the lowest of its kind that
        is free by then, or a new one; what is copied comes from the buffer that it was read into, or from where it is
        kept.
        """
        takes = KINDS[kind].takes
        if takes != "storage":
            self._take_on(op, (int(self.moe_layer[op]), int(self.schedule.expert[op])))
            if takes == "buffer" and self.source[op] < 0:
                raise InvalidInput(f"op {op} files an expert and waits for no read of it")
        slot, kept = int(self.schedule.slot[op]), set(self.kept_in.values())
        if slot in self.kept_in:
            buffer = self.kept_in[slot]
        else:
            spare = [i for i, lands in enumerate(self._lands) if lands is kind] if slot < 0 else []
            free = [i for i in spare if i not in kept and self._is_emptied(i, op)]
            buffer = free[0] if free else len(self.read_by)
            if slot >= 0:
                self.kept_in[slot] = buffer
        self.read_by[buffer : buffer + 1], self._lands[buffer : buffer + 1] = [op], [kind]
        self.staging[op] = buffer
        self._full.add(buffer)

    def _is_emptied(self, buffer: int, by: int) -> bool:
        """Whether what a buffer held has been taken on, by an op that has ended whenever op `by` starts."""
        return buffer not in self._full and self._before(self.read_by[buffer], by)

    def _compute(self, op: int, on_device: bool) -> None:
        """An expert is computed for the tokens that chose it, once a pass; counts it as looked up, and as found."""
        i_pass, key = int(self.pass_of[op]), (int(self.moe_layer[op]), int(self.schedule.expert[op]))
        one = self.passes.passes[i_pass]
        chosen = one.experts[:, key[0]] if key[0] >= 0 else np.zeros((0, 1), dtype=np.int16)
        tokens, ranks = np.nonzero(chosen == key[1])
        piece = self._piece(op)
        if not tokens.size or (i_pass, *key) in self.computed:
            again = "a second time" if tokens.size else "for no token"
            raise InvalidInput(
                f"op {op} computes expert {key[1]} of MoE layer {key[0]} {again}: not of this trace, or in parts "
                f"(micro=, ubatch=), which only a simulation knows"
            )
        self.routed[op] = Routed(tokens, ranks)
        if piece is None or piece.is_last:
            self.computed.add((i_pass, *key))
            self.lookups[one.phase][0] += 1
        if not on_device:
            self._take_on(op, key)
            return
        copy = key, self._bits(op)
        if copy not in self.holder:
            raise InvalidInput(f"op {op} reads expert {key[1]} of MoE layer {key[0]}, which no slot holds by then")
        self.slot[op], self.source[op] = self.holder[copy]
        filler = int(self.source[op])
        if piece is not None:
            self.source[op] = self.matrices.get(key, {}).get(piece.i, filler)
        if piece is not None and not piece.is_last:
            return
        self.lookups[one.phase][1] += int(filler < 0 or self.schedule.step[filler] < one.i_step)
