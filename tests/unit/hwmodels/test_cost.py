"""Op to seconds: hand-computed values and limits."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from hwmodels.cost import Costs, Parts, parts_of, price, price_figures
from hwmodels.figures import figures_of
from hwmodels.platform import load_platform
from offload import ffn_work, work
from offload.ops import Attending, Gemm, OpKind, Work
from tests.unit.hwmodels.priced_ops import HW, ROUND, SWITCH, seconds


def experts_s(n: int) -> float:
    """Expert FFN of n experts with one token each, without its kernels' fixed time."""
    fixed = HW.stack.launches[OpKind.EXPERTS] * HW.constant("kernel_s")
    return seconds(ffn_work.experts_work(SWITCH, [1] * n)) - fixed


def test_grouped_gemms_run_in_whole_waves() -> None:
    """Switch-Base on 108 multiprocessors: 24 tiles of inner size 768 and 6 of 3072 an expert."""
    tile_s = 2 * 128 * 128 * 768 / (19.5e12 * HW.constant("gemm_efficiency") / 108)
    units = {1: 5, 4: 5, 8: 6, 16: 8, 32: 16, 64: 31}
    for n, expected in units.items():
        assert experts_s(n) == pytest.approx(expected * tile_s, rel=1e-12)


def test_tokens_beyond_a_tile_take_another() -> None:
    full, over = (seconds(ffn_work.experts_work(SWITCH, [n] * 18)) for n in (128, 129))
    assert over > full
    assert seconds(ffn_work.experts_work(SWITCH, [1] * 18)) == full


def test_copies_are_latency_plus_bytes_over_bandwidth() -> None:
    fetch = work.expert_copy_work(SWITCH, OpKind.FETCH)
    rate = HW.machine.link.h2d_bytes_per_s * HW.constant("link_efficiency")
    assert seconds(fetch) == pytest.approx(HW.constant("copy_latency_s") + 18_874_368 / rate, rel=1e-12)
    stage = work.expert_copy_work(SWITCH, OpKind.STAGE)
    hbm = 2.039e12 * HW.constant("hbm_efficiency")
    assert seconds(stage) == pytest.approx(2 * HW.constant("kernel_s") + 2 * 18_874_368 / hbm, rel=1e-12)


def test_a_latency_of_the_link_replaces_the_stacks() -> None:
    hw = load_platform("a100-sxm4-80gb", overrides={"link.copy_latency_s": "1ms"})
    fetch = work.expert_copy_work(SWITCH, OpKind.FETCH)
    assert price([fetch], hw).duration_s[0] - seconds(fetch) == pytest.approx(1e-3 - HW.constant("copy_latency_s"))


def test_a_gemm_is_bound_by_its_weights_or_its_arithmetic() -> None:
    small = Work(OpKind.HEAD, (Gemm(1, 4096, 4096),))
    large = Work(OpKind.HEAD, (Gemm(8192, 4096, 4096),))
    fixed = HW.stack.launches[OpKind.HEAD] * HW.constant("kernel_s")
    assert seconds(small) - fixed == pytest.approx(4096 * 4096 * 4 / (2.039e12 * HW.constant("hbm_efficiency")))
    assert seconds(large) - fixed == pytest.approx(2 * 8192 * 4096**2 / (19.5e12 * HW.constant("gemm_efficiency")))


def test_experts_of_another_card_are_issued_by_a_thread_of_its_own() -> None:
    here = Work(OpKind.EXPERTS, (Gemm(4, 512, 256),))
    costs = price([here, here._replace(n_copies=0)], HW)
    assert costs.issue_s[0] > costs.issue_s[1] == 0
    assert costs.duration_s[0] == costs.duration_s[1] > 0


def test_waits_and_steps_are_host_time_and_kernels_are_issued() -> None:
    costs = price([Work(OpKind.WAIT), Work(OpKind.STEP), work.gate_work(SWITCH, 1)], HW)
    assert costs.duration_s[:2].tolist() == [HW.constant("sync_s"), HW.constant("step_s")]
    assert costs.issue_s.tolist() == pytest.approx([0, 0, 7 * HW.constant("launch_s")])


