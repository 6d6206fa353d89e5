"""The compiled decode loop writes what the definition writes: the same schedule, digest for digest, and counts."""

from __future__ import annotations

import dataclasses

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from compiled.when_it_pays import KEPT_OPS
from offload.answers.by_bandwidth import ByBandwidth, ByBandwidthWithin
from offload.answers.cheaper import CheaperEach, ShorterLane
from offload.answers.list_schedule import ListScheduled
from offload.decode import DecodeStream, decode
from offload.execution import EXECUTIONS, Execution
from offload.fast.compilable import is_compilable
from offload.ops import OpKind
from offload.placing.workload import measure_workload
from offload.policies import policy_named
from offload.policy import Policy, misses_on_host
from offload.policy_parts.miss_costs import MissCosts
from offload.recorder import assemble
from offload.schedule import ScheduleDigest
from offload.slots.memory import CapacityExceeded
from tests.grids import one_in
from tests.small_models import MODELS, TRIED, decoder_only, routing
from tests.written_schedules import POLICIES, UNEVEN, assert_written_alike, resident_set, written
from traces.model.architecture import ModelArchitecture
from traces.routing import RoutingTrace
from traces.transforms.rebatching import rebatch


@pytest.mark.parametrize(("text", "name", "execution"), one_in(2, POLICIES, MODELS, TRIED))
def test_every_policy_is_written_alike(text: str, name: str, execution: str) -> None:
    """Every size with storage for one batch and without for the other; the next model has it the other way round."""
    model, turn = MODELS[name], list(MODELS).index(name)
    for batch in (1, 4):
        trace = routing(model, batch=batch, seed=batch)
        workload = measure_workload(model, trace.steps())
        wanted = policy_named(text).buffers(max(workload.n_active, workload.n_encoder_active), model.n_experts)
        fewest = max(wanted.minimum, workload.n_encoder_active)
        hands_on = EXECUTIONS[execution].hands_slots_on and policy_named(text).needs_ids
        sizes = (*((1, 2) if hands_on else ()), fewest, wanted.full + workload.n_encoder_active)
        for i, n_buffers in enumerate(dict.fromkeys(sizes), turn + batch // 4):
            assert_written_alike(model, trace, text, execution, n_buffers=n_buffers, disk=i % 2 == 0)


@pytest.mark.parametrize("name", list(UNEVEN))
@pytest.mark.parametrize("text", ["gpu_only", "pregate(2)+lru:4:warm", "prefetch_all", "on_demand+lfu:5"])
def test_layers_that_differ_are_written_alike(text: str, name: str) -> None:
    model = UNEVEN[name]
    for batch, execution in ((1, "streams"), (4, "fastertransformer"), (3, "streams")):
        trace = routing(model, batch=batch, seed=batch, output_tokens=5)
        assert_written_alike(model, trace, text, execution, n_buffers=2 * model.n_experts)
    slow, fast = (
        decode(model, trace.steps(), policy_named("gpu_only"), EXECUTIONS["streams"], n_buffers=0, compiled=compiled)
        for compiled in (False, True)
    )
    per_step = [np.count_nonzero(slow.schedule.step == step) for step in np.unique(slow.schedule.step)]
    assert slow.schedule == fast.schedule
    assert len(slow.schedule) == sum(per_step)
    kinds = {work.kind for work in slow.schedule.works}
    n_mixed = np.count_nonzero(fast.schedule.kind == OpKind.SELF_ATTENTION)
    assert n_mixed == 5 * len(per_step)
    assert OpKind.DENSE_FFN in kinds


ANSWERS = {
    "all on the host": misses_on_host,
    "each the cheaper": CheaperEach(MissCosts(0.3, host_token=0.4)),
    "the shorter lane": ShorterLane(MissCosts(0.5, host_token=0.3)),  # two of one token tie with one copy
    "by bandwidth": ByBandwidth(MissCosts(0.7, beside=1.8)),
    "scheduled": ListScheduled(MissCosts(0.5, host_token=0.3, device=0.05, device_token=0.1, handover=0.2)),
}
ANSWERING = {
    "streams": EXECUTIONS["streams"],
    "the thread computes": dataclasses.replace(EXECUTIONS["streams"], host_computes=True),
}
CACHES = ("on_demand", "on_demand+lru:4", "on_demand+static:6", "on_demand+lfu:5:per_layer:warm")


def assert_answered_alike(
    model: ModelArchitecture, trace: RoutingTrace, answer: str, cache: str, execution: str, n_buffers: int
) -> set[OpKind]:
    policy = dataclasses.replace(policy_named(cache), on_miss=ANSWERS[answer])
    residents = resident_set(model, trace, policy, 7)
    assert is_compilable(policy, ANSWERING[execution], residents)
    found = [
        decode(
            model, trace.steps(), policy, ANSWERING[execution], n_buffers=n_buffers, compiled=compiled,
            cache=resident_set(model, trace, policy, 7),
        )
        for compiled in (True, False)
    ]  # fmt: skip
    assert found[0] == found[1]
    return {work.kind for work in found[0].schedule.works}


@pytest.mark.parametrize(("name", "answer", "execution"), one_in(2, [*MODELS, *UNEVEN], ANSWERS, ANSWERING))
def test_answers_to_misses_are_written_alike(name: str, answer: str, execution: str) -> None:
    """In slots for all of a block, in one for one expert after the other, and where the host takes all; a cache each
    time, all of them in turn: each answer meets every cache in every number of slots, over models or executions.
    """
    model, kinds = (MODELS | UNEVEN)[name], set[OpKind]()
    at = [*MODELS, *UNEVEN].index(name) + 2 * list(ANSWERING).index(execution)
    for turn, batch in enumerate((1, 5)):
        trace = routing(model, batch=batch, seed=batch)
        for i, n_buffers in enumerate((1, 2, model.n_experts), at + turn):
            kinds |= assert_answered_alike(model, trace, answer, CACHES[i % 4], execution, n_buffers)
    assert OpKind.CPU_EXPERT in kinds
    assert (OpKind.FETCH in kinds) == (answer != "all on the host")


@given(st.sampled_from(list(ANSWERS)), st.sampled_from(list(MODELS)), st.integers(0, 10**6), st.integers(1, 12))
def test_random_misses_are_answered_alike(answer: str, name: str, seed: int, n_sequences: int) -> None:
    model, cache = MODELS[name], CACHES[seed % len(CACHES)]
    trace = rebatch(routing(model, batch=12, seed=seed, output_tokens=4), n_sequences)
    assert_answered_alike(model, trace, answer, cache, "streams", 1 + seed % model.n_experts)


@dataclasses.dataclass(frozen=True, slots=True)
class WiderExecution(Execution):
    asks_twice: bool = False


def test_an_execution_that_does_what_the_kernel_does_not_know_is_written_by_the_definition() -> None:
    """A word that is added to executions is unknown to the kernel until somebody says otherwise."""
    plain, policy = dataclasses.asdict(EXECUTIONS["streams"]), policy_named("on_demand")
    assert is_compilable(policy, WiderExecution(**plain), None)
    assert not is_compilable(policy, WiderExecution(**plain, asks_twice=True), None)
    assert is_compilable(
        policy, dataclasses.replace(EXECUTIONS["streams"], micro_batch=8, streams_from="layer before"), None
    )


def test_where_a_miss_is_more_than_fetched_or_left_to_the_host_the_definition_writes() -> None:
    streams, known = EXECUTIONS["streams"], ANSWERS["by bandwidth"]
    plain = policy_named("on_demand")
    assert is_compilable(dataclasses.replace(plain, on_miss=known), streams, None)
    assert not is_compilable(dataclasses.replace(plain, on_miss=ByBandwidth()), streams, None)  # asks its machine
    assert not is_compilable(dataclasses.replace(plain, on_miss=ByBandwidthWithin(MissCosts(0.7))), streams, None)
    assert not is_compilable(dataclasses.replace(plain, on_miss=lambda view, missing: {}), streams, None)
    assert not is_compilable(dataclasses.replace(policy_named("pregate"), on_miss=known), streams, None)
    assert not is_compilable(dataclasses.replace(plain, on_miss=known), EXECUTIONS["vllm"], None)
    model, policy = MODELS["decoder-only"], dataclasses.replace(plain, on_miss=misses_on_host)
    stream = DecodeStream(model, routing(model).steps(), policy, streams, n_buffers=2, disk=True, compiled=True)
    assert type(stream._loop).__name__ == "DecodeLoop"


@given(
    st.sampled_from(POLICIES),
    st.sampled_from(list(MODELS)),
    st.sampled_from(TRIED),
    st.integers(0, 10**6),
    st.integers(1, 5),
    st.integers(-12, 8),
    st.integers(0, 20),
)
def test_random_traces_slots_and_caches_are_written_alike(
    text: str, name: str, execution: str, seed: int, batch: int, spare: int, n_slots: int
) -> None:
    model = MODELS[name]
    trace = rebatch(routing(model, batch=6, seed=seed, output_tokens=4), batch)
    workload = measure_workload(model, trace.steps())
    wanted = policy_named(text).buffers(max(workload.n_active, workload.n_encoder_active), model.n_experts)
    fewest = max(wanted.minimum, workload.n_encoder_active)
    if EXECUTIONS[execution].hands_slots_on and policy_named(text).needs_ids:
        n_buffers = max(fewest + spare, 1)
    else:
        n_buffers = fewest + max(spare, 0)
    assert_written_alike(model, trace, text, execution, n_buffers=n_buffers, n_slots=n_slots, disk=bool(seed % 2))


@pytest.mark.parametrize("compiled", [None, True, False])
def test_a_block_that_finds_no_slots_is_refused_in_the_same_words(compiled: bool | None) -> None:
    model = MODELS["decoder-only"]
    trace = routing(model, batch=4)
    with pytest.raises(CapacityExceeded, match=r"step 0, MoE layer 0: \d experts needed at once do not fit 1 expert"):
        written(model, trace, policy_named("prefetch_all"), "streams", n_buffers=1, compiled=compiled)


def test_parts_are_the_whole_and_name_what_may_still_be_waited_for() -> None:
    """Many short parts, as the definition hands them over step by step, and a digest taken on the way."""
    model = decoder_only(n_experts=8)
    trace = routing(model, batch=2, output_tokens=30)
    policy, execution = policy_named("pregate+lru:6"), EXECUTIONS["streams"]
    whole = decode(model, trace.steps(), policy, execution, n_buffers=12, cache=resident_set(model, trace, policy, 6))
    stream = DecodeStream(
        model, trace.steps(), policy, execution, n_buffers=12, cache=resident_set(model, trace, policy, 6),
        compiled=False,
    )  # fmt: skip
    loop = stream._loop
    assert loop is not None
    parts = []
    for step in trace.steps():
        parts += list(loop.parts([step]))
    digest = ScheduleDigest()
    known = np.zeros(0, dtype=np.int64)
    for part in parts:
        digest.update(part.columns, part.works)
        earlier = part.columns["dep"][part.columns["dep"] < part.base]
        assert set(earlier.tolist()) <= set(known.tolist())
        known = part.live
    assert len(parts) == trace.n_steps
    assert digest.of(0) == assemble(parts).digest == whole.schedule.digest


def test_what_the_kernel_does_not_know_is_left_to_the_definition() -> None:
    model = MODELS["decoder-only"]
    by_use = policy_named("on_demand+random:4")
    assert not is_compilable(by_use, EXECUTIONS["streams"], resident_set(model, routing(model), by_use, 4))
    assert is_compilable(policy_named("pregate(2)"), EXECUTIONS["streams"], None)
    custom = Policy("custom", prefetch=lambda view: ())
    assert not is_compilable(custom, EXECUTIONS["streams"], None)
    late = Policy("late", lookahead=2, prefetch=policy_named("pregate").prefetch)
    assert not is_compilable(
        late, EXECUTIONS["streams"], None
    )  # it reveals two blocks and fetches one: not what the kernel writes


def test_a_small_schedule_is_written_by_the_definition_and_a_large_one_compiled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = MODELS["decoder-only"]
    trace, taken = routing(model), []
    monkeypatch.setattr("offload.decode._LOADED_OPS", KEPT_OPS)
    for size in (10**9, 0):
        monkeypatch.setattr("offload.decode.SMALL_OPS", size)
        stream = DecodeStream(model, trace.steps(), policy_named("pregate"), EXECUTIONS["streams"], n_buffers=9)
        digest = assemble(stream).digest
        taken.append((digest, type(stream._loop).__name__))
    assert taken[0][0] == taken[1][0]
    assert [name for _, name in taken] == ["DecodeLoop", "CompiledLoop"]
