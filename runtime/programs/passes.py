"""What each forward pass runs on: its tokens in an order of their own, where their keys and values lie, what they see.

Derived from the trace before any clock starts, the same for every policy. Nothing here knows a device.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from traces.errors import InvalidInput
from traces.model.architecture import LayerStack, ModelArchitecture
from traces.phase import Phase
from traces.routing import Step


class Segment(NamedTuple):
    """Tokens of one sequence in a pass: rows `start` to `start + n_tokens`, at positions `position` onwards.

    `row`: of the KV cache, -1 in an encoder. `n_memory`: encoder outputs that its cross-attention sees. `unfinished`:
    they are a part of a prompt that a later pass goes on with.
    """

    sequence: int
    start: int
    n_tokens: int
    position: int
    row: int
    n_memory: int
    unfinished: bool = False

    @property
    def n_context(self) -> int:
        """Positions that the last token sees, itself included."""
        return self.position + self.n_tokens


@dataclass(frozen=True, slots=True, eq=False)
class Pass:
    """One forward pass over `n_tokens` tokens, ordered by segment.

    `first`: of its tokens among all of the run. `experts` (n_tokens, n_moe_layers, top_k) int16: a token's experts
    ascend, -1 pads last. `kv_places` (n_tokens,) int64: where in a layer's cache each token's keys and values go.
    `memory_sources`, `memory_places` (n_new,) int64: tokens of the run whose encoder outputs are projected now, and
    where in the cross-attention's cache they go.
    """

    i_step: int
    phase: Phase
    encoding: bool
    first: int
    segments: tuple[Segment, ...]
    experts: NDArray[np.int16]
    kv_places: NDArray[np.int64]
    memory_sources: NDArray[np.int64]
    memory_places: NDArray[np.int64]

    @property
    def n_tokens(self) -> int:
        """Tokens of this pass."""
        return len(self.experts)

    @property
    def last_rows(self) -> NDArray[np.int64]:
        """The rows that the head reads: of prompts that end here the last, (n_prompts,), else all, (n_tokens,)."""
        if self.phase == Phase.DECODE:
            return np.arange(self.n_tokens, dtype=np.int64)
        ended = [segment for segment in self.segments if not segment.unfinished]
        return np.array([segment.start + segment.n_tokens - 1 for segment in ended], dtype=np.int64)

    @property
    def has_head(self) -> bool:
        """Whether a token is made of it: not by an encoder, nor where a later pass goes on with every prompt."""
        return not (self.encoding or all(segment.unfinished for segment in self.segments))

    def stack(self, model: ModelArchitecture) -> LayerStack:
        """The layers it runs through."""
        return model.encoder if self.encoding and model.encoder is not None else model.decoder

    def moe_layers(self, model: ModelArchitecture) -> range:
        """The MoE blocks of this pass's stack, by their numbers through the model, encoder first."""
        first = 0 if self.encoding else model.n_encoder_moe_layers
        return range(first, first + len(self.stack(model).moe_layers))


@dataclass(frozen=True, slots=True, eq=False)
class Passes:
    """The forward passes of a run, and the shape of what they keep.

    A layer's KV cache has `n_rows` rows, one a sequence alive, of `n_context` tokens each; a cross-attention's has
    `n_memory` tokens a row.
    """

    passes: tuple[Pass, ...]
    n_rows: int
    n_context: int
    n_memory: int

    @property
    def n_tokens(self) -> int:
        """Tokens of all passes together."""
        return sum(one.n_tokens for one in self.passes)

    @property
    def n_widest(self) -> int:
        """Tokens of the widest pass."""
        return max((one.n_tokens for one in self.passes), default=0)

    @property
    def n_heads_at_once(self) -> int:
        """Tokens that the head of one pass is asked about at most."""
        return max((len(one.last_rows) for one in self.passes if not one.encoding), default=0)


