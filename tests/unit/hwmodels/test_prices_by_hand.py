"""Prices of ops that few machines have, in round numbers: reads in rounds, drafts, and what is shared with the host."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from hwmodels.cost import Parts, parts_of, price, price_figures
from hwmodels.figures import Figures, figures_of
from hwmodels.kernels.floors import alone_s
from hwmodels.platform import load_platform
from offload.ffn_work import experts_work
from offload.ops import FusedExperts, Gemm, OpKind, ReadRounds, Work
from traces.errors import InvalidInput
from traces.model.architecture import load_architecture


def figures(**values: float) -> Figures:
    """Those of a machine with NVMe storage and others in place of some of them."""
    keys = {name.replace("__", "."): value for name, value in values.items()}
    return figures_of(load_platform("rtx-4090", "streams", {"storage": "nvme-gen4"})).with_values(keys)


def storage(**values: float) -> Figures:
    known = {"stack__storage_efficiency": 0.5, "storage__read_bytes_per_s": 200.0, "storage__read_latency_s": 3.0}
    return figures(**(known | values))


def test_a_read_takes_its_latency_and_its_bytes_at_what_the_stack_achieves() -> None:
    what = Work(OpKind.DISK_READ, copy_bytes=700)
    assert parts_of(what, storage()) == Parts(3.0, disk_s=7.0)
    assert parts_of(what, storage(storage__reader_bytes_per_s=1.0)) == Parts(3.0, disk_s=7.0)  # not read in rounds


def test_each_round_of_reads_waits_once_and_ends_with_its_slowest_reader() -> None:
    """Four rounds of reads of at most 100 bytes: readers of 25 bytes/s take 16 s, the drive 7 s, or 14 for twice."""
    what = Work(OpKind.DISK_READ, copy_bytes=700, reading=ReadRounds(4, 100))
    assert parts_of(what, storage()) == Parts(12.0, disk_s=7.0)
    assert parts_of(what, storage(storage__reader_bytes_per_s=25.0)) == Parts(12.0, disk_s=16.0)
    assert parts_of(what, storage(storage__reader_bytes_per_s=1000.0)) == Parts(12.0, disk_s=7.0)
    twice = what._replace(copy_bytes=1400, reading=ReadRounds(2, 100))
    assert parts_of(twice, storage(storage__reader_bytes_per_s=25.0)) == Parts(6.0, disk_s=14.0)


def test_storage_without_a_stated_latency_takes_none_in_any_round() -> None:
    known = {key: value for key, value in storage().values.items() if key != "storage.read_latency_s"}
    plain = dataclasses.replace(storage(), values=known)
    assert parts_of(Work(OpKind.DISK_READ, copy_bytes=700, reading=ReadRounds(4, 100)), plain) == Parts(disk_s=7.0)


def test_filing_reads_and_writes_memory_unless_its_rate_is_stated() -> None:
    what = Work(OpKind.FILE, copy_bytes=60)
    assert parts_of(what, figures(host__dram_bytes_per_s=40.0)) == Parts(dram_s=3.0)
    stated = figures(host__dram_bytes_per_s=40.0, storage__filing_bytes_per_s=15.0)
    assert parts_of(what, stated) == Parts(dram_s=4.0)


def test_a_draft_takes_the_stated_time_a_token_and_none_is_assumed() -> None:
    what = Work(OpKind.DRAFT, n_entries=5)
    assert parts_of(what, figures(stack__draft_s=0.25)) == Parts(1.25)
    with pytest.raises(InvalidInput, match=r"give --set stack\.draft_s=2ms"):
        parts_of(what, figures())


def test_what_goes_back_and_forth_pays_a_copy_and_a_handover_its_threads() -> None:
    known = figures(
        link__d2h_bytes_per_s=50.0, link__h2d_bytes_per_s=50.0, stack__link_efficiency=0.2, stack__copy_latency_s=2.0,
        stack__handover_s=1.5,
    )  # fmt: skip
    assert parts_of(Work(OpKind.HANDOVER, copy_bytes=30), known) == Parts(3.5, link_s=3.0)
    assert parts_of(Work(OpKind.RETURN, copy_bytes=30), known) == Parts(2.0, link_s=3.0)
    assert parts_of(Work(OpKind.STREAM, copy_bytes=30), known) == Parts(2.0, link_s=3.0)
    assert parts_of(Work(OpKind.WRITE_BACK, copy_bytes=30), known) == Parts(2.0, link_s=3.0)


def test_a_copy_within_hbm_is_read_and_written_by_a_kernel_each() -> None:
    known = figures(accelerator__hbm_bytes_per_s=8.0, stack__hbm_efficiency=0.5, stack__kernel_s=2.0)
    n_kernels = known.stack.launches[OpKind.STAGE]
    what = Work(OpKind.STAGE, copy_bytes=12, n_copies=3)
    assert parts_of(what, known) == Parts(6.0 * n_kernels, hbm_s=6.0)


def test_only_reading_host_memory_is_slowed_by_the_other_side() -> None:
    """Of an op of the host that reads for 3 s and computes for 1 s, the reading takes 4 s at three quarters."""
    hw = load_platform("rtx-4090", "streams")
    known = figures_of(hw).with_values({"host.copies_beside_cpu": 0.5, "host.cpu_beside_copies": 0.75})
    read = Work(OpKind.CPU_LAYER, (Gemm(1, 1 << 10, 1 << 10),), weight_bits=32.0)
    works = [Work(OpKind.FETCH, copy_bytes=9), read, Work(OpKind.WRITE_BACK, copy_bytes=9), Work(OpKind.GATE, flop=9)]
    costs = price_figures(works, known)
    parts = parts_of(read, known)
    assert parts.dram_s > 0
    slowed_s = parts.total_s - parts.dram_s + parts.dram_s / 0.75
    assert costs.contended.tolist() == pytest.approx([0.5, parts.total_s / slowed_s, 1.0, 1.0], rel=1e-12)
    assert price(works, hw).contended.tolist() == [1.0] * 4
    nothing = price_figures([Work(OpKind.CPU_LAYER)], known)
    assert (nothing.duration_s.tolist(), nothing.contended.tolist()) == ([0.0], [1.0])


def test_kernels_by_laws_take_what_the_scatter_of_their_kind_makes_of_them() -> None:
    """All three parts of it, of this kind alone; no scatter: as the law says."""
    plain = figures_of(load_platform("h100-sxm", "vllm"))
    what = Work(OpKind.GATE, (Gemm(32, 128, 2048),), "bf16", 16.0)
    whole = parts_of(what, plain)
    assert whole.total_s > 0
    assert parts_of(what, dataclasses.replace(plain, scatter={"head": 3.0})) == whole
    doubled = parts_of(what, dataclasses.replace(plain, scatter={"gate": 2.0}))
    assert doubled == Parts(*(2 * part for part in whole))


def test_kernels_by_laws_of_several_machines_are_those_of_each() -> None:
    plain = figures_of(load_platform("h100-sxm", "vllm"))
    works = [Work(OpKind.GATE, (Gemm(m, 128, 2048),), "bf16", 16.0) for m in (1, 32)]
    rates = np.array([1e12, 3e12])
    many = price_figures(works, plain.with_values({"accelerator.hbm_bytes_per_s": rates}), 2)
    for i, rate in enumerate(rates.tolist()):
        alone = price_figures(works, plain.with_values({"accelerator.hbm_bytes_per_s": rate}))
        assert many.duration_s[:, i].tolist() == alone.duration_s.tolist()


def test_whoever_shares_nothing_is_told_that_nothing_is_shared() -> None:
    works = [Work(OpKind.FETCH, copy_bytes=9), Work(OpKind.GATE, flop=9)]
    told, untold = (price_figures(works, figures(), shares=shares) for shares in (True, False))
    assert told.link_s[0] > 0
    assert untold.duration_s.tolist() == told.duration_s.tolist()
    for zeros in (untold.link_s, untold.hbm_s, untold.crossed_s):
        assert zeros.tolist() == [0.0, 0.0]
    assert untold.contended.tolist() == [1.0, 1.0]


def test_a_transfer_that_meets_another_takes_as_long_as_both_ways_allow() -> None:
    """40 and 10 bytes/s one way, 25 together: twice as long."""
    both = figures(
        link__h2d_bytes_per_s=40.0, link__d2h_bytes_per_s=10.0, stack__link_efficiency=1.0,
        link__both_ways_bytes_per_s=25.0,
    )  # fmt: skip
    costs = price_figures([Work(OpKind.FETCH, copy_bytes=80)], both)
    assert (costs.link_s.tolist(), costs.crossed_s.tolist()) == ([2.0], [4.0])


def test_a_derivative_goes_through_every_part_of_a_price() -> None:
    """Figures with an imaginary part, by which derivatives are taken, lose it nowhere."""
    step = 1e-20
    known = figures(host__cpu_beside_copies=0.75)
    known = known.with_values({"host.copies_beside_cpu": np.array([0.5 + step * 1j])})
    costs = price_figures([Work(OpKind.FETCH, copy_bytes=9)], known, 1)
    assert costs.contended.imag[0, 0] == step


def test_only_weights_of_at_most_eight_bits_and_their_scales_are_multiplied_as_integers() -> None:
    known = figures(stack__cpu_packed_speedup=4.0)
    wide, at_most, above = (
        float(parts_of(Work(OpKind.CPU_EXPERT, (Gemm(1 << 12, 64, 64),), "fp16", bits), known).compute_s)
        for bits in (16.0, 8.5, 9.0)
    )
    assert (at_most, above) == (wide / 4, wide)


def test_laws_scale_arithmetic_too() -> None:
    plain = figures_of(load_platform("h100-sxm", "vllm"))
    what = Work(OpKind.DENSE_FFN, (Gemm(1 << 14, 4096, 4096),), "bf16", 16.0)
    whole = parts_of(what, plain)
    assert whole.compute_s > 0
    assert parts_of(what, dataclasses.replace(plain, scatter={"dense_ffn": 2.0})) == Parts(*(2 * p for p in whole))


def llama() -> Figures:
    return figures_of(dataclasses.replace(load_platform("rtx-4090", "llama-cpp"), fit=None))


def test_blocks_of_one_row_come_on_top_of_its_arithmetic() -> None:
    """Where the multiprocessors bind: what the blocks take is added, whatever the weights are read at."""
    known = llama().with_values({"accelerator.hbm_bytes_per_s": 1e18})
    gemm = Gemm(1, 4096, 4096)
    what = Work(OpKind.HEAD, (gemm,), "bf16", 4.5)
    found = parts_of(what, known)
    rate = known.flop_per_s(known.multiplied_in(what))
    assert found.compute_s == pytest.approx(2 * 4096 * 4096 / rate + alone_s(gemm, 4.5, known), rel=1e-12)
    assert alone_s(gemm, 4.5, known) > 0


def test_an_op_at_its_floor_is_nothing_but_fixed() -> None:
    known = figures_of(dataclasses.replace(load_platform("a100-sxm4-80gb", "vllm"), fit=None))
    what = Work(OpKind.EXPERTS, (Gemm(1, 64, 64, 1), Gemm(1, 64, 64, 1)), "bf16", 16.0, fused=FusedExperts(1, 1, 2, 1))
    floor_s = known.values["stack.experts_floor_s"]
    assert parts_of(what, known) == pytest.approx(Parts(floor_s))


@pytest.mark.parametrize("stack", ["vllm", "llama-cpp", "streams"])
def test_fused_ops_at_and_above_their_floor_take_together_what_each_takes_alone(stack: str) -> None:
    hw = dataclasses.replace(load_platform("a100-sxm4-80gb", stack), fit=None)
    model = load_architecture("qwen3-30b-a3b")
    works = [experts_work(model, [1] * n, fused=True) for n in (1, 2, 8, 64, 128)]
    together = price(works, hw)
    for i, what in enumerate(works):
        assert together.duration_s[i] == price([what], hw).duration_s[0]
