"""Which law an attention is priced by, at which sizes, and whether these lie within what was measured."""

from __future__ import annotations

import numpy as np
import pytest

from hwmodels.laws.attention import context_attention, decode_attention
from hwmodels.laws.fitted_law import FittedLaw
from hwmodels.laws.latent_attention import latent_decode
from hwmodels.laws.law_forms import KERNELS
from hwmodels.laws.pricing import _at_least, kernels_of
from hwmodels.laws.rates import KernelTime
from offload.ops import Attending, Gemm, OpKind, Work
from tests.unit.hwmodels.laws.laws_of_our_own import CARD, DENSE, FP8, KERNEL_S, alike, law, machine, product


def attention(at: Attending, read: float, flop: float = 1.0, gemms: tuple[Gemm, ...] = ()) -> Work:
    """An attention that reads `read` tokens of its cache."""
    return Work(
        OpKind.SELF_ATTENTION, gemms, "bf16", 16.0, flop=int(flop), hbm_bytes=int(read * at.token_bytes), attending=at
    )


def kernel_of(what: Work, *laws: FittedLaw) -> tuple[KernelTime, bool]:
    """The attention alone: its two launches are in its law."""
    ((kernel, seen),) = kernels_of(what, machine(*laws, self_attention=2))
    return kernel, seen


ONE_EACH = Attending(8, 8, 32, 4, 128, 96, 4 * 224 * 2.0)
DECODE, PROMPT = law("decode_attention", scale=1.2), law("context_attention", scale=0.9)


def test_one_new_token_a_sequence_is_priced_over_the_mean_context() -> None:
    kernel, seen = kernel_of(attention(ONE_EACH, 8 * 700), DENSE, DECODE, PROMPT)
    sizes = 8, 32, 4, 700.0, ONE_EACH.token_bytes
    alike(kernel, decode_attention(DECODE.values, CARD, KERNELS["flash-attention-3"], *sizes))
    assert seen
    assert not kernel_of(attention(ONE_EACH, 8 * 700), DENSE, law("decode_attention", context=(701.0, 9e3)))[1]
    for axis, size in (("n_sequences", 8), ("n_heads", 32), ("n_kv_heads", 4), ("head_width", 128)):
        for span, inside in (((size, size), True), ((1.0, size - 1.0), False), ((size + 1.0, 1e4), False)):
            assert kernel_of(attention(ONE_EACH, 8 * 700), DENSE, law("decode_attention", **{axis: span}))[1] is inside
    first, _ = kernel_of(attention(ONE_EACH, 0), DENSE, DECODE)
    sizes = 8, 32, 4, 1.0, ONE_EACH.token_bytes
    alike(first, decode_attention(DECODE.values, CARD, KERNELS["flash-attention-3"], *sizes))


@pytest.mark.parametrize("width", [64, 128, 256])
def test_a_kernel_takes_keys_by_the_width_of_its_heads(width: int) -> None:
    at = Attending(1, 1, 32, 4, width, 48, 4 * (width + 48) * 2.0)
    one = law("decode_attention", kernel="flash-attention-2", scale=1.2)
    kernel, _ = kernel_of(attention(at, 9000), DENSE, one)
    sizes = 1, 32, 4, 9000.0, at.token_bytes
    alike(kernel, decode_attention(one.values, CARD, KERNELS["flash-attention-2"], *sizes, head_width=width))


def test_a_context_is_a_token_at_least() -> None:
    for least, inside in ((1.0, True), (1.5, False)):
        assert kernel_of(attention(ONE_EACH, 0), DENSE, law("decode_attention", context=(least, 1e5)))[1] is inside


def test_a_window_bounds_the_context_of_one_new_token() -> None:
    windowed = ONE_EACH._replace(window=512)
    kernel, _ = kernel_of(attention(windowed, 8 * 512), DENSE, DECODE)
    sizes = 8, 32, 4, 512.0, ONE_EACH.token_bytes
    alike(kernel, decode_attention(DECODE.values, CARD, KERNELS["flash-attention-3"], *sizes, window=512))


