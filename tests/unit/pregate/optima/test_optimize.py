"""The search: exhaustive is what a loop over `simulate` finds, Optuna finds it too, prices are never guessed."""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

import pregate
from hwmodels.specs.machine_files import hardware_names, load_machine
from tests.unit.pregate.optima.searches import AXES, MACHINES, POLICIES, Search, found_by
from traces.errors import InvalidInput


@pytest.fixture(scope="module")
def search() -> Search:
    return found_by


@pytest.fixture(scope="module")
def simulated() -> list[dict[str, Any]]:
    """Every candidate by hand: a loop over `pregate.simulate` on SimPy."""
    model = pregate.load_model("switch-base-8")
    rows = []
    for policy, machine, batch, ratio in itertools.product(POLICIES, *AXES.values()):
        hw = pregate.load_hardware(machine)
        trace = pregate.synthesize(model, 16, 6, batch)
        cache = pregate.Cache("lru", ratio=ratio) if ratio else None
        try:
            result = pregate.simulate(model, hw, trace, policy, cache=cache)
        except pregate.CapacityExceeded:
            continue
        settings = {"hardware": machine, "batch": batch, "cache_ratio": ratio}
        price = {"price_usd": hw.machine.accelerator.price_usd}
        rows.append({"policy": policy, "settings": settings, "fields": result.to_dict() | price})
    return rows


def by_hand(
    rows: list[dict[str, Any]], objectives: list[tuple[str, int]], meets: Callable[[dict[str, Any]], bool]
) -> list[tuple[float, ...]]:
    """Objectives (sign +1 to minimise) of every row that meets the constraints and that none dominates, ascending."""
    costs = [tuple(sign * row["fields"][name] for name, sign in objectives) for row in rows if meets(row["fields"])]
    return sorted({a for a in costs if not any(b != a and all(x <= y for x, y in zip(b, a, strict=True))
                                               for b in costs)})  # fmt: skip


@pytest.mark.parametrize(
    ("objectives", "constraints"),
    [
        ([("price_usd", 1), ("tokens_per_s", -1)], []),
        ([("price_usd", 1), ("tpot_p99_s", 1)], [("tokens_per_s", -1, 250.0)]),
        ([("tokens_per_s", -1), ("peak_hbm_bytes", 1), ("h2d_bytes", 1)], [("price_usd", 1, 2000.0)]),
        ([("moe_layer_latency_s", 1)], [("peak_hbm_bytes", 1, 1.6e9), ("tokens_per_s", -1, 100.0)]),
    ],
)
def test_exhaustive_is_what_a_loop_over_simulate_finds(
    search: Search, simulated: list[dict[str, Any]],
    objectives: list[tuple[str, int]], constraints: list[tuple[str, int, float]],
) -> None:  # fmt: skip
    found = search(
        objectives=[f"{name}:{'min' if sign > 0 else 'max'}" for name, sign in objectives],
        constraints=[f"{name}{'<=' if sign > 0 else '>='}{limit!r}" for name, sign, limit in constraints],
    )

    def meets(fields: dict[str, Any]) -> bool:
        return all(sign * fields[name] <= sign * limit for name, sign, limit in constraints)

    assert found.method == "exhaustive"
    assert found.n_evaluated == len(POLICIES) * 12
    assert found.n_fits == len(simulated)
    assert found.n_feasible == sum(meets(row["fields"]) for row in simulated) > 0
    front = [tuple(sign * row["fields"][name] for name, sign in objectives) for row in found.front]
    assert front == by_hand(simulated, objectives, meets)
    assert found.best == found.front[0]
    for row in found.front:
        same = next(r for r in simulated if (r["policy"], r["settings"]) == (row["policy"], row["settings"]))
        known = {name: value for name, value in same["fields"].items() if name in row["fields"]}
        assert len(known) >= 17
        assert {name: row["fields"][name] for name in known} == {
            name: value if isinstance(value, str) else pytest.approx(value, rel=1e-14, abs=0)  # sums in another order
            for name, value in known.items()
        }


