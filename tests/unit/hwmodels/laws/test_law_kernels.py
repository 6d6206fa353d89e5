"""Which laws products and experts are priced by, at which sizes, and whether these lie within what was measured."""

from __future__ import annotations

from typing import Any

import pytest

from hwmodels.laws.dispatch import MARLIN_TILES
from hwmodels.laws.gemm import TILES, dense_gemm
from hwmodels.laws.moe import ExpertGroup, expert_rows_of, fused_experts
from hwmodels.laws.pricing import kernels_of, law_kernel
from hwmodels.laws.rates import CardRates, KernelTime
from offload.ops import FusedExperts, Gemm, OpKind, Work
from tests.unit.hwmodels.laws.laws_of_our_own import CARD, DENSE, DENSE_FP8, FP8, KERNEL_S, alike, law, machine, product


def test_each_product_is_a_kernel_of_its_own_and_what_is_left_of_the_launches_comes_last() -> None:
    what = Work(OpKind.DENSE_FFN, (Gemm(3, 700, 512, 2), Gemm(3, 512, 700)), "bf16", 16.0)
    found = list(kernels_of(what, machine(DENSE, dense_ffn=5)))
    assert [seen for _, seen in found] == [True, True, True]
    alike(found[0][0], product(3, 700, 512).times(2))
    alike(found[1][0], product(3, 512, 700))
    alike(found[2][0], KernelTime(2 * KERNEL_S, 0.0, 0.0))
    alike(law_kernel(what, machine(DENSE, dense_ffn=5)), found[0][0].plus(found[1][0]).plus(found[2][0]))
    assert len(list(kernels_of(what, machine(DENSE, dense_ffn=3)))) == 2
    assert len(list(kernels_of(what, machine(DENSE, dense_ffn=1)))) == 2


def test_a_gate_launches_nothing_but_its_product() -> None:
    """What chooses among its scores is in the law of the experts."""
    ((kernel, seen),) = kernels_of(Work(OpKind.GATE, (Gemm(3, 128, 512),), "bf16", 16.0), machine(DENSE, gate=4))
    assert seen
    alike(kernel, product(3, 128, 512))


@pytest.mark.parametrize(("bits", "chosen"), [(16.0, 0), (12.0, 0), (11.0, 1), (8.0, 1), (4.0, 1)])
def test_the_law_of_quantised_rows_is_that_of_the_format_next_to_the_weights(bits: float, chosen: int) -> None:
    what = Work(OpKind.HEAD, (Gemm(2, 700, 512),), "fp8", bits)
    kernel, seen = next(iter(kernels_of(what, machine(DENSE, DENSE_FP8, head=1))))
    if chosen:
        alike(kernel, dense_gemm(DENSE_FP8.values, FP8, 2, 700, 512, weight_bits=bits, activation_bits=8.0))
    else:
        tiles = TILES if bits == 16 else MARLIN_TILES
        alike(kernel, product(2, 700, 512, weight_bits=bits, tiles=tiles))
    assert seen is (bits in (8.0, 16.0))


@pytest.mark.parametrize("compute", ["bf16", "fp16", "fp32"])
@pytest.mark.parametrize("bits", [4.0, 8.0, 15.9, 16.0, 32.0])
def test_rows_that_stay_wide_are_multiplied_in_wide_arithmetic_however_narrow_the_weights(
    bits: float, compute: str
) -> None:
    """By weights alone narrow in tiles that unpack them (AWQ, GPTQ), whatever chooses those of others."""
    wide = law("gemm", kernel="wgmma", scale=1.2)
    what = Work(OpKind.HEAD, (Gemm(2, 7000, 512),), compute, bits)
    for order in ((wide, DENSE_FP8), (DENSE_FP8, wide)):
        kernel, seen = next(iter(kernels_of(what, machine(*order, head=1))))
        how: dict[str, Any] = {"tiles": MARLIN_TILES} if bits < 16 else {"dispatch": "wgmma"}
        alike(kernel, dense_gemm(wide.values, CARD, 2, 7000, 512, weight_bits=bits, **how))
        assert seen is (bits == 16)
    only, _ = next(iter(kernels_of(what, machine(DENSE_FP8, head=1))))
    alike(only, dense_gemm(DENSE_FP8.values, FP8, 2, 7000, 512, weight_bits=bits, activation_bits=8.0))


