"""The most that a cache can hit: no other choice of what is kept does better, and no cache comes above it."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pregate
from offload.caches.ceiling import most_hits
from offload.caches.slot_replay import replay_cache
from offload.caches.trace_events import TraceEvents, trace_events
from offload.policies import eviction_names
from offload.policy import Cache
from tests.grids import one_in
from tests.small_models import decoder_only
from traces.recorded import recorded_names
from traces.routing import RoutingTrace


def every_choice(events: TraceEvents, n_slots: int, filled: bool) -> int:
    """The most hits of one pool, by trying every content after every event."""
    asked = [events.keys[a:b].tolist() for a, b in zip(events.ptr, events.ptr[1:], strict=False)]
    everything = sorted({key for one in asked for key in one})

    @cache
    def best(event: int, held: frozenset[int]) -> int:
        if event == len(asked):
            return 0
        could = sorted(held | set(asked[event]))
        kept = combinations(could, min(n_slots, len(could)))
        return len(held & set(asked[event])) + max(best(event + 1, frozenset(one)) for one in kept)

    begins = combinations(everything, min(n_slots, len(everything))) if filled else [()]
    return max(best(0, frozenset(one)) for one in begins)


@settings(max_examples=15)
@given(st.integers(0, 10**6), st.integers(1, 4), st.booleans())
def test_no_other_content_hits_more(seed: int, n_slots: int, filled: bool) -> None:
    model = decoder_only(n_experts=5)
    trace = pregate.synthesize(model, 1, 4, 1, seed=seed)
    events = trace_events(trace)
    assert int(most_hits(events, n_slots, filled=filled).sum()) == every_choice(events, n_slots, filled)


def first_layers(trace: RoutingTrace, n: int) -> RoutingTrace:
    """The first `n` MoE layers of a recording: all of its prompts and passes."""
    weights, sizes = trace.gate_weights, trace.expert_bytes
    return replace(
        trace,
        experts=trace.experts[:, :n],
        gate_weights=None if weights is None else weights[:, :n],
        expert_bytes=None if sizes is None else sizes[:n],
    )


CACHES = [
    *(name for name in eviction_names() if not name.endswith("_released")),
    "lru:admit=second", "lru:budget=1", "lfu:budget=0", "hot_lru:hot=0.9",
]  # fmt: skip


@pytest.mark.parametrize(("name", "pool", "keep"), one_in(2, recorded_names(), ["per_layer", "pooled"], [False, True]))
def test_no_cache_hits_more_than_belady_on_any_recording(name: str, pool: str, keep: bool) -> None:
    trace = first_layers(pregate.load_trace(name).first_steps(16), 8)
    caches = [f"{cache}:{pool}" for cache in CACHES]
    for row in pregate.cache_hits(trace, caches, ["k", "0.125", "0.5"], keep=keep):
        assert row.to_belady >= 0, row


def test_the_ceiling_is_beladys_where_everything_fits_and_begins_empty() -> None:
    model = decoder_only()
    events = trace_events(pregate.synthesize(model, 2, 9, 3, seed=1))
    n_slots = events.n_layers * events.n_experts
    for per_layer in (False, True):
        found = replay_cache(events, Cache("belady", per_layer=per_layer), n_slots)
        assert np.array_equal(found.hits, most_hits(events, n_slots, per_layer=per_layer))
        assert most_hits(events, n_slots, per_layer=per_layer, filled=True).all()