def test_what_does_not_fit_is_never_feasible_however_cheap(search: Search) -> None:
    found = search(
        {"hbm_bytes": ["1GB", "12GB"]}, hw="rtx-3060-12gb", policies=["gpu_only"], objectives="price_usd:min",
        constraints="price_usd<=2000",
    )  # fmt: skip
    assert (found.n_evaluated, found.n_fits, found.n_feasible) == (2, 1, 1)
    assert found.best is not None
    assert found.best["settings"] == {"hbm_bytes": 12 * 10**9}


def test_equal_objectives_are_decided_by_tokens_then_price_then_order(search: Search) -> None:
    found = search(objectives="price_usd:min")
    rates = [row["fields"]["tokens_per_s"] for row in search(objectives=["price_usd:min", "tokens_per_s:max"]).front]
    assert len(found.front) == 1
    assert found.front[0]["settings"]["hardware"] == "rtx-3060-12gb"
    assert found.front[0]["fields"]["tokens_per_s"] == rates[0]
    everywhere = search(objectives="n_output_tokens:min")  # one a batch, whatever the machine
    fastest = search({**AXES, "batch": [1]}, objectives="tokens_per_s:max")
    assert everywhere.best == fastest.best
    assert everywhere.best is not None
    assert everywhere.best["policy"] == "gpu_only"
    assert everywhere.best["settings"]["cache_ratio"] == 0.0  # which gpu_only does not have: the first declared


def test_machines_without_a_price_are_left_out_by_name(search: Search) -> None:
    assert load_machine("a10").accelerator.price_usd is None
    axes = {"hardware": ["a10", "rtx-4090", "v100-sxm2-16gb"]}
    found = search(axes)
    assert found.left_out == ("a10", "v100-sxm2-16gb")
    assert found.hardware == "rtx-4090"
    assert {row["settings"]["hardware"] for row in found.front} == {"rtx-4090"}
    assert "Left out for want of a price: a10, v100-sxm2-16gb." in found.verdict()
    assert found.to_dict()["left_out"] == ["a10", "v100-sxm2-16gb"]
    free = search(axes, objectives="tokens_per_s:max")
    assert (free.left_out, free.n_evaluated) == ((), 3 * len(POLICIES))


def test_every_machine_with_a_price_is_priced_as_its_file_says(search: Search) -> None:
    found = search({"hardware": list(hardware_names())}, policies=["pregate"])
    prices = {name: load_machine(name).accelerator.price_usd for name in hardware_names()}
    assert set(found.left_out) == {name for name, price in prices.items() if price is None}
    first, n_more = ", ".join(found.left_out[:5]), len(found.left_out) - 5
    assert f"Left out for want of a price: {first} and {n_more} more (--format json has them)." in found.verdict()
    machines = found.candidates.axes[0].values.tolist()
    assert found.candidates.values("price_usd").tolist() == [prices[name] for name in machines]


def test_a_price_is_of_the_accelerator_that_an_axis_names_or_sets(search: Search) -> None:
    swapped = search({"accelerator": ["rtx-4090", "l4", "a10"]}, hw="rtx-3090", objectives="tokens_per_s:max")
    assert swapped.candidates.values("price_usd")[:2].tolist() == [1599, 2500]
    assert np.isnan(swapped.candidates.values("price_usd")[2])
    row = swapped.candidates.row(2)
    assert (row["settings"]["accelerator"], row["fields"]["price_usd"]) == ("a10", None)
    stated = search({"accelerator.price_usd": [700.0, 500.0]}, hw="a10", objectives="usd_per_token_per_s:min")
    assert stated.left_out == ()
    assert stated.best is not None
    figures = stated.best["fields"]
    assert figures["price_usd"] == 500
    assert figures["usd_per_token_per_s"] == 500 / figures["tokens_per_s"]


