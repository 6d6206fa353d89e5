"""Products of one row by a block of threads a row of weights, and launches that no CUDA graph spans."""

import dataclasses
import itertools
from pathlib import Path

import numpy as np
import pytest

from hwmodels.cost import price
from hwmodels.figures import figures_of
from hwmodels.kernels.floors import fused_s, read_bytes, row_blocks_s
from hwmodels.kernels.row_blocks import NO_ROW_BLOCKS, RowBlocks, read_row_blocks
from hwmodels.platform import Platform, load_platform
from offload import ffn_work, work
from offload.ops import Gemm, OpKind, Work
from traces.errors import InvalidFile
from traces.foundation.documents import read_yaml
from traces.model.architecture import load_architecture

QWEN, LITE = load_architecture("qwen3-30b-a3b"), load_architecture("deepseek-v2-lite")
Q4 = 4.5


def claimed(hardware: str = "rtx-3090", stack: str = "llama-cpp") -> Platform:
    return dataclasses.replace(load_platform(hardware, stack), fit=None)


def test_each_row_of_weights_has_a_block_that_reads_some_of_them_at_a_time() -> None:
    hw = claimed()
    figures, cycle = figures_of(hw), 2520e6 / 1695e6
    took = row_blocks_s([Gemm(1, 768, 2048, n_gemms=16)], Q4, figures)
    block_s, pass_s = hw.constant("row_block_s"), hw.constant("row_pass_s")
    assert took == pytest.approx(cycle * 16 * 768 * (block_s + pass_s) / 82)
    wide = row_blocks_s([Gemm(1, 768, 2048, n_gemms=16)], 8.5, figures)
    assert wide == pytest.approx(cycle * 16 * 768 * (block_s + 2 * pass_s) / 82), "half as many weights of 8 bits"
    assert row_blocks_s([Gemm(9, 768, 2048)], Q4, figures) == 0, "other kernels"
    assert row_blocks_s([Gemm(1, 768, 2048)], Q4, figures_of(claimed(stack="vllm"))) == 0


def test_short_rows_take_longer_than_their_bytes_and_long_ones_do_not() -> None:
    figures = figures_of(claimed())
    for k, bound in ((768, True), (16384, False)):
        gemm = Gemm(1, 1 << 15, k)
        by_memory = gemm.n * gemm.k * Q4 / 8 / figures.hbm_bytes_per_s
        assert (row_blocks_s([gemm], Q4, figures) > by_memory) is bound


def test_more_multiprocessors_multiply_small_experts_faster_at_the_same_memory_rate() -> None:
    one = ffn_work.experts_work(QWEN, [1] * 8, fused=True)._replace(weight_bits=Q4)
    small, large = (float(price([one], claimed(name)).duration_s[0]) for name in ("rtx-3090", "rtx-4090"))
    assert small / large > 1.5, "936 against 1,008 GB/s, 82 multiprocessors against 128"


def test_rows_shorter_than_a_pass_share_a_block_where_the_engine_has_them_do_so() -> None:
    """llama.cpp since March 2026: four rows of 768 weights a block, of 2,048 still one; not on RDNA, and not before."""
    long, short = Gemm(1, 2048, 2048), Gemm(1, 2048, 768)
    now, before, rdna = (
        claimed(hardware, stack).stack.row_blocks
        for hardware, stack in (
            ("rtx-3090", "llama-cpp"), ("rtx-3090", "llama-cpp-late-2025"), ("rx-7900-xtx", "llama-cpp"),
        )
    )  # fmt: skip
    assert [now.counts(gemm, Q4) for gemm in (long, short)] == [(2048, 2048 * 2048), (512, 2048 * 768)]
    assert before.counts(short, Q4) == rdna.counts(short, Q4) == (2048, 2048 * 768)
    assert [now.counts(short._replace(k=k), 6.56)[0] for k in (768, 1024)] == [512, 2048], "a pass of 6 bits is shorter"
    assert now.counts(short._replace(m=2), Q4)[0] == 1024, "for several rows of activations two"


def test_wavefronts_of_64_share_a_block_of_short_rows_by_two() -> None:
    """llama.cpp has as many short rows a block as warps: four of 32 threads, or two of 64 on GCN and CDNA."""
    short = Gemm(1, 2048, 768)
    blocks = [claimed(card).stack.row_blocks.counts(short, Q4)[0] for card in ("rtx-3090", "mi50", "mi250x-gcd")]
    assert blocks == [512, 1024, 1024]


