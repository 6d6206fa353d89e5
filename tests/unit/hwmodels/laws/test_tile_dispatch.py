"""Tiles that an engine chooses by shape, and the time of a product that is cut into them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from hwmodels.calibrate.public_tables.table_readers import READERS
from hwmodels.fits.fit_files import load_fit
from hwmodels.laws.benchmark_conditions import MEASURED
from hwmodels.laws.dispatch import DISPATCHES, FP8_DISPATCH, INSTRUCTION_TILES, TRITON_DEFAULT, Tile
from hwmodels.laws.families import family_of
from hwmodels.laws.gemm import dense_gemm, tile_of, tile_seconds
from hwmodels.laws.law_forms import FORMS
from hwmodels.laws.moe import ExpertGroup, expert_rows_of, fused_experts
from hwmodels.laws.rates import CardRates
from hwmodels.specs.machine_files import hardware_names, load_machine
from traces.errors import UnknownName

C = {name: at for name, (_, at) in FORMS["quantised_gemm"].constants.items()}
CARD = CardRates(1979e12, 3.35e12, 132.0, 50e6)
EXPERTS = {name: at for name, (_, at) in FORMS["experts"].constants.items()}
ENDLESS = CARD._replace(bytes_per_s=1e18)
"""A card whose memory nothing waits for."""


@pytest.mark.parametrize(
    ("dispatch", "shape", "tile"),
    [
        ("cutlass-sm90", (16, 1280, 4096), Tile(16, 64, 2)),
        ("cutlass-sm90", (16, 1281, 4096), Tile(16, 64)),
        ("cutlass-sm90", (17, 1280, 4096), Tile(16, 64, 4)),
        ("cutlass-sm90", (64, 8192, 4096), Tile(64, 64)),
        ("cutlass-sm90", (65, 8192, 4096), Tile(64, 128, 2)),
        ("cutlass-sm90", (129, 8192, 4096), Tile(128, 128, 2)),
        ("cutlass-sm90", (8192, 8192, 6144), Tile(256, 128, 2)),
        ("cutlass-sm90", (8192, 8192, 6143), Tile(128, 128, 2)),
        ("cutlass-sm89", (1, 8192, 512), Tile(32, 64)),
        ("cutlass-sm89", (128, 16384, 512), Tile(128, 128)),
        ("cutlass-sm89", (128, 16385, 512), Tile(128, 64)),
        ("cutlass-sm89", (257, 8192, 512), Tile(256, 128)),
        ("cutlass-sm89", (257, 8193, 512), Tile(128, 128)),
        ("cutlass-sm120", (256, 512, 512), Tile(64, 64)),
        ("cutlass-sm120", (257, 512, 512), Tile(128, 128)),
    ],
)
def test_the_tile_is_the_first_whose_shape_holds(dispatch: str, shape: tuple[int, int, int], tile: Tile) -> None:
    assert tuple(int(x) for x in tile_of(dispatch, *shape)) == tile
    of_many = tile_of(dispatch, *(np.full(2, float(x)) for x in shape))
    assert [int(x[1]) for x in map(np.atleast_1d, of_many[:2])] == list(tile[:2])


@pytest.mark.parametrize("dispatch", DISPATCHES)
def test_every_shape_has_a_tile(dispatch: str) -> None:
    last = DISPATCHES[dispatch][-1]
    assert (last.most_m, last.most_n, last.least_m, last.least_k) == (np.inf, np.inf, 0, 0)


def tiles_s(m: int, n: int, k: int) -> float:
    """Of a product that arithmetic binds: all but what is fixed and what is read."""
    bound = {**C, "fixed_s": 1e-12, "quantise_s": 1e-12, "quantise": 1e-9, "activations": 1e-9, "memory": 1e9}
    return float(dense_gemm(bound, CARD, m, n, k, dispatch="cutlass-sm90").total_s)


def test_tiles_that_run_together_are_padded_to_whole_groups() -> None:
    grouped, one_more = tiles_s(256, 8448, 4096), tiles_s(257, 8448, 4096)
    assert one_more == pytest.approx(tiles_s(512, 8448, 4096), rel=1e-6)
    assert one_more > 1.4 * grouped


def test_no_inner_dimension_is_split() -> None:
    few = [tiles_s(128, 512, k) for k in (4096, 8192)]
    assert few[1] / few[0] == pytest.approx((8192 + C["ramp"]) / (4096 + C["ramp"]), rel=1e-6)


def one_by_one_s(m: Any, n: Any, k: Any, tiles: Sequence[tuple[int, int]]) -> Any:
    """The fastest of `tiles`, asked one after the other."""
    best: Any = np.inf
    for rows, columns in tiles:
        n_tiles = np.ceil(m / rows) * np.ceil(n / columns)
        per_element_s = tile_seconds(C, ENDLESS, rows, columns)
        whole_s = np.ceil(n_tiles / ENDLESS.n_sm) * per_element_s * (k + C["ramp"])
        parts = np.maximum(np.minimum(np.floor(ENDLESS.n_sm / n_tiles), np.floor(k / 256)), 1.0)
        split_s = per_element_s * (k / parts + C["ramp"]) + C["split_s"] + 4 * m * n * parts / ENDLESS.bytes_per_s
        best = np.minimum(best, np.where(parts > 1, np.minimum(whole_s, split_s), whole_s))
    return best


@pytest.mark.parametrize("instruction", INSTRUCTION_TILES)
def test_all_tiles_at_once_are_the_fastest_of_them_one_by_one(instruction: str) -> None:
    tiles = INSTRUCTION_TILES[instruction]
    shapes = np.array([(1, 512, 512), (17, 4096, 4096), (64, 7168, 512), (129, 2048, 65536), (4097, 1536, 4096)], float)
    plain = {name: at for name, (_, at) in FORMS["gemm"].constants.items()} | {"fixed_s": 0.0}
    together = dense_gemm(plain, ENDLESS, *shapes.T, tiles=tiles).total_s
    for (m, n, k), both in zip(shapes.tolist(), together.tolist(), strict=True):
        alone = dense_gemm(plain, ENDLESS, m, n, k, tiles=tiles).total_s
        assert alone == both, "one product and many get the same seconds"
        assert alone == dense_gemm(plain, ENDLESS, m, n, k, dispatch=instruction).total_s
        assert alone == pytest.approx(one_by_one_s(m, n, k, tiles), rel=1e-6)


def test_tiles_of_an_instruction_are_as_wide_as_it_multiplies() -> None:
    few = {"wgmma": {64, 128}, "tcgen05": {128}}
    for name, tiles in INSTRUCTION_TILES.items():
        assert {rows for rows, _ in tiles} == few[name]
        assert {columns for _, columns in tiles} == set(range(16, 257, 16))
    chosen = {name: law.kernel for name in ("a100-sxm4-80gb", "h200-sxm", "l40s", "gb300", "rtx-pro-6000")
              for law in load_fit(f"{name}.vllm").laws if law.form == "gemm"}  # fmt: skip
    assert chosen == {
        "a100-sxm4-80gb": "", "h200-sxm": "wgmma", "l40s": "", "gb300": "tcgen05", "rtx-pro-6000": "",
    }  # fmt: skip


def test_laws_of_fp8_say_what_chooses_their_tiles() -> None:
    for family, chosen in FP8_DISPATCH.items():
        assert family in {family_of(load_machine(name).accelerator.compute_capability) for name in hardware_names()}
        assert chosen in DISPATCHES
    found = {name: [law.kernel for law in load_fit(f"{name}.vllm").laws if law.stored == "fp8" and "gemm" in law.form]
             for name in ("h100-sxm", "h200-sxm", "l40s", "rtx-pro-6000", "b200")}  # fmt: skip
    assert found == {
        "h100-sxm": ["cutlass-sm90"], "h200-sxm": ["cutlass-sm90"], "l40s": ["cutlass-sm89"],
        "rtx-pro-6000": ["cutlass-sm120"], "b200": [""],
    }  # fmt: skip


def test_only_a_quantised_product_has_a_choice_of_tiles() -> None:
    dense, quantised = (
        next(law for law in load_fit("h100-sxm.vllm").laws if law.form == form) for form in ("gemm", "quantised_gemm")
    )
    with pytest.raises(UnknownName, match="cutlass-sm91"):
        dataclasses.replace(quantised, kernel="cutlass-sm91")
    with pytest.raises(UnknownName, match="cutlass-sm90"):
        dataclasses.replace(dense, kernel="cutlass-sm90")


def test_a_single_row_may_take_another_way_than_two() -> None:
    """FlashInfer's fp8: what is stated of one row is of one row."""
    at = {lone_s: [float(dense_gemm({**C, "lone_row_s": lone_s}, CARD, m, 4096, 4096).total_s) for m in (1, 2)]
          for lone_s in (1e-9, 15e-6)}  # fmt: skip
    assert at[15e-6][0] - at[1e-9][0] == pytest.approx(15e-6, rel=1e-3)
    assert at[15e-6][1] == at[1e-9][1]
    for name in ("b200", "gb300"):
        law = next(one for one in load_fit(f"{name}.vllm").laws if (one.form, one.stored) == ("quantised_gemm", "fp8"))
        assert 10e-6 < law.values["lone_row_s"] < 20e-6


