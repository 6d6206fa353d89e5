"""Tiles of a fused op of experts: by what they are sized, and what waits for a load."""

import dataclasses
from pathlib import Path

import pytest

from hwmodels.figures import figures_of
from hwmodels.kernels.card_kernels import ByCard, read_by_card
from hwmodels.kernels.floors import fused_s, missing_s
from hwmodels.kernels.fused_tile import FusedTile, read_fused_tile, read_tile
from hwmodels.platform import Platform, load_platform
from hwmodels.stacks.stack_files import load_stack
from offload import ffn_work, work
from offload.ops import FusedExperts, Gemm
from traces.errors import InvalidFile, InvalidInput, UnknownName
from traces.foundation.documents import Section, read_yaml
from traces.model.architecture import load_architecture

QWEN = load_architecture("qwen3-30b-a3b")
SIX_PAIRS = FusedExperts(n_experts=4, n_rows=6, n_gemms=2, n_tokens=3)
BY_EIGHT = FusedTile(rows=(2, 4, 8), loads=(128, 256), from_tokens=2)


@pytest.mark.parametrize(("sized_by", "height"), [("expert", 2), ("pass", 4), ("pairs", 8)])
def test_a_tile_holds_the_rows_that_its_engine_sizes_it_by(sized_by: str, height: int) -> None:
    tile = dataclasses.replace(BY_EIGHT, sized_by=sized_by)
    assert tile.height(SIX_PAIRS) == height
    assert tile.height(SIX_PAIRS._replace(n_tokens=900, n_rows=1800)) == 8, "the largest there is"
    assert tile.height(SIX_PAIRS._replace(n_tokens=1)) == 1, "one token runs a kernel without tiles"


def test_a_block_waits_for_each_load_of_its_tiles() -> None:
    gemm = Gemm(5, 300, 512, n_gemms=3)  # 3 experts x 3 tiles of 2 rows x 3 of 128 columns x 2 of 256 elements
    assert BY_EIGHT.n_loads(SIX_PAIRS, gemm) == 3 * 3 * 3 * 2
    assert BY_EIGHT.n_loads(SIX_PAIRS._replace(n_tokens=1), gemm) == 0
    assert dataclasses.replace(BY_EIGHT, loads=None).n_loads(SIX_PAIRS, gemm) == 0


def claimed(stack: str) -> Platform:
    return dataclasses.replace(load_platform("rtx-3090", stack), fit=None)


def test_loads_are_before_products_and_beside_the_reads_of_other_blocks() -> None:
    hw = claimed("llama-cpp-2025")
    figures = figures_of(hw)
    rate, bandwidth = figures.flop_per_s("int8"), figures.hbm_bytes_per_s
    what = ffn_work.experts_work(QWEN, [2, 1], fused=True)  # three pairs: a tile of eight
    up, down = fused_s(what, figures, rate, bandwidth)
    flop_s = 2 * 2 * 2 * 8 * 768 * 2048 / rate
    loads_s = 2 * 2 * 6 * 8 * hw.constant("tile_load_s") / 82 * 2520 / 1695  # cycles of this card
    assert up[0] == pytest.approx(flop_s + loads_s)
    assert down[0] == pytest.approx(up[0] / 2)
    assert up[1] == pytest.approx(2 * 2 * 768 * 2048 * figures.read_bits(what) / 8 / bandwidth)


def test_two_blocks_on_a_multiprocessor_wait_for_their_loads_beside_one_another() -> None:
    """Cards whose kernel is bound to two, and whose grid is of all tiles: GCN, and NVIDIA's before Volta."""
    for stack in ("llama-cpp", "llama-cpp-late-2025", "llama-cpp-2025"):
        cards = ("mi50", "p40", "v100-sxm2-32gb")
        assert [load_platform(name, stack).stack.fused_tile.blocks for name in cards] == [2, 2, 1]
    hw = claimed("llama-cpp-2025")
    what = ffn_work.experts_work(QWEN, [2, 1], fused=True)
    stack = dataclasses.replace(hw.stack, fused_tile=dataclasses.replace(hw.stack.fused_tile, blocks=2))
    two = dataclasses.replace(hw, stack=stack)
    (once, _), *_ = fused_s(what, figures_of(hw), (rate := figures_of(hw).flop_per_s("int8")), 1e30)
    (twice, _), *_ = fused_s(what, figures_of(two), rate, 1e30)
    loads_s = 2 * 2 * 6 * 8 * hw.constant("tile_load_s") / 82 * 2520 / 1695
    assert once - twice == pytest.approx(loads_s / 2)
    with pytest.raises(InvalidInput, match="blocks = 0"):
        FusedTile(blocks=0)


