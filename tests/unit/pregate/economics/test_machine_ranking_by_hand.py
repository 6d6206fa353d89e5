"""Machines held against each other, by hand: their designs are made up, and no schedule is written."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pregate.ask.timing.time_errors import TimeError
from pregate.card.choice import ranking_of
from pregate.card.designs import EngineDesign
from pregate.card.display.one_screen import COLUMNS, LINES
from pregate.card.job import RequestLoad
from pregate.card.judged_design import Expected, Judged, PhaseUse
from pregate.card.plan import NothingFits
from pregate.economics import machine_ranking, machine_screen
from pregate.economics.assumptions import Assumption, Assumptions, load_assumptions
from pregate.economics.cost_draws import DrawnCost, Estimate
from pregate.economics.machine_ranking import MachineRanking, RankedMachine, _costed, _listed, rank_machines, usd
from pregate.economics.serving import RequestShape, served_of
from pregate.named import load_hardware, load_model
from traces.errors import InvalidInput, UnknownName

JOB = RequestLoad(16, 8, 2)
IDLE = PhaseUse(0.5, 0.5, 1e9)


def machine(name: str, price_usd: float | None = 1000.0) -> Any:
    return SimpleNamespace(
        hardware=name,
        stack=SimpleNamespace(name="llama-cpp"),
        machine=SimpleNamespace(
            cards_usd=price_usd, host=SimpleNamespace(name="a-host"), link=SimpleNamespace(name="a-link"),
            has_one_memory=False,
        ),
    )  # fmt: skip


def judged(
    name: str,
    request_s: float,
    *,
    spread: float = 0.0,
    tag: str = "claimed",
    policy: str = "gpu_only",
    price_usd: float | None = 1000.0,
    tokens_per_s: float | None = None,
) -> Judged:
    """A design of a machine of that name; a thousandth of the request is its prompt, a hundredth a token."""
    schedules: Any = SimpleNamespace(digests=lambda: ["d", name])
    planned: Any = SimpleNamespace(hw=machine(name, price_usd), n_at_once=1, n_under_way=1)
    figures = {
        "ttft": request_s / 1000, "tpot": request_s / 100, "request": request_s,
        "throughput": tokens_per_s or 16 / request_s,
    }  # fmt: skip
    error = TimeError(fitted=(1.96 * spread, 1.96 * spread))
    expected = {key: Expected(value, error, tag, "a test") for key, value in figures.items()}
    return Judged(
        EngineDesign(policy, "llama-cpp"), JOB, **expected, hit_rate=0.5, peak_hbm_bytes=7, prompt_binds="the prompt",
        token_binds=f"{name}'s link", prompt_use=IDLE, token_use=IDLE, beyond_fit="", planned=planned,
        schedules=schedules,
    )  # fmt: skip


def ranked(
    name: str, request_s: float, usd_per_million: float | None = 3.0, cheapest_in: float = 0.0, lacks: str = "",
    **how: Any,
) -> RankedMachine:  # fmt: skip
    best = judged(name, request_s, **how)
    slower = judged(name, 2 * request_s, **{"policy": "on_demand", **how})
    cost = None if usd_per_million is None else Estimate(usd_per_million, 1.0, 9.0)
    choice = ranking_of([slower, best], best, "request")
    return RankedMachine(choice, cost, lacks, cheapest_in, (("a design", "is too large"),))


def of(*machines: RankedMachine, objective: str = "request", basis: str = "own") -> MachineRanking:
    assumed = {"pue": Assumption(1.5, 1.2, 2.0, "1", "a test", "2026-01-01")}
    return MachineRanking(
        "m", JOB, objective, machines, (("small", "has 1 GB"),), "synthetic", basis, assumed
    )  # fmt: skip


def test_the_only_machine_is_said_to_be_it() -> None:
    assert of(ranked("one", 1.0)).verdict() == "one is the only machine that m fits."


def test_the_best_is_named_with_how_much_better_it_is() -> None:
    """Ln of a ratio is off by the root of the sum of squares of both: 1.96 x .05 on each side of ln 2."""
    found = of(ranked("one", 1.0, spread=0.03), ranked("two", 2.0, spread=0.04, tag="fitted"), ranked("three", 4.0))
    times, (low, high) = found.worse(found.machines[1])
    assert (times, low, high) == pytest.approx((2.0, 2 * np.exp(-1.96 * 0.05), 2 * np.exp(1.96 * 0.05)))
    assert not found.abstains
    assert found.rivals == ()
    assert found.best is found.machines[0]
    assert found.verdict() == "one: 2.00 times as good as two, the next (1.81 to 2.21, claimed)."
    known = of(ranked("one", 1.0, spread=0.03, tag="fitted"), found.machines[1])
    assert known.verdict() == "one: 2.00 times as good as two, the next (1.81 to 2.21, fitted)."


def test_machines_that_cannot_be_told_apart_have_no_verdict() -> None:
    near, far, doubtful = (
        ranked("near", 1.1, spread=0.2), ranked("far", 9.0), ranked("doubtful", 4.0, spread=1.0)
    )  # fmt: skip
    best = ranked("one", 1.0, spread=0.0, tag="fitted")
    found = of(best, near, far)
    assert (found.rivals, found.abstains) == ((near,), True)
    said = "No verdict: one is predicted 1.10 times as good as near, 0.74 to 1.63 (claimed): too close to tell"
    assert found.verdict() == f"{said}."
    assert of(best, near, doubtful, far).verdict() == f"{said}; nor can doubtful be told from it."
    more = [ranked(f"d{i}", 4.0, spread=1.0) for i in range(3)]
    assert of(best, near, *more).verdict() == f"{said}; nor can d0, d1 or 1 more be told from it."


def test_without_a_verdict_for_one_behind_the_next() -> None:
    """The next is known to be worse, as it is fitted; what the sentence rests on is of those that it names."""
    best, next_ = ranked("one", 1.0, tag="fitted"), ranked("two", 2.0, tag="claimed")
    doubtful = [ranked(f"d{i}", 4.0, spread=1.0, tag=tag) for i, tag in enumerate(("fitted", "extrapolated"))]
    assert of(best, next_, doubtful[0]).verdict() == (
        "No verdict: one is predicted best and cannot be told from d0 (fitted)."
    )
    assert of(best, next_, *doubtful).verdict() == (
        "No verdict: one is predicted best and cannot be told from d0 or d1 (extrapolated)."
    )


def test_the_cheapest_is_so_in_most_draws() -> None:
    sure = of(ranked("one", 1.0, 30.0, 0.05), ranked("two", 2.0, 2.5, 0.95), ranked("bare", 3.0, None))
    assert sure.cheapest is sure.machines[1]
    assert sure.cost_verdict() == (
        "A million tokens cost least on two, bought (2.5 USD), in 95% of the draws of all assumptions."
    )
    even = of(ranked("one", 1.0, 2.6, 0.3), ranked("two", 2.0, 1234.5, 0.6), ranked("three", 3.0, 2.0, 0.1),
              basis="rent")  # fmt: skip
    assert even.cost_verdict() == (
        "A million tokens cost least on two, rented (1,234 USD), in 60% of the draws of all assumptions, on one in "
        "30%: not told apart."
    )
    alone = of(ranked("one", 1.0, None, lacks="no price"), ranked("two", 2.0, 2.5, 1.0))
    assert alone.cost_verdict() == (
        "A million tokens cost least on two, bought (2.5 USD); of no other machine a cost is known."
    )
    nothing = of(ranked("one", 1.0, None), ranked("two", 2.0, None))
    assert (nothing.cheapest, nothing.cost_verdict()) == (None, "")


def test_of_machines_that_are_cheapest_as_often_the_better_comes_first() -> None:
    found = of(ranked("one", 1.0, 2.0, 0.5), ranked("two", 2.0, 2.0, 0.5), ranked("three", 3.0, 9.0, 0.0))
    assert found.cheapest is found.machines[0]
    assert found.cost_verdict().endswith("in 50% of the draws of all assumptions, on two in 50%: not told apart.")


def test_rows_and_data_have_every_machine() -> None:
    found = of(ranked("one", 1.0, price_usd=None), ranked("two", 2.0, None, lacks="no price"))
    first, second = found.rows()
    assert first == {
        "hardware": "one", "stack": "llama-cpp", "design": "gpu_only", "request_s": 1.0, "ttft_s": 0.001,
        "tpot_s": 0.01, "tokens_per_s": 16.0, "usd_per_million_tokens": 3.0, "price_usd": None,
        "token_binds": "one's link", "rests_on": "claimed",
    }  # fmt: skip
    assert (second["usd_per_million_tokens"], second["price_usd"]) == (None, 1000.0)
    data = found.to_dict()
    assert data == json.loads(json.dumps(data)) == {
        "model": "m", "job": {"input_tokens": 16, "output_tokens": 8, "batch": 2}, "objective": "request",
        "verdict": found.verdict(), "abstains": False, "not_told_from_best": [], "cost_verdict": found.cost_verdict(),
        "basis": "own", "machines": [one.to_dict() for one in found.machines],
        "does_not_fit": [{"hardware": "small", "reason": "has 1 GB"}], "routing": "synthetic",
        "assumptions": {"pue": {"value": 1.5, "low": 1.2, "high": 2.0, "unit": "1", "source": "a test",
                                "date": "2026-01-01"}},
    }  # fmt: skip
    doubtful = of(ranked("one", 1.0), ranked("two", 1.1, spread=1.0)).to_dict()
    assert (doubtful["abstains"], doubtful["not_told_from_best"]) == (True, ["two"])
    assert repr(found) == f"MachineRanking(m on 2 machines: {found.verdict()})"


def test_the_data_of_a_machine() -> None:
    one = ranked("one", 1.0, cheapest_in=0.25)
    best, slower = one.choice.ranked
    assert one.to_dict() == {
        "hardware": "one", "host": "a-host", "link": "a-link", "best": best.to_dict(),
        "usd_per_million_tokens": {"value": 3.0, "ci95": [1.0, 9.0]}, "cheapest_in": 0.25, "no_cost": "",
        "price_usd": 1000.0, "designs": [best.to_dict(), slower.to_dict()], "beside": [],
        "does_not_fit": [{"design": "a design", "reason": "is too large"}],
    }  # fmt: skip
    fitted, claimed = judged("one", 2.0, tag="fitted"), judged("one", 1.0, policy="on_demand")
    two = RankedMachine(ranking_of([claimed, fitted], fitted, "request"), None, "no price", 0.0, ())
    data = two.to_dict()
    assert (data["usd_per_million_tokens"], data["no_cost"]) == (None, "no price")
    assert (data["best"], data["beside"]) == (fitted.to_dict(), [claimed.to_dict()])


def test_a_ledger_keeps_every_machine_the_best_last() -> None:
    found = of(ranked("one", 1.0, spread=0.1), ranked("two", 2.0))
    entries = found.predictions()
    assert [(told["machine"], told["design"]) for told, _ in entries] == [
        ("two, a-host, a-link", "llama-cpp/on_demand"), ("two, a-host, a-link", "llama-cpp/gpu_only"),
        ("one, a-host, a-link", "llama-cpp/on_demand"), ("one, a-host, a-link", "llama-cpp/gpu_only"),
    ]  # fmt: skip
    assert {(told["model"], told["load"]) for told, _ in entries} == {("m", str(JOB))}
    assert entries[-1][1]["request_s"].value == 1.0


def test_it_is_shown_as_one_screen_or_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ranking_screen", "ranking_text", "ranking_markdown", "ranking_html"):
        monkeypatch.setattr(machine_screen, name, lambda *given, name=name: (name, *given))
    found = of(ranked("one", 1.0))
    shown: list[Any] = [
        found.text(), found.text(60, n_lines=9), found.text(60, details=True), found.markdown(), found._repr_html_()
    ]  # fmt: skip
    assert shown == [
        ("ranking_screen", found, COLUMNS, LINES), ("ranking_screen", found, 60, 9), ("ranking_text", found, 60),
        ("ranking_markdown", found), ("ranking_html", found),
    ]  # fmt: skip


def test_dollars_have_three_digits_and_no_power_of_ten() -> None:
    assert [usd(value) for value in (0.012345, 9.999, 99.94, 100.0, 123456.7)] == [
        "0.0123", "10", "99.9", "100", "123,457"
    ]  # fmt: skip


def test_two_names_are_listed_and_more_are_counted() -> None:
    assert [_listed(["a", "b", "c", "d"][:n]) for n in (1, 2, 3, 4)] == [
        "a", "a or b", "a, b or 1 more", "a, b or 2 more"
    ]  # fmt: skip


class DrawnByHand:
    """Draws whose costs of a token are given by the name of a machine; text for what is assumed nowhere."""

    asked: list[tuple[Any, ...]]
    per_token: dict[str, list[float] | str]

    def __init__(self, hw: Any, *given: Any) -> None:
        self.hw, self.looked_at = hw, {"a": "b"}
        type(self).asked.append((hw.hardware, *given))

    def on(self, hw: Any) -> DrawnByHand:
        other = object.__new__(DrawnByHand)
        other.hw = hw
        return other

    def cost(self, served: Any, shape: RequestShape, requests_per_s: float) -> DrawnCost:
        self.asked.append((self.hw.hardware, served, shape))
        assert requests_per_s > 0
        given = self.per_token[self.hw.hardware]
        if isinstance(given, str):
            raise InvalidInput(given)
        nothing = np.zeros(len(given))
        return DrawnCost(served, np.array(given), *[nothing] * 5)


def test_costs_are_of_the_same_draws_and_the_least_of_each_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first is the middle of all assumptions, and no draw: two is cheapest in it, but in one draw of four alone."""
    designs = [judged(name, 1.0 + i) for i, name in enumerate(("one", "two", "bare", "three"))]
    DrawnByHand.asked = asked = []
    DrawnByHand.per_token = {
        "one": [3.0, 1.0, 2.0, 3.0, 9.0], "two": [1.0, 2.0, 1.0, 4.0, 9.5], "bare": "nothing is assumed of bare",
        "three": [9.0, 5.0, 5.0, 3.0, 9.9],
    }  # fmt: skip
    monkeypatch.setattr(machine_ranking, "Draws", DrawnByHand)
    assumptions = Assumptions({})
    (one, two, bare, three), looked_at = _costed(designs, "rent", assumptions)
    assert asked == [
        ("one", "rent", assumptions),
        *((one.planned.hw.hardware, served_of(one), RequestShape(16, 8)) for one in designs),
    ]
    assert looked_at == {"a": "b"}
    assert bare == (None, "nothing is assumed of bare", 0.0)
    assert one[0] is not None
    assert (one[0].value, one[0].low, one[0].high) == (3e6, 1e6, 9e6)
    assert [found[1:] for found in (one, two, three)] == [("", 0.75), ("", 0.25), ("", 0.25)]
    DrawnByHand.per_token = dict.fromkeys(DrawnByHand.per_token, "nothing")
    assert _costed(designs, "rent", assumptions)[0] == [(None, "nothing", 0.0)] * 4


