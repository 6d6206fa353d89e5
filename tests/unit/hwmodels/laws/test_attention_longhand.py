"""Attention against its laws in longhand: one machine, one shape, in powers and minima.

Constants and cards are drawn, so that no term of a law hides behind another, and every part of a kernel is compared.
"""

from __future__ import annotations

import math

import numpy as np
import pytest

from hwmodels.laws.attention import context_attention, decode_attention
from hwmodels.laws.generated_kernels import LatentBlocks, latent_blocks, rows_of_block
from hwmodels.laws.latent_attention import latent_decode
from hwmodels.laws.law_forms import KERNELS, AttentionKernel
from hwmodels.laws.rates import (
    CardRates,
)
from tests.unit.hwmodels.laws.longhand import SEEDS, Constants, a_third, alike, drawn, either, of_memory


def decode_longhand(
    c: Constants, card: CardRates, kernel: AttentionKernel, n_sequences: int, n_heads: int, n_kv_heads: int,
    context: float, token_bytes: float, window: float, warm: bool, head_width: float = 128.0,
) -> tuple[float, float, float]:  # fmt: skip
    keys = 128.0
    if kernel.key_blocks:
        keys = next((float(n) for widest, n in kernel.key_blocks if head_width <= widest), 64.0)
    windowed, per_head = window > 0, n_heads // n_kv_heads
    if windowed and context >= window:
        context += 64
    if windowed and not kernel.packs_window:
        n_kv_heads_of_blocks, per_head = n_heads, 1
    else:
        n_kv_heads_of_blocks = n_kv_heads
    rows = next(rows for rows in (8, 16, 32, 64, 128) if per_head <= rows or rows == 128) if kernel.generated else 64
    n_blocks = n_sequences * n_kv_heads_of_blocks * math.ceil(per_head / rows)
    pieces = math.ceil(context / keys)
    if kernel.generated:
        parts, wave_s = min(card.n_sm // n_blocks, math.ceil(context / 512)), c["wave_s"] * math.sqrt(rows / 8)
    else:
        parts, wave_s = min(2 * card.n_sm // n_blocks, pieces, 128), c["wave_s"]
    parts = max(parts, 1)
    if not kernel.splits_alone and per_head == 1:
        parts = 1
    piece_s = keys * token_bytes / n_kv_heads * card.n_sm / (c["core"] * card.bytes_per_s)
    blocks_s = math.ceil(n_blocks * parts / card.n_sm) * ((math.ceil(pieces / parts) + c["fill"]) * piece_s + wave_s)
    if parts > 1:
        blocks_s += c["split_s"] + c["part_s"] * parts
    read = n_sequences * context * token_bytes
    fixed_s = c["fixed_s"] + c["sequences_s"] * math.sqrt(n_sequences)
    if kernel.permutes and n_sequences > 1 and n_kv_heads > 1 and per_head > 1:
        fixed_s += c["permute_s"]
    return fixed_s, 0.0, either(blocks_s, of_memory(c, card, read, read if warm else None))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", ["flash-attention-2", "flash-attention-3", "trtllm-gen"])
def test_one_new_token_waits_for_its_blocks_beside_reading_its_context(name: str, seed: int) -> None:
    c, card = drawn("decode_attention", seed)
    kernel = KERNELS[name]
    shapes = [
        (1, 32, 8), (2, 32, 32), (3, 64, 4), (16, 8, 1), (2, 2, 1), (2, 4, 2), (1, 256, 1), (7, 40, 40), (200, 32, 8),
        (5, 96, 1),
    ]  # fmt: skip
    contexts, windows = (1.0, 127.0, 129.0, 512.0, 700.0, 5000.0, 60000.0), (0.0, 1.0, 128.0, 700.0, 4096.0)
    for (n_sequences, n_heads, n_kv_heads), context, window, warm in a_third(
        seed, shapes, contexts, windows, (False, True)
    ):
        seen = min(context, window) if window else context
        of = n_sequences, n_heads, n_kv_heads, seen, 200.0 * n_kv_heads
        found = decode_attention(c, card, kernel, *of, window=window, warm=warm)
        alike(found, *decode_longhand(c, card, kernel, *of, window, warm))
    sizes = 3, 32, 8, 5000.0, 4096.0
    alike(decode_attention(c, card, kernel, *sizes), *decode_longhand(c, card, kernel, *sizes, 0.0, False))
    for width in (1.0, 63.0, 64.0, 65.0, 96.0, 128.0, 129.0, 192.0, 256.0, 257.0, 600.0):
        found = decode_attention(c, card, kernel, *sizes, head_width=width)
        alike(found, *decode_longhand(c, card, kernel, *sizes, 0.0, False, width))
    widths = np.array([64.0, 128.0, 600.0])
    together = decode_attention(c, card, kernel, *sizes, head_width=widths).total_s
    alone = [sum(decode_longhand(c, card, kernel, *sizes, 0.0, False, width)) for width in widths.tolist()]
    assert np.broadcast_to(together, 3).tolist() == pytest.approx(alone, rel=1e-12)


def context_longhand(
    c: Constants, card: CardRates, kernel: AttentionKernel, n_sequences: int, n_heads: int, n_kv_heads: int, new: float,
    key_width: int, value_width: int, token_bytes: float, before: float, window: float, warm: bool,
) -> tuple[float, float, float]:  # fmt: skip
    rows = kernel.block_rows
    if kernel.packs_prompt:
        n_blocks = n_sequences * n_kv_heads * math.ceil(new * n_heads / n_kv_heads / rows)
    else:
        n_blocks = n_sequences * n_heads * math.ceil(new / rows)
    whole = before + 64 * math.ceil(new / 64)
    mean = whole if new <= rows else before + (new + rows) / 2
    if window and before + new > window:
        most = window + rows
        whole = min(whole, most)
        mean = min(whole, most * (1 - max(window - before, 0) / 2 / new))
    key_s = 2 * rows * (key_width + value_width + 2 * c["softmax"]) * card.n_sm / (c["peak"] * card.flop_per_s)
    filled = n_blocks / card.n_sm
    waves = (max(filled, 1) + math.ceil(filled)) / 2
    compute_s = either(waves * (mean * key_s + c["tile_s"]), whole * key_s + c["tile_s"])
    moved = 2 * n_sequences * new * n_heads * (key_width + value_width) + n_sequences * (new + before) * token_bytes
    traffic_s = of_memory(c, card, moved, moved if warm else None)
    both, bound = either(compute_s, traffic_s), compute_s >= traffic_s
    appended_s = 2 * n_sequences * new * token_bytes * c["append"] / card.bytes_per_s
    return c["fixed_s"], both if bound else 0.0, (0.0 if bound else both) + appended_s


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", ["flash-attention-2", "flash-attention-3", "fmha-64"])
def test_a_prompt_multiplies_half_of_all_pairs_beside_its_traffic(name: str, seed: int) -> None:
    c, card = drawn("context_attention", seed)
    kernel = KERNELS[name]
    news, limits = (1.0, 60.0, 65.0, 129.0, 1000.0, 9000.0), (0.0, 1.0, 64.0, 1100.0, 6000.0)
    for (n_sequences, n_heads, n_kv_heads), new, before, window, warm in a_third(
        seed, [(1, 32, 8), (2, 4, 4), (9, 16, 2)], news, (0.0, 33.0, 5000.0), limits, (False, True)
    ):
        of = n_sequences, n_heads, n_kv_heads, new, 192, 128, 700.0 * n_kv_heads
        found = context_attention(c, card, kernel, *of, before=before, window=window, warm=warm)
        alike(found, *context_longhand(c, card, kernel, *of, before, window, warm))
    sizes = 2, 32, 8, 700.0, 128, 128, 4096.0
    alike(context_attention(c, card, kernel, *sizes), *context_longhand(c, card, kernel, *sizes, 0.0, 0.0, False))
    windows = np.array([0.0, 64.0, 800.0])
    together = context_attention(c, card, kernel, *sizes, window=windows)
    for i, window in enumerate(windows.tolist()):
        alone = context_longhand(c, card, kernel, *sizes, 0.0, window, False)
        assert float(together.total_s[i]) == pytest.approx(sum(alone), rel=1e-12)


@pytest.mark.parametrize(
    ("shared", "rows"), [(1, 8), (8, 8), (9, 16), (17, 32), (33, 64), (64, 64), (65, 128), (999, 128)]
)
def test_a_generated_kernel_has_the_fewest_rows_that_hold_the_heads(shared: int, rows: int) -> None:
    assert float(rows_of_block(shared)) == rows
    assert rows_of_block(np.array([shared, 8.0])).tolist() == [rows, 8]


def blocks_longhand(n_sm: int, n_sequences: int, n_heads: int, context: float) -> tuple[float, float]:
    narrow = n_sequences * math.ceil(n_heads / 16)
    parts = min(math.ceil(context / 256), max(n_sm // narrow, 1))
    if n_heads <= 32 or (math.ceil(context / parts) <= 1024 and narrow <= n_sm):
        return (8 if n_heads <= 8 else 16), 1.0
    return 64, (0.5 if n_heads > 64 else 1.0)


LATENT_SHAPES = [
    (n_sequences, n_heads, context)
    for n_sequences in (1, 2, 4, 9, 18, 33, 300)
    for n_heads in (4, 8, 9, 16, 32, 33, 64, 65, 128)
    for context in (2.0, 255.0, 257.0, 1024.0, 1025.0, 4100.0, 5000.0, 70000.0)
]


def test_blocks_of_heads_over_latents_are_narrow_while_all_have_room() -> None:
    for n_sm in (108, 132, 148):
        for n_sequences, n_heads, context in LATENT_SHAPES:
            found = latent_blocks(float(n_sm), n_sequences, n_heads, context)
            wanted = blocks_longhand(n_sm, n_sequences, n_heads, context)
            assert tuple(float(x) for x in found) == wanted, (n_sm, n_sequences, n_heads, context)
    assert isinstance(found, LatentBlocks)


def latents_longhand(
    c: Constants, card: CardRates, kernel: AttentionKernel, n_sequences: int, n_heads: int, context: float,
    key_width: int, value_width: int, token_bytes: float, warm: bool,
) -> tuple[float, float, float]:  # fmt: skip
    widths, read = key_width + value_width, n_sequences * context * token_bytes
    rows, share = float(kernel.block_rows), 1.0
    if kernel.generated:
        rows, share = blocks_longhand(int(card.n_sm), n_sequences, n_heads, context)
    of_heads = math.ceil(n_heads / rows)
    n_blocks, parts = n_sequences * of_heads, 1
    if kernel.splits:
        parts = max(min(card.n_sm // n_blocks, math.ceil(context / (512 if kernel.generated else 64))), 1)
    step_s = either(
        64 * token_bytes * share * card.n_sm / (c["core"] * card.bytes_per_s),
        2 * 64 * rows * widths * card.n_sm / (c["peak"] * card.flop_per_s),
    )
    steps = math.ceil(math.ceil(context / 64) / parts)
    blocks_s = math.ceil(n_blocks * parts / card.n_sm) * (steps * step_s + c["wave_s"])
    if parts > 1:
        blocks_s += c["split_s"] + c["part_s"] * parts
    traffic_s = of_memory(c, card, read, read if warm else None)
    traffic_s += read * (of_heads * share - 1) / c["cache"] / card.bytes_per_s
    traffic_s += 2 * n_sequences * n_heads * widths * c["activations"] / card.bytes_per_s
    fixed_s, each_s = c["fixed_s"], c["block_s"] * n_blocks
    if kernel.generated:
        blocks_s += each_s
    else:
        fixed_s += each_s
    both = either(blocks_s, traffic_s)
    bound = 2 * n_sequences * n_heads * context * widths / card.flop_per_s >= read / card.bytes_per_s
    return fixed_s, both if bound else 0.0, 0.0 if bound else both


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", ["flash-mla", "trtllm-gen-mla", "triton-mla", "whole-context-mla"])
def test_heads_over_one_latent_multiply_it_beside_reading_it_once(name: str, seed: int) -> None:
    c, card = drawn("latent_decode", seed)
    kernel = KERNELS[name]
    for shape, warm in a_third(seed, LATENT_SHAPES, (False, True)):
        found = latent_decode(c, card, kernel, *shape, 576, 500, 1152.0, warm=warm)
        alike(found, *latents_longhand(c, card, kernel, *shape, 576, 500, 1152.0, warm))
    cold = latent_decode(c, card, kernel, 9, 64, 5000.0, 576, 500, 1152.0)
    alike(cold, *latents_longhand(c, card, kernel, 9, 64, 5000.0, 576, 500, 1152.0, False))
