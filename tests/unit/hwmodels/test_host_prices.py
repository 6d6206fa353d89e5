"""What the host computes of a model, in round numbers: its memory, links, cores, sockets and formats."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from hwmodels.cost import Parts, parts_of
from hwmodels.kernels.core_formats import CoreFormats
from offload.ops import Gemm, OpKind, Work
from tests.unit.hwmodels.priced_ops import ROUND


@pytest.mark.parametrize(
    ("changes", "dram_s"),
    [
        ({}, 8),  # 400 B at 50 B/s
        ({"host.n_sockets": 2.0, "stack.cpu_sockets": 1.0}, 16),
        ({"host.n_sockets": 2.0, "stack.cpu_sockets": 4.0}, 8),
        ({"host.n_cores": 5.0, "stack.cpu_core_bytes_per_s": 5.0}, 16),
        ({"host.n_cores": 50.0, "stack.cpu_core_bytes_per_s": 5.0}, 8),
        ({"host.fabric_bytes_per_s": 25.0}, 32),  # of which the stack has its share, as of memory
        ({"host.fabric_bytes_per_s": 100.0}, 8),
        ({"host.fabric_bytes_per_s": 50.0, "host.n_sockets": 2.0, "stack.cpu_sockets": 1.0}, 32),
        ({"host.read_efficiency": 0.8}, 10),
        ({"host.read_efficiency": 0.8, "host.fabric_bytes_per_s": 90.0}, 10),
        ({"host.read_efficiency": 0.8, "host.fabric_bytes_per_s": 50.0}, 16),
    ],
)
def test_the_host_reads_as_fast_as_its_sockets_and_cores_take_in(changes: dict[str, float], dram_s: float) -> None:
    what = Work(OpKind.CPU_EXPERT, (Gemm(1, 10, 10),))
    found = parts_of(what, ROUND.with_values(changes))
    assert found == pytest.approx(Parts(dram_s=dram_s))
    many = parts_of(what, ROUND.with_values({key: np.array([value, value]) for key, value in changes.items()}))
    assert np.broadcast_to(many.dram_s, 2).tolist() == [float(found.dram_s)] * 2


def test_a_host_whose_rate_was_measured_reads_at_it() -> None:
    """It states no share of a claim (DECISIONS 127)."""
    values = {key: value for key, value in ROUND.values.items() if key != "host.read_efficiency"}
    measured = dataclasses.replace(ROUND, values=values)
    what = Work(OpKind.CPU_EXPERT, (Gemm(1, 10, 10),))
    assert parts_of(what, measured) == pytest.approx(Parts(dram_s=400 / 50))


@pytest.mark.parametrize(
    ("stored", "clock_hz", "n_cores", "dram_s"),
    [
        ("iq3_s", 50.0, 10.0, 100 * 2 / (10 * 50)),  # 100 weights, 2 cycles each: 12.5 B at 50 B/s take .25 s
        ("iq3_s", 5000.0, 10.0, 0.25),
        ("q4_k*0.5+iq3_s*0.5", 50.0, 10.0, 100 * 1.25 / (10 * 50)),
        ("q4_k*0.5+iq2_s*0.5", 50.0, 10.0, 0.25),  # of one of its formats nothing is said: 500 B/s, as of any
        ("", 50.0, 10.0, 0.25),
    ],
)
def test_a_core_takes_as_long_as_the_format_of_its_weights_is_to_unpack(
    stored: str, clock_hz: float, n_cores: float, dram_s: float
) -> None:
    stack = dataclasses.replace(ROUND.stack, core_formats=CoreFormats({"iq3_s": 2.0, "q4_k": 0.5}))
    figures = dataclasses.replace(ROUND, stack=stack).with_values(
        {
            "host.clock_hz": clock_hz,
            "host.n_cores": n_cores,
            "stack.cpu_core_bytes_per_s": 50.0,
            "host.peak_flop_per_s": 1e6,
        }
    )
    what = Work(OpKind.CPU_EXPERT, (Gemm(1, 10, 10),), weight_bits=1.0, stored=stored)
    assert parts_of(what, figures) == pytest.approx(Parts(dram_s=dram_s))
    assert parts_of(what, dataclasses.replace(figures, stack=ROUND.stack)) == pytest.approx(Parts(dram_s=0.25))
    of_two = dataclasses.replace(figures, values={**figures.values, "host.n_sockets": 2.0, "stack.cpu_sockets": 1.0})
    assert parts_of(what, of_two) == pytest.approx(Parts(dram_s=2 * dram_s))  # half of the cores, and of the memory


def test_the_host_has_one_efficiency_for_products_and_one_for_scores() -> None:
    figures = ROUND.with_values({"stack.cpu_gemm_efficiency": 0.5, "stack.cpu_attention_efficiency": 0.25})
    what = Work(OpKind.CPU_LAYER, (Gemm(50, 10, 10),), flop=3000, hbm_bytes=100)
    assert parts_of(what, figures) == pytest.approx(Parts(compute_s=10_000 / 500 + 3000 / 250))


def test_the_host_attends_once_its_products_are_done() -> None:
    """Scores do not hide behind the reading of weights, nor keys behind products: each takes the longer of its own."""
    figures = ROUND.with_values({"stack.cpu_gemm_efficiency": 0.5, "stack.cpu_attention_efficiency": 0.25})
    read = Work(OpKind.CPU_LAYER, (Gemm(1, 10, 10),), flop=3000, hbm_bytes=100)
    assert parts_of(read, figures) == pytest.approx(Parts(compute_s=3000 / 250, dram_s=400 / 50))
    multiplied = read._replace(gemms=(Gemm(50, 10, 10),), flop=0, hbm_bytes=800)
    assert parts_of(multiplied, figures) == pytest.approx(Parts(compute_s=10_000 / 500, dram_s=800 / 50))


def test_the_host_has_packed_products_of_integers_and_none_of_fp8() -> None:
    figures = ROUND.with_values({"stack.cpu_packed_speedup": 4.0})
    times = [
        float(parts_of(Work(OpKind.CPU_EXPERT, (Gemm(500, 10, 10),), compute, bits), figures).compute_s)
        for compute, bits in (("bf16", 16.0), ("bf16", 4.5), ("int8", 8.0), ("fp8", 8.0))
    ]
    assert times == pytest.approx([times[0], times[0] / 4, times[0] / 4, times[0]])


@pytest.mark.parametrize(
    ("compute", "bits", "times"), [("bf16", 16.0, 2), ("fp8", 8.0, 2), ("bf16", 4.5, 4), ("fp16", 16.0, 1)]
)
def test_a_host_that_multiplies_bf16_does_so_for_fp8_too_and_for_nothing_else(
    compute: str, bits: float, times: float
) -> None:
    widens = ROUND.with_values({"stack.cpu_packed_speedup": 4.0})
    pairs, slow = (
        widens.with_values({"host.bf16_flop_per_s": factor * ROUND["host.peak_flop_per_s"]}) for factor in (2, 0.5)
    )
    what = Work(OpKind.CPU_EXPERT, (Gemm(500, 10, 10),), compute, bits)
    fp32_s = parts_of(what._replace(compute="fp32", weight_bits=32.0), pairs).compute_s
    assert parts_of(what, pairs).compute_s == pytest.approx(fp32_s / times)
    assert parts_of(what, slow) == parts_of(what, widens)


def test_a_host_that_multiplies_bf16_no_faster_than_fp32_is_as_fast_as_its_fp32() -> None:
    """A derivative by a complex step: of two equal rates it is the fp32 one that bounds."""
    what = Work(OpKind.CPU_EXPERT, (Gemm(50, 10, 10),), "bf16", 16.0)
    alike = ROUND.with_values({"host.bf16_flop_per_s": ROUND["host.peak_flop_per_s"]})
    assert parts_of(what, alike) == parts_of(what, ROUND)

    def moved(key: str) -> float:
        return float(np.imag(parts_of(what, alike.with_values({key: alike[key] * (1 + 1e-20j)})).compute_s) / 1e-20)

    assert moved("host.bf16_flop_per_s") == 0
    assert moved("host.peak_flop_per_s") == pytest.approx(-parts_of(what, ROUND).compute_s)


def test_keys_and_values_that_the_host_widens_first_are_moved_as_often_as_the_stack_says() -> None:
    what = Work(OpKind.CPU_LAYER, hbm_bytes=500)
    once = parts_of(what, ROUND)
    widened = dataclasses.replace(ROUND, values={**ROUND.values, "stack.cpu_kv_copies": 5.0})
    assert parts_of(what, widened).dram_s == 5 * once.dram_s
    expert = Work(OpKind.CPU_EXPERT, (Gemm(1, 10, 10),))
    assert parts_of(expert, widened) == parts_of(expert, ROUND)


def test_of_two_sockets_the_host_has_the_memory_and_the_cores_that_the_stack_uses() -> None:
    one = ROUND.with_values({"stack.cpu_sockets": 1.0})
    two = dataclasses.replace(one, values={**one.values, "host.n_sockets": 2.0})
    products = Work(OpKind.CPU_EXPERT, (Gemm(500, 10, 10),))
    assert float(parts_of(products, two).compute_s) == 2 * float(parts_of(products, one).compute_s) > 0
    both = two.with_values({"stack.cpu_sockets": 2.0})
    assert parts_of(products, both) == parts_of(products, one)
    few = {"host.n_cores": 1.0, "stack.cpu_core_bytes_per_s": 1.0}  # so few cores that they bound what is read
    reading = Work(OpKind.CPU_LAYER, hbm_bytes=500)
    assert float(parts_of(reading, two.with_values(few)).dram_s) == 2 * float(
        parts_of(reading, one.with_values(few)).dram_s
    )