def test_products_of_packed_weights_alone_achieve_what_a_cards_tiles_do() -> None:
    hw = load_platform("radeon-ai-pro-r9700", "llama-cpp")
    tile = dataclasses.replace(hw.stack.fused_tile, arithmetic=1.0)
    usual = figures_of(dataclasses.replace(hw, stack=dataclasses.replace(hw.stack, fused_tile=tile)))
    shares = {name: figures_of(hw).flop_per_s(name) / usual.flop_per_s(name) for name in ("int8", "bf16")}
    assert shares == {"int8": pytest.approx(0.49), "bf16": 1.0}
    with pytest.raises(InvalidInput, match=r"arithmetic = 1\.5"):
        FusedTile(arithmetic=1.5)


def test_the_same_tiles_achieve_the_same_share_in_every_generation_of_an_engine() -> None:
    for stack in ("llama-cpp-2025", "llama-cpp-late-2025"):
        for card in ("mi50", "rx-vega-64"):
            now, then = (load_platform(card, one).stack.fused_tile for one in ("llama-cpp", stack))
            assert (now.rows, now.loads, now.blocks) == (then.rows, then.loads, then.blocks)
            assert now.arithmetic == then.arithmetic


def test_rdna_3_and_4_size_a_tile_by_what_an_expert_has_and_other_cards_by_the_pass() -> None:
    """A prompt of 512 tokens whose 128 experts have 32 rows each (llama.cpp's pull requests 28552, 28935)."""
    prompt = FusedExperts(n_experts=128, n_rows=4096, n_gemms=256, n_tokens=512)
    heights = {
        name: load_platform(name, "llama-cpp").stack.fused_tile.height(prompt)
        for name in ("rx-7900-xtx", "rx-9070-xt", "strix-halo", "mi300x", "rtx-4090", "mi50")
    }
    assert heights == {
        "rx-7900-xtx": 32, "rx-9070-xt": 32, "strix-halo": 32, "mi300x": 128, "rtx-4090": 128, "mi50": 64,
    }  # fmt: skip
    assert load_platform("rx-7900-xtx", "llama-cpp-late-2025").stack.fused_tile.height(prompt) == 128