def test_a_machine_costs_all_its_cards(search: Search) -> None:
    names = ["rtx-4090", "2x rtx-4090", "a10"]
    found = search({"hardware": names}, policies=["gpu_only"], objectives="tokens_per_s:max")
    assert found.candidates.values("price_usd")[:2].tolist() == [1599, 2 * 1599]
    assert np.isnan(found.candidates.values("price_usd")[2])
    stated = search({"hardware": names[:2], "accelerator.price_usd": [1000.0, 1500.0]}, policies=["gpu_only"])
    assert stated.candidates.values("price_usd").tolist() == [1000, 1500, 2000, 3000]
    numbered = search({"accelerator.n_cards": [1, 3]}, hw="2x rtx-4090", policies=["gpu_only"])
    assert numbered.candidates.values("price_usd").tolist() == [1599, 3 * 1599]


def test_nothing_with_a_price_is_refused(search: Search) -> None:
    with pytest.raises(InvalidInput, match="no price is known of a10: give one"):
        search({"batch": [1]}, hw="a10")
    with pytest.raises(InvalidInput, match="no price is known of a10, t4: give one"):
        search({"hardware": ["a10", "t4"]})


@pytest.mark.parametrize("limits", [["tokens_per_s>=200", "price_usd<=1000"], ["tokens_per_s>=1000", "tpot_s<=1"]])
def test_what_a_constraint_costs_is_the_difference_to_the_best_without_it(search: Search, limits: list[str]) -> None:
    found = search(objectives=["price_usd:min", "tokens_per_s:max"], constraints=limits)
    tolls = {(toll.constraint, toll.objective.field): toll for toll in found.tolls}
    assert len(tolls) == len(found.tolls) >= 1
    for dropped, objective in itertools.product(limits, ("price_usd:min", "tokens_per_s:max")):
        field = objective.partition(":")[0]
        kept = [*(text for text in limits if text != dropped), "price_usd<=1e9"]  # so that all machines have a price
        without = search(objectives=objective, constraints=kept).best
        within = search(objectives=objective, constraints=[*kept, dropped]).best
        assert without is not None
        assert within is not None
        if without["fields"][field] == within["fields"][field]:
            assert (dropped, field) not in tolls
        else:
            toll = tolls[dropped, field]
            assert (toll.without_it, toll.with_it) == (without["fields"][field], within["fields"][field])
            assert toll.row == without
            best_of = "lowest" if objective.endswith("min") else "highest"
            assert f"Without {dropped} the {best_of} {field} would be " in found.verdict()


def test_constraints_that_cost_nothing_are_said_to(search: Search) -> None:
    found = search(constraints="tpot_s<=1000")
    assert found.tolls == ()
    assert "No constraint costs anything." in found.verdict()
    assert "No constraint" not in search().verdict()


def test_when_nothing_is_feasible_the_nearest_values_say_what_to_relax(search: Search) -> None:
    limits = ["tpot_p99_s<=2ms", "peak_hbm_bytes<=1.5GB"]
    objectives = ["tokens_per_s:max"]
    found = search(objectives=objectives, constraints=limits)
    assert (found.n_feasible, found.best, found.front, found.tolls) == (0, None, (), ())
    latency, memory = found.why_infeasible
    assert latency.nearest == np.nanmin(found.candidates.values("tpot_p99_s")) == latency.row["fields"]["tpot_p99_s"]
    assert memory.nearest == np.nanmin(found.candidates.values("peak_hbm_bytes"))
    assert latency.alone is not None
    assert memory.alone is not None
    for relaxed in ([f"tpot_p99_s<={latency.alone!r}", limits[1]], [limits[0], f"peak_hbm_bytes<={memory.alone!r}"]):
        assert search(objectives=objectives, constraints=relaxed).n_feasible >= 1
    tighter = [f"tpot_p99_s<={latency.alone * (1 - 1e-12)!r}", limits[1]]
    assert search(objectives=objectives, constraints=tighter).n_feasible == 0
    assert "Nothing meets every constraint. tpot_p99_s<=2ms: the nearest is" in found.verdict()
    json.dumps(found.to_dict())


def test_a_limit_that_no_relaxing_of_it_alone_can_meet_has_none(search: Search) -> None:
    found = search(objectives="tokens_per_s:max", constraints=["tpot_p99_s<=1ns", "peak_hbm_bytes<=1KB"])
    assert [miss.alone for miss in found.why_infeasible] == [None, None]


