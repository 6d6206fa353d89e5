"""Which of several machines: ranked by the best design on each, with what a million tokens cost there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import pregate
from hwmodels.specs.spread import OF_HOST
from pregate.ask.timing.time_errors import interval_of_ratio
from pregate.card.display.one_screen import COLUMNS, LINES
from pregate.card.plan import plan
from pregate.economics.assumptions import load_assumptions
from pregate.economics.costing import costs
from pregate.economics.machine_ranking import MachineRanking, rank_machines
from tests.command_line import Run
from traces.errors import InvalidInput

LOAD = pregate.RequestLoad(24, 40, 1)
NAMES = ("rtx-3060-12gb", "h100-sxm", "rtx-4090")
SMALL = ("plan", "mixtral-mini-8", "--input-tokens", "24", "--output-tokens", "40", "--hardware")


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where answers lie that more than one of these tests asks for."""
    return tmp_path_factory.mktemp("schedules")


@pytest.fixture(scope="module")
def found(kept: Path) -> MachineRanking:
    return rank_machines("mixtral-mini-8", NAMES, LOAD, overrides={"hbm_bytes": "2GB"}, cache_dir=kept)


def test_each_machine_is_judged_as_its_own_card_judges_it(found: MachineRanking) -> None:
    for one in found.machines:
        card = plan("mixtral-mini-8", one.hardware, LOAD, overrides={"hbm_bytes": "2GB"})
        assert one.best.to_dict() == card.best.to_dict()
        assert [other.design for other in one.choice.ranked] == [other.design for other in card.choice.ranked]


@pytest.mark.parametrize("objective", ["request", "ttft", "tpot", "throughput"])
def test_the_best_machine_comes_first(objective: str, kept: Path) -> None:
    ranking = rank_machines("mixtral-mini-8", NAMES, LOAD, objective=objective, cache_dir=kept)
    in_order = [one.best.cost(objective) for one in ranking.machines]
    assert in_order == sorted(in_order)
    assert {one.hardware for one in ranking.machines} == set(NAMES)


def test_it_abstains_where_the_interval_of_two_machines_holds_1(found: MachineRanking) -> None:
    for one in found.machines[1:]:
        times, (low, high) = found.worse(one)
        assert low < times < high
        here, there = found.best.best.request, one.best.request
        assert times == pytest.approx(there.value / here.value)
        assert (one in found.rivals) == (low <= 1 <= high)
    assert found.verdict().startswith("No verdict: ") == bool(found.rivals)


def test_one_design_on_two_machines_is_not_as_sure_as_on_one() -> None:
    """`plan` knows designs of one stack to share their errors; machines share none."""
    ranking = rank_machines("mixtral-mini-8", ("rtx-3090", "rtx-4090"), LOAD, stacks=["llama-cpp"])
    first, second = ranking.machines
    assert first.best.design == second.best.design
    _, (low, high) = ranking.worse(second)
    assert high > low * 1.5


def test_two_cards_beside_one_host_share_what_the_host_is_off_by() -> None:
    """What cores read of DRAM is one number there: the ratio depends on the difference alone; on two hosts on both."""
    asked = {
        "one host": rank_machines("mixtral-mini-8", ("rtx-4080", "rtx-4090"), LOAD, stacks=["llama-cpp"],
                                  overrides={"hbm_bytes": "1.2GB", "host": "ryzen-9950x"}),
        "two": rank_machines("mixtral-mini-8", ("rtx-4080 + 9950X", "rtx-4090 + 7950X"), LOAD, stacks=["llama-cpp"],
                             overrides={"hbm_bytes": "1.2GB"}),
    }  # fmt: skip
    reach = {}
    for name, ranking in asked.items():
        first, second = ranking.machines
        errors = [one.best.request.error for one in (first, second)]
        assert all(abs(one.depends["stack.cpu_efficiency"]) > 0.3 for one in errors)
        times, (low, high) = ranking.worse(second)
        assert low < times < high
        reach[name] = high / low
        alike = OF_HOST if name == "one host" else ()
        assert (low, high) == pytest.approx(interval_of_ratio(times, *errors[::-1], shared=False, alike=alike))
    assert reach["one host"] < 0.8 * reach["two"]


def test_a_million_tokens_cost_what_cost_says_of_that_design(found: MachineRanking) -> None:
    """`costs` times the requests itself, with all tokens of its own schedules."""
    machine = next(one for one in found.machines if one.hardware == "rtx-4090")
    hw = machine.best.planned.hw
    report = costs(
        pregate.load_model("mixtral-mini-8"), hw, [machine.best.design.policy], input_tokens=24, output_tokens=40,
        batches=(1,),
    )  # fmt: skip
    assert machine.per_million_tokens is not None
    assert machine.per_million_tokens.value == pytest.approx(report.designs[0].per_million_tokens.value, rel=0.02)


def test_the_cheapest_is_so_in_a_share_of_all_draws(found: MachineRanking) -> None:
    shares = [one.cheapest_in for one in found.machines if one.per_million_tokens is not None]
    assert len(shares) > 1
    assert sum(shares) == pytest.approx(1.0, abs=1e-9)
    cheapest = found.cheapest
    assert cheapest is not None
    assert cheapest.hardware in found.cost_verdict()


def test_a_price_of_ones_own_moves_the_cost_and_not_the_order(found: MachineRanking, kept: Path) -> None:
    dear = load_assumptions(None, {"cards.rtx-4090.price_usd": "90000"})
    held = {"hbm_bytes": "2GB"}
    again = rank_machines("mixtral-mini-8", NAMES, LOAD, overrides=held, assumptions=dear, cache_dir=kept)
    assert [one.hardware for one in again.machines] == [one.hardware for one in found.machines]
    before, after = (
        next(one.per_million_tokens for one in ranking.machines if one.hardware == "rtx-4090")
        for ranking in (found, again)
    )
    assert before is not None
    assert after is not None
    assert after.value > 2 * before.value
    assert again.assumed["cards.rtx-4090.price_usd"].source == "as given"


