"""The compiled replay of slot caches and its definition give every lookup the same answer; so do schedules."""

from __future__ import annotations

from itertools import pairwise

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from hwmodels.platform import load_platform
from offload.caches.gate_output import gate_output
from offload.caches.slot_replay import is_known, replay_cache
from offload.caches.trace_events import trace_events
from offload.fast.kernels.replay_slots_kernel import KINDS
from offload.policies import cache_named, eviction_names
from pregate.ask.capturing.capture import capture
from tests.small_models import MODELS, routing
from traces.errors import InvalidInput
from traces.phase import Phase
from traces.routing import Provenance, RoutingTrace
from traces.statistics.popularity import shared_popularity

KNOWN = sorted(KINDS)


def trace_of(seed: int, n_tokens: int, batch: int, n_layers: int, n_experts: int, top_k: int) -> RoutingTrace:
    """Steps of `batch` sequences, which others replace now and then; pads, and gate weights in every second one."""
    rng = np.random.default_rng(seed)
    experts = rng.random((n_tokens, n_layers, n_experts)).argsort(axis=2)[:, :, :top_k].astype(np.int16)
    experts[:, :, 1:][rng.random((n_tokens, n_layers, top_k - 1)) < 0.2] = -1
    step = (np.arange(n_tokens) // batch).astype(np.int32)
    turn = np.cumsum(rng.random(step[-1] + 1) < 0.2)[step]
    sequence = (turn * batch + np.arange(n_tokens) % batch).astype(np.int32)
    start = {int(s): int(step[sequence == s][0]) for s in np.unique(sequence)}
    position = np.array([step[i] - start[int(sequence[i])] for i in range(n_tokens)], np.int32)
    first = np.array([all(position[step == s] == 0) for s in range(step[-1] + 1)])
    weights = rng.random(experts.shape).astype(np.float32) if seed % 2 else None
    return RoutingTrace(
        experts=experts, gate_weights=weights, sequence=sequence, position=position, step=step,
        phase=np.where(first[step], Phase.PREFILL, Phase.DECODE).astype(np.int8), n_experts=n_experts,
        provenance=Provenance("random", "a test", "none", "a test"),
    )  # fmt: skip


def test_the_kernel_knows_what_is_said_of_it() -> None:
    assert set(eviction_names()) - set(KINDS) == {"activation_released", "lfu_released", "lifo_released"}


@pytest.mark.parametrize("eviction", KNOWN)
@given(
    seed=st.integers(0, 10**6), n_tokens=st.integers(1, 60), batch=st.integers(1, 4), n_layers=st.integers(1, 4),
    n_experts=st.integers(3, 9), n_slots=st.integers(1, 30), cold=st.booleans(), per_layer=st.booleans(),
    budget=st.sampled_from(["", ":budget=0", ":budget=1"]),
)  # fmt: skip
def test_compiled_replays_are_the_definition(
    eviction: str, seed: int, n_tokens: int, batch: int, n_layers: int, n_experts: int, n_slots: int, cold: bool,
    per_layer: bool, budget: str,
) -> None:  # fmt: skip
    events = trace_events(trace_of(seed, n_tokens, batch, n_layers, n_experts, min(3, n_experts)))
    cache = cache_named(eviction + ":per_layer" * per_layer + budget * (eviction != "static"))
    fast, slow = (
        replay_cache(events, cache, n_slots, cold=cold, seed=7, compiled=compiled) for compiled in (True, False)
    )
    assert fast.hits.tolist() == slow.hits.tolist()
    assert fast == slow


@pytest.mark.parametrize("eviction", KNOWN)
def test_one_pool_of_many_layers_evicts_whoever_the_definition_does(eviction: str) -> None:
    """Long enough, and popular enough, that one resident's worth passes another's while its layer is left alone."""
    rng = np.random.default_rng(11)
    rank = np.argsort(rng.gumbel(size=(500, 12, 16)) - 1.5 * np.log(np.arange(1, 17)), axis=2)
    ones = np.zeros(500, np.int32)
    trace = RoutingTrace(
        experts=rank[:, :, :2].astype(np.int16), sequence=ones, position=np.arange(500, dtype=np.int32), n_experts=16,
        step=np.arange(500, dtype=np.int32), phase=np.full(500, Phase.DECODE, np.int8),
        provenance=Provenance("random", "a test", "none", "a test"),
    )  # fmt: skip
    fast, slow = (replay_cache(trace_events(trace), cache_named(eviction), 60, compiled=c) for c in (True, False))
    assert fast.hits.tolist() == slow.hits.tolist()


def test_events_are_the_unions_that_gates_name() -> None:
    trace = trace_of(5, 40, 3, 3, 7, 3)
    events = trace_events(trace, ascending=True)
    outputs = iter(events.outputs(0, len(events.layer)))
    n_lookups, before = 0, set[int]()
    for i, step in enumerate(trace.steps()):
        now = set(step.sequence.tolist())
        for layer in range(trace.n_moe_layers):
            weights = None if step.gate_weights is None else step.gate_weights[:, layer]
            wanted = gate_output(i, layer, step.experts[:, layer], weights, before.isdisjoint(now))
            found = next(outputs)
            assert found == wanted
            n_lookups += len(wanted.experts)
        before = now
    assert next(outputs, None) is None
    assert events.n_lookups == n_lookups


def test_experts_are_looked_up_by_their_last_appearance() -> None:
    trace = trace_of(5, 40, 3, 3, 7, 3)
    events = trace_events(trace)
    found = [events.keys[begin:end].tolist() for begin, end in pairwise(events.ptr)]
    wanted = []
    for step in trace.steps():
        for layer in range(trace.n_moe_layers):
            named = [int(one) + 7 * layer for one in step.experts[:, layer].ravel() if one >= 0]
            wanted.append(list(dict.fromkeys(reversed(named)))[::-1])
    assert found == wanted


@pytest.mark.parametrize("cache", [*KNOWN, "activation_released", "lru:admit=second", "lfru:per_layer:budget=1"])
def test_a_replay_meets_what_a_schedule_meets(cache: str) -> None:
    """The same hits as `on_demand+CACHE` in compare, of one pool or one a layer."""
    model, hw = MODELS["decoder-only"], load_platform("rtx-4090", "streams")
    trace = routing(model, batch=2, seed=4, output_tokens=9)
    eviction, _, rest = cache.partition(":")
    for per_layer in ("", ":per_layer") if "per_layer" not in rest else ("",):
        text = f"{eviction}:5{':' * bool(rest)}{rest}{per_layer}"
        decoded = capture(model, hw, trace, f"on_demand+{text}").decoded
        events, popularity = trace_events(trace, ascending=True), shared_popularity(trace)
        found = replay_cache(events, cache_named(text), 5, popularity=popularity)
        assert (found.n_decode_lookups, found.n_decode_hits) == (decoded.n_lookups, decoded.n_hits)
        assert found.n_hits == decoded.n_hits + decoded.n_prefill_hits


def test_belady_hits_no_less_than_any_other_cache_that_begins_empty() -> None:
    events = trace_events(trace_of(3, 200, 1, 3, 9, 3))
    for per_layer in (False, True):
        hits = {
            name: replay_cache(events, cache_named(name + ":per_layer" * per_layer), 12, cold=True).n_hits
            for name in eviction_names()
            if not cache_named(name).holds_popular
        }
        assert hits["belady"] == max(hits.values())


def test_what_cannot_be_replayed_is_refused() -> None:
    events = trace_events(trace_of(3, 20, 1, 3, 9, 3))
    with pytest.raises(InvalidInput, match="0 slots are below 1"):
        replay_cache(events, cache_named("lru"), 0)
    with pytest.raises(InvalidInput, match="leave :warm out"):
        replay_cache(events, cache_named("lru:warm"), 3)
    with pytest.raises(InvalidInput, match="does not know it"):
        replay_cache(events, cache_named("lru:admit=second"), 3, compiled=True)
    assert not is_known(cache_named("activation_released"))