def test_one_expert_and_four_cost_the_same_and_five_another_wave() -> None:
    """In plain numbers: 108 multiprocessors of 1 TFLOP/s; 24 tiles an expert up (25.165824 us a wave), 6 down (four
    times as deep), 4 kernels of 1 us.
    """
    hw = load_platform(
        "a100-sxm4-80gb",
        "fastertransformer",
        {
            "accelerator.peak_flop_per_s.fp32": 108e12,
            "accelerator.n_sm": 108,
            "accelerator.hbm_bytes_per_s": 1e15,
            "stack.gemm_efficiency": 1.0,
            "stack.kernel_s": 1e-6,
        },
    )
    one, four, five = price([ffn_work.experts_work(SWITCH, [1] * n) for n in (1, 4, 5)], hw).duration_s.tolist()
    assert one == four == pytest.approx(129.82912e-6, rel=1e-12)
    assert five == pytest.approx(154.994944e-6, rel=1e-12)


def test_a_grouped_gemm_is_never_faster_than_reading_its_weights() -> None:
    hw = load_platform("a100-sxm4-80gb", "fastertransformer", {"accelerator.hbm_bytes_per_s": 1e9})
    what = ffn_work.experts_work(SWITCH, [1] * 3)
    fixed = hw.stack.launches[OpKind.EXPERTS] * hw.constant("kernel_s")
    reading_s = 3 * 18_874_368 / (1e9 * hw.constant("hbm_efficiency"))
    assert price([what], hw).duration_s[0] == pytest.approx(fixed + reading_s, rel=1e-12)


@pytest.mark.parametrize("n_machines", [None, 3])
def test_works_priced_together_cost_what_each_costs_alone(n_machines: int | None) -> None:
    """To the last bit: contexts far apart, so that arithmetic binds some and traffic others."""
    hw = load_platform("a100-sxm4-80gb")
    gemms = (Gemm(1, 768, 768), Gemm(1, 64, 768))
    works = [
        Work(kind, gemms[:n], flop=flop, hbm_bytes=n_bytes)
        for kind in (OpKind.SELF_ATTENTION, OpKind.GATE)
        for n in (1, 2)
        for flop, n_bytes in ((0, 10), (10**9, 1), (7, 10**8 + 1), (10**9, 1))
    ]
    figures = figures_of(hw)
    if n_machines is not None:
        figures = figures.with_values({"stack.gemm_efficiency": np.linspace(0.1, 0.9, n_machines)})
    together = price_figures(works, figures.for_works(works), n_machines)
    for i, each in enumerate(works):
        alone = price_figures([each], figures, n_machines)
        for name in ("issue_s", "duration_s", "link_s", "hbm_s"):
            assert getattr(together, name)[i].tolist() == getattr(alone, name)[0].tolist(), (i, name)


UP, DOWN = Gemm(1, 256, 10, 2), Gemm(1, 10, 256, 2)