MODEL = load_model("switch-mini-16")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[Any]]:
    """What every step of `rank_machines` was asked; a request takes as long as a machine's name says, "0" fits none."""
    told: dict[str, list[Any]] = {"platforms": [], "work": [], "ranked": [], "routing": [], "kept": [], "costed": []}

    def platforms(*given: Any) -> dict[str, Any]:
        told["platforms"].append(given)
        return {"llama-cpp": machine(str(given[1])), "other": machine("another")}

    def ranked_on(model: Any, work: Any, platforms: Any, objective: str, **how: Any) -> Any:
        assert work.job is JOB
        told["ranked"].append((model, work, objective, how))
        name = platforms["llama-cpp"].hardware
        if name.startswith("0"):
            raise NothingFits(f"nothing fits {name}")
        best = judged(name, float(name), tokens_per_s=float(name))
        return ranking_of([best], best, objective), (("x", f"too large for {name}"),)

    def work_of(*given: Any) -> Any:
        told["work"].append(given)
        return SimpleNamespace(job=JOB)

    def costed(designs: Any, *given: Any) -> Any:
        told["costed"].append((designs, *given))
        return [(None, f"{one.planned.hw.hardware} has no price", 0.5) for one in designs], {"pue": "assumed"}

    monkeypatch.setattr(machine_ranking, "platforms_of", platforms)
    monkeypatch.setattr(machine_ranking, "ranked_on", ranked_on)
    monkeypatch.setattr(machine_ranking, "work_of", work_of)
    monkeypatch.setattr(machine_ranking, "_costed", costed)
    monkeypatch.setattr(
        machine_ranking, "routing_of", lambda *given, **how: told["routing"].append((given, how)) or "made up"
    )
    monkeypatch.setattr(machine_ranking, "schedules_in", lambda given: told["kept"].append(given) or "a cache")
    return told


