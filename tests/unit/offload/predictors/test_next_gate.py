"""Guesses at the next layer: how often they are right, where they wait, and what a cache makes of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

import pregate
from hwmodels.platform import load_platform
from offload.decode import decode
from offload.execution import EXECUTIONS
from offload.ops import OpKind
from offload.placing.workload import measure_workload
from offload.policies import policy_named
from offload.policies.lru_next_gate import lru_next_gate
from offload.policy import BlockView, Buffers
from offload.predictors.activation_matrices import ActivationMatrices
from offload.predictors.curves import curve_named
from offload.predictors.next_gate import CurveGate, NextGate
from pregate.ask.capturing.capture import capture
from tests.small_models import MODELS, routing
from traces.errors import InvalidInput, UnknownName
from traces.routing import RoutingTrace

MODEL = MODELS["decoder-only"]
HW = load_platform("rtx-4090", "streams")


def test_guesses_of_few_tokens_are_kept_and_nobody_can_spoil_them(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen, drawn = np.array([[5, 1]], np.int16), list[int]()
    make = NextGate._guessed
    monkeypatch.setattr(NextGate, "_guessed", lambda gate, *rest: drawn.append(rest[0]) or make(gate, *rest))
    first = NextGate(0.3)(91, 2, chosen, 16)
    wanted = first.copy()
    first[:] = -1
    assert np.array_equal(NextGate(0.3)(91, 2, chosen.copy(), 16), wanted)
    assert drawn == [91]
    for other in (NextGate(0.3, seed=1), NextGate(0.4), NextGate(0.3, more=1)):
        other(91, 2, chosen, 16)
    NextGate(0.3)(91, 2, chosen[:, ::-1], 16)
    assert drawn == [91] * 5
    many = np.zeros((40, 2), np.int16)
    assert np.array_equal(NextGate(0.3)(91, 2, many, 16), NextGate(0.3)(91, 2, many, 16))
    assert drawn == [91] * 7


@pytest.mark.parametrize("recall", [0.0, 0.6, 1.0])
def test_guesses_are_right_as_often_as_was_measured(recall: float) -> None:
    rng = np.random.default_rng(0)
    chosen = np.argsort(rng.random((4000, 32)), axis=1)[:, :4].astype(np.int16)
    guessed = NextGate(recall)(0, 3, chosen, 32)
    assert np.all((guessed >= 0) & (guessed < 32))
    assert all(len(set(row)) == 4 for row in guessed.tolist())
    right = (guessed[:, :, None] == chosen[:, None, :]).any(axis=2).mean()
    assert right == pytest.approx(recall, abs=0.02)
    assert np.array_equal(guessed, NextGate(recall)(0, 3, chosen, 32))
    assert recall == 1.0 or not np.array_equal(guessed, NextGate(recall)(1, 3, chosen, 32))


def test_where_every_expert_is_chosen_no_guess_is_wrong() -> None:
    chosen = np.array([[0, 1, 2], [0, 1, -1]], np.int16)
    guessed = NextGate(0.0)(0, 0, chosen, 3)
    assert guessed[0].tolist() == [-1, -1, -1]
    assert guessed[1].tolist() == [2, -1, -1]


def test_a_view_shows_guesses_of_later_blocks_only() -> None:
    seen: list[list[bool]] = []

    def prefetch(view: BlockView) -> list[pregate.Fetch]:
        seen.append([view.predicted(block) is not None for block in range(view.n_blocks)])
        return []

    policy = pregate.Policy("looks", prefetch=prefetch, predictor=NextGate(1.0))
    capture(MODEL, HW, routing(MODEL), policy)
    assert seen[:3] == [[False, True, True], [False, False, True], [False, False, False]]
    seen.clear()
    capture(MODEL, HW, routing(MODEL), pregate.Policy("looks", prefetch=prefetch))
    assert not any(map(any, seen))


def test_a_second_gate_runs_in_every_block_but_the_last() -> None:
    trace = routing(MODEL, output_tokens=4)
    gates = [
        int(np.count_nonzero(capture(MODEL, HW, trace, design).decoded.schedule.kind == OpKind.GATE))
        for design in ("lru", "lru_next_gate")
    ]
    n_passes = len(np.unique(trace.step))
    assert gates[1] - gates[0] == n_passes * (MODEL.n_moe_layers - 1)


def fetches(design: str, seed: int = 1) -> tuple[int, int]:
    """Copies of experts, and hits in decode steps."""
    trace = routing(MODEL, seed=seed, input_tokens=1, output_tokens=20)
    decoded = capture(MODEL, HW, trace, design).decoded
    return int(np.count_nonzero(decoded.schedule.kind == OpKind.FETCH)), decoded.n_hits


def test_a_right_guess_moves_nothing_that_an_lru_would_not() -> None:
    """Perfect guesses bring what is missing, early; the cache keeps the same experts, so as many copies are made."""
    plain, sure = fetches("on_demand+lru:9:per_layer"), fetches("lru_next_gate:recall=1+lru:9:per_layer")
    assert sure == plain


def test_a_wrong_guess_evicts_nothing() -> None:
    """Guesses that are never right cost copies, and leave the cache as it would be without them."""
    plain, wrong = fetches("on_demand+lru:9:per_layer"), fetches("lru_next_gate:recall=0+lru:9:per_layer")
    assert wrong[1] == plain[1]
    assert wrong[0] > plain[0]


def test_right_guesses_hide_copies_and_wrong_ones_delay_them() -> None:
    """On a link that is not saturated a right guess is there in time; wrong ones queue before what is needed."""
    model = pregate.load_model("mixtral-8x7b", dtype="int4-g128")
    trace = pregate.synthesize(model, input_tokens=8, output_tokens=6, batch=1, seed=0)
    hw = load_platform("rtx-4090", "streams", {"link.h2d_bytes_per_s": 400e9})
    tpot = {
        recall: pregate.simulate(model, hw, trace, f"lru_next_gate:recall={recall}+lru:0.25:per_layer").tpot_s
        for recall in (0, 0.5, 1)
    }
    plain = pregate.simulate(model, hw, trace, "on_demand+lru:0.25:per_layer").tpot_s
    assert tpot[1] < tpot[0.5] < tpot[0]
    assert tpot[1] < plain < tpot[0]


def test_no_more_guesses_wait_than_there_are_staging_buffers() -> None:
    asked = capture(MODEL, HW, routing(MODEL), "lru_next_gate+lru:6:per_layer").request
    assert asked.plan.n_buffers == 4
    assert asked.plan.n_cache_slots == 6


def test_recall_is_in_the_name_and_within_limits() -> None:
    assert policy_named("lru_next_gate:recall=0.9") == lru_next_gate(0.9)
    assert policy_named("lru_next_gate") == lru_next_gate()
    with pytest.raises(InvalidInput, match="recall"):
        NextGate(1.5)
    with pytest.raises(InvalidInput, match="seed"):
        NextGate(0.5, seed=-1)


def test_wrong_guesses_that_came_as_one_run_give_all_their_slots_up() -> None:
    """All experts but the chosen are guessed where a block is one op: copies in runs, none of them read."""

    def wrong(view: BlockView) -> list[pregate.Fetch]:
        after = view.block + 1
        guessed = view.predicted(after)
        if guessed is None:
            return []
        return [pregate.Fetch(after, tuple(sorted(set(guessed[guessed >= 0].tolist()))), aside=True)]

    policy = pregate.Policy(
        "wrong", prefetch=wrong, predictor=NextGate(0.0, more=2), buffers=lambda n, n_experts: Buffers(n, n + n_experts)
    )
    for stack in ("fastertransformer", "vllm"):
        hw = load_platform("rtx-4090", stack)
        decoded = capture(MODEL, hw, routing(MODEL, batch=1, output_tokens=9), policy).decoded
        schedule = decoded.schedule
        assert schedule.hbm_acquired.sum() == schedule.hbm_released.sum()
        n_copies = np.array([work.n_copies for work in schedule.works])[schedule.cost]
        assert n_copies[schedule.kind == OpKind.FETCH].max() > 1


def of_wrong_guesses(word: str) -> tuple[pregate.SimulationResult, RoutingTrace]:
    """One result of guesses that are never right, what is missing being answered as `word` says."""
    trace = routing(MODEL, input_tokens=1, output_tokens=20)
    return pregate.simulate(MODEL, HW, trace, f"guess/next_gate:recall=0{word}+lru:4:per_layer"), trace


def test_only_what_is_executed_instead_changes_the_output() -> None:
    """Fetched late or computed by the host the right experts are executed; else a result says of how many choices."""
    for word in ("", ":cpu"):
        result, _ = of_wrong_guesses(word)
        assert (result.output, result.changed_share) == ("exact", 0.0)
    for word in (":guessed", ":resident"):
        result, _ = of_wrong_guesses(word)
        assert result.output == "approximate"
        assert 0 < result.changed_share < 1
    fetched = {word: of_wrong_guesses(word)[0].h2d_bytes for word in ("", ":guessed", ":resident", ":cpu")}
    assert fetched[":resident"] < fetched[""]
    assert fetched[":guessed"] < fetched[""]


@pytest.mark.parametrize("word", ["guessed", "resident"])
def test_an_expert_executed_instead_is_there_and_no_token_has_it_twice(word: str) -> None:
    """Every (step, layer) executes as many experts as its tokens chose, those that were there before its gate."""
    trace = routing(MODEL, input_tokens=1, output_tokens=20)
    decoded = capture(MODEL, HW, trace, f"guess/next_gate:recall=0:{word}+lru:4:per_layer").decoded
    schedule, layers, n_changed = decoded.schedule, MODEL.decoder.moe_layers, 0
    ffn = (schedule.kind == OpKind.EXPERTS) & (schedule.expert >= 0)
    for step in trace.steps():
        for i, layer in enumerate(layers):
            mine = ffn & (schedule.step == step.i_step) & (schedule.layer == layer)
            executed, chosen = schedule.expert[mine].tolist(), set(step.experts[:, i].ravel().tolist())
            assert len(executed) == len(set(executed)) == len(chosen)
            n_changed += len(chosen - set(executed))
    assert n_changed == decoded.n_changed > 0


def test_what_is_executed_instead_must_be_there() -> None:
    def moon(view: BlockView, missing: Sequence[int]) -> Mapping[int, pregate.MissAction]:
        absent = [e for e in range(view.n_experts) if not view.resident(view.block, e) and e not in missing]
        return {e: pregate.MissAction(instead=absent[0]) for e in missing}

    with pytest.raises(InvalidInput, match="not on the device either"):
        capture(MODEL, HW, routing(MODEL), pregate.Policy("moon", on_miss=moon))
    with pytest.raises(InvalidInput, match="nothing is fetched"):
        pregate.MissAction("host", instead=1)
    with pytest.raises(InvalidInput, match="nothing is fetched"):
        pregate.MissAction(bits=4.0, instead=1)


def test_the_runtime_refuses_what_the_gates_did_not_choose() -> None:
    pytest.importorskip("torch", reason="the runtime needs PyTorch (the extra 'runtime')")
    with pytest.raises(InvalidInput, match="executes other experts"):
        pregate.run(MODEL, routing(MODEL), "guess/next_gate:recall=0:resident+lru:4:per_layer")


@pytest.mark.parametrize("name", ["markov", "maps", "learned", "matrices"])
def test_a_predictor_that_learns_as_it_serves_brings_what_follows(name: str) -> None:
    """Every layer chooses what the layer before did: after a few tokens what is missing was brought ahead."""
    trace = routing(MODEL, input_tokens=1, output_tokens=40)
    experts = np.repeat(trace.experts[:, :1], trace.n_moe_layers, axis=1)
    alike = dataclasses.replace(trace, experts=experts)
    schedule = capture(MODEL, HW, alike, f"guess/{name}").decoded.schedule
    late = (schedule.kind == OpKind.FETCH) & (schedule.layer > MODEL.decoder.moe_layers[0]) & (schedule.step > 25)
    ahead = late & (schedule.priority == 1)
    assert ahead.sum() / late.sum() > (0.4 if name == "matrices" else 0.85)
    shuffled = capture(MODEL, HW, alike, "guess/shuffled_markov").decoded.schedule
    assert np.count_nonzero(shuffled.kind == OpKind.FETCH) > np.count_nonzero(schedule.kind == OpKind.FETCH) * 0.9


def test_a_run_learns_anew() -> None:
    first, second = (capture(MODEL, HW, routing(MODEL), "guess/learned").decoded.schedule for _ in range(2))
    assert first == second


def test_curves_are_as_published_and_say_only_what_they_say() -> None:
    curve = curve_named("adapmoe")
    assert curve.recall(1) == 0.5663
    assert curve.recall(31) == 0.8503
    assert curve.recall(32) == pytest.approx(0.8656, abs=5e-5)  # the mean of 31, as the source says
    with pytest.raises(InvalidInput, match="only of 1 ahead with m = 0"):
        curve.recall(1, more=2)
    rng = np.random.default_rng(0)
    chosen = np.argsort(rng.random((4000, 8)), axis=1)[:, :2].astype(np.int16)
    for layer in (1, 17):
        guessed = CurveGate(curve)(0, layer, chosen, 8)
        found = (guessed[:, :, None] == chosen[:, None, :]).any(axis=2).mean()
        assert found == pytest.approx(curve.recall(layer), abs=0.02)


def test_measured_curves_are_those_of_the_committed_run() -> None:
    """Four presets, by lookahead and block; a trained map names more than a gate reused, and less further ahead."""
    study = pregate.load_gate_study(Path(__file__).parents[4] / "results" / "pregated-2026-11-28.json")
    for gates, suffix in (("conventional", ""), ("predictable", "_predictable")):
        for predictor in ("reuse", "trained"):
            curve = curve_named(f"pregated_{predictor}{suffix}")
            assert ("6 MoE blocks, 8 experts, top-1" in curve.model, curve.date) == (True, "2026-11-28")
            rows = [r for r in study.findings["recall"] if (r["model"], r["predictor"]) == (gates, predictor)]
            found = {(r["lookahead"], r["block"]): r["mean"] for r in rows if r["block"] is not None}
            assert {(p.ahead, p.layer): p.recall for p in curve.points} == pytest.approx(found, abs=5e-5)
            for ahead in (1, 2, 3):
                assert curve.recall(31, ahead) == pytest.approx(study.recall(predictor, ahead, gates), abs=5e-5)
            with pytest.raises(InvalidInput, match="says nothing of 4 ahead"):
                curve.recall(1, ahead=4)
    result = pregate.simulate(MODEL, HW, routing(MODEL), "guess/next_gate(2):curve=pregated_trained")
    assert result.prefetches is not None
    assert result.prefetches.n_ahead > 0


def test_more_guesses_are_other_experts() -> None:
    chosen = np.argsort(np.random.default_rng(0).random((500, 9)), axis=1)[:, :3].astype(np.int16)
    plain, more = NextGate(0.6)(4, 2, chosen, 9), NextGate(0.6, more=4)(4, 2, chosen, 9)
    assert np.array_equal(more[:, :3], plain)
    assert all(len(set(row) - {-1}) == np.count_nonzero(np.array(row) >= 0) for row in more.tolist())
    assert not (more[:, 3:, None] == chosen[:, None]).any()
    assert (NextGate(0.6, more=9)(4, 2, chosen, 9)[:, 9:] == -1).all()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("guess/markov(0)", "at least 1"),
        ("guess/markof", "did you mean 'guess/markov'"),
        ("guess/markov:more=-1", "not a number of experts"),
        ("guess/markov:more=1:more=2", "twice"),
        ("guess/markov:recall=0.5", "only lru_next_gate"),
        ("guess/next_gate:recall=0.5:curve=adapmoe", "not both"),
        ("guess/next_gate:curve=adapmo", "did you mean 'adapmoe'"),
        ("guess/next_gate(2):curve=adapmoe", "says nothing of 2 ahead"),
        ("guess/maps:encoder", "in a decoder only"),
        ("activation_aware:encoder", "in a decoder only"),
        ("oracle(0)", "at least 1"),
    ],
)
def test_mistyped_guesses_are_one_clear_line(text: str, message: str) -> None:
    with pytest.raises((InvalidInput, UnknownName), match=message):
        policy_named(text)


def test_what_was_brought_ahead_is_counted_by_hand() -> None:
    """One gate's named experts against what was copied before it ran, op by op; a stream and a timeline agree."""
    trace = routing(MODEL, input_tokens=1, output_tokens=20)
    design = "guess/next_gate:recall=0.5:more=1+lru:4:per_layer"
    result = pregate.simulate(MODEL, HW, trace, design)
    assert result.timeline is not None
    assert result.prefetches is not None
    schedule, end_s = result.timeline.schedule, result.timeline.end_s
    named = {
        (step.i_step, layer): set(step.experts[:, i].ravel().tolist())
        for step in trace.steps()
        for i, layer in enumerate(MODEL.decoder.moe_layers)
    }
    ahead = np.flatnonzero((schedule.kind == OpKind.FETCH) & (schedule.priority == 1)).tolist()
    right = [op for op in ahead if schedule.expert[op] in named[int(schedule.step[op]), int(schedule.layer[op])]]
    early = []
    for op in right:
        same = (schedule.step == schedule.step[op]) & (schedule.layer == schedule.layer[op])
        early.append(end_s[np.flatnonzero(same & (schedule.kind == OpKind.GATE))[0]] - end_s[op])
    found = result.prefetches
    assert (found.n_ahead, found.n_right) == (len(ahead), len(right))
    assert found.wasted_bytes == (len(ahead) - len(right)) * MODEL.expert_bytes
    late = (schedule.kind == OpKind.FETCH) & (schedule.priority == 0)
    assert found.n_missing == len(right) + np.count_nonzero(late)
    assert found.oracle_bytes == found.n_missing * MODEL.expert_bytes
    assert found.early_s == pytest.approx(np.mean(early))
    assert found.in_time == pytest.approx(np.mean(np.array(early) >= 0))
    assert (found.precision, found.recall) == (len(right) / len(ahead), len(right) / found.n_missing)
    streamed = pregate.simulate(MODEL, HW, trace, design, engine="stream").prefetches
    assert streamed is not None
    assert streamed.to_dict() == pytest.approx(found.to_dict())
    assert result.to_dict()["prefetches"]["precision"] == found.precision