def test_many_heads_on_few_keys_are_no_faster_than_their_scores_multiply() -> None:
    flop_s = 1e-2
    what = attention(ONE_EACH, 8 * 700, flop_s * CARD.flop_per_s * DENSE.values["peak"])
    kernel, _ = kernel_of(what, DENSE, DECODE)
    alone = kernel_of(attention(ONE_EACH, 8 * 700), DENSE, DECODE)[0]
    alike(kernel, KernelTime(alone.fixed_s, flop_s, 0.0))
    prompt = attention(ONE_EACH._replace(n_tokens=64), 8 * 700, flop_s * CARD.flop_per_s)
    assert float(kernel_of(prompt, DENSE, PROMPT)[0].total_s) < flop_s / 2  # a law of prompts has its own


@pytest.mark.parametrize(("stored", "bits", "inside"), [("bf16", 16, True), ("fp8", 8, True), ("bf16", 8, False)])
def test_numbers_in_the_cache_have_a_law_of_their_format(stored: str, bits: int, inside: bool) -> None:
    at = ONE_EACH._replace(token_bytes=4 * 224 * bits / 8)
    one = law("decode_attention", stored, scale=1.5)
    kernel, seen = kernel_of(attention(at, 8 * 700), DENSE, one)
    alike(kernel, decode_attention(one.values, CARD, KERNELS["flash-attention-3"], 8, 32, 4, 700.0, at.token_bytes))
    assert seen is inside


def test_of_laws_of_two_formats_that_of_the_cache_is_taken() -> None:
    narrow = law("decode_attention", "fp8", scale=1.7)
    for at, wanted in ((ONE_EACH, DECODE), (ONE_EACH._replace(token_bytes=4 * 224 * 1.0), narrow)):
        for laws in ((narrow, DECODE), (DECODE, narrow)):
            kernel, seen = kernel_of(attention(at, 8 * 700), DENSE, *laws)
            assert seen
            sizes = 8, 32, 4, 700.0, at.token_bytes
            alike(kernel, decode_attention(wanted.values, CARD, KERNELS["flash-attention-3"], *sizes))


@pytest.mark.parametrize(
    ("form", "at", "read"),
    [
        ("decode_attention", ONE_EACH, 5600),
        ("context_attention", ONE_EACH._replace(n_tokens=900, n_sequences=3), 1200),
        ("latent_decode", Attending(8, 8, 128, 1, 576, 512, 1152.0), 5600),
        ("latent_context", Attending(900, 3, 128, 128, 192, 128, 1152.0), 1200),
    ],
)
def test_of_two_laws_of_one_cache_that_of_products_in_16_bits_is_taken(form: str, at: Attending, read: int) -> None:
    own, other = law(form, scale=1.1), law(form, "bf16", "fp8", scale=3.0)
    alone, _ = kernel_of(attention(at, read), DENSE, own)
    for order in ((own, other), (other, own)):
        alike(kernel_of(attention(at, read), DENSE, *order)[0], alone)


@pytest.mark.parametrize(("stored", "bits", "inside"), [("bf16", 16, True), ("fp8", 8, True), ("bf16", 8, False)])
def test_a_prompt_reads_numbers_of_the_format_of_its_cache(stored: str, bits: int, inside: bool) -> None:
    at = ONE_EACH._replace(n_tokens=900, n_sequences=3, token_bytes=4 * 224 * bits / 8)
    assert kernel_of(attention(at, 1200), DENSE, law("context_attention", stored))[1] is inside


@pytest.mark.parametrize(("read", "inside"), [(900, True), (1200, True), (1800, True), (1803, False), (2700, False)])
def test_several_new_tokens_are_a_prompt_after_what_was_before(read: int, inside: bool) -> None:
    """A law of prompts was measured without a cache: no more than as many tokens before them are within."""
    at = ONE_EACH._replace(n_tokens=900, n_sequences=3)
    kernel, seen = kernel_of(attention(at, read), DENSE, DECODE, PROMPT)
    sizes = 3, 32, 4, 300.0, 128, 96, at.token_bytes
    alike(kernel, context_attention(PROMPT.values, CARD, KERNELS["flash-attention-3"], *sizes, before=read / 3 - 300))
    assert seen is inside
    windowed, _ = kernel_of(attention(at._replace(window=128), read), DENSE, PROMPT)
    more = {"before": read / 3 - 300, "window": 128}
    alike(windowed, context_attention(PROMPT.values, CARD, KERNELS["flash-attention-3"], *sizes, **more))