def test_machines_are_ranked_by_their_best_designs(asked: dict[str, list[Any]]) -> None:
    seen: list[str] = []
    found = rank_machines(MODEL, ["3", "0", "2", "4"], progress=seen.append)
    assert seen == ["3", "0", "2", "4"]
    assert [one.hardware for one in found.machines] == ["2", "3", "4"]
    assert found.unfit == (("0", "nothing fits 0"),)
    assert [one.unfit for one in found.machines] == [(("x", f"too large for {name}"),) for name in "234"]
    assert [(one.lacks, one.cheapest_in) for one in found.machines] == [(f"{name} has no price", 0.5) for name in "234"]
    assert (found.model, found.job, found.objective, found.routing, found.basis, found.assumed) == (
        MODEL.name, JOB, "request", "made up", "own", {"pue": "assumed"}
    )  # fmt: skip
    ((designs, basis, assumptions),) = asked["costed"]
    assert designs == [one.best for one in found.machines]
    assert (basis, assumptions.by_name) == ("own", load_assumptions().by_name)
    assert asked["platforms"] == [(MODEL, name, None, None) for name in ("3", "0", "2", "4")]
    ((model, job, trace, popularity, seed),) = asked["work"]
    assert (model, job, trace, popularity, seed) == (MODEL, None, None, None, 0)
    assert asked["kept"] == [False]
    assert all(
        (model, objective, how) == (MODEL, "request", {"more": [], "kept": "a cache"})
        for model, _, objective, how in asked["ranked"]
    )
    ((given, how),) = asked["routing"]
    assert (given[0].job, given[1], how) == (JOB, None, {"in_view": True})