def test_of_two_laws_of_one_format_that_of_the_arithmetic_is_taken_and_else_the_nearer_one() -> None:
    other = law("gemm", "bf16", "fp8", scale=1.3)
    for first, second in ((DENSE, other), (other, DENSE)):
        for compute, wanted, card in (("bf16", DENSE, CARD), ("fp8", other, FP8)):
            what = Work(OpKind.HEAD, (Gemm(2, 700, 512),), compute, 16.0)
            kernel, _ = next(iter(kernels_of(what, machine(first, second, head=1))))
            alike(kernel, dense_gemm(wanted.values, card, 2, 700, 512))
    near = Work(OpKind.HEAD, (Gemm(2, 700, 512),), "fp8", 16.0)  # arithmetic stands behind the bits of a weight
    kernel, _ = next(iter(kernels_of(near, machine(DENSE, DENSE_FP8, head=1))))
    alike(kernel, product(2, 700, 512))


def test_only_a_quantised_product_reads_activations_of_fewer_bits() -> None:
    weights_alone = law("gemm", "fp8", scale=1.3)
    what = Work(OpKind.HEAD, (Gemm(300, 700, 512),), "bf16", 8.0)
    kernel, seen = next(iter(kernels_of(what, machine(DENSE, weights_alone, head=1))))
    alike(kernel, dense_gemm(weights_alone.values, CARD, 300, 700, 512, weight_bits=8.0, tiles=MARLIN_TILES))
    assert seen


@pytest.mark.parametrize("dispatch", ["cutlass-sm90", "cutlass-sm120"])
def test_a_law_says_by_what_its_tile_is_chosen(dispatch: str) -> None:
    chosen = law("quantised_gemm", "fp8", "fp8", dispatch)
    what = Work(OpKind.HEAD, (Gemm(300, 7000, 512),), "fp8", 8.0)
    kernel, _ = next(iter(kernels_of(what, machine(DENSE, chosen, head=1))))
    more = {"weight_bits": 8.0, "activation_bits": 8.0, "dispatch": dispatch}
    alike(kernel, dense_gemm(chosen.values, FP8, 300, 7000, 512, **more))


@pytest.mark.parametrize("axis", ["m", "n", "k"])
@pytest.mark.parametrize("span", [(1.0, 400.0), (600.0, 900.0), (500.0, 500.0), (1.0, 500.0)])
def test_a_product_lies_within_where_all_its_sizes_do(axis: str, span: tuple[float, float]) -> None:
    what = Work(OpKind.HEAD, (Gemm(500, 500, 500),), "bf16", 16.0)
    _, seen = next(iter(kernels_of(what, machine(law("gemm", **{axis: span}), head=1))))
    assert seen is (span[0] <= 500 <= span[1])


EXPERTS = law("experts", scale=1.2)


def fused(*groups: tuple[int, int], n_tokens: int, k: int = 512, n: int = 320, n_up: int = 2, shared: int = 0) -> Work:
    """Experts by how many have so many rows; `shared`: columns of shared experts."""
    gemms = [gemm for count, rows in groups for gemm in (Gemm(rows, n, k, n_up * count), Gemm(rows, k, n, count))]
    n_rows, n_experts = (sum(count * rows for count, rows in groups), sum(count for count, _ in groups))
    of = FusedExperts(n_experts, n_rows, len(gemms), n_tokens)
    after = (Gemm(n_tokens, shared, k, 2), Gemm(n_tokens, k, shared)) if shared else ()
    return Work(OpKind.EXPERTS, (*gemms, *after), "bf16", 16.0, fused=of)


