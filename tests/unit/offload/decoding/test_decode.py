"""What every schedule must keep, whatever the routing: bytes, causality, slots and HBM. Hypothesis makes the cases."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from hwmodels.cost import price
from hwmodels.platform import load_platform
from offload.caches.eviction import EVICTIONS
from offload.caches.residency import ResidentSet
from offload.decode import Decoded, DecodeStream, decode
from offload.execution import EXECUTIONS
from offload.ops import Lane, OpKind
from offload.placing.workload import measure_workload
from offload.policies import policy_named
from offload.policy import BlockView, Fetch, Policy
from offload.slots.memory import CapacityExceeded
from offload.timeline import Timeline
from simulator.definition import des
from simulator.explain.bounds import lower_bounds
from tests.small_models import GUESSING, MODELS, TRIED, WHOLE, routing, told
from traces.errors import InvalidInput
from traces.model.architecture import ModelArchitecture
from traces.routing import RoutingTrace

STATIC_BYTES = 1000
WAYS = EXECUTIONS | {"staged streams": dataclasses.replace(EXECUTIONS["streams"], name="staged streams", stage=True)}
"""The executions that ship, and one in which nothing but dependencies keeps copies and kernels apart."""

MACHINES = {
    "balanced": load_platform("rtx-4090", "streams", {"link.h2d_bytes_per_s": 1e9}),
    "slow host": load_platform("rtx-4090", "pytorch-eager"),
    "slow link": load_platform("rtx-4090", "fastertransformer", {"link.h2d_bytes_per_s": 1e7}),
}


class Case(NamedTuple):
    """Everything one schedule is made of, and the schedule."""

    model: ModelArchitecture
    trace: RoutingTrace
    policy: Policy
    n_buffers: int
    n_cached: int
    n_warm: int
    decoded: Decoded

    @property
    def hbm_bytes(self) -> int:
        """The least HBM that the case may ask for."""
        return STATIC_BYTES + (self.n_buffers + self.n_cached) * self.model.expert_bytes


def cached(model: ModelArchitecture, n_slots: int, eviction: str = "lru", per_layer: bool = False) -> ResidentSet:
    return ResidentSet(
        n_slots, eviction, per_layer=per_layer, n_layers=model.n_moe_layers, n_experts=model.n_experts, seed=1
    )


@st.composite
def cases(draw: st.DrawFn) -> Case:
    model = MODELS[draw(st.sampled_from(list(MODELS)))]
    trace = routing(model, seed=draw(st.integers(0, 999)), batch=draw(st.integers(1, 4)), input_tokens=2)
    policy = told(draw(st.sampled_from([*WHOLE, "pregate(2)", "pregate(3)", "pregate:encoder", "pregate:cheaper"])))
    workload = measure_workload(model, trace.steps())
    execution = WAYS[draw(st.sampled_from(list(WAYS)))]
    n_active = max(workload.n_active, workload.n_encoder_active)
    wanted = policy.buffers(n_active, model.n_experts)
    fewest = 1 if execution.hands_slots_on and policy.needs_ids else max(wanted.minimum, n_active)
    n_buffers = draw(st.integers(fewest, max(wanted.full, n_active) + 1))
    residents = None
    if not policy.resident and draw(st.booleans()):
        eviction = draw(st.sampled_from([*EVICTIONS, "random"]))
        residents = cached(model, draw(st.integers(1, 12)), eviction, draw(st.booleans()))
        if draw(st.booleans()):
            for layer in range(model.n_moe_layers):
                residents.admit(layer, [draw(st.integers(0, model.n_experts - 1))])
    n_warm = residents.n_resident if residents else 0
    decoded = decode(
        model,
        trace.steps(),
        policy,
        execution,
        n_buffers=n_buffers,
        cache=residents,
        disk=draw(st.booleans()),
        static_bytes=STATIC_BYTES,
    )
    return Case(model, trace, policy, n_buffers, residents.capacity if residents else 0, n_warm, decoded)


def timed(case: Case, machine: str, hbm_bytes: int | None = None) -> Timeline:
    costs = price(case.decoded.schedule.works, MACHINES[machine])
    return des.simulate(case.decoded.schedule, costs, case.hbm_bytes if hbm_bytes is None else hbm_bytes)


def unions(case: Case) -> dict[tuple[int, int], set[int]]:
    """The experts that every (step, layer) executes, layers as in the schedule."""
    model, found = case.model, {}
    for step in case.trace.steps():
        for i in range(case.trace.n_moe_layers):
            experts = set(step.experts[:, i][step.experts[:, i] >= 0].tolist())
            n_encoder = model.n_encoder_moe_layers
            in_encoder = model.encoder is not None and i < n_encoder
            stack = model.encoder if model.encoder is not None and in_encoder else model.decoder
            if experts:
                found[step.i_step, stack.moe_layers[i if in_encoder else i - n_encoder]] = experts
    return found


@given(cases(), st.sampled_from(list(MACHINES)))
def test_ops_run_after_what_they_wait_for_one_at_a_time_a_lane(case: Case, machine: str) -> None:
    timeline = timed(case, machine)
    schedule = timeline.schedule
    owner = np.repeat(np.arange(len(schedule)), np.diff(schedule.dep_ptr))
    assert np.all(timeline.start_s[owner] >= timeline.end_s[schedule.dep])
    costs = price(schedule.works, MACHINES[machine])
    bounds = lower_bounds(schedule, costs)
    assert timeline.makespan_s >= bounds.makespan_s * (1 - 1e-12)
    for lane in Lane:
        mine = schedule.lane == lane
        assert np.all(timeline.start_s[mine][1:] >= timeline.end_s[mine][:-1])
        assert timeline.busy_s(lane) <= timeline.makespan_s * (1 + 1e-12)


@given(cases())
def test_bytes_over_the_link_are_the_misses(case: Case) -> None:
    schedule, decoded = case.decoded.schedule, case.decoded
    fetches = schedule.kind == OpKind.FETCH
    n_copies = np.array([work.n_copies for work in schedule.works])[schedule.cost]
    n_fetches = int(n_copies[fetches].sum())
    assert int(schedule.bytes[fetches].sum()) == n_fetches * case.model.expert_bytes
    n_lookups = decoded.n_lookups + decoded.n_prefill_lookups
    n_misses = n_lookups - decoded.n_hits - decoded.n_prefill_hits
    assert n_lookups == sum(map(len, unions(case).values()))
    if case.policy.name.startswith(GUESSING):
        assert n_fetches >= n_misses
    else:
        assert n_fetches + np.count_nonzero(schedule.kind == OpKind.CPU_EXPERT) == n_misses
    reads = schedule.kind == OpKind.DISK_READ
    assert not reads.any() or int(reads.sum()) == n_fetches + np.count_nonzero(schedule.kind == OpKind.CPU_EXPERT)


@given(cases(), st.sampled_from(list(MACHINES)))
def test_every_ffn_reads_its_own_experts_where_and_while_they_are_there(case: Case, machine: str) -> None:
    """By the timeline: each expert of a union was copied for this layer, has landed, and its slot is refilled only
    after the read. What a warm cache held before the first step has no copy to follow.
    """
    timeline, needed = timed(case, machine), unions(case)
    schedule = timeline.schedule
    contents: dict[int, int] = {}  # slot -> the copy that filled it last
    readers: dict[int, list[int]] = {}  # copy -> the ops that read what it brought
    delivered: dict[tuple[int, int], set[int]] = {}
    for i in range(len(schedule)):
        kind, slot = schedule.kind[i], int(schedule.slot[i])
        if kind == OpKind.CPU_EXPERT:
            delivered.setdefault((int(schedule.step[i]), int(schedule.layer[i])), set()).add(int(schedule.expert[i]))
        for copy in schedule.deps(i).tolist():
            if schedule.kind[copy] not in (OpKind.FETCH, OpKind.STAGE) or kind not in (OpKind.EXPERTS, OpKind.STAGE):
                continue
            own = schedule.layer[copy] == schedule.layer[i]
            fetched = schedule.kind[copy] == OpKind.FETCH and own and schedule.expert[copy] == schedule.expert[i]
            if kind == OpKind.STAGE and not fetched:
                continue  # the copy it waits for was the last in the slot it fills, read or given up
            assert own
            assert schedule.slot[copy] < 0 or contents[int(schedule.slot[copy])] == copy
            readers.setdefault(copy, []).append(i)
            if kind == OpKind.EXPERTS:
                place = int(schedule.step[i]), int(schedule.layer[i])
                delivered.setdefault(place, set()).add(int(schedule.expert[copy]))
        if slot >= 0:
            for reader in readers.get(contents.get(slot, -1), []):
                assert timeline.start_s[i] >= timeline.end_s[reader]
            contents[slot] = i
    if not case.policy.resident and not case.n_warm:
        for place, experts in needed.items():
            assert delivered[place] >= experts


@given(cases(), st.sampled_from(list(MACHINES)))
def test_hbm_never_exceeds_the_slots_and_returns_to_its_level(case: Case, machine: str) -> None:
    timeline = timed(case, machine)  # SimPy refuses one byte more than the slots
    _, level = timeline.hbm_events()
    warm_bytes = case.n_warm * case.model.expert_bytes
    assert timeline.schedule.static_bytes == STATIC_BYTES + warm_bytes
    assert timeline.peak_hbm_bytes <= case.hbm_bytes
    assert level.min(initial=STATIC_BYTES + warm_bytes) >= STATIC_BYTES + warm_bytes
    filled = {int(slot) for slot in timeline.schedule.slot if slot >= case.n_buffers}
    if level.size:
        assert level[-1] >= STATIC_BYTES + len(filled) * case.model.expert_bytes
        assert level[-1] <= STATIC_BYTES + case.n_cached * case.model.expert_bytes


@given(cases(), st.sampled_from(list(MACHINES)))
def test_one_byte_less_than_the_peak_is_refused(case: Case, machine: str) -> None:
    peak = timed(case, machine).peak_hbm_bytes
    with pytest.raises(CapacityExceeded):
        timed(case, machine, peak - 1)


@given(cases(), st.floats(1.0, 1e4))
def test_a_faster_link_never_finishes_later(case: Case, factor: float) -> None:
    slow = MACHINES["slow link"]
    link = slow.machine.link
    link = dataclasses.replace(link, h2d_bytes_per_s=link.h2d_bytes_per_s * factor)
    fast = dataclasses.replace(slow, machine=dataclasses.replace(slow.machine, link=link))
    schedule = case.decoded.schedule
    before, after = (
        des.simulate(schedule, costs, case.hbm_bytes) for costs in (price(schedule.works, hw) for hw in (slow, fast))
    )
    assert np.all(after.end_s <= before.end_s)


def test_an_expert_asked_for_twice_takes_one_slot() -> None:
    def prefetch(view: BlockView) -> Sequence[Fetch]:
        return [Fetch(view.block + 1, (0, 0, 1, 0))] if view.block + 1 < view.n_blocks else []

    model = MODELS["decoder-only"]
    trace = routing(model, output_tokens=9)
    policy = Policy("twice", prefetch=prefetch)
    decoded = decode(model, trace.steps(), policy, EXECUTIONS["streams"], n_buffers=10)
    schedule = decoded.schedule
    fetched = np.flatnonzero(schedule.kind == OpKind.FETCH)
    copies = list(zip(schedule.step[fetched], schedule.layer[fetched], schedule.expert[fetched], strict=True))
    assert len(copies) == len(set(copies))
    assert schedule.hbm_acquired.sum() == schedule.hbm_released.sum() == len(copies) * model.expert_bytes


def greedy(view: BlockView) -> Sequence[Fetch]:
    """Every expert of the next block, in even forward passes."""
    wanted = view.block + 1 < view.n_blocks and view.i_step % 2 == 0
    return [Fetch(view.block + 1, tuple(range(view.n_experts)))] if wanted else []


def alternating(model: ModelArchitecture) -> RoutingTrace:
    """Experts 0 and 1 in even forward passes, 3 and 4 in odd ones, at every layer."""
    trace = routing(model, output_tokens=9)
    experts = np.zeros_like(trace.experts) + np.array([0, 1], np.int16) + 3 * (trace.step % 2)[:, None, None]
    return dataclasses.replace(trace, experts=experts)


@pytest.mark.parametrize("execution", TRIED)
def test_a_wrong_prefetch_that_found_no_slot_is_given_up_when_its_gate_has_run(execution: str) -> None:
    """Two needed experts and two slots; the guess asks for all six, four of which wait in vain."""
    model = MODELS["decoder-only"]
    policy = Policy("greedy", prefetch=greedy)
    decoded = decode(model, alternating(model).steps(), policy, EXECUTIONS[execution], n_buffers=2)
    schedule = decoded.schedule
    assert set(schedule.expert[schedule.kind == OpKind.FETCH].tolist()) == {0, 1, 3, 4}
    costs = price(schedule.works, MACHINES["balanced"])
    des.simulate(schedule, costs, 2 * model.expert_bytes)


def test_what_was_given_up_is_not_resident() -> None:
    """The cache has room for all, the staging buffers for three: what never came is a miss when it is needed."""
    model = MODELS["decoder-only"]
    policy, residents = Policy("greedy", prefetch=greedy), cached(model, model.n_moe_layers * model.n_experts)
    decoded = decode(
        model, alternating(model).steps(), policy, EXECUTIONS["fastertransformer"], n_buffers=3, cache=residents
    )
    schedule = decoded.schedule
    for i in np.flatnonzero(schedule.kind == OpKind.STAGE).tolist():
        same = (schedule.layer[:i] == schedule.layer[i]) & (schedule.expert[:i] == schedule.expert[i])
        assert np.any(same & (schedule.kind[:i] == OpKind.FETCH))
    fetched = schedule.kind == OpKind.FETCH
    assert residents.n_resident == fetched.sum()


def test_a_warm_cache_is_in_hbm_from_the_start() -> None:
    model = MODELS["decoder-only"]
    trace = routing(model)
    every = cached(model, model.n_moe_layers * model.n_experts)
    for layer in range(model.n_moe_layers):
        every.admit(layer, range(model.n_experts))
    decoded = decode(model, trace.steps(), policy_named("on_demand"), EXECUTIONS["streams"], n_buffers=2, cache=every)
    schedule = decoded.schedule
    assert decoded.n_hits == decoded.n_lookups > 0
    assert not np.any(schedule.kind == OpKind.FETCH)
    assert schedule.static_bytes == every.capacity * model.expert_bytes


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("execution", ["streams", "fastertransformer"])
def test_experts_say_how_much_hbm_their_slots_take_together(compiled: bool, execution: str) -> None:
    """However they are grouped; experts that stay where they are say 0, and so do shared ones that run alone."""
    for name, n_alone in (("decoder-only", 0), ("shared experts, three matrices", int(execution == "streams"))):
        model = MODELS[name]
        steps = list(routing(model).steps())
        for policy, n_buffers, n_cached in (("on_demand", 8, 0), ("pregate", 16, 0), ("lru", 8, 3), ("gpu_only", 0, 0)):
            cache = cached(model, n_cached) if n_cached else None
            stream = DecodeStream(
                model, steps, policy_named(policy), EXECUTIONS[execution],
                n_buffers=n_buffers, cache=cache, compiled=compiled,
            )  # fmt: skip
            works = {work for part in stream for work in part.works}
            sizes = {work.slots_bytes for work in works if work.kind is OpKind.EXPERTS}
            assert sizes == {(n_buffers + n_cached) * model.expert_bytes, *([0] * n_alone)}
            assert {work.slots_bytes for work in works if work.kind is not OpKind.EXPERTS} == {0}


def test_a_cache_slot_counts_once_however_often_it_is_refilled() -> None:
    model = MODELS["decoder-only"]
    trace = routing(model, output_tokens=12)
    decoded = decode(
        model, trace.steps(), policy_named("on_demand"), EXECUTIONS["streams"], n_buffers=6, cache=cached(model, 2)
    )
    schedule = decoded.schedule
    into_cache = schedule.slot >= 6
    assert into_cache.sum() > 2
    assert schedule.hbm_acquired[into_cache].sum() == 2 * model.expert_bytes


def test_a_prefetch_of_the_encoder_never_reaches_into_the_decoder() -> None:
    model = MODELS["encoder-decoder"]
    policy = Policy("beyond", prefetch=lambda view: [Fetch(view.n_blocks, (0,))], encoder="same")
    with pytest.raises(InvalidInput, match="beyond in block 0 of 1"):
        decode(model, routing(model).steps(), policy, EXECUTIONS["streams"], n_buffers=9)


def test_a_layer_that_no_token_visits_runs_without_experts() -> None:
    model = MODELS["decoder-only"]
    trace = routing(model)
    experts = trace.experts.copy()
    experts[trace.step == 0, -1] = -1  # an engine may leave out a prompt's tokens at the last layer
    trace = dataclasses.replace(trace, experts=experts)
    for text in ("on_demand", "pregate", "gpu_only"):
        for execution in EXECUTIONS.values():
            schedule = decode(model, trace.steps(), policy_named(text), execution, n_buffers=9).schedule
            here = (schedule.step == 0) & (schedule.layer == model.decoder.moe_layers[-1])
            assert not np.any(schedule.kind[here] == OpKind.FETCH)
            assert np.count_nonzero(schedule.kind[here] == OpKind.EXPERTS) == 1