def test_everything_that_is_asked_is_handed_on(asked: dict[str, list[Any]]) -> None:
    mine, trace, popularity = Assumptions({}), object(), object()
    given: dict[str, Any] = {"trace": trace, "popularity": popularity}
    found = rank_machines(
        "switch-mini-16", ["2", "3"], JOB, objective="throughput", stacks=["s"], overrides={"hbm_bytes": 1.0},
        policies=["pregate", "on_demand+lru:0.5"], seed=3, cache_dir=Path("c"), basis="rent", assumptions=mine, **given,
    )  # fmt: skip
    assert [one.hardware for one in found.machines] == ["3", "2"]  # the more tokens a second, the better
    assert (found.objective, found.basis) == ("throughput", "rent")
    assert asked["platforms"][1] == (MODEL, "3", ["s"], {"hbm_bytes": 1.0})
    assert asked["work"] == [(MODEL, JOB, trace, popularity, 3)]
    assert asked["kept"] == [Path("c")]
    assert asked["ranked"][0][2:] == ("throughput", {"more": ["pregate", "on_demand+lru:0.5"], "kept": "a cache"})
    assert asked["routing"][0][0][1] is trace
    assert asked["routing"][0][1] == {"in_view": False}
    assert asked["costed"][0][1:] == ("rent", mine)


