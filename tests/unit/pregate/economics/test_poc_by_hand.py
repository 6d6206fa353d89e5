"""What a plan says of a report of costs, by hand: what is chosen, what is measured first, and every threshold."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pregate.ask.timing.time_errors import TimeError
from pregate.economics import poc
from pregate.economics.assumptions import load_assumptions
from pregate.economics.cost_draws import unfitted_error
from pregate.economics.costing import CostReport, DesignCost
from pregate.economics.poc import HOW, Poc, ToMeasure, plan_poc
from pregate.economics.poc_file import PocFile
from pregate.economics.serving import LatencyPromise, Served
from pregate.named import load_hardware, load_model
from tests.unit.pregate.economics.round_numbers import CARD, SERVED, design, report

ASKED = PocFile(
    title="t", model="switch-mini-16", hardware=CARD, stack="streams", formats=None, now="a", candidates=("b", "c"),
    input_tokens=16, output_tokens=8, requests_per_s=7.0, ttft_s=None, tpot_s=None, basis="rent", batches=(1, 4),
    assume={"unfitted_error": "1:1:2"},
)  # fmt: skip


def planned(
    monkeypatch: pytest.MonkeyPatch, found: CostReport, asked: PocFile = ASKED, **how: Any
) -> tuple[Poc, dict[str, Any]]:
    """The plan of a report, and what was asked for it."""
    told: dict[str, Any] = {}

    def costs(*given: Any, **named: Any) -> CostReport:
        told.update(named, given=given)
        return found

    def read(path: Path, policies: Any) -> PocFile:
        told.update(path=path, policies=policies)
        return asked

    monkeypatch.setattr(poc, "costs", costs)
    monkeypatch.setattr(poc, "read_poc", read)
    return plan_poc("poc.yaml", **how), told


def test_a_plan_asks_for_the_costs_of_its_file(monkeypatch: pytest.MonkeyPatch) -> None:
    def progress(_: str) -> None: ...

    asked = dataclasses.replace(ASKED, ttft_s=3.0, tpot_s=0.5, formats="experts=int4-g128")
    _, told = planned(monkeypatch, report(), asked, policies=("x",), progress=progress)
    model, hw, policies = told.pop("given")
    assert model.expert_bytes < load_model("switch-mini-16").expert_bytes
    assert (hw.hardware, hw.stack.name) == (CARD, "streams")
    assert policies == ["a", "b", "c"]
    assert told.pop("assumptions")["unfitted_error"].high == 2
    assert told == {
        "path": Path("poc.yaml"), "policies": ("x",), "input_tokens": 16, "output_tokens": 8, "requests_per_s": 7.0,
        "objective": LatencyPromise(3.0, 0.5), "basis": "rent", "batches": (1, 4), "progress": progress,
    }  # fmt: skip


def test_what_is_tried_is_the_cheapest_candidate_that_may_be_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    now, dear, cheap, unreal = (
        design("a", 5.0, 0.1), design("b", 4.0, 0.2), design("c", 3.0, 0.7), design("d", 1.0, 0.0, is_ranked=False)
    )  # fmt: skip
    found = report(now, dear, cheap, unreal)
    plan, _ = planned(monkeypatch, found)
    assert (plan.chosen, plan.now, plan.report, plan.asked) == (cheap, now, found, ASKED)
    assert plan.verdict() == f"Try c. {found.verdict()}"
    cheapest = report(design("a", 2.0, 0.9), dear, cheap)
    plan, _ = planned(monkeypatch, cheapest)
    assert plan.chosen is cheap
    assert plan.verdict() == f"Leave it as it is. {cheapest.verdict()}"
    without = report(dear, cheap)
    plan, _ = planned(monkeypatch, without)
    assert (plan.chosen, plan.now) == (cheap, None)
    assert plan.verdict() == f"Try c. {without.verdict()}"
    alone = report(now)
    plan, _ = planned(monkeypatch, alone)
    assert (plan.chosen, plan.now, plan.thresholds) == (None, now, ())
    assert plan.verdict() == f"Nothing to try: no candidate serves these requests. {alone.verdict()}"


def test_what_the_choice_hangs_on_most_is_measured_first(monkeypatch: pytest.MonkeyPatch) -> None:
    build = "Build the smallest thing that serves one request, for two days, and estimate again"
    drivers = {"engineering_days.b": 0.5, "interval of b": 0.3, "cards.x.price_usd": 0.1, "pue": 0.05}
    plan, _ = planned(monkeypatch, report(design("b", 1.0, 1.0), drivers=drivers))
    assert plan.measurements == (
        ToMeasure("engineering_days.b", build, 0.5), ToMeasure("interval of b", HOW["unfitted_error"], 0.3),
        ToMeasure("cards.x.price_usd", "Ask for an offer of the card", 0.1),
    )  # fmt: skip
    (few,) = planned(monkeypatch, report(design("b", 1.0, 1.0), drivers={"pue": 1.0}))[0].measurements
    assert few == ToMeasure("pue", HOW["pue"], 1.0)


TRIED = Served("b", 4, 2.0, 0.5, 6.0, 0.75, 0.5, 3e9, 1.5e9, 0.5, 40_000_000_000, TimeError(rows=1.0))


def serving(served: Served) -> DesignCost:
    return dataclasses.replace(design("b", 1.0, 1.0), served=served)


def thresholds(monkeypatch: pytest.MonkeyPatch, found: CostReport, asked: PocFile = ASKED) -> list[tuple[str, ...]]:
    plan, _ = planned(monkeypatch, found, asked)
    return [(one.figure, one.predicted, one.accept, one.roll_back) for one in plan.thresholds]


def test_every_threshold_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is fitted, and real time is assumed to be twice what is predicted at most; 4 requests take 6 s."""
    rows = thresholds(monkeypatch, report(serving(TRIED)))
    assert rows == [
        ("time to the first token, 95th percentile", "2 s", "at most 4 s", "above 4.8 s for 10 minutes"),
        ("time per output token, 95th percentile", "500 ms", "at most 1 s", "above 1.2 s for 10 minutes"),
        ("requests/s at batch 4", "0.667", "at least 0.333", "below the accepted rate for an hour"),
        ("HBM in use", "40 GB", "at most 42 GB", "any request that fails for memory"),
        ("bytes over the link", "1.5 GB/s", "within 20 % of 1.5 GB/s at this batch",
         "none of its own: says why another figure moved"),
        ("experts found resident", "50.0%", "at least 40.0%",
         "none of its own: where pregate monitor finds drift, ask again with --trace"),
    ]  # fmt: skip
    full = dataclasses.replace(TRIED, peak_hbm_bytes=84_000_000_000)
    assert load_hardware(CARD).machine.accelerator.hbm_bytes == 80 * 2**30
    assert thresholds(monkeypatch, report(serving(full)))[3][1:3] == ("84 GB", "at most 85.9 GB")
    few = dataclasses.replace(TRIED, hit_rate=0.05)
    assert thresholds(monkeypatch, report(serving(few)))[-1][2] == "at least 0.0%"
    plan, _ = planned(monkeypatch, report(serving(TRIED)))
    assert [one.watch for one in plan.thresholds] == [
        "the engine's log or metrics, a histogram a minute", "the engine's log or metrics, a histogram a minute",
        "requests finished, a counter", "nvidia-smi --query-gpu=memory.used --format=csv -l 10",
        "nvidia-smi dmon -s t -d 10 (rxpci, MB/s)",
        "the engine's counters, or pregate monitor TRACE --reference AT_LAUNCH",
    ]  # fmt: skip


