"""The verdict card: whole requests, the design that fits, what cannot be told apart, what would change it."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

import pregate
from hwmodels.shipped import FITS_DIR
from hwmodels.specs.spread import HALF_95, shipped_spread
from offload.slots.memory import CapacityExceeded
from pregate.ask.capturing.capture import capture
from pregate.ask.decode_middle import DECODED
from pregate.ask.simulation import interpret
from pregate.ask.timing.time_errors import TimeError, run_doubts
from pregate.card.card import Card
from pregate.card.choice import ranking_of, ratio
from pregate.card.designs import plan_design
from pregate.card.job import RequestLoad, workpiece
from pregate.card.judged_design import Judged, judge
from pregate.card.plan import plan, platforms_of
from traces.errors import InvalidInput, UnknownName
from traces.model.architecture import ModelArchitecture

LOAD = RequestLoad(24, 40, 1)
SMALL = {"hbm_bytes": "1.1GB"}
"""HBM that mixtral-mini-8 fills, so that something has to leave."""


@pytest.fixture(scope="module")
def model() -> ModelArchitecture:
    return pregate.load_model("mixtral-mini-8")


def machine(stack: str, hbm: float | None = None) -> pregate.Platform:
    return pregate.load_hardware("rtx-4090", stack, None if hbm is None else {"hbm_bytes": hbm})


def tight(model: ModelArchitecture, stack: str, share: float = 0.5) -> pregate.Platform:
    """The machine with HBM for `share` of the experts."""
    whole = plan_design(model, machine(stack), workpiece(model, LOAD), "gpu_only").prompt.plan.static_bytes
    experts = model.n_moe_layers * model.n_experts * model.expert_bytes
    return machine(stack, float(int(whole - (1 - share) * experts)))


@pytest.fixture(scope="module")
def card(model: ModelArchitecture) -> Card:
    hbm = tight(model, "llama-cpp").machine.accelerator.hbm_bytes
    return plan(model, "rtx-4090", LOAD, overrides={"hbm_bytes": float(hbm)})


@pytest.fixture(scope="module")
def tight_card(model: ModelArchitecture) -> Card:
    return plan(model, tight(model, "streams"), LOAD)


@pytest.mark.parametrize("wrong", [{"input_tokens": 0}, {"output_tokens": 1}, {"batch": 0}, {"batch": 1 << 20}])
def test_a_job_that_is_none_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(InvalidInput):
        RequestLoad(**wrong)


def test_tokens_are_those_of_the_middle_and_memory_is_of_the_end(model: ModelArchitecture) -> None:
    work = workpiece(model, RequestLoad(100, 1000, 2))
    middle = 100 + 500
    assert abs(int(np.median(work.tokens.position)) - middle) <= DECODED
    assert work.workload.n_cached_tokens == 2 * 1100
    assert work.workload.n_context == 1100
    assert work.workload.n_tokens == 200


def test_a_request_is_its_prompt_and_its_tokens(model: ModelArchitecture) -> None:
    hw, work = machine("llama-cpp"), workpiece(model, LOAD)
    found = judge(plan_design(model, hw, work, "gpu_only"), LOAD)
    first = interpret(capture(model, hw, work.prompt, "gpu_only"), hw, "recurrence").ttft_s
    each = interpret(capture(model, hw, work.tokens, "gpu_only"), hw, "recurrence").tpot_s
    assert found.ttft.value == first
    assert found.tpot.value == each
    assert found.request.value == pytest.approx(first + 39 * each, rel=1e-12)
    assert found.throughput.value == pytest.approx(40 / found.request.value, rel=1e-12)
    assert found.request.interval[0] < found.request.value < found.request.interval[1]


def test_a_whole_short_request_is_what_simulating_all_of_it_gives(model: ModelArchitecture) -> None:
    """With as many tokens as are simulated anyway, the two halves are within a per cent of the run in one piece."""
    job, hw = RequestLoad(24, DECODED, 1), machine("llama-cpp")
    found = judge(plan_design(model, hw, workpiece(model, job), "gpu_only"), job)
    whole = pregate.simulate(model, hw, pregate.synthesize(model, 24, DECODED, 1), "gpu_only")
    assert found.request.value == pytest.approx(whole.makespan_s, rel=0.01)


@pytest.mark.parametrize(
    ("stack", "form"),
    [
        ("llama-cpp", "gpu_only@experts=cpu:{fewest}"),
        ("llama-cpp", "gpu_only@layers=cpu:{fewest}"),
        ("ktransformers", "gpu_only@experts=cpu:keep={most}"),
    ],
)
def test_the_open_number_is_the_last_that_fits(model: ModelArchitecture, stack: str, form: str) -> None:
    hw, work = tight(model, stack), workpiece(model, LOAD)
    name = plan_design(model, hw, work, form).design.policy
    lead, number = form.partition("{")[0], int(name.rpartition("=" if "keep" in form else ":")[2])
    assert 0 < number < (model.n_experts if "keep" in form else model.decoder.n_layers)
    further = number + 1 if "keep" in form else number - 1
    with pytest.raises(CapacityExceeded):
        plan_design(model, hw, work, f"{lead}{further}" if further else "gpu_only")


def test_what_is_kept_is_not_chosen_with_the_tokens_in_view(model: ModelArchitecture) -> None:
    work = workpiece(model, LOAD)
    hw = machine("ktransformers")
    planned = plan_design(model, hw, work, "gpu_only@experts=cpu:keep=2")
    counts = work.popularity.counts
    for layer, kept in enumerate(planned.tokens.placed.kept):
        assert kept is not None
        assert min(counts[layer, list(kept)]) >= np.sort(counts[layer])[-2]
    assert planned.tokens.placed.kept == planned.prompt.placed.kept


def test_a_model_that_only_both_memories_hold_is_divided_between_them() -> None:
    """87 GB of experts: neither the 80 GiB of the device nor the 64 GB of the host has room for all."""
    card = plan("mixtral-8x7b", "h100-sxm", RequestLoad(16, 4, 1), overrides={"host.dram_bytes": "64GB"})
    named = {one.design.policy for one in card.choice.ranked}
    assert "gpu_only@experts=cpu" in {name.partition("/")[2] for name, _ in card.unfit}
    assert any(name.startswith("gpu_only@experts=cpu:") for name in named)
    assert any(name.startswith("gpu_only@layers=cpu:") for name in named)


def test_the_file_of_a_fit_is_looked_at_with_its_own_stack_only(model: ModelArchitecture) -> None:
    """Also where its maker describes the machine: nobody gave a stack that could be left out."""
    file = str(FITS_DIR / "h100-sxm.vllm.yaml")
    assert list(platforms_of(model, file, None, None)) == ["vllm"]
    assert len(platforms_of(model, "h100-sxm", None, None)) > 1
    with pytest.raises(InvalidInput, match="leave out --stack"):
        platforms_of(model, file, ["llama-cpp"], None)


def test_numbers_of_a_fit_are_fitted_and_as_sure_as_its_covariance() -> None:
    switch = pregate.load_model("switch-base-8")
    found = plan(switch, "a100-sxm4-80gb", RequestLoad(16, 8, 1), stacks=["fastertransformer"])
    assert {one.design.policy for one in found.choice.ranked} >= {"gpu_only", "pregate"}
    assert found.best.tpot.tag == "fitted"
    assert found.best.tpot.why == "the covariance of the fit"
    claimed = TimeError(rows=1.0)
    assert found.best.tpot.error.half_widths < claimed.half_widths


def test_claims_are_as_unsure_as_a_measurement_is_by_itself_at_least(card: Card) -> None:
    for one in card.choice.ranked:
        assert one.tpot.tag in ("claimed", "extrapolated")
        assert min(one.tpot.error.half_widths) >= TimeError(rows=1.0).half_widths[0]
    assert TimeError(rows=1.0).half_widths[0] == pytest.approx(HALF_95 * shipped_spread().row)


@pytest.mark.parametrize(
    ("name", "hardware", "stack", "design"),
    [
        ("mixtral-mini-8", "rtx-4090", "llama-cpp", "gpu_only@experts=cpu"),
        ("mixtral-mini-8", "rtx-4090", "streams", "pregate"),
        ("switch-base-8", "a100-sxm4-80gb", "fastertransformer", "pregate"),
        ("mixtral-mini-8:bf16", "a100-sxm4-80gb", "fastertransformer", "pregate"),
    ],
)
def test_a_card_and_a_comparison_have_one_interval(name: str, hardware: str, stack: str, design: str) -> None:
    """What a card says of its schedules is what simulating them says: claimed, fitted, and in an unfitted format."""
    name, _, dtype = name.partition(":")
    model, hw = pregate.load_model(name, dtype=dtype or None), pregate.load_hardware(hardware, stack)
    planned = plan_design(model, hw, workpiece(model, LOAD), design)
    found = judge(planned, LOAD)
    for captured, metric, one in (
        (found.schedules.prompt, "ttft_s", found.ttft), (found.schedules.tokens, "tpot_s", found.tpot)
    ):  # fmt: skip
        assert one.interval == pytest.approx(run_doubts(captured, hw, (metric,), None)[metric].interval, rel=1e-9)
        whole = interpret(captured, hw)
        said = run_doubts(captured, hw, ("tokens_per_s", "moe_layer_latency_s"), None)
        assert whole.tokens_per_s_ci95 == pytest.approx(said["tokens_per_s"].interval, rel=1e-9)
    is_fitted = name == "switch-base-8"
    assert any(found.tpot.error.fitted) == is_fitted
    assert (found.tpot.why == "the covariance of the fit") == is_fitted


def test_the_ratio_of_two_designs_is_surer_where_they_depend_on_the_same(model: ModelArchitecture) -> None:
    hw, work = machine("llama-cpp"), workpiece(model, LOAD)
    fewer, more = (judge(plan_design(model, hw, work, f"gpu_only@experts=cpu:{n}"), LOAD) for n in (7, 8))
    copied = judge(plan_design(model, hw, work, "on_demand"), LOAD)

    def width(one: Judged, other: Judged) -> float:
        low, high = ratio(one, other, "request")[1]
        return high / low

    elsewhere = dataclasses.replace(more, design=dataclasses.replace(more.design, stack="another"))
    assert 1 < width(fewer, more) < width(fewer, copied)
    assert width(fewer, more) < 0.7 * width(fewer, elsewhere)


def test_no_design_is_faster_than_the_limit(card: Card) -> None:
    for one in card.choice.ranked:
        assert one.ttft.value >= card.limit.ttft_s
        assert one.tpot.value >= card.limit.tpot_s
    assert 0 < card.reached <= 1


def test_designs_are_ranked_by_the_objective(model: ModelArchitecture, card: Card) -> None:
    costs = [one.request.value for one in card.choice.ranked]
    assert costs == sorted(costs)
    hw = tight(model, "streams")
    fastest = plan(model, hw, LOAD, objective="throughput").choice.ranked
    rates = [one.throughput.value for one in fastest]
    assert rates == sorted(rates, reverse=True)


def moved(one: Judged, factor: float, spread: float = 0.01) -> Judged:
    """The same design so many times as long, and so unsure."""
    error = TimeError(fitted=(1.96 * spread, 1.96 * spread))
    estimates = {
        name: dataclasses.replace(getattr(one, name), value=getattr(one, name).value * factor, error=error)
        for name in ("ttft", "tpot", "request")
    }
    design = dataclasses.replace(one.design, policy=f"{one.design.policy}@ubatch={int(factor * 1000)}")
    return dataclasses.replace(one, design=design, **estimates)


def test_a_clear_gain_is_a_verdict_and_a_straddling_one_is_none(card: Card) -> None:
    one = moved(card.best, 1.0)
    slow, near = moved(card.best, 2.0), moved(card.best, 1.03, spread=0.03)
    clear = ranking_of([one, slow], slow, "request")
    assert not clear.abstains
    assert clear.verdict().startswith("Change to ")
    assert "2.00 times" in clear.verdict()
    straddles = ranking_of([one, near], near, "request")
    assert straddles.abstains
    assert "No verdict" in straddles.verdict()
    best = ranking_of([one, slow], one, "request")
    assert best.verdict().startswith("Leave it as it is")


def test_ties_are_led_by_what_runs_now_then_by_the_earliest_first_token(card: Card) -> None:
    one, tied, apart = moved(card.best, 1.0), moved(card.best, 1.019), moved(card.best, 1.022)
    soon, early = (replace_ttft(each, 0.5 * one.ttft.value) for each in (tied, apart))
    assert ranking_of([early, soon, one], one, "request", is_stated=False).ranked == (soon, one, early)
    assert ranking_of([early, soon, one], one, "request").ranked == (one, soon, early)
    assert ranking_of([early, tied, one], tied, "request", is_stated=False).ranked == (one, tied, early)
    assert ranking_of([early, soon, one], early, "request").ranked == (soon, one, early)


def test_a_tie_that_is_led_by_the_first_token_is_told_as_one(card: Card) -> None:
    today, tied = moved(card.best, 1.0), moved(card.best, 1.01)
    soon = replace_ttft(tied, 0.5 * tied.ttft.value)
    found = ranking_of([today, soon], today, "request", is_stated=False)
    assert found.best is soon
    assert found.gain < 1
    assert ", its first token earlier" in found.verdict()
    assert "first token" not in ranking_of([moved(card.best, 2.0), today], today, "request").verdict()


def test_of_equal_ties_the_one_with_the_fewest_dials_leads(card: Card) -> None:
    one, more = moved(card.best, 1.0), moved(card.best, 1.0)
    more = dataclasses.replace(
        more, design=dataclasses.replace(more.design, policy=f"{one.design.policy}@stream=never")
    )
    assert ranking_of([more, one], card.best, "throughput", is_stated=False).best is one


def replace_ttft(one: Judged, ttft_s: float) -> Judged:
    return dataclasses.replace(one, ttft=dataclasses.replace(one.ttft, value=ttft_s))


def test_what_cannot_be_told_from_the_best_is_named(card: Card) -> None:
    one, near, now = moved(card.best, 1.0), moved(card.best, 1.03, spread=0.03), moved(card.best, 3.0)
    found = ranking_of([one, near, now], now, "request")
    assert [rival.design for rival in found.rivals] == [near.design]
    assert str(near.design) in found.verdict()
    assert "too close to tell from" in found.verdict()


def test_designs_of_one_stack_share_their_errors(card: Card) -> None:
    one, other = moved(card.best, 1.0), moved(card.best, 2.0)
    same = TimeError({"stack.hbm_efficiency": -1.0}, rows=0.01)
    one = dataclasses.replace(one, request=dataclasses.replace(one.request, error=same))
    other = dataclasses.replace(other, request=dataclasses.replace(other.request, error=same))
    elsewhere = dataclasses.replace(other, design=dataclasses.replace(other.design, stack="another"))
    _, together = ratio(one, other, "request")
    _, apart = ratio(one, elsewhere, "request")
    assert apart[0] < together[0] < 2 < together[1] < apart[1]


def test_at_a_turning_point_the_winner_changes(model: ModelArchitecture, tight_card: Card) -> None:
    hw = tight(model, "streams")
    found = tight_card
    speeds = [point for point in found.turning_points if point.axis.endswith("per_s")]
    assert speeds
    for point in speeds:
        toward = 1.02 if point.value > point.now else 0.98
        there, before = (
            plan(model, pregate.load_hardware("rtx-4090", "streams", {
                "hbm_bytes": float(hw.machine.accelerator.hbm_bytes), point.axis: value
            }), LOAD)
            for value in (point.value * toward, point.now)
        )  # fmt: skip
        shortest = min(there.choice.ranked, key=lambda one: one.cost("request"))  # a tie may be led by another
        assert str(shortest.design) == point.winner
        assert str(before.best.design) == str(found.best.design) != point.winner


def test_the_hbm_from_which_all_stays_there_is_named(model: ModelArchitecture, tight_card: Card) -> None:
    (point,) = [one for one in tight_card.turning_points if one.axis == "accelerator.hbm_bytes"]
    enough = pregate.load_hardware("rtx-4090", "streams", {"hbm_bytes": point.value})
    assert plan(model, enough, LOAD).best.design.policy == "gpu_only"
    assert "of HBM (now" in str(point)


def test_a_cache_on_a_made_up_trace_asks_for_a_trace(model: ModelArchitecture) -> None:
    work = workpiece(model, LOAD)
    hw = tight(model, "streams")
    from pregate.card.narrowing import narrowing

    found = judge(plan_design(model, hw, work, "on_demand+lru"), LOAD)
    assert narrowing(found, is_recorded=False, metric_share=0.0).command.startswith("pregate trace import")
    assert narrowing(found, is_recorded=True, metric_share=0.0).command.startswith("pregate measure")


def test_what_runs_now_is_always_a_candidate(model: ModelArchitecture) -> None:
    hw = tight(model, "streams")
    found = plan(model, hw, LOAD, now="streams/on_demand")
    assert found.choice.now.design.policy == "on_demand"
    assert sum(one.design.policy == "on_demand" for one in found.choice.ranked) == 1
    with pytest.raises(InvalidInput, match="does not run today"):
        plan(model, hw, LOAD, now="gpu_only")
    with pytest.raises(UnknownName, match="stack"):
        plan(model, hw, LOAD, now="nosuch/gpu_only")
    with pytest.raises(UnknownName, match="objective"):
        plan(model, hw, LOAD, objective="nosuch")


def test_nothing_fits_is_one_line_with_a_way_out(model: ModelArchitecture) -> None:
    with pytest.raises(InvalidInput, match="no design fits") as refused:
        plan(model, machine("streams", 1e6), LOAD)
    assert "\n" not in str(refused.value)


def test_what_is_claimed_does_not_beat_what_was_measured() -> None:
    """The verdict is among what is fitted here; a claimed stack that is predicted to be faster is a possibility."""
    found = plan("switch-base-8", "a100-sxm4-80gb", RequestLoad(16, 8, 1))
    assert {one.design.stack for one in found.choice.ranked} == {"fastertransformer"}
    assert found.best is found.choice.now
    assert found.verdict().startswith("Run fastertransformer/gpu_only: the best of")
    possible = found.choice.possible
    assert possible is not None
    assert (possible.design.stack, possible.request.tag) == ("streams", "claimed")
    assert possible.request.value < found.best.request.value
    assert f"Possible, not proven: {possible.design}, " in found.verdict()
    assert "no engine runs it, unmeasured here" in found.verdict()
    assert found.to_dict()["possible"]["design"] == str(possible.design)
    assert all(str(possible.design) != point.winner for point in found.turning_points)
    assert f"?   {possible.design}" in found.text(120)


def test_the_runtime_is_asked_for_what_no_engine_offers(card: Card) -> None:
    assert all(one.design.stack != "streams" for one in card.choice.ranked)
    for one in card.choice.beside:
        assert one.design.stack == "streams"
        assert not one.design.policy.startswith("gpu_only")
    assert any(one.design.policy == "hybrid_schedule+lru" for one in card.choice.beside)


def of_stack(one: Judged, stack: str, tag: str = "claimed") -> Judged:
    """The same design on another stack, its request as sure as `tag` says."""
    design = dataclasses.replace(one.design, stack=stack)
    return dataclasses.replace(one, design=design, request=dataclasses.replace(one.request, tag=tag))


def test_the_verdict_is_among_what_engines_run(card: Card) -> None:
    research, engine, now = (
        of_stack(moved(card.best, factor), stack)
        for factor, stack in ((1.0, "streams"), (2.0, "vllm"), (3.0, "llama-cpp"))
    )
    found = ranking_of([research, engine, now], now, "request")
    assert (found.best, found.possible) == (engine, research)
    assert found.verdict().startswith(f"Change to {engine.design}: 1.50 times")
    assert f"{research.design}, 2.00 times as good as that" in found.verdict()
    assert "no engine runs it." in found.verdict()
    assert "measured" not in found.verdict()


def test_who_runs_no_engine_today_is_not_held_to_engines(card: Card) -> None:
    research, now = of_stack(moved(card.best, 1.0), "streams"), of_stack(moved(card.best, 2.0), "streams")
    engine = of_stack(moved(card.best, 3.0), "vllm")
    found = ranking_of([research, now, engine], now, "request")
    assert (found.best, found.beside) == (research, ())


def test_where_a_stack_was_measured_the_verdict_is_among_its_designs_and_what_runs_now(card: Card) -> None:
    claimed = of_stack(moved(card.best, 1.0), "ktransformers")
    fitted = of_stack(moved(card.best, 2.0), "vllm", "fitted")
    now = of_stack(moved(card.best, 3.0), "llama-cpp")
    found = ranking_of([claimed, fitted, now], now, "request")
    assert (found.ranked, found.beside) == ((fitted, now), (claimed,))
    assert "unmeasured here" in found.verdict()
    assert "no engine" not in found.verdict()
    slower = ranking_of([moved(claimed, 9.0), fitted, now], now, "request")
    assert slower.possible is None
    assert "Possible" not in slower.verdict()
