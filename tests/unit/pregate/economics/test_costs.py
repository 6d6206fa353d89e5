"""Money and energy of a design: by hand, by law, and what is refused."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

import pregate
from pregate.economics.assumptions import GENERAL, Assumption, Assumptions, load_assumptions
from pregate.economics.cost_draws import unfitted_error
from pregate.economics.costing import costs
from pregate.economics.serving import LatencyPromise
from tests.command_line import Run
from traces.errors import InvalidFile, InvalidInput

SURE = {
    "electricity_usd_per_kwh": "0.36",
    "pue": "1.5",
    "utilisation": "0.5",
    "years": "4",
    "machine_usd": "5000",
    "upkeep_per_year": "0.1",
    "engineering_usd_per_day": "1000",
    "host_idle_watts": "100",
    "host_busy_watts": "300",
    "busy_share": "0.8",
    "idle_share": "0.2",
    "transfer_joules_per_gb": "0.5",
    "unfitted_error": "1",
    "cards.a100-sxm4-80gb.limit_watts": "400",
    "cards.a100-sxm4-80gb.price_usd": "15000",
    "cards.a100-sxm4-80gb.usd_per_hour": "2",
    "engineering_days.pregate": "40",
    "engineering_days.on_demand": "5",
}
DESIGNS = ("on_demand", "pregate")


def asked(changes: dict[str, str] | None = None, **given: object) -> pregate.CostReport:
    hw = pregate.load_hardware("a100-sxm4-80gb", "streams")
    assumptions = load_assumptions(None, SURE | (changes or {}))
    settings = {"input_tokens": 8, "output_tokens": 6, "batches": (1, 2), "assumptions": assumptions} | given
    return costs(pregate.load_model("switch-mini-16"), hw, DESIGNS, **settings)  # type: ignore[arg-type]


def test_a_bought_machine_by_hand() -> None:
    report = asked()
    for design in report.designs:
        served = design.served
        seconds = served.request_s / (served.batch * 6)  # a token
        busy = 80 + served.compute_share * (320 - 80) + 100 + served.host_share * 200
        joules = (seconds * busy + seconds * 180 + 0.5 * served.link_bytes / 1e9) * 1.5  # idle as long as it serves
        machine = 20000 * (1 / 4 + 0.1)
        usd = machine / (365.25 * 86400) * 2 * seconds + joules / 3.6e6 * 0.36
        assert design.joules_per_token.value == pytest.approx(joules, rel=1e-12)
        assert design.per_million_tokens.value == pytest.approx(1e6 * usd, rel=1e-12)
        assert design.per_request.value == pytest.approx(6 * usd, rel=1e-12)


def test_a_request_takes_its_prompt_and_its_tokens() -> None:
    for design in asked().designs:
        result = pregate.simulate(
            pregate.load_model("switch-mini-16"),
            pregate.load_hardware("a100-sxm4-80gb", "streams"),
            pregate.synthesize(pregate.load_model("switch-mini-16"), 8, 6, design.served.batch),
            design.served.design,
        )
        assert design.served.request_s == pytest.approx(result.ttft_s + 5 * result.tpot_s, rel=1e-12)
        # Routing of the tokens in the middle is drawn anew: other experts are asked for.
        assert design.served.link_bytes == pytest.approx(result.h2d_bytes / result.n_output_tokens, rel=0.15)


def test_certain_assumptions_leave_no_range_and_doubtful_ones_do() -> None:
    for design in asked().designs:
        for name in ("per_million_tokens", "joules_per_token", "total"):
            found = getattr(design, name)
            assert found.low == pytest.approx(found.value) == pytest.approx(found.high)
    doubtful = asked({"electricity_usd_per_kwh": "0.1:0.36:0.9"}).designs[0].per_million_tokens
    assert doubtful.low < doubtful.value < doubtful.high


def test_machines_serve_the_rate_and_a_rented_one_costs_its_hours() -> None:
    report = asked(basis="rent", requests_per_s=100.0)
    for design in report.designs:
        needed = 100 * design.served.request_s / design.served.batch / 0.5
        assert design.n_machines.value == np.ceil(needed)
        days = {"on_demand": 0, "pregate": 40}[design.served.design]
        usd = design.n_machines.value * 2 * 365.25 * 24 * 4 + 1000 * days
        assert design.total.value == pytest.approx(usd, rel=1e-12)


def test_payback_is_the_engineering_over_what_is_saved() -> None:
    report = asked(basis="rent", requests_per_s=5000.0)
    now, other = report.designs
    assert now.payback_days is None
    saved = (now.n_machines.value - other.n_machines.value) * 2 * 24  # a day
    assert saved > 0
    assert other.payback_days is not None
    assert other.payback_days.value == pytest.approx(40_000 / saved, rel=1e-12)
    slow = asked(basis="rent", requests_per_s=0.01).designs[1]
    assert slow.payback_days is not None
    assert slow.payback_days.value == float("inf")


def test_the_cheapest_is_called_so_only_where_the_draws_agree() -> None:
    sure = asked(basis="rent", requests_per_s=0.01)
    assert "in 100% of the draws of all assumptions" in sure.verdict()
    assert sum(design.cheapest_in for design in sure.designs) == pytest.approx(1)
    even = asked({"engineering_days.pregate": "0:1:400"}, requests_per_s=600.0)
    assert max(design.cheapest_in for design in even.designs) < 0.95
    assert "not told apart" in even.verdict()


def test_an_objective_chooses_the_batch_and_may_be_met_by_none() -> None:
    free = asked().designs[1].served
    assert free.batch == 2
    tight = asked(objective=LatencyPromise(tpot_s=free.tpot_s * 0.999))
    assert [design.served.batch for design in tight.designs] == [1, 1]
    none = asked(objective=LatencyPromise(ttft_s=1e-9))
    assert not none.designs
    assert "misses the objective at every batch" in none.verdict()


def test_what_does_not_fit_is_told_with_the_cards_it_would_need() -> None:
    model = pregate.load_model("mixtral-8x7b")
    hw = pregate.load_hardware("rtx-4090", "streams")
    report = costs(model, hw, ["gpu_only"], input_tokens=4, output_tokens=2, batches=(1,))
    assert not report.designs
    reserve = hw.constant("reserve_bytes")
    needed = report.unserved[0].needed_bytes
    assert "gpu_only needs" in report.unserved[0].reason
    assert report.gpus_for_gpu_only == np.ceil((needed - reserve) / (hw.machine.accelerator.hbm_bytes - reserve)) > 1


@pytest.mark.parametrize(("stack", "large"), [("llama-cpp", 4), ("vllm", 5)])
def test_cards_that_a_model_needs_are_the_same_however_many_there_are(stack: str, large: int) -> None:
    """One card is enough for gpt-oss-20b. Mixtral-8x7b takes 93.4 GB in 16 bits; of 25.8 GB vLLM uses nine tenths."""
    for name, cards in (("gpt-oss-20b", 1), ("mixtral-8x7b", large)):
        model, found = pregate.load_model(name), []
        for machine in ("rtx-4090", "2x rtx-4090"):
            hw = pregate.load_hardware(machine, stack)
            found.append(costs(model, hw, ["gpu_only"], input_tokens=4, output_tokens=2, batches=(1,)))
        assert [one.gpus_for_gpu_only for one in found] == [cards, cards]


def test_a_host_without_the_memory_is_mended_by_no_card(run: Run) -> None:
    asked = ("cost", "qwen3-235b-a22b", "--dtype", "q4_k_m", "--hardware", "dgx-spark", "--policies", "gpu_only")
    _, out, _ = run(*asked, "--assume", "cards.dgx-spark.limit_watts=240", "--output-tokens", "2")
    assert "in one memory of 128.5 GB" in out
    assert "of these cards" not in out


def test_every_figure_that_ships_has_a_source_and_a_date() -> None:
    shipped = load_assumptions()
    assert set(GENERAL) - {"unfitted_error"} <= set(shipped.by_name)
    for name, one in shipped.by_name.items():
        assert len(one.source) > 15, name
        assert one.date.startswith("20"), name


def test_every_assumption_that_an_answer_looked_at_has_a_source_and_a_date() -> None:
    """Figures of the machine, of this project's record and a user's own too, wherever they are from."""
    report = asked({}, assumptions=load_assumptions(None, {"pue": "1.4"}))
    assert {"unfitted_error", "pue", "cards.a100-sxm4-80gb.price_usd"} <= set(report.assumed)
    for name, one in report.assumed.items():
        assert one.date.startswith("20"), name
        assert one.source, name
    assert "Tool Discovery" in report.assumed["cards.a100-sxm4-80gb.price_usd"].source


def test_cards_of_the_assumptions_are_machines() -> None:
    cards = {name.split(".")[1] for name in load_assumptions().by_name if name.startswith("cards.")}
    assert len(cards) >= 10
    assert {pregate.load_hardware(card).machine.accelerator.name for card in cards} == cards


def test_the_error_of_unfitted_machines_is_what_the_tables_show() -> None:
    served = asked().designs[0].served
    found = unfitted_error(served, load_assumptions())
    assert (found.low, found.value, found.high) == (served.error.interval(1.0)[0], 1.0, served.error.interval(1.0)[1])
    assert unfitted_error(served, load_assumptions(None, {"unfitted_error": "1:1:3"})).high == 3


def test_unfitted_designs_are_off_together_each_by_its_own_spread() -> None:
    sure = {name: text for name, text in SURE.items() if name != "unfitted_error"}
    report = asked({}, assumptions=load_assumptions(None, sure))
    assert report.assumed["unfitted_error"].source.startswith("hwmodels/specs/spreads.yaml")
    for design in report.designs:
        wide = unfitted_error(design.served, load_assumptions())
        low, value, high = (getattr(design.joules_per_token, end) for end in ("low", "value", "high"))
        assert low < value < high
        assert high / value == pytest.approx(wide.high, rel=0.15)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("general: {pue: {value: 0.5, low: 0.5, high: 0.5, unit: x, source: s, date: d}}", "pue from 0.5: at least 1"),
        ("general: {pue: {value: 2, low: 3, high: 4, unit: x, source: s, date: d}}", "low <= value <= high"),
        ("general: {nosuch: {value: 2, low: 2, high: 2, unit: x, source: s, date: d}}", "nosuch"),
        ("general: {pue: {value: 2, low: 2, high: 2, unit: x, date: d}}", "source"),
        ("general: {pue: {value: two, low: 2, high: 2, unit: x, source: s, date: d}}", "value"),
        ("cards: {t4: {colour: {value: 2, low: 2, high: 2, unit: x, source: s, date: d}}}", "cards.t4.colour"),
        ("nosuch: 1", "nosuch"),
        ("[]", "mapping"),
    ],
)
def test_files_of_another_form_are_refused(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises((InvalidFile, InvalidInput), match=said):
        load_assumptions(path)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("pue", "0.9", "at least 1"),
        ("utilisation", "1.2", "at most 1"),
        ("years", "0", "above 0"),
        ("pue", "1:2", "low:middle:high"),
        ("pue", "nan", "low:middle:high"),
        ("pue", "3:2:1", "low <= value <= high"),
        ("nosuch", "1", "nosuch"),
        ("machine_usd", "-1", "0 to 1e"),
    ],
)
def test_figures_of_ones_own_are_checked(name: str, text: str, said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        load_assumptions(None, {name: text})


def test_a_card_of_which_nothing_is_known_says_how_to_say_it() -> None:
    with pytest.raises(InvalidInput, match=r"--assume cards\.v100-sxm2-16gb\.limit_watts=NUMBER"):
        costs(
            pregate.load_model("switch-mini-16"), pregate.load_hardware("v100-sxm2-16gb"), ["pregate"],
            input_tokens=4, output_tokens=2, batches=(1,),
        )  # fmt: skip


def test_the_choice_hangs_on_what_alone_is_in_doubt() -> None:
    report = asked({"engineering_days.pregate": "10:40:90", "electricity_usd_per_kwh": "0.3:0.36:0.4"}, basis="rent")
    assert list(report.drivers) == ["engineering_days.pregate"]
    assert report.drivers["engineering_days.pregate"] == pytest.approx(1)
    assert asked(basis="rent").drivers == {}


def test_nothing_is_paid_back_where_what_runs_now_does_not_fit() -> None:
    model, hw = pregate.load_model("mixtral-mini-8"), pregate.load_hardware("a100-sxm4-80gb", "streams")
    small = pregate.load_hardware("a100-sxm4-80gb", "streams", {"hbm_bytes": "1.0GB"})
    shape = {"input_tokens": 4, "output_tokens": 2, "batches": (1,), "assumptions": load_assumptions(None, SURE)}
    assert costs(model, hw, ["gpu_only", "pregate"], **shape).designs[1].payback_days is not None
    found = costs(model, small, ["gpu_only", "pregate"], **shape)
    assert [design.served.design for design in found.designs] == ["pregate"]
    assert found.designs[0].payback_days is None


def test_draws_are_within_their_ends() -> None:
    draws = Assumption(2, 1, 4, "1", "a test", "2026").draws(np.random.default_rng(0), 1000)
    assert 1 <= draws.min() < 1.3
    assert 3.5 < draws.max() <= 4
    assert Assumptions({"pue": Assumption(2, 2, 2, "1", "a test", "2026")})["pue"].draws(
        np.random.default_rng(0), 3
    ).tolist() == [2, 2, 2]


WORDS = (
    "cost",
    "switch-mini-16",
    "--hardware",
    "a100-sxm4-80gb",
    "--input-tokens",
    "8",
    "--output-tokens",
    "4",
    "--batches",
    "1",
)


def test_the_command_prints_designs_and_every_assumption(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    status, out, _ = run(*WORDS, "--policies", "on_demand,pregate", "--assume", "pue=1.25")
    assert status == 0
    assert "pue = 1.25; as given" in out
    assert "cheapest in" in out
    assert "switch-mini-16 on a100-sxm4-80gb, bought: 8 + 4 tokens" in out
    assert re.search(r"USD for a thousand requests: on_demand [\d.]+ \[[\d.]+, [\d.]+\], pregate ", out)
    assert "A change from on_demand has paid in: pregate never." in out  # a hundred thousand years are none
    assert "Left out" not in out
    status, out, _ = run(*WORDS, "--format", "json", "--policies", "pregate")
    document = json.loads(out)
    assert document["assumptions"]["electricity_usd_per_kwh"]["source"]
    assert len(document["designs"][0]["per_million_tokens"]) == 3


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--rate", "0"], "--rate 0: it must be above 0"),
        (["--basis", "steal"], "steal"),
        (["--assume", "pue"], "NAME=NUMBER"),
        (["--batches", "0"], "1 to 4096"),
        (["--max-tpot", "fast"], "fast"),
        (["--output-tokens", "1"], "2 or more"),
    ],
)
def test_wrong_words_are_told_in_one_line(run: Run, words: list[str], said: str) -> None:
    given = [word for word in WORDS if word not in ("--batches", "1")] if words[0] == "--batches" else list(WORDS)
    if words[0] == "--output-tokens":
        given = [*given[: given.index("--output-tokens")], *given[given.index("--output-tokens") + 2 :]]
    status, out, err = run(*given, *words)
    assert (status, out) == (2, "")
    assert said in err
    assert err.count("\n") == 1