@pytest.mark.parametrize("span", [(1.0, 299.0), (301.0, 1e5), (300.0, 300.0)])
def test_of_a_prompt_the_new_tokens_are_its_context(span: tuple[float, float]) -> None:
    at = ONE_EACH._replace(n_tokens=900, n_sequences=3)
    assert kernel_of(attention(at, 1200), DENSE, law("context_attention", context=span))[1] is (span == (300.0, 300.0))


LATENTS = Attending(8, 8, 128, 1, 576, 512, 1152.0)
OF_LATENTS, OF_PROMPTS = law("latent_decode", scale=1.3), law("latent_context", scale=0.8)


def test_latents_have_a_law_of_one_new_token_and_are_read_once_for_keys_and_values() -> None:
    for laws in ((DECODE, OF_LATENTS), (OF_LATENTS, DECODE)):
        kernel, seen = kernel_of(attention(LATENTS, 8 * 700), DENSE, *laws)
        sizes = 8, 128, 700.0, 576, 512, 1152.0
        alike(kernel, latent_decode(OF_LATENTS.values, CARD, KERNELS["flash-mla"], *sizes))
        assert seen
    for axis, size in (
        ("n_sequences", 8),
        ("n_heads", 128),
        ("key_width", 576),
        ("value_width", 512),
        ("context", 700),
    ):
        for span, inside in (((size, size), True), ((1.0, size - 1.0), False)):
            assert kernel_of(attention(LATENTS, 8 * 700), DENSE, law("latent_decode", **{axis: span}))[1] is inside
    without, seen = kernel_of(attention(LATENTS, 8 * 700), DENSE, DECODE)  # no law of latents: as any attention
    alike(without, decode_attention(DECODE.values, CARD, KERNELS["flash-attention-3"], 8, 128, 1, 700.0, 1152.0))
    assert seen


def test_a_law_of_latents_has_its_own_scores() -> None:
    slow = attention(LATENTS, 8 * 700, 1e-2 * CARD.flop_per_s)
    alike(kernel_of(slow, DENSE, OF_LATENTS)[0], kernel_of(attention(LATENTS, 8 * 700), DENSE, OF_LATENTS)[0])


@pytest.mark.parametrize("window", [1, 512])
def test_latents_that_an_indexer_picks_are_no_faster_than_scores_multiply(window: int) -> None:
    flop_s, at = 1e-2, LATENTS._replace(window=window)
    slow = attention(at, 8 * 700, flop_s * CARD.flop_per_s * DENSE.values["peak"])
    alone = kernel_of(attention(at, 8 * 700), DENSE, OF_LATENTS)[0]
    alike(kernel_of(slow, DENSE, OF_LATENTS)[0], KernelTime(alone.fixed_s, flop_s, 0.0))


DECOMPRESSED = Attending(900, 3, 128, 128, 192, 128, 1152.0)


def test_a_prompt_over_decompressed_latents_reads_keys_and_values_of_every_head_in_16_bits() -> None:
    for laws in ((PROMPT, OF_PROMPTS), (OF_PROMPTS, PROMPT)):
        kernel, seen = kernel_of(attention(DECOMPRESSED, 1200), DENSE, *laws)
        sizes = 3, 128, 128, 300.0, 192, 128, 2.0 * 128 * 320
        alike(kernel, context_attention(OF_PROMPTS.values, CARD, KERNELS["flash-attention-3"], *sizes, before=100.0))
        assert seen
    assert not kernel_of(attention(DECOMPRESSED, 1200), DENSE, law("latent_context", value_width=(1.0, 127.0)))[1]
    assert not kernel_of(attention(DECOMPRESSED, 1200), DENSE, law("latent_context", "fp8"))[1]
    without, seen = kernel_of(attention(DECOMPRESSED, 1200), DENSE, PROMPT)
    sizes = 3, 128, 128, 300.0, 192, 128, 1152.0
    alike(without, context_attention(PROMPT.values, CARD, KERNELS["flash-attention-3"], *sizes, before=100.0))
    assert seen


