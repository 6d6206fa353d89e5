"""Experts that were guessed wrongly, dropped, or come in fewer bits: slots, copies and caches."""

from __future__ import annotations

import pytest

from offload.caches.residency import ResidentSet
from offload.ops import Lane, OpKind, Work
from offload.policy import MissAction
from offload.recorder import Recorder
from offload.slots.copies import Copies
from offload.slots.host_tier import HostTier, ReadWorks
from offload.slots.memory import ExpertMemory
from offload.slots.resident_experts import Held
from tests.unit.offload.slots.expert_desk import DISK, FETCH, STAGE, STAGED, STREAMED, Desk, cache_of


def test_a_cached_expert_guessed_in_vain_still_protects_its_last_reader() -> None:
    """Read, then guessed again and not needed, then evicted: the copy into its slot waits for the read."""
    recorder = Recorder()
    cache = ResidentSet(1, "lru", n_layers=1, n_experts=4)
    copies = Copies(Work(OpKind.FETCH, copy_bytes=10), None)
    memory = ExpertMemory(recorder, 1, 10, copies, cache, (0,))

    def ffn(used: set[int]) -> int:
        reader = recorder.issue(Lane.COMPUTE, Work(OpKind.EXPERTS), step=0)
        memory.release(0, reader, used)
        return reader

    memory.bring(0, [2], 0)
    reader = ffn({2})
    memory.bring(0, [2], 0)
    ffn(set())
    memory.bring(0, [3], 0)
    schedule = recorder.schedule()
    fetches = [i for i in range(len(schedule)) if schedule.kind[i] == OpKind.FETCH]
    assert schedule.slot[fetches[0]] == schedule.slot[fetches[1]]
    assert reader in schedule.deps(fetches[1]).tolist()


@pytest.mark.parametrize("n_host_buffers", [1, 2])
def test_a_read_from_storage_waits_for_the_copy_that_empties_its_host_buffer(n_host_buffers: int) -> None:
    recorder = Recorder()
    host = HostTier(recorder, ReadWorks(Work(OpKind.DISK_READ, copy_bytes=10)), (0,), n_host_buffers)
    memory = ExpertMemory(recorder, 4, 10, STREAMED, None, (0,), host=host)
    memory.bring(0, [3, 1, 0, 2], 0)
    schedule = recorder.schedule()
    reads = [i for i in range(len(schedule)) if schedule.kind[i] == OpKind.DISK_READ]
    fetches = [i for i in range(len(schedule)) if schedule.kind[i] == OpKind.FETCH]
    waits_for = [[dep for dep in schedule.deps(read).tolist() if dep in fetches] for read in reads]
    assert waits_for == [[]] * n_host_buffers + [[fetch] for fetch in fetches[: 4 - n_host_buffers]]
    assert memory.live_ops() >= set(fetches[-n_host_buffers:])


def test_a_guess_that_was_wrong_gives_its_slot_back_when_its_copy_has_ended() -> None:
    desk = Desk(2)
    desk.memory.bring(0, [0, 1], step=0)
    assert desk.ffn(0, used={1}) == 2
    schedule = desk.schedule()
    assert schedule.hbm_released.tolist() == [10, 0, 0]


def test_a_copy_into_the_slot_of_a_wrong_guess_waits_for_that_copy() -> None:
    desk = Desk(2)
    desk.memory.bring(0, [0, 1], step=0)
    desk.ffn(0, used={1})
    desk.memory.bring(1, [2, 3], step=0)
    assert desk.rows()[2:] == [("FETCH", 5, 2, 0, [0], 10), ("FETCH", 5, 3, 1, [2], 10)]