@pytest.mark.parametrize(
    ("what", "issue_s", "parts", "hbm_s"),
    [
        (Work(OpKind.FETCH, copy_bytes=600, n_copies=3), 5, Parts(3 * 17, link_s=12), 1.2),
        (Work(OpKind.READBACK, copy_bytes=200), 5, Parts(17, link_s=2), 0.4),
        (Work(OpKind.STAGE, copy_bytes=300, n_copies=3), 5, Parts(3 * 2 * 7, hbm_s=1.2), 1.2),  # read and written
        (Work(OpKind.DISK_READ, copy_bytes=50), 0, Parts(3, disk_s=5), 0),
        (Work(OpKind.FILE, copy_bytes=50), 0, Parts(dram_s=1), 0),  # read and written
        (Work(OpKind.WAIT), 0, Parts(11), 0),
        (Work(OpKind.STEP), 0, Parts(13), 0),
        (Work(OpKind.ISSUE, n_copies=4), 0, Parts(4 * 5), 0),
        (Work(OpKind.CPU_EXPERT, (Gemm(1, 10, 10),)), 0, Parts(dram_s=8), 0),  # 400 B
        (Work(OpKind.CPU_EXPERT, (Gemm(50, 10, 10),)), 0, Parts(compute_s=20), 0),  # 10 kFLOP
        (
            Work(OpKind.GATE, (Gemm(2, 10, 10), Gemm(50, 10, 10)), flop=3000, hbm_bytes=500),
            7 * 2, Parts(7 * 7, 1.5 + 5, 0.8), (800 + 500) / 500,
        ),
        (
            Work(OpKind.HEAD, (Gemm(2, 10, 10),), "bf16", 16.0, flop=100, hbm_bytes=500, flop_compute="fp32"),
            7 * 2, Parts(7 * 7, 0, 1 + 0.4), (200 + 500) / 500,
        ),
        (Work(OpKind.HEAD, flop=3000, flop_compute="bf16"), 7 * 2, Parts(7 * 7, 0.75), 0),
        # four tiles of 128 x 128 up, two down, one a multiprocessor at 500 FLOP/s
        (Work(OpKind.EXPERTS, (UP, DOWN)), 4 * 2, Parts(4 * 7, 655.36 + 16777.216), 81.92),
        # tokens of two numbers: 1 + 2 rows of two columns of tiles up are two waves, down half as many are one
        (
            Work(OpKind.EXPERTS, (Gemm(128, 256, 10), Gemm(128, 10, 256), Gemm(129, 256, 10), Gemm(129, 10, 256))),
            4 * 2, Parts(4 * 7, 2 * 655.36 + 16777.216), 81.92,
        ),
    ],
)  # fmt: skip
def test_every_kind_of_op_in_round_numbers(what: Work, issue_s: float, parts: Parts, hbm_s: float) -> None:
    assert parts_of(what, ROUND) == pytest.approx(parts, rel=1e-12)
    costs = price_figures([what], ROUND)
    assert costs.issue_s.tolist() == [issue_s]
    assert costs.duration_s.tolist() == pytest.approx([sum(parts)], rel=1e-12)
    assert costs.link_s.tolist() == [parts.link_s]
    assert costs.hbm_s.tolist() == pytest.approx([hbm_s], rel=1e-12)


def test_parts_sum_to_the_whole_and_are_zero_unless_given() -> None:
    assert Parts(1, 2, 4, 8, 16, 32).total_s == 63
    assert Parts() == (0.0,) * 6


def test_reading_the_weights_of_grouped_experts_takes_over_where_it_is_longer() -> None:
    """At 1 B/s of HBM achieved: 256 x 10 numbers up and as many down, two experts, four bytes each."""
    slow = ROUND.with_values({"accelerator.hbm_bytes_per_s": 2.0})
    assert parts_of(Work(OpKind.EXPERTS, (UP, DOWN)), slow) == pytest.approx(Parts(28, 0, 2 * 20480))
    half = parts_of(Work(OpKind.EXPERTS, (UP, DOWN), "bf16", 16.0), slow)
    assert half == pytest.approx(Parts(28, 0, 2 * 10240))


def test_weights_of_experts_with_more_and_fewer_tokens_add_up() -> None:
    slow = ROUND.with_values({"accelerator.hbm_bytes_per_s": 2.0})
    one_more = (Gemm(2, 256, 10), Gemm(2, 10, 256))
    assert parts_of(Work(OpKind.EXPERTS, (UP, DOWN, *one_more)), slow) == pytest.approx(Parts(28, 0, 3 * 20480))


def test_a_stack_without_a_tile_prices_experts_by_roofline() -> None:
    plain = dataclasses.replace(ROUND, stack=load_platform("a100-sxm4-80gb", "streams").stack)
    n_launches = plain.stack.launches[OpKind.EXPERTS]
    what = Work(OpKind.EXPERTS, (UP, Gemm(4, 10, 256, 2)))
    assert parts_of(what, plain) == pytest.approx(Parts(7 * n_launches, 0, 2 * 40.96))
    assert parts_of(Work(OpKind.EXPERTS, (Gemm(40, 10, 256, 2),)), plain) == pytest.approx(
        Parts(7 * n_launches, 2 * 2 * 40 * 2560 / 2000)
    )


def test_storage_without_a_stated_latency_has_none() -> None:
    values = {key: value for key, value in ROUND.values.items() if key != "storage.read_latency_s"}
    bare = dataclasses.replace(ROUND, values=values)
    assert parts_of(Work(OpKind.DISK_READ, copy_bytes=50), bare) == Parts(0.0, disk_s=5.0)


