"""Experts brought aside that a cache takes over, slots that a layer takes back, and layers that come as one copy."""

from __future__ import annotations

from offload.ops import Lane, OpKind, Work
from offload.recorder import Recorder
from offload.slots.copies import Copies
from offload.slots.host_tier import HostTier, ReadWorks
from offload.slots.memory import ExpertMemory
from tests.unit.offload.slots.expert_desk import DISK, FETCH, STAGED, STREAMED, Desk, cache_of

BACK = Work(OpKind.WRITE_BACK, copy_bytes=10, weight_bits=8.0)
WRITTEN = Copies(FETCH, None, write_back=BACK)


def test_guesses_that_wait_for_slots_go_before_those_that_hold_one() -> None:
    desk = Desk(2)
    desk.memory.bring(0, [1], step=0)
    desk.memory.bring(1, [4, 5], step=0, aside=True)
    desk.memory.bring(0, [2], step=0)
    assert desk.memory.give_up_ahead(0)
    assert [desk.memory.has_or_awaits(*one) for one in ((0, 1), (0, 2), (1, 4), (1, 5))] == [True, True, False, False]
    assert [row[:5] for row in desk.rows()] == [
        ("FETCH", 3, 1, 0, []),
        ("FETCH", 5, 4, 1, []),
        ("FETCH", 3, 2, 1, [1]),
    ]
    assert not desk.memory.give_up_ahead(0)


def test_guesses_that_wait_are_enough_where_none_holds_a_slot() -> None:
    desk = Desk(1)
    desk.memory.bring(0, [1], step=0)
    desk.memory.bring(1, [4], step=0, aside=True)
    assert desk.memory.give_up_ahead(0)
    assert not desk.memory.has_or_awaits(1, 4)
    assert desk.rows() == [("FETCH", 3, 1, 0, [], 10)]


def test_the_furthest_layer_gives_its_guesses_first_and_keeps_what_its_gate_named() -> None:
    recorder = Recorder()
    memory = ExpertMemory(recorder, 4, 10, STREAMED, None, (0, 1, 2))
    memory.bring(2, [7], step=0)
    memory.bring(2, [1, 2], step=0, aside=True)
    memory.bring(1, [3], step=0, aside=True)
    memory.bring(0, [5, 6], step=0)
    assert memory.give_up_ahead(0)
    assert [memory.has(2, one) for one in (7, 1, 2)] == [True, False, False]
    assert [memory.has(*one) for one in ((1, 3), (0, 5), (0, 6))] == [True] * 3
    reader = recorder.issue(Lane.COMPUTE, Work(OpKind.EXPERTS), step=0)
    memory.release(0, reader, None)
    assert recorder.schedule().hbm_released.tolist() == [0, 10, 10, 0, 0, 0, 0]


def test_a_layers_own_guesses_are_not_taken_from_it() -> None:
    desk = Desk(1)
    desk.memory.bring(0, [1], step=0, aside=True)
    desk.memory.bring(0, [2], step=0)
    assert not desk.memory.give_up_ahead(0)
    assert desk.memory.has(0, 1)


def test_guesses_of_a_layer_that_has_run_are_forgotten() -> None:
    desk = Desk(1)
    desk.memory.bring(0, [1], step=0, aside=True)
    assert desk.memory.aside(0) == [1]
    desk.ffn(0)
    desk.memory.bring(0, [1], step=1)
    assert desk.memory.aside(0) == []
    assert not desk.memory.give_up_ahead(1)


def test_what_a_cache_adopts_stays_where_it_lies_and_what_goes_is_written_back() -> None:
    """The cache of one slot holds 3; 4 was brought aside and is named: 3 goes back, and its slot is a spare one now."""
    desk = Desk(1, WRITTEN, cache_of(1, 3))
    desk.memory.bring(0, [4], step=0, aside=True)
    desk.memory.bring(0, [], step=0, adopts=[4])
    (held,) = desk.memory.held.claimed(0).values()
    assert (held.slot, held.transient, held.passing, held.given) == (0, False, False, -1)
    reader = desk.ffn(0)
    desk.memory.bring(0, [5], step=1)
    assert desk.rows() == [
        ("FETCH", 3, 4, 0, [], 10),
        ("WRITE_BACK", 3, 3, 1, [], 0),
        ("WRITE_BACK", 3, 4, 0, [0, reader], 0),
        ("FETCH", 3, 5, 1, [1], 0),
    ]


