"""What the kernels of fused ops of experts multiply, read and load, counted of many ops at once.

A prompt, or a pass in micro-batches, has thousands of such ops, of which no two give experts the same numbers of rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwmodels.kernels.fused_tile import FusedTile
from hwmodels.kernels.gemm_cells import listed_gemms
from hwmodels.kernels.row_blocks import NO_ROW_BLOCKS, RowBlocks
from hwmodels.laws.moe import HEIGHTS, ExpertRows
from offload.ops import Work


@dataclass(frozen=True, slots=True, eq=False)
class FusedCounts:
    """Of ops that have as many kernels: `flop` of padded rows, `weights` read, `loads` waited for, `blocks` of rows and
    the `passes` that they make, by kernel, each (n_kernels, n_ops); `n_tiled` (n_ops,), matrices that are multiplied by
    more than one row. Of many machines with one more axis, which has one place.
    """

    flop: NDArray[np.float64]
    weights: NDArray[np.float64]
    loads: NDArray[np.float64]
    blocks: NDArray[np.float64]
    passes: NDArray[np.float64]
    n_tiled: NDArray[np.int64]

    @property
    def n_weights(self) -> Any:
        """Weights that an op reads."""
        return self.weights.sum(axis=0)

    def of_machines(self) -> FusedCounts:
        """The same with an axis for many machines."""
        return FusedCounts(*(getattr(self, name)[..., None] for name in self.__slots__))


@dataclass(frozen=True, slots=True, eq=False)
class RowCounts:
    """What a law asks of fused ops: the `rows` of their experts, and `n_weights` that all GEMMs of an op read, each
    (n_ops,). Of many machines with one more axis, which has one place.
    """

    rows: ExpertRows
    n_weights: NDArray[np.float64]

    def of_machines(self) -> RowCounts:
        """The same with an axis for many machines."""
        return RowCounts(_each(self.rows, lambda one: one[:, None]), self.n_weights[:, None])

    def of_one(self) -> RowCounts:
        """The same of a single op, as numbers."""
        return RowCounts(_each(self.rows, lambda one: float(one[0])), self.n_weights[0])


def _each(rows: ExpertRows, change: Callable[[Any], Any]) -> ExpertRows:
    numbers = change(rows.n_experts), change(rows.n_rows), change(rows.n_tokens)
    return ExpertRows(*numbers, tuple(map(change, rows.n_high)))


def row_counts(works: Sequence[Work]) -> RowCounts:
    """The counts of fused ops, whatever experts they have."""
    fused = [work.fused for work in works if work.fused is not None]
    cells = listed_gemms(works)
    (m, n, k, times), owner, place = cells.columns, cells.owner, cells.place
    down = (place < np.array([one.n_gemms for one in fused])[owner]) & (place % 2 == 1)
    of, rows, experts = owner[down], m[down], times[down].astype(np.float64)
    n_high = tuple(np.bincount(of, experts * -(-rows // height), len(works)) for height in HEIGHTS)
    n_experts, n_rows, n_tokens = np.array([(one.n_experts, one.n_rows, one.n_tokens) for one in fused], float).T
    weights = (n * k * times).astype(np.float64)
    return RowCounts(
        ExpertRows(n_experts, n_rows, n_tokens, n_high), np.bincount(owner, weights, len(works)).astype(np.float64)
    )


def counted(works: Sequence[Work], tile: FusedTile, blocks: RowBlocks = NO_ROW_BLOCKS) -> FusedCounts:
    """The counts of fused ops, all of one width and with as many GEMMs of shared experts, as engines with `tile` and
    `blocks` run them.
    """
    cells = listed_gemms(works)
    fused = np.array([work.fused for work in works if work.fused is not None], np.int64)
    n_gemms, (_, _, n_of, n_tokens) = cells.n_gemms, fused.T
    (m, n, k, times), owner, place = cells.columns, cells.owner, cells.place
    shared = place >= n_of[owner]
    kernel = np.where(shared, 2 + place - n_of[owner], place % 2)
    n_kernels = 2 + int(n_gemms[0] - n_of[0])
    rows = np.array(tile.rows or (1,))
    alone = rows[np.minimum(np.searchsorted(rows, m), len(rows) - 1)]
    apart = (tile.apart_from > 0) & (n_tokens >= tile.apart_from)
    height = np.where(apart[owner], alone, _heights(fused, tile)[owner])
    padded = np.where(shared, m, -(-m // height) * height)
    each_pair = (n_tokens == 1) | (tile.each_pair & (n_tokens < tile.from_tokens))
    each_pair &= blocks.take_pairs(works[0].weight_bits, n_tokens)
    by_pair = each_pair[owner] & ~shared
    weights_of = n * k * times
    n_slots = -(-fused[:, 1] // n_tokens)[owner]
    again = np.rint(weights_of * blocks.reads(np.where(by_pair, m, 1), n_slots)).astype(np.int64)
    read = np.where(by_pair, again, weights_of)
    has_tiles = (n_tokens >= tile.from_tokens)[owner]
    waits, in_blocks, multiplied = (np.zeros_like(read) for _ in range(3))
    if tile.loads is not None:
        loads = times * -(-m // np.where(shared, alone, height)) * -(-n // tile.loads[0]) * -(-k // tile.loads[1])
        waits = np.where(np.where(shared, (m > blocks.up_to_rows) & bool(blocks.passes), has_tiles), loads, 0)
    if blocks.passes:
        multiplied = np.where(by_pair | shared & (m <= blocks.up_to_rows), weights_of * m, 0)
        bits = works[0].weight_bits
        alone_held = np.where(m == 1, blocks.held(k, bits), max(blocks.n_rows, 2))
        held = np.where(by_pair, blocks.held_by_pair(k, bits, n_tokens[owner]), alone_held)
        in_blocks = np.where(multiplied > 0, -(-n // held) * times * np.where(by_pair, m, 1), 0)
    sums = np.zeros((5, n_kernels, len(works)), np.int64)
    cell = kernel * len(works) + owner
    for total, what in zip(
        sums.reshape(5, -1), (2 * padded * weights_of, read, waits, in_blocks, multiplied), strict=True
    ):
        if what.any():
            np.add.at(total, cell, what)
    in_tiles = np.where(apart[owner], m > 1, shared & (m >= tile.tiled_from))
    n_tiled = np.bincount(owner, np.where(in_tiles, times, 0), len(works)).astype(np.int64)
    first = np.cumsum(n_gemms) - n_gemms
    n_tiled += np.where((n_tokens >= tile.tiled_from) & ~apart, times[first] // times[first + 1] + 1, 0)
    flop, weights, n_loads, n_blocks, in_passes = sums.astype(np.float64)
    a_pass = blocks.weights_a_pass(works[0].weight_bits) if blocks.passes else 1
    return FusedCounts(flop, weights, n_loads, n_blocks, in_passes / a_pass, n_tiled)


def _heights(fused: NDArray[np.int64], tile: FusedTile) -> NDArray[np.int64]:
    """`tile.height` of many ops, (n_ops,); `fused` (n_ops, 4): the fields of `FusedExperts`."""
    n_experts, n_rows, _, n_tokens = fused.T
    held = {"expert": n_rows / n_experts, "pass": n_tokens, "pairs": n_rows}[tile.sized_by]
    rows = np.array(tile.rows or (1,), np.int64)
    least: NDArray[np.int64] = rows[np.minimum(np.searchsorted(rows, held), len(rows) - 1)]
    return np.where(n_tokens < tile.from_tokens, 1, least)
