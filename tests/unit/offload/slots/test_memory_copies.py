"""The writer of copies and the slots of a cache by themselves: what each op waits for, and what it says it brings."""

from __future__ import annotations

import pytest

from offload.ops import OpKind, Work
from offload.policy import MissAction
from offload.recorder import Recorder, assemble
from offload.schedule import Schedule
from offload.slots.cache_slots import CacheSlots
from offload.slots.copies import Copies, CopyWriter, Target
from offload.slots.host_tier import HostTier, ReadWorks
from offload.slots.resident_experts import Held, ResidentExperts
from tests.unit.offload.slots.expert_desk import DISK, FETCH, STREAMED, cache_of

FIVE = Work(OpKind.FETCH, copy_bytes=5, weight_bits=8.0)
BACK = Work(OpKind.WRITE_BACK, copy_bytes=10, weight_bits=8.0)
WRITTEN = Copies(FETCH, None, write_back=BACK)


def target(**more: int) -> Target:
    told = {"layer": 0, "expert": 4, "slot": 2, "step": 1, "reader": -1, "fills": False, "ahead": False} | more
    return Target(**told)  # type: ignore[arg-type]


def writer_of(copies: Copies, host: HostTier | None = None) -> tuple[CopyWriter, Recorder]:
    recorder = Recorder()
    return CopyWriter(recorder, copies, 10, (3, 5), host), recorder


def written(recorder: Recorder) -> Schedule:
    return assemble([recorder.take()])


@pytest.mark.parametrize(
    ("first", "then"),
    [({"reader": -1}, -1), ({"reader": 0}, -1), ({"reader": -1}, 0), ({"reader": 0}, 0)],
)
def test_a_fetch_waits_for_its_slots_reader_and_for_what_was_written_back_the_very_first_op_included(
    first: dict[str, int], then: int
) -> None:
    writer, recorder = writer_of(STREAMED)
    writer.fetch(target(), MissAction())
    writer.fetch(target(**first), MissAction(), written=then)
    assert written(recorder).deps(1).tolist() == sorted({first["reader"], then} - {-1})


def test_what_waits_for_three_ops_names_each_once_in_order() -> None:
    writer, recorder = writer_of(STREAMED)
    for _ in range(3):
        writer.fetch(target(), MissAction())
    writer.fetch(target(reader=2), MissAction(), written=0)
    assert written(recorder).deps(3).tolist() == [0, 2]


def test_bytes_of_a_share_are_counted_from_the_first_byte_of_the_expert() -> None:
    writer, recorder = writer_of(Copies(FETCH, None, (FIVE, FIVE)))
    writer.fetch(target(), MissAction(bits=4.0))
    assert written(recorder).bytes.tolist() == [2, 3]


@pytest.mark.parametrize(("pieces", "ready", "ops"), [((FIVE,), 0, (0,)), ((FIVE, FIVE), 1, (0, 1)), ((FIVE,), -1, ())])
def test_matrices_are_the_ops_up_to_the_last(pieces: tuple[Work, ...], ready: int, ops: tuple[int, ...]) -> None:
    writer, _ = writer_of(Copies(FETCH, None, pieces))
    assert writer.pieces(ready) == ops


@pytest.mark.parametrize(("n_at_once", "expert"), [(0, 4), (6, -1)])
def test_a_copy_of_a_whole_layer_names_no_expert(n_at_once: int, expert: int) -> None:
    writer, recorder = writer_of(Copies(FETCH, None, n_at_once=n_at_once))
    writer.fetch(target(fills=True), MissAction())
    schedule = written(recorder)
    assert schedule.expert.tolist() == [expert]
    assert schedule.hbm_acquired.tolist() == [10 * max(n_at_once, 1)]


@pytest.mark.parametrize("ahead", [False, True])
def test_a_read_of_storage_is_as_urgent_as_the_copy_it_is_for(ahead: bool) -> None:
    recorder = Recorder()
    tier = HostTier(recorder, ReadWorks(DISK), (3, 5), 2)
    CopyWriter(recorder, Copies(DISK, FETCH, None), 10, (3, 5), tier).fetch(target(ahead=ahead), MissAction())
    assert written(recorder).priority.tolist() == [int(ahead)] * 2


def test_without_a_cache_nothing_is_written_back() -> None:
    writer, _ = writer_of(WRITTEN)
    slots = CacheSlots(writer, WRITTEN, None, 2, 2)
    assert not slots.writes_back
    assert slots.written(0, 4) == -1
    assert slots.static == frozenset()


def test_every_expert_of_a_warm_cache_can_be_written_back_from_where_it_lies() -> None:
    writer, recorder = writer_of(WRITTEN)
    slots = CacheSlots(writer, WRITTEN, cache_of(2, 3, 1), 1, 3)
    assert slots.static == {1, 2}
    ops = [slots.write_back(slot, 0, -1) for slot in (1, 2)]
    schedule = written(recorder)
    assert sorted(zip(schedule.expert.tolist(), schedule.slot.tolist(), strict=True)) == sorted(
        (expert, 1 + slot) for slot, expert in cache_of(2, 3, 1).residents.items()
    )
    assert set(slots.live_ops()) == set(ops)
    assert {slots.written(0, 1), slots.written(0, 3)} == set(ops)


def test_what_is_held_otherwise_leaves_what_is_held_beside_it() -> None:
    held = ResidentExperts()
    held.open(0)
    one, beside = (Held(expert, 1, expert, expert, True, False, expert, False) for expert in (1, 2))
    held.add(0, one)
    held.add(0, beside)
    now = one._replace(slot=5)
    held.replace(0, one, now)
    assert list(held.once(0)) == [now, beside]
    assert held.claimed(0) == {1: now, 2: beside}
