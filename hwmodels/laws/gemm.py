"""A dense GEMM: output tiles in whole waves over the multiprocessors, beside reading the weights once.

`m` rows by `n` columns over an inner dimension `k`. An engine picks the tile, and whether to split the inner dimension
over idle multiprocessors, by what is fastest; so does the law, unless the engine's source says what it picks. A product
that takes longer than the board's power controller needs runs at the rate that its power sustains. Where activations
are quantised first, a kernel of its own reads and writes them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from hwmodels.laws.dispatch import DISPATCHES, INSTRUCTION_TILES, Tile
from hwmodels.laws.rates import (
    CardRates,
    KernelTime,
    Number,
    larger_of,
    overlapped,
    rounded_up,
    share_within,
    smaller_of,
    smooth_maximum,
)

CYCLED_WEIGHTS = 6
"""Weight matrices that the tables' benchmark reads in turn: of 8 MB they fit into a cache of 50."""

TILES = ((64, 64), (64, 128), (128, 64), (128, 128), (128, 256), (256, 128), (64, 256))
"""Rows and columns of an output tile: what engines choose from, but on cards of `INSTRUCTION_TILES`. Assumed: the usual
of CUTLASS's, and few, so that the law does not pick a tile that no library has."""

STEP = 64
"""Elements of the inner dimension that a tile takes at a time, unless its library says another number: `step_s` is of
those. Assumed, as is `_LEAST_SPLIT`."""

_LEAST_SPLIT = 256
"""Elements of the inner dimension that a part of a split keeps at least."""

_WIDE_BITS = 16
"""Of activations before they are quantised, and of what comes out."""


def dense_gemm(
    c: Mapping[str, Number],
    rates: CardRates,
    m: Number,
    n: Number,
    k: Number,
    *,
    weight_bits: Number = 16.0,
    activation_bits: Number = 16.0,
    cycled_bytes: Number | None = None,
    tiles: Sequence[tuple[int, int]] = TILES,
    dispatch: str = "",
) -> KernelTime:
    """One product; `cycled_bytes`: of weights read round and round, None where none is read again. `dispatch`: by what
    the engine chooses its tile, or the instruction whose tiles it chooses the fastest of (`hwmodels.laws.dispatch`);
    empty: the fastest of `tiles`.
    """
    if dispatch in DISPATCHES:
        tiles_s = _dispatched_s(c, rates, m, n, k, dispatch)
    else:
        tiles_s = _tiles_s(c, rates, m, n, k, INSTRUCTION_TILES[dispatch] if dispatch else tiles)
    tiles_s = _sustained_s(c, rates, 2 * m * n * k, tiles_s)
    weights_s = _weights_s(c, rates, n * k * weight_bits / 8, cycled_bytes)
    moved = m * k * activation_bits / 8 + m * n * _WIDE_BITS / 8
    claimed = 2 * m * n * k / rates.flop_per_s, n * k * weight_bits / 8 / rates.bytes_per_s
    kernel = overlapped(c["fixed_s"], tiles_s, weights_s + moved * c["activations"] / rates.bytes_per_s, claimed)
    if "quantise" not in c:
        return kernel
    quantised = m * k * (_WIDE_BITS + activation_bits) / 8 * c["quantise"] / rates.bytes_per_s
    alone_s = np.where(np.real(m) > 1, 0.0, c["lone_row_s"])
    return kernel.plus(KernelTime(c["quantise_s"] + alone_s, 0.0, quantised))


def _weights_s(c: Mapping[str, Number], rates: CardRates, weight_bytes: Number, cycled_bytes: Number | None) -> Number:
    """Reading weights, from memory or from what the cache still holds of them."""
    alone_s = weight_bytes / rates.bytes_per_s
    if cycled_bytes is None:
        return alone_s / c["memory"]
    kept = share_within(cycled_bytes, c["kept"] * rates.l2_bytes)
    return alone_s * ((1 - kept) / c["memory"] + kept / c["cache"])


def _tiles_s(
    c: Mapping[str, Number], rates: CardRates, m: Number, n: Number, k: Number, tiles: Sequence[tuple[int, int]]
) -> Number:
    """The fastest tile, its inner dimension whole or split; all tiles at once, on an axis before all others."""
    n_axes = max(np.ndim(x) for x in (m, n, k, *rates, *c.values()))
    sides = np.array(tiles, np.float64).T
    rows, columns = (side.reshape(-1, *(1,) * n_axes) for side in sides)
    per_element_s = tile_seconds(c, rates, rows, columns)
    n_tiles = rounded_up(m / rows) * rounded_up(n / columns)
    whole_s = rounded_up(n_tiles / rates.n_sm) * per_element_s * (k + c["ramp"])
    parts = smaller_of(np.floor(np.real(rates.n_sm) / n_tiles), np.floor(k / _LEAST_SPLIT))
    parts = larger_of(parts, 1.0)
    added = 4 * m * n * parts / rates.bytes_per_s
    split_s = per_element_s * (k / parts + c["ramp"]) + c["split_s"] + added
    each_s = np.where(parts > 1, smaller_of(whole_s, split_s), whole_s)
    fastest = np.argmin(np.real(each_s), axis=0)
    return np.take_along_axis(each_s, fastest[np.newaxis], axis=0)[0]


def _sustained_s(c: Mapping[str, Number], rates: CardRates, flop: Number, tiles_s: Number) -> Number:
    """Tiles of a product that runs long enough to be held back. What fills a tile up is zeros, which switch next to
    nothing: the rate that power sustains is one of `flop`, not of tiles.
    """
    boosted = share_within(tiles_s, c["boost_s"])
    held_s = larger_of(flop / (c["sustained"] * rates.flop_per_s), tiles_s)
    return boosted * tiles_s + (1 - boosted) * held_s


def _dispatched_s(c: Mapping[str, Number], rates: CardRates, m: Number, n: Number, k: Number, dispatch: str) -> Number:
    """The tile that the engine takes, its inner dimension whole; tiles that run together are padded to whole groups."""
    tile = tile_of(dispatch, m, n, k)
    high = rounded_up(rounded_up(m / tile.rows) / tile.together_rows) * tile.together_rows
    wide = rounded_up(rounded_up(n / tile.columns) / tile.together_columns) * tile.together_columns
    waves = rounded_up(high * wide / rates.n_sm)
    return waves * tile_seconds(c, rates, tile.rows, tile.columns) * (k + c["ramp"])


def tile_seconds(
    c: Mapping[str, Number], rates: CardRates, rows: Number, columns: Number, step: Number = STEP
) -> Number:
    """Of one element of the inner dimension in a tile on one multiprocessor, which takes `step` of them at a time."""
    arithmetic_s = 2 * rows * columns * rates.n_sm / (c["peak"] * rates.flop_per_s)
    return smooth_maximum(arithmetic_s, c["step_s"] * (STEP / step))


def tile_of(dispatch: str, m: Number, n: Number, k: Number) -> Tile:
    """The tile of a product, or of each of many."""
    *choices, last = DISPATCHES[dispatch]
    found = last.tile
    m, n, k = np.real(m), np.real(n), np.real(k)
    for one in reversed(choices):
        holds = (m >= one.least_m) & (m <= one.most_m) & (n <= one.most_n) & (k >= one.least_k)
        found = Tile(*(np.where(holds, chosen, other) for chosen, other in zip(one.tile, found, strict=True)))
    return found
