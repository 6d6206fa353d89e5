"""Experts of a layer in one fused op: top-k, permutation, two grouped GEMMs, activation, weighted sum.

Experts alike in rows are one group. A tile belongs to one expert, so that rows are padded for each of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from hwmodels.laws.gemm import tile_seconds
from hwmodels.laws.rates import CardRates, KernelTime, Number, kept_share, overlapped, rounded_up, smaller_of

__all__ = ["ALIGNED", "HEIGHTS", "ExpertGroup", "ExpertRows", "fused_experts", "rows_of"]

_TILES = ((16, 64), (16, 128), (32, 64), (64, 64), (64, 128), (128, 128), (128, 256))

HEIGHTS = tuple(dict.fromkeys(rows for rows, _ in _TILES))
"""Rows of a tile."""

ALIGNED = 16
"""Triton specialises kernels on sizes that are multiples of this; an inner dimension of another size is read by the
element, which takes two to seventeen times as long, as a configuration was tuned. No law is of those."""


class ExpertGroup(NamedTuple):
    """`n_experts` with `rows` each."""

    n_experts: Number
    rows: Number


class ExpertRows(NamedTuple):
    """`n_experts` that have rows, `n_rows` of all of them, of `n_tokens`, and how many tiles of each of `HEIGHTS` hold
    these: of one op, or arrays, of many.
    """

    n_experts: Number
    n_rows: Number
    n_tokens: Number
    n_high: tuple[Number, ...]


def rows_of(groups: Sequence[ExpertGroup], n_tokens: Number) -> ExpertRows:
    """The rows of one op."""
    n_high = (sum(one.n_experts * rounded_up(one.rows / height) for one in groups) for height in HEIGHTS)
    n_rows = sum(one.n_experts * one.rows for one in groups)
    return ExpertRows(sum(one.n_experts for one in groups), n_rows, n_tokens, tuple(n_high))


def fused_experts(
    c: Mapping[str, Number],
    rates: CardRates,
    of: ExpertRows,
    d_model: Number,
    d_ff: Number,
    n_up: Number,
    *,
    weight_bits: Number = 16.0,
    warm: bool = False,
    by_default: bool = False,
) -> KernelTime:
    """`n_up`: projections up, 2 with a gated activation; `warm`: weights were read just before, as in a benchmark;
    `by_default`: in Triton's default tile (`dispatch.TRITON_DEFAULT`), not in what is fastest.
    """
    up = _grouped(c, rates, of, n_up * d_ff, d_model, weight_bits, warm, by_default)
    down = _grouped(c, rates, of, d_model, d_ff, weight_bits, warm, by_default)
    moved = 2 * of.n_rows * (2 * d_model + n_up * d_ff + d_ff)
    fixed_s = c["fixed_s"] + c["rows_s"] * np.sqrt(of.n_rows) + c["expert_s"] * of.n_experts
    beside = KernelTime(fixed_s, 0.0, moved * c["activations"] / rates.bytes_per_s)
    return beside.plus(up).plus(down)


def _grouped(
    c: Mapping[str, Number],
    rates: CardRates,
    of: ExpertRows,
    n: Number,
    k: Number,
    weight_bits: Number,
    warm: bool,
    by_default: bool,
) -> KernelTime:
    """One product for each expert, all tiles in one launch."""
    best: Number = np.inf
    tiles: Iterable[tuple[Number, Number, Number]] = (
        (rows, columns, of.n_high[HEIGHTS.index(rows)]) for rows, columns in _TILES
    )
    if by_default:
        tiles = (_triton_default(of),)
    for rows, columns, n_high in tiles:
        n_tiles = n_high * rounded_up(n / columns)
        waves = rounded_up(n_tiles / rates.n_sm)
        best = smaller_of(best, waves * tile_seconds(c, rates, rows, columns) * (k + c["ramp"]))
    weight_bytes = of.n_experts * n * k * weight_bits / 8
    share = 1 / c["memory"]
    if warm:
        kept = kept_share(weight_bytes, c["kept"] * rates.l2_bytes)
        share = (1 - kept) / c["memory"] + kept / c["cache"]
    claimed = 2 * of.n_rows * n * k / rates.flop_per_s, weight_bytes / rates.bytes_per_s
    return overlapped(0.0, best, claimed[1] * share, claimed)


def _triton_default(of: ExpertRows) -> tuple[Number, Number, Number]:
    """Rows and columns of a tile, and how many of them high all rows are: small where tokens are at most experts."""
    small, tall = (of.n_high[HEIGHTS.index(rows)] for rows in (16, 64))
    few = np.real(of.n_tokens) <= np.real(of.n_experts)
    return np.where(few, 16.0, 64.0), np.where(few, 32.0, 64.0), np.where(few, small, tall)
