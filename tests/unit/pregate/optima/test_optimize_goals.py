"""Objectives and constraints as text: units, signs, and mistakes answered in one line."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from numpy.typing import NDArray

from pregate.ask.simulation import SimulationResult
from pregate.optima.goals import figure_names, read_goals, shown
from traces.errors import InvalidInput


def test_every_number_of_a_result_can_be_a_goal() -> None:
    numbers = {field.name for field in dataclasses.fields(SimulationResult) if field.type in ("float", "int")}
    assert {"tokens_per_s", "tpot_p99_s", "peak_hbm_bytes", "h2d_bytes", "hit_rate"} <= numbers
    assert set(figure_names()) == numbers | {"price_usd", "usd_per_token_per_s"}


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        ("tpot_p99_s<=50ms", 0.05),
        ("tpot_p99_s <= 0.05", 0.05),
        ("tokens_per_s>=20", 20.0),
        ("peak_hbm_bytes<=24GiB", 24 * 2.0**30),
        ("price_usd<=2000", 2000.0),
        ("price_usd<=2000USD", 2000.0),
        ("usd_per_token_per_s<=3.5", 3.5),
        ("hit_rate>=0.9", 0.9),
    ],
)
def test_limits_are_si_whatever_they_are_written_in(text: str, limit: float) -> None:
    (constraint,) = read_goals("tokens_per_s:max", text).constraints
    assert constraint.limit == pytest.approx(limit, rel=1e-15)
    assert constraint.at_least == (">=" in text)
    assert constraint.text == text


def test_a_limit_that_is_just_reached_is_met_and_a_missing_figure_never_is() -> None:
    goals = read_goals("tokens_per_s:max", ["tokens_per_s>=2", "tpot_s<=2"])

    def values(name: str) -> NDArray[np.float64]:
        return np.array([1.0, 2.0, 3.0, np.nan])

    assert [met.tolist() for met in goals.met(values)] == [[False, True, True, False], [True, True, False, False]]
    assert [constraint.excess(values)[:3].tolist() for constraint in goals.constraints] == [[1, 0, -1], [-1, 0, 1]]


def test_what_is_maximised_is_a_negative_cost() -> None:
    goals = read_goals(["tokens_per_s:max", "tpot_s:min"], ())
    assert goals.costs(lambda name: np.array([1.0, 2.0])).tolist() == [[-1, 1], [-2, 2]]


@pytest.mark.parametrize(
    ("objectives", "constraints", "needed"),
    [
        (["tokens_per_s:max"], [], False),
        (["price_usd:min"], [], True),
        (["tokens_per_s:max"], ["price_usd<=2000"], True),
        (["usd_per_token_per_s:min"], ["tpot_s<=1"], True),
    ],
)
def test_prices_are_needed_where_a_goal_is_of_one(objectives: list[str], constraints: list[str], needed: bool) -> None:
    assert read_goals(objectives, constraints).need_prices == needed


@pytest.mark.parametrize(
    ("objectives", "constraints", "message"),
    [
        ([], [], "no objective: give at least one"),
        (["tokens_per_s"], [], "write tokens_per_s:min or tokens_per_s:max"),
        (["tokens_per_s:maximum"], [], "write tokens_per_s:min"),
        (["token_per_s:max"], [], "did you mean 'tokens_per_s'"),
        (["tpot_s:min", "tpot_s:max"], [], "given twice"),
        (["binding:min"], [], "unknown objective 'binding'"),
        (["tpot_s:min"], ["tpot_s=50ms"], "write FIGURE<=NUMBER"),
        (["tpot_s:min"], ["tpot_s<50ms"], "write FIGURE<=NUMBER"),
        (["tpot_s:min"], ["tpot_s<=50GB"], "constraint 'tpot_s<=50GB': .*unit of size"),
        (["tpot_s:min"], ["tpot_s<=fast"], "constraint 'tpot_s<=fast': .*not a number"),
        (["tpot_s:min"], ["tpots<=1"], "did you mean 'tpot_s'"),
        (["tpot_s:min"], ["hardware<=1"], "unknown constraint on 'hardware'"),
    ],
)
def test_mistakes_are_answered_in_one_line(objectives: list[str], constraints: list[str], message: str) -> None:
    with pytest.raises(InvalidInput, match=message) as caught:
        read_goals(objectives, constraints)
    assert "\n" not in str(caught.value)


def test_figures_are_shown_in_units_people_read() -> None:
    told = {
        "tpot_p99_s": ("0.0215", "21.5 ms"),
        "peak_hbm_bytes": ("4.52e9", "4.52 GB"),
        "price_usd": ("15000", "$15,000"),
        "tokens_per_s": ("140.94", "140.9 tokens/s"),
        "hit_rate": ("0.25", "0.25"),
        "usd_per_token_per_s": ("2.5", "$2.5 a token/s"),
    }
    assert {name: shown(name, float(value)) for name, (value, _) in told.items()} == {
        name: text for name, (_, text) in told.items()
    }
