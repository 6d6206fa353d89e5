"""A pass as a layer with a sliding window sees it: a ring of the last tokens in the cache, and which tokens attend.

A ring holds the token at position p in place p modulo its size, so that what leaves the window is overwritten. A single
token attends to the ring once it is in it. Several tokens of a sequence attend to what the ring still holds and to one
another, some queries at a time, each group to the keys that one of it sees.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from runtime.backends.backend import Backend
from runtime.model.attention import Span
from runtime.model.buffer_rows import BoundRows, as_rows, rows_of, segments_alike
from runtime.programs.passes import Pass, Segment

_QUERIES_AT_ONCE = 128
"""Queries of a prompt that attend in one product; no more than the window, or most of the product would be masked."""


class QueryGroup(NamedTuple):
    """Queries `start` to `stop` of each row over keys `first` to `last` of what the row sees; `mask` (1, 1, n, m)."""

    start: int
    stop: int
    first: int
    last: int
    mask: Tensor | None


@dataclass(frozen=True, slots=True)
class SeveralTokens:
    """Tokens `start` to `stop` of a pass, as many of each of `n_rows` rows, at least two.

    `before`: places of the ring with the tokens just before them, in order; None where there are none.
    """

    start: int
    stop: int
    rows: BoundRows
    n_rows: int
    before: Tensor | None
    groups: tuple[QueryGroup, ...]


@dataclass(frozen=True, slots=True)
class WindowedPass:
    """A pass in a window: `singles` attend once `single_rows` lie in `single_places` of the flat ring, `several` before
    `kept_rows`, the last of them, go to `kept_places`."""

    singles: tuple[Span, ...]
    single_rows: BoundRows | None
    single_places: Tensor
    several: tuple[SeveralTokens, ...]
    kept_rows: BoundRows | None
    kept_places: Tensor


def ring_tokens(window: int, n_context: int) -> int:
    """Tokens that a row of a ring holds, of sequences of at most `n_context` tokens."""
    return min(window, n_context)


def bind_window(backend: Backend, one: Pass, window: int, n_context: int, dtype: torch.dtype) -> WindowedPass:
    """The constants of a pass for layers with a window of `window` tokens, on the device."""
    size = ring_tokens(window, n_context)
    single = [segment for segment in one.segments if segment.n_tokens == 1]
    longer = [segment for segment in one.segments if segment.n_tokens > 1]
    rows, places = _kept(single, size)
    kept_rows, kept_places = _kept(longer, size)
    return WindowedPass(
        tuple(_singles(backend, single, size)),
        as_rows(backend, rows) if len(rows) else None,
        backend.upload(places),
        tuple(_several(backend, alike, window, size, dtype) for alike in segments_alike(tuple(longer))),
        as_rows(backend, kept_rows) if len(kept_rows) else None,
        backend.upload(kept_places),
    )


def _kept(segments: list[Segment], size: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the pass that a ring of `size` tokens a row keeps, and where."""
    rows, places = [np.empty(0, dtype=np.int64)], [np.empty(0, dtype=np.int64)]
    for segment in segments:
        within = np.arange(max(0, segment.n_tokens - size), segment.n_tokens)
        rows.append(segment.start + within)
        places.append(segment.row * size + (segment.position + within) % size)
    return np.concatenate(rows), np.concatenate(places)


def _singles(backend: Backend, segments: list[Segment], size: int) -> Iterator[Span]:
    """One span for each run of tokens that follow one another in the pass; a mask where their contexts differ."""
    start = 0
    for i in range(1, len(segments) + 1):
        if i < len(segments) and segments[i].start == segments[i - 1].start + 1:
            continue
        run = tuple(segments[start:i])
        contexts = {min(segment.n_context, size) for segment in run}
        first, n = run[0].start, len(run)
        yield Span(first, first + n, rows_of(backend, run), n, max(contexts), ragged=len(contexts) > 1)
        start = i


def _several(backend: Backend, alike: tuple[Segment, ...], window: int, size: int, dtype: torch.dtype) -> SeveralTokens:
    """Segments with as many tokens at the same positions, their queries in groups."""
    first, n_rows = alike[0], len(alike)
    n_before = min(first.position, window - 1)
    before = np.arange(first.position - n_before, first.position, dtype=np.int64) % size
    return SeveralTokens(
        first.start,
        first.start + n_rows * first.n_tokens,
        rows_of(backend, alike),
        n_rows,
        backend.upload(before) if n_before else None,
        tuple(_groups(backend, first.n_tokens, n_before, window, dtype)),
    )


def _groups(backend: Backend, n: int, n_before: int, window: int, dtype: torch.dtype) -> Iterator[QueryGroup]:
    """`n` queries after `n_before` tokens, each over itself and the `window` - 1 tokens before it."""
    masks: dict[tuple[int, int], Tensor] = {}
    n_at_once = min(window, _QUERIES_AT_ONCE)
    for start in range(0, n, n_at_once):
        stop = min(n, start + n_at_once)
        first, last = max(0, n_before + start - window + 1), n_before + stop
        shape = stop - start, n_before + start - first  # queries, and keys before the first of them
        if shape not in masks:
            query = shape[1] + np.arange(shape[0])[:, None]
            key = np.arange(last - first)
            hidden = np.where((key > query) | (key <= query - window), -np.inf, 0.0).astype(np.float32)
            masks[shape] = backend.upload(hidden).to(dtype).view(1, 1, *hidden.shape)
        yield QueryGroup(start, stop, first, last, masks[shape])
