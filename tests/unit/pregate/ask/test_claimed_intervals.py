"""Intervals without a fit: the scatter of claims elsewhere, along the critical paths of a run."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

import pregate
from hwmodels.cost import price_figures
from hwmodels.figures import figures_of
from hwmodels.platform import Platform
from hwmodels.specs.spread import SPREAD_KEYS, shipped_spread
from offload.metrics.metric_probes import find_probes
from pregate.ask.capturing.capture import Captured, capture
from pregate.ask.simulation import interpret
from pregate.ask.timing.claimed_intervals import claimed_intervals, scattering
from simulator.explain.critical_path import walk
from simulator.explain.explained_metrics import METRICS
from simulator.explain.sensitivity import elasticities
from tests.command_line import Run

MODEL = pregate.load_model("qwen3-30b-a3b")
HW = pregate.load_hardware("rtx-4090", "llama-cpp")


def taken(policy: str, hw: Platform = HW) -> Captured:
    return capture(MODEL, hw, pregate.synthesize(MODEL, 4, 3), policy)


@pytest.mark.parametrize("policy", ["on_demand", "gpu_only@experts=cpu"])
def test_an_interval_is_the_scatter_of_each_number_times_what_depends_on_it(policy: str) -> None:
    captured, figures = taken(policy), figures_of(HW)
    schedule = captured.decoded.schedule
    explained = walk(schedule, price_figures(schedule.works, figures.for_works(schedule.works)))
    found = claimed_intervals(captured, HW, figures, METRICS)
    for metric in METRICS:
        exact = elasticities(
            explained, find_probes(schedule, captured.trace), figures.for_works(schedule.works), metric
        )
        ends = found[metric]
        assert ends is not None
        keys = {key: exact[key] for key in SPREAD_KEYS if key in exact}
        value = getattr(interpret(captured, HW, with_intervals=False), metric)
        slower = {key: -abs(one) for key, one in keys.items()}  # a number that falls has no limit
        worst = shipped_spread().half_width(slower)
        down, up = math.log(value / ends[0]), math.log(ends[1] / value)
        assert max(down, up) == pytest.approx(worst, rel=1e-3)
        assert min(down, up) <= worst


@pytest.mark.parametrize("policy", ["on_demand", "gpu_only@experts=cpu"])
def test_no_interval_holds_a_machine_beyond_its_limits(policy: str) -> None:
    """At the fast end every efficiency is 1 at most: what no machine with these peaks can do is outside."""
    captured = taken(policy)
    found = interpret(captured, HW)
    figures = figures_of(HW)
    limits = {key: 1.0 for key in SPREAD_KEYS if key.endswith("_efficiency") and key in figures.values}
    limits["link.pageable_h2d_bytes_per_s"] = float(np.max(figures["link.h2d_bytes_per_s"]))
    best = pregate.load_hardware("rtx-4090", "llama-cpp", overrides=limits)
    perfect = interpret(taken(policy, best), best, with_intervals=False)
    row = math.exp(shipped_spread().half_width({}))
    assert found.tokens_per_s_ci95 is not None
    assert found.tokens_per_s_ci95[1] < 1.3 * row * perfect.tokens_per_s


def test_what_a_user_sets_is_sure_and_narrows_the_interval() -> None:
    wide = interpret(taken("gpu_only@experts=cpu"), HW).tokens_per_s_ci95
    sure = pregate.load_hardware(
        "rtx-4090", "llama-cpp", overrides={"stack.cpu_efficiency": 0.46, "link.h2d_efficiency": 0.82}
    )
    assert {"stack.cpu_efficiency", "link.h2d_efficiency"} & set(scattering(sure, figures_of(sure))) == set()
    narrow = interpret(taken("gpu_only@experts=cpu", sure), sure).tokens_per_s_ci95
    assert wide is not None
    assert narrow is not None
    assert 1 < narrow[1] / narrow[0] < wide[1] / wide[0]


def test_reads_of_storage_scatter_as_copies_that_a_host_stages() -> None:
    """Nobody held a drive's claims against a run: the scale is that of staged copies. Of a slow drive, which binds."""
    model = pregate.load_model("switch-base-8")
    hw = pregate.load_hardware("rtx-4090", "llama-cpp", overrides={"storage.read_bytes_per_s": 1e9})
    trace = pregate.synthesize(model, 4, 3)
    spread = shipped_spread()
    assert (spread.constants["stack.storage_efficiency"], spread.n_bearing["stack.storage_efficiency"]) == (0.65, 0)
    read, kept = (pregate.simulate(model, hw, trace, "on_demand", expert_tier=tier) for tier in ("ssd", "dram"))
    widths = [math.log(one.tokens_per_s_ci95[1] / one.tokens_per_s_ci95[0]) for one in (read, kept)]  # type: ignore[index]
    assert widths[0] > 1.15 * widths[1]


def test_a_sweep_has_the_interval_of_a_claimed_machine() -> None:
    rates, trace = [16e9, 32e9], pregate.synthesize(MODEL, 4, 3)
    axes = {"link.h2d_bytes_per_s": rates}
    found = pregate.sweep(MODEL, HW, trace, policies=["on_demand"], axes=axes, draws=10, cache_dir=False)
    said = found["tokens_per_s_ci95"].values.reshape(2, 2)
    for rate, ends in zip(rates, said.tolist(), strict=True):
        hw = pregate.load_hardware("rtx-4090", "llama-cpp", overrides={"link.h2d_bytes_per_s": rate})
        assert ends == pytest.approx(pregate.simulate(MODEL, hw, trace, "on_demand").tokens_per_s_ci95)


def test_the_command_line_prints_intervals_of_a_claimed_machine(run: Run) -> None:
    words = ["qwen3-30b-a3b", "--hardware", "rtx-4090", "--input-tokens", "4", "--output-tokens", "3"]
    status, out, _ = run("compare", *words, "--policies", "on_demand")
    assert status == 0
    assert "95 %" in out
    assert " to " in out
    for command, policy in (("compare", "--policies"), ("simulate", "--policy")):
        document = json.loads(run(command, *words, policy, "on_demand", "--format", "json")[1])
        row = document["results"][0] if command == "compare" else document
        low, high = row["tokens_per_s_ci95"]
        assert low < row["tokens_per_s"] < high
        assert np.isfinite([low, high]).all()