def test_nothing_that_fits_says_how_much_memory_the_smallest_needs(search: Search) -> None:
    found = search({"hbm_bytes": ["1GB"]}, hw="rtx-3060-12gb", policies=["gpu_only"], constraints="tpot_s<=1")
    needed = found.candidates.values("needed_bytes")[0]
    assert (found.n_fits, found.best, found.why_infeasible) == (0, None, ())
    assert found.verdict().startswith(f"Nothing fits: the least that is needed is {needed / 1e9:.3g} GB of HBM, by")


def test_any_executor_finds_the_same(search: Search) -> None:
    with ThreadPoolExecutor(1) as one:
        assert search(executor=one).to_dict() == search().to_dict()


def test_progress_ends_at_the_number_of_machines_or_trials(search: Search) -> None:
    seen: list[tuple[int, int]] = []
    search(progress=lambda done, total: seen.append((done, total)))
    assert seen[-1][0] == seen[-1][1] > 0
    seen.clear()
    search({"link.h2d_bytes_per_s": (8e9, 64e9)}, hw="rtx-4090", n_trials=60,
           progress=lambda done, total: seen.append((done, total)))  # fmt: skip
    assert seen == [(50, 60), (60, 60)]


@pytest.mark.parametrize(
    "goals",
    [
        {"objectives": ["price_usd:min", "tokens_per_s:max"], "constraints": ["tpot_p99_s<=8ms"]},
        {"objectives": "tokens_per_s:max", "constraints": ["price_usd<=2000", "peak_hbm_bytes<=1.6GB"]},
    ],
)
def test_optuna_finds_the_exhaustive_front_of_a_small_space(search: Search, goals: dict[str, Any]) -> None:
    exact = search(**goals)
    found = search(**goals, method="optuna", n_trials=400, seed=1)
    assert (exact.method, found.method) == ("exhaustive", "optuna")
    names = [objective.field for objective in exact.goals.objectives]
    fronts = [[[row["fields"][name] for name in names] for row in each.front] for each in (exact, found)]
    assert fronts[0] == fronts[1]
    assert found.n_evaluated <= exact.n_evaluated  # nothing is evaluated twice
    keys = {json.dumps([row["policy"], row["settings"]]) for row in map(found.candidates.row, range(found.n_evaluated))}
    assert len(keys) == found.n_evaluated


def test_optuna_evaluates_a_point_as_exhaustive_does(search: Search) -> None:
    exact = search()
    every = [exact.candidates.row(i) for i in range(exact.n_evaluated)]
    found = search(method="optuna", n_trials=50)
    assert found.n_evaluated > 10
    assert all(found.candidates.row(i) in every for i in range(found.n_evaluated))


def test_a_seed_fixes_what_optuna_tries(search: Search) -> None:
    space: dict[str, Any] = {
        "link.h2d_bytes_per_s": (8e9, 64e9, "log"), "hbm_bytes": ("1GB", "24GB"), "batch": (1, 6),
        "stack.gemm_efficiency": (0.2, 0.9), "hardware": MACHINES,
    }  # fmt: skip
    one, same, other = (search(space, n_trials=60, seed=seed) for seed in (0, 0, 1))
    assert one.method == "optuna"
    assert one.to_dict() == same.to_dict()
    assert one.to_dict() != other.to_dict()
    for i in range(one.n_evaluated):
        settings = one.candidates.row(i)["settings"]
        assert 8e9 <= settings["link.h2d_bytes_per_s"] <= 64e9
        assert 1e9 <= settings["hbm_bytes"] <= 24e9
        assert 0.2 <= settings["stack.gemm_efficiency"] <= 0.9
        assert type(settings["hbm_bytes"]) is type(settings["batch"]) is int
        assert settings["batch"] in range(1, 7)
    assert one.n_fits < one.n_evaluated  # 1 GB is too small: tried, and no harm done
    assert all(one.candidates.fits[i] for i in np.flatnonzero(one.feasible))