def test_experts_that_tokens_have_in_the_same_slot_are_read_once() -> None:
    """By all ways in which `m` tokens have an expert in one of `n_slots` slots each."""
    now, metal = (claimed(card).stack.row_blocks for card in ("rtx-4090", "apple-m4-max"))
    for n_slots, m in ((1, 5), (2, 1), (2, 3), (4, 2), (8, 4)):
        ways = list(itertools.product(range(n_slots), repeat=m))
        assert now.reads(m, n_slots) == pytest.approx(sum(len(set(way)) for way in ways) / len(ways))
        assert metal.reads(m, n_slots) == m, "threadgroups of its own for each pair"


def test_several_tokens_read_experts_of_16_bits_once_but_on_cards_of_amd() -> None:
    alone, four = (ffn_work.experts_work(QWEN, [n] * 8, fused=True) for n in (1, 4))
    assert alone.weight_bits == 16
    for card, times in (("rtx-4090", 1), ("rx-7900-xtx", 8 * (1 - (7 / 8) ** 4)), ("apple-m4-max", 4)):
        figures = figures_of(claimed(card))
        assert read_bytes(four, figures) == pytest.approx(times * read_bytes(alone, figures))
        rate, bandwidth = figures.flop_per_s("bf16"), figures.hbm_bytes_per_s
        (_, four_s), (_, one_s) = (fused_s(what, figures, rate, bandwidth)[0] for what in (four, alone))
        assert four_s == pytest.approx(times * one_s)
    few = [ffn_work.experts_work(QWEN, [1, 3, 2], n, fused=True) for n in (3, 4)]
    together = price(few, claimed("rtx-4090")).duration_s.tolist()
    assert together == [float(price([one], claimed("rtx-4090")).duration_s[0]) for one in few]


def test_a_block_of_few_tokens_has_two_rows_of_the_experts_of_all_tokens() -> None:
    hw = claimed()
    figures = figures_of(hw)
    rate, bandwidth = figures.flop_per_s("int8"), figures.hbm_bytes_per_s
    works = [ffn_work.experts_work(QWEN, [n] * 8, fused=True)._replace(weight_bits=Q4) for n in (1, 4, 8, 9)]
    block_s, pass_s = (hw.constant(name) / 82 * 2520 / 1695 for name in ("row_block_s", "row_pass_s"))
    (one, one_bytes), (four, four_bytes), (eight, _), (_, nine_bytes) = (
        fused_s(what, figures, rate, bandwidth)[0] for what in works
    )
    assert one == pytest.approx(8 * 2 * 768 * (block_s + pass_s), rel=0.02)
    assert four == pytest.approx(8 * 2 * 768 * (block_s / 2 + 4 * pass_s), rel=0.05)
    assert eight - four == pytest.approx(8 * 2 * 768 * 4 * pass_s, rel=0.1), "as many blocks"
    slots = 8 * (1 - (7 / 8) ** 4)  # of four tokens with the same experts, some in the same slot
    assert (four_bytes, nine_bytes) == pytest.approx((slots * one_bytes, one_bytes)), "tiles read once"
    again = (slots - 1) * 8 * 3 * 768 * 2048 * Q4 / 8
    assert read_bytes(works[1], figures) == pytest.approx(works[1].weight_bytes + again)


def test_experts_of_more_than_one_token_had_no_blocks_of_rows() -> None:
    hw = claimed(stack="llama-cpp-late-2025")
    figures = figures_of(hw)
    rate, bandwidth = figures.flop_per_s("int8"), figures.hbm_bytes_per_s
    one, two = (ffn_work.experts_work(QWEN, [n] * 8, fused=True)._replace(weight_bits=Q4) for n in (1, 2))
    blocks_s = 8 * 2 * 768 * (hw.constant("row_block_s") + hw.constant("row_pass_s")) / 82 * 2520 / 1695
    assert fused_s(one, figures, rate, bandwidth)[0][0] == pytest.approx(blocks_s, rel=0.02)
    without = dataclasses.replace(figures, stack=dataclasses.replace(figures.stack, row_blocks=NO_ROW_BLOCKS))
    assert fused_s(two, figures, rate, bandwidth) == fused_s(two, without, rate, bandwidth)