def test_costs_that_say_nothing_of_shared_resources_share_none() -> None:
    costs = Costs(np.array([1.0, 2.0]), np.array([3.0, 4.0]))
    assert costs.link_s.tolist() == costs.hbm_s.tolist() == [0.0, 0.0]
    assert costs.contended.tolist() == [1.0, 1.0]
    derived = Costs(np.ones(2, complex), np.array([3 + 1e-30j, 4]))  # derivatives along a complex step
    assert {getattr(derived, name).dtype for name in ("link_s", "hbm_s", "crossed_s", "contended")} == {
        np.dtype(complex)
    }
    given = Costs(np.ones((1, 2)), np.ones((1, 2)), hbm_s=np.full((1, 2), 0.5))
    assert (given.link_s.tolist(), given.hbm_s.tolist()) == ([[0.0, 0.0]], [[0.5, 0.5]])


def test_prices_have_a_row_a_work_and_a_column_a_machine() -> None:
    works = [Work(OpKind.WAIT), Work(OpKind.FETCH, copy_bytes=600)]
    many = price_figures(works, ROUND.with_values({"stack.sync_s": np.array([1.0, 2.0, 3.0])}), 3)
    assert many.duration_s.tolist() == [[1.0, 2.0, 3.0], [17.0 + 12] * 3]
    assert many.link_s.tolist() == [[0.0] * 3, [12.0] * 3]
    assert many.issue_s.tolist() == [[0.0] * 3, [5.0] * 3]
    assert many.hbm_s.tolist() == [[0.0] * 3, [pytest.approx(1.2)] * 3]
    assert price_figures([], ROUND).duration_s.shape == (0,)
    assert price_figures([], ROUND, 3).duration_s.shape == (0, 3)


def test_attention_reads_its_context_at_a_rate_of_its_own() -> None:
    def attention(n_tokens: int, n_sequences: int, n_kv_heads: int = 2, value_width: int = 8) -> Work:
        at = Attending(n_tokens, n_sequences, 4, n_kv_heads, 8, value_width, 16.0)
        return Work(OpKind.SELF_ATTENTION, hbm_bytes=10**9, attending=at)

    plain = figures_of(load_platform("rtx-4090", "streams"))
    slow = dataclasses.replace(plain, values={**plain.values, "stack.attention_efficiency": 0.25})
    full_s = 1e9 / plain["accelerator.hbm_bytes_per_s"]
    for works in (attention(1, 1), attention(3, 3), attention(5, 1)):
        assert float(parts_of(works, slow).hbm_s) == pytest.approx(full_s / 0.25)
        assert float(parts_of(works, plain).hbm_s) == pytest.approx(full_s / plain.stack_constant("hbm_efficiency"))
    for works in (attention(1, 1, n_kv_heads=1, value_width=4), Work(OpKind.HEAD, hbm_bytes=10**9)):
        assert parts_of(works, slow) == parts_of(works, plain)  # latents, no attention


def test_sorting_rows_takes_host_time_by_the_entry_and_the_order_is_copied_and_waited_for() -> None:
    slow = dataclasses.replace(ROUND, values={**ROUND.values, "stack.sort_s": 0.5})
    what = Work(OpKind.SORT, n_entries=8)
    given_back_s = sum(ROUND[f"stack.{name}"] for name in ("copy_issue_s", "copy_latency_s", "sync_s"))
    assert (parts_of(what, ROUND), parts_of(what, slow)) == (Parts(given_back_s), Parts(given_back_s + 4))
    assert price_figures([what], slow).hbm_s.tolist() == [0.0]


def test_cells_that_the_host_lists_are_copied_by_nobody_there() -> None:
    slow = dataclasses.replace(ROUND, values={**ROUND.values, "stack.sort_s": 0.5})
    what = work.gather_work(64)
    assert what.n_entries == 64 * (2 * 7 + 3), "listed, compared in two sorts of 64, and put together"
    assert parts_of(what, slow) == Parts(what.n_entries * 0.5)


def test_a_mask_takes_host_time_by_the_entry_where_the_stack_says_so() -> None:
    slow = dataclasses.replace(ROUND, values={**ROUND.values, "stack.mask_s": 0.25})
    assert (parts_of(work.mask_work(8), ROUND), parts_of(work.mask_work(8), slow)) == (Parts(), Parts(2.0))


