"""Throw-away policies that prove the seam: misses on the CPU or in fewer bits, guesses, memory, the next step."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from hwmodels.cost import price
from hwmodels.platform import Platform, load_platform
from offload.caches.eviction import Static
from offload.caches.residency import ResidentSet
from offload.decode import Decoded, decode
from offload.execution import EXECUTIONS
from offload.ops import Lane, OpKind
from offload.policies import cache_named, policy_named
from offload.policy import BlockView, Buffers, Decisions, Fetch, MissAction, Policy, RunFacts
from offload.schedule import Schedule
from offload.timeline import Timeline
from pregate.ask.capturing.capture import capture
from simulator.definition import des
from tests.small_models import MODELS, TRIED, routing
from traces.errors import InvalidInput

MODEL = MODELS["decoder-only"]
STREAMS = EXECUTIONS["streams"]
FAST = load_platform("rtx-4090")
SLOW_LINK = load_platform("rtx-4090", overrides={"link.h2d_bytes_per_s": 1e8})


def cheaper_on_cpu(view: BlockView, missing: Sequence[int]) -> Mapping[int, MissAction]:
    """Fiddler's rule with plain numbers: the CPU takes an expert that serves fewer than two tokens."""
    tokens = dict(zip(view.active, view.tokens, strict=True))
    return {expert: MissAction.CPU if tokens[expert] < 2 else MissAction.FETCH for expert in missing}


def guess_next(p_right: float, seed: int) -> Policy:
    """The next block's gate on this block's hidden state, right with probability `p_right` an expert."""
    rng = np.random.default_rng(seed)

    def prefetch(view: BlockView) -> Sequence[Fetch]:
        if view.block + 1 == view.n_blocks:
            return ()
        guess = {int(e) if rng.random() < p_right else int(rng.integers(view.n_experts)) for e in view.active}
        return [Fetch(view.block + 1, tuple(sorted(guess)))]

    return Policy("guess", prefetch=prefetch, buffers=lambda n, n_experts: Buffers(n, 2 * n_experts))


def run(policy: Policy, batch: int, execution: str, hw: Platform = FAST) -> tuple[Decoded, Timeline]:
    decoded = decode(MODEL, routing(MODEL, batch=batch, seed=5).steps(), policy, EXECUTIONS[execution], n_buffers=12)
    costs = price(decoded.schedule.works, hw)
    return decoded, des.simulate(decoded.schedule, costs, 1 << 40)


@pytest.mark.parametrize("execution", TRIED)
def test_misses_on_the_cpu_never_cross_the_link_and_hold_up_the_layer(execution: str) -> None:
    decoded, timeline = run(Policy("cpu", on_miss=cheaper_on_cpu), 3, execution)
    schedule = decoded.schedule
    on_cpu = np.flatnonzero(schedule.kind == OpKind.CPU_EXPERT)
    fetched = np.flatnonzero(schedule.kind == OpKind.FETCH)
    assert len(on_cpu)
    assert len(fetched)
    assert set(schedule.lane[on_cpu].tolist()) == {Lane.CPU}
    assert len(on_cpu) + len(fetched) == decoded.n_lookups + decoded.n_prefill_lookups
    for op in on_cpu.tolist():  # results go back together, after the last of the block
        after = [op]
        for kind in (OpKind.RETURN, OpKind.EXPERTS):
            same = (schedule.step == schedule.step[op]) & (schedule.layer == schedule.layer[op])
            after.append(int(np.flatnonzero(same & (schedule.kind == kind))[-1]))
        assert after[1] in schedule.deps(after[2]).tolist()
        assert np.all(np.diff(timeline.start_s[after]) > 0)
        assert timeline.start_s[after[1]] >= timeline.end_s[op]
        assert timeline.start_s[after[2]] >= timeline.end_s[after[1]]


