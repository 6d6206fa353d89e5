"""Routing made up from three independent dials, for models and loads nobody has recorded.

Each slot of a token's choice at a layer is, in this order of chance: a repeat of the previous token's
expert at this layer; or what a fixed map makes of this token's expert at the layer before; or drawn by
popularity. The dials are independent because repeats and the map keep a layer's popularity: the map sends
the r-th most popular expert to the r-th most popular of the next layer, and which expert has which rank is
random for each layer.

Two more dials are off unless set. Real sequences keep to experts of their own for as long as they last (reuse on
recorded gpt-oss-20b hardly falls from 8 tokens back, 34 %, to 200 back, 31 %), which no popularity shared by all
sequences can show: with `sequence_affinity` each has a popularity of its own at every layer, drawn around the shared
one (`traces.synthesis.sequence_popularity`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from operator import add

import numpy as np
from numpy.typing import NDArray

from traces.errors import InvalidInput
from traces.foundation.type_checks import check_fields
from traces.phase import Phase
from traces.routing import MAX_EXPERTS, Provenance, RoutingTrace, trace_as_made
from traces.synthesis.filling import fill_sequences
from traces.synthesis.sequence_starts import starts_of

_MAX_CELLS = 1 << 31
"""Most (token, layer, slot) cells of one trace (4 GiB)."""


@dataclass(frozen=True, slots=True)
class Dials:
    """What the synthetic gate does.

    zipf_exponent       popularity of the r-th expert is proportional to r**-exponent: 0 is uniform; one
                        number, or one for each MoE layer
    repeat_probability  chance that a slot repeats an expert of the previous token of its sequence
    layer_correlation   chance that a slot that does not repeat follows the map of the layer before
    active_fraction     share of each layer's experts that routing ever uses, at random
    sequence_affinity   how far sequences differ in the experts they keep to: the popularity of an expert with a
                        sequence has the relative variance affinity / (1 - affinity), that of others apart; 0: none

    Raises `InvalidInput` for a value outside its range.
    """

    zipf_exponent: float | tuple[float, ...]
    repeat_probability: float
    layer_correlation: float
    active_fraction: float = 1.0
    sequence_affinity: float = 0.0

    def __post_init__(self) -> None:
        check_fields(self)
        for value in np.atleast_1d(self.zipf_exponent).tolist():
            if not 0 <= value <= 20:
                raise InvalidInput(f"zipf_exponent = {value:g}: it must be 0 (uniform) to 20")
        for name in ("repeat_probability", "layer_correlation", "active_fraction", "sequence_affinity"):
            value = getattr(self, name)
            if not 0 <= value <= 1 or (name == "active_fraction" and value == 0):
                raise InvalidInput(f"{name} = {value:g}: it must be within 0 and 1")


@dataclass(frozen=True, slots=True, eq=False)
class TokenLayout:
    """Sequence, position, phase and step of every token of an evenly batched run: arrays (n_tokens,)."""

    sequence: NDArray[np.int32]
    position: NDArray[np.int32]
    phase: NDArray[np.int8]
    step: NDArray[np.int32]

    @property
    def runs(self) -> tuple[list[tuple[slice, ...]], list[tuple[slice, ...]]]:
        """Of each sequence its tokens of the prompt, and those of decode."""
        n_prefill = int(np.count_nonzero(self.step == 0))
        batch = int(self.sequence[n_prefill - 1]) + 1
        n_each = n_prefill // batch
        prompts: list[tuple[slice, ...]] = [(slice(i * n_each, (i + 1) * n_each),) for i in range(batch)]
        return prompts, [(slice(n_prefill + i, None, batch),) for i in range(batch)]

    def routed(
        self,
        experts: NDArray[np.int16],
        n_experts: int,
        model: str,
        recorder: str,
        note: str,
        popularity: NDArray[np.float64] | None = None,
    ) -> RoutingTrace:
        """The synthetic trace of these tokens and their `experts` (n_tokens, n_moe_layers, top_k), which are as a trace
        must have them, of sequences drawn around a `popularity`.
        """
        origin = Provenance(model=model, source="synthetic", licence="none needed", recorder=recorder, note=note)
        return trace_as_made(
            experts=experts,
            sequence=self.sequence,
            position=self.position,
            phase=self.phase,
            step=self.step,
            n_experts=n_experts,
            provenance=origin,
            popularity=popularity,
        )


def token_layout(*, input_tokens: int, output_tokens: int, batch: int, has_encoder: bool) -> TokenLayout:
    """The tokens of `batch` sequences of equal length, run side by side.

    Step 0 is prefill: batch * input_tokens tokens, sequence after sequence. It yields the first output
    token of a decoder-only model, so output_tokens - 1 decode steps of `batch` tokens follow, at positions
    input_tokens, input_tokens + 1, ... With an encoder the decoder starts from nothing: output_tokens
    decode steps, positions 0, 1, ... of the output. Raises `InvalidInput` for a count below 1.
    """
    for name, value in (("input_tokens", input_tokens), ("output_tokens", output_tokens), ("batch", batch)):
        if value < 1:
            raise InvalidInput(f"{name} = {value}: it must be at least 1")
    n_decode = output_tokens if has_encoder else output_tokens - 1
    if batch * (input_tokens + n_decode) >= 1 << 31:
        raise InvalidInput(f"{batch} x ({input_tokens} + {n_decode}) tokens are more than a trace can hold")
    sequences = np.arange(batch, dtype=np.int32)
    prompt = np.arange(input_tokens, dtype=np.int32)
    decode = np.arange(n_decode, dtype=np.int32)
    first = 0 if has_encoder else input_tokens
    n_prefill = batch * input_tokens
    return TokenLayout(
        sequence=np.concatenate((np.repeat(sequences, input_tokens), np.tile(sequences, n_decode))),
        position=np.concatenate((np.tile(prompt, batch), np.repeat(decode + np.int32(first), batch))),
        phase=np.repeat(np.array([Phase.PREFILL, Phase.DECODE], np.int8), [n_prefill, batch * n_decode]),
        step=np.concatenate((np.zeros(n_prefill, np.int32), np.repeat(decode + np.int32(1), batch))),
    )


def synthesize_routing(
    *,
    n_moe_layers: int,
    n_encoder_moe_layers: int,
    n_experts: int,
    top_k: int,
    input_tokens: int,
    output_tokens: int,
    batch: int,
    dials: Dials,
    rng: np.random.Generator,
    model_name: str,
    shares: NDArray[np.float64] | None = None,
    origin: str = "",
    begun: Sequence[RoutingTrace] = (),
) -> RoutingTrace:
    """A trace of `batch` equal sequences (see `token_layout`) routed by `dials`.

    With `n_encoder_moe_layers` above 0, prefill tokens visit only these first layers and decode tokens only
    the others. Popularity, maps and active experts are drawn from `rng` once and shared by all sequences.
    `shares` (n_moe_layers, n_experts): how popular each expert is, in place of the Zipf exponents and the random
    names of ranks (`PopularityProfile.shares`); `origin`: whose dials they are, for the provenance. The same `rng`
    state gives the same trace. `begun`: traces that the same call made of other tokens, sequences and nothing else,
    from the same state: what this one has in common with them is taken over where there is no encoder.
    Raises `InvalidInput` for impossible numbers.
    """
    _check_shape(n_moe_layers, n_encoder_moe_layers, n_experts, top_k)
    layout = token_layout(
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        batch=batch,
        has_encoder=n_encoder_moe_layers > 0,
    )
    n_cells = layout.step.size * n_moe_layers * top_k
    if n_cells > _MAX_CELLS:
        raise InvalidInput(f"{n_cells} routing cells, at most {_MAX_CELLS}: fewer tokens, or a smaller batch")
    popularity = _popularity(dials, n_moe_layers, n_experts, top_k)
    by_rank = rng.permuted(np.tile(np.arange(n_experts, dtype=np.int16), (n_moe_layers, 1)), axis=1)
    if shares is not None:
        popularity, by_rank = _ranked(shares, (n_moe_layers, n_experts), dials)
    experts = np.empty((layout.step.size, n_moe_layers, top_k), np.int16)
    prompts, decoded = layout.runs
    if n_encoder_moe_layers:  # two stacks of layers, each with a past of its own
        experts.fill(-1)
        spans = [(prompts, 0, n_encoder_moe_layers), (decoded, n_encoder_moe_layers, n_moe_layers)]
    else:
        spans = [(list(map(add, prompts, decoded)), 0, n_moe_layers)]
    taken = starts_of(() if n_encoder_moe_layers else begun, batch)
    key, chances = int(rng.integers(1 << 63)), (dials.repeat_probability, dials.layer_correlation)
    for runs, first, last in spans:
        layers = slice(first, last)
        fill_sequences(
            experts[:, layers], runs, popularity[layers], by_rank[layers], chances, dials.sequence_affinity,
            (key, first), taken,
        )  # fmt: skip
    note = f"{origin}: {dials}" if origin else str(dials)
    return layout.routed(experts, n_experts, model_name, "traces.synthesis", note, _by_expert(popularity, by_rank))


def _by_expert(popularity: NDArray[np.float64], by_rank: NDArray[np.int16]) -> NDArray[np.float64]:
    """Shares (n_moe_layers, n_experts) of popularity that is cumulative by rank."""
    shares, n_active = np.zeros(by_rank.shape), popularity.shape[1] - 1
    np.put_along_axis(shares, by_rank[:, :n_active].astype(np.intp), np.diff(popularity, axis=1), axis=1)
    return shares


def _check_shape(n_moe_layers: int, n_encoder_moe_layers: int, n_experts: int, top_k: int) -> None:
    if n_moe_layers < 1 or not 0 <= n_encoder_moe_layers < n_moe_layers:
        raise InvalidInput(f"{n_encoder_moe_layers} encoder MoE layers of {n_moe_layers}: the decoder needs one")
    if not 1 <= top_k <= n_experts <= MAX_EXPERTS:
        raise InvalidInput(f"top_k = {top_k} of n_experts = {n_experts}: 1 <= top_k <= n_experts <= {MAX_EXPERTS}")


def _popularity(dials: Dials, n_moe_layers: int, n_experts: int, top_k: int) -> NDArray[np.float64]:
    """Cumulative popularity by rank: (n_moe_layers, n_active + 1), from 0 to 1."""
    exponents = np.atleast_1d(np.asarray(dials.zipf_exponent, dtype=np.float64))
    if exponents.size not in (1, n_moe_layers):
        raise InvalidInput(f"{exponents.size} zipf exponents for {n_moe_layers} MoE layers: give one, or one each")
    n_active = math.ceil(dials.active_fraction * n_experts)
    if n_active < top_k:
        raise InvalidInput(
            f"active_fraction = {dials.active_fraction:g} leaves {n_active} of {n_experts} experts, top_k is {top_k}: "
            f"give {top_k / n_experts:.3g} or more"
        )
    ranks = np.arange(1, n_active + 1, dtype=np.float64)
    weight = np.broadcast_to(ranks ** -exponents[:, None], (n_moe_layers, n_active))
    total = np.concatenate((np.zeros((n_moe_layers, 1)), np.cumsum(weight, axis=1)), axis=1)
    return total / total[:, -1:]


def _ranked(
    shares: NDArray[np.float64], shape: tuple[int, int], dials: Dials
) -> tuple[NDArray[np.float64], NDArray[np.int16]]:
    """Cumulative popularity by rank, and the experts by rank, of a profile. No expert is quite impossible."""
    if shares.shape != shape:
        raise InvalidInput(f"popularity of {shares.shape} MoE layers and experts, the model has {shape}")
    if dials.active_fraction < 1:
        raise InvalidInput("active_fraction and a popularity profile both say which experts are used: leave out one")
    by_rank = np.argsort(-shares, axis=1, kind="stable")
    weight = np.take_along_axis(shares, by_rank, axis=1) + 1e-9 / shape[1]
    total = np.concatenate((np.zeros((shape[0], 1)), np.cumsum(weight, axis=1)), axis=1)
    return total / total[:, -1:], by_rank.astype(np.int16)
