"""Designs held against each other, by hand: what serves is made up, and no trace is asked for."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest

from offload.policy import Policy
from offload.slots.memory import CapacityExceeded
from pregate.economics import costing
from pregate.economics.assumptions import Assumption, Assumptions
from pregate.economics.cost_draws import Draws, Estimate
from pregate.economics.costing import CostReport, costs
from pregate.economics.serving import BATCHES, LatencyPromise, RequestShape, Served, Unserved
from pregate.named import load_hardware, load_model
from pregate.routing_traces import synthesize
from tests.unit.pregate.economics.round_numbers import SERVED, SURE, design, report
from traces.errors import InvalidInput

MODEL, HW = load_model("switch-mini-16"), load_hardware("a100-sxm4-80gb", "streams")

THREE = report(
    design("a", 1234.4, 0.2, paid=None), design("b", 999.6, 0.5), design("c", 2000.0, 0.3),
    design("z", 1.0, 0.0, is_ranked=False),
)  # fmt: skip


def test_the_verdict_names_the_least_total_and_who_comes_next() -> None:
    assert THREE.cheapest is THREE.designs[1]
    assert THREE.ranked == THREE.designs[:3]
    assert THREE.verdict() == (
        "b costs least: 1,000 USD over the period, but only in 50% of the draws of all assumptions, c in 30%: "
        "not told apart. z cannot be built."
    )
    sure = report(design("a", 2.0, 0.05), design("b", 1.0, 0.95), told_apart=())
    assert sure.verdict() == "b costs least: 1 USD over the period, in 95% of the draws of all assumptions."
    assert report(design("a", 2.0, 1.0), told_apart=()).verdict() == "a costs least: 2 USD over the period."
    nothing = report(told_apart=())
    assert (nothing.cheapest, nothing.verdict()) == (None, "No design serves these requests: x is too large; y is slow")
    assert repr(sure) == f"CostReport(m on h: {sure.verdict()})"


FIGURES = ("per_million_tokens", "per_request", "joules_per_token", "n_machines", "total", "payback_days")


def test_rows_have_the_middle_and_the_ends_of_every_figure() -> None:
    first, second, *_ = THREE.rows()
    wanted: dict[str, Any] = {
        "design": "b", "batch": 4, "ttft_s": 2.0, "tpot_s": 0.5, "requests_per_s": 4 / 6.0,
    }  # fmt: skip
    for name, value in zip(FIGURES, (1.0, 2.0, 3.0, 4.0, 999.6, 9.0), strict=True):
        wanted |= {name: value, f"{name}_low": value - 0.5, f"{name}_high": value + 0.5}
    assert second == {**wanted, "cheapest_in": 0.5}
    assert list(second) == [*wanted, "cheapest_in"]
    assert [first[f"payback_days{end}"] for end in ("", "_low", "_high")] == [None] * 3
    assert len(THREE.rows()) == 4


def test_a_notebook_sees_the_middles_and_a_table_has_all() -> None:
    shown = THREE._repr_html_()
    assert "<th>total</th>" in shown
    assert "<th>cheapest_in</th>" in shown
    assert "_low<" not in shown
    assert "_high<" not in shown
    assert f"<caption>{THREE.verdict()}</caption>" in shown
    assert THREE.to_dataframe().columns.tolist() == list(THREE.rows()[0])


def test_a_report_is_written_whole() -> None:
    written = THREE.to_dict()
    assert written == {
        "model": "m", "hardware": "h", "basis": "own", "now": "a", "calibration": "claimed",
        "request": {"input_tokens": 16, "output_tokens": 8}, "objective": {"ttft_s": 1.5, "tpot_s": None},
        "requests_per_s": 7.0,
        "designs": [
            {**dataclasses.asdict(one.served), "requests_per_s": 4 / 6.0, "cheapest_in": one.cheapest_in,
             **{name: None if getattr(one, name) is None else getattr(one, name).to_list() for name in FIGURES}}
            for one in THREE.designs
        ],
        "unserved": [
            {"design": "x", "reason": "x is too large", "needed_bytes": 5},
            {"design": "y", "reason": "y is slow", "needed_bytes": 0},
        ],
        "gpus_for_gpu_only": 3, "verdict": THREE.verdict(), "drivers": {"pue": 0.9},
        "assumptions": {"pue": {"value": 1.5, "low": 1.2, "high": 2.0, "unit": "1", "source": "a test",
                                "date": "2026-01-01"}},
    }  # fmt: skip


def assumptions(**doubtful: tuple[float, float, float]) -> Assumptions:
    found = {name: (value, value, value) for name, value in (SURE | {"unfitted_error": 1.0}).items()} | doubtful
    return Assumptions({name: Assumption(*ends, "1", "a test", "2026") for name, ends in found.items()})


TIMES = {"on_demand": 12.0, "pregate": 6.0, "gpu_only": 3.0, "oracle": 1.0, "mixed_precision": 2.0}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """`serve` and the check of memory by hand: what they were asked."""
    told: list[tuple[Any, ...]] = []

    def serve(*given: Any) -> Served | Unserved:
        told.append(given)
        policy = given[2]
        if policy.name.startswith("prefetch_all"):
            return Unserved(policy.name, "too slow")
        return dataclasses.replace(SERVED, design=policy.name, request_s=TIMES[policy.name.partition("@")[0]])

    monkeypatch.setattr(costing, "serve", serve)
    monkeypatch.setattr(costing, "plan_request", lambda *_: None)
    return told


def cost(*names: str | Policy, basis: str = "rent", rate: float = 100.0, **given: Any) -> CostReport:
    given = {"input_tokens": 16, "output_tokens": 8, "assumptions": assumptions(), **given}
    return costs(MODEL, HW, names, basis=basis, requests_per_s=rate, **given)


def test_designs_are_served_in_the_order_asked_and_each_is_announced(asked: list[tuple[Any, ...]]) -> None:
    seen: list[str] = []
    found = cost("on_demand", "prefetch_all", costing.policy_named("pregate"), progress=seen.append, batches=(1, 3))
    assert seen == ["on_demand", "prefetch_all", "pregate"]
    assert [(given[0], given[1], given[2].name, *given[3:]) for given in asked] == [
        (MODEL, HW, name, RequestShape(16, 8), LatencyPromise(), (1, 3)) for name in seen
    ]
    assert [one.served.design for one in found.designs] == ["on_demand", "pregate"]
    assert found.unserved == (Unserved("prefetch_all", "too slow"),)
    assert (found.model, found.hardware, found.basis, found.now) == ("switch-mini-16", HW.hardware, "rent", "on_demand")
    assert found.calibration == HW.describe_calibration(MODEL.dtype.name)
    assert (found.requests_per_s, found.objective) == (100.0, LatencyPromise())
    assert {"years", "pue", "unfitted_error"} <= set(found.assumed)


def test_a_request_is_256_tokens_in_and_out_every_ten_seconds_unless_said(asked: list[tuple[Any, ...]]) -> None:
    found = costs(MODEL, HW, ["pregate"], assumptions=assumptions())
    assert (found.request, found.requests_per_s, found.basis) == (RequestShape(256, 256), 0.1, "own")
    assert asked[0][5] == BATCHES
    promised = cost("pregate", objective=LatencyPromise(1.0, 2.0))
    assert promised.objective == asked[1][4] == LatencyPromise(1.0, 2.0)


@pytest.mark.usefixtures("asked")
def test_figures_are_those_of_the_draws_and_payback_is_what_is_saved() -> None:
    found = cost("on_demand", "pregate", "gpu_only")
    draws = Draws(HW, "rent", assumptions())
    for one in found.designs:
        drawn = draws.cost(one.served, RequestShape(16, 8), 100.0)
        assert one.per_million_tokens.value == pytest.approx(1e6 * drawn.per_token[0], rel=1e-12)
        assert one.per_request.value == pytest.approx(8 * drawn.per_token[0], rel=1e-12)
        assert (one.joules_per_token.value, one.n_machines.value) == (drawn.joules[0], drawn.machines[0])
    years = {"on_demand": 1200, "pregate": 600, "gpu_only": 300}
    a_machine = 2 * 365.25 * 24
    for one, days in zip(found.designs, (0, 40_000, 7_000), strict=True):
        running = years[one.served.design] * a_machine
        assert one.total.value == pytest.approx(4 * running + days, rel=1e-12)
        if one.payback_days is not None:
            saved = 1200 * a_machine - running
            assert one.payback_days.value == pytest.approx(365.25 * days / saved, rel=1e-12)
    assert found.designs[0].payback_days is None
    assert [one.cheapest_in for one in found.designs] == [0, 0, 1]


@pytest.mark.usefixtures("asked")
@pytest.mark.parametrize(("rate", "days"), [(1e-4, math.inf), (0.05, math.inf)])
def test_what_saves_nothing_never_pays(rate: float, days: float) -> None:
    """One machine either way: the same rent, and nothing is divided by nothing."""
    with np.errstate(all="raise"):
        found = cost("on_demand", "pregate", rate=rate)
    assert [one.n_machines.value for one in found.designs] == [1, 1]
    assert found.designs[1].payback_days == Estimate(days, days, days)


@pytest.mark.usefixtures("asked")
def test_a_saving_below_a_dollar_a_year_is_one_and_a_century_is_never() -> None:
    tiny = assumptions(**{"cards.a100-sxm4-80gb.usd_per_hour": (1e-4,) * 3, "engineering_days.pregate": (0.001,) * 3})
    found = cost("on_demand", "pregate", rate=0.1, assumptions=tiny).designs[1].payback_days
    assert found is not None
    assert found.value == pytest.approx(365.25 * 1.0 / (1e-4 * 365.25 * 24), rel=1e-9)
    late = assumptions(**{"cards.a100-sxm4-80gb.usd_per_hour": (1e-4,) * 3, "engineering_days.pregate": (0.1,) * 3})
    never = cost("on_demand", "pregate", rate=0.1, assumptions=late).designs[1].payback_days
    assert never is not None
    assert never.value == math.inf


@pytest.mark.usefixtures("asked")
def test_what_cannot_be_built_is_costed_and_not_chosen() -> None:
    found = cost("on_demand", "oracle", "pregate")
    assert [one.is_ranked for one in found.designs] == [True, False, True]
    assert found.designs[1].cheapest_in == 0
    assert found.cheapest is found.designs[2]
    assert len(found.told_apart) == 1
    assert found.told_apart[0].startswith("oracle ")
    alone = cost("oracle")
    assert alone.designs[0].is_ranked
    assert alone.designs[0].cheapest_in == 1


@pytest.mark.usefixtures("asked")
def test_approximate_output_is_what_users_have_where_it_runs_now() -> None:
    now = cost("mixed_precision", "pregate")
    assert [one.is_ranked for one in now.designs] == [True, True]
    assert now.told_apart == ()
    other = cost("pregate", "mixed_precision", "on_demand")
    assert [one.is_ranked for one in other.designs] == [True, False, True]
    assert other.told_apart[0].startswith("mixed_precision")
    ceiling = cost("oracle", "pregate")
    assert [one.is_ranked for one in ceiling.designs] == [False, True]


@pytest.mark.usefixtures("asked")
def test_drivers_are_of_what_the_two_cheapest_differ_by() -> None:
    doubtful = assumptions(
        **{"engineering_days.pregate": (40.0, 10.0, 90.0), "engineering_days.other": (7.0, 1.0, 9.0),
           "years": (4.0, 3.9, 4.1)}
    )  # fmt: skip
    same = cost("on_demand", "pregate", "gpu_only", rate=1e-4, assumptions=doubtful)
    assert set(same.drivers) == {"engineering_days.pregate", "engineering_days.other", "years"}
    assert next(iter(same.drivers)) == "engineering_days.other"
    assert same.drivers["engineering_days.other"] == pytest.approx(1, abs=1e-3)
    alone = cost("on_demand", rate=1e-4, assumptions=doubtful)
    assert alone.drivers["years"] == pytest.approx(1)
    assert cost("prefetch_all").drivers == {}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"rate": 0.0}, "requests a second = 0: above 0, below 1e9"),
        ({"rate": 1e9}, "requests a second = 1e+09: above 0, below 1e9"),
        ({"input_tokens": 0}, "a request has 1 input token or more, and asks for 2 or more"),
        ({"output_tokens": 1}, "a request has 1 input token or more, and asks for 2 or more"),
        ({"basis": "rents"}, "unknown basis 'rents': did you mean 'rent'?"),
    ],
)
@pytest.mark.usefixtures("asked")
def test_requests_that_are_none_are_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidInput) as error:
        cost("pregate", **given)
    assert str(error.value) == said


def test_no_designs_are_refused() -> None:
    with pytest.raises(InvalidInput) as error:
        cost()
    assert str(error.value) == "no designs to cost: give at least one, such as pregate"


@pytest.mark.usefixtures("asked")
def test_the_least_request_is_taken() -> None:
    assert cost("pregate", input_tokens=1, output_tokens=2).request == RequestShape(1, 2)


RESERVED = int(HW.constant("reserve_bytes"))
ROOM = HW.machine.accelerator.hbm_bytes - RESERVED


@pytest.mark.parametrize(
    ("needed", "memory", "cards"),
    [(200 << 30, "DRAM", 0), (3 * ROOM + RESERVED, "HBM", 3), (3 * ROOM + RESERVED + 1, "HBM", 4)],
)
def test_cards_for_the_model_are_counted_by_what_each_has_left(
    needed: int, memory: str, cards: int, asked: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every card keeps some of its memory for the stack."""
    planned: list[tuple[Any, ...]] = []

    def plan(*given: Any) -> None:
        planned.append(given)
        raise CapacityExceeded("too little", needed, memory)

    monkeypatch.setattr(costing, "plan_request", plan)
    assert cost("pregate", batches=(3, 4)).gpus_for_gpu_only == cards
    ((model, hw, trace, policy),) = planned
    assert (model, hw, policy) == (MODEL, HW, "gpu_only")
    assert trace.digest == synthesize(MODEL, 16, 8, 3).digest