@pytest.mark.parametrize(
    "at",
    [
        DECOMPRESSED._replace(n_kv_heads=64),  # heads share keys
        DECOMPRESSED._replace(value_width=192),  # values are as wide
        Attending(900, 3, 128, 1, 576, 512, 1152.0),  # latents absorbed, of a prompt
    ],
)
def test_other_prompts_have_the_law_of_any_prompt(at: Attending) -> None:
    kernel, _ = kernel_of(attention(at, 1200), DENSE, OF_PROMPTS, PROMPT)
    sizes = 3, 128, at.n_kv_heads, 300.0, at.key_width, at.value_width, 1152.0
    alike(kernel, context_attention(PROMPT.values, CARD, KERNELS["flash-attention-3"], *sizes, before=100.0))


def test_keys_of_every_head_wider_than_values_are_latents_in_a_prompt_alone() -> None:
    at = DECOMPRESSED._replace(n_tokens=3)
    kernel, _ = kernel_of(attention(at, 1200), DENSE, OF_PROMPTS, OF_LATENTS, DECODE)
    alike(kernel, decode_attention(DECODE.values, CARD, KERNELS["flash-attention-3"], 3, 128, 128, 400.0, 1152.0))


@pytest.mark.parametrize("at", [None, ONE_EACH])
@pytest.mark.parametrize("flop_s", [3e-3, 4e-3, 5e-3])
def test_without_a_law_an_attention_is_a_roofline_beyond_what_was_measured(at: Attending | None, flop_s: float) -> None:
    flop = int(flop_s * CARD.flop_per_s * DENSE.values["peak"])
    what = Work(
        OpKind.SELF_ATTENTION, (), "bf16", 16.0, flop=flop, attending=at,
        hbm_bytes=int(4e-3 * CARD.bytes_per_s * DENSE.values["memory"]),
    )  # fmt: skip
    found = list(kernels_of(what, machine(DENSE, self_attention=2)))
    assert len(found) == (2 if at is None else 1)  # appending is in no law of an op that says nothing of its shape
    kernel, seen = found[0]
    both = (flop_s**4 + 4e-3**4) ** 0.25
    assert not seen
    bound = flop_s > 3.9e-3
    assert [float(part) for part in kernel] == pytest.approx([0.0, both * bound, both * (not bound)], rel=1e-6)


@pytest.mark.parametrize("compute", ["bf16", "fp8"])
def test_scores_without_a_law_are_multiplied_and_read_as_dense_products_of_their_format(compute: str) -> None:
    laws = {"bf16": DENSE, "fp8": law("gemm", "bf16", "fp8", scale=1.25)}
    what = Work(OpKind.SELF_ATTENTION, (), "bf16", 16.0, flop=10**12, flop_compute=compute)
    for order in (laws.values(), reversed(laws.values())):
        ((kernel, _),) = kernels_of(what, machine(*order, self_attention=1))
        rate = (CARD if compute == "bf16" else FP8).flop_per_s * laws[compute].values["peak"]
        assert float(kernel.total_s) == pytest.approx(1e12 / rate)
    halfway = law("gemm", "fp8", "fp8", scale=1.1), law("gemm", "fp32", "fp32", scale=1.2)
    for order in (halfway, halfway[::-1]):  # as far from 16 bits: the first
        ((kernel, _),) = kernels_of(what._replace(flop_compute="bf16"), machine(*order, self_attention=1))
        assert float(kernel.total_s) == pytest.approx(1e12 / CARD.flop_per_s / order[0].values["peak"])


def test_scores_that_take_as_long_as_the_kernel_bind_nothing() -> None:
    found = KernelTime(1.0, 0.0, 2.0)
    assert [tuple(map(float, _at_least(found, flop_s))) for flop_s in (1.9, 2.0, 2.1)] == [
        (1.0, 0.0, 2.0), (1.0, 0.0, 2.0), (1.0, 2.1, 0.0),
    ]  # fmt: skip


