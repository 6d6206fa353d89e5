"""Figures and objectives as people type them: read where a word means one, told of where it may mean several."""

from __future__ import annotations

import pytest

from pregate.ask.choices import FIGURES, OBJECTIVES
from pregate.optima.goals import read_goals
from pregate.spellings.figure_words import figure_named
from simulator.explain.explained_metrics import METRICS
from tests.command_line import Run
from traces.errors import UnknownName


@pytest.mark.parametrize("known", [FIGURES, tuple(OBJECTIVES), METRICS])
def test_every_name_is_read_as_itself(known: tuple[str, ...]) -> None:
    for name in known:
        assert figure_named("figure", name, known) == name


@pytest.mark.parametrize(
    ("word", "figure", "objective"),
    [
        ("ttft", "ttft_s", "ttft"),
        ("TTFT_S", "ttft_s", "ttft"),
        ("tpot", "tpot_s", "tpot"),
        ("inter-token latency", "tpot_s", "tpot"),
        ("p99", "tpot_p99_s", None),
        ("throughput", "tokens_per_s", "throughput"),
        ("tokens/s", "tokens_per_s", "throughput"),
        ("price", "price_usd", None),
        ("VRAM", "peak_hbm_bytes", None),
        ("e2e", "makespan_s", "request"),
        ("latency", None, "request"),
    ],
)
def test_what_people_type_is_read_where_it_means_one(word: str, figure: str | None, objective: str | None) -> None:
    for known, meant in ((FIGURES, figure), (tuple(OBJECTIVES), objective)):
        if meant is None:
            with pytest.raises(UnknownName, match="unknown figure"):
                figure_named("figure", word, known)
        else:
            assert figure_named("figure", word, known) == meant


@pytest.mark.parametrize(
    ("word", "known", "told"),
    [
        ("cost", FIGURES, "did you mean 'price_usd' or 'usd_per_token_per_s'?"),
        ("latency", FIGURES, "did you mean 'ttft_s' or 'tpot_s' or 'makespan_s'?"),
        ("cost", tuple(OBJECTIVES), "`pregate cost` has money"),
        ("price_usd", METRICS, "`pregate cost` has money"),
        ("watts", FIGURES, "`pregate cost` has joules"),
        ("p99-ttft", FIGURES, "`pregate arrivals` has them"),
        ("requset", tuple(OBJECTIVES), "did you mean 'request'?"),
    ],
)
def test_what_means_several_or_none_is_told(word: str, known: tuple[str, ...], told: str) -> None:
    with pytest.raises(UnknownName) as refused:
        figure_named("objective", word, known)
    assert told in str(refused.value)
    assert "\n" not in str(refused.value)


def test_goals_are_named_as_they_are_here() -> None:
    goals = read_goals(["throughput:max", "price:min"], ["ttft<=2s", "vram<=24GB"])
    assert [one.field for one in goals.objectives] == ["tokens_per_s", "price_usd"]
    assert [one.field for one in goals.constraints] == ["ttft_s", "peak_hbm_bytes"]
    with pytest.raises(UnknownName, match="price_usd"):
        read_goals("cost:min", ())


def test_commands_read_them(run: Run) -> None:
    short = ("switch-base-8", "--hardware", "a100-sxm4-80gb", "--input-tokens", "8", "--output-tokens", "4")
    status, out, _ = run("optimize", *short, "--maximize", "throughput", "--subject-to", "vram<=40GB")
    assert status == 0
    assert "tokens_per_s" in out
    status, out, _ = run("explain", *short, "--metric", "tpot")
    assert (status, "tpot_s = " in out) == (0, True)
    status, _, err = run("optimize", *short, "--minimize", "cost")
    assert status == 2
    assert "did you mean 'price_usd' or 'usd_per_token_per_s'?" in err
    status, _, err = run("plan", *short, "--objective", "cost")
    assert status == 2
    assert "`pregate cost` has money" in err
