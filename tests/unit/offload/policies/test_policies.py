"""One contract for every policy: never over capacity, never evicts what is in use, never sees the future, finishes,
and moves exactly the bytes it must.
"""

from __future__ import annotations

import dataclasses
import inspect
from functools import cache

import numpy as np
import pytest

from hwmodels.cost import price
from hwmodels.platform import load_platform
from offload.caches.eviction import EVICTIONS
from offload.caches.eviction_ranked import RANKED
from offload.caches.residency import ResidentSet
from offload.decode import Decoded, decode
from offload.execution import EXECUTIONS
from offload.ops import Lane, OpKind
from offload.placing.workload import measure_workload
from offload.policies import PRESETS, cache_named, eviction_named, eviction_names, policy_named
from offload.policies.policy_descriptions import DESIGNS, what_it_does
from offload.policies.pregate import pregate
from offload.policy import BlockView, Cache, Fetch, Policy, fetch_misses
from offload.slots.memory import CapacityExceeded
from offload.timeline import Timeline
from pregate.ask.capturing.demands import demands
from simulator import recurrence
from tests.small_models import GUESSING, IN_PART, MODELS, TRIED, routing, told
from traces.errors import InvalidInput, UnknownName
from traces.model.architecture import ModelArchitecture
from traces.phase import Phase
from traces.routing import RoutingTrace

HW = load_platform("a100-sxm4-80gb", "streams")

LEFT = 7
"""Slots of a cache that takes what is left."""

POLICIES = [
    *PRESETS,
    "pregate(2)",
    "pregate(3)",
    *(f"on_demand+{eviction}:5" for eviction in EVICTIONS),
    *(f"pregate+{eviction}:5:per_layer" for eviction in EVICTIONS),
    *(f"on_demand+{eviction}:5" for eviction in RANKED),
    "pregate+mrs:5:per_layer",
    "lru_next_gate:recall=0.5+activation:6",
    "pregate(2)+lru:5:admit=second",
    "on_demand+lfru:6:admit=popular:budget=1",
    "pregate(2)+lru:3",
    "prefetch_all+lru:9",
    "on_demand+lru:5:cheaper",
    "on_demand:cheaper_sum",
    "pregate:split+lru:5:per_layer",
    "lru_next_gate:recall=0.5+lru:6:per_layer",
    "guess/markov(2):more=1+lru:6:per_layer",
    "guess/next_gate(2):recall=0.5:more=1",
    "guess/uniform:guessed+lru:5",
    "guess/maps:resident+lru:6:per_layer",
    "guess/learned:cpu",
]

WAYS = [
    pytest.param(text, how, name, marks=[pytest.mark.thorough] if (i + j) % 3 == 0 else [])
    for i, text in enumerate(POLICIES)
    for j, name in enumerate(MODELS)
    for k, how in enumerate(TRIED)
    if (i + j + k) % 2 == 0 or text.endswith(IN_PART)
    if how == "streams" or not text.endswith(IN_PART)
]
"""Every policy on every model and under every execution, every model under every execution: half of all triples. Of
each policy one model is left to `make thorough`. Parts of experts are computed one expert at a time only.
"""


@pytest.mark.parametrize("name", PRESETS)
def test_a_design_is_a_file_of_less_than_forty_lines(name: str) -> None:
    assert len(inspect.getsource(inspect.getmodule(PRESETS[name])).splitlines()) < 40


def run(
    model: ModelArchitecture, trace: RoutingTrace, policy: Policy, execution: str, n_buffers: int | None = None
) -> Decoded:
    workload = measure_workload(model, trace.steps())
    full = policy.buffers(workload.n_active, model.n_experts).full
    cache = None
    if policy.cache is not None:
        cache = ResidentSet(
            (policy.cache.capacity(model.n_moe_layers - model.n_encoder_moe_layers, model.n_experts) or LEFT),
            eviction_named(
                policy.cache.eviction, model.n_encoder_moe_layers * model.n_experts, lambda: demands(model, trace)
            ),
            per_layer=policy.cache.per_layer,
            n_layers=model.n_moe_layers,
            n_experts=model.n_experts,
            admit=policy.cache.admit,
            budget=policy.cache.budget,
        )
    slots = max(full, workload.n_encoder_active) if n_buffers is None else n_buffers
    return decode(model, trace.steps(), policy, EXECUTIONS[execution], n_buffers=slots, cache=cache)


