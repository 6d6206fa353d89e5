"""Ops priced by laws: what they say of a model, on one machine and on many, and what lies within what was measured."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

import pregate
from hwmodels.cost import parts_of, price, price_figures
from hwmodels.figures import figures_of
from hwmodels.fits.coverage import coverage
from hwmodels.fits.fit_files import fit_names, load_fit
from hwmodels.laws.pricing import kernels_of
from hwmodels.platform import Platform, load_platform
from offload import ffn_work, work
from offload.ops import Gemm, OpKind, Work
from pregate.ask.capturing.capture import capture
from traces.model.architecture import load_architecture

QWEN = load_architecture("qwen3-30b-a3b")


@pytest.fixture(scope="module")
def h100() -> Platform:
    return load_platform("h100-sxm", "vllm")


def works() -> list[Work]:
    stack = QWEN.decoder
    return [
        work.self_attention_work(QWEN, stack, 32, 32 * 700, 32 * 700, n_sequences=32),
        work.self_attention_work(QWEN, stack, 32, 32 * 900, 32 * 900, n_sequences=32),
        work.self_attention_work(QWEN, stack, 2048, 2048, 2048 * 1024, n_sequences=1),
        work.gate_work(QWEN, 32),
        ffn_work.experts_work(QWEN, [2] * 100, fused=True),
        ffn_work.experts_work(QWEN, [1]),
        work.head_work(QWEN, 32),
    ]


def test_fused_experts_cost_what_a_table_of_them_says(h100: Platform) -> None:
    seconds = price([ffn_work.experts_work(QWEN, [1] * 128, fused=True)], h100).duration_s[0]
    assert seconds == pytest.approx(420e-6, rel=0.15)  # measured: 420 us of 16 tokens, 2,048 by 768 by 128
    one_by_one = sum(price([ffn_work.experts_work(QWEN, [1])] * 128, h100).duration_s)
    assert one_by_one > 2 * seconds


def test_one_machine_and_many_get_the_same_seconds(h100: Platform) -> None:
    figures, n = figures_of(h100), 4
    many = figures.with_values(
        {
            "accelerator.hbm_bytes_per_s": figures["accelerator.hbm_bytes_per_s"] * np.linspace(0.5, 2, n),
            "accelerator.n_sm": np.array([64.0, 108.0, 132.0, 148.0]),
        }
    )
    together = price_figures(works(), many, n)
    for i in range(n):
        alone = price_figures(works(), many.of_machine(i))
        assert np.array_equal(together.duration_s[:, i], alone.duration_s)


def test_contexts_priced_together_are_those_priced_alone(h100: Platform) -> None:
    together = price(works(), h100).duration_s
    assert together.tolist() == [price([one], h100).duration_s[0] for one in works()]


def test_a_complex_step_takes_the_derivative_by_the_memory_rate(h100: Platform) -> None:
    figures, key, step = figures_of(h100), "accelerator.hbm_bytes_per_s", 1e-20
    at = figures[key]

    def seconds(rate: complex) -> complex:
        return complex(parts_of(works()[4], figures.with_values({key: rate})).total_s)

    slope = seconds(complex(at, step * at)).imag / (step * at)
    assert slope == pytest.approx((seconds(at * 1.0001) - seconds(at * 0.9999)).real / (0.0002 * at), rel=1e-3)


def test_parts_are_the_stack_s_kernels_and_what_binds(h100: Platform) -> None:
    parts = parts_of(works()[4], figures_of(h100))
    assert parts.hbm_s > parts.compute_s == 0
    assert parts.fixed_s > 10e-6
    prompt = parts_of(works()[2], figures_of(h100))
    assert prompt.compute_s > prompt.hbm_s


def test_queries_keys_and_values_are_one_product_and_appending_is_in_the_attention(h100: Platform) -> None:
    """As vLLM multiplies them (QKVParallelLinear), of eight kernels in its stack: three by laws, which append too."""
    one = work.self_attention_work(QWEN, QWEN.decoder, 1, 512, 512)
    wide, last, attention, left = (kernel.total_s for kernel, _ in kernels_of(one, figures_of(h100)))
    # measured: 10.1 us of 5,120 by 2,048, 9.9 of 2,048 by 4,096, 12.7 of 32 heads on 4 over 512 tokens
    assert (wide, last, attention) == pytest.approx((10.1e-6, 9.9e-6, 12.7e-6), rel=0.06)
    assert left == pytest.approx(4 * 2.9e-6)


@pytest.mark.parametrize("name", sorted(name for name in fit_names() if name.endswith(".vllm")))
def test_weights_alone_that_are_narrow_are_multiplied_as_their_rows_are(name: str) -> None:
    """AWQ's rows stay in 16 bits, so no law of quantised rows is of them, though it reads as few bits: an RTX PRO 6000
    took 20 us for an output projection in 4 bits by that of nvfp4, 13 in 16 bits.
    """
    hw = load_platform(name.removesuffix(".vllm"), "vllm")
    figures = figures_of(hw)
    wide = dataclasses.replace(figures, laws=tuple(law for law in figures.laws if law.form != "quantised_gemm"))
    narrow = QWEN.with_formats({"all": "int4-g128"})
    for rows in (1, 2, 8, 9, 16, 64):
        for n, k in ((5120, 2048), (2048, 4096), (151936, 2048)):
            four, sixteen = (Work(OpKind.HEAD, (Gemm(rows, n, k),), "bf16", bits) for bits in (4.125, 16.0))
            (in_four, _), *_ = kernels_of(four, figures)
            assert in_four.total_s == next(kernels_of(four, wide))[0].total_s
            assert n * k * 4.125 / 8 / figures["accelerator.hbm_bytes_per_s"] < in_four.total_s
            assert in_four.total_s < next(kernels_of(sixteen, figures))[0].total_s
    assert narrow.compute_format(narrow.dtype) == "bf16"


def test_narrow_weights_take_as_few_rows_a_tile_as_hold_theirs() -> None:
    """A GeForce multiplies at half the rate of its sister for servers: 64 rows for one would bind it, 8 do not."""
    four = Work(OpKind.HEAD, (Gemm(1, 151936, 2048),), "bf16", 4.125)
    geforce, server = (figures_of(load_platform(name, "vllm")) for name in ("rtx-5090", "rtx-pro-6000"))
    both = [next(kernels_of(four, figures))[0].total_s for figures in (geforce, server)]
    assert both[0] == pytest.approx(both[1], rel=0.05)  # both read 1.79 TB/s


def test_an_output_as_wide_as_its_queries_stays_a_product_of_its_own(h100: Platform) -> None:
    mixtral = load_architecture("mixtral-8x7b")
    one = work.self_attention_work(mixtral, mixtral.decoder, 1, 384, 384)
    assert (one.gemms[0].n, one.gemms[0].k) == (one.gemms[-1].n, one.gemms[-1].k)
    assert len(list(kernels_of(one, figures_of(h100)))) == 4


def test_what_was_not_measured_is_beyond_the_fit_with_its_share(h100: Platform) -> None:
    assert coverage([works()[0]], h100).share == 1
    assert coverage([works()[0]], h100).beyond == ""
    head = works()[-1]  # 151,936 columns: the table ends at 65,536
    assert coverage([head], h100).share < 0.1
    assert coverage([head], h100).beyond.startswith("kernels (9")
    wide = ffn_work.experts_work(QWEN, [1] * 128, fused=True)._replace(weight_bits=6.0)
    assert coverage([wide], h100).beyond.startswith("kernels")
    several = dataclasses.replace(h100.fit, laws=h100.fit.laws[:1])  # type: ignore[type-var]
    bare = dataclasses.replace(h100, fit=several)
    assert coverage([works()[0]], bare).share < 1  # no law of attention: a roofline


def test_works_that_are_looked_at_together_are_covered_as_each_alone(h100: Platform) -> None:
    """Steps whose contexts grow out of what was measured, and experts with ever other rows, some of them too many."""
    steps = [
        work.self_attention_work(QWEN, QWEN.decoder, 32, 32 * n, 32 * n, n_sequences=32)
        for n in (7, 700, 70_000, 900_000)
    ]
    experts = [ffn_work.experts_work(QWEN, rows, fused=True) for rows in ([2] * 100, [1, 5], [40_000] * 128, [3])]
    asked, runs = (*works(), *steps, *experts, *steps), [1, 7, 3, 2, 9, 5, 4, *range(1, 13)]
    within_s = total_s = 0.0
    for one, count in zip(asked, runs, strict=True):
        for kernel, seen in kernels_of(one, figures_of(h100)):
            total_s, within_s = total_s + count * kernel.total_s, within_s + (count * kernel.total_s if seen else 0.0)
    found = coverage(asked, h100, runs)
    assert (found.within_s, found.total_s) == (within_s, total_s)
    assert 0 < found.within_s < found.total_s
    assert coverage([], h100).share == 1


def test_a_card_without_a_fit_is_lent_its_family_s_and_more_uncertain() -> None:
    lent, own = load_platform("gh200", "vllm"), load_platform("h100-sxm", "vllm")
    assert own.calibration("bf16") == "fitted"
    assert lent.calibration("bf16") == "extrapolated"
    assert lent.fit is not None
    assert own.fit is not None
    assert lent.fit.hardware in ("h100-sxm", "h200-sxm")
    laws = {law.form: law for law in load_fit(f"{lent.fit.hardware}.vllm").laws[::-1]}
    assert laws["gemm"].elsewhere is not None
    assert lent.fit.left_out["gate"].scatter == laws["gemm"].elsewhere.scatter
    assert lent.fit.left_out["gate"].scatter != own.fit.left_out["gate"].scatter
    assert load_platform("mi300x", "vllm").fit is None
    only = load_platform("rtx-4090", "vllm")  # an L40S is the one card of its family that was measured
    assert only.fit is not None
    assert only.fit.left_out["gate"].scatter >= 0.25


@pytest.mark.parametrize("name", ["h20", "h100-pcie", "h200-nvl"])
def test_a_card_unlike_those_that_were_left_out_is_as_uncertain_as_any(name: str) -> None:
    lent = load_platform(name, "vllm")  # an H20 has 78 multiprocessors and .15 of an H100's arithmetic
    assert lent.fit is not None
    assert min(error.scatter for error in lent.fit.left_out.values()) >= 0.25
    alike = load_platform("h800-sxm", "vllm")
    assert alike.fit is not None
    assert max(error.scatter for error in alike.fit.left_out.values()) < 0.25


def test_no_stack_but_the_tables_own_is_priced_by_laws() -> None:
    assert load_platform("h100-sxm").stack.name == "streams"
    assert load_platform("h100-sxm").fit is None
    assert load_platform("a100-sxm4-80gb").stack.name == "fastertransformer"


def test_latent_attention_absorbed_is_never_faster_than_its_scores_multiply(h100: Platform) -> None:
    model = load_architecture("deepseek-v2-lite")
    long = work.self_attention_work(model, model.decoder, 64, 64 * 30000, 64 * 30000, n_sequences=64)
    parts = parts_of(long, figures_of(h100))
    least_s = long.flop / h100.machine.accelerator.peak_flop_per_s["bf16"]
    assert parts.total_s > least_s
    assert long.kind is OpKind.SELF_ATTENTION
    assert coverage([long], h100).beyond == ""  # there is a law of latents


@pytest.mark.parametrize("hardware", ["a100-sxm4-80gb", "h100-sxm"])
def test_fused_ops_priced_together_are_priced_as_each_alone(hardware: str) -> None:
    """Also where the tile depends on how many tokens an op has: an A100's experts run in Triton's default."""
    hw, model = load_platform(hardware, "vllm"), pregate.load_model("qwen3-30b-a3b")
    trace = pregate.synthesize(model, 160, 4, 2)
    asked = capture(model, hw, trace, "gpu_only").decoded.schedule.works
    together = price(asked, hw).duration_s
    assert len({one.fused for one in asked}) > 4
    assert together.tolist() == [float(price([one], hw).duration_s[0]) for one in asked]
