"""What attention moves beside its scores: a fused kernel hides it, kernels one after the other do not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hwmodels.cost import Parts, parts_of
from hwmodels.kernels.host_products import HostProducts
from offload.ops import Attending, Gemm, OpKind, Work
from tests.unit.hwmodels.priced_ops import ROUND

FUSED = Attending(10, 1, 2, 2, 3, 2, token_bytes=20.0)
"""Ten new tokens of two heads whose cached tokens are 20 bytes."""

OVER_FIVE = Work(OpKind.SELF_ATTENTION, (), flop=4000, hbm_bytes=100, attending=FUSED)
"""What they do over five cached tokens."""


def seconds(what: Work, **constants: float) -> tuple[float, float]:
    """(arithmetic, traffic) on a device of 1,000 FLOP and 100 bytes a second."""
    rates = {"accelerator.hbm_bytes_per_s": 100.0, "accelerator.peak_flop_per_s.fp32": 1000.0}
    shares = {"stack.gemm_efficiency": 1.0, "stack.hbm_efficiency": 1.0, "stack.kernel_s": 0.0}
    more = {f"stack.{name}": value for name, value in constants.items()}
    parts = parts_of(what, ROUND.with_values(rates | shares | more))
    return float(parts.compute_s), float(parts.hbm_s)


def test_a_fused_attention_takes_the_longer_of_scores_and_of_what_it_reads() -> None:
    assert seconds(OVER_FIVE) == (4.0, 0.0)
    assert seconds(OVER_FIVE._replace(flop=100)) == (0.0, 1.0)


def test_keys_and_values_made_of_latents_are_moved_before_any_score() -> None:
    made = OVER_FIVE._replace(attending=FUSED._replace(made_share=0.75))
    assert seconds(made) == (4.0, 0.75)
    assert seconds(made._replace(flop=100)) == (0.0, 0.25 + 0.75)


def test_scores_that_are_not_fused_are_all_multiplied_and_moved() -> None:
    """Ten rows by five keys by two heads: 100 scores of 10 FLOP, whatever the mask hides; keys are read as well."""
    assert seconds(OVER_FIVE, score_bytes=40.0) == (1.0, 1.0 + 40.0)
    assert seconds(OVER_FIVE, score_bytes=40.0, attention_efficiency=0.5) == (1.0, 2.0 + 80.0)
    of_two = OVER_FIVE._replace(attending=FUSED._replace(n_sequences=2))
    assert seconds(of_two, score_bytes=40.0) == (0.5, 1.0 + 20.0)
    assert seconds(OVER_FIVE._replace(attending=None), score_bytes=40.0) == (4.0, 0.0)


def test_the_host_makes_keys_and_values_first_too_and_scores_over_them_have_a_rate_of_their_own() -> None:
    made = FUSED._replace(made_share=0.75)
    what = Work(OpKind.CPU_LAYER, (Gemm(50, 10, 10),), flop=3000, hbm_bytes=100, attending=made)
    shares = {"stack.cpu_gemm_efficiency": 0.5, "stack.cpu_attention_efficiency": 0.25}
    figures = ROUND.with_values(shares)
    assert parts_of(what, figures) == pytest.approx(Parts(compute_s=20 + 3000 / 250, dram_s=0.75 * 100 / 50))
    apart = ROUND.with_values(shares | {"stack.cpu_made_attention_efficiency": 0.5})
    assert parts_of(what, apart) == pytest.approx(Parts(compute_s=20 + 3000 / 500, dram_s=0.75 * 100 / 50))
    assert parts_of(what._replace(attending=None), apart) == parts_of(what._replace(attending=None), figures)


def test_matrix_units_multiply_whole_tiles_at_a_rate_of_their_own_and_read_as_cores_do() -> None:
    stack = replace(ROUND.stack, host_products=HostProducts(rows=32, padded_from=5))
    tiles = {"stack.cpu_tile_gemm_efficiency": 0.25, "host.tile_rows": 16.0}
    figures = replace(ROUND, stack=stack).with_values({"stack.cpu_gemm_efficiency": 0.5} | tiles)
    what = Work(OpKind.CPU_EXPERT, (Gemm(32, 10, 10),))
    without = replace(figures, values={key: value for key, value in figures.values.items() if key != "host.tile_rows"})
    peak, rate = 1000.0, 50.0
    few = what._replace(gemms=(Gemm(4, 10, 10),))
    assert parts_of(few, figures) == parts_of(few, without)
    assert parts_of(what, without).total_s == pytest.approx(max(6400 / (0.5 * peak), 400 / rate))
    assert parts_of(what, figures).total_s == pytest.approx(max(6400 / (8 * 0.25 * peak), 400 / rate))