def timed(decoded: Decoded) -> Timeline:
    costs = price(decoded.schedule.works, HW)
    return recurrence.simulate(decoded.schedule, costs)


@cache
def served(name: str, text: str, execution: str, batch: int) -> tuple[Decoded, Timeline]:
    """A trace of `batch` sequences under a policy, and its times: several tests look at the same."""
    decoded = run(MODELS[name], routing(MODELS[name], batch=batch, seed=batch), told(text), execution)
    return decoded, timed(decoded)


@pytest.mark.parametrize(("text", "execution", "name"), WAYS)
def test_no_slot_is_overwritten_before_its_reader_has_ended(text: str, execution: str, name: str) -> None:
    """By the timeline: an expert is read where it was brought, and its slot is refilled only afterwards."""
    for batch in (1, 4):
        decoded, timeline = served(name, text, execution, batch)
        schedule = decoded.schedule
        owner = np.repeat(np.arange(len(schedule)), np.diff(schedule.dep_ptr))
        kind, slots = schedule.kind.tolist(), schedule.slot.tolist()
        whose = list(zip(schedule.layer.tolist(), schedule.expert.tolist(), strict=True))
        start_s, end_s = timeline.start_s.tolist(), timeline.end_s.tolist()
        readers: dict[int, list[int]] = {}
        for reader, source in zip(owner.tolist(), schedule.dep.tolist(), strict=True):
            copied = kind[source] in (OpKind.FETCH, OpKind.STAGE)
            both = kind[reader] == kind[source] == OpKind.STAGE
            if both or (kind[reader] == OpKind.STAGE and whose[reader] != whose[source]):
                continue  # it waits for the copy that filled its slot last, for nothing
            if copied and kind[reader] in (OpKind.STAGE, OpKind.EXPERTS):
                readers.setdefault(source, []).append(reader)
                assert start_s[reader] >= end_s[source]
        filled: dict[int, int] = {}
        for i, slot in enumerate(slots):
            if slot >= 0:
                for reader in readers.get(filled.get(slot, -1), []):
                    assert start_s[i] >= end_s[reader]
                filled[slot] = i


@pytest.mark.parametrize(("text", "execution", "name"), WAYS)
def test_hbm_stays_within_the_slots_and_returns_to_its_level(text: str, execution: str, name: str) -> None:
    model, policy = MODELS[name], told(text)
    trace = routing(model, batch=4, seed=4)
    _, timeline = served(name, text, execution, 4)
    workload = measure_workload(model, trace.steps())
    slots = max(policy.buffers(workload.n_active, model.n_experts).full, workload.n_encoder_active)
    cached = (policy.cache.capacity(model.n_moe_layers, model.n_experts) or LEFT) if policy.cache else 0
    _, level = timeline.hbm_events()
    assert level.max(initial=0) <= (slots + cached) * model.expert_bytes
    assert level.min(initial=0) >= 0
    if level.size:
        assert level[-1] <= cached * model.expert_bytes


@pytest.mark.parametrize(("text", "execution", "name"), WAYS)
def test_the_future_does_not_change_the_past(text: str, execution: str, name: str) -> None:
    model, policy = MODELS[name], told(text)
    if text == "oracle":
        pytest.skip("its cache knows the future")
    whole = routing(model, batch=2, output_tokens=6)
    cut = int(np.unique(whole.step)[3])
    keep = whole.step < cut
    short = dataclasses.replace(
        whole,
        **{column: getattr(whole, column)[keep] for column in ("experts", "sequence", "position", "phase", "step")},
    )
    full = policy.buffers(model.n_experts, model.n_experts).full + model.n_experts
    a, b = (run(model, trace, policy, execution, n_buffers=full).schedule for trace in (whole, short))
    n = len(b)
    for column in ("lane", "kind", "step", "layer", "expert", "slot", "bytes", "cost"):
        assert getattr(a, column)[:n].tolist() == getattr(b, column).tolist()
    assert a.dep[: len(b.dep)].tolist() == b.dep.tolist()