@pytest.mark.parametrize("kernel", ["", "triton-default", "flashinfer-cutlass"])
def test_experts_of_a_layer_are_one_kernel_and_shared_ones_products_after_it(kernel: str) -> None:
    one = law("experts", kernel=kernel, scale=1.2)
    what = fused((3, 1), (2, 40), n_tokens=41, shared=192)
    found = [*kernels_of(what, machine(DENSE, one, experts=9))]
    rows = expert_rows_of([ExpertGroup(3, 1), ExpertGroup(2, 40)], 41)
    wanted = fused_experts(
        one.values, CARD, rows, 512, 320, 2, by_default=kernel == "triton-default",
        by_core=kernel == "flashinfer-cutlass",
    )  # fmt: skip
    alike(found[0][0], wanted)
    alike(found[1][0], product(41, 192, 512).times(2))
    alike(found[2][0], product(41, 512, 192))
    assert len(found) == 3
    assert all(seen for _, seen in found)
    alone = [*kernels_of(fused((3, 1), n_tokens=1), machine(DENSE, one, experts=9))]
    assert len(alone) == 1  # all of the launches are in its law


def test_weights_of_experts_are_read_in_their_own_format() -> None:
    what = fused((3, 1), n_tokens=1)._replace(weight_bits=4.5)
    kernel, seen = next(iter(kernels_of(what, machine(DENSE, EXPERTS, experts=9))))
    rows = expert_rows_of([ExpertGroup(3, 1)], 1)
    alike(kernel, fused_experts(EXPERTS.values, CARD, rows, 512, 320, 2, weight_bits=4.5))
    assert not seen


@pytest.mark.parametrize(("compute", "card"), [("bf16", CARD), ("fp8", FP8)])
def test_of_two_laws_of_experts_that_of_the_arithmetic_is_taken(compute: str, card: CardRates) -> None:
    laws = {"bf16": EXPERTS, "fp8": law("experts", "bf16", "fp8", scale=1.4)}
    rows = expert_rows_of([ExpertGroup(3, 1)], 1)
    for order in (laws.values(), reversed(laws.values())):
        what = fused((3, 1), n_tokens=1)._replace(compute=compute)
        kernel, _ = next(iter(kernels_of(what, machine(DENSE, *order, experts=9))))
        alike(kernel, fused_experts(laws[compute].values, card, rows, 512, 320, 2))


def test_without_a_law_of_experts_their_products_are_dense() -> None:
    found = [*kernels_of(fused((3, 1), n_tokens=1, n_up=1), machine(DENSE, experts=0))]
    alike(found[0][0], product(1, 320, 512).times(3))
    alike(found[1][0], product(1, 512, 320).times(3))
    assert len(found) == 2


@pytest.mark.parametrize(
    ("sizes", "within", "inside"),
    [
        ({}, {}, True),
        ({"k": 520}, {}, False),  # no multiple of 16: another way to read
        ({"n": 328}, {}, False),
        ({}, {"d_model": (513.0, 1e4)}, False),
        ({}, {"d_ff": (1.0, 319.0)}, False),
        ({}, {"n_up": (1.0, 1.0)}, False),
        ({}, {"n_up": (2.0, 2.0), "d_model": (512.0, 512.0), "d_ff": (320.0, 320.0)}, True),
        ({}, {"n_tokens": (1.0, 10.0), "top_k": (1.0, 8.0)}, True),  # 80 rows
        ({}, {"n_tokens": (1.0, 10.0), "top_k": (1.0, 7.9)}, False),
        ({}, {"n_tokens": (1.0, 80.0), "top_k": (1.0, 1.0)}, True),
        ({}, {"n_tokens": (80.0, 80.0), "top_k": (1.0, 1.0)}, True),
    ],
)
def test_experts_lie_within_by_their_sizes_and_all_their_rows(
    sizes: dict[str, int], within: dict[str, Any], inside: bool
) -> None:
    what = fused((2, 40), n_tokens=41, **sizes)
    _, seen = next(iter(kernels_of(what, machine(DENSE, law("experts", **within), experts=9))))
    assert bool(seen) is inside
