"""What a search hands on: points to evaluate, and what became of them to Optuna; nothing is evaluated."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from offload.policy import Cache
from pregate.ask.capturing.schedule_cache import ScheduleCache
from pregate.named import load_model
from pregate.optima import optimize as optimize_
from pregate.optima.candidates import Candidates
from pregate.optima.goals import read_goals
from pregate.optima.optimize import _all_points, _planned, _scores, _some, optimize
from pregate.optima.space import Space, read_space
from pregate.optima.trials import Trials
from pregate.sweeps.sweep_work import Pricing
from pregate.sweeps.workloads import TraceRecipe
from simulator.modes import FIFO, Modes
from traces.errors import InvalidInput

MODEL = load_model("switch-mini-16")
RECIPE = TraceRecipe(input_tokens=4, output_tokens=3)
LINK = "link.h2d_bytes_per_s"


def space(axes: dict[str, Any], policies: Any = ("gpu_only", "on_demand"), hw: Any = "rtx-4090", trace: Any = RECIPE,
          **how: Any) -> Space:  # fmt: skip
    return read_space(MODEL, hw, trace, policies, axes, **how)


def table(**columns: list[Any]) -> Candidates:
    fields = {name: np.array(column) for name, column in columns.items()}
    return Candidates(("a",), np.zeros(len(fields["fits"]), np.int64), (), fields, {})


def test_what_optuna_is_told_of_candidates() -> None:
    nan = np.nan
    found = table(
        fits=[True, True, False, True, False], tokens_per_s=[10.0, 20.0, nan, nan, 5.0],
        tpot_s=[1.0, 4.0, nan, 3.0, nan],
        hit_rate=[0.5, 0.25, nan, 0.0, 0.0], needed_bytes=[nan, nan, 2.0, nan, nan],
    )  # fmt: skip
    costs, excess = _scores(found, read_goals(["tokens_per_s:max", "tpot_s:min"], ["tpot_s<=2", "hit_rate<=0"]))
    assert costs.tolist() == [[-10, 1], [-20, 4], [0, 0], [0, 0], [0, 0]]
    assert excess.tolist() == [[0, -0.5, 0.5], [0, 1.0, 0.25], [3e6, 0, 0], [1e6, 0.5, 0], [1e6, 0, 0]]


class Runs:
    """Stands for the executor of a search; points are evaluated by their batch."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.told: dict[str, list[Any]] = {"opened": [], "planned": [], "evaluated": []}
        monkeypatch.setattr(optimize_, "opened", self.opened)
        monkeypatch.setattr(optimize_, "plan_candidates", self.plan)
        monkeypatch.setattr(optimize_, "evaluated", self.evaluated)

    @contextmanager
    def opened(self, *given: Any) -> Any:
        self.told["opened"].append(given)
        yield "runs"

    def plan(self, points: Any, i_policy: Any, *given: Any) -> Any:
        self.told["planned"].append((points, i_policy, *given))
        return [SimpleNamespace(tasks=("one", "two")), SimpleNamespace(tasks=("three",))]

    def evaluated(self, works: Any, axes: Any, i_policy: Any, given: Space, runs: Any, *more: Any) -> Candidates:
        assert len(works) == 2
        assert runs == "runs"
        self.told["evaluated"].append(([axis.values.tolist() for axis in axes], i_policy, given, *more))
        n = 3 if i_policy is None else len(i_policy)
        batch = np.ones(n) if i_policy is None else axes[0].values
        fields = {"fits": np.ones(n, bool), "tokens_per_s": batch, "tpot_s": 10 - batch}
        return Candidates(("a",), np.zeros(n, np.int64) if i_policy is None else i_policy, tuple(axes), fields, {})


PRICING = Pricing(FIFO, 0, 0, None)
NOTHING: Any = None


def test_all_points_are_every_combination(monkeypatch: pytest.MonkeyPatch) -> None:
    runs, grid = Runs(monkeypatch), space({"batch": [1, 2], LINK: [1e9, 2e9, 3e9]})
    executor: Any = "executor"
    progress: Any = "progress"
    _all_points(grid, PRICING, executor, 3, progress)
    ((points, i_policy, where, pricing),) = runs.told["planned"]
    assert (points.shape, points.n, i_policy, where, pricing) == ((2, 3), 6, None, grid, PRICING)
    assert runs.told["opened"] == [("executor", 3, ["one", "two", "three"])]
    assert runs.told["evaluated"] == [
        ([[1, 1, 1, 2, 2, 2], [1e9, 2e9, 3e9, 1e9, 2e9, 3e9]], None, grid, "progress")
    ]  # fmt: skip
    _all_points(space({}), PRICING, NOTHING, None, None)
    assert runs.told["planned"][1][0].n == 1
    assert runs.told["evaluated"][1][0] == []


