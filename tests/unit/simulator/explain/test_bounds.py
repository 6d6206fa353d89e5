"""Lower bounds, by hand."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from hwmodels.cost import Costs
from offload.ops import Lane, OpKind, Work
from offload.recorder import Recorder
from simulator.explain import bounds as module
from simulator.explain.bounds import CHAINS, chains_s, lower_bounds
from simulator.modes import Modes
from simulator.recurrence import SMALL_OPS
from traces.errors import InvalidInput

GATE, FETCH, WAIT = Work(OpKind.GATE), Work(OpKind.FETCH), Work(OpKind.WAIT)


def test_the_lane_with_the_most_work_binds() -> None:
    recorder = Recorder()
    for _ in range(3):
        recorder.issue(Lane.H2D, FETCH, step=0)
    recorder.issue(Lane.COMPUTE, GATE, step=0)
    bounds = lower_bounds(recorder.schedule(), Costs(np.zeros(2), np.array([5.0, 7.0])))
    assert bounds.lane_s[Lane.H2D] == 15
    assert bounds.lane_s[Lane.COMPUTE] == bounds.critical_path_s == 7
    assert (bounds.makespan_s, bounds.binding) == (15, "H2D")


def test_a_chain_across_lanes_binds_when_no_lane_is_full() -> None:
    recorder = Recorder()
    gate = recorder.issue(Lane.COMPUTE, GATE, step=0)
    fetch = recorder.issue(Lane.H2D, FETCH, (gate,), step=0)
    recorder.issue(Lane.COMPUTE, GATE, (fetch,), step=0)
    bounds = lower_bounds(recorder.schedule(), Costs(np.zeros(2), np.array([2.0, 3.0])))
    assert bounds.critical_path_s == 7
    assert (bounds.makespan_s, bounds.binding) == (7, "critical path")


def test_the_host_pays_for_issuing_what_others_run() -> None:
    recorder = Recorder()
    recorder.issue(Lane.COMPUTE, GATE, step=0)
    recorder.issue(Lane.HOST, WAIT, step=0)
    bounds = lower_bounds(recorder.schedule(), Costs(np.array([4.0, 100.0]), np.array([1.0, 2.0])))
    assert bounds.lane_s[Lane.HOST] == 6  # a wait is the host's own op: it is not issued
    assert bounds.binding == "HOST"


def test_nothing_takes_no_time() -> None:
    bounds = lower_bounds(Recorder().schedule(), Costs(np.zeros(0), np.zeros(0)))
    assert bounds.makespan_s == 0


def test_times_of_another_schedule_are_refused() -> None:
    recorder = Recorder()
    recorder.issue(Lane.COMPUTE, GATE, step=0)
    with pytest.raises(InvalidInput, match="prices 1 works"):
        lower_bounds(recorder.schedule(), Costs(np.zeros(2), np.zeros(2)))


def test_what_may_be_cancelled_counts_for_nothing_where_copies_are_cancelled() -> None:
    recorder = Recorder()
    gate = recorder.issue(Lane.COMPUTE, GATE, step=0)
    for _ in range(3):
        recorder.issue(Lane.H2D, FETCH, (gate,), step=0)
    schedule = dataclasses.replace(recorder.schedule(), cancelled_by=np.array([-1, 0, 1, -1], np.int32))
    costs = Costs(np.zeros(2), np.array([2.0, 5.0]))
    bounds = lower_bounds(schedule, costs)
    assert (bounds.lane_s[Lane.H2D], bounds.critical_path_s) == (15, 7)
    cancelled = lower_bounds(schedule, costs, Modes(cancel=True))
    assert (cancelled.lane_s[Lane.COMPUTE], cancelled.lane_s[Lane.H2D], cancelled.critical_path_s) == (2, 5, 7)
    all_of_them = dataclasses.replace(schedule, cancelled_by=np.array([1, 0, 0, 0], np.int32))
    nothing = lower_bounds(all_of_them, costs, Modes(cancel=True))
    assert (nothing.makespan_s, nothing.lane_s[Lane.COMPUTE]) == (0, 0)


def test_latencies_of_a_shared_link_overlap_and_its_transfers_do_not() -> None:
    recorder = Recorder()
    for lane in (Lane.H2D, Lane.H2D, Lane.D2H):
        recorder.issue(lane, FETCH, step=0)
    recorder.issue(Lane.D2H, WAIT, step=0)
    recorder.issue(Lane.COMPUTE, GATE, step=0)
    schedule = recorder.schedule()
    costs = Costs(np.zeros(3), np.array([5.0, 3.0, 1.0]), np.array([4.0, 3.0, 0.5]))
    apart = lower_bounds(schedule, costs)
    assert [apart.lane_s[lane] for lane in (Lane.H2D, Lane.D2H, Lane.COMPUTE)] == [10, 8, 1]
    shared = lower_bounds(schedule, costs, Modes(link="shared"))
    assert [shared.lane_s[lane] for lane in (Lane.H2D, Lane.D2H, Lane.COMPUTE)] == [8, 7, 1]
    assert lower_bounds(schedule, costs, Modes(link="priority")).lane_s == apart.lane_s
    first = dataclasses.replace(schedule, cancelled_by=np.array([4, -1, -1, -1, -1], np.int32))
    assert lower_bounds(first, costs, Modes(link="shared", cancel=True)).lane_s[Lane.H2D] == 4


@pytest.mark.parametrize("small", [True, False])
@pytest.mark.parametrize("n_carried", [0, 3])
def test_a_chain_ends_after_the_last_that_it_waits_for(small: bool, n_carried: int) -> None:
    """Against every op asked by itself, of what was carried over too."""
    rng = np.random.default_rng(n_carried)
    carried, duration = rng.uniform(1, 9, n_carried), rng.uniform(0, 2, 40)
    after = [rng.choice(n_carried + i, min(n_carried + i, int(rng.integers(0, 4))), replace=False) for i in range(40)]
    dep_ptr = np.cumsum([0, *map(len, after)])
    wanted = carried.tolist()
    for seconds, before in zip(duration.tolist(), after, strict=True):
        wanted.append(max((wanted[k] for k in before), default=0.0) + seconds)
    dep = np.concatenate(after)
    for given in (dep.astype(np.int32), dep.astype(np.int64), np.repeat(dep.astype(np.int32), 2)[::2]):
        found = chains_s(dep_ptr, given, duration, carried, small=small)
        assert found.tolist() == wanted
        assert found.dtype == np.float64
    spaced = np.repeat(duration, 2)[::2]
    assert chains_s(dep_ptr, dep, spaced, carried, small=small).tolist() == wanted
    halves = chains_s(dep_ptr, dep, np.ones(40, np.float32), np.zeros(n_carried), small=small)
    assert halves.tolist() == chains_s(dep_ptr, dep, np.ones(40), np.zeros(n_carried)).tolist()


def test_the_number_of_ops_says_whether_a_chain_is_followed_by_machine_code(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[object, ...]] = []
    said = True

    def is_small(*given: object) -> bool:
        asked.append(given)
        return said

    def compiled() -> None:
        raise AssertionError("machine code")

    monkeypatch.setattr(module, "is_small", is_small)
    monkeypatch.setattr(module, "_compiled", compiled)
    few = np.array([0, 0, 0]), np.zeros(0, np.int32), np.array([1.0, 2.0]), np.zeros(0)
    assert chains_s(*few).tolist() == [1.0, 2.0]
    assert asked == [(2, SMALL_OPS, CHAINS)]
    said = False
    with pytest.raises(AssertionError, match="machine code"):
        chains_s(*few)
    assert len(asked) == 2
    chains_s(*few, small=True)
    assert len(asked) == 2


def test_machine_code_gets_arrays_as_it_is_compiled_for(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[np.ndarray, ...]] = []
    monkeypatch.setattr(module, "_compiled", lambda: lambda *given: told.append(given))
    dep, duration = np.zeros(4, np.int64)[::2], np.ones(4, np.float32)[::2]
    chains_s(np.array([0, 1, 2]), dep, duration, np.array([3.0]), small=False)
    ((dep_ptr, dep, duration, end),) = told
    assert [one.dtype for one in (dep_ptr, dep, duration, end)] == [np.int64, np.int32, np.float64, np.float64]
    assert dep.flags.c_contiguous
    assert duration.flags.c_contiguous
    assert end.tolist() == [3.0, 0.0, 0.0]


def test_the_first_op_waits_for_all_that_was_carried_over() -> None:
    for small in (True, False):
        ends = chains_s(
            np.array([0, 2]), np.array([0, 1], np.int32), np.array([2.0]), np.array([5.0, 1.0]), small=small
        )
        assert ends.tolist() == [5.0, 1.0, 7.0]