def test_experts_by_default_have_tall_tiles_once_tokens_are_more_than_they() -> None:
    """Rows of each are padded to 64 in place of 16: an A100's 128 experts take 2.3 ms for 128 tokens, 3.3 for 160."""
    law = next(one for one in load_fit("a100-sxm4-80gb.vllm").laws if (one.form, one.stored) == ("experts", "bf16"))
    assert law.kernel == TRITON_DEFAULT
    slow = CardRates(312e12, 1e18, 108.0, 40e6)  # nothing waits for memory

    def padded_s(n_tokens: float) -> float:
        rows = expert_rows_of([ExpertGroup(128, 8)], n_tokens)
        return float(fused_experts(law.values, slow, rows, 2048, 768, 2, by_default=True).total_s)

    assert padded_s(128) == padded_s(1)
    assert padded_s(129) > 1.5 * padded_s(128)
    with pytest.raises(UnknownName, match="triton-defalt"):
        dataclasses.replace(law, kernel="triton-defalt")


def test_a_tile_that_takes_fewer_inner_elements_at_a_time_takes_more_steps() -> None:
    """SGLang's get_default_config: 64 where tokens are no more than experts, else 32."""
    steps = {**EXPERTS, "step_s": 1e-6}  # arithmetic is nothing beside it
    assert tile_seconds(steps, CARD, 64, 64, 32) == pytest.approx(2 * tile_seconds(steps, CARD, 64, 64), rel=1e-3)


