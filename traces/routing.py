"""The workload: which experts every token chose at every MoE layer, and in which forward pass.

Nothing here knows bytes moved or time; a trace says what the gates said.
"""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import IntEnum
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from traces.errors import InvalidInput
from traces.read_only import ReadOnly
from traces.typed import check_value

if TYPE_CHECKING:
    from traces.model.architecture import ModelArchitecture

__all__ = ["MAX_EXPERTS", "Phase", "Provenance", "RoutingTrace", "Step", "check_tokens", "rebatch"]

MAX_EXPERTS = 32767
"""Expert ids are int16."""

MAX_POSITION = (1 << 24) - 1
"""Longest context of a trace: 16.8 million tokens, above any published model's."""

MAX_EXPERT_BYTES = 1 << 40
"""Largest expert of a trace: 1 TiB."""

_CHECK_CELLS = 1 << 22
"""Cells checked at a time, so that validation needs a bounded amount of memory beside the trace."""


class Phase(IntEnum):
    """What a forward pass does: read the prompt (or run the encoder), or make one token a sequence."""

    PREFILL = 0
    DECODE = 1


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where a trace comes from: model, source, licence, recorder and the versions involved."""

    model: str
    source: str
    licence: str = "not stated"
    recorder: str = "not stated"
    versions: Mapping[str, str] = field(default_factory=dict)
    note: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "versions", ReadOnly(self.versions))


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """One forward pass: `experts` (n_tokens_of_step, n_moe_layers, top_k) int16 is a read-only view.

    `gate_weights`: of the same shape, float32, where the trace has them.
    """

    i_step: int
    phase: Phase
    experts: NDArray[np.int16]
    sequence: NDArray[np.int32]
    position: NDArray[np.int32]
    gate_weights: NDArray[np.float32] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class RoutingTrace:
    """The experts chosen by every token at every MoE layer.

    experts       (n_tokens, n_moe_layers, top_k) int16, -1 pads: the layer axis covers all MoE layers,
                  encoder first. Encoder tokens (prefill) have -1 in decoder layers and decode tokens of an
                  encoder-decoder -1 in encoder layers; without an encoder every token visits every layer,
                  save that an engine may leave out a prompt's tokens at the last one. Other holes are refused.
    gate_weights  same shape float32, or None
    sequence      (n_tokens,) int32 request the token belongs to
    position      (n_tokens,) int32 place of the token in its sequence
    phase         (n_tokens,) int8  `Phase`; one phase a step
    step          (n_tokens,) int32 forward pass, never decreasing: a step's tokens are contiguous
    expert_bytes  (n_moe_layers,) int64 size of one expert as the recording engine stored it, or None

    Integer arrays of another width are converted; all become read-only. Raises `InvalidInput` naming the
    token, layer and value that is wrong. Two traces are the same workload when their `digest` is the same.
    """

    experts: NDArray[np.int16]
    sequence: NDArray[np.int32]
    position: NDArray[np.int32]
    phase: NDArray[np.int8]
    step: NDArray[np.int32]
    n_experts: int
    provenance: Provenance
    gate_weights: NDArray[np.float32] | None = None
    expert_bytes: NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        shape = np.shape(self.experts)
        if len(shape) != 3 or 0 in shape:
            raise InvalidInput(f"experts has shape {shape}: it must be (n_tokens, n_moe_layers, top_k), none 0")
        for name, hint in (("n_experts", int), ("provenance", Provenance)):
            check_value(f"a routing trace: {name}", getattr(self, name), hint)
        for name in ("experts", "sequence", "position", "phase", "step"):
            if isinstance(getattr(self, name), np.ma.MaskedArray):
                raise InvalidInput(f"{name} is a masked array, which hides values: fill it, with -1 where experts pad")
        if not 1 <= self.n_experts <= MAX_EXPERTS:
            raise InvalidInput(f"n_experts = {self.n_experts}: it must be 1 to {MAX_EXPERTS}")
        if shape[2] > self.n_experts:
            raise InvalidInput(f"top_k = {shape[2]} is above n_experts = {self.n_experts}")
        columns = (("sequence", np.int32), ("position", np.int32), ("phase", np.int8), ("step", np.int32))
        _freeze(self, "experts", np.int16, shape)
        for name, dtype in columns:
            _freeze(self, name, dtype, shape[:1])
        if self.expert_bytes is not None:
            _freeze(self, "expert_bytes", np.int64, shape[1:2])
            if self.expert_bytes.min() <= 0:
                layer = int(self.expert_bytes.argmin())
                raise InvalidInput(f"expert_bytes of layer {layer} is {self.expert_bytes[layer]}: above 0 needed")
            if self.expert_bytes.max() > MAX_EXPERT_BYTES:
                layer = int(self.expert_bytes.argmax())
                raise InvalidInput(
                    f"expert_bytes of layer {layer} is {self.expert_bytes[layer]}: at most {MAX_EXPERT_BYTES}"
                )
        if self.gate_weights is not None:
            _freeze(self, "gate_weights", np.float32, shape)
        check_tokens(self.experts, self.sequence, self.position, self.phase, self.step, self.n_experts)
        _refuse_repeated_positions(self.sequence, self.position, self.phase)
        _refuse_holes(self.experts, self.phase)

    @property
    def routing(self) -> str:
        """Says "synthetic" where the routing was made up, by dials or by force, else "recorded"."""
        return "synthetic" if self.provenance.source == "synthetic" else "recorded"

    @property
    def n_tokens(self) -> int:
        """Tokens, of either phase."""
        return int(self.experts.shape[0])

    @property
    def n_moe_layers(self) -> int:
        """MoE layers, encoder and decoder together."""
        return int(self.experts.shape[1])

    @property
    def top_k(self) -> int:
        """Experts a token chooses at a layer."""
        return int(self.experts.shape[2])

    @property
    def n_steps(self) -> int:
        """Forward passes."""
        return int(np.count_nonzero(np.diff(self.step))) + 1

    @property
    def n_sequences(self) -> int:
        """Distinct sequences."""
        return int(np.unique(self.sequence).size)

    @property
    def batch(self) -> int:
        """Most decode tokens in one step; 0 without decode steps."""
        decoded = self.step[self.phase == Phase.DECODE]
        return int(np.unique(decoded, return_counts=True)[1].max()) if decoded.size else 0

    @property
    def digest(self) -> str:
        """16 hex digits of the SHA-256 of all arrays and `n_experts`; provenance does not count."""
        state = hashlib.sha256(repr((self.experts.shape, self.n_experts)).encode())
        for name in ("experts", "sequence", "position", "phase", "step", "gate_weights", "expert_bytes"):
            array = getattr(self, name)
            state.update(f"{name}:{array is not None};".encode())
            if array is not None:
                state.update(np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<"), copy=False).data)
        return state.hexdigest()[:16]

    def steps(self) -> Iterator[Step]:
        """The forward passes in order."""
        edges = np.flatnonzero(np.diff(self.step)) + 1
        bounds = [0, *edges.tolist(), self.n_tokens]
        for start, stop in pairwise(bounds):
            yield Step(
                int(self.step[start]),
                Phase(int(self.phase[start])),
                self.experts[start:stop],
                self.sequence[start:stop],
                self.position[start:stop],
                None if self.gate_weights is None else self.gate_weights[start:stop],
            )

    def select(self, *, phase: Phase) -> RoutingTrace:
        """The tokens of one phase, steps renumbered from 0. Raises `InvalidInput` when there are none."""
        keep = np.flatnonzero(self.phase == phase)
        if not keep.size:
            raise InvalidInput(f"the trace of {self.provenance.model} has no {phase.name.lower()} tokens")
        return _pick(self, keep, _renumbered(self.step[keep]))

    def of_sequences(self, sequences: Collection[int]) -> RoutingTrace:
        """The tokens of some sequences, steps renumbered from 0. Raises `InvalidInput` for one the trace has not."""
        there = set(np.unique(self.sequence).tolist())
        for sequence in sequences:
            if sequence not in there:
                raise InvalidInput(f"sequence {sequence} is not in the trace, whose {len(there)} are {_few(there)}")
        keep = np.flatnonzero(np.isin(self.sequence, list(sequences)))
        if not keep.size:
            raise InvalidInput("no sequences: name at least one")
        return _pick(self, keep, _renumbered(self.step[keep]))

    def decode_only(self) -> RoutingTrace:
        """The decode tokens, steps renumbered from 0. Raises `InvalidInput` when there are none."""
        return self.select(phase=Phase.DECODE)

    def check_model(self, model: ModelArchitecture) -> None:
        """Raise `InvalidInput` naming both sides when the trace is not one of `model`."""
        for what in ("n_moe_layers", "n_experts", "top_k"):
            here, there = getattr(self, what), getattr(model, what)
            if here != there:
                way_out = "choose the model the trace was recorded with"
                if what == "n_experts" and here < there:
                    way_out += ", or import it with --model where the recording did not say"
                if what == "top_k":
                    way_out = f"if the recorder overrode it, take the model with {here} (--top-k {here})"
                raise InvalidInput(
                    f"trace of {self.provenance.model} has {what} = {here}, model {model.name} has {there}: {way_out}"
                )
        n_encoder = model.n_encoder_moe_layers
        for phase, due in ((Phase.PREFILL, slice(0, n_encoder or None)), (Phase.DECODE, slice(n_encoder, None))):
            _refuse_other_layers(self, phase, np.arange(self.n_moe_layers)[due], model.name)


def rebatch(trace: RoutingTrace, batch: int) -> RoutingTrace:
    """Run `batch` sequences of a recorded trace side by side (continuous batching).

    Sequences start in order of first appearance, each as soon as one of the `batch` places is free; the
    prompts of sequences that start together form one prefill step just before their first decode step,
    and every decode step takes the next token of each running sequence. What a token chose is kept.
    Raises `InvalidInput` for a batch below 1, or above the sequences that were recorded.
    """
    if batch < 1:
        raise InvalidInput(f"batch = {batch}: it must be at least 1")
    _, first, member = np.unique(trace.sequence, return_index=True, return_inverse=True)
    if batch > first.size:
        raise InvalidInput(
            f"batch = {batch}: the trace of {trace.provenance.model} has {first.size} "
            f"sequence{'s' if first.size > 1 else ''}, at most {first.size} run side by side: a smaller batch, or a "
            "synthetic trace"
        )
    rank = np.empty(first.size, dtype=np.int64)
    rank[np.argsort(first, kind="stable")] = np.arange(first.size)
    member = rank[member]  # [T] order in which the token's sequence starts
    decoding = trace.phase == Phase.DECODE
    n_decode = np.bincount(member[decoding], minlength=first.size)
    start = np.empty(first.size, dtype=np.int64)
    places = [0] * batch
    for i, length in enumerate(n_decode.tolist()):
        start[i] = heapq.heappop(places)
        heapq.heappush(places, int(start[i]) + max(length, 1))
    age = np.zeros(trace.n_tokens, dtype=np.int64)  # decode tokens of the same sequence before this one
    by_sequence = np.flatnonzero(decoding)[np.argsort(member[decoding], kind="stable")]
    age[by_sequence] = np.arange(by_sequence.size) - np.repeat(np.cumsum(n_decode) - n_decode, n_decode)
    tick = 2 * (start[member] + age) + trace.phase
    order = np.lexsort((np.arange(trace.n_tokens), member, tick))
    return _pick(trace, order, _renumbered(tick[order]))


def check_tokens(
    experts: NDArray[np.int16],
    sequence: NDArray[np.int32],
    position: NDArray[np.int32],
    phase: NDArray[np.int8],
    step: NDArray[np.int32],
    n_experts: int,
    first_token: int = 0,
) -> None:
    """Check the contents of token arrays (a whole trace, or a chunk that starts at `first_token`).

    Raises `InvalidInput` naming the first token, layer and value outside its limits.
    """
    for name, column in (("sequence", sequence), ("position", position), ("step", step)):
        _refuse(column < 0, first_token, f"{name} below 0", column)
    _refuse(position > MAX_POSITION, first_token, f"position above {MAX_POSITION}", position)
    _refuse((phase != Phase.PREFILL) & (phase != Phase.DECODE), first_token, "phase not 0 or 1", phase)
    _refuse(np.diff(step, prepend=step[:1]) < 0, first_token, "step below the one before: sort by step", step)
    mixed = (np.diff(step, prepend=step[:1] - 1) == 0) & (np.diff(phase, prepend=phase[:1]) != 0)
    _refuse(mixed, first_token, "phase unlike the rest of its step", phase)
    rows = max(1, _CHECK_CELLS // max(1, experts[0].size))
    for start in range(0, len(experts), rows):
        part = experts[start : start + rows]
        if part.min() < -1 or part.max() >= n_experts:
            _refuse_expert((part < -1) | (part >= n_experts), part, first_token + start, f"is not in [-1, {n_experts})")
        nowhere = ~(part >= 0).any(axis=(1, 2))
        if nowhere.any():
            raise InvalidInput(f"token {first_token + start + int(nowhere.argmax())}: no expert at any MoE layer")
        ranked = np.sort(part, axis=2)
        twice = (ranked[:, :, 1:] == ranked[:, :, :-1]) & (ranked[:, :, 1:] >= 0)
        if twice.any():
            _refuse_expert(twice, ranked, first_token + start, "is chosen twice by one token")


def _refuse(bad: NDArray[np.bool_], first_token: int, problem: str, column: NDArray[Any]) -> None:
    if bad.any():
        i = int(bad.argmax())
        raise InvalidInput(f"token {first_token + i}: {problem} ({int(column[i])})")


def _refuse_expert(bad: NDArray[np.bool_], part: NDArray[np.int16], first_token: int, problem: str) -> None:
    token, layer, slot = np.unravel_index(int(bad.argmax()), bad.shape)
    value = int(part[token, layer, slot])
    raise InvalidInput(f"token {first_token + int(token)}, MoE layer {int(layer)}: expert {value} {problem}")


def _refuse_repeated_positions(
    sequence: NDArray[np.int32], position: NDArray[np.int32], phase: NDArray[np.int8]
) -> None:
    """An encoder and its decoder both begin at 0; else a place in a sequence holds one token."""
    place = (sequence.astype(np.int64) * 2 + phase) * (MAX_POSITION + 1) + position
    if np.all(np.diff(place) > 0):
        return
    order = np.argsort(place, kind="stable")
    again = np.flatnonzero(np.diff(place[order]) == 0)
    if again.size:
        token = int(order[again[0] + 1])
        raise InvalidInput(
            f"token {token}: position {position[token]} of sequence {sequence[token]} was there before "
            f"(token {int(order[again[0]])})"
        )


def _layers_visited(experts: NDArray[np.int16]) -> NDArray[np.bool_]:
    """(n_tokens, n_layers): whether the token has an expert there."""
    rows = max(1, _CHECK_CELLS // experts[0].size)
    parts = [(experts[start : start + rows] >= 0).any(axis=2) for start in range(0, len(experts), rows)]
    return np.concatenate(parts)


def _refuse_holes(experts: NDArray[np.int16], phase: NDArray[np.int8]) -> None:
    """Tokens of one phase visit the same layers; a prompt's may leave out the last. Those of both are one stack of
    layers, or an encoder's and a decoder's with none in common.
    """
    if experts[:, :, 0].min() >= 0:
        return
    visited = _layers_visited(experts)
    last = experts.shape[1] - 1
    layers_of: dict[Phase, NDArray[np.bool_]] = {}
    for kind in Phase:
        tokens = np.flatnonzero(phase == kind)
        if not tokens.size:
            continue
        visits = visited[tokens]
        n_visits = visits.sum(axis=0)
        uneven = (n_visits > 0) & (n_visits < tokens.size)
        uneven[last] &= kind != Phase.PREFILL
        if uneven.any():
            layer = int(uneven.argmax())
            few = visits[:, layer] == (n_visits[layer] * 2 < tokens.size)
            token, has = int(tokens[few.argmax()]), "an" if visits[few.argmax(), layer] else "no"
            raise InvalidInput(
                f"token {token}, MoE layer {layer}: {has} expert, unlike other {kind.name.lower()} tokens: the trace "
                "has a hole, or mixes two stacks of layers"
            )
        layers_of[kind] = n_visits > 0
    if len(layers_of) == 2:
        prompt, decoded = layers_of[Phase.PREFILL], layers_of[Phase.DECODE]
        differ = prompt ^ decoded
        differ[last] &= prompt[last]
        if differ.any() and (prompt & decoded).any():
            layer = int(differ.argmax())
            here, there = ("prefill", "decode") if prompt[layer] else ("decode", "prefill")
            raise InvalidInput(
                f"MoE layer {layer}: {here} tokens have experts, {there} tokens none, though they share other layers"
            )


def _refuse_other_layers(trace: RoutingTrace, phase: Phase, due: NDArray[np.intp], model: str) -> None:
    """Raise `InvalidInput` when tokens of `phase` visit other layers than those `due` in `model`."""
    tokens = np.flatnonzero(trace.phase == phase)
    if not tokens.size:
        return
    visited = np.flatnonzero(_layers_visited(trace.experts[tokens]).any(axis=0))
    spare = [trace.n_moe_layers - 1] if phase == Phase.PREFILL else []
    for layer in sorted(set(due.tolist()) ^ set(visited.tolist())):
        if layer in visited or layer not in spare:
            has = "experts" if layer in visited else "no experts"
            raise InvalidInput(
                f"the trace of {trace.provenance.model} has {has} of {phase.name.lower()} tokens at MoE layer {layer}, "
                f"where {model} has {'none' if layer in visited else 'some'}: record or import it whole"
            )


def _freeze(trace: RoutingTrace, name: str, dtype: type[np.generic], shape: tuple[int, ...]) -> None:
    """Replace a field by a read-only array of `dtype`; refuse another shape, kind or a lossy conversion."""
    array = np.asarray(getattr(trace, name))
    if array.shape != shape:
        raise InvalidInput(f"{name} has shape {array.shape}, experts calls for {shape}")
    kinds = "f" if np.dtype(dtype).kind == "f" else "iu"
    if array.dtype.kind not in kinds:
        raise InvalidInput(f"{name} is {array.dtype}: it must be {np.dtype(dtype)}")
    if kinds == "f":
        if not np.isfinite(array).all():
            raise InvalidInput(f"{name} holds values that are not finite: 0 pads")
    elif array.dtype != dtype and not (
        np.iinfo(dtype).min <= int(array.min()) and int(array.max()) <= np.iinfo(dtype).max  # type: ignore[type-var]
    ):
        raise InvalidInput(f"{name} holds {array.min()} to {array.max()}: it does not fit {np.dtype(dtype)}")
    frozen = array.astype(dtype, copy=False).view()
    frozen.flags.writeable = False
    object.__setattr__(trace, name, frozen)


def _pick(trace: RoutingTrace, tokens: NDArray[np.intp], step: NDArray[np.int32]) -> RoutingTrace:
    """The given tokens in the given order, under the given step numbers."""
    weights = trace.gate_weights
    return replace(
        trace,
        experts=trace.experts[tokens],
        sequence=trace.sequence[tokens],
        position=trace.position[tokens],
        phase=trace.phase[tokens],
        step=step,
        gate_weights=None if weights is None else weights[tokens],
    )


def _few(numbers: Collection[int]) -> str:
    """Some numbers as text, the first and the last of many."""
    ordered = sorted(numbers)
    if len(ordered) <= 8:
        return ", ".join(map(str, ordered))
    return f"{ordered[0]}, {ordered[1]}, ... {ordered[-1]}"


def _renumbered(step: NDArray[Any]) -> NDArray[np.int32]:
    """Sorted step labels as 0, 1, 2, ..."""
    return np.cumsum(np.diff(step, prepend=step[:1]) != 0, dtype=np.int32)
