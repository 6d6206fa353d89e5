"""Products of matrices beside what others measured: every row comes out as the cost model says it."""

from __future__ import annotations

import math
import statistics
from pathlib import Path

import pytest

from hwmodels.specs.machine_files import load_machine
from hwmodels.specs.measured_products import MEASURED_PRODUCTS, measured_products
from traces.errors import InvalidFile

ROWS = list(measured_products())


def test_a_product_of_16_bits_is_its_cards_peak_times_what_the_stack_claims() -> None:
    (row,) = (row for row in ROWS if row.hardware == "rtx-4090")
    peak = load_machine("rtx-4090").accelerator.peak_flop_per_s["bf16"]
    assert row.predicted_flop_per_s == pytest.approx(0.7 * peak, rel=0.01)  # gemm_efficiency of pytorch-eager
    assert row.error == pytest.approx(row.predicted_flop_per_s / 163.09e12 - 1)


def test_three_in_four_cards_of_one_library_lie_within_a_third_of_their_middle() -> None:
    off = [-math.log1p(row.error) for row in ROWS if row.stack == "pytorch-eager"]
    assert len(off) >= 30
    middle = statistics.median(off)
    assert sum(abs(one - middle) < math.log(4 / 3) for one in off) >= 0.75 * len(off)


def test_a_row_that_is_no_product_is_refused_with_its_line(tmp_path: Path) -> None:
    header, first = MEASURED_PRODUCTS.read_text(encoding="utf-8").splitlines()[:2]
    path = tmp_path / "products.csv"
    path.write_text(f"{header}\n{first.replace(',8192,', ',wide,', 1)}\n", encoding="utf-8")
    with pytest.raises(InvalidFile, match=r"line 2: .*wide"):
        list(measured_products(path))


def test_a_product_that_set_a_share_of_its_cards_tiles_is_met_by_it() -> None:
    off = [row.error for row in ROWS if row.role == "stack"]
    assert len(off) == 2
    assert max(map(abs, off)) < 0.03