@pytest.mark.parametrize("name", list(MODELS))
@pytest.mark.parametrize("text", POLICIES)
def test_bytes_moved_are_the_misses(text: str, name: str) -> None:
    """What crosses the link: every expert a block executes, less what the cache held (all experts of prefetch_all)."""
    model, policy = MODELS[name], told(text)
    trace = routing(model, batch=4, seed=4)
    decoded, _ = served(name, text, "streams", 4)
    fetched = int(np.count_nonzero(decoded.schedule.kind == OpKind.FETCH))
    if text.endswith(IN_PART):
        pytest.skip("fetches parts of experts: test_misses counts their bytes")
    assert decoded.schedule.bytes[decoded.schedule.kind == OpKind.FETCH].sum() == fetched * model.expert_bytes
    executed = sum(
        len(np.unique(layer[layer >= 0])) for step in trace.steps() for layer in step.experts.transpose(1, 0, 2)
    )
    looked_up = decoded.n_lookups + decoded.n_prefill_lookups
    assert looked_up == executed
    misses = looked_up - decoded.n_hits - decoded.n_prefill_hits
    on_host = int(np.count_nonzero(decoded.schedule.kind == OpKind.CPU_EXPERT))
    if policy.resident:
        assert fetched == 0
    elif text.startswith(GUESSING):
        assert fetched + on_host + decoded.n_changed >= misses
    else:
        assert fetched + on_host == misses
        assert bool(on_host) == (policy.on_miss is not fetch_misses)


@pytest.mark.parametrize("name", list(MODELS))
@pytest.mark.parametrize("text", ["on_demand", "pregate", "pregate(2)", "pregate(3)", "prefetch_all"])
@pytest.mark.parametrize("execution", TRIED)
def test_the_fewest_slots_are_enough_and_never_stuck(text: str, name: str, execution: str) -> None:
    model, policy = MODELS[name], told(text)
    trace = routing(model, batch=2, seed=3)
    workload = measure_workload(model, trace.steps())
    hands_on = EXECUTIONS[execution].hands_slots_on and policy.needs_ids
    largest = max(workload.n_active, workload.n_encoder_active)
    fewest = max(policy.buffers(workload.n_active, model.n_experts).minimum, workload.n_encoder_active)
    few, many = (run(model, trace, policy, execution, n) for n in (1 if hands_on else fewest, 99))
    assert few.schedule.bytes.sum() == many.schedule.bytes.sum()
    for lookups in ("n_lookups", "n_hits", "n_prefill_lookups", "n_prefill_hits"):
        assert getattr(few, lookups) == getattr(many, lookups)
    with pytest.raises(CapacityExceeded, match="slots"):
        run(model, trace, policy, execution, 0 if hands_on else largest - 1)


def test_experts_of_a_block_beyond_the_slots_pass_through_them() -> None:
    """Two slots, the experts of a block one by one: each copy waits for the FFN that read its slot last."""
    model = MODELS["decoder-only"]
    trace = routing(model, batch=2, seed=3)
    schedule = run(model, trace, policy_named("on_demand"), "streams", 2).schedule
    reader: dict[int, int] = {}
    n_waits = 0
    for step, layer in {*zip(schedule.step.tolist(), schedule.layer.tolist(), strict=True)}:
        mine = np.flatnonzero((schedule.step == step) & (schedule.layer == layer))
        copies = [op for op in mine if schedule.kind[op] == OpKind.FETCH]
        ffns = [op for op in mine if schedule.kind[op] == OpKind.EXPERTS]
        assert [schedule.expert[op] for op in copies] == [schedule.expert[op] for op in ffns]
        for i, copy in enumerate(copies):
            waits = schedule.dep[schedule.dep_ptr[copy] : schedule.dep_ptr[copy + 1]].tolist()
            assert schedule.slot[copy] < 2
            if i >= 2:
                assert ffns[i - 2] in waits
                assert schedule.hbm_released[ffns[i - 2]] == model.expert_bytes
                n_waits += 1
        reader.update({int(schedule.slot[copy]): ffn for copy, ffn in zip(copies, ffns, strict=True)})
    assert n_waits > 0


def test_wrong_guesses_give_their_slots_up_to_what_is_needed() -> None:
    """One slot, taken by a guess of the next block that its gate does not choose."""
    model = MODELS["decoder-only"]
    trace = routing(model, batch=1, seed=3)

    def guess(view: BlockView) -> list[Fetch]:
        later = view.block + 1
        if later == view.n_blocks:
            return []
        wrong = set(range(view.n_experts)) - {*trace.experts[trace.step == view.i_step][:, later].ravel().tolist()}
        return [Fetch(later, (min(wrong),))]

    decoded = run(model, trace, Policy("guess", prefetch=guess), "streams", 1)
    assert decoded.n_hits == decoded.n_prefill_hits == 0
    fetched = np.count_nonzero(decoded.schedule.kind == OpKind.FETCH)
    n_steps = len(np.unique(trace.step))
    assert fetched == decoded.n_lookups + decoded.n_prefill_lookups + n_steps * (model.n_moe_layers - 1)


