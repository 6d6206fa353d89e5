"""Proof, before anything runs, that no timing can make a schedule read or overwrite the wrong bytes.

A place (a slot, a staging buffer, a block's ids, its input, the results of its CPU experts, the residual stream on a
side) has one writer at a time: who reads it must come after that writer and before the next one in the order that the
schedule imposes. Nothing here may know time.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

from offload.ops import KINDS, Lane, OpKind, Place
from runtime.programs.program import Program
from traces.errors import PregateError

_INPUT = "the input of the MoE block"
_CPU_RESULTS = "the results of CPU experts"
_STREAM, _STREAM_ON_HOST = "the residual stream", "the residual stream on the host"


class UnsafeSchedule(PregateError):
    """A schedule whose result depends on timing: it reads what may not be there yet, or overwrites what is in use."""


@dataclass(slots=True)
class _Place:
    writer: int = -1
    readers: list[int] = field(default_factory=list)


def check_races(program: Program) -> None:
    """Raise `UnsafeSchedule`, naming both ops and the place, unless all timings give the same result."""
    places: defaultdict[str, _Place] = defaultdict(_Place)
    for op, kind in enumerate(OpKind(kind) for kind in program.schedule.kind.tolist()):
        for name in _reads(program, op, kind):
            place = places[name]
            _check_order(program, place.writer, op, f"reads {name} without waiting for", "which fills it")
            place.readers.append(op)
        for name in _writes(program, op, kind):
            for earlier in (places[name].writer, *places[name].readers):
                _check_order(program, earlier, op, f"overwrites {name} without waiting for", "which uses it")
            places[name] = _Place(op)


def _reads(program: Program, op: int, kind: OpKind) -> list[str]:
    if op in program.host.crossing:
        return [_STREAM if kind is OpKind.HANDOVER else _STREAM_ON_HOST]
    if kind is OpKind.EXPERTS:
        slot = _slot(program, op) if program.slot[op] >= 0 else []
        return [_INPUT, *slot, *([_CPU_RESULTS] if program.closes[op] else [])]
    if kind is OpKind.READBACK:
        return [f"the ids of MoE layer {program.moe_layer[op]}"]
    if kind is OpKind.RETURN:
        return [_CPU_RESULTS]
    given = kind is OpKind.HANDOVER or (kind is OpKind.CPU_EXPERT and not program.on_host(op))
    return [*([_INPUT] if given else []), *_taken(program, op, KINDS[kind].takes)]


def _writes(program: Program, op: int, kind: OpKind) -> list[str]:
    if not program.host.layers:
        return _written(program, op, kind)
    if op in program.host.crossing:
        return [_STREAM_ON_HOST if kind is OpKind.HANDOVER else _STREAM]
    if KINDS[kind].lane is Lane.CPU and program.on_host(op):
        return [_STREAM_ON_HOST]
    return [*_written(program, op, kind), *([_STREAM] if KINDS[kind].lane is Lane.COMPUTE else [])]


def _written(program: Program, op: int, kind: OpKind) -> list[str]:
    """Apart from the residual stream, which only layers on the host have change its side."""
    if kind is OpKind.GATE:
        return [f"the ids of MoE layer {program.moe_layer[op]}", _INPUT]
    if kind is OpKind.CPU_EXPERT:
        return [_CPU_RESULTS]
    puts = KINDS[kind].puts
    if puts == "slot":
        return _slot(program, op)
    if puts == "buffer":
        return [f"staging buffer {program.staging[op]}"]
    return [_in_host_memory(program, op)] if puts == "host" else []


def _taken(program: Program, op: int, takes: Place | None) -> list[str]:
    """Where the weights of an expert are that an op moves or computes in host memory."""
    if takes == "slot":
        return _slot(program, op)
    if takes in (None, "storage"):
        return []
    source = int(program.source[op])
    return [f"staging buffer {program.staging[source]}" if source >= 0 else _in_host_memory(program, op)]


def _slot(program: Program, op: int) -> list[str]:
    """The slot of an op, or what of it is one matrix; all of them where experts come matrix by matrix."""
    slot, piece, n = f"slot {program.slot[op]}", program.piece(op), program.n_matrices
    if n == 1:
        return [slot]
    return [f"matrix {i} of {slot}" for i in (range(n) if piece is None else (piece.i,))]


def _in_host_memory(program: Program, op: int) -> str:
    return f"expert {program.schedule.expert[op]} of MoE layer {program.moe_layer[op]} in host memory"


def _check_order(program: Program, earlier: int, later: int, does: str, use: str) -> None:
    if not program.order.before(earlier, later):
        kind = OpKind(int(program.schedule.kind[earlier])).name
        raise UnsafeSchedule(f"op {later} {does} op {earlier} ({kind}), {use}: the schedule lacks a dependency")
