"""Two throw-away policies that prove the seam: a miss computed on the CPU, and a prefetch that can be wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pytest

from hwmodels.cost import price
from hwmodels.platform import Platform, load_platform
from offload.decode import Decoded, decode
from offload.execution import EXECUTIONS
from offload.ops import Lane, OpKind
from offload.policies import policy_named
from offload.policy import BlockView, Buffers, Fetch, MissAction, Policy
from offload.timeline import Timeline
from simulator import des
from tests.small_models import MODELS, routing
from traces.errors import InvalidInput

MODEL = MODELS["decoder-only"]
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


@pytest.mark.parametrize("execution", list(EXECUTIONS))
def test_misses_on_the_cpu_never_cross_the_link_and_hold_up_the_layer(execution: str) -> None:
    decoded, timeline = run(Policy("cpu", on_miss=cheaper_on_cpu), 3, execution)
    schedule = decoded.schedule
    on_cpu = np.flatnonzero(schedule.kind == OpKind.CPU_EXPERT)
    fetched = np.flatnonzero(schedule.kind == OpKind.FETCH)
    assert len(on_cpu)
    assert len(fetched)
    assert set(schedule.lane[on_cpu].tolist()) == {Lane.CPU}
    assert len(on_cpu) + len(fetched) == decoded.n_lookups + decoded.n_prefill_lookups
    for op in on_cpu.tolist():
        waiting = [i for i in range(op, len(schedule)) if op in schedule.deps(i).tolist()]
        assert [OpKind(int(schedule.kind[i])) for i in waiting] == [OpKind.EXPERTS]
        assert timeline.start_s[waiting[0]] >= timeline.end_s[op]


@pytest.mark.parametrize("execution", list(EXECUTIONS))
@pytest.mark.parametrize("p_right", [0.0, 0.5, 1.0])
def test_wrong_guesses_cost_link_time_and_the_right_experts_still_come(p_right: float, execution: str) -> None:
    decoded, timeline = run(guess_next(p_right, seed=1), 2, execution)
    exact, _ = run(policy_named("on_demand"), 2, execution)
    schedule = decoded.schedule
    brought = int(np.count_nonzero(schedule.kind == OpKind.FETCH))
    needed = int(np.count_nonzero(exact.schedule.kind == OpKind.FETCH))
    assert brought >= needed
    assert schedule.bytes[schedule.kind == OpKind.FETCH].sum() == brought * MODEL.expert_bytes
    _, level = timeline.hbm_events()
    assert level.min() >= 0
    assert level[-1] == 0
    if p_right == 0.0:
        assert brought > needed


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


@pytest.mark.parametrize("execution", list(EXECUTIONS))
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


@pytest.mark.parametrize("execution", list(EXECUTIONS))
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
