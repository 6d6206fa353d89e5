"""Experts of a layer in one fused op: top-k, permutation, two grouped GEMMs, activation, weighted sum.

Experts alike in rows are one group. A tile belongs to one expert, so that rows are padded for each of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from hwmodels.laws.gemm import STEP, tile_seconds
from hwmodels.laws.rates import CardRates, KernelTime, Number, overlapped, rounded_up, share_within, smaller_of

_TILES = ((16, 64), (16, 128), (32, 64), (64, 64), (64, 128), (128, 128), (128, 256))
"""Rows and columns of a tile: a few, assumed, of those that vLLM tunes over (its benchmark_moe.py)."""

HEIGHTS = tuple(dict.fromkeys(rows for rows, _ in _TILES))
"""Rows of a tile."""

_CORE_BYTES_PER_S = 8e9
"""What a law's share of the weights' rate is of where they come `by_core`: a unit, and no claim."""

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


def expert_rows_of(groups: Sequence[ExpertGroup], n_tokens: Number) -> ExpertRows:
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
    by_default: Any = False,
    by_core: bool = False,
) -> KernelTime:
    """`n_up`: projections up, 2 with a gated activation; `warm`: weights were read just before, as in a benchmark;
    `by_default`: in Triton's default tile (`dispatch.TRITON_DEFAULT`), not in what is fastest; or an array of which.
    `by_core`: weights come as fast as multiprocessors take them, whatever the memory (`dispatch.FLASHINFER_CUTLASS`).
    """
    up = _grouped(c, rates, of, n_up * d_ff, d_model, weight_bits, warm, by_default, by_core)
    down = _grouped(c, rates, of, d_model, d_ff, weight_bits, warm, by_default, by_core)
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
    by_default: Any,
    by_core: bool,
) -> KernelTime:
    """One product for each expert, all tiles in one launch."""
    best: Number = np.inf

    def waves_s(rows: Number, columns: Number, step: Number, n_high: Number) -> Number:
        waves = rounded_up(n_high * rounded_up(n / columns) / rates.n_sm)
        return waves * tile_seconds(c, rates, rows, columns, step) * (k + c["ramp"])

    if by_default is not True:
        for rows, columns in _TILES:
            best = smaller_of(best, waves_s(rows, columns, STEP, of.n_high[HEIGHTS.index(rows)]))
    if by_default is not False:
        best = np.where(by_default, waves_s(*_triton_default(of)), best)
    weight_bytes = of.n_experts * n * k * weight_bits / 8
    share = 1 / c["memory"]
    if warm:
        kept = share_within(weight_bytes, c["kept"] * rates.l2_bytes)
        share = (1 - kept) / c["memory"] + kept / c["cache"]
    claimed = 2 * of.n_rows * n * k / rates.flop_per_s, weight_bytes / rates.bytes_per_s
    alone_s = weight_bytes / (rates.n_sm * _CORE_BYTES_PER_S) if by_core else claimed[1]
    return overlapped(0.0, best, alone_s * share, claimed)


def _triton_default(of: ExpertRows) -> tuple[Number, Number, Number, Number]:
    """Rows and columns of a tile, elements of the inner dimension that it takes at a time, and how many of them high
    all rows are: small where tokens are at most experts.
    """
    small, tall = (of.n_high[HEIGHTS.index(rows)] for rows in (16, 64))
    few = np.real(of.n_tokens) <= np.real(of.n_experts)
    return np.where(few, 16.0, 64.0), np.where(few, 32.0, 64.0), np.where(few, 64.0, 32.0), np.where(few, small, tall)
