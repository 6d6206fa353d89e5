"""Runs without what interrupted their threads: what is told of a thread that did not run, and what is left of a run."""

from __future__ import annotations

import dataclasses
import os
import time

import numpy as np
import pytest

from offload.ops import Lane

torch = pytest.importorskip("torch", reason="the runtime needs PyTorch (the extra 'runtime')")

from pregate.routing_traces import synthesize  # noqa: E402
from pregate.running.devices import capture_on  # noqa: E402
from pregate.running.measured_run import execute_captured  # noqa: E402
from runtime.backends.backend import Action, Times  # noqa: E402
from runtime.backends.cpu import CpuBackend  # noqa: E402
from runtime.backends.interruptions import (  # noqa: E402
    AWAKE_NS,
    LEAST_NS,
    Interruptions,
    RunQueue,
    interrupted_ns,
    uninterrupted,
)
from runtime.machine.watch import Seen  # noqa: E402
from runtime.microbench.lanes import timed  # noqa: E402
from runtime.run import MeasuredRun, counted_timelines  # noqa: E402
from tests.small_runs import CPU, MODEL  # noqa: E402

SLEPT_S = 0.02
QUIET, LOUD = Seen(0.0, 0.0, 1.0), Seen(1.0, 0.0, 1.0)
HOST, COMPUTE, H2D = int(Lane.HOST), int(Lane.COMPUTE), int(Lane.H2D)


def nothing() -> None:
    return None


def sleep() -> None:
    time.sleep(SLEPT_S)


@pytest.fixture(scope="module")
def run() -> MeasuredRun:
    return execute_captured(capture_on(CPU, MODEL, synthesize(MODEL, 2, 3), "on_demand"), CPU)


def lost_in(lanes: list[int], actions: list[Action | None], waits: list[list[int]] | None = None) -> Interruptions:
    found = timed(CpuBackend(), lanes, actions, waits).times.interruptions
    assert found is not None
    return found


def test_lanes_go_on_where_their_ops_end_without_what_was_lost() -> None:
    # compute 0, copy 1 beside it, compute 2 waits for both, the host waits for 2 and issues compute 4
    lanes, waits = [COMPUTE, H2D, COMPUTE, HOST, COMPUTE], [(), (), (1,), (2,), ()]
    issued = np.array([0.0, 1.0, 2.0, 3.0, 17.0])
    start, end = np.array([0.0, 1.0, 8.0, 12.0, 17.0]), np.array([8.0, 5.0, 12.0, 13.0, 19.0])
    lost = Interruptions(np.array([4.0, 0.0, 0.0, 0.5, 1.0]), np.array([0.0, 0.0, 0.0, 0.0, 3.0]), issued)
    found_start, found_end = uninterrupted(lanes, waits, start, end, lost)
    # 0 ends at 4; 2 waits for the copy until 5; the host goes on at 9.5 and takes a second of its own to issue 4
    assert found_start.tolist() == [0.0, 1.0, 5.0, 9.0, 10.5]
    assert found_end.tolist() == [4.0, 5.0, 9.0, 9.5, 11.5]
    assert lost.total_s == 8.5


def test_a_run_that_lost_nothing_stays_as_it_was(run: MeasuredRun) -> None:
    assert run.interruptions is not None
    none = np.zeros_like(run.interruptions.host_s)
    calm = dataclasses.replace(run, interruptions=Interruptions(none, none, run.interruptions.issued_s))
    assert calm.uninterrupted is calm.timeline
    hair = none.copy()
    hair[-1] = 1e-12  # not nothing: walked anew
    walked = dataclasses.replace(run, interruptions=Interruptions(hair, none, run.interruptions.issued_s)).uninterrupted
    np.testing.assert_allclose(walked.start_s, run.timeline.start_s, rtol=0, atol=1e-8)
    np.testing.assert_allclose(walked.end_s, run.timeline.end_s, rtol=0, atol=1e-8)
    assert dataclasses.replace(run, interruptions=None).uninterrupted is run.timeline


def test_an_op_whose_thread_sleeps_has_lost_that_time_and_one_that_reads_files_has_not() -> None:
    found = lost_in([COMPUTE, COMPUTE, int(Lane.DISK)], [nothing, sleep, sleep])
    assert found.on_lane_s[1] >= 0.99 * SLEPT_S
    assert found.on_lane_s[2] < SLEPT_S or not os.path.exists("/proc/thread-self/schedstat")


def test_a_lane_that_is_late_to_begin_has_lost_the_time_but_what_waking_up_takes() -> None:
    def late(op: int) -> None:
        if op == 1:
            time.sleep(SLEPT_S)

    times = timed(CpuBackend(disturb=late), [COMPUTE, COMPUTE], [nothing, nothing]).times
    assert times.interruptions is not None
    assert times.interruptions.on_lane_s[1] >= 0.99 * SLEPT_S - AWAKE_NS * 1e-9
    assert 0 <= times.ran_s[1] <= times.end_s[1] - times.start_s[1] - 0.99 * SLEPT_S + AWAKE_NS * 1e-9


def test_a_host_that_does_not_run_has_lost_the_time_before_it_issues() -> None:
    backend = CpuBackend()
    backend.open(2, [Lane.COMPUTE])
    for op in (0, 1):
        backend.add(Lane.COMPUTE, (), nothing)
        if op:
            time.sleep(SLEPT_S)
        backend.issue(op)
    backend.synchronise()
    found = backend.times().interruptions
    backend.close()
    assert found is not None
    assert found.host_s[0] == 0
    assert found.host_s[1] >= 0.99 * SLEPT_S


def test_what_is_short_is_of_the_run_itself() -> None:
    assert interrupted_ns(LEAST_NS - 1) == 0
    assert interrupted_ns(LEAST_NS) == LEAST_NS
    assert interrupted_ns(LEAST_NS, AWAKE_NS) == LEAST_NS - AWAKE_NS


def test_a_system_that_tells_no_queue_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object) -> int:
        raise FileNotFoundError

    monkeypatch.setattr(os, "open", missing)
    queue = RunQueue()
    assert queue.waited_ns() == 0
    queue.close()


def test_a_queue_is_told_since_the_last_call() -> None:
    queue = RunQueue()
    assert queue.waited_ns() >= 0
    assert queue.waited_ns() >= 0
    queue.close()
    assert queue.waited_ns() == 0


def test_a_device_has_no_threads_and_ops_that_ran_as_long_as_they_lasted() -> None:
    times = Times(np.array([0.0, 1.0]), np.array([1.0, 3.0]), {})
    assert times.ran_s.tolist() == [1.0, 2.0]


def test_interruptions_are_left_out_where_no_run_was_quiet(run: MeasuredRun) -> None:
    assert run.interruptions is not None
    lost = np.zeros_like(run.interruptions.host_s)
    lost[0] = 0.5 * (run.timeline.end_s[0] - run.timeline.start_s[0])
    disturbed = dataclasses.replace(run, interruptions=Interruptions(lost, 0 * lost, run.interruptions.issued_s))

    def makespans(seen: list[Seen]) -> list[float]:
        runs: list[MeasuredRun] = [disturbed] * len(seen)
        return [timeline.makespan_s for _, timeline in counted_timelines(runs, seen)]

    assert makespans([LOUD, QUIET]) == [run.timeline.makespan_s]
    assert makespans([LOUD, LOUD, LOUD]) == [disturbed.uninterrupted.makespan_s] * 2
    assert disturbed.uninterrupted.end_s[0] < run.timeline.end_s[0]
