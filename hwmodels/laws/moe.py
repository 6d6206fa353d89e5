"""Experts of a layer in one fused op: top-k, permutation, two grouped GEMMs, activation, weighted sum.

Experts alike in rows are one group. A tile belongs to one expert, so that rows are padded for each of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from hwmodels.laws.gemm import tile_seconds
from hwmodels.laws.rates import CardRates, KernelTime, Number, kept_share, overlapped, rounded_up, smaller_of

__all__ = ["ALIGNED", "ExpertGroup", "fused_experts"]

_TILES = ((16, 64), (16, 128), (32, 64), (64, 64), (64, 128), (128, 128), (128, 256))


ALIGNED = 16
"""Triton specialises kernels on sizes that are multiples of this; an inner dimension of another size is read by the
element, which takes two to seventeen times as long, as a configuration was tuned. No law is of those."""


class ExpertGroup(NamedTuple):
    """`n_experts` with `rows` each."""

    n_experts: Number
    rows: Number


def fused_experts(
    c: Mapping[str, Number],
    rates: CardRates,
    groups: Sequence[ExpertGroup],
    d_model: Number,
    d_ff: Number,
    n_up: Number,
    *,
    weight_bits: Number = 16.0,
    warm: bool = False,
) -> KernelTime:
    """`n_up`: projections up, 2 with a gated activation; `warm`: weights were read just before, as in a benchmark."""
    up = _grouped(c, rates, groups, n_up * d_ff, d_model, weight_bits, warm)
    down = _grouped(c, rates, groups, d_model, d_ff, weight_bits, warm)
    n_rows = sum(group.n_experts * group.rows for group in groups)
    moved = 2 * n_rows * (2 * d_model + n_up * d_ff + d_ff)
    n_active = sum(group.n_experts for group in groups)
    fixed_s = c["fixed_s"] + c["rows_s"] * np.sqrt(n_rows) + c["expert_s"] * n_active
    beside = KernelTime(fixed_s, 0.0, moved * c["activations"] / rates.bytes_per_s)
    return beside.plus(up).plus(down)


def _grouped(
    c: Mapping[str, Number],
    rates: CardRates,
    groups: Sequence[ExpertGroup],
    n: Number,
    k: Number,
    weight_bits: Number,
    warm: bool,
) -> KernelTime:
    """One product for each expert, all tiles in one launch."""
    best: Number = np.inf
    for rows, columns in _TILES:
        n_tiles: Number = 0.0
        for group in groups:
            n_tiles = n_tiles + group.n_experts * rounded_up(group.rows / rows) * rounded_up(n / columns)
        waves = rounded_up(n_tiles / rates.n_sm)
        best = smaller_of(best, waves * tile_seconds(c, rates, rows, columns) * (k + c["ramp"]))
    weight_bytes = sum(group.n_experts for group in groups) * n * k * weight_bits / 8
    share = 1 / c["memory"]
    if warm:
        kept = kept_share(weight_bytes, c["kept"] * rates.l2_bytes)
        share = (1 - kept) / c["memory"] + kept / c["cache"]
    n_rows = sum(group.n_experts * group.rows for group in groups)
    claimed = 2 * n_rows * n * k / rates.flop_per_s, weight_bytes / rates.bytes_per_s
    return overlapped(0.0, best, claimed[1] * share, claimed)
