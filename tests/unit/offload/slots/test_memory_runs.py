"""Copies that nobody waits for one by one come in runs."""

from __future__ import annotations

from offload.ops import Lane, OpKind, Work
from offload.policy import MissAction
from offload.slots.free_slots import FreeSlots
from offload.slots.resident_experts import Held
from tests.unit.offload.slots.expert_desk import DISK, STAGED, Desk, cache_of


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
    assert memory.held.claimed(0)[3] == memory.held.claimed(0)[4] == memory.held.claimed(0)[5] == run
    assert memory.held.claimed(0)[2] == Held(2, 1, slot=2, ready=2, transient=True, hit=False, first=2, passing=True)
    assert memory.live_ops() == {0, 2, 3}
    assert set(memory.held.claimed(0)) == set(range(6))
    assert memory.held.arrivals(0) == [0, 2, 3]
    assert memory.held.n_transient(0) == 6
    assert memory.held.n_transient(0, [3, 4]) == 2


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
    assert desk.memory.held.claimed(0)[2] == Held(1, 3, 0, ready=1, transient=True, hit=False, first=0, passing=True)
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
        (DISK, (), True),
        (None, None, True),
        (None, (), False),
    )
    for disk, named, in_runs in cases:
        desk = Desk(3, in_runs=in_runs, disk=disk)
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


def test_a_run_ends_where_slots_do_not_follow_one_another_or_were_read_by_others() -> None:
    free = FreeSlots(6)
    assert (free.take(6), len(free), bool(free)) == (0, 0, False)
    for slot in (1, 3, 4, 5):
        free.give(slot)
    readers = [7] * 8
    assert [free.run_length(n, readers) for n in (1, 2, 4)] == [1, 1, 1]
    assert (free.take(), len(free)) == (1, 3)
    assert [free.run_length(n, readers) for n in (1, 2, 3, 4)] == [1, 2, 3, 3]
    readers[5] = 8
    assert free.run_length(3, readers) == 2


def test_slots_keep_their_turn_however_many_were_taken() -> None:
    free = FreeSlots(3)
    assert [(free.take(), free.give(i % 3))[0] for i in range(3000)] == [i % 3 for i in range(3000)]


def test_a_run_beside_a_cache_is_asked_of_nobody_and_comes_at_once() -> None:
    desk = Desk(3, cache=cache_of(1), in_runs=True)
    desk.memory.bring(0, [2, 3, 4], step=0, named=(), aside=True)
    assert [row[:4] for row in desk.rows()] == [("FETCH", 3, 2, 0), ("ISSUE", 3, -1, -1)]


def test_what_is_left_of_a_run_that_was_cut_is_whole() -> None:
    """2 and 3 are a run; there is room for one at a time, and fewer bits are of experts that come alone."""
    desk = Desk(1, in_runs=True)
    desk.memory.bring(0, [2, 3], step=0, named=(), how={2: MissAction(bits=4.0), 3: MissAction(bits=4.0)})
    assert desk.memory.give_up(0, {3})
    assert desk.schedule().bytes.tolist() == [10, 10]


def test_a_run_that_waits_stays_where_one_of_it_is_needed() -> None:
    desk = Desk(0, in_runs=True)
    desk.memory.bring(1, [1, 2, 3], step=0, named=())
    desk.memory.drop_waiting(1, {3})
    assert desk.memory.brought(1) == (1, 2, 3)
    desk.memory.drop_waiting(1, {0, 4})
    assert desk.memory.brought(1) == ()


def test_a_run_that_is_given_up_frees_its_slots_and_no_other_is_held_up() -> None:
    """Slot 0 was read by op 1; the run in slots 1 and 2 goes; who takes all three waits for the read or for the run."""
    desk = Desk(3, in_runs=True)
    desk.memory.bring(0, [5], step=0)
    desk.ffn(0)
    desk.memory.bring(1, [0], step=0)  # slot 1, behind in the turn
    desk.memory.bring(1, [2, 3], step=0, named=())
    assert [(held.expert, held.slot, held.n) for held in desk.memory.held.once(1)] == [(0, 1, 1), (2, 2, 1), (3, 0, 1)]
    assert desk.memory.give_up(1, {0})
    desk.memory.bring(0, [1, 4], step=0)
    assert [row[:5] for row in desk.rows()[-2:]] == [("FETCH", 3, 1, 2, [3]), ("FETCH", 3, 4, 0, [4])]


def test_memory_of_a_run_that_is_given_up_is_that_of_all_its_experts() -> None:
    desk = Desk(2, in_runs=True)
    desk.memory.bring(1, [2, 3], step=0, named=())
    assert desk.memory.give_up(1, ())
    desk.memory.bring(0, [0, 5], step=0)
    assert [row[1:4] for row in desk.rows() if row[0] == "FETCH"] == [(5, 2, 0), (3, 0, 0), (3, 5, 1)]
    assert desk.schedule().hbm_released.tolist()[0] == 20