def test_a_policy_that_asks_its_machine_is_planned_for_every_one(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = Runs(monkeypatch)
    for policy, alike in (("min_latency/paper", False), ("on_demand", True)):
        grid = space({LINK: [1e9, 2e9]}, policies=[policy])
        _all_points(grid, PRICING, NOTHING, None, None)
        _planned([(0, 0), (0, 1)], grid, PRICING)
        for points, *_ in runs.told["planned"][-2:]:
            assert [axis.key for axis in points.structural] == ([] if alike else [LINK])


def test_points_of_a_generation_are_planned_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    runs, grid = Runs(monkeypatch), space({"batch": [1, 2, 5], LINK: [1e9, 2e9]})
    works, i_policy, axes = _planned([(1, 2, 0), (0, 0, 1), (1, 1, 1)], grid, PRICING)
    ((points, mine, where, pricing),) = runs.told["planned"]
    assert (points.n, points.dims, mine.tolist(), where, pricing) == (3, ("sample",), [1, 0, 1], grid, PRICING)
    assert i_policy is mine
    assert [axis.values.tolist() for axis in axes] == [[5, 1, 2], [1e9, 2e9, 2e9]]
    assert [len(work.tasks) for work in works] == [2, 1]


def test_optuna_is_asked_by_generations_and_nothing_is_run_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    runs, grid = Runs(monkeypatch), space({"batch": (1, 6)}, policies=["gpu_only"])
    seen: list[tuple[int, int]] = []
    told: list[tuple[Any, Any]] = []
    real = Trials.tell

    def tell(self: Trials, costs: Any, excess: Any) -> None:
        told.append((costs, excess))
        real(self, costs, excess)

    monkeypatch.setattr(Trials, "tell", tell)
    goals = read_goals(["tokens_per_s:max", "tpot_s:min"], "tpot_s<=2")
    executor: Any = "executor"
    found = _some(grid, goals, PRICING, executor, 2, 120, 3, lambda done, total: seen.append((done, total)))
    assert seen == [(50, 120), (100, 120), (120, 120)]
    assert runs.told["opened"] == [("executor", 2, ["one", "two", "three"])]
    tried = [batch for axes, *_ in runs.told["evaluated"] for batch in axes[0]]
    assert sorted(tried) == sorted(set(tried))
    assert found.n == len(tried) <= 6
    assert found.axes[0].values.tolist() == tried
    first = [(batch,) for _, batch in dict.fromkeys(Trials(grid, 2, 3).ask(50))]
    assert tried[: len(first)] == [batch for (batch,) in first]
    assert tried[0] == 1.0
    assert all(given[2:] == (grid, PRICING) for given in runs.told["planned"])
    assert all(given[2:] == (grid,) for given in runs.told["evaluated"])
    assert [len(costs) for costs, _ in told] == [50, 50, 20]
    for costs, excess in told:
        assert costs[:, 1].tolist() == (10 + costs[:, 0]).tolist()
        assert excess.tolist() == [[0, (8 + cost) / 2] for cost in costs[:, 0].tolist()]


def test_a_search_ends_where_all_has_been_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    Runs(monkeypatch)
    seen: list[int] = []
    grid = space({"batch": [1, 2]}, policies=["gpu_only"])
    _some(grid, read_goals("tpot_s:min", ()), PRICING, NOTHING, None, 500, 0, lambda done, _: seen.append(done))
    assert seen == [50]
    few = space({"batch": (1, 6)}, policies=["gpu_only"])
    _some(few, read_goals("tpot_s:min", ()), PRICING, NOTHING, None, 7, 0, lambda done, _: seen.append(done))
    assert seen == [50, 7]
    _some(few, read_goals("tpot_s:min", ()), PRICING, NOTHING, None, 7, 0, None)


def test_what_is_asked_is_checked_and_handed_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    told: dict[str, Any] = {}

    def candidates(how: str) -> Any:
        return lambda *given: told.update({how: given}) or table(fits=[True], memory=[""])

    monkeypatch.setattr(optimize_, "_all_points", candidates("all"))
    monkeypatch.setattr(optimize_, "_some", candidates("some"))
    monkeypatch.setattr(
        optimize_, "optimum_of", lambda *given, **named: told.update(given=given, named=named) or "found"
    )
    asked: dict[str, Any] = {"policies": ["gpu_only", "oracle"], "axes": {"hardware": ["l4", "a10"], "batch": [1, 2]}}
    progress: Any = "progress"
    executor: Any = "executor"
    assert optimize(MODEL, None, RECIPE, **asked, executor=executor, progress=progress) == "found"  # type: ignore[comparison-overlap]
    where, pricing, *rest = told["all"]
    assert rest == ["executor", None, "progress"]
    assert (pricing, where.left_out) == (PRICING, ("a10",))
    assert (where.subject.trace, where.subject.expert_tier) == (RECIPE, "dram")
    found, goals = told["given"]
    assert found.fits.tolist() == [True]
    assert goals == read_goals(["price_usd:min", "tokens_per_s:max"], ())
    apart = ("oracle knows what no gate has said, so that nobody can build it.",)
    assert told["named"] == {
        "model": MODEL.name, "hardware": "l4", "method": "exhaustive", "left_out": ("a10",), "told_apart": apart
    }  # fmt: skip
    asked["policies"] = ["on_demand", "pregate"]
    optimize(MODEL, None, RECIPE, **asked, objectives="tpot_s:min", constraints="tpot_s<=1", method="optuna",
             n_trials=9, seed=4, jobs=2, cache_dir=tmp_path, expert_tier="ssd", cache=Cache("lfu"),
             modes=Modes(link="shared"))  # fmt: skip
    where, goals, pricing, *rest = told["some"]
    assert rest == [None, 2, 9, 4, None]
    assert goals == read_goals("tpot_s:min", "tpot_s<=1") == told["given"][1]
    assert (pricing.modes, pricing.draws, pricing.seed) == (Modes(link="shared"), 0, 0)
    assert isinstance(pricing.schedules, ScheduleCache)
    assert (where.left_out, where.subject.expert_tier) == ((), "ssd")
    assert where.subject.designs[0].cache == Cache("lfu")
    optimize(MODEL, None, RECIPE, **asked, cache_dir=pricing.schedules, jobs=2)
    assert told["all"][1].schedules is pricing.schedules
    assert told["all"][2:] == (None, 2, None)
    optimize(MODEL, None, RECIPE, **asked, method="optuna", executor=executor, progress=progress)
    assert told["some"][3:] == ("executor", None, 2000, 0, "progress")


def method(monkeypatch: pytest.MonkeyPatch, axes: dict[str, Any], **how: Any) -> str:
    monkeypatch.setattr(optimize_, "_all_points", lambda *_: table(fits=[True], memory=[""]))
    monkeypatch.setattr(optimize_, "_some", lambda *_: table(fits=[True], memory=[""]))
    monkeypatch.setattr(optimize_, "optimum_of", lambda *_, **named: named["method"])
    return str(optimize(MODEL, "l4", RECIPE, policies=["gpu_only", "on_demand"], axes=axes, **how))


def test_all_is_tried_where_it_is_little_and_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    assert method(monkeypatch, {"batch": [1, 2, 3]}, max_points=6) == "exhaustive"
    assert method(monkeypatch, {"batch": [1, 2, 3]}, max_points=5) == "optuna"
    assert method(monkeypatch, {"batch": (1, 3)}) == "optuna"
    assert method(monkeypatch, {"batch": [1, 2, 3]}, max_points=1, method="exhaustive") == "exhaustive"
    assert method(monkeypatch, {"batch": list(range(1, 100_001))}) == "exhaustive"
    assert method(monkeypatch, {"batch": list(range(1, 100_002))}) == "optuna"


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"n_trials": 0}, "n_trials = 0, max_points = 200000, seed = 0: at least 1, 1 and 0"),
        ({"max_points": 0}, "n_trials = 2000, max_points = 0, seed = 0: at least 1, 1 and 0"),
        ({"seed": -1}, "n_trials = 2000, max_points = 200000, seed = -1: at least 1, 1 and 0"),
        ({"jobs": 0}, "jobs = 0"),
        ({"method": "grid"}, "unknown method 'grid'"),
    ],
)
def test_a_search_that_cannot_be_is_refused(monkeypatch: pytest.MonkeyPatch, given: Any, told: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        method(monkeypatch, {"batch": [1]}, **given)
    assert str(refused.value).startswith(told)
    assert method(monkeypatch, {"batch": [1]}, n_trials=1, max_points=2, seed=0, jobs=1) == "exhaustive"


@pytest.mark.parametrize(
    ("fits", "memory", "is_refused"),
    [([False, False], ["", ""], True), ([False, True], ["", ""], False), ([False, False], ["", "HBM"], False)],
)
def test_where_nothing_can_be_evaluated_the_reason_is_the_answer(
    monkeypatch: pytest.MonkeyPatch, fits: list[bool], memory: list[str], is_refused: bool
) -> None:
    found = table(fits=fits, memory=memory)
    for refused in ({"the first reason": 1, "another": 2}, {}):
        mine = Candidates(("a",), found.i_policy, (), found.fields, refused)
        monkeypatch.setattr(optimize_, "_all_points", lambda *_, mine=mine: mine)
        monkeypatch.setattr(optimize_, "optimum_of", lambda *_, **__: "found")
        asked: dict[str, Any] = {"policies": ["gpu_only"], "axes": {"batch": [1]}}
        if is_refused and refused:
            with pytest.raises(InvalidInput, match=r"^the first reason$"):
                optimize(MODEL, "l4", RECIPE, **asked)
        else:
            assert optimize(MODEL, "l4", RECIPE, **asked) == "found"  # type: ignore[comparison-overlap]
