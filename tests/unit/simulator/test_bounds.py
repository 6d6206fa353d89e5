"""Lower bounds, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from hwmodels.cost import Costs
from offload.ops import Lane, OpKind, Work
from offload.recorder import Recorder
from simulator.explain.bounds import lower_bounds
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