@pytest.mark.parametrize("execution", TRIED)
@pytest.mark.parametrize("p_right", [0.0, 0.5, 1.0])
def test_wrong_guesses_cost_link_time_and_the_right_experts_still_come(p_right: float, execution: str) -> None:
    decoded, timeline = run(guess_next(p_right, seed=1), 2, execution)
    exact, _ = run(policy_named("on_demand"), 2, execution)
    schedule = decoded.schedule
    brought, needed = (_fetched_bytes(each) for each in (schedule, exact.schedule))
    assert brought >= needed
    assert brought % MODEL.expert_bytes == 0  # two that nobody asks for may be one copy
    assert brought // MODEL.expert_bytes >= np.count_nonzero(schedule.kind == OpKind.FETCH)
    _, level = timeline.hbm_events()
    assert level.min() >= 0
    assert level[-1] == 0
    if p_right == 0.0:
        assert brought > needed


def _fetched_bytes(schedule: Schedule) -> int:
    return int(schedule.bytes[schedule.kind == OpKind.FETCH].sum())


def test_a_prefetch_of_the_past_or_of_nothing_is_refused() -> None:
    for fetch in (Fetch(0, (1,)), Fetch(1, (99,)), Fetch(7, (0,))):
        policy = Policy("bad", prefetch=lambda view, fetch=fetch: [fetch] if view.block else [])
        with pytest.raises(InvalidInput, match="bad"):
            run(policy, 1, "streams")


def test_a_view_reveals_what_gates_have_selected_and_no_more() -> None:
    seen: list[tuple[int, list[bool]]] = []

    def prefetch(view: BlockView) -> Sequence[Fetch]:
        seen.append((view.block, [view.revealed(block) is not None for block in range(view.n_blocks)]))
        return ()

    run(Policy("look", lookahead=1, prefetch=prefetch), 1, "streams")
    assert seen[:3] == [(0, [True, True, False]), (1, [True, True, True]), (2, [True, True, True])]


def min_latency(cpu_s_per_token: float, copy_s: float) -> Policy:
    """Fiddler's rule: the CPU where it is quicker than the copy."""

    def on_miss(view: BlockView, missing: Sequence[int]) -> Mapping[int, MissAction]:
        tokens = dict(zip(view.active, view.tokens, strict=True))
        return {e: MissAction.CPU if tokens[e] * cpu_s_per_token < copy_s else MissAction.FETCH for e in missing}

    return Policy("min_latency", on_miss=on_miss)


@pytest.mark.parametrize("execution", TRIED)
def test_a_slow_cpu_is_on_demand_and_a_fast_one_never_fetches(execution: str) -> None:
    slow, _ = run(min_latency(1.0, 0.5), 3, execution)
    fast, timeline = run(min_latency(1.0, 1e9), 3, execution)
    on_demand, _ = run(policy_named("on_demand"), 3, execution)
    assert slow.schedule == on_demand.schedule
    assert not np.any(fast.schedule.kind == OpKind.FETCH)
    assert np.count_nonzero(fast.schedule.kind == OpKind.CPU_EXPERT) == fast.n_lookups + fast.n_prefill_lookups
    assert timeline.peak_hbm_bytes == 0


def knows_the_next(p_right: float, seed: int) -> Policy:
    """A next-gate predictor as an oracle that errs: a whole block's guess is right with probability `p_right`."""
    trace, rng = routing(MODEL, batch=1, seed=5), np.random.default_rng(seed)
    truth = {step.i_step: step.experts for step in trace.steps()}

    def prefetch(view: BlockView) -> Sequence[Fetch]:
        if view.block + 1 == view.n_blocks:
            return ()
        right = set(np.unique(truth[view.i_step][:, view.block + 1]).tolist())
        wrong = sorted(set(range(view.n_experts)) - right)[: len(right)]
        guess = sorted(right) if rng.random() < p_right or not wrong else wrong
        return [Fetch(view.block + 1, tuple(int(expert) for expert in guess))]

    return Policy("oracle that errs", prefetch=prefetch, buffers=lambda n, n_experts: Buffers(2 * n, 3 * n))