def test_a_promise_is_what_is_accepted_and_what_runs_now_is_gone_back_to(monkeypatch: pytest.MonkeyPatch) -> None:
    now = dataclasses.replace(design("a", 2.0, 0.0), served=dataclasses.replace(SERVED, design="a", request_s=8.0))
    asked = dataclasses.replace(ASKED, ttft_s=10.0, tpot_s=0.25)
    ttft, tpot, rate, *_ = thresholds(monkeypatch, report(now, serving(TRIED)), asked)
    assert ttft[1:] == ("2 s", "at most 10 s", "above 12 s for 10 minutes")
    assert tpot[1:] == ("500 ms", "at most 250 ms", "above 300 ms for 10 minutes")
    assert rate[3] == "below 0.5 for an hour: what runs now serves that"


def test_a_fitted_prediction_is_off_by_its_own_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    for down, up, accepted in ((0.5, 1.5, "at most 3 s"), (0.0, 1.25, "at most 2.5 s"), (0.5, 1.0, "at most 2 s")):
        error = TimeError(fitted=(down, math.log(up)))
        fitted = serving(dataclasses.replace(TRIED, error=error))
        assert thresholds(monkeypatch, report(fitted))[0][2] == accepted


def test_an_unfitted_one_by_what_such_were_off_elsewhere_unless_assumed(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    def error(served: Served, assumptions: Any) -> Any:
        seen.append((served, assumptions.get("unfitted_error")))
        return SimpleNamespace(high=5.0)

    asked = dataclasses.replace(ASKED, assume={})
    monkeypatch.setattr(poc, "unfitted_error", error)
    assert thresholds(monkeypatch, report(serving(TRIED)), asked)[0][2] == "at most 10 s"
    assert seen == [(TRIED, None)]
    known = unfitted_error(TRIED, load_assumptions())
    monkeypatch.setattr(poc, "unfitted_error", unfitted_error)
    assert thresholds(monkeypatch, report(serving(TRIED)), asked)[0][2] == f"at most {2 * known.high:.3g} s"