def plan_passes(model: ModelArchitecture, steps: Iterable[Step]) -> Passes:
    """Order the tokens of every step and give every sequence a row of the KV cache while it is alive.

    Raises `InvalidInput` for a sequence whose positions in one step are not consecutive, and for one that decodes
    under cross-attention without having been encoded.
    """
    listed = list(steps)
    rows, n_rows = _cache_rows(model, listed)
    n_context = max((int(step.position.max()) + 1 for step in listed if not _encodes(model, step)), default=1)
    outputs = Counter(s for step in listed if _encodes(model, step) for s in step.sequence.tolist())
    n_memory = max(outputs.values(), default=0)
    memory: dict[int, list[int]] = {}  # sequence -> its encoder outputs so far, as tokens of the run
    projected: set[int] = set()
    passes: list[Pass] = []
    first = 0
    for step in listed:
        encoding = _encodes(model, step)
        row_of = np.array([-1 if encoding else rows[s] for s in step.sequence.tolist()])
        order = np.lexsort((step.position, step.sequence, row_of))
        segments = _segments(step, order, row_of, memory)
        new: list[Segment] = []
        if encoding:
            for one in segments:
                memory.setdefault(one.sequence, []).extend(range(first + one.start, first + one.start + one.n_tokens))
        elif model.decoder.cross_attention:
            new = [one for one in segments if one.sequence not in projected]
            projected.update(one.sequence for one in new)
        for one in new:
            if not one.n_memory:
                raise InvalidInput(
                    f"step {step.i_step}: sequence {one.sequence} decodes but was never encoded: keep the prefill steps"
                )
        passes.append(
            Pass(
                step.i_step,
                Phase(step.phase),
                encoding,
                first,
                segments,
                experts=np.sort(step.experts[order].astype(np.uint16), axis=2).astype(np.int16),  # -1 sorts last
                kv_places=row_of[order] * n_context + step.position[order].astype(np.int64),
                memory_sources=np.array([token for one in new for token in memory[one.sequence]], dtype=np.int64),
                memory_places=np.array(
                    [one.row * n_memory + i for one in new for i in range(one.n_memory)], dtype=np.int64
                ),
            )
        )
        first += len(step.experts)
    return Passes(tuple(passes), n_rows, n_context, n_memory)


def _encodes(model: ModelArchitecture, step: Step) -> bool:
    return model.encoder is not None and step.phase == Phase.PREFILL


def _cache_rows(model: ModelArchitecture, steps: Sequence[Step]) -> tuple[dict[int, int], int]:
    """A row of the KV cache for every sequence, the lowest that is free when it starts; and how many there are."""
    last: dict[int, int] = {}
    for i, step in enumerate(steps):
        if not _encodes(model, step):
            last.update(dict.fromkeys(step.sequence.tolist(), i))
    rows: dict[int, int] = {}
    free: list[int] = []
    n_rows = 0
    for i, step in enumerate(steps):
        if _encodes(model, step):
            continue
        running = sorted(set(step.sequence.tolist()))
        for sequence in running:
            if sequence not in rows:
                rows[sequence] = heapq.heappop(free) if free else n_rows
                n_rows = max(n_rows, rows[sequence] + 1)
        for sequence in running:
            if last[sequence] == i:
                heapq.heappush(free, rows[sequence])
    return rows, max(n_rows, 1)


def _segments(
    step: Step, order: NDArray[np.intp], row_of: NDArray[np.int64], memory: dict[int, list[int]]
) -> tuple[Segment, ...]:
    """The segments of a step whose tokens are taken in `order`."""
    sequence, position = step.sequence[order], step.position[order].astype(np.int64)
    starts = [0, *(np.flatnonzero(np.diff(sequence)) + 1).tolist()]
    segments = []
    for start, stop in zip(starts, [*starts[1:], len(order)], strict=True):
        here, first = int(sequence[start]), int(position[start])
        if not np.array_equal(position[start:stop], np.arange(first, first + stop - start)):
            why = "the runtime executes no trees of drafts" if step.rejected is not None else "give its tokens in order"
            raise InvalidInput(f"step {step.i_step}: the positions of sequence {here} are not consecutive: {why}")
        row = int(row_of[order[start]])
        going = step.unfinished is not None and bool(step.unfinished[order[start]])
        segments.append(Segment(here, start, stop - start, first, row, len(memory.get(here, ())), going))
    return tuple(segments)
