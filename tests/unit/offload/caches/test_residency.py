"""The resident set of the decode loop, and the replay by bytes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from offload.caches.budget_replay import POLICIES, curve_csv, replay_residency, residency_curve
from offload.caches.eviction import EVICTIONS, Belady, Eviction, Lru, Static
from offload.caches.residency import ResidentSet
from traces.errors import InvalidInput, UnknownName
from traces.phase import Phase
from traces.routing import Provenance, RoutingTrace

N_LAYERS, N_EXPERTS = 2, 6
EVENTS = st.lists(
    st.tuples(st.integers(0, N_LAYERS - 1), st.lists(st.integers(0, N_EXPERTS - 1), min_size=1, max_size=5)),
    max_size=40,
)


def trace_of(experts: Sequence[object], n_prefill: int = 0, n_experts: int = N_EXPERTS) -> RoutingTrace:
    """Tokens (n_tokens, n_moe_layers, top_k); the first `n_prefill` are the prompt, in one step."""
    table = np.array(experts, dtype=np.int16)
    index = np.arange(len(table))
    return RoutingTrace(
        experts=table,
        sequence=np.zeros(len(table), np.int32),
        position=index.astype(np.int32),
        phase=np.where(index < n_prefill, Phase.PREFILL, Phase.DECODE).astype(np.int8),
        step=np.maximum(index - max(n_prefill - 1, 0), 0).astype(np.int32),
        n_experts=n_experts,
        provenance=Provenance(model="toy", source="this test"),
    )


def random_trace(seed: int, n_tokens: int = 60, n_layers: int = 3, top_k: int = 2) -> RoutingTrace:
    order = np.random.default_rng(seed).random((n_tokens, n_layers, N_EXPERTS)).argsort(axis=2)
    return trace_of(order[:, :, :top_k].tolist(), n_prefill=5)


@pytest.mark.parametrize("per_layer", [False, True])
@pytest.mark.parametrize("eviction", [*EVICTIONS, "random"])
@given(events=EVENTS, capacity=st.integers(0, 9))
def test_every_eviction_keeps_the_contract(
    eviction: str, per_layer: bool, events: list[tuple[int, list[int]]], capacity: int
) -> None:
    residents = ResidentSet(capacity, eviction, per_layer=per_layer, n_layers=N_LAYERS, n_experts=N_EXPERTS)
    mirror: dict[int, tuple[int, int]] = {}  # slot -> (layer, expert), from the accesses alone
    for layer, experts in events:
        accesses = residents.admit(layer, experts)
        assert [access.expert for access in accesses] == list(dict.fromkeys(experts))
        before = dict(mirror)
        for access in accesses:
            place = (layer, access.expert)
            assert access.hit == (place in before.values())
            if access.victim is not None:
                gone = divmod(access.victim, N_EXPERTS)
                assert gone == before[access.slot]
                assert gone[0] != layer or gone[1] not in experts
                assert gone not in residents
            if access.hit:
                assert mirror[access.slot] == place
            elif access.slot >= 0:
                mirror[access.slot] = place
            assert (place in residents) == (access.slot >= 0)
        assert set(mirror) <= set(range(capacity))
        assert residents.n_resident == len(mirror) <= capacity
        assert all(place in residents for place in mirror.values())
        if per_layer:
            held = np.bincount([place[0] for place in mirror.values()], minlength=N_LAYERS)
            assert (held <= -(-capacity // N_LAYERS)).all()
    assert residents.n_lookups == sum(len(set(experts)) for _, experts in events)


def test_an_event_is_looked_up_before_it_evicts() -> None:
    """Two slots hold 0 and 1; then 2 and 0 are needed together."""
    atomic = ResidentSet(2, n_layers=1, n_experts=4)
    atomic.admit(0, [0, 1])
    assert [access.hit for access in atomic.admit(0, [2, 0])] == [False, True]
    serial = ResidentSet(2, n_layers=1, n_experts=4)
    serial.admit(0, [0, 1])
    assert [serial.admit(0, [expert])[0].hit for expert in (2, 0)] == [False, False]


def test_an_event_larger_than_the_capacity_passes_through() -> None:
    residents = ResidentSet(2, n_layers=1, n_experts=4)
    residents.admit(0, [3])
    accesses = residents.admit(0, [0, 1, 2, 3])
    assert [(access.expert, access.slot >= 0) for access in accesses] == [
        (0, True),
        (1, False),
        (2, False),
        (3, True),
    ]
    assert (0, 3) in residents
    assert (0, 1) not in residents


def hits_of_a_cycle(capacity: int, *, serial: bool = False) -> int:
    """10 tokens, 4 layers of 2 experts, the same for every token: a cycle of 8."""
    residents = ResidentSet(capacity, n_layers=4, n_experts=4)
    for _ in range(10):
        for layer in range(4):
            for event in ([0], [1]) if serial else ([0, 1],):
                residents.admit(layer, event)
    return residents.n_hits


def test_pooled_lru_below_one_tokens_cycle_never_hits() -> None:
    """0 at the cycle less k; all but the first token at the cycle; between, an atomic event keeps some."""
    assert [hits_of_a_cycle(capacity) for capacity in (2, 6, 8)] == [0, 0, 9 * 8]
    assert 0 < hits_of_a_cycle(7) < 9 * 8


def test_pooled_serial_lru_never_hits_up_to_the_cycle() -> None:
    assert [hits_of_a_cycle(capacity, serial=True) for capacity in (6, 7, 8)] == [0, 0, 9 * 8]


def test_what_is_pinned_is_not_evicted() -> None:
    residents = ResidentSet(2, n_layers=2, n_experts=4)
    residents.admit(0, [0, 1])
    assert residents.admit(1, [2], pinned={0})[0].victim == 1
    assert residents.admit(1, [3], pinned={0, 4 + 2})[0].slot == -1
    assert residents.admit(1, [3])[0].victim == 0


def test_per_layer_lru_has_no_cliff() -> None:
    residents = ResidentSet(7, per_layer=True, n_layers=4, n_experts=4)
    for _ in range(10):
        for layer in range(4):
            residents.admit(layer, [0, 1])
    assert residents.n_hits == 9 * (3 * 2 + 1)  # the last layer has one slot: one of its two always passes


def test_capacity_is_split_evenly_with_the_rest_to_the_first_layers() -> None:
    residents = ResidentSet(5, per_layer=True, n_layers=3, n_experts=4)
    kept = [sum(access.slot >= 0 for access in residents.admit(layer, range(4))) for layer in range(3)]
    assert kept == [2, 2, 1]


def test_a_repeated_expert_is_one_lookup_but_moves_up() -> None:
    residents = ResidentSet(3, n_layers=1, n_experts=6)
    assert len(residents.admit(0, [0, 1, 0])) == residents.n_lookups == 2
    residents.admit(0, [2])
    assert residents.admit(0, [3])[0].victim == 1  # 0 was seen after 1


def test_hit_rate_counts_and_starts_at_zero() -> None:
    residents = ResidentSet(4, n_layers=1, n_experts=4)
    assert residents.hit_rate == 0.0
    residents.admit(0, [0, 1])
    residents.admit(0, [1, 2])
    assert (residents.n_hits, residents.n_lookups, residents.hit_rate) == (1, 4, 0.25)


def test_random_depends_on_its_seed_alone() -> None:
    def victims(seed: int) -> list[int | None]:
        residents = ResidentSet(6, "random", n_layers=1, n_experts=64, seed=seed)
        return [residents.admit(0, [expert])[0].victim for expert in range(64)]

    assert victims(1) == victims(1)
    assert victims(1) != victims(2)


def test_belady_comes_as_a_function() -> None:
    events = [[0], [1], [2], [0]]
    residents = ResidentSet(2, lambda: Belady(events), n_layers=1, n_experts=4)
    assert [residents.admit(0, event)[0].hit for event in events] == [False, False, False, True]


def test_what_cannot_be_is_refused_by_name() -> None:
    with pytest.raises(UnknownName, match="did you mean 'lru'"):
        ResidentSet(4, "lruu", n_layers=1, n_experts=4)
    with pytest.raises(InvalidInput, match="capacity = -1"):
        ResidentSet(-1, n_layers=1, n_experts=4)
    with pytest.raises(InvalidInput, match="n_experts = 0"):
        ResidentSet(1, n_layers=1, n_experts=0)
    residents = ResidentSet(4, n_layers=1, n_experts=4)
    with pytest.raises(InvalidInput, match="expert -1 of layer 0"):
        residents.admit(0, [0, -1])
    with pytest.raises(InvalidInput, match="layer 1 is outside"):
        residents.admit(1, [0])
    assert residents.n_lookups == 0


@given(seed=st.integers(0, 1000), capacity=st.integers(6, 18), per_layer=st.booleans())
def test_slots_and_bytes_agree_for_equal_sizes(seed: int, capacity: int, per_layer: bool) -> None:
    """Two implementations of the same rules; 6 slots a layer hold the largest prompt batch."""
    trace = random_trace(seed)
    capacity = 3 * capacity if per_layer else capacity
    for lru, lfu in [("layer", "layerlfu")] if per_layer else [("lru", "lfu")]:
        for eviction, policy in (("lru", lru), ("lfu", lfu)):
            residents = ResidentSet(capacity, eviction, per_layer=per_layer, n_layers=3, n_experts=N_EXPERTS)
            for step in trace.steps():
                for layer in range(3):
                    residents.admit(layer, step.experts[:, layer, :].ravel().tolist())
            result = replay_residency(trace, policy, capacity * 10, [10, 10, 10])
            assert (result.n_hits, result.n_lookups) == (residents.n_hits, residents.n_lookups)


@pytest.mark.parametrize("policy", POLICIES)
@given(seed=st.integers(0, 1000), budget_bytes=st.integers(0, 200))
def test_replay_reads_what_it_misses_and_keeps_its_budget(policy: str, seed: int, budget_bytes: int) -> None:
    trace = random_trace(seed)
    result = replay_residency(trace, policy, budget_bytes, [7, 7, 7])
    assert result.read_bytes == 7 * result.n_misses
    assert result.n_hits == result.hits.sum()
    assert result.n_lookups == result.hits.size
    largest_batch = 7 * N_EXPERTS
    assert result.peak_bytes <= max(budget_bytes, largest_batch * (3 if policy.startswith("layer") else 1))
    assert result.n_hits <= replay_residency(trace, policy, 10_000, [7, 7, 7]).n_hits


def test_a_prompt_is_one_batch_a_layer() -> None:
    prompt = trace_of([[[0, 1]], [[1, 2]], [[0, 2]]], n_prefill=3)
    result = replay_residency(prompt, "lru", 100, [10])
    assert (result.n_lookups, result.n_hits, result.n_lookups_decode) == (3, 0, 0)
    assert result.hit_pct_decode == 0.0


def test_pads_are_no_lookups() -> None:
    result = replay_residency(trace_of([[[0, -1]], [[0, 1]]]), "lru", 100, [10])
    assert result.hits.tolist() == [False, True, False]


def test_a_batch_over_budget_stays_until_the_next_one() -> None:
    """Published rule: a batch evicts nothing that it used, so two experts outlive a budget of one."""
    trace = trace_of([[[0, 1]], [[0, 1]], [[2, 3]], [[0, 1]]])
    result = replay_residency(trace, "lru", 10, [10])
    assert result.hits.tolist() == [False] * 2 + [True] * 2 + [False] * 4
    assert result.peak_bytes == 20


def test_larger_experts_take_more_of_the_budget() -> None:
    trace = trace_of([[[0], [0]], [[0], [0]]])
    assert replay_residency(trace, "lru", 40, [10, 30]).n_hits == 2
    assert replay_residency(trace, "lru", 39, [10, 30]).n_hits == 0


def test_curve_rows_print_as_published() -> None:
    trace = random_trace(1)
    rows = residency_curve(trace, ("lru", "belady"), (1, 2), expert_bytes=[1 << 20] * 3)
    lines = curve_csv(rows).splitlines()
    assert lines[0] == "budget_mib,policy,hit_pct_cum,hit_pct_decode,read_mib"
    result = replay_residency(trace, "lru", 2 << 20, [1 << 20] * 3)
    assert lines[3] == f"2,lru,{result.hit_pct_cum:.3f},{result.hit_pct_decode:.3f},{result.n_misses:.1f}"


def test_replay_refuses_by_name() -> None:
    trace = random_trace(0)
    with pytest.raises(UnknownName, match="did you mean 'belady'"):
        replay_residency(trace, "beladi", 10, [1, 1, 1])
    with pytest.raises(InvalidInput, match="does not state expert_bytes"):
        replay_residency(trace, "lru", 10)
    with pytest.raises(InvalidInput, match="2 values, the trace 3"):
        replay_residency(trace, "lru", 10, [1, 1])
    with pytest.raises(InvalidInput, match="at least 1 byte"):
        replay_residency(trace, "lru", 10, [1, 0, 1])
    with pytest.raises(InvalidInput, match="budget_bytes = -1"):
        replay_residency(trace, "lru", -1, [1, 1, 1])


@pytest.mark.parametrize("per_layer", [False, True])
@pytest.mark.parametrize("budget", [None, 0])
@pytest.mark.parametrize("eviction", [Static, Lru])
def test_filling_is_admitting_one_after_the_other(
    eviction: Callable[[], Eviction], budget: int | None, per_layer: bool
) -> None:
    places = [(layer, expert) for expert in (3, 1, 3, 0, 2) for layer in (1, 0, 2)]
    filled, admitted = (
        ResidentSet(7, eviction, per_layer=per_layer, n_layers=3, n_experts=4, budget=budget) for _ in range(2)
    )
    filled.fill(places)
    for layer, expert in places:
        admitted.admit(layer, [expert])
    assert filled.residents == admitted.residents
    assert filled.pools() == admitted.pools()
    assert (filled.n_lookups, filled.n_hits) == (admitted.n_lookups, admitted.n_hits)