def test_optuna_climbs_to_the_end_of_a_range_within_a_constraint(search: Search) -> None:
    goals: dict[str, Any] = {"objectives": "tokens_per_s:max", "constraints": "peak_hbm_bytes<=1.6GB"}
    fixed: dict[str, Any] = {"hw": "rtx-4090", "policies": ["on_demand"], **goals}
    found = search({"link.h2d_bytes_per_s": (2e9, 64e9), "cache_ratio": (0.0, 1.0)}, n_trials=400, **fixed)
    grid = search({"link.h2d_bytes_per_s": [64e9], "cache_ratio": np.linspace(0, 1, 101)}, **fixed)
    assert found.best is not None
    assert grid.best is not None
    assert found.best["fields"]["peak_hbm_bytes"] <= 1.6e9
    assert found.best["fields"]["tokens_per_s"] >= 0.98 * grid.best["fields"]["tokens_per_s"]


def test_what_cannot_be_is_tried_and_told_by_its_reason(search: Search) -> None:
    axes = {"n_active": [1, 4], "batch": [1, 4]}  # a batch of 1 cannot activate four experts
    for method in ("exhaustive", "optuna"):
        found = search(axes, hw="rtx-4090", policies=["pregate"], method=method, n_trials=50)
        assert (found.n_evaluated, found.n_fits) == (4, 3)
        ((reason, n),) = found.candidates.refused.items()
        assert n == 1
        assert f"1 have no figures: {reason}" in found.verdict()
        with pytest.raises(InvalidInput, match="4"):
            search({"n_active": [4], "batch": [1]}, hw="rtx-4090", method=method, n_trials=50)


def test_auto_tries_all_only_where_they_are_few_and_finite(search: Search) -> None:
    assert search(max_points=36).method == "exhaustive"
    assert search(max_points=35, n_trials=5).method == "optuna"
    assert search({"batch": (1, 2)}, hw="rtx-4090", n_trials=5).method == "optuna"


def test_optuna_leaves_nothing_on_the_terminal(search: Search, capfd: pytest.CaptureFixture[str]) -> None:
    import optuna

    before = optuna.logging.get_verbosity()
    search(method="optuna", n_trials=60)
    assert capfd.readouterr() == ("", "")
    assert optuna.logging.get_verbosity() == before


def test_without_optuna_the_way_out_is_named(search: Search, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(InvalidInput, match=r"pip install 'pregate\[optimize\]'"):
        search(method="optuna")
    assert search().method == "exhaustive"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "grid"}, "unknown method 'grid'"),
        ({"n_trials": 0}, "n_trials = 0"),
        ({"axes": {"batch": (1, 4)}, "method": "exhaustive"}, "axis batch is a range"),
        ({"axes": {"batch": (4, 4)}}, "a range must rise"),
        ({"axes": {"link.h2d_bytes_per_s": (2e9, 1e9)}}, "a range must rise"),
        ({"axes": {"hardware": ("rtx-3090", "rtx-4090")}}, "takes names, not a range"),
        ({"axes": {"batch": (1,)}}, "a range is"),
        ({"axes": {"batch": (1, 2, "cubic")}}, "neither linear nor log"),
        ({"axes": {"hbm_bytes": (1e9, 2e9), "accelerator.hbm_bytes": [1e9]}}, "given twice"),
        ({"axes": {"hardware": ["rtx-4090", "rtx-409"]}}, "did you mean 'rtx-4090'"),
        ({"axes": {"batch": [1]}, "hw": None}, "no hardware"),
        ({"axes": {"bach": [1]}}, "unknown axis 'bach'"),
        ({"policies": ["pregated"]}, "did you mean 'pregate'"),
        ({"objectives": ["beauty:max"]}, "unknown objective 'beauty'"),
        ({"jobs": 0}, "jobs = 0"),
    ],
)
def test_mistakes_are_answered_in_one_line(search: Search, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInput, match=message) as caught:
        search(**{"hw": "rtx-4090", **options})
    assert "\n" not in str(caught.value)