def test_prefetches_that_turn_out_wrong_are_cancelled_on_all_their_way() -> None:
    desk = Desk(3, Copies(FETCH, STAGE), cache_of(1), disk=DISK)
    desk.memory.bring(0, [0, 1, 2], step=0)  # the cache keeps 0
    gate = desk.recorder.issue(Lane.COMPUTE, Work(OpKind.GATE), step=0)
    desk.memory.cancel(0, {2}, gate)
    desk.memory.cancel(1, set(), gate)
    assert [row[:3] for row in desk.rows()[3:6]] == [("DISK_READ", 3, 1), ("FETCH", 3, 1), ("STAGE", 3, 1)]
    assert desk.schedule().cancelled_by.tolist() == [-1] * 3 + [gate] * 3 + [-1] * 4


def test_what_waits_for_a_slot_and_is_not_needed_is_not_brought() -> None:
    desk = Desk(1, STAGED, cache_of(2))
    memory = desk.memory
    memory.drop_waiting(0, set())  # nothing waits
    assert desk.rows() == []
    memory.bring(0, [0, 1], step=0)  # 1 waits for a buffer, with a slot of the cache
    memory.bring(1, [5, 4], step=0)  # so do 5 and 4, with none
    assert memory.has(0, 1)
    memory.drop_waiting(0, {0})
    assert not memory.has(0, 1)
    memory.drop_waiting(1, {4})
    assert [memory.claimed_or_waiting(1, expert) for expert in (4, 5)] == [True, False]
    desk.ffn(0)
    assert [row[:3] for row in desk.rows()] == [
        ("FETCH", 3, 0), ("STAGE", 3, 0), ("FETCH", 5, 4), ("STAGE", 5, 4),
    ]  # fmt: skip


def test_what_was_not_brought_is_not_in_the_first_slot_of_a_cache_either() -> None:
    desk = Desk(0, STAGED, cache_of(1))
    desk.memory.bring(0, [2], step=0)  # waits for a buffer
    assert desk.memory.has(0, 2)
    desk.memory.drop_waiting(0, set())
    assert not desk.memory.has(0, 2)


def test_a_hit_that_waits_for_a_buffer_and_is_dropped_stays_in_the_cache() -> None:
    desk = Desk(1, STAGED, cache_of(3, 1))
    desk.memory.bring(0, [0, 1], step=0)
    desk.memory.drop_waiting(0, {0})
    assert desk.memory.has(0, 1)
    assert not desk.memory.claimed_or_waiting(0, 1)


def test_dropping_who_stood_first_lets_the_next_have_the_slot() -> None:
    """0 takes the only buffer, 1 waits for it; a cache hit behind needs none."""
    desk = Desk(1, cache=cache_of(1, 4))
    desk.memory.bring(0, [4], step=0)
    desk.memory.bring(1, [0, 1], step=0)
    desk.ffn(0)
    desk.memory.bring(0, [4], step=1)  # behind 1
    assert desk.memory.held.claimed(0) == {}
    desk.memory.drop_waiting(1, {0})
    assert desk.memory.held.claimed(0)[4].hit


def test_experts_below_their_stored_precision_are_fewer_bytes() -> None:
    desk = Desk(3)
    desk.memory.bring(0, [0, 1], step=0, how={1: MissAction(bits=4.0)})
    schedule = desk.schedule()
    assert schedule.bytes.tolist() == [10, 5]
    assert [schedule.works[row].weight_bits for row in schedule.cost.tolist()] == [8.0, 4.0]
    assert schedule.hbm_acquired.tolist() == [10, 10]  # a slot is a slot


def test_with_a_cache_only_what_it_does_not_keep_has_bits_of_its_own() -> None:
    desk = Desk(2, cache=cache_of(1))
    desk.memory.bring(0, [0, 1], step=0, how={0: MissAction(bits=4.0), 1: MissAction(bits=4.0)})
    assert desk.schedule().bytes.tolist() == [10, 5]


