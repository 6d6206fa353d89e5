"""Designs that cannot be told from the best are named, in the same words by a comparison, a card and a page."""

from __future__ import annotations

import dataclasses

import pytest

import pregate
from pregate.ask.comparison import Comparison, not_told_from
from pregate.ask.timing.time_errors import holds_one, interval_of_ratio
from pregate.page.answers import METRICS, document
from pregate.page.subject import PageSubject

DESIGNS = ("pregate", "on_demand", "gpu_only", "pregate(2)")


@pytest.fixture(scope="module")
def compared() -> Comparison:
    model, hw = pregate.load_model("mixtral-mini-8"), pregate.load_hardware("rtx-4090", "streams")
    return pregate.compare(model, hw, pregate.synthesize(model, 16, 8, 1, 0), DESIGNS)


def test_what_leads_is_told_from_some_and_not_from_others(compared: Comparison) -> None:
    assert compared.best is not None
    assert compared.best.policy == "gpu_only"
    assert compared.rivals == ()
    assert compared.verdict().startswith("gpu_only wins with")
    near = Comparison(tuple(one for one in compared.results if one.policy != "gpu_only"), (), DESIGNS, "", ())
    best = near.best
    assert best is not None
    assert best.rate_error is not None
    for one in near:
        if one is not best:
            assert one.rate_error is not None
            ratio = best.tokens_per_s / one.tokens_per_s
            straddles = holds_one(interval_of_ratio(ratio, best.rate_error, one.rate_error, shared=True))
            assert (one in near.rivals) == straddles
    assert near.rivals
    assert near.verdict().startswith(f"{best.policy} leads with")
    assert f"too close to tell from {near.rivals[0].policy}" in near.verdict()
    assert "; too close to tell from " in near.verdict()


def test_a_design_without_an_interval_leads(compared: Comparison) -> None:
    bare = tuple(dataclasses.replace(one, rate_error=None) for one in compared.results)
    verdict = Comparison(bare, (), DESIGNS, "", ()).verdict()
    assert verdict.startswith("gpu_only leads with")
    assert "x pregate, no interval; " in verdict
    alone = Comparison(tuple(one for one in bare if one.policy == "gpu_only"), (), DESIGNS, "", ())
    assert alone.verdict().startswith("gpu_only wins with")  # beside designs that do not fit
    assert "no interval" not in alone.verdict()


def test_a_design_that_runs_the_same_schedule_is_the_same_and_no_rival() -> None:
    model, hw = pregate.load_model("mixtral-mini-8"), pregate.load_hardware("rtx-4090", "streams")
    trace = pregate.synthesize(model, 16, 8, 1, 0)
    same = pregate.compare(model, hw, trace, ["gpu_only", "gpu_only@experts=cpu:fit", "on_demand"])
    assert same["gpu_only"].schedule_digest == same["gpu_only@experts=cpu:fit"].schedule_digest
    assert same.verdict().startswith("gpu_only wins with")
    ratio = same["gpu_only"].tokens_per_s / same["on_demand"].tokens_per_s
    assert f"{ratio:.2f}x on_demand; gpu_only@experts=cpu:fit does" in same.verdict()  # the best of what is another
    assert "gpu_only@experts=cpu:fit does the very same here" in same.verdict()
    assert "too close" not in same.verdict()
    assert not_told_from(["a", "b"], ["c", "d"]) == (
        "c and 1 more do the very same here; too close to tell from a and 1 more"
    )


def test_errors_stay_out_of_what_is_written(compared: Comparison) -> None:
    assert "rate_error" not in compared.results[0].to_dict()
    assert compared.results[0].rate_error is not None


def test_a_rate_is_as_unsure_as_its_interval(compared: Comparison) -> None:
    fitted = pregate.load_hardware("a100-sxm4-80gb", "fastertransformer")
    model = pregate.load_model("switch-base-8")
    one = pregate.simulate(model, fitted, pregate.synthesize(model, 16, 8, 1, 0), "pregate")
    for result in (*compared.results, one):
        assert result.rate_error is not None
        assert result.rate_error.interval(result.tokens_per_s) == pytest.approx(result.tokens_per_s_ci95, rel=1e-9)


def test_a_page_knows_the_same_of_each_design(compared: Comparison) -> None:
    model, hw = pregate.load_model("mixtral-mini-8"), pregate.load_hardware("rtx-4090", "streams")
    designs = tuple(pregate.load_policy(name) for name in DESIGNS)
    subject = PageSubject(
        (model,), (hw,), designs, batches=(1,), prompts=(16,), actives=(0.0,), hbm_factors=(1.0,), output_tokens=8
    )
    (point,) = document(subject)["models"][0]["points"][0]
    at = METRICS.index("tokens_per_s")
    for i, (one, here) in enumerate(zip(point, compared, strict=True)):
        for j, there in enumerate(compared):
            if i != j:
                assert here.rate_error is not None
                assert there.rate_error is not None
                ratio = here.tokens_per_s / there.tokens_per_s
                straddles = holds_one(interval_of_ratio(ratio, here.rate_error, there.rate_error, shared=True))
                assert (j in one["alike"][at]) == straddles