def test_which_tiles_are_the_default_ones_may_be_said_of_each_of_many() -> None:
    def seconds(by_default: object, n: int | None = None) -> object:
        rows = expert_rows_of([ExpertGroup(8.0 if n is None else np.full(n, 8.0), 64)], 9)
        return fused_experts(EXPERTS, ENDLESS, rows, 2048, 1024, 2, by_default=by_default).total_s

    assert list(seconds(np.array([True, False]), 2)) == [seconds(True), seconds(False)]  # type: ignore[call-overload]


def test_products_that_were_tuned_take_what_is_fastest_and_others_the_default_tile() -> None:
    """vLLM ships configurations for eight experts of 3,584 on an A100 and none for 14,336: half the time a weight."""
    law = MEASURED["experts"]
    shapes = {"n_tokens": 4096.0, "d_model": 4096.0, "top_k": 2.0, "n_experts": 8.0, "n_up": 2.0}
    at = {
        (kernel, d_ff): float(law(EXPERTS, ENDLESS, {**shapes, "d_ff": d_ff}, 16.0, kernel).total_s)
        for kernel in ("", TRITON_DEFAULT)
        for d_ff in (3584.0, 14336.0)
    }
    assert at["", 3584.0] == at[TRITON_DEFAULT, 3584.0]
    assert at["", 14336.0] < at[TRITON_DEFAULT, 14336.0]


def test_weights_that_come_by_multiprocessor_do_not_care_for_the_memory() -> None:
    rows = expert_rows_of([ExpertGroup(8, 1)], 1)
    few, slow = CARD._replace(n_sm=CARD.n_sm / 2), CARD._replace(bytes_per_s=CARD.bytes_per_s / 2)

    def weights_s(card: CardRates, by_core: bool) -> float:
        c = {**EXPERTS, "activations": 1e-9, "step_s": 1e-15, "fixed_s": 1e-9, "expert_s": 1e-12}
        return float(fused_experts(c, card, rows, 4096, 14336, 2, weight_bits=8.0, by_core=by_core).total_s)

    assert weights_s(slow, True) == pytest.approx(weights_s(CARD, True), rel=0.01)
    assert weights_s(few, True) == pytest.approx(2 * weights_s(CARD, True), rel=0.05)
    assert weights_s(slow, False) == pytest.approx(2 * weights_s(CARD, False), rel=0.05)


def test_slices_of_experts_that_are_read_by_the_element_are_in_no_table() -> None:
    widths = np.repeat([16.0, 24.0, 48.0], 2)
    n = len(widths)
    columns = {
        "hidden_size": np.full(n, 2048), "inter_size": widths, "moe_tp_size": np.ones(n), "moe_ep_size": np.ones(n),
        "num_tokens": np.arange(1.0, n + 1), "topk": np.full(n, 2), "num_experts": np.full(n, 8),
        "distribution": np.full(n, "balanced"), "moe_dtype": np.full(n, "bfloat16"),
        "kernel_source": np.full(n, "one"), "latency": np.ones(n),
    }  # fmt: skip
    source = {"engine": "vllm", "version": "1", "table": "t", "sha256": "0"}
    read = next(table for table in READERS["moe/moe_perf"](columns, source, "9.0") if len(table))
    assert sorted(set(read.shapes["d_ff"].tolist())) == [16.0, 48.0]
    assert read.kernel == ""


def test_a_benchmark_that_gates_all_experts_is_read_as_such() -> None:
    n = 3
    columns = {
        "hidden_size": np.full(n, 2688), "inter_size": np.full(n, 1856), "moe_tp_size": np.ones(n),
        "moe_ep_size": np.ones(n), "num_tokens": np.arange(1.0, n + 1), "topk": np.full(n, 6),
        "num_experts": np.full(n, 128), "distribution": np.full(n, "balanced"), "moe_dtype": np.full(n, "bfloat16"),
        "latency": np.ones(n),
    }  # fmt: skip
    source = {"engine": "sglang", "version": "1", "table": "t", "sha256": "0"}
    found = {}
    for ran in ("sglang_fused_moe_triton", "another"):
        tables = READERS["moe/moe_perf"]({**columns, "kernel_source": np.full(n, ran)}, source, "8.0")
        one = next(table for table in tables if len(table))
        found[ran] = (set(one.shapes["n_up"].tolist()), one.kernel)
    assert found == {"sglang_fused_moe_triton": ({2.0}, TRITON_DEFAULT), "another": ({1.0}, "")}
