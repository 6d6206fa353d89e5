"""Attention of one new token over a cache of latents that all heads share: keys, and most of each again as values.

The up-projections are absorbed (DeepSeek-V2, arXiv 2405.04434, section 2.1.2), so a key is as wide as a latent and its
shared part, and many heads multiply with every byte that is read: arithmetic and reading are close. A block takes
some heads of one sequence through a part of the context; what another block of heads has read comes from the cache.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from hwmodels.laws.generated_kernels import LEAST_PART, latent_blocks
from hwmodels.laws.law_forms import AttentionKernel
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

_BLOCK = 64
"""Latents of a step of a block."""

_BYTES = 2
"""Of a number of queries and outputs."""


def latent_decode(
    c: Mapping[str, Number],
    rates: CardRates,
    kernel: AttentionKernel,
    n_sequences: Number,
    n_heads: Number,
    context: Number,
    key_width: Number,
    value_width: Number,
    token_bytes: Number,
    *,
    warm: bool = False,
) -> KernelTime:
    """One new token for each of `n_sequences` over `context` latents of `token_bytes`; `warm`: they were just read."""
    widths, read_bytes = key_width + value_width, n_sequences * context * token_bytes
    rows: Number = float(kernel.block_rows)
    read: Number = 1.0  # share of a block's latents that it reads itself
    if kernel.generated:
        rows, read = latent_blocks(rates.n_sm, n_sequences, n_heads, context)
    head_blocks = rounded_up(n_heads / rows)
    n_blocks = n_sequences * head_blocks
    pieces = rounded_up(context / _BLOCK)
    parts: Number = 1.0
    if kernel.splits:
        most = rounded_up(context / (LEAST_PART if kernel.generated else _BLOCK))
        parts = larger_of(smaller_of(np.floor(np.real(rates.n_sm) / n_blocks), most), 1.0)
    waves = rounded_up(n_blocks * parts / rates.n_sm)
    read_s = _BLOCK * token_bytes * read * rates.n_sm / (c["core"] * rates.bytes_per_s)
    multiplied_s = 2 * rows * _BLOCK * widths * rates.n_sm / (c["peak"] * rates.flop_per_s)
    blocks_s = waves * (rounded_up(pieces / parts) * smooth_maximum(read_s, multiplied_s) + c["wave_s"])
    blocks_s = blocks_s + np.where(np.real(parts) > 1, c["split_s"] + c["part_s"] * parts, 0.0)
    share = 1 / c["memory"]
    if warm:
        kept = share_within(read_bytes, c["kept"] * rates.l2_bytes)
        share = (1 - kept) / c["memory"] + kept / c["cache"]
    share = share + (head_blocks * read - 1) / c["cache"]
    passed = _BYTES * n_sequences * n_heads * widths * c["activations"]
    traffic_s = (read_bytes * share + passed) / rates.bytes_per_s
    each_s = c["block_s"] * n_blocks
    fixed_s = c["fixed_s"] + (0.0 if kernel.generated else each_s)
    flop_s = 2 * n_sequences * n_heads * context * widths / rates.flop_per_s
    claimed = flop_s, read_bytes / rates.bytes_per_s
    return overlapped(fixed_s, blocks_s + (each_s if kernel.generated else 0.0), traffic_s, claimed)