@pytest.mark.parametrize("execution", TRIED)
def test_bytes_are_the_right_and_the_wrong_ones_and_time_follows(execution: str) -> None:
    """Right guesses move what on_demand moves, sooner; wrong ones move as much again, and hold up the right."""
    needed, base = run(policy_named("on_demand"), 1, execution, SLOW_LINK)
    n_needed = np.count_nonzero(needed.schedule.kind == OpKind.FETCH)
    moved, makespan = {}, {}
    for p_right in (0.0, 0.5, 1.0):
        decoded, timeline = run(knows_the_next(p_right, seed=2), 1, execution, SLOW_LINK)
        moved[p_right] = np.count_nonzero(decoded.schedule.kind == OpKind.FETCH)
        makespan[p_right] = timeline.makespan_s
        assert timeline.schedule.hbm_acquired.sum() == timeline.schedule.hbm_released.sum()
    assert moved[1.0] == n_needed
    assert n_needed < moved[0.5] < moved[0.0]
    assert makespan[1.0] < makespan[0.5] < makespan[0.0]
    assert makespan[1.0] < base.makespan_s


def remembers() -> Policy:
    """Every block prefetches what its follower used in the step before: history, which is empty when a run starts."""

    def start(facts: RunFacts) -> Decisions:
        last: dict[int, tuple[int, ...]] = {}

        def prefetch(view: BlockView) -> Sequence[Fetch]:
            last[view.block] = view.active
            following = view.block + 1
            return [Fetch(following, last[following])] if following in last else []

        return Decisions(prefetch)

    return Policy("history", start=start, buffers=lambda n, n_experts: Buffers(2 * n, 4 * n))


def test_a_policy_that_remembers_starts_anew_with_every_run() -> None:
    policy = remembers()
    first, second = (run(policy, 1, "streams")[0].schedule for _ in range(2))
    assert first == second
    on_demand = run(policy_named("on_demand"), 1, "streams")[0].schedule
    assert first != on_demand
    brought = (first.kind == OpKind.FETCH) & (first.priority == 1)
    assert brought.any()
    assert first.step[brought].min() > 0, "nothing is remembered in the first step"


def test_the_next_step_is_a_target_of_a_prefetch() -> None:
    """The last block brings the first block's experts of the next step while it runs: guessed right, none is missed."""
    truth = {step.i_step: np.unique(step.experts[:, 0]) for step in routing(MODEL, batch=1, seed=5).steps()}

    def prefetch(view: BlockView) -> Sequence[Fetch]:
        wanted = truth.get(view.i_step + 1)
        if view.block + 1 < view.n_blocks or wanted is None:
            return ()
        return [Fetch(0, tuple(int(expert) for expert in wanted), steps_ahead=1)]

    policy = Policy("next step", prefetch=prefetch, buffers=lambda n, n_experts: Buffers(2 * n, 3 * n))
    ahead, timeline = run(policy, 1, "streams", SLOW_LINK)
    alone, base = run(policy_named("on_demand"), 1, "streams", SLOW_LINK)
    fetches = ahead.schedule.kind == OpKind.FETCH
    assert ahead.schedule.bytes.sum() == alone.schedule.bytes.sum()
    first_layer = ahead.schedule.layer == MODEL.decoder.moe_layers[0]
    assert set(ahead.schedule.step[fetches & first_layer & (ahead.schedule.priority == 0)].tolist()) == {0}
    assert timeline.makespan_s < base.makespan_s
    _, level = timeline.hbm_events()
    assert level[-1] == 0


def test_a_block_that_has_not_run_is_fetched_for_the_next_step_after_it_has() -> None:
    def prefetch(view: BlockView) -> Sequence[Fetch]:
        return [Fetch(view.n_blocks - 1, (0,), steps_ahead=1)] if view.block == 0 else []

    decoded, _ = run(Policy("early", prefetch=prefetch, buffers=lambda n, m: Buffers(2 * n, 3 * n)), 1, "streams")
    schedule = decoded.schedule
    last = MODEL.decoder.moe_layers[-1]
    brought = np.flatnonzero((schedule.kind == OpKind.FETCH) & (schedule.priority == 1))
    ffns = (schedule.kind == OpKind.EXPERTS) & (schedule.layer == last)
    for op in brought.tolist():
        own = np.flatnonzero(ffns & (schedule.step == schedule.step[op]))
        assert op > own.max(), "the block of this step is computed before"


