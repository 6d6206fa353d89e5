"""Attention over a cache of keys and values: of one new token a sequence, and of a prompt.

Of new tokens: a block of threads for each sequence and head of keys, the context split over idle multiprocessors and
added up by a second kernel. Of prompts: a block for each tile of query rows, causal, beside reading and writing all of
it, after a kernel that appends the new keys and values. Appending is in both, as it is in what was measured.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from hwmodels.laws.generated_kernels import LEAST_PART, LEAST_ROWS, rows_of_block
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

_CONTEXT_BLOCK, _WIDE_CONTEXT_BLOCK = 128, 64
"""Cached tokens that a part of a split context keeps at least, assumed of libraries that name none; of heads wider than
any that a kernel names (FlashAttention 2: set_params_splitkv, 64 of heads wider than 128)."""

_MOST_PARTS = 128
"""Parts of a context at most: what csrc/flash_attn/flash_api.cpp and hopper/flash_api.cpp give num_splits_heuristic."""

_PACKED_ROWS = 64
"""Query rows of a block of a split context (kBlockM of the split kernels, csrc/flash_attn/flash_api.cpp)."""

_KEY_BLOCK = 64
"""Tokens to which a causal mask is rounded up, and of a window the block that is only partly in it: assumed."""


def decode_attention(
    c: Mapping[str, Number],
    rates: CardRates,
    kernel: AttentionKernel,
    n_sequences: Number,
    n_heads: Number,
    n_kv_heads: Number,
    context: Number,
    token_bytes: Number,
    *,
    head_width: Number = 128.0,
    window: Number = 0.0,
    warm: bool = False,
) -> KernelTime:
    """One new token for each of `n_sequences` over `context` cached tokens of `token_bytes`, heads `head_width` wide.

    `window`: 0 where all of them are seen, else how many at most, and `context` is no more than that; it is read in
    whole blocks of keys, of which it touches one more. `warm`: they were read just before, as in a benchmark.
    """
    bound = (np.real(window) > 0) & (np.real(context) >= np.real(window))
    context = context + np.where(bound, _KEY_BLOCK, 0.0)
    apart = (np.real(window) > 0) & (not kernel.packs_window)
    shared = np.where(apart, 1.0, n_heads / n_kv_heads)
    read_bytes = n_sequences * context * token_bytes
    rows = rows_of_block(shared) if kernel.generated else float(_PACKED_ROWS)
    n_blocks = n_sequences * np.where(apart, n_heads, n_kv_heads) * rounded_up(shared / rows)
    block = _key_block(kernel, head_width)
    pieces = rounded_up(context / block)
    wave_s = c["wave_s"]
    if kernel.generated:
        parts = smaller_of(np.floor(np.real(rates.n_sm) / n_blocks), rounded_up(context / LEAST_PART))
        wave_s = wave_s * np.sqrt(rows / LEAST_ROWS)
    else:
        parts = smaller_of(smaller_of(np.floor(2 * np.real(rates.n_sm) / n_blocks), pieces), float(_MOST_PARTS))
    parts = larger_of(parts, 1.0)
    if not kernel.splits_alone:
        parts = np.where(np.real(shared) > 1, parts, 1.0)
    waves = rounded_up(n_blocks * parts / rates.n_sm)
    piece_bytes = block * token_bytes / n_kv_heads
    piece_s = piece_bytes * rates.n_sm / (c["core"] * rates.bytes_per_s)
    blocks_s = waves * ((rounded_up(pieces / parts) + c["fill"]) * piece_s + wave_s)
    blocks_s = blocks_s + np.where(parts > 1, c["split_s"] + c["part_s"] * parts, 0.0)
    share = 1 / c["memory"]
    if warm:
        kept = share_within(read_bytes, c["kept"] * rates.l2_bytes)
        share = (1 - kept) / c["memory"] + kept / c["cache"]
    fixed_s = c["fixed_s"] + c["sequences_s"] * np.sqrt(n_sequences)
    if kernel.permutes:
        turned = (np.real(n_sequences) > 1) & (np.real(n_kv_heads) > 1) & (np.real(shared) > 1)
        fixed_s = fixed_s + np.where(turned, c["permute_s"], 0.0)
    return overlapped(fixed_s, blocks_s, read_bytes / rates.bytes_per_s * share, (0.0, 1.0))


def _key_block(kernel: AttentionKernel, head_width: Number) -> Number:
    """Cached tokens that a block of threads takes at a time."""
    if not kernel.key_blocks:
        return float(_CONTEXT_BLOCK)
    block: Number = np.full(np.shape(head_width), float(_WIDE_CONTEXT_BLOCK))
    for widest, keys in reversed(kernel.key_blocks):
        block = np.where(np.real(head_width) <= widest, float(keys), block)
    return block


def context_attention(
    c: Mapping[str, Number],
    rates: CardRates,
    kernel: AttentionKernel,
    n_sequences: Number,
    n_heads: Number,
    n_kv_heads: Number,
    new_tokens: Number,
    key_width: Number,
    value_width: Number,
    token_bytes: Number,
    *,
    before: Number = 0.0,
    window: Number = 0.0,
    warm: bool = False,
) -> KernelTime:
    """`new_tokens` of each of `n_sequences` over themselves, causal, and over `before` cached tokens.

    `window`: how many tokens each sees at most, itself among them, 0 all.
    """
    rows, shared = float(kernel.block_rows), n_heads / n_kv_heads
    per_head = new_tokens * (shared if kernel.packs_prompt else 1.0)
    n_blocks = n_sequences * (n_kv_heads if kernel.packs_prompt else n_heads) * rounded_up(per_head / rows)
    whole = before + rounded_up(new_tokens / _KEY_BLOCK) * _KEY_BLOCK
    mean = np.where(np.real(new_tokens) <= rows, whole, before + (new_tokens + rows) / 2)
    if np.any(np.real(window) > 0):
        beyond = (np.real(window) > 0) & (np.real(before + new_tokens) > np.real(window))
        most = window + rows
        ramp = larger_of(window - before, 0.0) / 2 / new_tokens  # the first rows see fewer than a window
        whole = np.where(beyond, smaller_of(whole, most), whole)
        mean = np.where(beyond, smaller_of(whole, most * (1 - ramp)), mean)
    key_s = rows * 2 * (key_width + value_width + 2 * c["softmax"]) * rates.n_sm / (c["peak"] * rates.flop_per_s)
    filled = n_blocks / rates.n_sm
    waves = (larger_of(filled, 1.0) + rounded_up(filled)) / 2
    compute_s = smooth_maximum(waves * (mean * key_s + c["tile_s"]), whole * key_s + c["tile_s"])
    passed = 2.0 * n_sequences * new_tokens * n_heads * (key_width + value_width)
    read = n_sequences * (new_tokens + before) * token_bytes
    appended = 2 * n_sequences * new_tokens * token_bytes
    share = 1 / c["memory"]
    if warm:
        kept = share_within(passed + read, c["kept"] * rates.l2_bytes)
        share = (1 - kept) / c["memory"] + kept / c["cache"]
    traffic_s = (passed + read) / rates.bytes_per_s * share
    attended = overlapped(c["fixed_s"], compute_s, traffic_s, (compute_s, traffic_s))
    return attended.plus(KernelTime(0.0, 0.0, appended * c["append"] / rates.bytes_per_s))
