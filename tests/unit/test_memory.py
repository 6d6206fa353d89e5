"""Slots of an expert memory: what a copy into a reused slot has to wait for."""

from __future__ import annotations

import dataclasses

import pytest

from offload.copies import Copies
from offload.execution import EXECUTIONS
from offload.memory import CapacityExceeded, ExpertMemory, Held
from offload.ops import Lane, OpKind, Work
from offload.policy import MissAction
from offload.recorder import Part, Recorder, assemble
from offload.residency import ResidentSet
from offload.schedule import Schedule
from traces.errors import InvalidInput


def test_a_cached_expert_guessed_in_vain_still_protects_its_last_reader() -> None:
    """Read, then guessed again and not needed, then evicted: the copy into its slot waits for the read."""
    recorder = Recorder()
    cache = ResidentSet(1, "lru", n_layers=1, n_experts=4)
    copies = Copies(None, Work(OpKind.FETCH, copy_bytes=10), None)
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
    copies = Copies(Work(OpKind.DISK_READ, copy_bytes=10), Work(OpKind.FETCH, copy_bytes=10), None)
    memory = ExpertMemory(recorder, 4, 10, copies, None, (0,), n_host_buffers=n_host_buffers)
    memory.bring(0, [3, 1, 0, 2], 0)
    schedule = recorder.schedule()
    reads = [i for i in range(len(schedule)) if schedule.kind[i] == OpKind.DISK_READ]
    fetches = [i for i in range(len(schedule)) if schedule.kind[i] == OpKind.FETCH]
    waits_for = [[dep for dep in schedule.deps(read).tolist() if dep in fetches] for read in reads]
    assert waits_for == [[]] * n_host_buffers + [[fetch] for fetch in fetches[: 4 - n_host_buffers]]
    assert memory.live_ops() >= set(fetches[-n_host_buffers:])


def test_only_the_released_code_reads_storage_and_copies_in_turn() -> None:
    in_turn = {name for name, execution in EXECUTIONS.items() if execution.n_host_buffers == 1}
    assert in_turn == {"fastertransformer"}
    with pytest.raises(InvalidInput, match="n_host_buffers = 3: must be 1 or 2"):
        dataclasses.replace(EXECUTIONS["streams"], n_host_buffers=3)


FETCH = Work(OpKind.FETCH, copy_bytes=10, weight_bits=8.0)
STAGE = Work(OpKind.STAGE, copy_bytes=10, weight_bits=8.0)
DISK = Work(OpKind.DISK_READ, copy_bytes=10, weight_bits=8.0)
STREAMED, STAGED = Copies(None, FETCH, None), Copies(None, FETCH, STAGE)


class Desk:
    """An expert memory of two layers, which sit in layers 3 and 5 of the model; FFNs are asked for by hand."""

    def __init__(
        self, n_buffers: int, copies: Copies = STREAMED, cache: ResidentSet | None = None, **more: int
    ) -> None:
        self.recorder, self._parts = Recorder(), list[Part]()
        self.memory = ExpertMemory(self.recorder, n_buffers, 10, copies, cache, (3, 5), **more)

    def ffn(self, layer: int, used: set[int] | None = None) -> int:
        """The experts of `layer` are read, by an op that waits for nothing."""
        reader = self.recorder.issue(Lane.COMPUTE, Work(OpKind.EXPERTS), step=0)
        self.memory.release(layer, reader, used)
        return reader

    def schedule(self) -> Schedule:
        """All ops so far; what happens later cannot change them any more."""
        self._parts.append(self.recorder.take())
        return assemble(self._parts)

    def rows(self) -> list[tuple[object, ...]]:
        """Kind, layer, expert, slot, the ops it waits for, and HBM taken of every op that is no FFN."""
        schedule = self.schedule()
        names = [OpKind(kind).name for kind in schedule.kind.tolist()]
        columns = (schedule.layer, schedule.expert, schedule.slot)
        return [
            (
                names[i],
                *(int(column[i]) for column in columns),
                schedule.deps(i).tolist(),
                int(schedule.hbm_acquired[i]),
            )
            for i in range(len(schedule))
            if names[i] != "EXPERTS"
        ]