@pytest.mark.usefixtures("asked")
def test_what_cannot_be_ranked_is_refused() -> None:
    with pytest.raises(UnknownName, match="unknown objective 'beauty'"):
        rank_machines(MODEL, ["2"], objective="beauty")
    with pytest.raises(UnknownName, match="unknown basis 'steal'"):
        rank_machines(MODEL, ["2"], basis="steal")
    with pytest.raises(InvalidInput, match="no machines to rank: name at least one, such as rtx-4090"):
        rank_machines(MODEL, [])
    with pytest.raises(InvalidInput, match="3 is there twice: name each machine once"):
        rank_machines(MODEL, ["2", "3", "4", "3"])
    with pytest.raises(NothingFits) as refused:
        rank_machines(MODEL, ["0", "00", "000"])
    assert str(refused.value) == "0: nothing fits 0; 00: nothing fits 00"


def test_a_price_is_of_all_cards_as_their_file_has_it() -> None:
    for name, price in (("rtx-4090", 1599.0), ("3x rtx-4090", 4797.0), ("a10", None)):
        hw = load_hardware(name, "llama-cpp")
        best = dataclasses.replace(judged("one", 1.0), planned=SimpleNamespace(hw=hw))  # type: ignore[arg-type]
        one = RankedMachine(ranking_of([best], best, "request"), None, "", 0.0, ())
        assert (one.hardware, one.price_usd) == (name, price)