@pytest.mark.parametrize("stack", ["llama-cpp", "llama-cpp-late-2025"])
@pytest.mark.parametrize("model", [QWEN, LITE])
def test_ops_priced_together_take_to_the_bit_what_each_takes_alone(model: object, stack: str) -> None:
    rng = np.random.default_rng(3)
    works = []
    for n_tokens in (1, 1, 2, 5, 1, 9, 2, 12):
        rows = rng.multinomial(n_tokens * 6, [1 / 16] * 16)
        counts = [min(int(n), n_tokens) for n in rows if n]
        works.append(ffn_work.experts_work(model, counts, n_tokens, fused=True)._replace(weight_bits=Q4))  # type: ignore[arg-type]
    hw = claimed(stack=stack)
    together, alone = price(works, hw), [price([one], hw) for one in works]
    assert together.duration_s.tolist() == [float(one.duration_s[0]) for one in alone]
    assert together.issue_s.tolist() == [float(one.issue_s[0]) for one in alone]


def test_a_pass_of_more_tokens_than_a_graph_is_kept_for_is_launched_kernel_by_kernel() -> None:
    hw = claimed(stack="llama-cpp-late-2025")
    gate = [work.gate_work(QWEN, n) for n in (1, 2)]
    n_kernels = hw.stack.launches[OpKind.GATE]
    issue_s = price(gate, hw).issue_s
    assert issue_s.tolist() == pytest.approx(
        [n_kernels * hw.constant("launch_s"), n_kernels * hw.constant("batch_launch_s")]
    )
    always = dataclasses.replace(hw, stack=dataclasses.replace(hw.stack, graph_tokens=0))
    assert price(gate, always).issue_s[1] == pytest.approx(issue_s[0])
    one, two = (ffn_work.experts_work(QWEN, [n] * 8, fused=True) for n in (1, 2))
    assert hw.stack.launches_of(two) - hw.stack.launches_of(one) == hw.stack.tiled_launches == 6
    assert (Work(OpKind.WAIT).n_rows, one.n_rows, two.n_rows) == (0, 1, 2)
    since = claimed()
    assert [since.stack.graph_tokens, since.stack.launches_of(two) - since.stack.launches_of(one)] == [8, 0]
    assert price(gate, since).issue_s.tolist() == pytest.approx([n_kernels * since.constant("launch_s")] * 2)


def test_metal_gives_four_rows_of_weights_to_a_block_and_reads_an_expert_for_each_row_of_few() -> None:
    hw = claimed("apple-m4-max")
    figures, cycle = figures_of(hw), 2520e6 / 1578e6
    block_s, pass_s = hw.constant("row_block_s"), hw.constant("row_pass_s")
    took = row_blocks_s([Gemm(1, 768, 2048, n_gemms=16)], Q4, figures)
    assert took == pytest.approx(cycle * 16 * (192 * block_s + 768 * pass_s) / 40)
    few, once = (ffn_work.experts_work(QWEN, rows, fused=True)._replace(weight_bits=Q4) for rows in ([2] * 4, [1] * 8))
    few, once = (one._replace(fused=one.fused._replace(n_tokens=31)) for one in (few, once) if one.fused is not None)
    many = few._replace(fused=few.fused and few.fused._replace(n_tokens=32))
    rate, bandwidth = figures.flop_per_s("int8"), figures.hbm_bytes_per_s
    of_few, of_once, of_many = (fused_s(one, figures, rate, bandwidth) for one in (few, once, many))
    assert [bytes_s for _, bytes_s in of_few] == [bytes_s for _, bytes_s in of_once], "eight pairs, eight reads"
    assert of_few[0][1] == pytest.approx(2 * of_many[0][1]), "a tile reads an expert once"
    assert read_bytes(few, figures) == read_bytes(once, figures) == 2 * read_bytes(many, figures)


def read(tmp_path: Path, text: str) -> RowBlocks:
    (tmp_path / "stack.yaml").write_text(text)
    return read_row_blocks(read_yaml(tmp_path / "stack.yaml"))


def test_a_stack_states_its_blocks_or_has_none(tmp_path: Path) -> None:
    stated = read(tmp_path, "row_blocks: {passes: [[6, 2048], [8.5, 1024]], up_to_rows: 8, source: counted}")
    assert stated == RowBlocks(((6.0, 2048), (8.5, 1024)), 8)
    assert [stated.weights_a_pass(bits) for bits in (4.25, 6, 8.5, 16)] == [2048, 2048, 1024, 1024]
    assert read(tmp_path, "a: 1") == NO_ROW_BLOCKS


@pytest.mark.parametrize(
    "passes", ["[]", "[6]", "[[6]]", "[[0, 4]]", "[[6, 0]]", "[[6, 2.5]]", "[[8, 1], [6, 2]]", "[[true, 1]]"]
)
def test_what_is_no_list_of_bits_and_weights_is_refused(tmp_path: Path, passes: str) -> None:
    with pytest.raises(InvalidFile, match="passes"):
        read(tmp_path, f"row_blocks: {{passes: {passes}, source: counted}}")
