from __future__ import annotations

import json
import math
from collections import OrderedDict
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from traces.errors import InvalidInput
from traces.phase import Phase
from traces.routing import Provenance, RoutingTrace
from traces.statistics.locality import (
    distinct_experts,
    expert_counts,
    expert_reuse,
    layer_entropy_bits,
    layer_following,
    lru_hit_rates,
    trace_statistics,
)
from traces.synthesis.dials import Dials, synthesize_routing
from traces.transforms.rebatching import rebatch

ORIGIN = Provenance("toy", "test")


def one_layer(rows: list[list[int]], n_experts: int = 8, sequence: list[int] | None = None) -> RoutingTrace:
    """A decode trace of one layer, one token a step."""
    n = len(rows)
    members = np.array(sequence or [0] * n)
    age = [int(np.count_nonzero(members[:i] == members[i])) for i in range(n)]
    phase = np.full(n, Phase.DECODE)
    return RoutingTrace(
        np.array(rows, np.int16)[:, None],
        members,
        np.array(age),
        phase,
        np.arange(n, dtype=np.int32),
        n_experts,
        ORIGIN,
    )


def routed(seed: int, *, batch: int = 1, top_k: int = 2, n_experts: int = 8, tokens: int = 30) -> RoutingTrace:
    return synthesize_routing(
        n_moe_layers=3,
        n_encoder_moe_layers=0,
        n_experts=n_experts,
        top_k=top_k,
        input_tokens=4,
        output_tokens=tokens,
        batch=batch,
        dials=Dials(1.0, 0.3, 0.2),
        rng=np.random.default_rng(seed),
        model_name="toy",
    )


def lru_by_the_book(trace: RoutingTrace, capacity: int) -> float:
    """The oracle: event-atomic LRU, one dictionary a layer, straight from the definition."""
    hits = lookups = 0
    caches: list[OrderedDict[int, None]] = [OrderedDict() for _ in range(trace.n_moe_layers)]
    for step in trace.decode_only().steps():
        for layer, cache in enumerate(caches):
            touched = [int(expert) for expert in step.experts[:, layer].ravel() if expert >= 0]
            event = set(touched)
            hits += sum(expert in cache for expert in event)
            lookups += len(event)
            for expert in touched:
                cache[expert] = None
                cache.move_to_end(expert)
            for expert in list(cache):
                if len(cache) <= capacity:
                    break
                if expert not in event:
                    del cache[expert]
    return hits / lookups


@given(st.integers(0, 10_000), st.integers(1, 5), st.integers(1, 3))
def test_stack_distances_give_the_hit_rates_of_lru_by_the_book(seed: int, batch: int, top_k: int) -> None:
    trace = routed(seed, batch=batch, top_k=top_k)
    capacities = range(1, 9)
    expected = [lru_by_the_book(trace, capacity) for capacity in capacities]
    assert lru_hit_rates(trace, capacities) == pytest.approx(expected, abs=1e-12)


def test_lru_in_small_chunks_gives_the_same_rates(monkeypatch: pytest.MonkeyPatch) -> None:
    trace = routed(3, batch=3)
    whole = lru_hit_rates(trace, [2, 4, 6])
    monkeypatch.setattr("traces.statistics.locality._CELLS", 100)
    assert lru_hit_rates(trace, [2, 4, 6]) == whole


def test_hit_rate_at_full_capacity_misses_only_first_touches() -> None:
    trace = one_layer([[0, 1], [1, 2], [0, 2], [3, 0]])
    assert lru_hit_rates(trace, [8]) == (1 - 4 / 8,)


def test_caches_cold_for_each_sequence_forget_the_one_before() -> None:
    trace = one_layer([[0, 1], [0, 1], [0, 1], [0, 1]], sequence=[0, 0, 1, 1])
    assert lru_hit_rates(trace, [4], cold_each_sequence=True) == (0.5,)
    assert lru_hit_rates(trace, [4]) == (0.75,)
    with pytest.raises(InvalidInput, match="batch 1"):
        lru_hit_rates(rebatch(trace, 2), [4], cold_each_sequence=True)


def test_capacity_or_lag_below_one_is_refused() -> None:
    with pytest.raises(InvalidInput, match="capacity = 0"):
        lru_hit_rates(routed(0), [4, 0])
    with pytest.raises(InvalidInput, match="lag = 0"):
        expert_reuse(routed(0), 0)


