"""Of a critical path, what is spent waiting for a slot: from when a copy could have started, each moment once."""

from __future__ import annotations

import numpy as np

from hwmodels.cost import Costs
from offload.ops import Lane, OpKind, Work
from offload.recorder import Recorder
from offload.schedule import Schedule
from simulator.explain.attribution import Path, critical_path
from simulator.explain.critical_path import slot_edges, walk


def slots(recorder: Recorder, durations: dict[OpKind, float]) -> tuple[Schedule, Path]:
    schedule = recorder.schedule()
    duration_s = np.array([durations[work.kind] for work in schedule.works])
    return schedule, critical_path(walk(schedule, Costs(np.zeros(len(duration_s)), duration_s)))


def test_a_fetch_into_the_slot_of_a_running_expert_waits_all_of_its_run() -> None:
    """Experts 0-5, fetch 5-7 (it could have started at 0), experts 7-12."""
    recorder = Recorder()
    reader = recorder.issue(Lane.COMPUTE, Work(OpKind.EXPERTS), step=0, layer=0)
    fetch = recorder.issue(Lane.H2D, Work(OpKind.FETCH), (reader,), step=0, layer=1, expert=3, slot=0)
    recorder.issue(Lane.COMPUTE, Work(OpKind.EXPERTS), (fetch,), step=0, layer=1)
    _, path = slots(recorder, {OpKind.EXPERTS: 5.0, OpKind.FETCH: 2.0})
    assert (path.op.tolist(), path.slot_s.tolist()) == ([0, 1, 2], [5.0, 0.0, 0.0])


def test_a_wait_for_a_slot_begins_when_the_copy_could_have_started() -> None:
    """The link is busy until 2, so of the experts' run 0-5 only 2-5 is a wait."""
    recorder = Recorder()
    reader = recorder.issue(Lane.COMPUTE, Work(OpKind.EXPERTS), step=0, layer=0)
    recorder.issue(Lane.H2D, Work(OpKind.FETCH), step=0, layer=1, expert=2, slot=1)
    fetch = recorder.issue(Lane.H2D, Work(OpKind.FETCH), (reader,), step=0, layer=1, expert=3, slot=0)
    recorder.issue(Lane.COMPUTE, Work(OpKind.EXPERTS), (fetch,), step=0, layer=1)
    _, path = slots(recorder, {OpKind.EXPERTS: 5.0, OpKind.FETCH: 2.0})
    assert (path.op.tolist(), path.slot_s.tolist()) == ([0, 2, 3], [3.0, 0.0, 0.0])


def test_a_wait_within_a_wait_counts_once() -> None:
    """Experts 0-5, fetch 5-7, experts 7-12; a storage read could have run at 0 and waits for all: 12 in all, not 17."""
    recorder = Recorder()
    reader = recorder.issue(Lane.COMPUTE, Work(OpKind.EXPERTS), step=0, layer=0)
    fetch = recorder.issue(Lane.H2D, Work(OpKind.FETCH), (reader,), step=0, layer=1, expert=3, slot=0)
    again = recorder.issue(Lane.COMPUTE, Work(OpKind.EXPERTS), (fetch,), step=0, layer=1)
    recorder.issue(Lane.DISK, Work(OpKind.DISK_READ), (again,), step=0, layer=2, expert=1)
    schedule, path = slots(recorder, {OpKind.EXPERTS: 5.0, OpKind.FETCH: 2.0, OpKind.DISK_READ: 1.0})
    assert path.slot_s.tolist() == [5.0, 2.0, 5.0, 0.0]
    assert slot_edges(schedule).tolist() == [True, False, True]


def test_only_the_hop_before_of_the_same_expert_is_no_wait_for_room() -> None:
    recorder = Recorder()
    read = recorder.issue(Lane.DISK, Work(OpKind.DISK_READ), step=0, layer=0, expert=1)
    fetch = recorder.issue(Lane.H2D, Work(OpKind.FETCH), (read,), step=0, layer=0, expert=1)
    second = recorder.issue(Lane.DISK, Work(OpKind.DISK_READ), (fetch,), step=0, layer=0, expert=2)
    recorder.issue(Lane.H2D, Work(OpKind.FETCH), (fetch, second), step=0, layer=0, expert=2)
    recorder.issue(Lane.H2D, Work(OpKind.STAGE), (fetch,), step=1, layer=0, expert=1)
    recorder.issue(Lane.H2D, Work(OpKind.STAGE), (fetch,), step=1, layer=1, expert=1)
    recorder.issue(Lane.HOST, Work(OpKind.WAIT), (fetch,), step=1)
    assert slot_edges(recorder.schedule()).tolist() == [False, True, True, False, False, True, False]


def test_an_expert_that_goes_back_is_waited_for_by_those_who_take_its_slot() -> None:
    """It goes back once it was brought and read; what takes its slot waits for room, what fetches it again does not."""
    recorder = Recorder()
    fetch = recorder.issue(Lane.H2D, Work(OpKind.FETCH), step=0, layer=0, expert=1, slot=0)
    reader = recorder.issue(Lane.COMPUTE, Work(OpKind.EXPERTS), (fetch,), step=0, layer=0, expert=1)
    back = recorder.issue(Lane.D2H, Work(OpKind.WRITE_BACK), (fetch, reader), step=1, layer=0, expert=1, slot=0)
    recorder.issue(Lane.H2D, Work(OpKind.FETCH), (back,), step=1, layer=0, expert=2, slot=0)
    recorder.issue(Lane.H2D, Work(OpKind.FETCH), (back,), step=2, layer=0, expert=1, slot=1)
    assert slot_edges(recorder.schedule()).tolist() == [False, False, True, True, False]
