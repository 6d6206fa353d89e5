"""The FIFO walk, its starts, ends and bounds counted by hand; the walk on lists says what the walk on arrays says."""

from __future__ import annotations

import numpy as np
import pytest

from hwmodels.cost import Costs
from offload.ops import Lane, OpKind, Work
from offload.recorder import Recorder
from offload.schedule import Schedule
from simulator import recurrence
from simulator.modes import Modes, NotFifo
from simulator.recurrence import HOST
from traces.errors import InvalidInput

N_LANES = len(Lane)


def schedule_of(*ops: tuple[Lane, int, tuple[int, ...]]) -> Schedule:
    """Ops as (lane, cost row, dependencies)."""
    recorder = Recorder()
    works = [Work(OpKind.GATE, flop=i) for i in range(1 + max(row for _, row, _ in ops))]
    for row in range(len(works)):  # rows are numbered by first use
        assert row in {op[1] for op in ops}
    for lane, row, after in ops:
        recorder.issue(lane, works[row], after, step=0)
    return recorder.schedule()


@pytest.fixture(params=["lists", "arrays"])
def small(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Both walks, the one for large schedules as it is before it is compiled."""
    monkeypatch.setattr(recurrence, "_compiled", lambda: recurrence._walk)
    monkeypatch.setattr(recurrence, "SMALL_OPS", 1000 if request.param == "lists" else -1)
    return bool(request.param == "lists")


COSTS = Costs(issue_s=np.array([1.0, 0.25, 0.0]), duration_s=np.array([10.0, 4.0, 2.0]))
"""By row: a kernel, a copy, an op of the host (whose issue costs nothing)."""


@pytest.mark.usefixtures("small")
def test_issue_lanes_and_dependencies_bound_starts() -> None:
    ops = schedule_of(
        (Lane.COMPUTE, 0, ()),  # issued at 1
        (Lane.H2D, 1, ()),  # issued at 1.25
        (Lane.COMPUTE, 0, (1,)),  # issued at 2.25; the lane is free at 11
        (Lane.HOST, 2, (0,)),  # the host is free at 2.25 and waits for op 0 until 11
        (Lane.H2D, 1, ()),  # issued at 13.25: the host has waited
        (Lane.COMPUTE, 0, (4, 1)),  # issued at 14.25; op 4 lands at 17.25, the lane is free at 21
        (Lane.D2H, 1, (5, 4)),  # op 5 ends at 31
        (Lane.HOST, 2, ()),  # issued at 14.5, waits for nobody
    )
    start, end, bound_by, host = recurrence.walked(ops, COSTS)
    assert start.tolist() == [1.0, 1.25, 11.0, 11.0, 13.25, 21.0, 31.0, 14.5]
    assert end.tolist() == [11.0, 5.25, 21.0, 13.0, 17.25, 31.0, 35.0, 16.5]
    assert bound_by.tolist() == [HOST, HOST, 0, 0, HOST, 2, 5, HOST]
    assert host.tolist() == [1.0, 1.25, 2.25, 13.0, 13.25, 14.25, 14.5, 16.5]
    timeline = recurrence.simulate(ops, COSTS)
    assert timeline.start_s.tolist() == start.tolist()
    assert timeline.end_s.tolist() == end.tolist()
    assert timeline.source == "recurrence"
    assert (start.dtype, end.dtype, bound_by.dtype, host.dtype) == (float, float, np.int64, float)


@pytest.mark.usefixtures("small")
def test_ties_go_to_the_lane_then_the_host_then_the_first_dependency() -> None:
    costs = Costs(issue_s=np.array([0.0, 2.0]), duration_s=np.array([4.0, 4.0]))
    ops = schedule_of(
        (Lane.H2D, 0, ()),  # 0 to 4
        (Lane.D2H, 0, ()),  # 0 to 4
        (Lane.COMPUTE, 0, (0, 1)),  # 4 to 8: both bound it, the first listed counts
        (Lane.COMPUTE, 0, (2,)),  # 8: the lane and op 2, which is the lane's last
        (Lane.DISK, 0, (1, 0)),  # 4 to 8
        (Lane.H2D, 1, ()),  # issued at 2, lane free at 4
        (Lane.D2H, 1, (0,)),  # issued at 4 as the lane gets free: the lane
        (Lane.DISK, 0, (5,)),  # free at 8 as op 5 ends: the lane
    )
    start, _, bound_by, _ = recurrence.walked(ops, costs)
    assert start.tolist() == [0.0, 0.0, 4.0, 8.0, 4.0, 4.0, 4.0, 8.0]
    assert bound_by.tolist() == [-1, -1, 0, 2, 1, 0, 1, 4]


@pytest.mark.usefixtures("small")
def test_a_walk_goes_on_from_where_lanes_are_free_and_what_was_carried() -> None:
    """Two ops carried over end at 7 and 15; the host is free at 5, the compute stream at 12."""
    ops = schedule_of(*((lane, row, ()) for lane, row in ((Lane.COMPUTE, 0), (Lane.H2D, 1), (Lane.H2D, 1))))
    columns = {name: getattr(ops, name) for name in ("lane", "cost", "dep_ptr", "dep")}
    columns |= {"dep_ptr": np.array([0, 1, 2, 2]), "dep": np.array([1, 2], np.int32)}
    free_s = np.array([5.0, 12.0, *[0.0] * (N_LANES - 2)])
    start, end, bound_by, host = recurrence.walk_on(columns, COSTS, free_s, np.array([7.0, 15.0]))
    assert start.tolist() == [15.0, 25.0, 29.0]
    assert end.tolist() == [7.0, 15.0, 25.0, 29.0, 33.0]
    assert bound_by.tolist() == [1, 2, 3]  # the second carried over, then places after both
    assert host.tolist() == [6.0, 6.25, 6.5]
    by_lane = {Lane.HOST: 6.5, Lane.COMPUTE: 25.0, Lane.H2D: 33.0}
    assert free_s.tolist() == [by_lane.get(lane, 0.0) for lane in Lane]


@pytest.mark.usefixtures("small")
def test_a_lane_that_is_busy_from_before_is_bound_by_nothing_that_is_known() -> None:
    ops = schedule_of((Lane.COMPUTE, 0, ()), (Lane.HOST, 1, ()))
    columns = {name: getattr(ops, name) for name in ("lane", "cost", "dep_ptr", "dep")}
    free_s = np.array([5.0, 12.0, *[0.0] * (N_LANES - 2)])
    start, _, bound_by, _ = recurrence.walk_on(columns, COSTS, free_s, np.zeros(0))
    assert (start.tolist(), bound_by.tolist()) == ([12.0, 6.0], [-1, HOST])
    assert free_s.tolist() == [10.0, 22.0, *[0.0] * (N_LANES - 2)]


@pytest.mark.usefixtures("small")
def test_whole_seconds_are_seconds() -> None:
    """Times that are whole numbers are summed as any others."""
    ops = schedule_of((Lane.COMPUTE, 0, ()), (Lane.COMPUTE, 1, ()))
    ones = Costs(np.array([1, 1]), np.array([3, 2]), np.zeros(2), np.zeros(2))
    start, end, _, _ = recurrence.walked(ops, ones)
    assert (start.tolist(), end.tolist(), start.dtype) == ([1.0, 4.0], [4.0, 6.0], float)


def test_the_number_of_ops_says_which_walk_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    ops = schedule_of((Lane.COMPUTE, 0, ()), (Lane.H2D, 1, ()), (Lane.HOST, 2, ()))
    asked: list[int] = []

    def compiled() -> object:
        asked.append(len(ops))
        return recurrence._walk

    monkeypatch.setattr(recurrence, "_compiled", compiled)
    for most, wanted in ((3, []), (2, [3])):
        monkeypatch.setattr(recurrence, "SMALL_OPS", most)
        recurrence.simulate(ops, COSTS)
        assert asked == wanted


def test_a_schedule_without_ops_takes_no_time() -> None:
    empty = Recorder().schedule()
    none = np.zeros(0)
    for values, wanted in zip(
        recurrence.walked(empty, Costs(none, none)), (float, float, np.int64, float), strict=True
    ):
        assert (values.shape, values.dtype) == ((0,), wanted)


def test_other_lanes_than_fifo_and_wrong_costs_are_refused() -> None:
    ops = schedule_of((Lane.COMPUTE, 0, ()))
    one = np.ones(1)
    with pytest.raises(NotFifo):
        recurrence.simulate(ops, Costs(one, one), Modes(link="shared"))
    for values in (np.ones(2), -one, one * np.nan):
        with pytest.raises(InvalidInput):
            recurrence.simulate(ops, Costs(values, one))
        with pytest.raises(InvalidInput):
            recurrence.walked(ops, Costs(one, values))


def test_who_asks_says_which_walk_it_is_and_the_kernel_has_arrays_of_its_types(monkeypatch: pytest.MonkeyPatch) -> None:
    """As `walk_on` and `simulate` are told, whatever the number of ops; times and places may be of any type."""
    ops, costs = schedule_of((Lane.COMPUTE, 0, ()), (Lane.H2D, 1, (0,))), Costs(np.ones(2), np.ones(2))
    given: list[str] = []

    def kernel(*arrays: np.ndarray) -> None:
        given.append(" ".join(str(array.dtype) for array in arrays))
        recurrence._walk(*arrays)

    monkeypatch.setattr(recurrence, "_compiled", lambda: kernel)
    monkeypatch.setattr(recurrence, "SMALL_OPS", -1)
    for small in (True, False):
        monkeypatch.setattr(recurrence, "is_small", lambda *_, told=small: not told)
        recurrence.simulate(ops, costs, small=small)
        recurrence.walked(ops, costs, small=small)
    columns = {name: getattr(ops, name) for name in ("lane", "cost", "dep_ptr", "dep")}
    columns["dep"] = columns["dep"].astype(np.int64)
    whole = Costs(np.array([1, 1]), np.array([3, 2]))
    recurrence.walk_on(columns, whole, np.zeros(N_LANES), np.zeros(0), small=False)
    types = " ".join(text.partition("[")[0] for text in recurrence.WALK.arguments)
    assert given == [types] * 3


@pytest.mark.parametrize(("loaded", "most"), [(False, 80_000), (True, recurrence.KEPT_OPS)])
def test_few_ops_are_walked_in_python_by_what_the_kernel_that_is_asked_for_costs(
    monkeypatch: pytest.MonkeyPatch, loaded: bool, most: int
) -> None:
    asked: list[object] = []
    monkeypatch.setattr(recurrence, "has_loaded", lambda: loaded)
    monkeypatch.setattr(recurrence, "machine_code_pays", lambda *ops, **above: asked.append((*ops, above)))
    monkeypatch.setattr(recurrence, "loaded", lambda kernel: lambda *_: asked.append(kernel))
    ops, costs = schedule_of((Lane.COMPUTE, 0, ())), Costs(np.ones(1), np.ones(1))
    recurrence.simulate(ops, costs)
    assert recurrence.is_small(9, 3, recurrence.WALK)
    recurrence.simulate(ops, costs, small=False)
    above = {"compile_above": most, "call_above": recurrence._LOADED_OPS}
    assert asked == [
        (1, recurrence.WALK, above),
        (9, recurrence.WALK, {**above, "compile_above": min(3, most)}),
        recurrence.WALK,
    ]
