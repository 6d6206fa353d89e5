"""Every eviction keeps one contract, and each keeps its own order."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from offload.eviction import EVICTIONS, Belady, Eviction, Fifo, Lfu, Lifo, Lru, Random

N_KEYS = 8
EVENTS = st.lists(st.sets(st.integers(0, N_KEYS - 1), min_size=1, max_size=4).map(sorted), max_size=40)
SINGLES = st.lists(st.integers(0, N_KEYS - 1).map(lambda key: [key]), max_size=60)
NAMES = [*EVICTIONS, "random", "belady"]


def make(name: str, events: list[list[int]]) -> Eviction:
    if name == "belady":
        return Belady(events)
    return Random(np.random.default_rng(7)) if name == "random" else EVICTIONS[name]()


def n_hits(eviction: Eviction, events: list[list[int]], capacity: int) -> int:
    """Replay events atomically with unit sizes, and hold the eviction to its contract."""
    resident: set[int] = set()
    hits = 0
    for event in events:
        missing = [key for key in event if key not in resident]
        hits += len(event) - len(missing)
        for key in missing:
            eviction.insert(key)
        resident |= set(missing)
        for key in event:
            eviction.touch(key)
        while len(resident) > capacity:
            victim = eviction.victim(frozenset(event))
            if victim is None:
                assert resident <= set(event)
                break
            assert victim in resident
            assert victim not in event
            eviction.remove(victim)
            resident.remove(victim)
    return hits


def filled(eviction: Eviction, *keys: int) -> Eviction:
    for key in keys:
        eviction.insert(key)
        eviction.touch(key)
    return eviction


@pytest.mark.parametrize("name", NAMES)
@given(events=EVENTS, capacity=st.integers(1, N_KEYS))
def test_victims_are_resident_and_never_of_the_event(name: str, events: list[list[int]], capacity: int) -> None:
    hits = n_hits(make(name, events), events, capacity)  # which asserts it of every victim
    assert 0 <= hits <= sum(map(len, events))


@pytest.mark.parametrize("name", NAMES)
def test_everything_protected_means_no_victim(name: str) -> None:
    eviction = filled(make(name, [[1], [2]]), 1, 2)
    assert eviction.victim({1, 2}) is None
    assert eviction.victim({1}) == 2  # asking takes nothing away
    assert eviction.victim({2}) == 1


@pytest.mark.parametrize("name", NAMES)
def test_an_empty_cache_has_no_victim(name: str) -> None:
    assert make(name, []).victim(set()) is None


@pytest.mark.parametrize("name", NAMES)
def test_what_left_is_no_victim_until_it_returns(name: str) -> None:
    eviction = filled(make(name, []), 1, 2)
    eviction.remove(1)
    assert eviction.victim(set()) == 2
    eviction.remove(2)
    eviction.touch(1)  # a lookup of what is not resident
    assert eviction.victim(set()) is None
    eviction.insert(1)
    assert eviction.victim(set()) == 1


@pytest.mark.parametrize("name", [name for name in NAMES if name != "belady"])
@given(events=SINGLES, capacity=st.integers(1, N_KEYS))
def test_belady_never_hits_less_than_any_other(name: str, events: list[list[int]], capacity: int) -> None:
    """Belady (1966) is optimal for unit sizes when every event is one key and must be admitted."""
    assert n_hits(Belady(events), events, capacity) >= n_hits(make(name, events), events, capacity)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "belady"])
@given(events=EVENTS, capacity=st.integers(4, N_KEYS))
def test_belady_never_hits_less_with_atomic_events(name: str, events: list[list[int]], capacity: int) -> None:
    assert n_hits(Belady(events), events, capacity) >= n_hits(make(name, events), events, capacity)


@given(events=SINGLES, capacity=st.integers(1, N_KEYS - 1))
def test_a_bigger_lru_cache_never_hits_less(events: list[list[int]], capacity: int) -> None:
    """The inclusion property: Mattson et al., IBM Systems Journal 9(2), 1970."""
    assert n_hits(Lru(), events, capacity) <= n_hits(Lru(), events, capacity + 1)


@pytest.mark.parametrize(
    ("make_eviction", "victims"),
    [(Lru, [2, 3, 1]), (Lfu, [2, 3, 1]), (Fifo, [1, 2, 3]), (Lifo, [3, 2, 1])],
)
def test_each_discipline_has_its_order(make_eviction: Callable[[], Eviction], victims: list[int]) -> None:
    eviction = filled(make_eviction(), 1, 2, 3)
    eviction.touch(1)
    left = []
    while (victim := eviction.victim(set())) is not None:
        eviction.remove(victim)
        left.append(victim)
    assert left == victims


def test_lfu_keeps_the_count_of_what_left() -> None:
    eviction = filled(Lfu(), 1, 2)
    eviction.touch(1)
    eviction.remove(1)
    eviction.touch(2)
    eviction.touch(2)  # 2 was used three times, 1 twice
    eviction.insert(1)
    eviction.touch(1)
    eviction.touch(1)  # and now four times
    assert eviction.victim(set()) == 2


def test_lfu_does_not_count_a_prefetch() -> None:
    eviction = filled(Lfu(), 1)
    eviction.insert(2)
    assert eviction.victim(set()) == 2


def test_belady_evicts_what_is_needed_last() -> None:
    eviction = Belady([[1], [2], [3], [2], [1]])
    filled(eviction, 1, 2, 3)
    assert eviction.victim(set()) == 3
    eviction.remove(3)
    assert eviction.victim(set()) == 1


def test_belady_breaks_ties_by_first_inserted() -> None:
    assert filled(Belady([[5], [4]]), 5, 4).victim(set()) == 5


def test_random_is_uniform_over_the_unprotected() -> None:
    eviction = filled(Random(np.random.default_rng(1)), *range(6))
    eviction.remove(2)
    counts = np.bincount([eviction.victim({0}) or 0 for _ in range(4000)], minlength=6)
    assert counts[0] == counts[2] == 0
    assert np.abs(counts[[1, 3, 4, 5]] - 1000).max() < 140  # 5 standard deviations of a binomial(4000, 1/4)


def test_the_same_seed_draws_the_same_victims() -> None:
    first, second = (filled(Random(np.random.default_rng(3)), *range(6)) for _ in range(2))
    assert [first.victim(set()) for _ in range(20)] == [second.victim(set()) for _ in range(20)]
