"""Windows of a text: drawn at random to train on, and one fixed set to be judged by."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from traces.errors import InvalidInput


class TextBatch(NamedTuple):
    """`tokens` (rows, n) and the one after each, `targets` (rows, n); `source` (rows, m): what an encoder reads."""

    tokens: Tensor
    targets: Tensor
    source: Tensor | None


def drawn_batch(
    text: NDArray[np.int64], rows: int, length: int, rng: np.random.Generator, *, encoded: bool = False
) -> TextBatch:
    """`rows` windows of `length` tokens, places drawn; `encoded`: the first half is the source of the other half."""
    _check_long_enough(text, length)
    return _batch(text, rng.integers(len(text) - length, size=rows), length, encoded)


def fixed_batches(
    text: NDArray[np.int64], n_windows: int, rows: int, length: int, *, encoded: bool = False
) -> list[TextBatch]:
    """Windows one after the other from the start of `text`, at most `n_windows`, in batches of `rows`."""
    _check_long_enough(text, length)
    starts = np.arange(0, len(text) - length, length)[:n_windows]
    return [_batch(text, starts[i : i + rows], length, encoded) for i in range(0, len(starts), rows)]


def _batch(text: NDArray[np.int64], starts: NDArray[np.int64], length: int, encoded: bool) -> TextBatch:
    windows = torch.from_numpy(text[starts[:, None] + np.arange(length + 1)])
    half = length // 2 if encoded else 0
    return TextBatch(windows[:, half:-1], windows[:, half + 1 :], windows[:, :half] if encoded else None)


def _check_long_enough(text: NDArray[np.int64], length: int) -> None:
    if len(text) <= length:
        raise InvalidInput(f"a text of {len(text)} tokens has no window of {length}: name a longer text")