def test_policies_that_do_not_guess_report_no_guesses() -> None:
    for design in ("on_demand", "pregate(2)+lru:4", "prefetch_all", "gpu_only", "oracle"):
        assert pregate.simulate(MODEL, HW, routing(MODEL), design).prefetches is None


def test_guesses_of_later_blocks_give_way_to_what_is_needed_now() -> None:
    """As few slots as one block needs, three blocks guessed ahead: nothing gets stuck, and all slots come back."""
    trace = routing(MODEL, batch=1, output_tokens=12)
    n_active = measure_workload(MODEL, trace.steps()).n_active
    for stack in ("fastertransformer", "streams"):
        for name in ("guess/uniform(3):more=2", "finemoe:more=1", "activation_aware"):
            policy = dataclasses.replace(policy_named(name), cache=None)
            decoded = decode(MODEL, trace.steps(), policy, EXECUTIONS[stack], n_buffers=n_active)
            schedule = decoded.schedule
            assert schedule.hbm_acquired.sum() == schedule.hbm_released.sum()
            assert decoded.n_hits == 0


def test_each_part_of_a_prompt_is_a_pass_that_predictors_learn_from(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[int] = []
    begin = ActivationMatrices.begin
    monkeypatch.setattr(ActivationMatrices, "begin", lambda one, now: told.append(len(now.group)) or begin(one, now))
    trace = routing(MODEL, input_tokens=20, output_tokens=3)
    pregate.simulate(MODEL, HW, trace, "activation_aware@ubatch=8")
    assert told == [8, 8, 4, 1, 1]


def test_what_was_brought_for_a_part_of_a_prompt_is_judged_by_its_gates_alone() -> None:
    trace = routing(MODEL, input_tokens=20, output_tokens=3)
    result = pregate.simulate(MODEL, HW, trace, "guess/markov@ubatch=1")
    assert result.timeline is not None
    assert result.prefetches is not None
    schedule, of_tokens = result.timeline.schedule, trace.experts
    n_gates, waiting, n_right = [0] * MODEL.decoder.n_layers, dict[int, list[int]](), 0
    for kind, layer, expert, priority in zip(
        schedule.kind, schedule.layer, schedule.expert, schedule.priority, strict=True
    ):
        if kind == OpKind.FETCH and priority > 0:
            waiting.setdefault(layer, []).append(expert)
        elif kind == OpKind.GATE:
            block = MODEL.decoder.moe_layers.index(layer)
            n_right += sum(one in of_tokens[n_gates[layer], block] for one in waiting.pop(layer, ()))
            n_gates[layer] += 1
    assert n_gates[MODEL.decoder.moe_layers[0]] == len(of_tokens)
    assert 0 < result.prefetches.n_right == n_right < result.prefetches.n_ahead
