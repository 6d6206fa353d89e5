"""Guesses at the next layer: how often they are right, where they wait, and what a cache makes of them."""

from __future__ import annotations

import numpy as np
import pytest

import pregate
from hwmodels.cost import price
from hwmodels.platform import load_platform
from offload.decode import decode
from offload.execution import EXECUTIONS
from offload.ops import OpKind
from offload.policies import policy_named
from offload.policies.lru_next_gate import lru_next_gate
from offload.policy import BlockView
from offload.predictors import NextGate
from pregate.ask.capture import capture
from simulator import recurrence
from tests.small_models import MODELS, routing
from traces.errors import InvalidInput

MODEL = MODELS["decoder-only"]
HW = load_platform("rtx-4090", "streams")


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


def test_wrong_guesses_brought_as_one_run_all_give_their_slots_up() -> None:
    """Where experts of a layer are one op, wrong guesses beside each other are one copy."""
    trace = routing(MODEL, batch=1, output_tokens=6)

    def prefetch(view: BlockView) -> list[pregate.Fetch]:
        later = view.block + 1
        if later == view.n_blocks:
            return []
        named = set(trace.experts[trace.step == view.i_step, later].ravel().tolist())
        return [pregate.Fetch(later, tuple(sorted(set(range(MODEL.n_experts)) - named)), aside=True)]

    policy = pregate.Policy("wrong", prefetch=prefetch)
    n_buffers = MODEL.n_experts
    decoded = decode(MODEL, trace.steps(), policy, EXECUTIONS["vllm"], n_buffers=n_buffers)
    schedule = decoded.schedule
    assert any(work.n_copies > 1 for work in schedule.works)
    costs = price(schedule.works, HW)
    _, level = recurrence.simulate(schedule, costs).hbm_events()
    assert level.max() <= n_buffers * MODEL.expert_bytes
    assert level[-1] == 0
