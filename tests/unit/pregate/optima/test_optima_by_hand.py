"""What is best of six candidates whose figures are known, what constraints cost, and what is said of it."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest

from pregate.optima.candidates import Candidates
from pregate.optima.goals import Constraint, Goals, Objective, figure_names, read_goals, shown, unit
from pregate.optima.optimum import Optimum, Shortfall, Toll
from pregate.optima.pareto import pareto_front
from pregate.optima.scoring import optimum_of
from pregate.sweeps.axes import Axis
from traces.errors import InvalidInput

NAN = math.nan
FIGURES: dict[str, list[Any]] = {
    "fits": [True, True, True, True, False, True],
    "tokens_per_s": [10.0, 20.0, 20.0, 5.0, NAN, 20.0],
    "price_usd": [100.0, 200.0, 150.0, 50.0, 10.0, 150.0],
    "tpot_s": [0.1, 0.2, 0.3, 0.05, NAN, 0.3],
    "peak_hbm_bytes": [1e9, 2e9, 3e9, 4e9, NAN, 3e9],
    "needed_bytes": [NAN, NAN, NAN, NAN, 7e9, NAN],
    "memory": ["", "", "", "", "HBM", ""],
    "calibration": ["claimed", "fitted", "claimed", "fitted", "", "claimed"],
}
AXES = (
    Axis("hardware", "hardware", np.array(["x", "y", "y", "x", "z", "x"]), ""),
    Axis("batch", "batch", np.arange(1.0, 7.0), "1"),
)


def of(figures: dict[str, list[Any]] | None = None, axes: tuple[Axis, ...] = AXES, **more: list[Any]) -> Candidates:
    columns = {name: np.array(column) for name, column in ((FIGURES if figures is None else figures) | more).items()}
    return Candidates(("a", "b"), np.array([0, 0, 1, 1, 1, 0]), axes, columns, {"no such batch": 1234})


def best(objectives: Any, constraints: Any = (), found: Candidates | None = None, **more: Any) -> Optimum:
    given: dict[str, Any] = {"method": "exhaustive", "left_out": (), **more}
    return optimum_of(found or of(), read_goals(objectives, constraints), model="m", hardware="x, y, z", **given)


def batches(found: Optimum) -> list[int]:
    return [row["settings"]["batch"] for row in found.front]


BOTH = ["price_usd:min", "tokens_per_s:max"]


def test_the_front_is_of_what_fits_and_of_equal_ones_the_first() -> None:
    found = best(BOTH)
    assert batches(found) == [4, 1, 3]
    assert found.best is found.front[0]
    assert (found.n_evaluated, found.n_fits, found.n_feasible) == (6, 5, 5)
    assert found.calibration == "fitted, claimed"
    assert found.tolls == found.why_infeasible == ()
    assert found.front[0] == {
        "policy": "b", "settings": {"hardware": "x", "batch": 4},
        "fields": dict.fromkeys(figure_names()) | {
            "tokens_per_s": 5.0, "price_usd": 50.0, "tpot_s": 0.05, "peak_hbm_bytes": 4e9, "calibration": "fitted"
        },
    }  # fmt: skip


def test_of_equal_objectives_the_fastest_counts_then_the_cheapest_then_the_first() -> None:
    equal = of(hit_rate=[0.5] * 6)
    assert batches(best("hit_rate:max", found=equal)) == [3]  # 20 tokens/s for 150, before its equal
    dearer = of(hit_rate=[0.5] * 6, price_usd=[NAN, 200.0, NAN, 50.0, 10.0, 250.0])
    assert batches(best("hit_rate:max", found=dearer)) == [2]  # a price that is not known is above all
    assert batches(best("tokens_per_s:max")) == [3]


def test_what_an_objective_has_not_is_not_judged() -> None:
    found = best("price_usd:min", found=of(price_usd=[NAN, 200.0, 150.0, NAN, 10.0, 150.0]))
    assert batches(found) == [3]
    assert found.n_feasible == 3


def test_what_each_constraint_costs_each_objective() -> None:
    found = best(BOTH, ["tokens_per_s>=10", "tpot_s<=0.1"])
    assert batches(found) == [1]
    rows = [found.candidates.row(i) for i in range(6)]
    cheapest, fastest = found.goals.objectives
    assert found.tolls == (
        Toll("tokens_per_s>=10", cheapest, 100.0, 50.0, rows[3]), Toll("tpot_s<=0.1", fastest, 10.0, 20.0, rows[2]),
    )  # fmt: skip
    assert found.tolls[0].to_dict() == {
        "constraint": "tokens_per_s>=10", "objective": "price_usd:min", "with_it": 100.0, "without_it": 50.0,
        "row": rows[3],
    }  # fmt: skip
    assert found.why_infeasible == ()


def test_how_near_each_constraint_came_and_what_relaxing_it_alone_takes() -> None:
    found = best(BOTH, ["tokens_per_s>=30", "price_usd<=120"])
    rows = [found.candidates.row(i) for i in range(6)]
    assert (found.front, found.best, found.tolls, found.n_feasible) == ((), None, (), 0)
    assert found.why_infeasible == (
        Shortfall("tokens_per_s>=30", "tokens_per_s", 20.0, rows[1], 10.0),
        Shortfall("price_usd<=120", "price_usd", 50.0, rows[3], None),
    )  # fmt: skip
    assert found.why_infeasible[1].to_dict() == {
        "constraint": "price_usd<=120", "field": "price_usd", "nearest": 50.0, "row": rows[3], "alone": None,
    }  # fmt: skip
    assert found.verdict() == (
        "Nothing meets every constraint. tokens_per_s>=30: the nearest is 20 tokens/s (a on y, batch 2); relaxing it "
        "alone to about 10 tokens/s is enough. price_usd<=120: the nearest is $50 (b on x, batch 4). All 6 candidates, "
        "5 fit, 0 meet the constraints. 1,234 have no figures: no such batch."
    )


NOTES = "All 6 candidates, 5 fit, 5 meet the constraints. 1,234 have no figures: no such batch."


def test_the_verdict_names_both_ends_of_the_front() -> None:
    assert best(BOTH).verdict() == (
        "Lowest price_usd: $50, 5 tokens/s with b on x, batch 4. The Pareto front has 3 points, the last one $150, 20 "
        f"tokens/s with b on y, batch 3. {NOTES}"
    )
    assert best("tokens_per_s:max").verdict() == (
        f"Highest tokens_per_s: 20 tokens/s, $150 with b on y, batch 3. {NOTES}"
    )
    two = best(["price_usd:min", "tokens_per_s:max"], "tokens_per_s>=10")
    assert "The Pareto front has 2 points, the last one $150" in two.verdict()
    without = of(price_usd=[NAN] * 6)
    assert best("tpot_s:min", found=without).verdict() == (
        f"Lowest tpot_s: 50 ms, 5 tokens/s with b on x, batch 4. {NOTES}"
    )


def test_the_verdict_says_what_constraints_cost() -> None:
    found = best(["price_usd:min", "tokens_per_s:max"], ["tokens_per_s>=10", "tpot_s<=0.1"])
    assert found.verdict().startswith(
        "Lowest price_usd: $100, 10 tokens/s with a on x, batch 1. Without tokens_per_s>=10 the lowest price_usd would "
        "be $50, not $100 (b on x, batch 4). Without tpot_s<=0.1 the highest tokens_per_s would be 20 tokens/s, not 10 "
        "tokens/s (b on y, batch 3). All 6 candidates, 5 fit, 1 meet"
    )
    assert "fit, 5 meet the constraints." in best("price_usd:min", "tpot_s<=1").verdict()
    assert "batch 4. No constraint costs anything. All 6" in best("price_usd:min", "tpot_s<=1").verdict()
    assert "No constraint" not in best("price_usd:min").verdict()


def test_where_nothing_fits_the_least_memory_is_told() -> None:
    nothing = of(
        fits=[False] * 6, needed_bytes=[9e9, NAN, 3e9, 8e9, 7e9, 4e9], memory=["HBM", "", "DRAM", "HBM", "HBM", "HBM"],
        price_usd=[NAN] * 6,
    )  # fmt: skip
    found = best("price_usd:min", "tpot_s<=1", found=nothing)
    assert found.verdict().startswith("Nothing fits: the least that is needed is 3 GB of DRAM, by b on y, batch 3. All")
    assert (found.n_fits, found.why_infeasible, found.calibration) == (0, (), "")
    unknown = of(fits=[False] * 6, needed_bytes=[NAN] * 6)
    assert (
        best("price_usd:min", found=unknown).verdict().startswith("Nothing can be evaluated. All 6 candidates, 0 fit")
    )


def test_the_notes_say_how_it_went_and_what_had_no_part() -> None:
    found = best("price_usd:min", method="optuna", left_out=list("abcde"), told_apart=["oracle knows."])
    assert found.verdict().endswith(
        "Optuna's choice of 6 candidates, 5 fit, 5 meet the constraints. Left out for want of a price: a, b, c, d, e. "
        "oracle knows. 1,234 have no figures: no such batch."
    )
    assert (found.left_out, found.told_apart) == (tuple("abcde"), ("oracle knows.",))
    one_more = best("price_usd:min", left_out=list("abcdef"))
    assert "Left out for want of a price: a, b, c, d, e and 1 more (--format json has them)." in one_more.verdict()
    more = best("price_usd:min", left_out=list("abcdefg"))
    assert "Left out for want of a price: a, b, c, d, e and 2 more (--format json has them)." in more.verdict()


def test_settings_are_shown_in_units_that_people_read() -> None:
    axes = (
        Axis("link", "link.h2d_bytes_per_s", np.array([32e9] * 6), "B/s"),
        Axis("hbm_bytes", "accelerator.hbm_bytes", np.array([24e9] * 6), "B"),
        Axis("batch", "batch", np.array([1234.0] * 6), "1"),
        Axis("latency", "storage.read_latency_s", np.array([8e-5] * 6), "s"),
        Axis("cache_ratio", "cache_ratio", np.array([0.123456] * 6), "1"),
    )  # fmt: skip
    found = best("price_usd:min", found=of(axes=axes))
    assert found.best is not None
    assert found.shown_settings(found.best) == {
        "link": "32 GB/s", "hbm_bytes": "24 GB", "batch": "1,234", "latency": "80 us", "cache_ratio": "0.1235"
    }  # fmt: skip
    assert found.describe(found.best) == (
        "b, link 32 GB/s, hbm_bytes 24 GB, batch 1,234, latency 80 us, cache_ratio 0.1235"
    )


def test_what_was_found_is_written_whole() -> None:
    found = best(BOTH, "tokens_per_s>=10", left_out=["w"], told_apart=["oracle knows."])
    written = found.to_dict()
    assert written == json.loads(json.dumps(written)) == {
        "model": "m", "hardware": "x, y, z", "method": "exhaustive", "objectives": BOTH,
        "constraints": ["tokens_per_s>=10"], "best": found.best, "front": list(found.front),
        "tolls": [toll.to_dict() for toll in found.tolls], "why_infeasible": [], "n_evaluated": 6, "n_fits": 5,
        "n_feasible": 4, "left_out": ["w"], "told_apart": ["oracle knows."], "refused": {"no such batch": 1234},
        "calibration": "claimed", "verdict": found.verdict(),
    }  # fmt: skip
    missed = best(BOTH, "tokens_per_s>=30").to_dict()
    assert (missed["best"], missed["why_infeasible"][0]["nearest"]) == (None, 20.0)
    first, *_ = found.rows()
    assert list(first)[:3] == ["policy", "hardware", "batch"]
    assert (first["policy"], first["hardware"], first["batch"], first["tokens_per_s"]) == ("a", "x", 1, 10.0)
    assert found.to_dataframe()["batch"].tolist() == [1, 3]
    assert repr(found) == f"Optimum(m on x, y, z: {found.verdict()})"
    shown_there = found._repr_html_()
    assert "<th>tokens_per_s</th>" in shown_there
    assert "Lowest price_usd" in shown_there


def test_goals_are_read_to_what_they_say() -> None:
    found = read_goals([" price_usd:min ", "tokens_per_s:max"], [" tpot_s <= 50ms ", "hit_rate>=0.5"])
    assert found == Goals(
        (Objective("price_usd", False), Objective("tokens_per_s", True)),
        (Constraint("tpot_s", False, 0.05, "tpot_s <= 50ms"), Constraint("hit_rate", True, 0.5, "hit_rate>=0.5")),
    )
    assert [objective.text for objective in found.objectives] == ["price_usd:min", "tokens_per_s:max"]
    assert read_goals("tpot_s:min", "tpot_s<=0").constraints[0].limit == 0
    assert [unit(name) for name in ("tpot_s", "peak_hbm_bytes", "tokens_per_s", "price_usd", "hit_rate")] == [
        "s", "B", "1/s", "USD", "1"
    ]  # fmt: skip
    assert shown("usd_per_token_per_s", 1234.5) == "$1,234 a token/s"
    assert shown("hit_rate", 0.123456) == "0.1235"


@pytest.mark.parametrize(
    ("objectives", "constraints", "told"),
    [
        ("tpot_s", (), "objective 'tpot_s': write tpot_s:min or tpot_s:max"),
        ("tpot_s:min", "tpot_s=1", "constraint 'tpot_s=1': write FIGURE<=NUMBER"),
        ("tpot_s:min", "tpot_s<=-1", "constraint 'tpot_s<=-1': no figure is below 0"),
        ("tpot_s:min", "tpot_s<=1GB", "constraint 'tpot_s<=1GB': "),
        ("tpot_s:min", "price_usd<=1GB", "constraint 'price_usd<=1GB': "),
        ("tpot_s:min", "peak_hbm_bytes<=1ms", "constraint 'peak_hbm_bytes<=1ms': "),
        ("tpot_s:min", "hit_rate<=1ms", "constraint 'hit_rate<=1ms': "),
        (["tpot_s:min", "price_usd:min", "tpot_s:max"], (), "objective tpot_s is given twice: leave one out"),
    ],
)  # fmt: skip
def test_goals_that_are_none_are_refused(objectives: Any, constraints: Any, told: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        read_goals(objectives, constraints)
    assert str(refused.value).startswith(told)


def test_fronts_of_one_two_and_three_costs_by_hand() -> None:
    for costs, front in (
        ([[2.0], [1.0], [1.0], [3.0]], [1]),
        ([[2.0, 2.0], [1.0, 3.0], [3.0, 1.0], [2.0, 2.0], [2.0, 3.0], [3.0, 2.0]], [1, 0, 2]),
        ([[1.0, 1.0], [1.0, 2.0], [0.0, 1.0]], [2]),
        ([[1.0, 2.0, 3.0], [1.0, 3.0, 2.0], [2.0, 2.0, 3.0], [0.0, 9.0, 9.0], [1.0, 2.0, 3.0]], [3, 0, 1]),
    ):
        assert pareto_front(np.array(costs)).tolist() == front
    assert pareto_front(np.zeros((0, 2))).tolist() == []
    assert pareto_front(np.zeros((0, 3))).tolist() == []
    assert pareto_front(np.zeros((0, 3))).dtype == np.int64
