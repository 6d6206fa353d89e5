"""Missing experts whole, in fewer bits or not at all, by their gate scores."""

from __future__ import annotations

import dataclasses
import re

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

import pregate
from hwmodels.cost import price
from hwmodels.platform import load_platform
from offload.answers.by_score import ByScore, Scored, unimportance
from offload.caches.gate_output import stated_weights
from offload.ops import OpKind
from offload.policies import policy_named
from offload.policy import MissAction, Policy
from pregate.ask.capturing.capture import capture
from tests.command_line import Run
from tests.engines import timed_alike
from tests.small_models import decoder_only, routing
from traces.errors import InvalidInput
from traces.routing import RoutingTrace

MODEL = decoder_only(n_experts=8, top_k=4)
HW = load_platform("rtx-4090", "streams")


def weighed(shares: list[float], batch: int = 1) -> RoutingTrace:
    """A trace whose tokens all weigh their experts so, in rank order."""
    trace = routing(MODEL, batch=batch, seed=2)
    weights = np.broadcast_to(np.array(shares, np.float32), trace.experts.shape)
    return dataclasses.replace(trace, gate_weights=weights)


@given(seed=st.integers(0, 10**6), n_tokens=st.integers(1, 5))
def test_unimportance_is_what_is_before_an_expert_for_the_token_that_needs_it_most(seed: int, n_tokens: int) -> None:
    rng = np.random.default_rng(seed)
    chosen = rng.random((n_tokens, 8)).argsort(axis=1)[:, :4].astype(np.int16)
    chosen[rng.random(chosen.shape) < 0.2] = -1
    weights = rng.integers(0, 4, chosen.shape).astype(np.float32)
    wanted = [1.0] * 8
    for experts, own in zip(chosen.tolist(), weights.tolist(), strict=True):
        pairs = [(weight, expert) for expert, weight in zip(experts, own, strict=True) if expert >= 0]
        if not sum(weight for weight, _ in pairs):
            pairs = [(1.0, expert) for _, expert in pairs]
        before, total = 0.0, sum(weight for weight, _ in pairs)
        for weight, expert in sorted(pairs, key=lambda pair: -pair[0]):
            wanted[expert] = min(wanted[expert], before / total)
            before += weight
    assert unimportance(chosen, weights, 8) == pytest.approx(wanted)


