"""What each law is asked where a table is fitted: a benchmark's kernels, spelled out shape by shape."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from hwmodels.laws.attention import context_attention, decode_attention
from hwmodels.laws.benchmark_conditions import MEASURED
from hwmodels.laws.gemm import dense_gemm
from hwmodels.laws.latent_attention import latent_decode
from hwmodels.laws.law_forms import FORMS, KERNELS
from hwmodels.laws.moe import ExpertGroup, expert_rows_of, fused_experts
from hwmodels.laws.rates import KernelTime
from tests.unit.hwmodels.laws.longhand import SEEDS, drawn

SHAPES = {
    "gemm": {"m": 7.0, "n": 1920.0, "k": 1152.0},
    "decode_attention": {"n_sequences": 6, "n_heads": 24, "n_kv_heads": 4, "head_width": 64, "context": 3000},
    "context_attention": {"n_sequences": 3, "n_heads": 24, "n_kv_heads": 4, "head_width": 96, "context": 700},
    "latent_decode": {"n_sequences": 6, "n_heads": 24, "key_width": 576, "value_width": 512, "context": 3000},
    "latent_context": {"n_sequences": 3, "n_heads": 24, "key_width": 192, "value_width": 128, "context": 700},
    "experts": {"n_tokens": 50.0, "d_model": 2048.0, "d_ff": 768.0, "top_k": 3.0, "n_experts": 40.0, "n_up": 2.0},
}


def same(form: str, seed: int, wanted: KernelTime, bits: float = 16.0, kernel: str = "", **shape: Any) -> None:
    """What is asked under the name of a law is `wanted`, of one shape and of many."""
    c, card = drawn(form, seed)
    at = {**SHAPES[form.removeprefix("quantised_")], **shape}
    for found in (
        MEASURED[form](c, card, at, bits, kernel),
        [part[1] if np.ndim(part) else part
         for part in MEASURED[form](c, card, {name: np.array([x, x]) for name, x in at.items()}, bits, kernel)],
    ):  # fmt: skip
        assert [float(part) for part in found] == pytest.approx([float(part) for part in wanted], rel=1e-13, abs=0)


def test_every_law_is_measured_in_some_way() -> None:
    assert list(MEASURED) == list(FORMS)


@pytest.mark.parametrize("seed", SEEDS)
def test_six_weight_matrices_are_read_in_turn_and_rows_are_quantised_as_weights_are(seed: int) -> None:
    shape = 7.0, 1920.0, 1152.0
    c, card = drawn("gemm", seed)
    for bits, cycled in ((16.0, 6 * 1920 * 1152 * 2.0), (4.0, 6 * 1920 * 1152 / 2)):
        wanted = dense_gemm(c, card, *shape, weight_bits=bits, activation_bits=16, cycled_bytes=cycled)
        same("gemm", seed, wanted, bits)
    wide = dense_gemm(c, card, *shape, cycled_bytes=6 * 1920 * 1152 * 2.0, dispatch="wgmma")
    same("gemm", seed, wide, kernel="wgmma")
    c, card = drawn("quantised_gemm", seed)
    cycled = 6 * 1920 * 1152 * 1.0
    by = {"weight_bits": 8.0, "activation_bits": 8.0, "cycled_bytes": cycled}
    same("quantised_gemm", seed, dense_gemm(c, card, *shape, **by), 8.0)
    chosen = dense_gemm(c, card, *shape, **by, dispatch="cutlass-sm90")
    same("quantised_gemm", seed, chosen, 8.0, "cutlass-sm90")


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("kernel", ["flash-attention-2", "flash-attention-3", "trtllm-gen"])
def test_keys_and_values_of_a_context_are_read_again_and_no_more_than_a_window_of_them(seed: int, kernel: str) -> None:
    c, card = drawn("decode_attention", seed)

    def wanted(seen: int, window: float, n_bytes: float) -> KernelTime:
        how = KERNELS[kernel]
        return decode_attention(c, card, how, 6, 24, 4, seen, n_bytes, head_width=64.0, window=window, warm=True)

    two_bytes, one_byte = 2 * 4 * 64 * 2.0, 2 * 4 * 64 * 1.0
    same("decode_attention", seed, wanted(3000, 0.0, two_bytes), 16.0, kernel)
    same("decode_attention", seed, wanted(3000, 0.0, one_byte), 8.0, kernel)
    same("decode_attention", seed, wanted(512, 512.0, two_bytes), 16.0, kernel, window=512)
    same("decode_attention", seed, wanted(3000, 4096.0, two_bytes), 16.0, kernel, window=4096)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("kernel", ["flash-attention-2", "flash-attention-3", "trtllm-gen"])
def test_a_prompt_is_attended_to_from_its_first_token(seed: int, kernel: str) -> None:
    c, card = drawn("context_attention", seed)

    def wanted(window: float, n_bytes: float) -> KernelTime:
        sizes = 3, 24, 4, 700, 96, 96, n_bytes
        return context_attention(c, card, KERNELS[kernel], *sizes, before=0.0, window=window, warm=True)

    same("context_attention", seed, wanted(0.0, 2 * 4 * 96 * 2.0), 16.0, kernel)
    same("context_attention", seed, wanted(0.0, 2 * 4 * 96 * 1.0), 8.0, kernel)
    same("context_attention", seed, wanted(256.0, 2 * 4 * 96 * 2.0), 16.0, kernel, window=256)


@pytest.mark.parametrize("seed", SEEDS)
def test_latents_are_read_as_they_are_kept_and_a_prompt_over_keys_and_values_of_every_head(seed: int) -> None:
    c, card = drawn("latent_decode", seed)
    for bits, n_bytes in ((16.0, 576 * 2.0), (8.0, 576 * 1.0)):
        for kernel in ("flash-mla", "triton-mla"):
            wanted = latent_decode(c, card, KERNELS[kernel], 6, 24, 3000, 576, 512, n_bytes, warm=True)
            same("latent_decode", seed, wanted, bits, kernel)
    c, card = drawn("latent_context", seed)
    sizes = 3, 24, 24, 700, 192, 128, 24 * (192 + 128) * 2.0
    for bits in (8.0, 16.0):  # they were decompressed
        for kernel in ("fmha-64", "fmha-128"):
            wanted = context_attention(c, card, KERNELS[kernel], *sizes, warm=True)
            same("latent_context", seed, wanted, bits, kernel)


@pytest.mark.parametrize("seed", SEEDS)
def test_rows_are_spread_evenly_over_the_experts_that_they_reach(seed: int) -> None:
    """150 rows reach all of 40 experts, four each; 6 rows reach six."""
    c, card = drawn("experts", seed)
    for n_tokens, n_experts, each in ((50.0, 40.0, 4), (2.0, 6.0, 1)):
        rows = expert_rows_of([ExpertGroup(n_experts, each)], n_tokens)
        for bits in (16.0, 8.0):
            wanted = fused_experts(c, card, rows, 2048.0, 768.0, 2.0, weight_bits=bits, warm=True)
            same("experts", seed, wanted, bits, n_tokens=n_tokens)
    one_up = fused_experts(c, card, expert_rows_of([ExpertGroup(40.0, 4)], 50.0), 2048.0, 768.0, 1.0, warm=True)
    same("experts", seed, one_up, n_up=1.0)


@pytest.mark.parametrize("seed", SEEDS)
def test_experts_are_cut_as_their_kernel_does(seed: int) -> None:
    """Of eight experts some widths were tuned, of other numbers none."""
    c, card = drawn("experts", seed)

    def wanted(n_experts: float, each: int, d_ff: float, **how: bool) -> KernelTime:
        rows = expert_rows_of([ExpertGroup(n_experts, each)], 50.0)
        return fused_experts(c, card, rows, 2048.0, d_ff, 2.0, warm=True, **how)

    same("experts", seed, wanted(40.0, 4, 1792.0, by_default=True), kernel="triton-default", d_ff=1792.0)
    same("experts", seed, wanted(8.0, 19, 768.0, by_default=True), kernel="triton-default", n_experts=8.0)
    tuned = {"n_experts": 8.0, "d_ff": 1792.0}
    same("experts", seed, wanted(8.0, 19, 1792.0, by_default=False), kernel="triton-default", **tuned)
    same("experts", seed, wanted(40.0, 4, 768.0, by_core=True), kernel="flashinfer-cutlass")


def test_which_of_many_experts_were_tuned_is_told_one_by_one() -> None:
    c, card = drawn("experts", 0)
    many = {name: np.full(3, x) for name, x in SHAPES["experts"].items()}
    many |= {"n_experts": np.array([8.0, 8.0, 40.0]), "d_ff": np.array([1792.0, 768.0, 1792.0])}
    found = MEASURED["experts"](c, card, many, 16.0, "triton-default").total_s
    for i, by_default in enumerate((False, True, True)):
        n_experts, d_ff = float(many["n_experts"][i]), float(many["d_ff"][i])
        rows = expert_rows_of([ExpertGroup(n_experts, -(-150 // n_experts))], 50.0)
        one = fused_experts(c, card, rows, 2048.0, d_ff, 2.0, warm=True, by_default=by_default)
        assert found[i] == pytest.approx(float(one.total_s), rel=1e-13)