def test_the_smallest_batch_counts_wherever_it_stands_and_there_is_one(
    asked: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    planned: list[str] = []
    monkeypatch.setattr(costing, "plan_request", lambda *given: planned.append(given[2].digest))
    cost("pregate", batches=(4, 3))
    assert planned == [synthesize(MODEL, 16, 8, 3).digest]
    with pytest.raises(InvalidInput, match="no batches to serve in: give at least one, such as 1"):
        cost("pregate", batches=())


def test_a_model_that_fits_on_one_card_needs_one(asked: list[tuple[Any, ...]]) -> None:
    assert cost("pregate").gpus_for_gpu_only == 1


@pytest.mark.usefixtures("asked")
def test_a_century_pays_and_a_day_more_does_not() -> None:
    """A dollar an hour saved, 8,766 a year: 876.6 days of engineering are a hundred years of it."""
    hourly = {"cards.a100-sxm4-80gb.usd_per_hour": (1.0, 1.0, 1.0)}
    for days, paid in ((876.6, 36525.0), (876.7, math.inf)):
        given = assumptions(**hourly, **{"engineering_days.pregate": (days,) * 3})
        found = cost("on_demand", "pregate", rate=0.1, assumptions=given).designs
        assert [one.n_machines.value for one in found] == [2, 1]
        assert found[1].payback_days == Estimate(paid, paid, paid)


@pytest.mark.usefixtures("asked")
def test_a_move_that_costs_and_saves_nothing_never_pays() -> None:
    free = assumptions(**{"engineering_days.pregate": (0.0, 0.0, 0.0)})
    with np.errstate(all="raise"):
        found = cost("on_demand", "pregate", rate=1e-4, assumptions=free)
    assert found.designs[1].payback_days == Estimate(math.inf, math.inf, math.inf)


@pytest.mark.usefixtures("asked")
def test_the_two_cheapest_are_those_at_the_middle_of_all_assumptions() -> None:
    """In the first draw of all it is another that comes second."""
    close = assumptions(**{"engineering_days.pregate": (40.0, 39.0, 90.0), "engineering_days.other": (40.5, 0.0, 41.0)})
    found = cost("on_demand", "pregate", "gpu_only", rate=1e-4, assumptions=close)
    assert next(iter(found.drivers)) == "engineering_days.pregate"
    draws = Draws(HW, "rent", close)
    first = [draws.cost(one.served, RequestShape(16, 8), 1e-4).days_usd[1] for one in found.designs]
    assert first[2] < first[1]


@pytest.mark.usefixtures("asked")
def test_a_report_says_how_the_machine_was_calibrated_in_the_models_format() -> None:
    fitted = load_hardware("a100-sxm4-80gb")
    found = costs(MODEL, fitted, ["pregate"], input_tokens=16, output_tokens=8, assumptions=assumptions())
    assert found.calibration == fitted.describe_calibration(MODEL.dtype.name)
    assert found.calibration != fitted.describe_calibration("fp8")