def test_the_first_comes_whole_the_next_in_a_quarter_of_the_bits_and_the_last_not() -> None:
    """Shares .55, .25, .15, .05: before them are 0, .55, .8 and .95."""
    decoded = capture(MODEL, HW, weighed([0.55, 0.25, 0.15, 0.05]), "mixed_precision+lru:1").decoded
    schedule, stored = decoded.schedule, MODEL.expert_dtype.bits
    works = np.array([work.weight_bits for work in schedule.works])
    for step in np.unique(schedule.step[schedule.kind == OpKind.HEAD])[1:]:
        for layer in MODEL.decoder.moe_layers:
            here = (schedule.step == step) & (schedule.layer == layer)
            computed = works[schedule.cost[here & (schedule.kind == OpKind.EXPERTS)]]
            assert sorted(computed) in ([stored / 4, stored, stored], [stored / 4, stored, stored, stored])
            sizes = schedule.bytes[here & (schedule.kind == OpKind.FETCH)].tolist()
            assert set(sizes) <= {MODEL.expert_bytes, MODEL.expert_bytes // 4}
            assert len(sizes) <= 3
    assert decoded.n_hits < decoded.n_lookups


def test_what_is_resident_is_never_skipped() -> None:
    whole = MODEL.n_moe_layers * MODEL.n_experts
    trace = weighed([0.9, 0.08, 0.01, 0.01])
    decoded = capture(MODEL, HW, trace, policy_named(f"mixed_precision+static:{whole}")).decoded
    assert decoded.n_hits == decoded.n_lookups
    assert not np.any(decoded.schedule.kind == OpKind.FETCH)


def test_weights_of_a_trace_without_any_are_drawn_as_stated() -> None:
    chosen = np.tile(np.array([3, 1, -1, 2], np.int16), (5000, 1))
    drawn = stated_weights(4, 2, chosen, 8)
    assert np.array_equal(drawn, stated_weights(4, 2, chosen, 8))
    assert not np.array_equal(drawn, stated_weights(5, 2, chosen, 8))
    assert drawn.sum(axis=1) == pytest.approx(1.0)
    assert np.all(drawn[:, 2] == 0)
    assert np.all(drawn[:, 0] >= drawn[:, 1])
    logits = np.sort(np.random.default_rng(1).standard_normal((200_000, 8)), axis=1)[:, ::-1][:, :4]
    shares = np.exp(logits) * [1, 1, 0, 1]
    shares /= shares.sum(axis=1, keepdims=True)
    assert drawn.mean(axis=0) == pytest.approx(shares.mean(axis=0), abs=0.01)


def test_all_interpreters_agree_and_fewer_bytes_move() -> None:
    trace = routing(MODEL, batch=2, seed=3, output_tokens=6)
    mixed, plain = (capture(MODEL, HW, trace, text).decoded for text in ("mixed_precision+lfu:6", "on_demand+lfu:6"))
    timed_alike(mixed.schedule, price(mixed.schedule.works, HW))
    assert mixed.schedule.bytes.sum() < plain.schedule.bytes.sum()


def test_with_one_expert_a_token_nothing_is_cut() -> None:
    model = decoder_only(n_experts=8, top_k=1)
    trace = routing(model, batch=2)
    mixed, plain = (capture(model, HW, trace, text).decoded for text in ("mixed_precision+lfu:6", "on_demand+lfu:6"))
    assert mixed.schedule == plain.schedule


def test_results_say_that_the_output_is_not_exact(run: Run) -> None:
    trace = routing(MODEL, batch=1)
    assert pregate.simulate(MODEL, HW, trace, "mixed_precision+lfu:6").output == "approximate"
    assert pregate.simulate(MODEL, HW, trace, "on_demand").output == "exact"
    words = ["compare", "mixtral-mini-8", "--hardware", "rtx-4090", "--output-tokens", "2", "--policies"]
    status, out, _ = run(*words, "on_demand,mixed_precision+lfu:4")
    assert status == 0
    assert "approximate" in out
    assert re.search(r"mixed_precision\+lfu:4 \(\S+ tokens/s\) skips or rounds experts", out)
    assert "approximate" not in run(*words, "on_demand")[1]


def test_what_cannot_be_done_is_refused(run: Run) -> None:
    with pytest.raises(InvalidInput, match="0 <= high <= low"):
        ByScore(0.9, 0.6, 4)
    with pytest.raises(InvalidInput, match="device, on the host or nowhere"):
        MissAction("moon")
    with pytest.raises(InvalidInput, match="on the nowhere"):
        MissAction("nowhere", bits=4)
    with pytest.raises(InvalidInput, match="take a stack that runs experts one by one"):
        capture(
            MODEL, load_platform("rtx-4090", "fastertransformer"), weighed([0.55, 0.25, 0.15, 0.05]), "mixed_precision"
        )
    status, out, err = run("run", "mixtral-mini-8", "--policy", "mixed_precision+lfu:4", "--output-tokens", "2",
                           "--backend", "cpu", "--link", "2GB/s")  # fmt: skip
    assert (status, out) == (2, "")
    assert "skips or rounds experts" in err


def test_skipping_everything_leaves_the_shared_experts() -> None:
    model = decoder_only(n_shared=1)
    policy = Policy("none", on_miss=lambda view, missing: dict.fromkeys(missing, MissAction.SKIP), is_exact=False)
    schedule = capture(model, HW, routing(model), policy).decoded.schedule
    assert not np.any(schedule.kind == OpKind.FETCH)
    assert np.any(schedule.kind == OpKind.EXPERTS)


def test_thresholds_and_bits_are_typed() -> None:
    assert policy_named("mixed_precision").start == Scored(0.6, 0.9, None)
    stated = policy_named("mixed_precision:high=0.3:low=0.5:bits=4+lru:5")
    assert stated.start == Scored(0.3, 0.5, 4.0)
    assert stated.name == "mixed_precision:high=0.3:low=0.5:bits=4+lru:5"
    assert policy_named(stated.name) == stated


@pytest.mark.parametrize(
    "text",
    ["mixed_precision:high=0.9:low=0.5", "mixed_precision:low=1.1", "mixed_precision:bits=0", "mixed_precision:high=-1",
     "mixed_precision:bits=65", "mixed_precision:high=", "mixed_precision:high=0.1:high=0.2", "pregate:bits=4"],
)  # fmt: skip
def test_thresholds_that_cannot_be_are_refused(text: str) -> None:
    with pytest.raises(InvalidInput):
        policy_named(text)


def test_fewer_bits_move_fewer_bytes() -> None:
    trace = routing(decoder_only(top_k=3), batch=2)
    moved = [
        pregate.simulate(decoder_only(top_k=3), load_platform("rtx-4090", "streams"), trace, policy).h2d_bytes
        for policy in (
            "on_demand",
            "mixed_precision:high=0:low=1:bits=8+lru:4",
            "mixed_precision:high=0:low=1:bits=2+lru:4",
        )
    ]
    assert moved[0] > moved[1] > moved[2] > 0
