"""The workload: which experts every token chose at every MoE layer, and in which forward pass.

Nothing here knows bytes moved or time; a trace says what the gates said.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from traces.errors import InvalidInput
from traces.foundation.read_only import ReadOnly
from traces.foundation.type_checks import check_value
from traces.phase import Phase
from traces.prompt_parts import going_on, is_of, prompt_parts, refuse_disorder
from traces.token_checks import (
    check_tokens,
    frozen_column,
    layers_visited,
    refuse_holes,
    refuse_jumps,
    refuse_masked,
    refuse_rejected_prompts,
    refuse_repeated_positions,
    refuse_several_turns,
)

if TYPE_CHECKING:
    from traces.model.architecture import ModelArchitecture


MAX_EXPERTS = 32767
"""Expert ids are int16."""

MAX_EXPERT_BYTES = 1 << 40
"""Largest expert of a trace: 1 TiB."""

_PHASES = tuple(Phase)


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
        for name in ("model", "source", "licence", "recorder", "note"):
            check_value(f"Provenance: {name}", getattr(self, name), str)
        object.__setattr__(self, "versions", ReadOnly(self.versions))


@dataclass(slots=True, eq=False)  # a long trace has a hundred thousand, and a frozen one takes three times as long
class Step:
    """One forward pass: `experts` (n_tokens_of_step, n_moe_layers, top_k) int16 is a read-only view.

    It is made anew for each who asks, so that a change of it is a change of nobody else's; here nothing changes one.

    `gate_weights`: of the same shape, float32, where the trace has them; `rejected` and `unfinished` as of the trace.
    """

    i_step: Final[int]
    phase: Final[Phase]
    experts: Final[NDArray[np.int16]]
    sequence: Final[NDArray[np.int32]]
    position: Final[NDArray[np.int32]]
    gate_weights: Final[NDArray[np.float32] | None] = None
    rejected: Final[NDArray[np.bool_] | None] = None
    unfinished: Final[NDArray[np.bool_] | None] = None

    @property
    def n_kept(self) -> int:
        """Its tokens but those rejected."""
        return len(self.experts) - (0 if self.rejected is None else int(self.rejected.sum()))


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
    popularity    (n_moe_layers, n_experts) float64 share of choices in the traffic that the sequences are of, where
                  that is known apart from what they chose themselves: routing that was made up; or None
    rejected      (n_tokens,) bool a draft proposed the token and the model did not take it: it ran, and its place in
                  the sequence comes again; None: no draft proposed any (`traces.transforms.speculation`)

    A prompt may be read in several steps, in order: those but its last make no token (`unfinished`).

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
    rejected: NDArray[np.bool_] | None = None
    popularity: NDArray[np.float64] | None = None
    _digest: str = field(init=False, repr=False, default="")

    def __repr__(self) -> str:
        return (
            f"RoutingTrace({self.provenance.model}, {self.routing}: {self.n_sequences} sequences, {self.n_tokens} "
            f"tokens in {self.n_steps} steps, {self.n_moe_layers} MoE layers, {self.n_experts} experts, "
            f"top-{self.top_k}; {self.provenance.source})"
        )

    def __post_init__(self) -> None:
        self._freeze_all()
        self._check_contents()

    def _freeze_all(self) -> None:
        """Numbers, shapes and kinds as they must be, arrays read-only."""
        shape = np.shape(self.experts)
        if len(shape) != 3 or 0 in shape:
            raise InvalidInput(f"experts has shape {shape}: it must be (n_tokens, n_moe_layers, top_k), none 0")
        for name, hint in (("n_experts", int), ("provenance", Provenance)):
            check_value(f"a routing trace: {name}", getattr(self, name), hint)
        for name in ("experts", "sequence", "position", "phase", "step"):
            refuse_masked(name, getattr(self, name))
        if not 1 <= self.n_experts <= MAX_EXPERTS:
            raise InvalidInput(f"n_experts = {self.n_experts}: it must be 1 to {MAX_EXPERTS}")
        if shape[2] > self.n_experts:
            raise InvalidInput(
                f"top_k = {shape[2]} is above n_experts = {self.n_experts}: give as many experts at least"
            )
        columns = (("sequence", np.int32), ("position", np.int32), ("phase", np.int8), ("step", np.int32))
        self._freeze("experts", np.int16, shape)
        for name, dtype in columns:
            self._freeze(name, dtype, shape[:1])
        if self.expert_bytes is not None:
            self._freeze("expert_bytes", np.int64, shape[1:2])
            if self.expert_bytes.min() <= 0:
                layer = int(self.expert_bytes.argmin())
                raise InvalidInput(f"expert_bytes of layer {layer} is {self.expert_bytes[layer]}: above 0 needed")
            if self.expert_bytes.max() > MAX_EXPERT_BYTES:
                layer = int(self.expert_bytes.argmax())
                raise InvalidInput(
                    f"expert_bytes of layer {layer} is {self.expert_bytes[layer]}: at most {MAX_EXPERT_BYTES}"
                )
        if self.gate_weights is not None:
            self._freeze("gate_weights", np.float32, shape)
        if self.popularity is not None:
            self._freeze("popularity", np.float64, (shape[1], self.n_experts))
            if self.popularity.min() < 0:
                raise InvalidInput(f"popularity holds {self.popularity.min():g}: a share is 0 at least")
        if self.rejected is not None:
            self._freeze("rejected", np.bool_, shape[:1])

    def _freeze(self, name: str, dtype: type[np.generic], shape: tuple[int, ...]) -> None:
        object.__setattr__(self, name, frozen_column(name, getattr(self, name), dtype, shape))

    def _check_contents(self) -> None:
        """What every token has, looked through."""
        check_tokens(self.experts, self.sequence, self.position, self.phase, self.step, self.n_experts)
        if self.rejected is None:
            refuse_repeated_positions(self.sequence, self.position, self.phase)
        else:
            refuse_rejected_prompts(self.rejected, self.phase)
            kept = ~self.rejected
            refuse_repeated_positions(self.sequence[kept], self.position[kept], self.phase[kept])
        refuse_jumps(self.sequence, self.position)
        refuse_holes(self.experts, self.phase)
        behind_encoder = (self.phase == Phase.DECODE) & (self.experts[:, 0, 0] < 0)  # whose positions begin at 0 again
        apart = behind_encoder if self.rejected is None else behind_encoder | self.rejected
        refuse_disorder(self.sequence, self.position, self.phase, self.step, apart)

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
        last = int(self.sequence.max())
        if last > 2 * self.n_tokens:  # numbers far apart
            return int(np.unique(self.sequence).size)
        there = np.zeros(last + 1, np.bool_)
        there[self.sequence] = True
        return int(np.count_nonzero(there))

    @property
    def batch(self) -> int:
        """Most decode tokens in one step, of drafts most sequences; 0 without decode steps."""
        decoded = self.step[self.phase == Phase.DECODE]
        if self.rejected is not None and decoded.size:
            pairs = np.stack([decoded, self.sequence[self.phase == Phase.DECODE]], axis=1)
            decoded = np.unique(pairs, axis=0)[:, 0]
        return int(np.unique(decoded, return_counts=True)[1].max()) if decoded.size else 0

    @property
    def digest(self) -> str:
        """16 hex digits of the SHA-256 of all arrays and `n_experts`; provenance does not count. Taken when first asked
        for.
        """
        if not self._digest:
            object.__setattr__(self, "_digest", self._taken())
        return self._digest

    def _taken(self) -> str:
        state = hashlib.sha256(repr((self.experts.shape, self.n_experts)).encode())
        newer = [name for name in ("rejected", "popularity") if getattr(self, name) is not None]
        for name in ("experts", "sequence", "position", "phase", "step", "gate_weights", "expert_bytes", *newer):
            array = getattr(self, name)
            state.update(f"{name}:{array is not None};".encode())
            if array is not None:
                state.update(np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<"), copy=False).data)
        return state.hexdigest()[:16]

    @property
    def unfinished(self) -> NDArray[np.bool_] | None:
        """(n_tokens,): whether a token is of a part of a prompt that a later step goes on with, so that no token is
        made behind it; None where every step reads prompts to their end.
        """
        read = np.flatnonzero(self.phase == Phase.PREFILL)
        if not read.size or self.step[read[0]] == self.step[read[-1]]:  # all in one step
            return None
        keys = going_on(prompt_parts(self.sequence, self.position, self.phase, self.step))
        return is_of(keys, self.sequence, self.phase, self.step) if keys.size else None

    def steps(self) -> Iterator[Step]:
        """The forward passes in order."""
        edges = np.flatnonzero(np.diff(self.step)) + 1
        bounds = [0, *edges.tolist(), self.n_tokens]
        experts, sequence, position = self.experts, self.sequence, self.position
        weights, rejected, unfinished = self.gate_weights, self.rejected, self.unfinished
        numbers, phases = self.step[bounds[:-1]].tolist(), self.phase[bounds[:-1]].tolist()
        for number, phase, (start, stop) in zip(numbers, phases, pairwise(bounds), strict=True):
            yield Step(
                number,
                _PHASES[phase],
                experts[start:stop],
                sequence[start:stop],
                position[start:stop],
                None if weights is None else weights[start:stop],
                None if rejected is None else rejected[start:stop],
                None if unfinished is None else unfinished[start:stop],
            )

    def select(self, *, phase: Phase) -> RoutingTrace:
        """The tokens of one phase, steps renumbered from 0. Raises `InvalidInput` when there are none, and where a
        sequence has several turns.
        """
        check_value("phase", phase, Phase)
        keep = np.flatnonzero(self.phase == phase)
        if not keep.size:
            told = f"the trace of {self.provenance.model} has no {phase.name.lower()} tokens"
            raise InvalidInput(f"{told} (of phase {phase:d}): record some")
        refuse_several_turns(self.sequence[keep], self.position[keep], phase)
        return self.reordered(keep, self.step[keep])

    def of_sequences(self, sequences: Collection[int]) -> RoutingTrace:
        """The tokens of some sequences, steps renumbered from 0. Raises `InvalidInput` for one the trace has not."""
        check_value("sequences", sequences, Collection[int])
        there = set(np.unique(self.sequence).tolist())
        for sequence in sequences:
            if sequence not in there:
                raise InvalidInput(f"sequence {sequence} is not in the trace, whose {len(there)} are {_few(there)}")
        keep = np.flatnonzero(np.isin(self.sequence, list(sequences)))
        if not keep.size:
            raise InvalidInput("no sequences: name at least one")
        return self.reordered(keep, self.step[keep])

    def first_steps(self, n_steps: int) -> RoutingTrace:
        """Its first forward passes. Raises `InvalidInput` for fewer than one or more than it has."""
        check_value("n_steps", n_steps, int)
        if not 1 <= n_steps <= self.n_steps:
            raise InvalidInput(f"n_steps = {n_steps}: the trace has {self.n_steps}, take 1 or more of them")
        edges = np.flatnonzero(np.diff(self.step)) + 1
        keep = np.arange(self.n_tokens if n_steps > edges.size else int(edges[n_steps - 1]))
        return self.reordered(keep, self.step[keep])

    def decode_only(self) -> RoutingTrace:
        """The decode tokens, steps renumbered from 0. Raises `InvalidInput` when there are none."""
        return self.select(phase=Phase.DECODE)

    def reordered(self, tokens: NDArray[np.intp], label: NDArray[Any]) -> RoutingTrace:
        """The tokens at the given places, in that order; those of one sorted `label` are a step, numbered from 0."""
        step = np.cumsum(np.diff(label, prepend=label[:1]) != 0, dtype=np.int32)
        weights = None if self.gate_weights is None else self.gate_weights[tokens]
        rejected = None if self.rejected is None else self.rejected[tokens]
        columns = {name: getattr(self, name)[tokens] for name in ("experts", "sequence", "position", "phase")}
        return replace(self, **columns, step=step, gate_weights=weights, rejected=rejected)

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
                told = self.provenance.model
                trace = "the trace" if told.startswith("not stated") else f"trace of {told}"
                raise InvalidInput(f"{trace} has {what} = {here}, model {model.name} has {there}: {way_out}")
        n_encoder = model.n_encoder_moe_layers
        if not n_encoder and self.experts.min() >= 0:
            return  # every token visits every layer
        for phase, due in ((Phase.PREFILL, slice(0, n_encoder or None)), (Phase.DECODE, slice(n_encoder, None))):
            _refuse_other_layers(self, phase, np.arange(self.n_moe_layers)[due], model.name)


def trace_as_made(
    *,
    experts: NDArray[np.int16],
    sequence: NDArray[np.int32],
    position: NDArray[np.int32],
    phase: NDArray[np.int8],
    step: NDArray[np.int32],
    n_experts: int,
    provenance: Provenance,
    popularity: NDArray[np.float64] | None = None,
) -> RoutingTrace:
    """The trace of fields, shaped as there, that hold what a trace must by the way they were made: they are not looked
    through, which takes a fifth of the time of making them up. Raises as `RoutingTrace` for shapes and kinds.
    """
    made = {
        "experts": experts, "sequence": sequence, "position": position, "phase": phase, "step": step,
        "n_experts": n_experts, "provenance": provenance, "popularity": popularity,
    }  # fmt: skip
    trace = object.__new__(RoutingTrace)
    for one in fields(RoutingTrace):
        object.__setattr__(trace, one.name, made.get(one.name, one.default))
    trace._freeze_all()
    return trace


def _refuse_other_layers(trace: RoutingTrace, phase: Phase, due: NDArray[np.intp], model: str) -> None:
    """Raise `InvalidInput` when tokens of `phase` visit other layers than those `due` in `model`."""
    tokens = trace.phase == phase
    if not tokens.any():
        return
    visited = np.flatnonzero(layers_visited(trace.experts)[tokens].any(axis=0))
    spare = [trace.n_moe_layers - 1] if phase == Phase.PREFILL else []
    for layer in sorted(set(due.tolist()) ^ set(visited.tolist())):
        if layer in visited or layer not in spare:
            has = "experts" if layer in visited else "no experts"
            raise InvalidInput(
                f"the trace of {trace.provenance.model} has {has} of {phase.name.lower()} tokens at MoE layer {layer}, "
                f"where {model} has {'none' if layer in visited else 'some'}: record or import it whole"
            )


def _few(numbers: Collection[int]) -> str:
    """Some numbers as text, the first and the last of many."""
    ordered = sorted(numbers)
    if len(ordered) <= 8:
        return ", ".join(map(str, ordered))
    return f"{ordered[0]}, {ordered[1]}, ... {ordered[-1]}"
