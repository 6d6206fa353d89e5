"""Products, dense and of experts, against their laws in longhand: one machine, one shape, tile by tile.

Constants and cards are drawn, so that no term of a law hides behind another, and every part of a kernel is compared.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from hwmodels.laws.dispatch import DISPATCHES, Tile
from hwmodels.laws.gemm import dense_gemm, tile_of
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
from tests.unit.hwmodels.laws.longhand import SEEDS, Constants, alike, drawn, either, of_memory, passes


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
    cycled: float | None, tiles: tuple[tuple[int, ...], ...],
) -> tuple[float, float, float]:  # fmt: skip
    ways = []
    for rows, columns, *together in tiles:
        element_s = either(2 * rows * columns * card.n_sm / (c["peak"] * card.flop_per_s), c["step_s"])
        high, wide = math.ceil(m / rows), math.ceil(n / columns)
        if together:
            high, wide = (math.ceil(n / group) * group for n, group in zip((high, wide), together, strict=True))
        n_tiles = high * wide
        whole_s = math.ceil(n_tiles / card.n_sm) * element_s * (k + c["ramp"])
        parts = 0 if together else min(card.n_sm // n_tiles, k // 256)
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


@pytest.mark.parametrize("seed", SEEDS)
def test_a_tile_that_an_engine_chooses_is_cut_into_whole_groups_and_never_split(seed: int) -> None:
    c, card = drawn("quantised_gemm", seed)
    for m, n, k, tile in [
        (16, 1000, 4096, (16, 64, 2, 1)), (17, 1100, 700, (16, 64, 4, 1)), (100, 8192, 512, (64, 128, 2, 1)),
        (5000, 300, 700, (128, 128, 2, 1)),
    ]:  # fmt: skip
        assert tuple(int(x) for x in tile_of("cutlass-sm90", m, n, k)) == tile
        found = dense_gemm(c, card, m, n, k, activation_bits=8.0, dispatch="cutlass-sm90")
        alike(found, *gemm_longhand(c, card, m, n, k, 16.0, 8.0, None, (tile,)))


@pytest.mark.parametrize("seed", SEEDS)
def test_tiles_that_run_together_both_ways_are_padded_both_ways(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    c, card = drawn("gemm", seed)
    only = DISPATCHES["cutlass-sm90"][-1]
    for tile in (Tile(32, 64, 2, 3), Tile(16, 32, 1, 4), Tile(128, 64, 5, 1)):
        monkeypatch.setitem(DISPATCHES, "cutlass-sm90", (only._replace(tile=tile),))  # type: ignore[arg-type]
        for m, n, k in [(1, 64, 512), (100, 1000, 300), (777, 130, 4000), (9000, 5000, 700)]:
            found = dense_gemm(c, card, m, n, k, dispatch="cutlass-sm90")
            alike(found, *gemm_longhand(c, card, m, n, k, 16.0, 16.0, None, (tile,)))


def test_shapes_together_are_each_alone() -> None:
    c, card = drawn("quantised_gemm", 0)
    m, n, k = np.array([[1.0, 300.0, 65.0], [17.0, 1.0, 4096.0]]), np.array([512.0, 3000.0, 129.0]), 700.0
    together = dense_gemm(c, card, m, n, k)
    for i, j in np.ndindex(2, 3):
        alone = dense_gemm(c, card, m[i, j], n[j], k)
        assert [float(np.broadcast_to(part, (2, 3))[i, j]) for part in together] == [float(part) for part in alone]


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
        ([2] * 7, 7), ([20] * 20, 20), ([20] * 20, 21),
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
