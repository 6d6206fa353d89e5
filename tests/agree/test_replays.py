"""The compiled residency replay and its definition give every lookup the same answer, and so does libCacheSim."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from offload.caches.budget_replay import POLICIES, _Replay, replay_residency
from traces.phase import Phase
from traces.routing import Provenance, RoutingTrace


def _trace(seed: int, n_tokens: int, batch: int, n_layers: int, n_experts: int, top_k: int) -> RoutingTrace:
    """Steps of `batch` tokens, the first a prefill, with pads and repetitions."""
    rng = np.random.default_rng(seed)
    experts = rng.integers(0, n_experts, (n_tokens, n_layers, top_k)).astype(np.int16)
    experts = np.sort(experts, axis=2)
    experts[:, :, 1:][experts[:, :, 1:] == experts[:, :, :-1]] = -1  # a token names an expert once
    step = (np.arange(n_tokens) // batch).astype(np.int32)
    return RoutingTrace(
        experts=experts, gate_weights=None, sequence=(np.arange(n_tokens) % batch).astype(np.int32), position=step,
        phase=np.where(step == 0, Phase.PREFILL, Phase.DECODE).astype(np.int8), step=step, expert_bytes=None,
        n_experts=n_experts, provenance=Provenance("random", "a test", "none", "a test"),
    )  # fmt: skip


@given(
    st.sampled_from(POLICIES), st.integers(0, 10**6), st.integers(1, 60), st.integers(1, 5), st.integers(1, 4),
    st.integers(2, 9), st.integers(0, 40), st.booleans(),
)  # fmt: skip
def test_compiled_replays_are_the_definition(
    policy: str, seed: int, n_tokens: int, batch: int, n_layers: int, n_experts: int, n_slots: int, uneven: bool
) -> None:
    trace = _trace(seed, n_tokens, batch, n_layers, n_experts, min(3, n_experts))
    sizes = [10 + 3 * layer * uneven for layer in range(n_layers)]
    fast, slow = (_Replay(trace, sizes, compiled=compiled).run(policy, 10 * n_slots, 7) for compiled in (True, False))
    assert fast == slow
    assert fast.hits.tolist() == slow.hits.tolist()


@pytest.mark.parametrize(("policy", "theirs"), [("lru", "LRU"), ("belady", "Belady")])
@pytest.mark.parametrize("n_slots", [1, 7, 40])
def test_libcachesim_meets_the_same_hits_one_lookup_at_a_time(policy: str, theirs: str, n_slots: int) -> None:
    """One layer, one expert a token: an event is one lookup, where the semantics of both meet."""
    library = pytest.importorskip("libcachesim", reason="libcachesim is not installed: pip install libcachesim")
    trace = _trace(3, 3000, 1, 1, 64, 1)
    keys = trace.experts.ravel().tolist()
    requests = [library.Request(obj_id=key, obj_size=1) for key in keys]
    following = {}
    for at in range(len(keys) - 1, -1, -1):
        requests[at].next_access_vtime = following.get(keys[at], 2**62)
        requests[at].clock_time = at
        following[keys[at]] = at
    cache = getattr(library, theirs)(cache_size=n_slots)
    found = [bool(cache.get(request)) for request in requests]
    assert replay_residency(trace, policy, n_slots, [1]).hits.tolist() == found