def test_memory_that_a_warm_cache_holds_is_neither_taken_nor_given_again() -> None:
    """Once 3 is back in host memory its slot is spare: what is brought aside there takes none, and gives the slot."""
    desk = Desk(1, WRITTEN, cache_of(1, 3))
    desk.memory.bring(0, [4], step=0)
    desk.ffn(0)
    desk.memory.bring(0, [5], step=1, aside=True)
    (held,) = desk.memory.held.claimed(0).values()
    assert (held.slot, held.transient, held.given) == (1, False, 1)
    desk.ffn(0)
    desk.memory.bring(0, [2], step=2, aside=True)
    assert desk.memory.held.claimed(0)[2].slot == 1
    schedule = desk.schedule()
    assert schedule.hbm_acquired.tolist() == [0, 10, 0, 0, 0, 0]
    assert not schedule.hbm_released.any()


def test_memory_that_a_cache_took_is_given_back_once_it_is_written_back() -> None:
    """4 took ten bytes for its slot; after it was written back the slot is spare, and whoever fills it takes them."""
    desk = Desk(1, WRITTEN, cache_of(1, 3))
    for step, expert in enumerate((4, 5, 2)):
        desk.memory.bring(0, [expert], step=step)
        desk.ffn(0)
    schedule = desk.schedule()
    kinds = [OpKind(kind).name for kind in schedule.kind.tolist()]
    taken = [(kind, n) for kind, n in zip(kinds, schedule.hbm_acquired.tolist(), strict=True) if n]
    given = [(kind, n) for kind, n in zip(kinds, schedule.hbm_released.tolist(), strict=True) if n]
    assert taken == [("FETCH", 10), ("FETCH", 10)]
    assert given == [("WRITE_BACK", 10)]


def test_a_layer_that_one_copy_brings_is_held_whole_and_nothing_is_brought_for_none() -> None:
    whole = Work(OpKind.FETCH, copy_bytes=60, weight_bits=8.0)
    desk = Desk(12, Copies(whole, None, n_at_once=6))
    desk.memory.bring(0, [], step=0)
    desk.memory.bring(1, [2, 5], step=0)
    assert desk.rows() == [("FETCH", 5, -1, 0, [], 60)]
    (held,) = desk.memory.held.once(1)
    assert (held.expert, held.n, held.first, held.ready) == (0, 6, 0, 0)


def test_what_is_dropped_is_looked_up_anew_when_it_is_needed_after_all() -> None:
    """It was asked for once, never read, and is asked for again; what waits still is not."""
    recorder = Recorder()
    tier = HostTier(recorder, ReadWorks(DISK), (3, 5), 2)
    memory = ExpertMemory(recorder, 1, 10, STREAMED, None, (3, 5), host=tier)
    memory.bring(0, [1], step=0)
    memory.bring(1, [2, 4], step=0)
    assert tier.lookups == 3
    memory.drop_waiting(1, {4})
    memory.bring(1, [2, 4], step=0)
    assert tier.lookups == 4
    assert memory.live_ops() >= tier.live_ops() > set()


def test_guesses_beside_a_cache_are_asked_of_host_memory_by_their_layer() -> None:
    recorder = Recorder()
    tier = HostTier(recorder, ReadWorks(DISK), (3, 5), 2, cache_of(4), log := [])
    memory = ExpertMemory(recorder, 2, 10, STREAMED, cache_of(1, 3), (3, 5), host=tier)
    memory.bring(1, [4, 2], step=0, aside=True)
    assert log == [(1, (4, 2))]