@pytest.mark.parametrize(("flop", "n_bytes"), [(10**9, 0), (0, 10**9)])
def test_scores_without_keys_and_keys_without_scores_are_an_attention_too(flop: int, n_bytes: int) -> None:
    what = Work(OpKind.SELF_ATTENTION, (), "bf16", 16.0, flop=flop, hbm_bytes=n_bytes)
    ((kernel, _),) = kernels_of(what, machine(DENSE, self_attention=1))
    rate = CARD.flop_per_s * DENSE.values["peak"] if flop else CARD.bytes_per_s * DENSE.values["memory"]
    assert float(kernel.total_s) == pytest.approx(1e9 / rate)
    assert not list(kernels_of(what._replace(flop=0, hbm_bytes=0), machine(DENSE, self_attention=0)))


def joined(*gemms: Gemm, at: Attending | None = ONE_EACH) -> list[tuple[int, int, int]]:
    """The products of an attention: rows, columns and inner dimension, found by what each takes."""
    what = Work(OpKind.SELF_ATTENTION, gemms, "bf16", 16.0, attending=at)
    found = [kernel for kernel, _ in kernels_of(what, machine(DENSE, DECODE, OF_LATENTS, self_attention=0))]
    if at is not None:
        found.pop()
    shapes = {}
    for m, n, k in [(8, n, k) for n in (100, 200, 300, 400, 700, 800) for k in (512, 513, 800)] + [(9, 200, 512)]:
        for times in (1, 2):
            shapes[round(float(product(m, n, k).times(times).total_s), 18)] = (m, n * times, k)
    return [shapes[round(float(kernel.total_s), 18)] for kernel in found]


def test_queries_keys_and_values_of_one_input_are_one_product_and_the_output_another() -> None:
    queries, keys, output = Gemm(8, 400, 512), Gemm(8, 100, 512), Gemm(8, 300, 800)
    assert joined(queries, keys, Gemm(8, 200, 512), output) == [(8, 700, 512), (8, 300, 800)]
    assert joined(queries, output) == [(8, 400, 512), (8, 300, 800)]
    assert joined(output) == [(8, 300, 800)]
    assert joined(queries, keys, Gemm(8, 200, 513), output)[0] == (8, 400, 512)  # not of one input
    assert joined(queries, keys, Gemm(9, 200, 512), output)[0] == (8, 400, 512)
    assert joined(queries, Gemm(8, 100, 512, 2), output) == [(8, 400, 512), (8, 200, 512), (8, 300, 800)]
    assert joined(Gemm(8, 100, 512, 2), keys, output)[0] == (8, 200, 512)
    assert joined(queries, keys, output, at=LATENTS) == [(8, 400, 512), (8, 100, 512), (8, 300, 800)]
    assert joined(queries, keys, output, at=None) == [(8, 400, 512), (8, 100, 512), (8, 300, 800)]


def test_products_of_an_attention_its_kernel_and_its_append_are_four_of_its_launches() -> None:
    gemms = Gemm(8, 400, 512), Gemm(8, 100, 512), Gemm(8, 300, 800)
    found = list(kernels_of(attention(ONE_EACH, 5600, 1, gemms), machine(DENSE, DECODE, self_attention=9)))
    assert len(found) == 4
    alike(found[-1][0], KernelTime(5 * KERNEL_S, 0.0, 0.0))


def test_contexts_of_several_machines_or_steps_lie_within_each_for_itself() -> None:
    for contexts, inside in (
        ([700.0, 9000.0], [True, True]),
        ([700.0, 9001.0], [True, False]),
        ([699.0, 8.0], [False] * 2),
    ):
        what = attention(ONE_EACH, 0)._replace(hbm_bytes=8 * ONE_EACH.token_bytes * np.array(contexts))  # type: ignore[arg-type]
        ((kernel, seen),) = kernels_of(
            what, machine(DENSE, law("decode_attention", context=(700.0, 9000.0)), self_attention=2)
        )
        assert seen.tolist() == inside
        assert np.shape(kernel.total_s) == (2,)
