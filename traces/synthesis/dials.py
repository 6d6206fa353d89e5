"""Routing made up from three independent dials, for models and loads nobody has recorded.

Each slot of a token's choice at a layer is, in this order of chance: a repeat of the previous token's
expert at this layer; or what a fixed map makes of this token's expert at the layer before; or drawn by
popularity. The dials are independent because repeats and the map keep a layer's popularity: the map sends
the r-th most popular expert to the r-th most popular of the next layer, and which expert has which rank is
random for each layer.

Two more dials are off unless set. Real sequences keep to experts of their own for long (reuse on recorded
gpt-oss-20b hardly falls from 8 tokens back, 34 %, to 64 back, 32 %), which no popularity shared by all
sequences can show: `sequence_affinity` draws from what the sequence itself chose lately instead.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from compiled.machine_code import are_kept, loaded
from traces.errors import InvalidInput
from traces.phase import Phase
from traces.routing import MAX_EXPERTS, Provenance, RoutingTrace
from traces.synthesis.synthesis_kernel import FILL, fill
from traces.synthesis.taken_over import history_of, longest_start
from traces.typed import check_fields

__all__ = ["AFFINITY_TOKENS", "Dials", "TokenLayout", "filler", "synthesize_routing", "token_layout"]

AFFINITY_TOKENS = 64
"""How far back `sequence_affinity` looks: as far as reuse was measured on the recorded traces."""
_MAX_CELLS = 1 << 31
"""Most (token, layer, slot) cells of one trace (4 GiB)."""
_CHUNK_DRAWS = 1 << 16
"""Random numbers held at a time (half a MiB), so that they stay in the caches of the processor."""


@dataclass(frozen=True, slots=True)
class Dials:
    """What the synthetic gate does.

    zipf_exponent       popularity of the r-th expert is proportional to r**-exponent: 0 is uniform; one
                        number, or one for each MoE layer
    repeat_probability  chance that a slot repeats an expert of the previous token of its sequence
    layer_correlation   chance that a slot that does not repeat follows the map of the layer before
    active_fraction     share of each layer's experts that routing ever uses, at random
    sequence_affinity   chance that a slot that is drawn is drawn from what its own sequence chose at the
                        layer in the last `AFFINITY_TOKENS` tokens, and not by popularity

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

    def routed(self, experts: NDArray[np.int16], n_experts: int, model: str, recorder: str, note: str) -> RoutingTrace:
        """The synthetic trace of these tokens and their `experts` (n_tokens, n_moe_layers, top_k)."""
        origin = Provenance(model=model, source="synthetic", licence="none needed", recorder=recorder, note=note)
        return RoutingTrace(
            experts=experts,
            sequence=self.sequence,
            position=self.position,
            phase=self.phase,
            step=self.step,
            n_experts=n_experts,
            provenance=origin,
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
    from the same state: what this one has in common with one of them is taken over, of a generator that can skip.
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
    experts = np.empty((layout.step.size, n_moe_layers, top_k), dtype=np.int16)
    n_prefill = batch * input_tokens
    if n_encoder_moe_layers:  # two stacks of layers, each with a past of its own
        spans = [(0, n_prefill, 0, n_encoder_moe_layers)]
        spans.append((n_prefill, layout.step.size, n_encoder_moe_layers, n_moe_layers))
        experts[:] = -1
    else:
        spans = [(0, layout.step.size, 0, n_moe_layers)]
    may_skip = not n_encoder_moe_layers and isinstance(rng.bit_generator, np.random.PCG64)
    taken = longest_start(begun if may_skip else (), layout.sequence, experts[:0])
    for start, stop, first, last in spans:
        part, layers = slice(start, stop), slice(first, last)
        _route(
            experts[part, layers], layout.sequence[part], popularity[layers], by_rank[layers], dials, batch, rng,
            taken[:, layers],
        )  # fmt: skip
    note = f"{origin}: {dials}" if origin else str(dials)
    return layout.routed(experts, n_experts, model_name, "traces.synthesis", note)


_SMALL_CELLS = 100_000
"""Routing cells that are filled in plain Python where nothing is compiled: within the second that compiling takes."""
_MANY_CELLS = 1 << 25
"""Routing cells from which a quicker loop is worth compiling."""


def _route(
    experts: NDArray[np.int16],
    sequence: NDArray[np.int32],
    popularity: NDArray[np.float64],
    by_rank: NDArray[np.int16],
    dials: Dials,
    n_sequences: int,
    rng: np.random.Generator,
    taken: NDArray[np.int16],
) -> None:
    """Fill `experts` (n_tokens, n_layers, top_k) in chunks, so that random numbers take bounded memory. Those of the
    first tokens are `taken`, and their random numbers skipped.
    """
    n_tokens, n_layers, top_k = experts.shape
    rows = max(1, _CHUNK_DRAWS // (2 * top_k * n_layers))
    if top_k == 1 and not dials.layer_correlation and not dials.sequence_affinity and n_tokens <= rows:
        draws = rng.random((*experts.shape, 2))[:, :, 0]
        _fill_alone(experts[:, :, 0], sequence, draws, popularity, dials)
        experts[:, :, 0] = by_rank[np.arange(n_layers), experts[:, :, 0]]
        return
    popularity, by_rank = np.ascontiguousarray(popularity), np.ascontiguousarray(by_rank)
    loop = _all_layers if _may_take_all_layers(experts, popularity, dials) else _token_by_token
    n_taken = len(taken)
    make = loop(experts, popularity, by_rank, dials, n_sequences, taken, sequence[:n_taken])
    if n_taken:
        assert isinstance(rng.bit_generator, np.random.PCG64)
        experts[:n_taken] = taken
        rng.bit_generator.advance(2 * taken.size)
    draws = np.empty((min(rows, n_tokens - n_taken), n_layers, top_k, 2))
    for start in range(n_taken, n_tokens, rows):
        part = np.ascontiguousarray(experts[start : start + rows])
        make(part, sequence[start : start + rows], rng.random(out=draws[: len(part)]))
        if not np.shares_memory(part, experts):
            experts[start : start + rows] = part


_Filling = Callable[[NDArray[np.int16], NDArray[np.int32], NDArray[np.float64]], object]
"""Fills the next tokens of a trace: experts (n_tokens, n_layers, top_k), sequences, draws."""


def _token_by_token(
    experts: NDArray[np.int16],
    popularity: NDArray[np.float64],
    by_rank: NDArray[np.int16],
    dials: Dials,
    n_sequences: int,
    taken: NDArray[np.int16],
    taken_sequence: NDArray[np.int32],
) -> _Filling:
    """`fill`, layer after layer."""
    make, (_, n_layers, top_k) = filler(experts.size), experts.shape
    n_kept = AFFINITY_TOKENS if dials.sequence_affinity else 1
    history, seen = history_of(taken, taken_sequence, by_rank, n_sequences, n_kept)
    guides = _guides(popularity)
    scratch = np.zeros((n_layers, popularity.shape[1] - 1), np.int8), np.zeros((n_layers, top_k), np.int64)
    chances = (dials.repeat_probability, dials.layer_correlation, dials.sequence_affinity)
    return lambda part, sequence, drawn: make(
        part, sequence, drawn, popularity, guides, by_rank, history, seen, *scratch, *chances
    )


def _guides(popularity: NDArray[np.float64]) -> NDArray[np.int16]:
    """Where a search for a draw begins: of each layer the ranks at `n_cells` + 1 numbers from 0 to 1, evenly spaced."""
    n_active = popularity.shape[1] - 1
    cells = np.linspace(0.0, 1.0, (1 << (2 * n_active).bit_length()) + 1)
    found = [np.searchsorted(edges[1:], cells, side="right") for edges in popularity]
    guides: NDArray[np.int16] = np.minimum(found, n_active - 1).astype(np.int16)
    return guides


def _may_take_all_layers(experts: NDArray[np.int16], popularity: NDArray[np.float64], dials: Dials) -> bool:
    """Whether layers know nothing of one another, and a loop over all of them is there and quicker."""
    if dials.layer_correlation or dials.sequence_affinity or experts.size <= _SMALL_CELLS:
        return False
    from traces.synthesis.layers_kernel import FILL_LAYERS, pays

    (_, n_layers, top_k), n_active = experts.shape, popularity.shape[1] - 1
    return pays(n_layers, top_k, n_active) and (experts.size > _MANY_CELLS or are_kept(FILL_LAYERS))


def _all_layers(
    experts: NDArray[np.int16],
    popularity: NDArray[np.float64],
    by_rank: NDArray[np.int16],
    dials: Dials,
    n_sequences: int,
    taken: NDArray[np.int16],
    taken_sequence: NDArray[np.int32],
) -> _Filling:
    """`fill_layers`: the same experts."""
    from compiled.vector import WIDTH
    from traces.synthesis.layers_kernel import FILL_LAYERS

    make, (_, n_layers, top_k), n_edges = loaded(FILL_LAYERS), experts.shape, popularity.shape[1]
    history, seen = history_of(taken, taken_sequence, by_rank, n_sequences, 1)
    n_groups = -(-n_layers // WIDTH)
    filled = np.minimum(np.arange(n_groups * WIDTH), n_layers - 1).reshape(n_groups, 1, WIDTH)
    edges = popularity[filled, np.arange(n_edges)[:, None]].reshape(-1, WIDTH)
    last = history[:, 0, filled, np.arange(top_k)[:, None]].swapaxes(1, 2).astype(np.float64, "C").reshape(-1, WIDTH)
    rooms = (np.zeros((n_rows, WIDTH)) for n_rows in (2 * top_k * n_groups, top_k, top_k, top_k))
    drawn, chosen, lows, highs = rooms
    return lambda part, sequence, draws: make(
        part, sequence, draws, edges, by_rank, last, seen, drawn, chosen, lows, highs, dials.repeat_probability
    )


def filler(n_cells: int) -> Callable[..., object]:
    """What fills `n_cells` routing cells: machine code where it is kept, or worth compiling."""
    return loaded(FILL) if n_cells > _SMALL_CELLS or are_kept(FILL) else fill


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
            f"active_fraction = {dials.active_fraction:g} leaves {n_active} of {n_experts} experts, top_k is {top_k}"
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


def _fill_alone(
    ranks: NDArray[np.int16],  # [T, L], written
    sequence: NDArray[np.int32],  # [T]
    draws: NDArray[np.float64],  # [T, L, 2] in [0, 1)
    popularity: NDArray[np.float64],  # [L, n_active + 1], cumulative
    dials: Dials,
) -> None:
    """`fill` of one expert a token that repeats the token before or is drawn by popularity: no loop over tokens."""
    for layer, edges in enumerate(popularity):
        ranks[:, layer] = np.searchsorted(edges[1:], draws[:, layer, 1], side="right")
    if dials.repeat_probability:
        order = np.argsort(sequence, kind="stable")
        repeats = draws[order, :, 0] < dials.repeat_probability
        repeats[np.flatnonzero(np.diff(sequence[order], prepend=-1))] = False  # nothing to repeat
        source = np.where(repeats, 0, np.arange(len(order))[:, None])
        np.maximum.accumulate(source, axis=0, out=source)
        ranks[order] = np.take_along_axis(ranks[order], source, axis=0)
