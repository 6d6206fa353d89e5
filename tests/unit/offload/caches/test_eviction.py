"""Every eviction keeps one contract, and each keeps its own order."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from offload.caches.eviction import EVICTIONS, Belady, Eviction, Fifo, HotLru, Lfu, Lifo, Lru, Random, Static
from offload.caches.gate_output import GateOutput

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


def emptied(eviction: Eviction, protected: set[int] | None = None) -> list[int]:
    """Who goes, one after the other, until nobody may."""
    left = []
    while (victim := eviction.victim(protected or set())) is not None:
        eviction.remove(victim)
        left.append(victim)
    return left


@pytest.mark.parametrize(("make_eviction", "order"), [(Lru, [4, 7, 2]), (Fifo, [2, 4, 7]), (Lifo, [2, 4, 7])])
def test_residents_are_told_the_oldest_first(make_eviction: Callable[[], Lru | Fifo | Lifo], order: list[int]) -> None:
    eviction = make_eviction()
    for key in (2, 4, 7):
        eviction.insert(key)
    eviction.touch(2)
    assert list(eviction) == order


def test_prefetches_of_lfu_go_in_the_order_they_came() -> None:
    """None has been used: ties go to the least recently inserted, whatever the keys."""
    eviction = Lfu()
    for key in (5, 3, 9, 1):
        eviction.insert(key)
    assert emptied(eviction) == [5, 3, 9, 1]


def test_ties_of_lfu_go_to_the_least_recently_used() -> None:
    eviction = filled(Lfu(), 1, 2, 3)  # once each
    eviction.touch(2)
    eviction.touch(1)  # 1 and 2 twice, 2 longer ago
    eviction.insert(7)
    eviction.touch(7)  # 7 once, later than 3
    assert eviction.victim({3}) == 7
    assert eviction.victim({3, 7}) == 2
    assert eviction.victim(set()) == 3  # who was passed over is there still
    assert emptied(eviction) == [3, 7, 2, 1]


def test_a_return_to_lfu_is_not_mistaken_for_the_stay_before() -> None:
    eviction = filled(Lfu(), 1, 2)
    assert eviction.victim(set()) == 1
    eviction.remove(1)
    eviction.touch(1)
    eviction.touch(1)
    eviction.insert(1)  # three uses by now
    eviction.touch(2)  # two
    assert emptied(eviction) == [2, 1]


def test_random_keeps_every_resident_in_the_lottery() -> None:
    eviction = filled(Random(np.random.default_rng(0)), *range(5))
    for gone in (1, 4, 0):  # from the middle, the last one, the first one
        eviction.remove(gone)
    eviction.insert(8)
    drawn = {eviction.victim(set()) for _ in range(100)}
    assert drawn == {2, 3, 8}
    assert {eviction.victim({3}) for _ in range(100)} == {2, 8}
    assert sorted(emptied(eviction)) == [2, 3, 8]


def test_random_draws_from_its_generator() -> None:
    """One number for a draw, another among the unprotected when that one is protected."""
    eviction, twin = filled(Random(np.random.default_rng(5)), *range(4)), np.random.default_rng(5)
    for _ in range(30):
        drawn = int(twin.integers(4))
        wanted = drawn if drawn != 2 else [0, 1, 3][int(twin.integers(3))]
        assert eviction.victim({2}) == wanted


def test_static_keeps_everybody() -> None:
    eviction = filled(Static(), 1, 2)
    eviction.remove(1)
    assert eviction.victim(set()) is None


def test_belady_looks_at_the_next_use_after_now() -> None:
    """Now event 2: key 1 comes at 3 and 6, key 2 at 5, key 3 at 4, key 4 never again."""
    eviction = Belady([[1, 2, 3, 4], [2, 2], [4], [1], [3], [2], [1]])
    filled(eviction, 1, 2, 3, 4)
    eviction.touch(2)
    eviction.touch(4)
    assert eviction.victim({4}) == 2
    assert eviction.victim({4, 2}) == 3
    assert emptied(eviction, {4}) == [2, 3, 1]
    assert emptied(eviction) == [4]


def test_belady_knows_a_return_and_uses_while_away() -> None:
    eviction = Belady([[1], [2], [1], [2], [1], [3]])
    filled(eviction, 1, 2)
    eviction.remove(1)
    eviction.touch(1)  # looked up in event 2 and not kept
    eviction.touch(2)
    eviction.insert(1)  # 2 is not used again, 1 in event 4
    assert emptied(eviction) == [2, 1]


def test_what_belady_knows_nothing_of_goes_before_what_is_needed_last() -> None:
    eviction = filled(Belady([[1], [2], [1]]), 1, 2)
    eviction.insert(9)
    eviction.touch(9)
    assert emptied(eviction) == [2, 9, 1]


def test_belady_stays_right_and_small_over_thousands_of_uses() -> None:
    """A heap that is made anew now and then: 3 stays needed last, 1 and 2 in turn."""
    n = 3000
    eviction = Belady([*[[1 + i % 2] for i in range(n)], [2], [1], [3]])
    for key in (1, 2, 3):
        eviction.insert(key)
    for i in range(n):
        eviction.touch(1 + i % 2)
    assert emptied(eviction) == [3, 1, 2]


def test_residents_of_lfu_are_told_the_first_to_go_first() -> None:
    """Insertion order 9, 5, 3, 7; 9 twice, 5 and 3 once, 3 longer ago; 7 came unasked."""
    eviction = Lfu()
    for key in (9, 5, 3, 7):
        eviction.insert(key)
    for key in (9, 3, 9, 5):
        eviction.touch(key)
    assert list(eviction) == [7, 3, 5, 9] == emptied(eviction)


def test_what_is_held_is_no_victim_and_leaves_when_it_must() -> None:
    eviction = HotLru()
    for key in (1, 2, 3):
        eviction.insert(key)
    eviction.hold(2)
    eviction.touch(1)
    eviction.touch(2)  # held, so no matter
    assert list(eviction) == [3, 1]
    assert eviction.victim({3}) == 1
    eviction.remove(2)
    eviction.insert(2)  # as one of the others
    assert emptied(eviction) == [3, 1, 2]


def test_where_gates_say_what_is_used_lookups_do_not_move_belady() -> None:
    """The second layer of four experts: 5 comes in events 0 and 1, 6 in 0 and 2, 7 in 2."""
    eviction = Belady([[5, 6], [5], [6, 7]])
    eviction.gated(GateOutput(0, 1, (1, 2), (1, 1), (1.0, 1.0), 1, 2), first=4)
    for key in (5, 6, 7):
        eviction.insert(key)
        eviction.touch(key)  # a prefetch that was right or wrong
    assert emptied(eviction, {6}) == [7, 5]
    eviction.insert(5)
    eviction.gated(GateOutput(1, 1, (1,), (1,), (1.0,), 1, 1), first=4)
    assert eviction.victim(set()) == 5  # never again; 6 is in event 2