def kinds_of_block(decoded: Decoded, step: int, layer: int) -> list[OpKind]:
    schedule = decoded.schedule
    mine = np.flatnonzero(schedule.step == step)
    first = next(i for i in mine if schedule.layer[i] == layer and schedule.kind[i] == OpKind.GATE)
    last = next(i for i in mine if schedule.layer[i] == layer and schedule.kind[i] == OpKind.EXPERTS)
    return [OpKind(int(kind)) for kind in schedule.kind[first : last + 1]]


def test_released_order_inside_a_block() -> None:
    """Gate, wait for its own fetch, read back, fetch the next, FFN; the first fetches its own, the last nothing."""
    model = MODELS["encoder-decoder"]
    decoded = run(model, routing(model), policy_named("pregate"), "fastertransformer")
    copies = [OpKind.FETCH, OpKind.STAGE]
    read_back = [OpKind.READBACK, OpKind.WAIT]
    first, middle, last = (kinds_of_block(decoded, 2, layer) for layer in (1, 3, 5))
    assert first == [OpKind.GATE, *read_back, *copies, OpKind.WAIT, *read_back, *copies, OpKind.EXPERTS]
    assert middle == [OpKind.GATE, OpKind.WAIT, *read_back, *copies, OpKind.EXPERTS]
    assert last == [OpKind.GATE, OpKind.WAIT, OpKind.EXPERTS]


def test_on_demand_selects_fetches_waits_runs() -> None:
    model = MODELS["encoder-decoder"]
    decoded = run(model, routing(model), policy_named("on_demand"), "fastertransformer")
    for layer in (1, 3, 5):
        assert kinds_of_block(decoded, 1, layer) == [
            OpKind.GATE, OpKind.READBACK, OpKind.WAIT, OpKind.FETCH, OpKind.STAGE, OpKind.WAIT, OpKind.EXPERTS
        ]  # fmt: skip


def test_the_encoder_runs_on_demand_unless_asked() -> None:
    model = MODELS["encoder-decoder"]
    encoder = dataclasses.replace(
        model, encoder=dataclasses.replace(model.decoder, cross_attention=False), name="deep-encoder"
    )
    trace = routing(encoder)
    on_demand, same = (run(encoder, trace, pregate(encoder=e), "fastertransformer") for e in ("on_demand", "same"))
    named = run(encoder, trace, policy_named("pregate:encoder"), "fastertransformer")
    assert named.schedule == same.schedule
    assert kinds_of_block(on_demand, 0, 3)[:3] == [OpKind.GATE, OpKind.READBACK, OpKind.WAIT]
    assert kinds_of_block(same, 0, 3)[:2] == [OpKind.GATE, OpKind.WAIT]
    assert on_demand.schedule.bytes.sum() == same.schedule.bytes.sum()


def test_nothing_crosses_forward_passes() -> None:
    model = MODELS["decoder-only"]
    for text in ("pregate(2)", "prefetch_all"):
        schedule = run(model, routing(model), policy_named(text), "streams").schedule
        owner = np.repeat(np.arange(len(schedule)), np.diff(schedule.dep_ptr))
        reads = (schedule.kind[owner] == OpKind.EXPERTS) & (schedule.kind[schedule.dep] == OpKind.FETCH)
        assert np.all(schedule.step[owner[reads]] == schedule.step[schedule.dep[reads]])


