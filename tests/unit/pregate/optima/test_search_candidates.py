"""What was tried of a search: joined, in order, and with what a machine costs; nothing is evaluated."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pregate.optima import candidates as candidates_
from pregate.optima.candidates import Candidates, SearchFailed, evaluated, joined, plan_candidates
from pregate.sweeps.axes import Axis, read_axes
from pregate.sweeps.points import sample_points

NAN = math.nan
AXES = (
    Axis("hardware", "hardware", np.array(["x", "y", "y", "x", "z", "x"]), ""),
    Axis("batch", "batch", np.arange(1.0, 7.0), "1"),
)


def of(figures: dict[str, list[Any]]) -> Candidates:
    columns = {name: np.array(column) for name, column in figures.items()}
    return Candidates(("a", "b"), np.array([0, 0, 1, 1, 1, 0]), AXES, columns, {"no such batch": 1234})


def test_parts_of_a_search_are_joined_in_order() -> None:
    one = of({"fits": [True] * 6, "tpot_s": [1.0] * 6})
    other = Candidates(
        ("a", "b"), np.array([1]), tuple(Axis(a.name, a.key, a.values[:1], a.unit) for a in AXES),
        {"fits": np.array([False]), "memory": np.array(["HBM"]), "needed_bytes": np.array([5.0])},
        {"no such batch": 1, "another": 2},
    )  # fmt: skip
    found = joined([one, other])
    assert (found.policies, found.n, found.i_policy.tolist()) == (("a", "b"), 7, [0, 0, 1, 1, 1, 0, 1])
    assert [axis.values.tolist() for axis in found.axes] == [list("xyyxzxx"), [1, 2, 3, 4, 5, 6, 1]]
    assert found.refused == {"no such batch": 1235, "another": 2}
    assert found.fits.tolist() == [True] * 6 + [False]
    assert found.values("tpot_s").tolist()[:6] == [1.0] * 6
    assert np.isnan(found.values("tpot_s")[6])
    assert found.fields["memory"].tolist() == [""] * 6 + ["HBM"]
    assert np.isnan(found.values("needed_bytes")[:6]).all()
    assert np.isnan(found.values("price_usd")).all()
    assert joined([one]).values("tpot_s").tolist() == [1.0] * 6
    assert found.row(6)["fields"]["calibration"] == ""


class Work:
    """The work of one policy: its tasks give back numbers."""

    def __init__(self, points: Any, *tasks: Any) -> None:
        self.points, self.tasks, self.digests = points, tasks, tuple(f"d{task}" for task in tasks)

    def fields(self, outcomes: list[Any]) -> list[dict[str, Any]]:
        return [{"tokens_per_s": np.array(outcomes, float), "fits": np.array([True] * len(outcomes))}]

    def refusals(self, outcomes: list[Any]) -> dict[str, int]:
        return {"a reason": len(outcomes)}


SPACE: Any = SimpleNamespace(
    subject=SimpleNamespace(designs=[SimpleNamespace(policy=SimpleNamespace(name=name)) for name in ("a", "b")]),
    price_usd=lambda axes, n: np.arange(1.0, n + 1) * 100 * len(axes[0].values) / n,
)


FREE: Any = SimpleNamespace(subject=SPACE.subject, price_usd=lambda axes, n: np.zeros(n))


def outcomes(monkeypatch: pytest.MonkeyPatch, failures: list[Exception]) -> list[tuple[Any, ...]]:
    asked: list[tuple[Any, ...]] = []

    def run_tasks(tasks: list[Any], *given: Any) -> Any:
        asked.append((tasks, *given))
        return [10.0 * task for task in tasks], failures

    monkeypatch.setattr(candidates_, "run_tasks", run_tasks)
    return asked


def test_every_policy_at_every_point_comes_policy_by_policy(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = outcomes(monkeypatch, [])
    points = SimpleNamespace(i_choice=np.zeros(2))
    works: Any = [Work(points, 1, 2), Work(points, 3, 4)]
    executor: Any = "executor"
    axis = Axis("batch", "batch", np.array([1.0, 2.0]), "1")
    found = evaluated(works, [axis], None, SPACE, executor, None)
    assert asked == [([1, 2, 3, 4], ["d1", "d2", "d3", "d4"], "executor", None, None)]
    assert (found.policies, found.i_policy.tolist()) == (("a", "b"), [0, 0, 1, 1])
    assert found.axes[0].values.tolist() == [1, 2, 1, 2]
    assert found.values("tokens_per_s").tolist() == [10, 20, 30, 40]
    assert found.values("price_usd").tolist() == [100, 200, 300, 400]
    assert found.values("usd_per_token_per_s").tolist() == [10] * 4
    assert found.refused == {"a reason": 4}


def test_points_of_some_policies_come_in_their_own_order(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = outcomes(monkeypatch, [])
    works: Any = [Work(None, 1, 2), Work(None, 3)]
    progress: Any = "progress"
    axis = Axis("batch", "batch", np.array([7.0, 8.0, 9.0]), "1")
    executor: Any = None
    found = evaluated(works, [axis], np.array([0, 1, 0]), SPACE, executor, progress)
    assert found.i_policy.tolist() == [0, 1, 0]
    assert found.values("tokens_per_s").tolist() == [10, 30, 20]
    assert (found.axes, asked[0][-1]) == ((axis,), "progress")
    many: Any = [Work(None, *range(1, 41, 2)), Work(None, *range(2, 41, 2))]  # every other point is of the other policy
    each = evaluated(many, [], np.arange(40) % 2, FREE, executor)
    assert each.values("tokens_per_s").tolist() == [10.0 * i for i in range(1, 41)]


def test_evaluations_that_fail_are_told_with_the_first_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    first = ValueError("it\n   was killed " + "x" * 400)
    outcomes(monkeypatch, [first, KeyError("y")])
    works: Any = [Work(None, 1, 2, 3)]
    nothing: Any = None
    with pytest.raises(SearchFailed) as failed:
        evaluated(works, [], np.zeros(3, np.int64), SPACE, nothing)
    said = "it was killed " + "x" * 286
    assert str(failed.value) == f"2 of 3 tasks failed, first with ValueError: {said}"
    assert failed.value.__cause__ is first


def test_without_a_rate_no_price_of_one_is_known() -> None:
    figures = candidates_._price_figures({}, np.array([100.0, 200.0]))
    assert figures["price_usd"].tolist() == [100, 200]
    assert np.isnan(figures["usd_per_token_per_s"]).all()
    assert len(figures["usd_per_token_per_s"]) == 2


@pytest.mark.parametrize("has_groups", [True, False])
def test_the_work_of_each_policy_is_of_its_own_points(monkeypatch: pytest.MonkeyPatch, has_groups: bool) -> None:
    axes = read_axes({"batch": [3.0, 1.0, 2.0], "link.h2d_bytes_per_s": [1e9, 2e9, 3e9]})
    points = sample_points(axes, 3, 1)

    planned: list[Any] = []

    def plan_points(given: Any, subject: Any) -> Any:
        assert (given, subject) == (points, SPACE.subject)
        from pregate.sweeps.planning import SweepPlan

        group: Any = "a group"
        return SweepPlan((group,) if has_groups else (), (), np.array([[0, 1, 2], [3, 4, 5]]))

    monkeypatch.setattr(candidates_, "plan_points", plan_points)
    monkeypatch.setattr(candidates_, "plan_work", lambda *given: planned.append(given) or "planned")
    monkeypatch.setattr(candidates_, "lay_out", lambda *given: [("laid out", *given)])
    pricing: Any = "pricing"
    for i_policy, rows in ((None, [[0, 1, 2], [0, 1, 2]]), ([1, 0, 1], [[1], [0, 2]]), ([1, 1, 1], [None, [0, 1, 2]])):
        planned.clear()
        mine = None if i_policy is None else np.array(i_policy)
        works = plan_candidates(points, mine, SPACE, pricing)
        wanted = [(i, of_policy) for i, of_policy in enumerate(rows) if of_policy is not None]
        assert len(works) == len(wanted)
        given = planned if has_groups else [(work.points, work.plan, work.pricing) for work in works]
        assert len(given) == len(wanted)
        for (some, plan, priced), (i, of_policy) in zip(given, wanted, strict=True):
            assert some.shape == (len(of_policy),)
            assert some.i_choice.tolist() == points.i_choice[of_policy].tolist()
            assert some.i_price.tolist() == points.i_price[of_policy].tolist()
            assert plan.i_group.tolist() == [[3 * i, 3 * i + 1, 3 * i + 2]]
            assert priced == "pricing"
        if not has_groups:
            for work in works:
                assert work.layouts == (("laid out", work.points, work.plan),)
                assert (work.tasks, work.n_tasks, work.digests, work.strangers) == ((), (0,), (), ())