@pytest.mark.parametrize(
    ("card", "key_width", "value_width", "share"),
    [
        ("rtx-5090", 8, 8, 0.75),  # values are half of the arithmetic, at twice the rate
        ("rtx-3090", 24, 8, 0.875),
        ("l40s", 8, 8, 1.0),  # sums of 32 bits at the full rate
        ("h100-sxm", 8, 8, 1.0),
        ("b300", 8, 8, 1.0),  # few integers
        ("gtx-1080-ti", 8, 8, 1.0),  # multiplies in 32 bits
    ],
)
def test_values_summed_in_16_bits_are_multiplied_faster_where_a_card_halves_the_rate_for_32(
    card: str, key_width: int, value_width: int, share: float
) -> None:
    at = Attending(4, 1, 4, 2, key_width, value_width, 16.0)
    what = Work(OpKind.SELF_ATTENTION, flop=10**12, flop_compute="fp16", attending=at)
    plain = figures_of(load_platform(card, "llama-cpp"))
    wide = dataclasses.replace(plain, stack=dataclasses.replace(plain.stack, half_sums=False))
    assert float(parts_of(what, plain).compute_s) == pytest.approx(
        share * float(parts_of(what, wide).compute_s),
        rel=1e-2,  # makers round
    )
    alone = what._replace(attending=None)
    assert parts_of(alone, plain) == parts_of(alone, wide)


def test_the_first_prompt_of_a_run_loads_its_kernels() -> None:
    slow = dataclasses.replace(ROUND, values={**ROUND.values, "stack.load_s": 0.25})
    plain, first = Work(OpKind.STEP), Work(OpKind.STEP, n_entries=1)
    assert parts_of(first, ROUND) == parts_of(plain, ROUND) == parts_of(plain, slow)
    assert parts_of(first, slow) == Parts(parts_of(plain, slow).fixed_s + 0.25)


def test_a_pass_that_is_cut_launches_its_kernels_one_by_one() -> None:
    stated = load_platform("rtx-5090", "pipelined-sharding", {"stack.split_launch_s": 1e-3, "stack.launch_s": 1e-6})
    gate, across = Work(OpKind.GATE), Work(OpKind.HANDOVER, copy_bytes=8)
    launches = stated.stack.launches[OpKind.GATE]
    figures = figures_of(stated)
    assert price_figures([gate], figures).issue_s[0] == pytest.approx(launches * 1e-6)
    assert price_figures([gate, across], figures).issue_s[0] == pytest.approx(launches * 1e-3)
    assert price_figures([gate, Work(OpKind.STREAM)], figures).issue_s[0] == pytest.approx(launches * 1e-3)
    plain = figures_of(load_platform("rtx-5090", "llama-cpp"))
    assert price_figures([gate, across], plain).issue_s[0] == price_figures([gate], plain).issue_s[0]


MORE = {"issue_rows_s": 3.0, "issue_gated_s": 5.0}
"""Of an expert, what its host pays on top."""


@pytest.mark.parametrize(
    ("rows", "n_up", "issue_s"), [((1, 1), 1, 10), ((2, 2), 1, 13), ((1, 1), 2, 15), ((1, 3), 2, 18), ((1, 1), 3, 15)]
)
def test_gathering_rows_and_a_third_matrix_are_more_to_issue_of_an_expert(
    rows: tuple[int, int], n_up: int, issue_s: float
) -> None:
    measured = {f"kernel.{kind}.issue_s": 10.0 for kind in ("experts", "head")}
    more = {f"kernel.{kind}.{name}": s for kind in ("experts", "head") for name, s in MORE.items()}
    gemms = (Gemm(rows[0], 10, 10, n_up), Gemm(rows[1], 10, 10))

    def issued(kind: OpKind, values: dict[str, float]) -> float:
        figures = dataclasses.replace(ROUND, values={**ROUND.values, **values})
        return float(price_figures([Work(kind, gemms)], figures).issue_s[0])

    assert issued(OpKind.EXPERTS, {**measured, **more}) == issue_s
    assert issued(OpKind.EXPERTS, measured) == 10  # a fit of before
    assert issued(OpKind.HEAD, {**measured, **more}) == 10
    for name, s in MORE.items():
        alone = issued(OpKind.EXPERTS, {**measured, f"kernel.experts.{name}": s})
        assert alone == 10 + s * (max(rows) > 1 if name == "issue_rows_s" else n_up > 1)