@pytest.mark.parametrize(("execution", "n_host_buffers"), [("fastertransformer", 1), ("streams", 2)])
def test_a_read_of_storage_waits_for_the_copy_that_empties_its_host_buffer(execution: str, n_host_buffers: int) -> None:
    model = MODELS["decoder-only"]
    assert EXECUTIONS[execution].n_host_buffers == n_host_buffers
    decoded = decode(
        model, routing(model).steps(), policy_named("on_demand"), EXECUTIONS[execution], n_buffers=9, disk=True
    )
    timeline, schedule = timed(decoded), decoded.schedule
    reads, fetches = (np.flatnonzero(schedule.kind == kind) for kind in (OpKind.DISK_READ, OpKind.FETCH))
    assert len(reads) == len(fetches)
    assert np.all(timeline.start_s[fetches] >= timeline.end_s[reads])
    emptied = timeline.end_s[fetches[:-n_host_buffers]]
    assert np.all(timeline.start_s[reads[n_host_buffers:]] >= emptied)
    assert np.any(timeline.start_s[reads[1:]] < timeline.end_s[fetches[:-1]]) == (n_host_buffers > 1)
    assert np.all(schedule.lane[reads] == Lane.DISK)


def test_every_decode_step_ends_with_a_head() -> None:
    model = MODELS["decoder-only"]
    trace = routing(model, batch=2)
    schedule = run(model, trace, policy_named("pregate"), "streams").schedule
    assert np.unique(schedule.step[schedule.kind == OpKind.HEAD]).tolist() == np.unique(trace.step).tolist()
    encoder = MODELS["encoder-decoder"]
    encoded = routing(encoder)
    heads = run(encoder, encoded, policy_named("pregate"), "streams").schedule
    decode_steps = np.unique(encoded.step[encoded.phase == Phase.DECODE])
    assert np.unique(heads.step[heads.kind == OpKind.HEAD]).tolist() == decode_steps.tolist()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("pregat", "did you mean 'pregate'"),
        ("pregate(0)", "below 1"),
        ("pregate(x)", "form NAME"),
        ("gpu_only(2)", "only pregate"),
        ("gpu_only+lru:0.1", "takes no cache"),
        ("pregate+lru:much", "neither a ratio"),
        ("pregate+lru:0", "below 1"),
        ("pregate+lru:-0.5", "outside"),
        ("pregate+lru:0.5:perlayer", "did you mean 'per_layer'"),
        ("pregate+lrux:0.5", "did you mean 'lru'"),
        ("pregate+lru:0.5:admit=secnd", "did you mean 'second'"),
        ("pregate+lru:0.5:admit", "did you mean 'admit='"),
        ("pregate+lru:0.5:warm=1", "did you mean 'warm'"),
        ("pregate+lru:0.5:budget=-1", "not a number of experts"),
        ("pregate+lru:0.5:budget=1:budget=2", "twice"),
        ("pregate+lru:0.5:pooled:per_layer", "not both"),
        ("pregate+lru:0.5:hot=0.5", "hot= is of hot_lru"),
        ("pregate+hot_lru:0.5:hot=1.5", "from 0 to 1"),
        ("pregate+hot_lru:0.5:hot=much", "cache .* is not a number"),
        ("pregate+static:0.5:admit=second", "leave admit="),
    ],
)
def test_mistyped_policies_are_one_clear_line(text: str, message: str) -> None:
    with pytest.raises((InvalidInput, UnknownName), match=message):
        policy_named(text)


def test_caches_are_named_as_typed() -> None:
    assert cache_named("lfu:0.25:per_layer") == Cache("lfu", ratio=0.25, per_layer=True)
    assert cache_named("lifo:64:warm") == Cache("lifo", n_slots=64, warm=True)
    assert cache_named("lru") == Cache("lru")
    assert cache_named("mrs:0.2:pooled:admit=second:budget=2") == Cache("mrs", 0.2, admit="second", budget=2)
    assert cache_named("hot_lru:9:hot=0.25:per_layer") == Cache("hot_lru", n_slots=9, per_layer=True, hot=0.25)
    assert cache_named("lfru:admit=popular") == Cache("lfru", admit="popular")
    assert cache_named("fifo:per_layer:warm") == Cache("fifo", per_layer=True, warm=True)
    assert Cache(ratio=0.001).capacity(2, 3) == 1
    assert Cache().capacity(2, 3) is None
    assert {"lru", "lfu", "lifo", "lfu_released", "lifo_released"} <= set(eviction_names())
    with pytest.raises(InvalidInput, match="not both"):
        Cache(ratio=0.5, n_slots=4)


def test_no_two_designs_are_described_alike() -> None:
    described = [what_it_does(name) for name in DESIGNS]
    assert len(set(described)) == len(described)
    assert what_it_does("lru").endswith("is left: the least recently used expert goes, pooled over the layers")