def cache_of(n_slots: int, *warm: int) -> ResidentSet:
    """Two layers of six experts; `warm` of layer 0 are there from the start."""
    cache = ResidentSet(n_slots, "lru", n_layers=2, n_experts=6)
    cache.admit(0, warm)
    return cache


def test_slots_are_granted_in_turn_and_given_back_by_the_read() -> None:
    desk = Desk(2)
    memory = desk.memory
    memory.bring(0, [4, 1, 4], step=7)  # 4 once
    assert memory.claimed(0) == {
        4: Held(4, 1, slot=0, ready=0, transient=True, hit=False, first=0, passing=True),
        1: Held(1, 1, slot=1, ready=1, transient=True, hit=False, first=1, passing=True),
    }
    assert memory.arrivals(0) == [0, 1]
    assert memory.arrivals(0, [1]) == [1]
    assert (memory.n_transient(0), memory.n_transient(0, [4]), memory.n_transient(1)) == (2, 1, 0)
    assert (memory.arrivals(1), memory.claimed(1)) == ([], {})
    memory.bring(1, [2, 3, 2], step=7)  # there is no slot
    memory.bring(1, [3, 2], step=7)  # and they are asked for already
    assert [memory.claimed_or_waiting(1, expert) for expert in (1, 2, 3, 4)] == [False, True, True, False]
    assert [memory.claimed_or_waiting(0, expert) for expert in (1, 2, 4)] == [True, False, True]
    assert [memory.has(0, expert) for expert in (4, 1, 2)] == [True, True, False]
    assert memory.claimed(1) == {}
    assert desk.ffn(0) == 2  # and 2 takes the slot that was free first, 3 the next
    assert memory.claimed(1) == {
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
    assert memory.claimed(1) == {}
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


def test_copies_for_the_block_whose_gate_has_run_come_before_those_ahead_of_need() -> None:
    desk = Desk(4)
    desk.memory.bring(1, [0], step=2)  # before any gate
    desk.memory.gated_layer = 1
    desk.memory.bring(1, [1], step=2)
    desk.memory.bring(0, [2], step=3)
    schedule = desk.schedule()
    assert schedule.priority.tolist() == [1, 0, 1]
    assert schedule.step.tolist() == [2, 2, 3]
    assert schedule.lane.tolist() == [Lane.H2D] * 3
    assert schedule.bytes.tolist() == [10] * 3


def test_staged_experts_pass_through_the_staging_area() -> None:
    desk = Desk(1, STAGED)
    desk.memory.bring(0, [4], step=0)
    assert desk.memory.claimed(0) == {4: Held(4, 1, 0, ready=1, transient=True, hit=False, first=0, passing=True)}
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
    desk = Desk(2, Copies(DISK, FETCH, None))
    desk.memory.bring(0, [4], step=6)
    assert desk.memory.claimed(0) == {4: Held(4, 1, 0, ready=1, transient=True, hit=False, first=0, passing=True)}
    assert desk.rows() == [("DISK_READ", 3, 4, -1, [], 0), ("FETCH", 3, 4, 0, [0], 10)]
    assert desk.schedule().lane.tolist() == [Lane.DISK, Lane.H2D]
    desk.memory.bring(0, [5], step=6)
    assert desk.rows()[2:] == [("DISK_READ", 3, 5, -1, [1], 0), ("FETCH", 3, 5, 1, [2], 10)]


def test_what_a_cache_keeps_is_read_where_it_landed() -> None:
    """A cache of two slots behind one buffer: 2 passes through, 0 is a hit the next time and 1 is evicted for 3."""
    desk = Desk(1, cache=cache_of(2))
    memory = desk.memory
    memory.bring(0, [0, 1, 2], step=0)
    assert memory.claimed(0) == {
        0: Held(0, 1, slot=1, ready=0, transient=False, hit=False, first=0, passing=False),
        1: Held(1, 1, slot=2, ready=1, transient=False, hit=False, first=1, passing=False),
        2: Held(2, 1, slot=0, ready=2, transient=True, hit=False, first=2, passing=True),
    }
    assert (memory.n_transient(0), memory.n_transient(0, [0, 2])) == (1, 1)
    assert desk.ffn(0) == 3
    assert [memory.has(0, expert) for expert in range(4)] == [True, True, False, False]
    memory.bring(0, [0, 3], step=1)
    assert memory.claimed(0) == {
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
    assert memory.claimed(0) == {0: Held(0, 1, slot=0, ready=1, transient=True, hit=False, first=0, passing=False)}
    desk.ffn(0)
    memory.bring(0, [0], step=1)
    assert memory.claimed(0) == {0: Held(0, 1, slot=1, ready=3, transient=True, hit=True, first=0, passing=False)}
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
    assert memory.claimed(0)[5] == Held(5, 1, slot=1, ready=-1, transient=False, hit=True, first=-1, passing=False)
    assert memory.arrivals(0) == [0]
    memory.bring(1, [2], step=0)
    assert desk.rows() == [("FETCH", 3, 3, 3, [], 10), ("FETCH", 5, 2, 2, [], 0)]  # 4 was the oldest


def test_what_the_next_ffn_reads_is_not_evicted_before_it() -> None:
    desk = Desk(1, cache=cache_of(1))
    memory = desk.memory
    memory.bring(0, [0], step=0)
    memory.bring(1, [1], step=0)
    assert memory.claimed(1)[1].passing
    desk.ffn(0)
    desk.ffn(1)
    desk.ffn(1)
    memory.bring(1, [2], step=1)  # 0 was read: its slot is free to go
    assert memory.claimed(1)[2] == Held(2, 1, slot=1, ready=5, transient=False, hit=False, first=5, passing=False)
    memory.bring(0, [3], step=1)
    assert memory.claimed(0)[3].passing
    desk.ffn(0)
    memory.bring(0, [4], step=1)
    assert memory.claimed(0)[4].passing  # 2 has not been read yet


def test_an_ffn_of_a_layer_that_was_never_brought_frees_nothing() -> None:
    desk = Desk(1, cache=cache_of(1))
    desk.memory.bring(0, [0], step=0)
    desk.ffn(1)
    desk.memory.bring(1, [1], step=0)
    assert desk.memory.claimed(1)[1].passing


def test_a_cache_without_buffers_holds_experts_from_its_first_slot_on() -> None:
    for copies, first in ((STREAMED, 0), (Copies(DISK, FETCH, None), 1)):
        desk = Desk(0, copies, cache_of(2))
        desk.memory.bring(0, [4], step=0)
        held = Held(4, 1, slot=0, ready=first, transient=False, hit=False, first=0, passing=False)
        assert desk.memory.claimed(0) == {4: held}
        assert desk.rows()[-1] == ("FETCH", 3, 4, 0, [0] * first, 10)
        desk.ffn(0)
        desk.memory.bring(0, [4], step=1)
        assert desk.memory.claimed(0) == {4: held._replace(hit=True, first=first)}


def test_a_copy_waits_for_the_very_first_op_where_that_reads_its_slot() -> None:
    desk = Desk(0, Copies(DISK, FETCH, None), cache_of(1, 5))
    desk.memory.bring(0, [5], step=0)
    assert desk.ffn(0) == 0
    desk.memory.bring(0, [2], step=0)
    assert desk.rows() == [("DISK_READ", 3, 2, -1, [], 0), ("FETCH", 3, 2, 0, [0, 1], 0)]


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
    desk = Desk(3, Copies(DISK, FETCH, STAGE), cache_of(1))
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
    assert desk.memory.claimed(0) == {}
    desk.memory.drop_waiting(1, {0})
    assert desk.memory.claimed(0)[4].hit


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


def run_rows(desk: Desk) -> list[tuple[object, ...]]:
    """Kind, first expert, first slot, number of copies, bytes, HBM taken and the ops waited for."""
    schedule = desk.schedule()
    works = [schedule.works[row] for row in schedule.cost.tolist()]
    return [
        (
            works[i].kind.name, int(schedule.expert[i]), int(schedule.slot[i]), works[i].n_copies,
            works[i].copy_bytes, int(schedule.hbm_acquired[i]), schedule.deps(i).tolist(),
        )
        for i in range(len(schedule))
        if works[i].kind is not OpKind.EXPERTS
    ]  # fmt: skip


def test_neighbours_that_nobody_waits_for_come_in_one_run() -> None:
    """All six, of which the gate will name 2: two runs and one alone, each issued by the host but for its first."""
    desk = Desk(6, in_runs=True)
    memory = desk.memory
    memory.bring(0, range(6), step=0, named=[2])
    assert run_rows(desk) == [
        ("FETCH", 0, 0, 2, 20, 20, []),
        ("ISSUE", -1, -1, 1, 0, 0, []),
        ("FETCH", 2, 2, 1, 10, 10, []),
        ("FETCH", 3, 3, 3, 30, 30, []),
        ("ISSUE", -1, -1, 2, 0, 0, []),
    ]
    schedule = desk.schedule()
    assert schedule.lane.tolist() == [Lane.H2D, Lane.HOST, Lane.H2D, Lane.H2D, Lane.HOST]
    assert schedule.layer.tolist() == [3] * 5
    run = Held(3, 3, slot=3, ready=3, transient=True, hit=False, first=3, passing=True)
    assert memory.claimed(0)[3] == memory.claimed(0)[4] == memory.claimed(0)[5] == run
    assert memory.claimed(0)[2] == Held(2, 1, slot=2, ready=2, transient=True, hit=False, first=2, passing=True)
    assert memory.live_ops() == {0, 2, 3}
    assert set(memory.claimed(0)) == set(range(6))
    assert memory.arrivals(0) == [0, 2, 3]
    assert memory.n_transient(0) == 6
    assert memory.n_transient(0, [3, 4]) == 2


def test_a_run_that_was_wrong_is_waited_for_by_the_next_in_its_slots() -> None:
    """Slots of three runs, which were read last at different times."""
    desk = Desk(6, in_runs=True)
    memory = desk.memory
    memory.bring(0, range(6), step=0, named=[2])
    reader = desk.ffn(0, used={2})
    assert reader == 5
    memory.bring(1, range(6), step=0, named=[])
    rows = run_rows(desk)
    assert desk.schedule().hbm_released.tolist() == [20, 0, 0, 30, 0, 0, *[0] * 5]
    assert rows[5:] == [
        ("FETCH", 0, 0, 2, 20, 20, [0]),
        ("ISSUE", -1, -1, 1, 0, 0, []),
        ("FETCH", 2, 2, 1, 10, 10, [reader]),
        ("FETCH", 3, 3, 3, 30, 30, [3]),
        ("ISSUE", -1, -1, 2, 0, 0, []),
    ]


def test_a_staged_run_is_two_ops_that_the_host_issues_copy_by_copy() -> None:
    desk = Desk(3, STAGED, in_runs=True)
    desk.memory.bring(0, [1, 2, 3], step=0, named=())
    assert run_rows(desk) == [
        ("FETCH", 1, -1, 3, 30, 0, []),
        ("STAGE", 1, 0, 3, 30, 30, [0]),
        ("ISSUE", -1, -1, 4, 0, 0, []),
    ]
    assert desk.memory.claimed(0)[2] == Held(1, 3, 0, ready=1, transient=True, hit=False, first=0, passing=True)
    desk.ffn(0)
    desk.memory.bring(0, [4, 5], step=0, named=())
    assert run_rows(desk)[3:] == [
        ("FETCH", 4, -1, 2, 20, 0, []),
        ("STAGE", 4, 0, 2, 20, 20, [3, 4]),
        ("ISSUE", -1, -1, 2, 0, 0, []),
    ]


def test_a_run_takes_the_slots_that_there_are_and_the_rest_follows() -> None:
    desk = Desk(3, in_runs=True)
    desk.memory.bring(0, [0], step=0)
    desk.memory.bring(1, [1, 2, 3], step=0, named=())
    assert [row[:4] for row in run_rows(desk)] == [("FETCH", 0, 0, 1), ("FETCH", 1, 1, 2), ("ISSUE", -1, -1, 1)]
    assert [desk.memory.claimed_or_waiting(1, expert) for expert in (0, 1, 2, 3, 4)] == [False, True, True, True, False]
    desk.ffn(0)
    assert [row[:4] for row in run_rows(desk)][3:] == [("FETCH", 3, 0, 1)]


def test_slots_that_do_not_follow_one_another_make_two_runs() -> None:
    """Slots come back as 2, 3, 0, 1: a run ends where its slots do."""
    desk = Desk(4, in_runs=True)
    desk.memory.bring(0, [0, 1], step=0)
    desk.memory.bring(1, [0, 1], step=0)
    desk.ffn(1)
    desk.ffn(0)
    desk.memory.bring(1, [1, 2, 3, 4], step=0, named=())
    assert [row[:4] for row in run_rows(desk) if row[0] == "FETCH"][4:] == [("FETCH", 1, 2, 2), ("FETCH", 3, 0, 2)]


def test_only_neighbours_make_a_run() -> None:
    desk = Desk(6, in_runs=True)
    desk.memory.bring(0, [0, 1, 4, 3, 5], step=0, named=[4])
    fetched = [row[1:4] for row in run_rows(desk) if row[0] == "FETCH"]
    assert fetched == [(0, 0, 2), (4, 2, 1), (3, 3, 1), (5, 4, 1)]
    for experts, named, runs in (
        ([0, 4, 5, 2, 3], [4, 1], [(0, 1), (4, 1), (5, 1), (2, 2)]),
        ([3, 2], [], [(3, 1), (2, 1)]),
        ([4], [], [(4, 1)]),
        ([4], [4], [(4, 1)]),
        ([], [], []),
        ([0, 1, 2], [3], [(0, 3)]),
        ([1, 2, 3], [3, 4], [(1, 2), (3, 1)]),
        ([2, 3, 4], [1, 3], [(2, 1), (3, 1), (4, 1)]),
    ):
        desk = Desk(6, in_runs=True)
        desk.memory.bring(0, experts, step=0, named=named)
        assert [(row[1], row[3]) for row in run_rows(desk) if row[0] == "FETCH"] == runs


def test_runs_are_cut_at_what_is_named_within_them_alone() -> None:
    desk = Desk(6, in_runs=True)
    desk.memory.bring(0, [2, 3, 4, 5], step=0, named=[5, 2, 0, 1])
    assert [row[1:4] for row in run_rows(desk) if row[0] == "FETCH"] == [(2, 0, 1), (3, 1, 2), (5, 3, 1)]


def test_storage_unnamed_guesses_and_stacks_without_runs_come_one_by_one() -> None:
    cases = (
        (Copies(DISK, FETCH, None), (), {"in_runs": True}),
        (STREAMED, None, {"in_runs": True}),
        (STREAMED, (), {}),
    )
    for copies, named, more in cases:
        desk = Desk(3, copies, **more)
        desk.memory.bring(0, [0, 1, 2], step=0, named=named)
        assert [row[1:4] for row in run_rows(desk) if row[0] == "FETCH"] == [(0, 0, 1), (1, 1, 1), (2, 2, 1)]


def test_one_expert_alone_has_bits_of_its_own_and_a_run_has_not() -> None:
    desk = Desk(6, in_runs=True)
    desk.memory.bring(0, [0, 2, 3], step=0, named=(), how={0: MissAction(bits=4.0), 2: MissAction(bits=4.0)})
    assert [(row[1], row[4]) for row in run_rows(desk) if row[0] == "FETCH"] == [(0, 5), (2, 20)]


def test_a_run_of_a_cache_is_what_it_does_not_keep() -> None:
    desk = Desk(4, cache=cache_of(1), in_runs=True)
    desk.memory.bring(0, [0, 1, 2, 3], step=0, named=[])
    assert [row[1:4] for row in run_rows(desk) if row[0] == "FETCH"] == [(0, 4, 1), (1, 0, 3)]


def test_runs_that_are_wrong_are_cancelled_as_a_whole() -> None:
    desk = Desk(4, STAGED, in_runs=True)
    desk.memory.bring(0, [0, 1, 2], step=0, named=[0])
    gate = desk.recorder.issue(Lane.COMPUTE, Work(OpKind.GATE), step=0)
    desk.memory.cancel(0, [0], gate)
    assert desk.schedule().cancelled_by.tolist() == [-1, -1, gate, gate, -1, -1]


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
    assert memory.arrivals(0) == [0, 1]
    reader = desk.recorder.issue(Lane.COMPUTE, Work(OpKind.EXPERTS), step=0)
    memory.hand_on(0, 0, reader)
    assert memory.claimed(0)[2] == Held(2, 1, slot=0, ready=3, transient=True, hit=False, first=3, passing=True)
    assert set(memory.claimed(0)) == {1, 2, 3}
    assert memory.n_transient(0) == 2
    memory.hand_on(0, 3, desk.recorder.issue(Lane.COMPUTE, Work(OpKind.EXPERTS), step=0))
    memory.bring(1, [5], step=0)  # no slot came free: that of 3 is the cache's
    assert memory.claimed(1) == {}
    last = desk.ffn(0)
    assert memory.claimed(1)[5].slot == 1
    assert desk.rows()[2:] == [("FETCH", 3, 2, 0, [reader], 10), ("FETCH", 5, 5, 1, [last], 10)]


def test_what_a_block_holds_and_does_not_need_gives_way_to_what_it_does() -> None:
    desk = Desk(2, cache=cache_of(1, 3))
    memory = desk.memory
    memory.bring(0, [3, 0, 1], step=0)
    memory.bring(0, [2], step=0)
    assert memory.give_up(0, {1, 2, 3})  # 0 goes when its copy has ended; the cache's 3 needs no slot
    assert set(memory.claimed(0)) == {1, 2, 3}
    assert memory.claimed(0)[2].slot == 0
    assert memory.n_transient(0) == 2
    assert not memory.give_up(0, {1, 2})
    memory.hand_on(0, 1, desk.recorder.issue(Lane.COMPUTE, Work(OpKind.EXPERTS), step=0))
    rows = desk.rows()
    assert rows[2:] == [("FETCH", 3, 2, 0, [0], 10)]
    assert desk.schedule().hbm_released.tolist()[0] == 10


def test_a_slot_given_up_is_free_after_its_last_reader_and_its_copy() -> None:
    desk = Desk(1, STAGED, cache_of(1))
    memory = desk.memory
    memory.bring(0, [0], step=0)
    memory.give_up(0, set())
    memory.bring(1, [4], step=0)
    assert desk.rows()[2:] == [("FETCH", 5, 4, -1, [], 0), ("STAGE", 5, 4, 0, [1, 2], 10)]
    assert memory.claimed(0) == {}
