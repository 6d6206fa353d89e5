"""A host that decides as it goes: against the recurrence where deciding is issuing, and by hand where it is not."""

from __future__ import annotations

import numpy as np
import pytest

from hwmodels.cost import Costs
from offload.ops import Lane, OpKind, Work
from offload.recorder import Recorder
from offload.schedule import Schedule
from simulator.live_issue import Deciding, issued_live
from simulator.recurrence import simulate
from traces.errors import InvalidInput


def written(ops: list[tuple[Lane, OpKind, tuple[int, ...]]]) -> Schedule:
    """A schedule of ops: lane, kind, dependencies."""
    recorder = Recorder()
    for lane, kind, after in ops:
        recorder.issue(lane, Work(kind, copy_bytes=8), after, step=0)
    return recorder.schedule()


def random_schedule(seed: int, n: int = 60) -> Schedule:
    rng = np.random.default_rng(seed)
    kinds = {
        Lane.HOST: OpKind.WAIT, Lane.COMPUTE: OpKind.EXPERTS, Lane.H2D: OpKind.FETCH, Lane.D2H: OpKind.READBACK,
    }  # fmt: skip
    ops = []
    for i in range(n):
        lane = Lane(int(rng.integers(4)))
        after = tuple(sorted({int(one) for one in rng.integers(0, i, size=int(rng.integers(3)))})) if i else ()
        ops.append((lane, kinds[lane], after))
    return written(ops)


@pytest.mark.parametrize("seed", range(8))
def test_deciding_that_is_issuing_gives_the_times_of_the_recurrence(seed: int) -> None:
    schedule, rng = random_schedule(seed), np.random.default_rng(seed)
    n_works = len(schedule.works)
    issue_s = rng.uniform(0, 2, n_works)
    issue_s[[work.kind is OpKind.WAIT for work in schedule.works]] = 0  # what the host itself runs is not issued
    costs = Costs(issue_s, rng.uniform(0, 3, n_works))
    expected = simulate(schedule, costs)
    found = issued_live(
        schedule, costs.duration_s[schedule.cost], Deciding(issue_s[schedule.cost], np.ones(len(schedule)))
    )
    assert np.allclose(found.start_s, expected.start_s, rtol=1e-9, atol=1e-9)
    assert np.allclose(found.end_s, expected.end_s, rtol=1e-9, atol=1e-9)


def times(schedule: Schedule, duration_s: list[float], deciding: Deciding) -> list[tuple[float, float]]:
    found = issued_live(schedule, np.array(duration_s), deciding)
    return [(round(start, 9), round(end, 9)) for start, end in zip(found.start_s, found.end_s, strict=True)]


def test_a_host_that_asks_decides_once_the_op_has_ended() -> None:
    schedule = written([(Lane.COMPUTE, OpKind.GATE, ()), (Lane.COMPUTE, OpKind.EXPERTS, ())])
    deciding = Deciding(np.array([1.0, 2.0]), np.ones(2), asked={1: 0}, woken_s=0.5)
    # The gate runs from 1 to 4; the host wakes up at 4.5 and has decided at 6.5.
    assert times(schedule, [3.0, 1.0], deciding) == [(1.0, 4.0), (6.5, 7.5)]


def test_who_shares_an_interpreter_goes_at_a_share_of_its_rate() -> None:
    schedule = written([(Lane.COMPUTE, OpKind.GATE, ()), (Lane.H2D, OpKind.FETCH, ())])
    deciding = Deciding(np.array([0.0, 2.0]), np.array([2.0, 1.0]), host_slowed=1.5)
    # Both together until 3, when the host has done 2: the gate has done 1.5 of its 4 by then and ends at 5.5.
    assert times(schedule, [4.0, 1.0], deciding) == [(0.0, 5.5), (3.0, 4.0)]


def test_a_copy_on_the_core_of_the_host_takes_its_share_of_it() -> None:
    ops = [(Lane.H2D, OpKind.FETCH, ()), (Lane.COMPUTE, OpKind.GATE, ()), (Lane.COMPUTE, OpKind.GATE, ())]
    deciding = Deciding(np.array([0.0, 3.0, 1.0]), np.ones(3), core_s=np.array([1.0, 0.0, 0.0]))
    # The copy takes a quarter of the core for 4 s, in which the host does 3 s of work; then it has all of it.
    assert times(written(ops), [4.0, 1.0, 1.0], deciding) == [(0.0, 4.0), (4.0, 5.0), (5.0, 6.0)]
    greedy = Deciding(np.array([0.0, 3.0, 1.0]), np.ones(3), core_s=np.array([4.0, 0.0, 0.0]))
    # One that wants all of it leaves the host half: 2 s of work by 4.
    assert times(written(ops), [4.0, 1.0, 1.0], greedy)[1] == (5.0, 6.0)


def test_a_wait_takes_its_time_after_what_it_waits_for() -> None:
    schedule = written([(Lane.D2H, OpKind.READBACK, ()), (Lane.HOST, OpKind.WAIT, (0,)), (Lane.H2D, OpKind.FETCH, ())])
    deciding = Deciding(np.array([1.0, 0.25, 1.0]), np.ones(3))
    assert times(schedule, [2.0, 0.5, 1.0], deciding) == [(1.0, 3.0), (3.0, 3.5), (4.5, 5.5)]


def test_times_that_are_none_are_refused() -> None:
    schedule = written([(Lane.COMPUTE, OpKind.GATE, ())])
    with pytest.raises(InvalidInput, match="slowdowns 1 or above"):
        Deciding(np.zeros(1), np.array([0.5]))
    with pytest.raises(InvalidInput, match="at least 1 and 0"):
        Deciding(np.zeros(1), np.ones(1), host_slowed=0.5)
    with pytest.raises(InvalidInput, match="of the host's core"):
        Deciding(np.zeros(1), np.ones(1), core_s=np.array([-1.0]))
    with pytest.raises(InvalidInput, match="1 ops, 2 durations"):
        issued_live(schedule, np.ones(2), Deciding(np.zeros(1), np.ones(1)))
