"""What the kernels of fused ops of experts multiply, read and load, counted of many ops at once.

A prompt, or a pass in micro-batches, has thousands of such ops, of which no two give experts the same numbers of rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwmodels.fused_tile import FusedTile
from offload.ops import Gemm, Work

__all__ = ["FusedCounts", "counted"]


@dataclass(frozen=True, slots=True, eq=False)
class FusedCounts:
    """Of ops that have as many kernels: `flop` of padded rows, `weights` read and `loads` waited for, by kernel, each
    (n_kernels, n_ops); `n_tiled` (n_ops,), matrices that are multiplied by more than one row. Of many machines with one
    more axis, which has one place.
    """

    flop: NDArray[np.float64]
    weights: NDArray[np.float64]
    loads: NDArray[np.float64]
    n_tiled: NDArray[np.int64]

    @property
    def n_weights(self) -> Any:
        """Weights that an op reads."""
        return self.weights.sum(axis=0)

    def of_machines(self) -> FusedCounts:
        """The same with an axis for many machines."""
        return FusedCounts(*(getattr(self, name)[..., None] for name in self.__slots__))


def counted(works: Sequence[Work], tile: FusedTile) -> FusedCounts:
    """The counts of fused ops, all with as many GEMMs of shared experts, as engines with `tile` run them."""
    fused = [work.fused for work in works if work.fused is not None]
    n_gemms, n_of = np.array([len(work.gemms) for work in works]), np.array([one.n_gemms for one in fused])
    n_cells = int(n_gemms.sum()) * len(Gemm._fields)
    cells = np.fromiter(chain.from_iterable(chain.from_iterable(work.gemms for work in works)), np.int64, n_cells)
    m, n, k, times = cells.reshape(-1, len(Gemm._fields)).T
    owner = np.repeat(np.arange(len(works)), n_gemms)
    place = np.arange(len(m)) - np.repeat(np.cumsum(n_gemms) - n_gemms, n_gemms)
    shared = place >= n_of[owner]
    kernel = np.where(shared, 2 + place - n_of[owner], place % 2)
    n_kernels = 2 + int(n_gemms[0] - n_of[0])
    height = np.array([tile.height(one) for one in fused])[owner]
    padded = np.where(shared, m, -(-m // height) * height)
    read = n * k * times
    waits = np.zeros_like(read)
    if tile.loads is not None:
        loads = times * -(-m // height) * -(-n // tile.loads[0]) * -(-k // tile.loads[1])
        has_tiles = np.array([one.n_tokens >= tile.from_tokens for one in fused])[owner]
        waits = np.where(has_tiles & ~shared, loads, 0)
    sums = np.zeros((3, n_kernels, len(works)), np.int64)
    for total, what in zip(sums, (2 * padded * read, read, waits), strict=True):
        np.add.at(total, (kernel, owner), what)
    n_tiled = np.bincount(owner, np.where(shared & (m > 1), times, 0), len(works)).astype(np.int64)
    first = np.cumsum(n_gemms) - n_gemms
    many = np.array([one.n_tokens > 1 for one in fused])
    n_tiled += np.where(many, times[first] // times[first + 1] + 1, 0)
    flop, weights, n_loads = sums.astype(np.float64)
    return FusedCounts(flop, weights, n_loads, n_tiled)