def test_a_machine_without_a_price_is_ranked_and_its_cost_says_what_is_lacking() -> None:
    ranking = rank_machines("mixtral-mini-8", ("rtx-2080", "rtx-4090"), LOAD)
    one = next(one for one in ranking.machines if one.hardware == "rtx-2080")
    assert one.per_million_tokens is None
    assert "--assume cards.rtx-2080." in one.lacks
    assert "--assume" in ranking.text()


def test_a_machine_that_the_model_does_not_fit_is_named_with_the_reason() -> None:
    ranking = rank_machines("mixtral-8x7b", ("rtx-2080", "h100-sxm"), LOAD, overrides={"host.dram_bytes": "64GB"})
    assert [one.hardware for one in ranking.machines] == ["h100-sxm"]
    [(name, reason)] = ranking.unfit
    assert name == "rtx-2080"
    assert "64" in reason
    assert "No design fits rtx-2080" in ranking.text()
    assert ranking.verdict() == "h100-sxm is the only machine that mixtral-8x7b fits."
    with pytest.raises(InvalidInput, match="no design fits"):
        rank_machines("deepseek-v3", ("rtx-4090", "rtx-2080"), LOAD)


@pytest.mark.parametrize(("n", "batch"), [(12, 1), (2, 1), (6, 64)])
def test_it_is_one_screen_whatever_the_number_of_machines(n: int, batch: int, kept: Path) -> None:
    names = (
        "rtx-3080-mobile-16gb", "a100-sxm4-80gb", "apple-m3-ultra", "h100-sxm", "strix-halo", "mi300x", "rtx-3060-12gb",
        "l40s", "rtx-2080", "dgx-spark", "t4", "b200",
    )[:n]  # fmt: skip
    text = rank_machines("mixtral-mini-8", names, pregate.RequestLoad(24, 40, batch), cache_dir=kept).text()
    lines = text.splitlines()
    assert len(lines) <= LINES, text
    assert max(map(len, lines)) <= COLUMNS, text
    assert " ..." not in text, text
    assert "--hardware" in lines[-1]
    assert "TTFT" in text
    assert "USD/M" in text


def test_its_data_and_its_html_say_the_same(found: MachineRanking) -> None:
    data = json.loads(json.dumps(found.to_dict()))
    shown, marked = found._repr_html_(), found.markdown()
    for one, row in zip(data["machines"], found.rows(), strict=True):
        assert one["hardware"] == row["hardware"]
        assert one["hardware"] in shown
        assert one["hardware"] in marked
    assert data["verdict"] == found.verdict()


def test_the_command_line_ranks_machines_by_comma(run: Run) -> None:
    status, out, _ = run(*SMALL, "rtx-4090,h100-sxm")
    assert status == 0
    assert "h100-sxm" in out
    assert "rtx-4090" in out
    status, out, _ = run(*SMALL, "rtx-4090,h100-sxm", "--format", "json", "--assume", "utilisation=0.9")
    assert json.loads(out)["assumptions"]["utilisation"]["value"] == 0.9
    status, out, _ = run(*SMALL, "rtx-4090,h100-sxm", "--details")
    assert "utilisation = " in out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("rtx-4090,rtx-4090",), "has rtx-4090 twice"),
        (("rtx-4090,",), "has an empty place"),
        (("rtx-4090,rtx-4091",), "unknown hardware 'rtx-4091'"),
        (("rtx-4090,h100-sxm", "--now", "llama-cpp/gpu_only"), "--now is what runs on one machine"),
        (("rtx-4090", "--assume", "pue=1.2"), "--basis and --assume are of several machines"),
        (("rtx-4090", "--dram", "lots"), "--dram"),
        (("rtx-4090", "--dram", "96GB", "--set", "host.dram_bytes=64GB"), "host.dram_bytes is given twice"),
        (("rtx-4090,h100-sxm", "--basis", "steal"), "unknown basis 'steal'"),
        (("rtx-4090,h100-sxm", "--assume", "pue"), "is not NAME=NUMBER"),
    ],
)
def test_what_cannot_be_asked_is_one_line(run: Run, words: tuple[str, ...], told: str) -> None:
    status, _, err = run(*SMALL, *words)
    assert status == 2
    assert told in err
    assert err.count("\n") == 1


def test_a_command_of_one_machine_says_who_takes_several(run: Run) -> None:
    status, _, err = run("cost", "mixtral-mini-8", "--hardware", "rtx-4090,h100-sxm")
    assert status == 2
    assert "ask once for each, or have `pregate plan` rank them" in err


def test_the_memory_of_the_host_is_what_was_said(run: Run) -> None:
    status, _, err = run("plan", "deepseek-v3", "--hardware", "rtx-4090", "--dram", "96GB", "--formats", "all=q4_k_m")
    assert status == 2
    assert "96.0 GB" in err
    assert "--formats" not in err  # no format of ours makes it small enough
    assert "--dram 512GB" in err  # with one layer in HBM 386.7 GB are on the host


def test_a_ledger_keeps_the_predictions_of_every_machine(run: Run, tmp_path: Path) -> None:
    ledger = tmp_path / "ledger.jsonl"
    status, _, _ = run(*SMALL, "rtx-4090,h100-sxm", "--ledger", str(ledger))
    assert status == 0
    text = ledger.read_text()
    assert "rtx-4090, desktop-ddr5" in text
    assert "h100-sxm, " in text
