"""Products of several rows on the host, by hand: what overlaps with reading, what is unpacked anew, what is padded."""

from __future__ import annotations

import dataclasses

import pytest

from hwmodels.cost import Parts, parts_of
from hwmodels.figures import figures_of
from hwmodels.kernels.core_formats import CoreFormats
from hwmodels.kernels.host_products import NO_HOST_PRODUCTS, HostProducts, read_host_products
from hwmodels.platform import load_platform
from hwmodels.stacks.stack_files import load_stack
from offload.ops import Gemm, OpKind, Work
from tests.unit.hwmodels.priced_ops import ROUND
from traces.errors import InvalidFile, UnknownName
from traces.foundation.documents import Section


@pytest.mark.parametrize(
    ("n_rows", "flop_s", "bytes_s", "expected"),
    [
        (1, 1.0, 3.0, (0.0, 3.0)),
        (8, 8.0, 3.0, (8.0, 0.0)),
        (8, 2.0, 3.0, (0.0, 3.0)),  # eight rows are multiplied while their weights are read
        (16, 4.0, 3.0, (2.0, 3.0)),  # the other eight are not
        (16, 8.0, 3.0, (8.0, 0.0)),  # the first eight take longer than reading
        (32, 4.0, 3.0, (3.0, 3.0)),
    ],
)
def test_reading_overlaps_with_the_first_rows(
    n_rows: float, flop_s: float, bytes_s: float, expected: tuple[float, float]
) -> None:
    assert HostProducts(8).seconds(n_rows, flop_s, bytes_s, None) == pytest.approx(expected)


def test_a_stack_that_says_nothing_overlaps_all() -> None:
    assert NO_HOST_PRODUCTS.seconds(512, 4.0, 3.0, 100.0) == (4.0, 0.0)
    assert NO_HOST_PRODUCTS.seconds(512, 4.0, 5.0, 100.0) == (0.0, 5.0)


def test_weights_are_unpacked_again_for_the_next_rows() -> None:
    """Four rows, of which the first is in what reading takes; three are unpacked in a second each."""
    assert HostProducts(1).seconds(4, 0.5, 1.5, 1.0) == pytest.approx((3.0, 1.5))
    assert HostProducts(2).seconds(4, 0.5, 1.5, 1.0) == pytest.approx((1.0, 1.5))
    assert HostProducts(1).seconds(4, 8.0, 1.5, 1.0) == pytest.approx((8.0, 0.0)), "its arithmetic takes longer"


@pytest.mark.parametrize(("n_rows", "multiplied"), [(4, 4), (5, 32), (32, 32), (33, 64), (64, 64)])
def test_tiles_of_a_matrix_unit_are_multiplied_whole(n_rows: int, multiplied: int) -> None:
    compute_s, dram_s = HostProducts(32, padded_from=5).seconds(n_rows, float(n_rows), 0.5, None)
    assert (compute_s, dram_s) == pytest.approx((multiplied, 0.0))


def test_a_work_has_the_rows_of_its_weights() -> None:
    """Ten rows at one at a time: 400 B at 50 B/s, nine tenths of 2,000 FLOP at 500 FLOP/s."""
    stack = dataclasses.replace(ROUND.stack, host_products=HostProducts(1))
    figures = dataclasses.replace(ROUND, stack=stack).with_values({"stack.cpu_gemm_efficiency": 0.5})
    what = Work(OpKind.CPU_EXPERT, (Gemm(10, 5, 10), Gemm(10, 10, 5)))
    assert parts_of(what, figures) == pytest.approx(Parts(compute_s=0.9 * 2000 / 500, dram_s=8))
    assert parts_of(Work(OpKind.CPU_LAYER, flop=3000), figures).dram_s == 0, "scores have no weights"


def test_a_format_is_unpacked_for_each_row_of_llama_cpp() -> None:
    """100 weights of 2 cycles on ten cores of 50 Hz: .4 s a row, where the arithmetic of integers takes far less."""
    stack = dataclasses.replace(ROUND.stack, host_products=HostProducts(1), core_formats=CoreFormats({"iq3_s": 2.0}))
    figures = dataclasses.replace(ROUND, stack=stack).with_values(
        {"host.clock_hz": 50.0, "host.n_cores": 10.0, "host.peak_flop_per_s": 1e9}
    )
    what = Work(OpKind.CPU_EXPERT, (Gemm(6, 10, 10),), weight_bits=1.0, stored="iq3_s")
    assert parts_of(what, figures).total_s == pytest.approx(6 * 0.4)


@pytest.mark.parametrize(
    ("stack", "rows", "padded_from"),
    [
        ("ik-llama", 8, 0), ("ktransformers-llamafile", 8, 0), ("ktransformers", 32, 5), ("llama-cpp", 1, 0),
        ("llama-cpp-2025", 1, 0), ("llama-cpp-2023", 1, 0), ("pipelined-sharding", 1, 0), ("vllm", 0, 0),
    ],
)  # fmt: skip
def test_the_engines_are_as_their_sources_have_them(stack: str, rows: int, padded_from: int) -> None:
    assert load_stack(stack).host_products == HostProducts(rows, padded_from)


def test_a_faulty_statement_is_named() -> None:
    assert read_host_products(Section({}, "s.yaml")) == NO_HOST_PRODUCTS
    with pytest.raises(InvalidFile, match="rows = 0 is below 1"):
        read_host_products(Section({"host_products": {"rows": 0, "source": "read"}}, "s.yaml"))
    with pytest.raises(UnknownName, match="many"):
        read_host_products(Section({"host_products": {"rows": 1, "source": "read", "many": 2}}, "s.yaml"))


def test_a_processor_without_matrix_units_pads_nothing() -> None:
    stack = dataclasses.replace(ROUND.stack, host_products=HostProducts(32, padded_from=5))
    figures = dataclasses.replace(ROUND, stack=stack).with_values({"stack.cpu_gemm_efficiency": 0.5})
    what = Work(OpKind.CPU_EXPERT, (Gemm(40, 10, 10),))
    exact = parts_of(what, figures).compute_s
    assert parts_of(what, figures.with_values({"host.tile_rows": 16.0})).compute_s == pytest.approx(exact * 64 / 40)
    assert "host.tile_rows" in figures_of(load_platform("rtx-4090", "ktransformers", {"host": "xeon-6454s-2s"})).values
    assert "host.tile_rows" not in figures_of(load_platform("rtx-4090", "ktransformers", {"host": "epyc-9355"})).values
