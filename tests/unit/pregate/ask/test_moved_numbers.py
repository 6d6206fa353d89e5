"""Intervals of a fitted machine of which somebody set a number that nobody measured."""

from __future__ import annotations

import math

import numpy as np
import pytest

import pregate
from hwmodels.figures import figures_of
from hwmodels.specs.spread import HALF_95, shipped_spread
from pregate.ask.timing.moved_numbers import drawn_moves, moved_numbers

MODEL = pregate.load_model("switch-base-8")
TRACE = pregate.synthesize(MODEL, 4, 4)
FITTED = "a100-sxm4-80gb"


def half_width(overrides: dict[str, float], policy: str = "on_demand") -> float:
    """Half the interval of a layer's time, in ln."""
    found = pregate.simulate(MODEL, pregate.load_hardware(FITTED, None, overrides), TRACE, policy)
    assert found.moe_layer_latency_ci95_s is not None
    low, high = found.moe_layer_latency_ci95_s
    return math.log(high / low) / 2


def test_what_another_link_reaches_is_in_doubt_where_fetches_bind() -> None:
    own, moved = half_width({}), half_width({"link.h2d_bytes_per_s": 64e9})
    assert moved > 1.5 * own
    assert half_width({"link.h2d_bytes_per_s": 64e9, "stack.link_efficiency": 0.7}) < 1.2 * own, "it is said"


@pytest.mark.parametrize("rate", [{}, {"link.h2d_bytes_per_s": 64e9}], ids=["own link", "another"])
def test_a_share_of_the_link_that_is_set_is_in_every_draw(rate: dict[str, float]) -> None:
    hw = pregate.load_hardware(FITTED, None, rate | {"link.h2d_efficiency": 0.4})
    found = pregate.simulate(MODEL, hw, TRACE, "on_demand")
    assert found.moe_layer_latency_ci95_s is not None
    low, high = found.moe_layer_latency_ci95_s
    assert low < found.moe_layer_latency_s < high
    assert math.log(high / low) / 2 < 1.2 * half_width({}), "it is said"


@pytest.mark.parametrize(
    ("overrides", "policy"),
    [
        ({"link.h2d_bytes_per_s": 64e9}, "gpu_only"),
        ({"host.dram_bytes_per_s": 1e11}, "on_demand"),
        ({"accelerator.clock_hz": 9e8}, "gpu_only"),  # peaks say what products are held against
    ],
)
def test_a_number_that_nothing_waits_for_leaves_the_interval(overrides: dict[str, float], policy: str) -> None:
    assert half_width(overrides, policy) == pytest.approx(half_width({}, policy), rel=1e-9)


def test_a_card_has_the_interval_of_a_comparison_where_a_number_moves_what_binds() -> None:
    found = pregate.simulate(MODEL, pregate.load_hardware(FITTED, None, {"accelerator.n_sm": 54}), TRACE, "pregate")
    assert found.rate_error is not None
    assert found.tokens_per_s_ci95 is not None
    assert found.rate_error.interval(found.tokens_per_s) == pytest.approx(found.tokens_per_s_ci95, rel=0.01)


def test_what_another_link_reaches_is_off_in_all_designs_alike() -> None:
    """Two designs that fetch as much are told apart as on the link that was measured."""
    model = pregate.load_model("switch-base-128")
    trace = pregate.synthesize(model, 64, 8)
    own, moved = (
        pregate.compare(model, pregate.load_hardware(FITTED, None, overrides), trace, ["on_demand", "pregate"])
        for overrides in ({}, {"link.h2d_bytes_per_s": 64e9})
    )
    assert not own.rivals
    assert not moved.rivals
    assert moved.best is not None
    assert moved.best.tokens_per_s_ci95 is not None
    assert moved.best.rate_error is not None
    drawn, said = moved.best.tokens_per_s_ci95, moved.best.rate_error.interval(moved.best.tokens_per_s)
    assert said == pytest.approx(drawn, rel=0.02), "one interval, drawn or summed"


def test_shares_of_one_number_are_off_alike_as_wide_as_claims_and_below_one() -> None:
    hw = pregate.load_hardware(FITTED, None, {"link.h2d_bytes_per_s": 64e9})
    assert hw.fit is not None
    figures = figures_of(hw)
    moved = moved_numbers(hw.fit, figures, ())
    assert moved == {"link.h2d_efficiency": ["stack.link_efficiency"]}
    (drawn,) = drawn_moves(moved, figures, np.random.default_rng(0), 100_000).values()
    off = np.log(drawn / figures["stack.link_efficiency"])
    assert -np.quantile(off, 0.025) == pytest.approx(
        HALF_95 * shipped_spread().constants["link.h2d_efficiency"], rel=0.02
    )
    assert drawn.max() <= 1.0


def test_a_machine_as_it_was_measured_has_no_number_that_moved() -> None:
    hw = pregate.load_hardware(FITTED)
    assert hw.fit is not None
    assert moved_numbers(hw.fit, figures_of(hw), ()) == {}
    hbm = pregate.load_hardware(FITTED, None, {"accelerator.hbm_bytes_per_s": 3e12})
    assert moved_numbers(hw.fit, figures_of(hbm), ()) == {"stack.hbm_efficiency": ["stack.hbm_efficiency"]}
    assert moved_numbers(hw.fit, figures_of(hbm), ("stack.hbm_efficiency",)) == {"stack.hbm_efficiency": []}