def test_guesses_in_the_cache_keep_their_place_in_the_line() -> None:
    """Both slots of the cache are for guesses of layer 1, which wait to be copied out of them."""
    desk = Desk(0, STAGED, cache_of(2))
    desk.memory.bring(1, [4, 5], step=0, aside=True)
    assert not desk.memory.give_up_ahead(0)
    assert [desk.memory.claimed_or_waiting(1, expert) for expert in (4, 5)] == [True, True]


def test_guesses_that_are_given_up_are_dropped_from_host_memory() -> None:
    recorder = Recorder()
    tier = HostTier(recorder, ReadWorks(DISK), (3, 5), 2)
    memory = ExpertMemory(recorder, 1, 10, STREAMED, None, (3, 5), host=tier)
    memory.bring(0, [1], step=0)
    memory.bring(1, [4], step=0, aside=True)
    assert memory.give_up_ahead(0)
    memory.bring(1, [4], step=0)
    assert tier.lookups == 3  # 4 anew


def test_what_the_gate_named_next_to_a_guess_is_kept() -> None:
    desk = Desk(3)
    desk.memory.bring(1, [3], step=0)
    desk.memory.bring(1, [2], step=0, aside=True)
    assert desk.memory.give_up_ahead(0)
    assert [desk.memory.has(1, expert) for expert in (2, 3)] == [False, True]


def test_every_expert_of_a_run_is_dropped_from_host_memory() -> None:
    recorder = Recorder()
    tier = HostTier(recorder, ReadWorks(DISK), (3, 5), 2, cache_of(6))
    memory = ExpertMemory(recorder, 0, 10, STREAMED, None, (3, 5), True, host=tier)
    memory.bring(1, [2, 3], step=0, named=())
    memory.drop_waiting(1, ())
    memory.bring(1, [2, 3], step=0, named=())
    assert (tier.lookups, tier.hits) == (4, 0)


def test_the_slot_that_a_cache_gave_is_free_after_the_ffn_that_read_what_it_took_over() -> None:
    """4 lies in slot 0 and stays; slot 1, which was that of 3, goes to 5 once op 1 has run."""
    desk = Desk(1, cache=cache_of(1, 3))
    desk.memory.bring(0, [4], step=0, aside=True)
    desk.memory.bring(0, [], step=0, adopts={4})
    reader = desk.ffn(0)
    desk.memory.bring(1, [5], step=0, aside=True)
    assert desk.rows()[-1] == ("FETCH", 5, 5, 1, [reader], 10)  # of 3 it holds nothing any more


def test_a_cache_with_room_gives_a_slot_that_nobody_filled() -> None:
    """Nothing goes for 4, so no memory is given back; 5 takes that of the slot when it fills it."""
    desk = Desk(1, cache=cache_of(1))
    desk.memory.bring(0, [4], step=0, aside=True)
    desk.memory.bring(0, [], step=0, adopts={4})
    assert not desk.memory.held.claimed(0)[4].transient
    desk.ffn(0)
    desk.memory.bring(1, [5], step=0, aside=True)
    schedule = desk.schedule()
    assert schedule.hbm_acquired.tolist() == [10, 0, 10]
    assert not schedule.hbm_released.any()


def test_copies_of_fewer_bits_wait_for_no_op_at_first_and_outlive_their_ffn() -> None:
    desk = Desk(2, cache=cache_of(1))
    assert desk.memory.bring_low(0, [1], step=0) == set()  # none are kept
    desk.memory.bring(1, [0, 5], step=0)
    desk.memory.keeps_low(cache_of(2), 4.0, (3, 5))
    assert desk.memory.bring_low(0, [], step=0) == set()
    assert desk.memory.bring_low(0, [2, 4], step=0) == {2, 4}
    gate = desk.recorder.issue(Lane.COMPUTE, Work(OpKind.GATE), step=0)
    desk.memory.cancel(0, set(), gate)  # a cache keeps them
    reader = desk.ffn(0)
    assert [row[:5] for row in desk.rows()[2:4]] == [("FETCH", 3, 2, 3, []), ("FETCH", 3, 4, 4, [])]
    assert desk.schedule().cancelled_by.tolist() == [-1] * 6
    assert desk.memory.live_ops() >= {2, 3, reader}  # who finds them there later waits for the copies