def test_a_missing_expert_may_come_in_fewer_bits() -> None:
    stored = MODEL.expert_dtype.bits
    half = MissAction(bits=stored / 2)
    decoded, _ = run(Policy("half", on_miss=lambda view, missing: dict.fromkeys(missing, half)), 1, "streams")
    whole, _ = run(policy_named("on_demand"), 1, "streams")
    assert 2 * int(decoded.schedule.bytes[decoded.schedule.kind == OpKind.FETCH].sum()) == int(
        whole.schedule.bytes[whole.schedule.kind == OpKind.FETCH].sum()
    )
    ffns = [work for work in decoded.schedule.works if work.kind is OpKind.EXPERTS]
    assert {work.weight_bits for work in ffns} == {stored / 2}
    with pytest.raises(InvalidInput, match="half"):
        run(Policy("half", on_miss=lambda view, missing: dict.fromkeys(missing, half)), 1, "fastertransformer")


def test_a_view_has_what_every_token_chose_and_the_weights_that_the_trace_has() -> None:
    seen: list[tuple[Any, ...]] = []

    def prefetch(view: BlockView) -> Sequence[Fetch]:
        seen.append((view.block, view.active, view.chosen(view.block), view.chosen(view.block + 2), view.predicted(0)))
        return ()

    run(Policy("look", lookahead=1, prefetch=prefetch), 3, "streams")
    for _, active, chosen, hidden, predicted in seen:
        assert tuple(np.unique(chosen[chosen >= 0]).tolist()) == active
        assert chosen.shape[1] == MODEL.top_k
        assert hidden is None
        assert predicted is None


@pytest.mark.parametrize(
    ("fetches", "words"),
    [
        (None, "returned None"),
        (Fetch(1, (0,)), "not a list of Fetch"),
        ([(1, (0,))], "not a Fetch"),
        ([Fetch(1, 3)], "experts a tuple"),  # type: ignore[arg-type]
        ([Fetch(1, (0.5,))], "whole numbers"),  # type: ignore[arg-type]
        ([Fetch(1, (True,))], "whole numbers"),
        ([Fetch(1, ("0",))], "whole numbers"),  # type: ignore[arg-type]
        ([Fetch(1, (0,), 2)], "1 the next"),
        ([Fetch(99, (0,), 1)], "fetches"),
    ],
)
def test_a_prefetch_of_nonsense_is_one_line_that_names_it(fetches: Any, words: str) -> None:
    with pytest.raises(InvalidInput, match="policy bad in block 0") as caught:
        run(Policy("bad", prefetch=lambda view: fetches), 1, "streams")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda missing: {}, "forgets expert"),
        (lambda missing: None, "returned None"),
        (lambda missing: dict.fromkeys(missing, "SKIP"), "answers 'SKIP'"),
        (lambda missing: dict.fromkeys([*missing, 99], MissAction.FETCH), "not one of"),
    ],
)
def test_an_answer_to_a_miss_is_never_dropped(answer: Callable[[Sequence[int]], Any], words: str) -> None:
    with pytest.raises(InvalidInput, match="policy bad in block 0") as caught:
        run(Policy("bad", on_miss=lambda view, missing: answer(missing)), 1, "streams")
    assert words in str(caught.value)


def test_actions_and_starts_that_do_not_exist_are_refused() -> None:
    for make in (lambda: MissAction("moon"), lambda: MissAction("host", 4), lambda: MissAction(bits=-1)):
        with pytest.raises(InvalidInput):
            make()
    with pytest.raises(InvalidInput, match="leave those out"):
        Policy("both", prefetch=lambda view: (), start=lambda facts: Decisions())
    with pytest.raises(InvalidInput, match="start returned"):
        run(Policy("odd", start=lambda facts: None), 1, "streams")  # type: ignore[arg-type, return-value]


