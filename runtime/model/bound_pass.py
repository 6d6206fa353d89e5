"""A pass with its constants on the device: token ids, places in the cache, and which tokens attend together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from runtime.backends.backend import Backend
from runtime.model.attention import Span
from runtime.model.buffer_rows import BoundRows, as_rows, rows_of, segments_alike
from runtime.model.sliding_windows import WindowedPass, bind_window
from runtime.programs.passes import Pass
from traces.model.architecture import ModelArchitecture


@dataclass(frozen=True, slots=True)
class BoundPass:
    """A pass with its constants on the device.

    `ids` (n_tokens,) tokens of the vocabulary; `positions` (n_tokens,); `spans` of self-attention, whose
    masks the first op of a pass makes, and `cross_spans`. `windows`: the same for layers that see so many tokens.
    `continues`: its tokens are those that the pass before made.
    """

    one: Pass
    side: str
    ids: Tensor
    positions: Tensor
    kv_places: Tensor
    last_rows: BoundRows
    spans: tuple[Span, ...]
    cross_spans: tuple[Span, ...]
    memory_sources: Tensor
    memory_places: Tensor
    windows: Mapping[int, WindowedPass]
    continues: bool = False


def bind_pass(
    backend: Backend,
    model: ModelArchitecture,
    one: Pass,
    n_context: int,
    dtype: torch.dtype,
    seed: int,
    ids: NDArray[np.int64] | None = None,
    continues: bool = False,
) -> BoundPass:
    """Put the constants of a pass on the device; without `ids` they are drawn from `seed`, since a trace has none.

    `n_context`: tokens that a row of the run's KV cache holds.
    """
    rng = np.random.default_rng([seed, one.i_step])
    positions = np.concatenate([np.arange(s.position, s.position + s.n_tokens) for s in one.segments])
    windows = {model.decoder.attention_of(layer).window for layer in range(model.decoder.n_layers)}
    crossing = model.decoder.cross_attention and not one.encoding
    return BoundPass(
        one,
        "encoder" if one.encoding else "decoder",
        ids=backend.upload(rng.integers(model.vocab_size, size=one.n_tokens) if ids is None else ids),
        positions=backend.upload(positions.astype(np.int64)),
        kv_places=backend.upload(one.kv_places),
        last_rows=as_rows(backend, one.last_rows),
        spans=tuple(_spans(backend, one)),
        cross_spans=tuple(_cross_spans(backend, one, dtype)) if crossing else (),
        memory_sources=backend.upload(one.memory_sources),
        memory_places=backend.upload(one.memory_places),
        windows={window: bind_window(backend, one, window, n_context, dtype) for window in sorted(windows - {0})},
        continues=continues,
    )


def _spans(backend: Backend, one: Pass) -> Iterator[Span]:
    """Self-attention: all sequences at once when each has one token, else runs of those that are alike."""
    if not one.encoding and all(segment.n_tokens == 1 for segment in one.segments):
        contexts = [segment.n_context for segment in one.segments]
        rows = rows_of(backend, one.segments)
        yield Span(0, len(contexts), rows, len(contexts), max(contexts), ragged=len(set(contexts)) > 1)
        return
    for alike in segments_alike(one.segments):
        first, n = alike[0], len(alike)
        stop = first.start + n * first.n_tokens
        if one.encoding:
            yield Span(first.start, stop, None, n, first.n_tokens)
        else:
            several, later = first.n_tokens > 1, first.position > 0
            rows = rows_of(backend, alike)
            yield Span(first.start, stop, rows, n, first.n_context, several and not later, ragged=several and later)


def _cross_spans(backend: Backend, one: Pass, dtype: torch.dtype) -> Iterator[Span]:
    """Cross-attention, likewise; a mask where sequences have encoder outputs of different lengths."""
    if all(segment.n_tokens == 1 for segment in one.segments):
        lengths = np.array([segment.n_memory for segment in one.segments])
        n, longest = len(lengths), int(lengths.max())
        mask = None
        if len(set(lengths.tolist())) > 1:
            beyond = np.arange(longest) >= lengths[:, None]
            scores = np.where(beyond, -np.inf, 0.0).astype(np.float32)
            mask = backend.upload(scores).to(dtype).view(n, 1, 1, longest)
        yield Span(0, n, rows_of(backend, one.segments), n, longest, mask=mask)
        return
    for alike in segments_alike(one.segments):
        first, n = alike[0], len(alike)
        yield Span(first.start, first.start + n * first.n_tokens, rows_of(backend, alike), n, first.n_memory)
