"""Laws of kernels against the same laws in longhand: one machine, one shape, tile by tile, in powers and minima.

Constants and cards are drawn, so that no term of a law hides behind another, and every part of a kernel is compared.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from hwmodels.laws.attention import context_attention, decode_attention
from hwmodels.laws.forms import FORMS, KERNELS, AttentionKernel
from hwmodels.laws.gemm import dense_gemm
from hwmodels.laws.generated_kernels import LatentBlocks, latent_blocks, rows_of_block
from hwmodels.laws.latent_attention import latent_decode
from hwmodels.laws.moe import ExpertGroup, expert_rows_of, fused_experts
from hwmodels.laws.rates import (
    CardRates,
    KernelTime,
    larger_of,
    overlapped,
    rounded_up,
    share_within,
    smaller_of,
    smooth_maximum,
)

Constants = dict[str, float]
SEEDS = range(6)
"""Of cards and constants."""


def drawn(form: str, seed: int) -> tuple[Constants, CardRates]:
    """Constants of a law, each up to three times more or less than where a fit starts, and a card."""
    rng = np.random.default_rng([seed, len(form)])
    constants = {name: at * float(np.exp(rng.uniform(-1.1, 1.1))) for name, (_, at) in FORMS[form].constants.items()}
    card = CardRates(
        float(rng.uniform(1e14, 1e15)),
        float(rng.uniform(3e11, 4e12)),
        float(rng.integers(20, 160)),
        rng.uniform(4e6, 6e7),
    )
    return constants, card


def either(a: float, b: float) -> float:
    """The fourth root of the sum of fourth powers."""
    return float((a**4 + b**4) ** 0.25)


def passes(amount: float, limit: float) -> float:
    return float(1 / (1 + (amount / limit) ** 12))


def of_memory(c: Constants, card: CardRates, n_bytes: float, warm: float | None) -> float:
    """Seconds of bytes from memory; of `warm` bytes that were just read the cache has kept a share."""
    kept = 0.0 if warm is None else passes(warm, c["kept"] * card.l2_bytes)
    return n_bytes / card.bytes_per_s * ((1 - kept) / c["memory"] + kept / c["cache"])


def alike(found: KernelTime, fixed_s: float, compute_s: float, hbm_s: float) -> None:
    parts = [float(part) for part in found]
    assert parts == pytest.approx([fixed_s, compute_s, hbm_s], rel=1e-12, abs=0)
    assert float(found.total_s) == pytest.approx(fixed_s + compute_s + hbm_s, rel=1e-12)


def test_kernels_add_up_part_by_part() -> None:
    one, other = KernelTime(1.0, 20.0, 300.0), KernelTime(4000.0, 50000.0, 600000.0)
    assert one.plus(other) == KernelTime(4001.0, 50020.0, 600300.0)
    assert one.times(3) == KernelTime(3.0, 60.0, 900.0)
    assert one.total_s == 321.0


def test_what_overlaps_takes_the_smooth_maximum_and_is_counted_as_what_the_roofline_says() -> None:
    both = either(2.0, 3.0)
    assert smooth_maximum(2.0, 3.0) == pytest.approx(both, rel=1e-15)
    for claimed, bound in (((5.0, 4.0), "compute"), ((4.0, 4.0), "compute"), ((4.0, 5.0), "memory")):
        found = overlapped(1.0, 2.0, 3.0, claimed)
        alike(found, 1.0, both if bound == "compute" else 0.0, 0.0 if bound == "compute" else both)


def test_choices_go_by_the_real_part_and_keep_a_derivative() -> None:
    a, b = 1 + 5j, 2 - 5j
    assert (smaller_of(a, b), smaller_of(b, a), larger_of(a, b), larger_of(b, a)) == (a, a, b, b)
    assert (smaller_of(a, 1 - 1j), larger_of(a, 1 - 1j)) == (a, a)  # the first of equals
    assert rounded_up(np.array([2.0, 2 + 1e-12, 2.1, 3 + 7j])).tolist() == [2, 2, 3, 3]
    assert share_within(3.0, 2.0) == pytest.approx(1 / (1 + 1.5**12), rel=1e-14)
    assert share_within(2.0, 2.0) == 0.5


TILES = ((64, 64), (64, 128), (128, 64), (128, 128), (128, 256), (256, 128), (64, 256))


def gemm_longhand(
    c: Constants, card: CardRates, m: float, n: float, k: float, bits: float, activation_bits: float,
    cycled: float | None, tiles: tuple[tuple[int, int], ...],
) -> tuple[float, float, float]:  # fmt: skip
    ways = []
    for rows, columns in tiles:
        element_s = either(2 * rows * columns * card.n_sm / (c["peak"] * card.flop_per_s), c["step_s"])
        n_tiles = math.ceil(m / rows) * math.ceil(n / columns)
        whole_s = math.ceil(n_tiles / card.n_sm) * element_s * (k + c["ramp"])
        parts = min(card.n_sm // n_tiles, k // 256)
        split_s = element_s * (k / parts + c["ramp"]) + c["split_s"] if parts > 1 else math.inf
        ways.append(min(whole_s, split_s + 4 * m * n * parts / card.bytes_per_s))
    tiles_s, flop = min(ways), 2 * m * n * k
    boosted = passes(tiles_s, c["boost_s"])
    tiles_s = boosted * tiles_s + (1 - boosted) * max(flop / (c["sustained"] * card.flop_per_s), tiles_s)
    weights = n * k * bits / 8
    moved_s = (m * k * activation_bits / 8 + 2 * m * n) * c["activations"] / card.bytes_per_s
    both = either(tiles_s, of_memory(c, card, weights, cycled) + moved_s)
    bound = flop / card.flop_per_s >= weights / card.bytes_per_s
    quantised_s = fixed_s = 0.0
    if "quantise" in c:
        fixed_s = c["quantise_s"] + (c["lone_row_s"] if m == 1 else 0.0)
        quantised_s = m * k * (16 + activation_bits) / 8 * c["quantise"] / card.bytes_per_s
    return c["fixed_s"] + fixed_s, both if bound else 0.0, (0.0 if bound else both) + quantised_s


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("form", ["gemm", "quantised_gemm"])
def test_a_product_is_its_fastest_tile_beside_its_traffic(form: str, seed: int) -> None:
    c, card = drawn(form, seed)
    for m, n, k in [
        (1, 64, 128), (1, 512, 512), (1, 1000, 4096), (2, 300, 700), (17, 4096, 511), (63, 200, 6000), (65, 129, 513),
        (128, 512, 8192), (300, 3000, 256), (1000, 257, 1024), (4096, 4096, 4096), (8192, 16384, 8192),
    ]:  # fmt: skip
        for bits, activation_bits, cycled in ((16.0, 16.0, None), (8.0, 8.0, 6.0), (4.5, 16.0, 0.9), (8.5, 8.0, 40.0)):
            read = None if cycled is None else cycled * n * k * bits / 8
            found = dense_gemm(c, card, m, n, k, weight_bits=bits, activation_bits=activation_bits, cycled_bytes=read)
            alike(found, *gemm_longhand(c, card, m, n, k, bits, activation_bits, read, TILES))
    alike(dense_gemm(c, card, 5, 300, 700), *gemm_longhand(c, card, 5, 300, 700, 16, 16, None, TILES))
    few = ((16, 64), (32, 32))
    alike(dense_gemm(c, card, 5, 300, 700, tiles=few), *gemm_longhand(c, card, 5, 300, 700, 16, 16, None, few))


def test_shapes_together_are_each_alone() -> None:
    c, card = drawn("quantised_gemm", 0)
    m, n, k = np.array([[1.0, 300.0, 65.0], [17.0, 1.0, 4096.0]]), np.array([512.0, 3000.0, 129.0]), 700.0
    together = dense_gemm(c, card, m, n, k)
    for i, j in np.ndindex(2, 3):
        alone = dense_gemm(c, card, m[i, j], n[j], k)
        assert [float(np.broadcast_to(part, (2, 3))[i, j]) for part in together] == [float(part) for part in alone]


def decode_longhand(
    c: Constants, card: CardRates, kernel: AttentionKernel, n_sequences: int, n_heads: int, n_kv_heads: int,
    context: float, token_bytes: float, window: float, warm: bool,
) -> tuple[float, float, float]:  # fmt: skip
    windowed, per_head = window > 0, n_heads // n_kv_heads
    if windowed and context >= window:
        context += 64
    if windowed and not kernel.packs_window:
        n_kv_heads_of_blocks, per_head = n_heads, 1
    else:
        n_kv_heads_of_blocks = n_kv_heads
    rows = next(rows for rows in (8, 16, 32, 64, 128) if per_head <= rows or rows == 128) if kernel.generated else 64
    n_blocks = n_sequences * n_kv_heads_of_blocks * math.ceil(per_head / rows)
    pieces = math.ceil(context / 128)
    if kernel.generated:
        parts, wave_s = min(card.n_sm // n_blocks, math.ceil(context / 512)), c["wave_s"] * math.sqrt(rows / 8)
    else:
        parts, wave_s = min(2 * card.n_sm // n_blocks, pieces, 128), c["wave_s"]
    parts = max(parts, 1)
    if not kernel.splits_alone and per_head == 1:
        parts = 1
    piece_s = 128 * token_bytes / n_kv_heads * card.n_sm / (c["core"] * card.bytes_per_s)
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
    for n_sequences, n_heads, n_kv_heads in [
        (1, 32, 8), (2, 32, 32), (3, 64, 4), (16, 8, 1), (2, 2, 1), (1, 256, 1), (7, 40, 40), (200, 32, 8), (5, 96, 1)
    ]:  # fmt: skip
        for context in (1.0, 127.0, 129.0, 512.0, 700.0, 5000.0, 60000.0):
            for window in (0.0, 128.0, 700.0, 4096.0):
                seen = min(context, window) if window else context
                for warm in (False, True):
                    sizes = n_sequences, n_heads, n_kv_heads, seen, 200.0 * n_kv_heads
                    found = decode_attention(c, card, kernel, *sizes, window=window, warm=warm)
                    alike(found, *decode_longhand(c, card, kernel, *sizes, window, warm))
    sizes = 3, 32, 8, 5000.0, 4096.0
    alike(decode_attention(c, card, kernel, *sizes), *decode_longhand(c, card, kernel, *sizes, 0.0, False))


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
    for n_sequences, n_heads, n_kv_heads in [(1, 32, 8), (2, 4, 4), (9, 16, 2)]:
        for new in (1.0, 60.0, 65.0, 129.0, 1000.0, 9000.0):
            for before in (0.0, 33.0, 5000.0):
                for window in (0.0, 64.0, 1100.0, 6000.0):
                    sizes = n_sequences, n_heads, n_kv_heads, new, 192, 128, 700.0 * n_kv_heads
                    for warm in (False, True):
                        found = context_attention(c, card, kernel, *sizes, before=before, window=window, warm=warm)
                        alike(found, *context_longhand(c, card, kernel, *sizes, before, window, warm))
    sizes = 2, 32, 8, 700.0, 128, 128, 4096.0
    alike(context_attention(c, card, kernel, *sizes), *context_longhand(c, card, kernel, *sizes, 0.0, 0.0, False))


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
    for shape in LATENT_SHAPES:
        for warm in (False, True):
            found = latent_decode(c, card, kernel, *shape, 576, 500, 1152.0, warm=warm)
            alike(found, *latents_longhand(c, card, kernel, *shape, 576, 500, 1152.0, warm))
    cold = latent_decode(c, card, kernel, 9, 64, 5000.0, 576, 500, 1152.0)
    alike(cold, *latents_longhand(c, card, kernel, 9, 64, 5000.0, 576, 500, 1152.0, False))


EXPERT_TILES = ((16, 64), (16, 128), (32, 64), (64, 64), (64, 128), (128, 128), (128, 256))


def experts_longhand(
    c: Constants, card: CardRates, rows_of: list[int], n_tokens: int, d_model: int, d_ff: int, n_up: int, bits: float,
    warm: bool, by_default: bool, by_core: bool,
) -> tuple[float, float, float]:  # fmt: skip
    n_rows, compute_s, hbm_s = sum(rows_of), 0.0, 0.0
    for n, k in ((n_up * d_ff, d_model), (d_model, d_ff)):
        tiles: Any = [(rows, columns, 64) for rows, columns in EXPERT_TILES]
        if by_default:
            tiles = [(16, 32, 64) if n_tokens <= len(rows_of) else (64, 64, 32)]
        ways = []
        for rows, columns, step in tiles:
            n_tiles = sum(math.ceil(one / rows) for one in rows_of) * math.ceil(n / columns)
            element_s = either(2 * rows * columns * card.n_sm / (c["peak"] * card.flop_per_s), c["step_s"] * 64 / step)
            ways.append(math.ceil(n_tiles / card.n_sm) * element_s * (k + c["ramp"]))
        weights = len(rows_of) * n * k * bits / 8
        read_s = of_memory(c, card, weights, weights if warm else None)
        if by_core:
            read_s *= card.bytes_per_s / (card.n_sm * 8e9)
        both = either(min(ways), read_s)
        if 2 * n_rows * n * k / card.flop_per_s >= weights / card.bytes_per_s:
            compute_s += both
        else:
            hbm_s += both
    moved = 2 * n_rows * (d_model + n_up * d_ff + d_ff + d_model)
    fixed_s = c["fixed_s"] + c["rows_s"] * math.sqrt(n_rows) + c["expert_s"] * len(rows_of)
    return fixed_s, compute_s, hbm_s + moved * c["activations"] / card.bytes_per_s


@pytest.mark.parametrize("seed", SEEDS)
def test_experts_pad_their_rows_to_tiles_of_their_own(seed: int) -> None:
    c, card = drawn("experts", seed)
    for rows_of, n_tokens in (
        ([1], 1), ([1] * 8, 1), ([1, 1, 17], 9), ([33] * 5, 20), ([200, 1, 64, 65], 80), ([700] * 64, 6000),
        ([2] * 7, 7),
    ):  # fmt: skip
        counts = {n: rows_of.count(n) for n in rows_of}
        rows = expert_rows_of([ExpertGroup(n_experts, n) for n, n_experts in counts.items()], n_tokens)
        assert rows[:3] == (len(rows_of), sum(rows_of), n_tokens)
        for d_model, d_ff, n_up, bits in ((512, 300, 1, 16.0), (2048, 768, 2, 8.0), (100, 3000, 2, 4.25)):
            for warm, by_default, by_core in np.ndindex(2, 2, 2):
                found = fused_experts(
                    c, card, rows, d_model, d_ff, n_up, weight_bits=bits, warm=bool(warm), by_default=bool(by_default),
                    by_core=bool(by_core),
                )  # fmt: skip
                wanted = experts_longhand(
                    c, card, rows_of, n_tokens, d_model, d_ff, n_up, bits, bool(warm), bool(by_default), bool(by_core)
                )
                alike(found, *wanted)
                mixed = fused_experts(
                    c, card, rows, d_model, d_ff, n_up, weight_bits=bits, warm=bool(warm), by_core=bool(by_core),
                    by_default=np.array([bool(by_default), not by_default]),
                )  # fmt: skip
                assert float(np.broadcast_to(mixed.total_s, 2)[0]) == pytest.approx(sum(wanted), rel=1e-12)
        plain = fused_experts(c, card, rows, 512, 300, 2)
        alike(plain, *experts_longhand(c, card, rows_of, n_tokens, 512, 300, 2, 16.0, False, False, False))