def test_a_resident_expert_is_no_miss() -> None:
    """`on_miss` is asked for what the cache has not; what it has is a hit, not an expert for the CPU."""
    cache = ResidentSet(4, Static, n_layers=MODEL.n_moe_layers, n_experts=MODEL.n_experts)
    for layer in range(MODEL.n_moe_layers):
        cache.admit(layer, [0])
    asked: set[int] = set()

    def on_miss(view: BlockView, missing: Sequence[int]) -> Mapping[int, MissAction]:
        asked.update(missing)
        return dict.fromkeys(missing, MissAction.CPU)

    trace = routing(MODEL, batch=3, seed=5)
    decoded = decode(MODEL, trace.steps(), Policy("cpu", on_miss=on_miss), STREAMS, n_buffers=12, cache=cache)
    n_zero = sum(int(np.any(step.experts[:, i] == 0)) for step in trace.steps() for i in range(trace.n_moe_layers))
    assert 0 not in asked
    assert decoded.n_hits + decoded.n_prefill_hits == n_zero > 0


def test_belady_misses_the_fewest_of_all_caches() -> None:
    trace, hw = routing(MODEL, batch=1, seed=5), load_platform("rtx-4090", "streams")
    misses = {}
    for eviction in ("belady", "lru", "lfu", "fifo", "random"):
        decoded = capture(MODEL, hw, trace, f"on_demand+{eviction}:6").decoded
        misses[eviction] = int(np.count_nonzero(decoded.schedule.kind == OpKind.FETCH))
    assert misses["belady"] == min(misses.values())
    again = capture(MODEL, hw, trace, "pregate+belady:6:warm").decoded
    assert again.schedule == capture(MODEL, hw, trace, "pregate+belady:6:warm").decoded.schedule


def test_belady_beside_guesses_hits_no_less_than_lru() -> None:
    """Its clock is what gates ask for, so that guesses, right or wrong, do not move it."""
    trace, hw = routing(MODEL, batch=1, seed=5, output_tokens=12), load_platform("rtx-4090", "streams")
    for policy in ("lru_next_gate:recall=0.3", "lru_next_gate:recall=1"):
        hits = {name: capture(MODEL, hw, trace, f"{policy}+{name}:6").decoded.n_hits for name in ("belady", "lru")}
        assert hits["belady"] >= hits["lru"]


def test_random_eviction_is_drawn_anew_the_same_for_every_run() -> None:
    trace, hw = routing(MODEL, batch=1, seed=5), load_platform("rtx-4090", "streams")
    first, second = (capture(MODEL, hw, trace, "on_demand+random:6").decoded.schedule for _ in range(2))
    assert first == second


def test_a_static_cache_holds_the_most_asked_for_and_never_changes() -> None:
    trace, hw = routing(MODEL, batch=2, seed=5), load_platform("rtx-4090", "streams")
    captured = capture(MODEL, hw, trace, "on_demand+static:0.25")
    schedule = captured.decoded.schedule
    fetched = schedule.kind == OpKind.FETCH
    assert captured.request.plan.n_cache_slots == round(MODEL.n_moe_layers * MODEL.n_experts * 0.25)
    assert schedule.slot[fetched].max() < captured.request.plan.n_buffers, "nothing is ever brought into the cache"
    lookups = captured.decoded.n_lookups + captured.decoded.n_prefill_lookups
    hits = captured.decoded.n_hits + captured.decoded.n_prefill_hits
    assert hits / lookups >= 0.25


def test_a_cache_over_a_policy_that_names_one_is_refused() -> None:
    trace, hw = routing(MODEL, batch=1, seed=5), load_platform("rtx-4090", "streams")
    with pytest.raises(InvalidInput, match="names a cache of its own"):
        capture(MODEL, hw, trace, "on_demand+lru:0.5", cache=cache_named("lfu:0.5"))
    same = capture(MODEL, hw, trace, "on_demand+lru:0.5", cache=cache_named("lru:0.5"))
    assert same.policy.cache == cache_named("lru:0.5")
