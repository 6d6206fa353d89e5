"""Intervals: the fit's covariance and nothing else, drawn the same way every time."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

import pregate
from hwmodels.cost import price
from hwmodels.figures import figures_of
from hwmodels.fits.fit import Fit, FittedConstant
from hwmodels.platform import Platform
from hwmodels.quantity import ReadOnly
from offload.metrics.metric_probes import find_probes
from pregate.ask.capturing.capture import Captured, capture
from pregate.ask.timing import intervals as interval_module
from pregate.ask.timing.intervals import drawn_constants, figure_intervals, full_intervals, intervals, prepared
from simulator.explain.critical_path import walk
from simulator.explain.sensitivity import elasticities

METRICS = ("moe_layer_latency_s", "tokens_per_s")
LINK = "link.h2d_bytes_per_s"


@pytest.fixture(scope="module")
def hw() -> Platform:
    return pregate.load_hardware("a100-sxm4-80gb")


@pytest.fixture(scope="module")
def captured(hw: Platform) -> Captured:
    model = pregate.load_model("switch-base-8")
    return capture(model, hw, pregate.synthesize(model, 16, 6), "on_demand")


def scaled(hw: Platform, factor: float) -> Platform:
    """The same fit with a covariance `factor` times as large, its efficiencies in the middle of their range."""
    assert hw.fit is not None
    covariance = tuple(tuple(factor * value for value in row) for row in hw.fit.covariance)
    constants = {
        name: dataclasses.replace(constant, value=0.5) if name.endswith("efficiency") else constant
        for name, constant in hw.fit.constants.items()
    }
    return dataclasses.replace(
        hw, fit=dataclasses.replace(hw.fit, covariance=covariance, constants=ReadOnly(constants))
    )


def half_widths(found: dict[str, tuple[float, float] | None]) -> dict[str, float]:
    widths = {}
    for name, ends in found.items():
        assert ends is not None
        widths[name] = math.log(ends[1] / ends[0]) / 2
    return widths


def test_the_same_seed_gives_the_same_interval_and_another_a_close_one(hw: Platform, captured: Captured) -> None:
    one, same, other = (intervals(captured, hw, np.random.default_rng(seed)) for seed in (0, 0, 1))
    assert one == same != other
    for name in METRICS:
        assert half_widths(one)[name] == pytest.approx(half_widths(other)[name], rel=0.2)


def test_a_narrow_fit_gives_the_first_order_interval(hw: Platform, captured: Captured) -> None:
    """For small covariances: 1.96 sqrt(g' C g), g the exact elasticities by the fitted constants."""
    narrow = scaled(hw, 1e-4)
    assert narrow.fit is not None
    schedule, figures = captured.decoded.schedule, figures_of(narrow)
    explained = walk(schedule, price(schedule.works, narrow))
    names = [name for name in narrow.fit.order if f"stack.{name}" in figures.values and name != "reserve_bytes"]
    rows = [narrow.fit.order.index(name) for name in names]
    covariance = np.array(narrow.fit.covariance)[np.ix_(rows, rows)]
    found = half_widths(intervals(captured, narrow, np.random.default_rng(0), 20_000))
    for metric in METRICS:
        exact = elasticities(explained, find_probes(schedule, captured.trace), figures, metric)
        g = np.array([exact[f"stack.{name}"] for name in names])
        assert found[metric] == pytest.approx(1.959964 * math.sqrt(g @ covariance @ g), rel=0.03)


def test_a_fit_that_is_certain_leaves_no_width(hw: Platform, captured: Captured) -> None:
    for found in half_widths(intervals(captured, scaled(hw, 0.0), np.random.default_rng(0))).values():
        assert found == pytest.approx(0.0, abs=1e-12)


def test_what_the_user_set_is_exact_and_what_is_left_still_varies(hw: Platform, captured: Captured) -> None:
    assert hw.fit is not None
    constants = {name: hw.constant(name) for name in hw.fit.constants}
    one, every = (
        dataclasses.replace(hw, overridden=ReadOnly({name: constants[name] for name in names}))
        for names in (["link_efficiency"], list(constants))
    )
    wide, fewer, none = (
        half_widths(intervals(captured, machine, np.random.default_rng(0))) for machine in (hw, one, every)
    )
    for name in METRICS:
        assert none[name] == pytest.approx(0, abs=1e-12)
        assert 1e-3 < fewer[name] < wide[name]


def test_a_moved_machine_has_the_interval_of_a_platform_with_the_same_numbers(hw: Platform, captured: Captured) -> None:
    moved = pregate.load_hardware("a100-sxm4-80gb", overrides={LINK: 8e9, "stack.kernel_s": 5e-6})
    figures = figures_of(hw).with_values({LINK: 8e9, "stack.kernel_s": 5e-6})
    found = figure_intervals(captured, hw, figures, np.random.default_rng(0), exact={LINK, "stack.kernel_s"})
    assert found == intervals(captured, moved, np.random.default_rng(0))
    assert found != intervals(captured, hw, np.random.default_rng(0))


def test_without_a_fit_there_is_no_interval(captured: Captured) -> None:
    assert intervals(captured, pregate.load_hardware("h100-sxm"), np.random.default_rng(0)) == dict.fromkeys(METRICS)


def fit_of(values: dict[str, float], covariance: list[list[float]]) -> Fit:
    constants = ReadOnly({name: FittedConstant(value, (value, value), ()) for name, value in values.items()})
    rows = tuple(tuple(row) for row in covariance)
    return Fit("f", "h", "s", ("fp32",), constants, ReadOnly({}), tuple(values), rows, ReadOnly({}))


def test_draws_have_the_covariance_that_the_fit_states() -> None:
    covariance = [[0.04, 0.012], [0.012, 0.01]]
    fit = fit_of({"kernel_s": 1e-5, "sync_s": 2e-5}, covariance)
    drawn = drawn_constants(fit, ["stack.kernel_s", "stack.sync_s"], np.random.default_rng(0), 100_000)
    logs = np.log(np.stack([drawn["stack.kernel_s"] / 1e-5, drawn["stack.sync_s"] / 2e-5]))
    np.testing.assert_allclose(np.cov(logs), covariance, rtol=0.03)
    np.testing.assert_allclose(logs.mean(axis=1), 0.0, atol=3e-3)
    only = drawn_constants(fit, ["stack.sync_s"], np.random.default_rng(0), 100_000)["stack.sync_s"]
    assert np.log(only).std() == pytest.approx(0.1, rel=0.02)


def test_constants_that_move_together_do_so_exactly() -> None:
    """A covariance of rank 1 is no error: the second constant is the square of the first."""
    fit = fit_of({"kernel_s": 1.0, "sync_s": 1.0}, [[0.01, 0.02], [0.02, 0.04]])
    drawn = drawn_constants(fit, ["stack.kernel_s", "stack.sync_s"], np.random.default_rng(0), 100)
    np.testing.assert_allclose(drawn["stack.sync_s"], drawn["stack.kernel_s"] ** 2, rtol=1e-7)


def test_an_efficiency_never_exceeds_one_and_a_time_may() -> None:
    fit = fit_of({"gemm_efficiency": 0.98, "sync_s": 0.98}, [[0.01, 0.0], [0.0, 0.01]])
    drawn = drawn_constants(fit, ["stack.gemm_efficiency", "stack.sync_s"], np.random.default_rng(0), 1000)
    assert drawn["stack.gemm_efficiency"].max() == 1.0
    assert 0.3 < (drawn["stack.gemm_efficiency"] == 1.0).mean() < 0.5
    assert drawn["stack.sync_s"].max() > 1.1


def test_simulate_carries_the_interval_around_its_prediction(hw: Platform, captured: Captured) -> None:
    result = pregate.simulate(captured.model, hw, captured.trace, "on_demand")
    found = intervals(captured, hw, np.random.default_rng(0))
    assert (result.moe_layer_latency_ci95_s, result.tokens_per_s_ci95) == tuple(found[name] for name in METRICS)
    for name in METRICS:
        ends = found[name]
        assert ends is not None
        assert ends[0] < getattr(result, name) < ends[1]


@pytest.mark.parametrize("policy", ["on_demand", "pregate", "pregate+lru:0.1"])
def test_along_critical_paths_the_interval_is_that_of_every_draw_run_whole(hw: Platform, policy: str) -> None:
    model = pregate.load_model("switch-base-8")
    job = capture(model, hw, pregate.synthesize(model, 16, 6), policy)
    whole = full_intervals(job, hw, np.random.default_rng(0))
    for name, ends in intervals(job, hw, np.random.default_rng(0)).items():
        assert ends == pytest.approx(whole[name], rel=1e-12)


def test_where_the_bottleneck_moves_every_draw_is_run_whole(hw: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fetches and kernels of switch-large-128 take nearly the same time: draws differ in which is longer."""
    model = pregate.load_model("switch-large-128")
    job = capture(model, hw, pregate.synthesize(model, 16, 6), "pregate")
    whole = full_intervals(job, hw, np.random.default_rng(0))
    assert intervals(job, hw, np.random.default_rng(0)) == whole
    monkeypatch.setattr(interval_module, "_SCATTER", math.inf)
    off = half_widths(intervals(job, hw, np.random.default_rng(0)))["moe_layer_latency_s"]
    assert off != pytest.approx(half_widths(whole)["moe_layer_latency_s"], rel=0.04)


def test_code_for_many_machines_is_compiled_where_many_are_asked_of_a_long_schedule(
    captured: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    n_ops = len(captured.decoded.schedule)
    monkeypatch.setattr(interval_module, "compiled", lambda _: "compiled")
    for few, most, kept, wanted in (
        (n_ops, 0, True, False), (n_ops - 1, 3 * n_ops, False, False), (n_ops - 1, 3 * n_ops - 1, False, True),
        (n_ops - 1, 3 * n_ops, True, True),
    ):  # fmt: skip
        monkeypatch.setattr(interval_module, "FEW_OPS", few)
        monkeypatch.setattr(interval_module, "MOST_ENDS", most)
        monkeypatch.setattr(interval_module, "is_kept", lambda kept=kept: kept)
        assert (prepared(captured, 3) == "compiled") is wanted
