"""The least time of kernels, tiles of fused experts, and fixed times that are cycles; by hand."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
import pytest

from hwmodels.cost import parts_of, price, price_figures
from hwmodels.figures import figures_of
from hwmodels.kernels.floors import fused_s, merged
from hwmodels.platform import Platform, load_platform
from hwmodels.stacks.stack import FLOORS
from hwmodels.stacks.stack_files import load_stack
from offload import ffn_work, work
from offload.ops import Gemm, OpKind, Work
from traces.errors import InvalidInput, UnknownName
from traces.model.architecture import load_architecture

QWEN = load_architecture("qwen3-30b-a3b")


def claimed(hardware: str, stack: str, overrides: Mapping[str, float | str] | None = None) -> Platform:
    """A machine as if nobody had measured kernels on it."""
    return dataclasses.replace(load_platform(hardware, stack, overrides), fit=None)


VLLM = claimed("a100-sxm4-80gb", "vllm")


def seconds(what: Work, **overrides: float) -> float:
    hw = claimed("a100-sxm4-80gb", "vllm", {f"stack.{name}": value for name, value in overrides.items()})
    return float(price([what], hw).duration_s[0])


def test_a_fused_op_of_few_experts_takes_its_floor_and_of_many_its_bytes() -> None:
    few, many = (ffn_work.experts_work(QWEN, [1] * n, fused=True) for n in (1, 128))
    assert seconds(few, experts_floor_s=50e-6) == pytest.approx(50e-6)
    read_s = many.weight_bytes / (VLLM.machine.accelerator.hbm_bytes_per_s * VLLM.constant("hbm_efficiency"))
    assert seconds(many, experts_floor_s=50e-6) == pytest.approx(read_s + 7 * VLLM.constant("kernel_s"))


def test_a_floor_is_all_that_an_op_takes_whatever_it_computes_meanwhile() -> None:
    busy = ffn_work.experts_work(QWEN, [4000], fused=True)
    assert seconds(busy, experts_floor_s=1.0) == pytest.approx(1.0, rel=1e-12)
    assert 1e-5 < seconds(busy, experts_floor_s=1e-9) < 1e-2


def test_128_experts_in_one_op_take_what_was_measured_where_one_each_takes_three_times_as_long() -> None:
    """818 us measured on an A100 (1.79 TB/s of bf16 weights), 2,333 us with an op an expert."""
    fused = seconds(ffn_work.experts_work(QWEN, [1] * 128, fused=True))
    assert fused == pytest.approx(818e-6, rel=0.2)
    hw = claimed("a100-sxm4-80gb", "streams")
    each = float(price([ffn_work.experts_work(QWEN, [1])], hw).duration_s[0]) * 128
    assert each > 2.5 * fused


def test_narrow_experts_have_a_floor_of_their_own() -> None:
    narrow = dataclasses.replace(QWEN, expert_dtype=load_architecture("deepseek-v3").expert_dtype)
    assert narrow.expert_dtype.name == "fp8-b128"
    what = ffn_work.experts_work(narrow, [1], fused=True)
    assert seconds(what, experts_floor_s=1e-3, narrow_experts_floor_s=40e-6) == pytest.approx(40e-6)


def test_an_attention_reads_its_context_after_its_floor() -> None:
    short, long = (work.self_attention_work(QWEN, QWEN.decoder, 1, n, n) for n in (1, 8192))
    read_s = (long.hbm_bytes - short.hbm_bytes) / figures_of(VLLM).hbm_bytes_per_s
    assert seconds(long) - seconds(short) == pytest.approx(read_s, rel=1e-9)
    floor_s, kernel_s = 20e-6, VLLM.constant("kernel_s")
    gained = seconds(short, attention_floor_s=floor_s) - seconds(short, attention_floor_s=kernel_s)
    assert gained == pytest.approx(floor_s - kernel_s)


def test_products_of_the_same_rows_are_one_kernel() -> None:
    what = work.self_attention_work(QWEN, QWEN.decoder, 1, 1, 1)
    assert merged(what) == [[0, 1, 2], [3]]
    small = Work(OpKind.GATE, (Gemm(1, 8, 8),), "bf16", 16.0)
    assert seconds(small, gemm_floor_s=9e-6) == pytest.approx(9e-6 + VLLM.constant("kernel_s"))  # and a norm


def test_rows_of_each_expert_are_padded_to_tiles_that_grow_with_them() -> None:
    figures = figures_of(VLLM)
    rate, bandwidth = figures.flop_per_s("bf16"), figures.hbm_bytes_per_s
    for tokens, padded in (([3, 1], 16 + 16), ([40, 20], 64 + 32), ([200, 90], 256 + 128)):
        up, down = fused_s(ffn_work.experts_work(QWEN, tokens, fused=True), figures, rate, bandwidth)
        assert up[0] * rate == pytest.approx(2 * 2 * padded * 768 * 2048)
        assert down[0] == pytest.approx(up[0] / 2)
        assert up[1] * bandwidth == pytest.approx(2 * 2 * 768 * 2048 * 2)


def test_a_product_of_two_rows_costs_more_than_of_one_by_matrix_and_by_clock() -> None:
    hw = claimed("rtx-4090", "llama-cpp-late-2025")
    extra_s = hw.constant("tiled_gemm_s")
    assert extra_s > 0
    for one, two, n, n_kernels in (
        (
            work.self_attention_work(QWEN, QWEN.decoder, 1, 9, 9),
            work.self_attention_work(QWEN, QWEN.decoder, 2, 9, 9),
            4,
            0,
        ),
        (ffn_work.experts_work(QWEN, [1] * 8, fused=True), ffn_work.experts_work(QWEN, [1] * 16, fused=True), 3, 6),
    ):
        fixed = [parts_of(what, figures_of(hw)).fixed_s for what in (one, two)]
        assert fixed[1] - fixed[0] == pytest.approx(n * extra_s + n_kernels * hw.constant("kernel_s"))
        slow = claimed("rtx-4090", "llama-cpp-late-2025", {"accelerator.clock_hz": 1.26e9})
        assert parts_of(two, figures_of(slow)).fixed_s == pytest.approx(2 * fixed[1])


def test_products_that_vector_kernels_take_have_no_tiles() -> None:
    """llama.cpp of 2026 multiplies up to eight tokens row by row, and keeps their graph."""
    hw = claimed("rtx-4090", "llama-cpp")
    of_three = [ffn_work.experts_work(QWEN, [1] * 8 * n, fused=True) for n in (1, 2)] + [
        ffn_work.experts_work(QWEN, [n] * 8, fused=True) for n in (8, 9)
    ]
    fixed = [parts_of(what, figures_of(hw)).fixed_s for what in of_three]
    assert fixed[:3] == [fixed[0]] * 3
    assert fixed[3] - fixed[0] == pytest.approx(3 * hw.constant("tiled_gemm_s") + 6 * hw.constant("kernel_s"))
    attends = [work.self_attention_work(QWEN, QWEN.decoder, n, 9 * n, 9) for n in (1, 8, 9)]
    one, eight, nine = (parts_of(what, figures_of(hw)).fixed_s for what in attends)
    assert one == eight < nine


def test_latents_take_more_kernels_where_a_stack_counts_them() -> None:
    stack, lite = load_stack("llama-cpp"), load_architecture("deepseek-v2-lite")
    latent = work.self_attention_work(lite, lite.decoder, 1, 9, 9)
    assert stack.launches_of(latent) == stack.latent_launches > stack.launches[OpKind.SELF_ATTENTION]
    assert stack.launches_of(work.self_attention_work(QWEN, QWEN.decoder, 1, 9, 9)) == stack.launches[latent.kind]
    plain = load_stack("vllm")
    assert plain.launches_of(latent) == plain.launches[OpKind.SELF_ATTENTION]


def test_many_machines_are_priced_to_the_bit_as_one() -> None:
    works = [
        ffn_work.experts_work(QWEN, [1] * n, fused=True) for n in (1, 40)
    ] + [work.self_attention_work(QWEN, QWEN.decoder, n, 900, 900) for n in (1, 5)]  # fmt: skip
    for name in ("vllm", "llama-cpp"):
        figures = figures_of(claimed("rtx-4090", name))
        rates = np.array([3e11, 1e12, 4e12])
        many = price_figures(works, figures.with_values({"accelerator.hbm_bytes_per_s": rates}), 3).duration_s
        for i, rate in enumerate(rates.tolist()):
            one = price_figures(works, figures.with_values({"accelerator.hbm_bytes_per_s": rate})).duration_s
            assert many[:, i].tolist() == one.tolist()


def test_floors_are_of_kinds_that_there_are_and_claims_that_a_fit_does_not_make() -> None:
    assert {f"{kind}_floor_s" for kind in FLOORS} <= set(VLLM.constants)
    assert not [name for name in load_platform("a100-sxm4-80gb").constants if name.endswith("_floor_s")]
    with pytest.raises(UnknownName, match="experts_floor_s"):
        load_platform("rtx-4090", "vllm", {"stack.expert_floor_s": 1e-6})
    with pytest.raises(InvalidInput, match="above 1"):
        load_platform("rtx-4090", "vllm", {"stack.memory_share": 1.1})


def test_a_machine_that_nobody_measured_fuses_what_stays() -> None:
    claimed, fitted = load_platform("h100-sxm", "streams"), load_platform("a100-sxm4-80gb")
    assert (claimed.execution.resident, claimed.execution.arriving) == ("layer", "each")
    assert claimed.stack.execution.resident == "each"  # what the runtime executes
    assert fitted.execution is fitted.stack.execution
