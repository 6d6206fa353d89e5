"""Op to seconds: hand-computed values and limits."""

from __future__ import annotations

import pytest

from hwmodels.cost import price
from hwmodels.platform import load_platform
from offload import work
from offload.ops import Gemm, OpKind, Work
from traces.architecture import load_architecture
from traces.errors import InvalidInput

HW = load_platform("a100-sxm4-80gb", "fastertransformer")
SWITCH = load_architecture("switch-base-64")


def seconds(what: Work) -> float:
    return float(price([what], HW).duration_s[0])


def experts_s(n: int) -> float:
    """Expert FFN of n experts with one token each, without its kernels' fixed time."""
    fixed = HW.stack.launches[OpKind.EXPERTS] * HW.constant("kernel_s")
    return seconds(work.experts_work(SWITCH, [1] * n)) - fixed


def test_grouped_gemms_run_in_whole_waves() -> None:
    """Switch-Base on 108 multiprocessors: 24 tiles of inner size 768 and 6 of 3072 an expert."""
    tile_s = 2 * 128 * 128 * 768 / (19.5e12 * HW.constant("gemm_efficiency") / 108)
    units = {1: 5, 4: 5, 8: 6, 16: 8, 32: 16, 64: 31}
    for n, expected in units.items():
        assert experts_s(n) == pytest.approx(expected * tile_s, rel=1e-12)


def test_tokens_beyond_a_tile_take_another() -> None:
    full, over = (seconds(work.experts_work(SWITCH, [n] * 18)) for n in (128, 129))
    assert over > full
    assert seconds(work.experts_work(SWITCH, [1] * 18)) == full


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


def test_waits_and_steps_are_host_time_and_kernels_are_issued() -> None:
    costs = price([Work(OpKind.WAIT), Work(OpKind.STEP), work.gate_work(SWITCH, 1)], HW)
    assert costs.duration_s[:2].tolist() == [HW.constant("sync_s"), HW.constant("step_s")]
    assert costs.issue_s.tolist() == pytest.approx([0, 0, 7 * HW.constant("launch_s")])


def test_an_expert_on_the_cpu_reads_its_weights_from_dram() -> None:
    what = work.experts_work(SWITCH, [1])._replace(kind=OpKind.CPU_EXPERT)
    dram = HW.machine.host.dram_bytes_per_s * HW.constant("cpu_efficiency")
    assert seconds(what) == pytest.approx(18_874_368 / dram)


def test_a_dtype_without_a_rate_is_one_clear_line() -> None:
    t4 = load_platform("t4")
    with pytest.raises(InvalidInput, match="t4 states no bf16 rate") as caught:
        price([work.gate_work(load_architecture("mixtral-8x7b"), 1)], t4)
    assert "--set accelerator.peak_flop_per_s.bf16" in str(caught.value)


def test_shared_experts_and_gated_matrices_are_counted() -> None:
    qwen = load_architecture("qwen1.5-moe-a2.7b")
    routed = work.experts_work(qwen, [1] * 4)
    both = work.experts_work(qwen, [1] * 4, 1)
    assert routed.weight_bytes == pytest.approx(4 * qwen.expert_bytes, rel=0.01)
    assert both.weight_bytes - routed.weight_bytes == pytest.approx(2 * qwen.shared_expert_params, rel=0.01)
