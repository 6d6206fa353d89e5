"""What formats of weights cost: read, unpacked, multiplied."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from hwmodels.cost import price, price_figures
from hwmodels.figures import figures_of
from hwmodels.platform import Platform, load_platform
from hwmodels.specs.machine_files import hardware_names, load_machine
from offload import ffn_work, work
from offload.ops import Gemm, OpKind, Work
from tests.unit.hwmodels.priced_ops import HW, SWITCH, seconds
from traces.errors import InvalidInput
from traces.model.architecture import DTYPES, load_architecture


def seconds_on(what: Work, hw: Platform) -> float:
    return float(price([what], hw).duration_s[0])


def test_an_expert_on_the_cpu_reads_its_weights_from_dram() -> None:
    what = ffn_work.experts_work(SWITCH, [1])._replace(kind=OpKind.CPU_EXPERT)
    host = HW.machine.host
    assert host.read_efficiency is not None
    dram = host.dram_bytes_per_s * host.read_efficiency * HW.constant("cpu_efficiency")
    assert seconds(what) == pytest.approx(18_874_368 / dram)


@pytest.mark.parametrize(
    ("hardware", "wanted", "computed"),
    [("t4", "bf16", "fp16"), ("a100-sxm4-80gb", "fp8", "bf16"), ("rtx-4090", "fp8", "fp8"), ("t4", "fp16", "fp16")],
)
def test_a_card_computes_in_the_next_format_that_it_has_a_rate_for(hardware: str, wanted: str, computed: str) -> None:
    hw = load_platform(hardware, "streams")
    model = load_architecture("mixtral-8x7b").with_dtype(wanted)
    what = ffn_work.experts_work(model, [512])
    assert what.weight_bits == model.dtype.bits  # stored as before
    rate = hw.machine.accelerator.peak_flop_per_s[computed] * hw.constant("gemm_efficiency")
    launches = hw.stack.launches[OpKind.EXPERTS] * hw.constant("kernel_s")
    assert price([what], hw).duration_s[0] - launches == pytest.approx(what.total_flop / rate)


def test_formats_below_eight_bits_are_stored_so_and_computed_as_activations() -> None:
    model = load_architecture("mixtral-8x7b").with_dtype("mxfp4")
    for hardware in ("rtx-4090", "t4", "h100-sxm"):
        bf16, packed = (ffn_work.experts_work(m, [1]) for m in (load_architecture("mixtral-8x7b"), model))
        assert (packed.compute, packed.weight_bits) == ("bf16", 4.25)
        hw = load_platform(hardware)
        launches = hw.stack.launches[OpKind.EXPERTS] * hw.constant("kernel_s")
        times = [price([what], hw).duration_s[0] - launches for what in (packed, bf16)]
        bits = 4.25 + 4 * (1 / hw.constant("dequant_efficiency") - 1)
        assert times[0] / times[1] == pytest.approx(bits / 16)  # one token: reading the weights is all of it


def test_weights_of_four_bits_are_unpacked_at_the_share_of_the_memory_rate_that_the_stack_states() -> None:
    hw = load_platform("rtx-4090", "streams")
    fixed = hw.stack.launches[OpKind.EXPERTS] * hw.constant("kernel_s")
    four, rate = Work(OpKind.EXPERTS, (Gemm(1, 4096, 4096),), "bf16", 4.0), hw.machine.accelerator.hbm_bytes_per_s
    achieved = 4096 * 4096 / 2 / (seconds_on(four, hw) - fixed)
    assert achieved == pytest.approx(rate * hw.constant("hbm_efficiency") * hw.constant("dequant_efficiency"))


@pytest.mark.parametrize(
    ("hardware", "compute", "bits", "unpacked"),
    [
        ("rtx-4090", "bf16", 4.25, True), ("rtx-4090", "fp16", 8.5, True), ("rtx-4090", "fp8", 8.0, False),
        ("rtx-4090", "fp8", 8.25, False), ("rtx-4090", "fp8", 8.002, False), ("a100-sxm4-80gb", "fp8", 8.0, True),
        ("a100-sxm4-80gb", "int8", 8.0, False), ("t4", "bf16", 16.0, False), ("t4", "fp32", 32.0, False),
        ("a100-sxm4-80gb", "fp32", 16.0, False), ("rtx-4090", "bf16", 2.0, True),
    ],
)  # fmt: skip
def test_only_weights_narrower_than_what_the_card_multiplies_are_unpacked(
    hardware: str, compute: str, bits: float, unpacked: bool
) -> None:
    figures = figures_of(load_platform(hardware, "streams"))
    what = Work(OpKind.EXPERTS, (Gemm(1, 4096, 4096),), compute, bits)
    extra = 4 * (1 / figures.stack_constant("dequant_efficiency") - 1)
    assert figures.read_bits(what) == bits + (extra if unpacked else 0.0)


def test_every_card_stores_every_format_and_multiplies_it_in_one_that_it_has() -> None:
    works = []
    for name in DTYPES:
        changed = load_architecture("mixtral-8x7b").with_formats({"all": name})
        works += [
            ffn_work.experts_work(changed, [1]), work.self_attention_work(changed, changed.decoder, 1, 5, 5),
            work.head_work(changed, 1), work.gate_work(changed, 1),
        ]  # fmt: skip
    alike = {frozenset(load_machine(name).accelerator.peak_flop_per_s): name for name in hardware_names()}
    for hardware in alike.values():  # one of those that multiply in the same formats
        assert np.all(price(works, load_platform(hardware, "streams")).duration_s > 0), hardware


def test_unpacking_costs_nothing_where_nothing_is_packed() -> None:
    hw = load_platform("a100-sxm4-80gb", "streams")
    slow = figures_of(hw).with_values({"stack.dequant_efficiency": 0.01})
    for name in ("switch-base-64", "qwen3-30b-a3b", "mixtral-8x7b"):
        model = load_architecture(name)
        works = [
            ffn_work.experts_work(model, [1, 3]), work.gate_work(model, 2), work.head_work(model, 2),
            work.self_attention_work(model, model.decoder, 1, 5, 5), work.expert_copy_work(model, OpKind.FETCH),
        ]  # fmt: skip
        assert price(works, hw).duration_s.tolist() == price_figures(works, slow).duration_s.tolist()


def test_grouped_gemms_and_fitted_kernels_unpack_too() -> None:
    model = load_architecture("mixtral-8x7b").with_formats({"experts": "q2_k"})
    what = ffn_work.experts_work(model, [1])
    for hw in (HW, load_platform("h100-sxm", "streams")):
        times = [
            float(price_figures([what], figures_of(hw).with_values({"stack.dequant_efficiency": e})).duration_s[0])
            for e in (1.0, 0.05)
        ]
        assert times[1] > times[0]


def test_unpacking_that_waits_for_its_loads_takes_as_long_on_every_card() -> None:
    model = load_architecture("mixtral-8x7b").with_formats({"experts": "hqq2-g16-m"})
    what = ffn_work.experts_work(model, [1])
    slow, fast = (load_platform(name, "mixtral-offloading") for name in ("t4", "a100-sxm4-80gb"))
    unpack_s = slow.constant("unpack_s") * model.expert_params
    for hw in (slow, fast):
        figures = figures_of(hw)
        reading_s = model.expert_bytes / figures.hbm_bytes_per_s
        took_s = figures.read_bits(what) / 8 * model.expert_params / figures.hbm_bytes_per_s
        assert took_s == pytest.approx(reading_s + unpack_s, rel=1e-3)
        assert seconds_on(what, hw) > took_s


def test_what_unpacking_costs_is_said_once() -> None:
    """A share of the memory rate that is set takes the place of what the stack says of a weight, and the reverse."""
    what = Work(OpKind.EXPERTS, (Gemm(1, 4096, 4096),), "fp16", 4.0)
    shared = load_platform("t4", "mixtral-offloading", {"stack.dequant_efficiency": 0.5})
    assert figures_of(shared).read_bits(what) == 8.0
    plain = figures_of(load_platform("t4", "mixtral-offloading"))
    assert plain.with_values({"stack.dequant_efficiency": 0.5}).read_bits(what) == 8.0
    timed = load_platform("t4", "streams", {"stack.unpack_s": "0.01ns"})
    assert figures_of(timed).read_bits(what) == pytest.approx(4 + 8e-11 * figures_of(timed).hbm_bytes_per_s)
    assert "dequant_efficiency" not in timed.constants
    with pytest.raises(InvalidInput, match="both say what unpacking weights costs: set one"):
        load_platform("t4", "streams", {"stack.unpack_s": 1e-11, "stack.dequant_efficiency": 0.5})


def test_bytes_over_the_link_are_those_stored_whatever_unpacking_costs() -> None:
    model = load_architecture("mixtral-8x7b").with_formats({"experts": "q2_k"})
    what = work.expert_copy_work(model, OpKind.FETCH)
    slow = figures_of(HW).with_values({"stack.dequant_efficiency": 0.01})
    assert price_figures([what], slow).duration_s.tolist() == price([what], HW).duration_s.tolist()


def test_scores_of_an_fp8_model_are_computed_as_its_activations_are() -> None:
    model = load_architecture("deepseek-v3")
    what = work.self_attention_work(model, model.decoder, 1, 1000, 10**9)  # bound by its scores
    assert (what.compute, what.flop_format) == ("fp8", "bf16")
    hw = load_platform("h100-sxm")
    more = what._replace(flop=2 * what.flop)
    rate = hw.machine.accelerator.peak_flop_per_s["bf16"] * hw.constant("gemm_efficiency")
    assert seconds_on(more, hw) - seconds_on(what, hw) == pytest.approx(what.flop / rate)


def test_shared_experts_are_read_in_their_own_format() -> None:
    model = load_architecture("qwen1.5-moe-a2.7b").with_expert_dtype("mxfp4")
    routed, alone, both = (ffn_work.experts_work(model, *args) for args in (([1] * 4,), ((), 1), ([1] * 4, 1)))
    assert (routed.weight_bits, alone.weight_bits) == (4.25, 16.0)
    assert both.weight_bytes == pytest.approx(routed.weight_bytes + alone.weight_bytes, rel=1e-12)
    assert both.total_flop == routed.total_flop + alone.total_flop


def test_up_and_down_projections_of_a_square_expert_are_two_launches() -> None:
    """1024 x 1024 took 235 us where 1024 x 1025 took 429: both have one wave a projection."""
    square, oblong = (dataclasses.replace(SWITCH, d_model=1024, d_ff_expert=width) for width in (1024, 1025))
    times = [seconds(ffn_work.experts_work(model, [1])) for model in (square, oblong)]
    assert times[1] / times[0] == pytest.approx(1.0, rel=0.01)


def test_shared_experts_and_gated_matrices_are_counted() -> None:
    qwen = load_architecture("qwen1.5-moe-a2.7b")
    routed = ffn_work.experts_work(qwen, [1] * 4)
    both = ffn_work.experts_work(qwen, [1] * 4, 1)
    assert routed.weight_bytes == pytest.approx(4 * qwen.expert_bytes, rel=0.01)
    assert both.weight_bytes - routed.weight_bytes == pytest.approx(2 * qwen.shared_expert_params, rel=0.01)


def test_gates_head_and_kv_cache_are_in_the_activation_format() -> None:
    """DeepSeek-V3: fp8 matrices, everything else bf16; the latent and the shared key are 576 numbers a token."""
    model = load_architecture("deepseek-v3")
    assert (model.dtype.name, model.stored_activation_dtype.name) == ("fp8-b128", "bf16")
    gate, head = work.gate_work(model, 1), work.head_work(model, 1)
    assert (gate.compute, gate.weight_bytes) == ("bf16", 2 * 7168 * 256)
    assert (head.compute, head.weight_bytes) == ("bf16", 2 * 7168 * 129280)
    attention = work.self_attention_work(model, model.decoder, 1, 1000, 1000)
    assert attention.hbm_bytes == 1000 * 576 * 2
    assert attention.weight_bits == 8 + 32 / 128**2