def experts_s(hw: Platform, n_tokens: int) -> float:
    figures = figures_of(hw).with_values({"stack.tile_load_s": 1e-12})
    what = ffn_work.experts_work(QWEN, [n_tokens * 8 // 128] * 128, fused=True)
    return sum(flop_s for flop_s, _ in fused_s(what, figures, figures.flop_per_s("int8"), figures.hbm_bytes_per_s))


def test_a_tile_of_all_pairs_multiplies_more_than_one_of_the_pass_until_both_are_the_largest() -> None:
    before, after = (claimed(name) for name in ("llama-cpp-2025", "llama-cpp"))
    assert experts_s(before, 16) > 4 * experts_s(after, 16)
    assert experts_s(before, 128) == pytest.approx(experts_s(after, 128))


def test_packed_weights_are_multiplied_as_integers_and_others_as_their_activations() -> None:
    figures = figures_of(claimed("llama-cpp"))
    packed = ffn_work.experts_work(QWEN, [4], fused=True)._replace(weight_bits=4.5)
    assert figures.multiplied_in(packed) == "int8"
    assert figures.multiplied_in(packed._replace(weight_bits=16.0)) == packed.compute == "bf16"
    plain = figures_of(claimed("ik-llama"))
    assert plain.multiplied_in(packed) == "bf16"


@pytest.mark.parametrize("stack", ["flexgen", "moe-lightning"])
def test_flexgen_asks_of_its_experts_what_moe_lightnings_kernel_of_one_tile_does(stack: str) -> None:
    figures, mixtral = figures_of(claimed(stack)), load_architecture("mixtral-8x7b")
    assert figures.stack_constant("gemm_efficiency") == 0.161
    rate, bandwidth = figures.flop_per_s("bf16"), figures.hbm_bytes_per_s
    a_row_s = 3 * 2 * 4096 * 14336 / rate
    for n_tokens, rows in ((20, 64), (4, 1)):  # two experts a token, so that eight get a quarter of the tokens each
        what = ffn_work.experts_work(mixtral, [n_tokens // 4] * 8, fused=True)
        asked = what._replace(fused=FusedExperts(8, 2 * n_tokens, len(what.gemms), n_tokens))
        assert sum(flop_s for flop_s, _ in fused_s(asked, figures, rate, bandwidth)) == pytest.approx(
            8 * rows * a_row_s
        )


def test_flexgen_repeats_keys_and_values_for_the_heads_of_a_group_before_anything_attends() -> None:
    figures, mixtral = figures_of(claimed("flexgen")), load_architecture("mixtral-8x7b")
    attends = work.self_attention_work(mixtral, mixtral.decoder, 1, 100, 100)
    read_written_read = 1 + 4 + 4  # of each stored byte, for the four query heads of a group
    rate = figures.context_bytes_per_s(attends)
    assert rate == pytest.approx(figures.hbm_bytes_per_s / read_written_read, rel=0.01)
    widened, repeated = 2 + 2 * 4 + 4, 2 * 16 + 16  # bytes of DRAM for two stored: what is written is read first
    assert figures.stack_constant("cpu_kv_copies") == (widened + repeated) / 2


def test_shared_experts_launch_kernels_of_their_own_where_a_stack_counts_them() -> None:
    stack, lite = load_stack("llama-cpp"), load_architecture("deepseek-v2-lite")
    alone, both = (ffn_work.experts_work(lite, [1] * 6, n, fused=True) for n in (0, 1))
    assert stack.launches_of(both) - stack.launches_of(alone) == stack.shared_launches == 8
    plain = load_stack("vllm")
    assert plain.launches_of(both) == plain.launches_of(alone)


@pytest.mark.parametrize(
    ("line", "error", "told"),
    [
        ("rows: [8, 0]", InvalidFile, r"\[8, 0\]: a list of whole numbers above 0"),
        ("rows: []", InvalidFile, r"\[\]: a list of whole numbers above 0"),
        ("rows: [8]\n  loads: [128]", InvalidFile, "rows and columns of weights"),
        ("rows: [8]\n  sized_by: token", UnknownName, "token"),
        ("rows: [16, 8]", InvalidInput, "ascending"),
    ],
)
def test_a_malformed_tile_is_refused(line: str, error: type[Exception], told: str, tmp_path: Path) -> None:
    path = tmp_path / "stack.yaml"
    path.write_text(f"fused_experts_tile:\n  {line}\n  source: here\n")
    with pytest.raises(error, match=told):
        read_fused_tile(read_yaml(path))


def test_a_format_that_no_card_states_is_refused() -> None:
    with pytest.raises(UnknownName, match="int7"):
        dataclasses.replace(load_stack("llama-cpp"), packed_compute="int7")


@pytest.mark.parametrize(
    ("hardware", "stack", "rows"),
    [
        ("rtx-4090", "llama-cpp", 128),
        ("t4", "llama-cpp", 128),  # Turing, 7.5
        ("v100-sxm2-16gb", "llama-cpp", 64),
        ("p40", "llama-cpp", 64),
        ("p40", "llama-cpp-2025", 64),
        ("apple-m2-ultra", "llama-cpp", 32),
        ("apple-m2-ultra", "llama-cpp-2025", 32),
        ("rx-7900-xtx", "llama-cpp-late-2025", 128),
        ("mi100", "llama-cpp", 128),  # MFMA
        ("mi50", "llama-cpp", 64),
        ("rx-6800-xt", "llama-cpp-2025", 64),
    ],
)
def test_cards_with_other_kernels_have_other_tiles(hardware: str, stack: str, rows: int) -> None:
    found = load_platform(hardware, stack).stack.fused_tile
    assert max(found.rows, default=0) == rows
    assert (found == load_stack(stack).fused_tile) is (rows == 128)


def test_a_prompt_on_a_card_of_before_turing_is_not_padded_to_tiles_it_has_not() -> None:
    """16 rows an expert of a pass of 512 tokens: tiles of 64 and not of 128, so half of the arithmetic."""
    old, new = (load_stack("llama-cpp").on("NVIDIA", capability).fused_tile for capability in ("7.0", "7.5"))
    fused = FusedExperts(n_tokens=512, n_experts=256, n_rows=4096, n_gemms=512)
    assert (old.height(fused), new.height(fused)) == (64, 128)
    assert load_stack("llama-cpp").on("NVIDIA", "10.3").fused_tile == new, "numbers, not text"


def test_metal_has_tiles_from_thirty_two_tokens_on() -> None:
    tile = load_stack("llama-cpp").on("Apple", "").fused_tile
    few, many = (FusedExperts(n_tokens=n, n_experts=64, n_rows=8 * n, n_gemms=128) for n in (31, 32))
    assert (tile.height(few), tile.height(many)) == (1, 32)
    assert tile.n_loads(many, Gemm(32, 768, 2048)) == 0


def test_cards_are_named_one_by_one_too() -> None:
    of_cards = ByCard({"AMD gfx906 gfx1030": "narrow", "NVIDIA before 7.5": "old", "Apple": "metal"})
    asked = [("AMD", "gfx1030"), ("AMD", "gfx1100"), ("AMD", ""), ("NVIDIA", "7.0"), ("NVIDIA", "7.5"), ("Apple", "")]
    assert [of_cards.of(*card) for card in asked] == ["narrow", None, None, "old", None, "metal"]


def test_volta_multiplies_expert_by_expert_from_sixty_four_tokens_on() -> None:
    hw = dataclasses.replace(load_platform("v100-pcie-32gb", "llama-cpp"), fit=None)
    figures, stack = figures_of(hw), hw.stack
    rate, bandwidth = figures.flop_per_s("fp16"), figures.hbm_bytes_per_s
    what = ffn_work.experts_work(QWEN, [20] * 128, fused=True)._replace(weight_bits=4.5)
    below, above = (
        what._replace(fused=FusedExperts(128, 128 * 20, len(what.gemms), n_tokens)) for n_tokens in (63, 64)
    )
    assert stack.launches_of(above) - stack.launches_of(below) == 128 * 3 * 3
    padded, own = (fused_s(one, figures, rate, bandwidth)[0][0] for one in (below, above))
    load_s = figures.cycles_s("tile_load_s") / 80
    assert own == pytest.approx(2 * 128 * (2 * 24 * 768 * 2048 / rate + 6 * 8 * load_s)), "20 rows in tiles of 24"
    assert padded == pytest.approx(2 * 128 * (2 * 64 * 768 * 2048 / rate + 6 * 8 * load_s))
    short_s = [missing_s(one, figures, 0.0, []) for one in (below, above)]
    assert short_s == pytest.approx([n * figures.cycles_s("tiled_gemm_s") for n in (3, 3 * 128)])
    assert load_platform("p40", "llama-cpp").stack.fused_tile.apart_from == 0


@pytest.mark.parametrize("cards", ["NVIDIA before Turing", "NVIDIA before", "NVIDIA 7", "AMD 906", "all cards"])
def test_cards_that_nobody_can_tell_are_refused(cards: str) -> None:
    section = Section({"fused_experts_tile_of": {cards: {"rows": [32], "source": "read"}}}, "s.yaml")
    with pytest.raises(InvalidFile, match="is not of the form MAKER"):
        read_by_card(section, "fused_experts_tile_of", read_tile)
