"""Slots of an expert memory: what a copy into a reused slot has to wait for."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import pytest

from offload.execution import EXECUTIONS
from offload.ops import Lane, OpKind, Work
from offload.recorder import Recorder
from offload.slots.copies import Copies
from offload.slots.memory import CapacityExceeded, ExpertMemory
from offload.slots.resident_experts import Held
from tests.unit.offload.slots.expert_desk import DISK, STAGED, STREAMED, Desk, cache_of
from traces.errors import InvalidInput


def test_only_the_released_code_reads_storage_and_copies_in_turn() -> None:
    in_turn = {name for name, execution in EXECUTIONS.items() if execution.n_host_buffers == 1}
    assert in_turn == {"fastertransformer"}
    with pytest.raises(InvalidInput, match="n_host_buffers = 3: must be 1 or 2"):
        dataclasses.replace(EXECUTIONS["streams"], n_host_buffers=3)


def test_slots_are_granted_in_turn_and_given_back_by_the_read() -> None:
    desk = Desk(2)
    memory = desk.memory
    memory.bring(0, [4, 1, 4], step=7)  # 4 once
    assert memory.held.claimed(0) == {
        4: Held(4, 1, slot=0, ready=0, transient=True, hit=False, first=0, passing=True),
        1: Held(1, 1, slot=1, ready=1, transient=True, hit=False, first=1, passing=True),
    }
    assert memory.held.arrivals(0) == [0, 1]
    assert memory.held.arrivals(0, [1]) == [1]
    assert (memory.held.n_transient(0), memory.held.n_transient(0, [4]), memory.held.n_transient(1)) == (2, 1, 0)
    assert (memory.held.arrivals(1), memory.held.claimed(1)) == ([], {})
    memory.bring(1, [2, 3, 2], step=7)  # there is no slot
    memory.bring(1, [3, 2], step=7)  # and they are asked for already
    assert [memory.claimed_or_waiting(1, expert) for expert in (1, 2, 3, 4)] == [False, True, True, False]
    assert [memory.claimed_or_waiting(0, expert) for expert in (1, 2, 4)] == [True, False, True]
    assert [memory.has(0, expert) for expert in (4, 1, 2)] == [True, True, False]
    assert memory.held.claimed(1) == {}
    assert desk.ffn(0) == 2  # and 2 takes the slot that was free first, 3 the next
    assert memory.held.claimed(1) == {
        2: Held(2, 1, slot=0, ready=3, transient=True, hit=False, first=3, passing=True),
        3: Held(3, 1, slot=1, ready=4, transient=True, hit=False, first=4, passing=True),
    }
    memory.bring(1, [2], step=7)  # it is there: nothing waits for the slots that come free
    desk.ffn(1)
    assert not memory.holds_ahead
    assert desk.rows() == [
        ("FETCH", 3, 4, 0, [], 10),
        ("FETCH", 3, 1, 1, [], 10),
        ("FETCH", 5, 2, 0, [2], 10),
        ("FETCH", 5, 3, 1, [2], 10),
    ]


def test_what_was_released_is_held_no_more_and_what_may_be_waited_for_is_live() -> None:
    desk = Desk(2)
    memory = desk.memory
    assert (memory.live_ops(), memory.holds_ahead, memory.warm_bytes) == (set(), False, 0)
    assert not memory.claimed_or_waiting(1, 0)
    memory.bring(1, [0], step=0)
    assert memory.holds_ahead
    assert memory.live_ops() == {0}
    assert desk.ffn(1) == 1
    assert memory.held.claimed(1) == {}
    assert memory.live_ops() == {1}  # the last read of slot 0
    assert not memory.holds_ahead
    desk.ffn(0)  # of a layer for which nothing was brought
    assert memory.live_ops() == {1}


def test_an_expert_that_waits_for_a_slot_is_held_ahead() -> None:
    desk = Desk(1)
    desk.memory.bring(0, [0], step=0)
    desk.memory.bring(1, [1], step=0)
    desk.memory.bring(0, [2], step=0)  # another, behind
    desk.memory.release(0, 0, None)
    assert desk.memory.holds_ahead
    assert [row[1:4] for row in desk.rows()] == [(3, 0, 0), (5, 1, 0)]


@pytest.mark.parametrize(("copies", "hops"), [(STREAMED, 1), (STAGED, 2)])
def test_copies_for_the_block_whose_gate_has_run_come_before_those_ahead_of_need(copies: Copies, hops: int) -> None:
    desk = Desk(4, copies)
    desk.memory.bring(1, [0], step=2)  # before any gate
    desk.memory.gated_layer = 1
    desk.memory.bring(1, [1], step=2)
    desk.memory.bring(0, [2], step=3)
    schedule = desk.schedule()
    assert schedule.priority[::hops].tolist() == schedule.priority[hops - 1 :: hops].tolist() == [1, 0, 1]
    assert schedule.step[::hops].tolist() == [2, 2, 3]
    assert schedule.lane.tolist() == [Lane.H2D] * 3 * hops
    assert schedule.bytes.tolist() == [10] * 3 * hops


def test_where_ops_are_executed_as_they_are_issued_each_copy_is_issued_by_itself() -> None:
    issued: list[int] = []

    class Live(Recorder):
        is_live = True

        def issue(self, lane: Lane, work: Work, after: Sequence[int] = (), **about: Any) -> int:
            issued.append(about["expert"])
            return super().issue(lane, work, after, **about)

    memory = ExpertMemory(Live(), 3, 10, STREAMED, None, (3, 5))
    memory.bring(0, [4, 1, 2], step=0)
    assert issued == [4, 1, 2]


def test_staged_experts_pass_through_the_staging_area() -> None:
    desk = Desk(1, STAGED)
    desk.memory.bring(0, [4], step=0)
    assert desk.memory.held.claimed(0) == {4: Held(4, 1, 0, ready=1, transient=True, hit=False, first=0, passing=True)}
    desk.memory.bring(1, [2], step=0)
    desk.ffn(0)
    assert desk.rows() == [
        ("FETCH", 3, 4, -1, [], 0),
        ("STAGE", 3, 4, 0, [0], 10),
        ("FETCH", 5, 2, -1, [], 0),
        ("STAGE", 5, 2, 0, [2, 3], 10),  # read by op 2, copied by op 3
    ]
    assert desk.schedule().lane.tolist() == [Lane.H2D, Lane.H2D, Lane.COMPUTE, Lane.H2D, Lane.H2D]


def test_experts_out_of_storage_are_read_before_they_are_copied() -> None:
    desk = Desk(2, disk=DISK)
    desk.memory.bring(0, [4], step=6)
    assert desk.memory.held.claimed(0) == {4: Held(4, 1, 0, ready=1, transient=True, hit=False, first=0, passing=True)}
    assert desk.rows() == [("DISK_READ", 3, 4, -1, [], 0), ("FETCH", 3, 4, 0, [0], 10)]
    assert desk.schedule().lane.tolist() == [Lane.DISK, Lane.H2D]
    desk.memory.bring(0, [5], step=6)
    assert desk.rows()[2:] == [("DISK_READ", 3, 5, -1, [1], 0), ("FETCH", 3, 5, 1, [2], 10)]


def test_what_a_cache_keeps_is_read_where_it_landed() -> None:
    """A cache of two slots behind one buffer: 2 passes through, 0 is a hit the next time and 1 is evicted for 3."""
    desk = Desk(1, cache=cache_of(2))
    memory = desk.memory
    memory.bring(0, [0, 1, 2], step=0)
    assert memory.held.claimed(0) == {
        0: Held(0, 1, slot=1, ready=0, transient=False, hit=False, first=0, passing=False),
        1: Held(1, 1, slot=2, ready=1, transient=False, hit=False, first=1, passing=False),
        2: Held(2, 1, slot=0, ready=2, transient=True, hit=False, first=2, passing=True),
    }
    assert (memory.held.n_transient(0), memory.held.n_transient(0, [0, 2])) == (1, 1)
    assert desk.ffn(0) == 3
    assert [memory.has(0, expert) for expert in range(4)] == [True, True, False, False]
    memory.bring(0, [0, 3], step=1)
    assert memory.held.claimed(0) == {
        0: Held(0, 1, slot=1, ready=0, transient=False, hit=True, first=0, passing=False),
        3: Held(3, 1, slot=2, ready=4, transient=False, hit=False, first=4, passing=False),
    }
    assert desk.rows() == [
        ("FETCH", 3, 0, 1, [], 10),
        ("FETCH", 3, 1, 2, [], 10),
        ("FETCH", 3, 2, 0, [], 10),
        ("FETCH", 3, 3, 2, [3], 0),  # the slot of the cache is in HBM already
    ]
    assert memory.live_ops() == {0, 3, 4}


def test_experts_of_a_staged_cache_are_copied_into_a_buffer_for_every_read() -> None:
    desk = Desk(2, STAGED, cache_of(1))
    memory = desk.memory
    memory.bring(0, [0], step=0)
    assert memory.held.claimed(0) == {0: Held(0, 1, slot=0, ready=1, transient=True, hit=False, first=0, passing=False)}
    desk.ffn(0)
    memory.bring(0, [0], step=1)
    assert memory.held.claimed(0) == {0: Held(0, 1, slot=1, ready=3, transient=True, hit=True, first=0, passing=False)}
    desk.ffn(0)
    memory.bring(0, [1], step=2)  # into the slot of 0, which op 3 has copied from last
    assert desk.rows() == [
        ("FETCH", 3, 0, 2, [], 10),
        ("STAGE", 3, 0, 0, [0], 10),
        ("STAGE", 3, 0, 1, [0], 10),
        ("FETCH", 3, 1, 2, [3], 0),
        ("STAGE", 3, 1, 0, [2, 5], 10),
    ]


def test_a_warm_cache_is_in_hbm_already_and_its_experts_wait_for_nothing() -> None:
    desk = Desk(1, cache=cache_of(3, 5, 4))
    memory = desk.memory
    assert memory.warm_bytes == 20
    memory.bring(0, [5, 3], step=0)
    assert memory.held.claimed(0)[5] == Held(5, 1, slot=1, ready=-1, transient=False, hit=True, first=-1, passing=False)
    assert memory.held.arrivals(0) == [0]
    memory.bring(1, [2], step=0)
    assert desk.rows() == [("FETCH", 3, 3, 3, [], 10), ("FETCH", 5, 2, 2, [], 0)]  # 4 was the oldest


def test_what_the_next_ffn_reads_is_not_evicted_before_it() -> None:
    desk = Desk(1, cache=cache_of(1))
    memory = desk.memory
    memory.bring(0, [0], step=0)
    memory.bring(1, [1], step=0)
    assert memory.held.claimed(1)[1].passing
    desk.ffn(0)
    desk.ffn(1)
    desk.ffn(1)
    memory.bring(1, [2], step=1)  # 0 was read: its slot is free to go
    assert memory.held.claimed(1)[2] == Held(2, 1, slot=1, ready=5, transient=False, hit=False, first=5, passing=False)
    memory.bring(0, [3], step=1)
    assert memory.held.claimed(0)[3].passing
    desk.ffn(0)
    memory.bring(0, [4], step=1)
    assert memory.held.claimed(0)[4].passing  # 2 has not been read yet


def test_an_ffn_of_a_layer_that_was_never_brought_frees_nothing() -> None:
    desk = Desk(1, cache=cache_of(1))
    desk.memory.bring(0, [0], step=0)
    desk.ffn(1)
    desk.memory.bring(1, [1], step=0)
    assert desk.memory.held.claimed(1)[1].passing


def test_a_cache_without_buffers_holds_experts_from_its_first_slot_on() -> None:
    for disk, first in ((None, 0), (DISK, 1)):
        desk = Desk(0, STREAMED, cache_of(2), disk=disk)
        desk.memory.bring(0, [4], step=0)
        held = Held(4, 1, slot=0, ready=first, transient=False, hit=False, first=0, passing=False)
        assert desk.memory.held.claimed(0) == {4: held}
        assert desk.rows()[-1] == ("FETCH", 3, 4, 0, [0] * first, 10)
        desk.ffn(0)
        desk.memory.bring(0, [4], step=1)
        assert desk.memory.held.claimed(0) == {4: held._replace(hit=True, first=first)}


def test_a_copy_waits_for_the_very_first_op_where_that_reads_its_slot() -> None:
    desk = Desk(0, STREAMED, cache_of(1, 5), disk=DISK)
    desk.memory.bring(0, [5], step=0)
    assert desk.ffn(0) == 0
    desk.memory.bring(0, [2], step=0)
    assert desk.rows() == [("DISK_READ", 3, 2, -1, [], 0), ("FETCH", 3, 2, 0, [0, 1], 0)]


def test_slots_keep_their_turn_over_thousands_of_reads() -> None:
    desk = Desk(3)
    for i in range(2500):
        desk.memory.bring(i % 2, [i % 6], step=i)
        desk.ffn(i % 2)
    schedule = desk.schedule()
    fetched = schedule.kind == OpKind.FETCH
    assert schedule.slot[fetched].tolist() == [i % 3 for i in range(2500)]
    assert [schedule.deps(2 * i).tolist() for i in range(3, 2500)] == [[2 * i - 5] for i in range(3, 2500)]


def test_what_does_not_fit_says_how_much_would() -> None:
    assert (CapacityExceeded("x").needed_bytes, CapacityExceeded("x").memory) == (0, "HBM")
    error = CapacityExceeded("too large", 7, "DRAM")
    assert (str(error), error.needed_bytes, error.memory) == ("too large", 7, "DRAM")


def test_the_slot_of_an_expert_that_has_run_goes_to_who_waits() -> None:
    desk = Desk(2, cache=cache_of(1, 3))
    memory = desk.memory
    memory.bring(0, [3, 0, 1, 2], step=0)  # 3 is in the cache, 2 waits
    assert memory.held.arrivals(0) == [0, 1]
    reader = desk.recorder.issue(Lane.COMPUTE, Work(OpKind.EXPERTS), step=0)
    memory.hand_on(0, 0, reader)
    assert memory.held.claimed(0)[2] == Held(2, 1, slot=0, ready=3, transient=True, hit=False, first=3, passing=True)
    assert set(memory.held.claimed(0)) == {1, 2, 3}
    assert memory.held.n_transient(0) == 2
    memory.hand_on(0, 3, desk.recorder.issue(Lane.COMPUTE, Work(OpKind.EXPERTS), step=0))
    memory.bring(1, [5], step=0)  # no slot came free: that of 3 is the cache's
    assert memory.held.claimed(1) == {}
    last = desk.ffn(0)
    assert memory.held.claimed(1)[5].slot == 1
    assert desk.rows()[2:] == [("FETCH", 3, 2, 0, [reader], 10), ("FETCH", 5, 5, 1, [last], 10)]


def test_experts_that_one_gate_names_are_admitted_in_its_order() -> None:
    """A cache of one slot keeps the first that it is asked for."""
    desk = Desk(1, cache=cache_of(1))
    desk.memory.bring(0, [4, 1], step=0)
    assert [row[1:4] for row in desk.rows()] == [(3, 4, 1), (3, 1, 0)]


def test_a_cached_expert_that_has_run_keeps_its_slot_until_it_was_read() -> None:
    """Read alone by op 1; the copy that takes its slot waits for that."""
    desk = Desk(1, cache=cache_of(1))
    desk.memory.bring(0, [4], step=0)
    reader = desk.recorder.issue(Lane.COMPUTE, Work(OpKind.EXPERTS), step=0)
    desk.memory.hand_on(0, 4, reader)
    desk.memory.release(0, reader, None)
    desk.memory.bring(1, [2], step=0)
    assert desk.rows() == [("FETCH", 3, 4, 1, [], 10), ("FETCH", 5, 2, 1, [reader], 0)]


def test_what_waits_is_known_by_its_layer_and_itself() -> None:
    desk = Desk(0)
    desk.memory.bring(1, [4], step=0)
    places = [(layer, expert) for layer in (0, 1) for expert in (0, 4)]
    assert [desk.memory.has_or_awaits(*place) for place in places] == [False, False, False, True]
    assert not desk.memory.has(1, 4)


def test_ops_of_host_memory_stay_live_after_the_ffn() -> None:
    """One host buffer: the next read of storage waits for the copy that empties it, long after the FFN has run."""
    desk = Desk(2, disk=DISK)
    desk.memory.bring(0, [0], step=0)
    reader = desk.ffn(0)
    assert desk.memory.live_ops() == {1, reader}