def test_reuse_counts_shared_experts_of_the_same_sequence_only() -> None:
    trace = one_layer([[0, 1], [1, 2], [2, 1], [1, 2]], sequence=[0, 0, 0, 1])
    assert expert_reuse(trace, 1).tolist() == [3 / 4]
    assert expert_reuse(trace, 2).tolist() == [1 / 2]
    assert math.isnan(expert_reuse(trace, 3)[0])


def test_statistics_do_not_depend_on_how_sequences_are_batched() -> None:
    trace = routed(1, batch=4)
    alone = rebatch(trace, 1)
    assert np.array_equal(expert_reuse(trace, 1), expert_reuse(alone, 1))
    assert np.array_equal(expert_counts(trace), expert_counts(alone))
    assert distinct_experts(trace, 4) == distinct_experts(alone, 4)


def test_entropy_of_uniform_and_of_single_choices() -> None:
    counts = np.array([[5, 5, 5, 5], [9, 0, 0, 0], [0, 0, 0, 0]])
    bits = layer_entropy_bits(counts)
    assert bits[:2].tolist() == [2.0, 0.0]
    assert math.isnan(bits[2])


def test_distinct_experts_of_identical_and_of_disjoint_sequences() -> None:
    same = one_layer([[0, 1]] * 8, sequence=[0] * 4 + [1] * 4)
    apart = one_layer([[0, 1]] * 4 + [[2, 3]] * 4, sequence=[0] * 4 + [1] * 4)
    assert distinct_experts(same, 2) == 2
    assert distinct_experts(apart, 2) == 4
    assert math.isnan(distinct_experts(same, 9))


def test_load_names_the_hottest_experts() -> None:
    load = trace_statistics(one_layer([[0, 1], [0, 2], [0, 1]], n_experts=4)).load[0]
    assert load.counts == (3, 2, 1, 0)
    assert load.hottest == (0, 1, 2)
    assert load.max_over_mean == 3 / 1.5
    assert load.coefficient_of_variation == pytest.approx(math.sqrt(1.25) / 1.5)


def test_layer_following_is_one_for_a_map_and_zero_for_constants() -> None:
    rng = np.random.default_rng(0)
    first = rng.integers(0, 64, size=5000)
    experts = np.stack((first, (first * 5 + 3) % 64), axis=1)[:, :, None].astype(np.int16)
    tokens = np.arange(5000, dtype=np.int32)
    phase = np.full(5000, Phase.DECODE)
    mapped = RoutingTrace(experts, np.zeros(5000, np.int32), tokens, phase, tokens, 64, ORIGIN)
    assert layer_following(mapped) == pytest.approx(1 - 1 / 64, abs=0.01)
    assert layer_following(replace(mapped, experts=np.zeros_like(experts))) == 0
    shuffled = experts.copy()
    shuffled[:, 1] = rng.permutation(shuffled[:, 1])
    assert layer_following(replace(mapped, experts=shuffled)) < 0.1


def test_encoder_layers_are_described_by_their_prompt() -> None:
    trace = synthesize_routing(
        n_moe_layers=4,
        n_encoder_moe_layers=2,
        n_experts=8,
        top_k=1,
        input_tokens=10,
        output_tokens=6,
        batch=2,
        dials=Dials(0.5, 0.0, 0.0),
        rng=np.random.default_rng(0),
        model_name="toy",
    )
    statistics = trace_statistics(trace)
    assert [sum(load.counts) for load in statistics.load] == [20, 20, 12, 12]
    assert math.isnan(statistics.reuse_per_layer[1][0])
    assert 0 <= statistics.reuse[1] <= 1


def test_dictionary_is_json_and_has_null_where_there_is_no_data() -> None:
    statistics = trace_statistics(one_layer([[0, 1], [1, 2]]))
    data = json.loads(json.dumps(statistics.to_dict(), allow_nan=False))
    assert data["reuse"] == {"1": 0.5, "8": None}
    assert data["lru_hit_rate"]["0.25"] == statistics.lru_hit_rate[0.25]


def test_trace_without_decode_tokens_is_refused() -> None:
    with pytest.raises(InvalidInput, match="no decode tokens"):
        trace_statistics(routed(0).select(phase=Phase.PREFILL))
