"""Rows of a buffer as an op takes them, and the segments of a pass that can be computed at once."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from runtime.backends.backend import Backend
from runtime.programs.passes import Segment

BoundRows = slice | Tensor
"""Rows of a buffer: a slice when they follow one another, which copies nothing, else their indices."""


def segments_alike(segments: tuple[Segment, ...]) -> Iterator[tuple[Segment, ...]]:
    """Runs of segments with as many tokens each, at the same positions, over as much of an encoder's output."""
    for _, run in groupby(segments, lambda segment: (segment.n_tokens, segment.position, segment.n_memory)):
        yield tuple(run)


def rows_of(backend: Backend, segments: tuple[Segment, ...]) -> BoundRows:
    """The rows of the KV cache of some segments."""
    return as_rows(backend, np.array([segment.row for segment in segments], dtype=np.int64))


def as_rows(backend: Backend, rows: NDArray[np.int64]) -> BoundRows:
    """Rows as a slice where they follow one another."""
    if not len(rows):
        return slice(0, 0)
    first = int(rows[0])
    if len(rows) == 1:
        return slice(first, first + 1)
    if np.array_equal(rows, np.arange(first, first + len(rows))):
        return slice(first, first + len(rows))
    return backend.upload(rows)