def test_what_a_block_holds_and_does_not_need_gives_way_to_what_it_does() -> None:
    desk = Desk(2, cache=cache_of(1, 3))
    memory = desk.memory
    memory.bring(0, [3, 0, 1], step=0)
    memory.bring(0, [2], step=0)
    assert memory.give_up(0, {1, 2, 3})  # 0 goes when its copy has ended; the cache's 3 needs no slot
    assert set(memory.held.claimed(0)) == {1, 2, 3}
    assert memory.held.claimed(0)[2].slot == 0
    assert memory.held.n_transient(0) == 2
    assert not memory.give_up(0, {1, 2})
    memory.hand_on(0, 1, desk.recorder.issue(Lane.COMPUTE, Work(OpKind.EXPERTS), step=0))
    rows = desk.rows()
    assert rows[2:] == [("FETCH", 3, 2, 0, [0], 10)]
    assert desk.schedule().hbm_released.tolist()[0] == 10


def test_a_slot_given_up_holds_no_other_up() -> None:
    """Slot 0 was read by op 1 and is free; slot 1, filled by op 2, is given up: who takes slot 0 waits for op 1."""
    desk = Desk(2)
    desk.memory.bring(0, [5], step=0)
    reader = desk.ffn(0)
    desk.memory.bring(1, [2], step=0)
    assert desk.memory.give_up(1, ())
    desk.memory.bring(0, [4, 1], step=0)
    assert [row[3:5] for row in desk.rows()] == [(0, []), (1, []), (0, [reader]), (1, [2])]


def test_a_slot_given_up_is_free_after_its_last_reader_and_its_copy() -> None:
    desk = Desk(1, STAGED, cache_of(1))
    memory = desk.memory
    memory.bring(0, [0], step=0)
    memory.give_up(0, set())
    memory.bring(1, [4], step=0)
    assert desk.rows()[2:] == [("FETCH", 5, 4, -1, [], 0), ("STAGE", 5, 4, 0, [1, 2], 10)]
    assert memory.held.claimed(0) == {}


def test_a_guess_that_the_cache_keeps_is_held_as_its_own_and_gives_the_slot_it_would_have_had() -> None:
    """Expert 4, beside a cache of 1 and 3; its gate names it and 1, and 3 goes."""
    desk = Desk(2, cache=cache_of(2, 1, 3))
    memory = desk.memory
    memory.bring(0, [4], step=0, aside=True)
    assert memory.aside(0) == [4]
    memory.bring(0, [1], step=0, adopts={4})
    kept = Held(4, 1, slot=0, ready=0, transient=True, hit=False, first=0, passing=False, given=3)  # HBM of 3 goes
    there = Held(1, 1, slot=2, ready=-1, transient=False, hit=True, first=-1, passing=False)
    assert memory.held.claimed(0) == {4: kept, 1: there}
    assert memory.held.once(0) == [kept, there]
    assert [memory.has(0, expert) for expert in (1, 3, 4)] == [True, False, True]
    desk.ffn(0)
    memory.bring(1, [0, 2], step=0)
    assert [row[1:4] for row in desk.rows()] == [(3, 4, 0), (5, 0, 2), (5, 2, 0)]


def test_what_was_brought_is_what_is_held_and_what_waits_of_its_layer() -> None:
    desk = Desk(1)
    desk.memory.bring(1, [2, 3, 5], step=0)
    desk.memory.bring(0, [1], step=0)
    assert (desk.memory.brought(1), desk.memory.brought(0)) == ((2, 3, 5), (1,))
    cached = Desk(1, STAGED, cache_of(3, 0, 1))
    cached.memory.bring(1, [4], step=0)
    cached.memory.bring(0, [0, 2], step=0)  # 0 is in the cache, and waits to be copied out of it
    assert cached.memory.brought(0) == (2,)
    assert cached.memory.brought(1) == (4,)


def test_a_run_that_waits_was_brought_whole() -> None:
    desk = Desk(1, in_runs=True)
    desk.memory.bring(0, [0], step=0)
    desk.memory.bring(1, [2, 3, 4], step=0, named=())
    assert desk.memory.brought(1) == (2, 3, 4)
    assert desk.memory.claimed_or_waiting(1, 4)
