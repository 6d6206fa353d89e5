"""TensorRT-LLM's generated kernels of one new token, as FlashInfer chooses among them by shape, not by time.

Read in include/flashinfer/trtllm/fmha/fmhaKernels.cuh: selectMlaGenerationKernel, useSwapsMmaAbMlaGenKernel,
selectGqGenerationKernel and computeCtaAndClusterConfig.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from hwmodels.laws.rates import Number, larger_of, rounded_up, smaller_of

_STEP = 256
"""Cached tokens of a step of a block."""

LEAST_PART = 2 * _STEP
"""Cached tokens that a part of a split context keeps at least."""

LEAST_ROWS = 8
_ROWS = (8, 16, 32, 64, 128)
"""Heads that share keys and a block, the fewest that hold all of them."""

_NARROW_ROWS, _WIDE_ROWS = 16, 64
_NARROW_HEADS = 32
"""Heads over latents up to which blocks are narrow whatever the context."""

_SHORT_PART = 1024
"""Latents of a part up to which narrow blocks are for more heads, if they all have room at once."""


class LatentBlocks(NamedTuple):
    """Heads of a block, and the share of its latents that it reads: half where blocks run in pairs."""

    rows: Number
    share: Number


def rows_of_block(shared: Number) -> Number:
    """Rows of the block that `shared` heads on the same keys are multiplied in."""
    rows: Number = float(_ROWS[-1])
    for fewer in _ROWS[-2::-1]:
        rows = np.where(np.real(shared) <= fewer, float(fewer), rows)
    return rows


def latent_blocks(n_sm: Number, n_sequences: Number, n_heads: Number, context: Number) -> LatentBlocks:
    """Over latents, which all heads share."""
    narrow = n_sequences * rounded_up(n_heads / _NARROW_ROWS)
    parts = smaller_of(rounded_up(context / _STEP), larger_of(np.floor(np.real(n_sm) / narrow), 1.0))
    short = (rounded_up(context / parts) <= _SHORT_PART) & (narrow <= np.real(n_sm))
    is_narrow = (np.real(n_heads) <= _NARROW_HEADS) | short
    fewest = np.where(np.real(n_heads) <= LEAST_ROWS, float(LEAST_ROWS), float(_NARROW_ROWS))
    paired = ~is_narrow & (np.real(n_heads) > _WIDE_ROWS)
    return LatentBlocks(np.where(is_narrow, fewest, float(_WIDE_ROWS)), np.where(paired, 0.5, 1.0))
