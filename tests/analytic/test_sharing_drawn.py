"""Modes beyond FIFO on schedules that are drawn: what is conserved, and what a mode leaves as it was."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from hwmodels.cost import Costs
from offload.ops import Lane, OpKind, Work
from offload.recorder import Recorder
from offload.schedule import Schedule
from offload.timeline import Timeline
from simulator import recurrence
from simulator.events import event_engine
from simulator.modes import FIFO, Modes
from tests.engines import ENGINES

some_s = st.floats(1e-3, 3.0)
modes = st.builds(
    Modes, st.sampled_from(["fifo", "shared", "priority"]), st.sampled_from([None, 1, 3]), st.booleans(), st.booleans()
)


@st.composite
def jobs(draw: st.DrawFn) -> tuple[Schedule, Costs]:
    """Kernels and copies that wait for each other, a part of each copy latency, a part of each op HBM traffic."""
    recorder, n_ops = Recorder(), draw(st.integers(1, 12))
    for i in range(n_ops):
        lane = draw(st.sampled_from([Lane.HOST, Lane.COMPUTE, Lane.H2D, Lane.H2D, Lane.D2H]))
        kind = OpKind.FETCH if lane in (Lane.H2D, Lane.D2H) else OpKind.EXPERTS
        deps = sorted(draw(st.sets(st.integers(0, i - 1), max_size=2))) if i else []
        recorder.issue(lane, Work(kind, flop=i, copy_bytes=4), deps, step=0, priority=draw(st.integers(0, 1)))
    schedule = recorder.schedule()
    issue_s, duration_s = (np.array(draw(st.lists(some_s, min_size=n_ops, max_size=n_ops))) for _ in range(2))
    link, hbm = (np.array(draw(st.lists(st.floats(0.1, 1.0), min_size=n_ops, max_size=n_ops))) for _ in range(2))
    copies = schedule.kind == OpKind.FETCH
    return schedule, Costs(0.1 * issue_s, duration_s, np.where(copies, link * duration_s, 0.0), hbm * duration_s)


def busy_s(timeline: Timeline, lane: Lane) -> float:
    """Time during which `lane` serves at least one op."""
    mine = np.flatnonzero(timeline.schedule.lane == lane)
    total_s, until_s = 0.0, 0.0
    for i in mine[np.argsort(timeline.start_s[mine])]:
        total_s += max(timeline.end_s[i] - max(timeline.start_s[i], until_s), 0.0)
        until_s = max(until_s, timeline.end_s[i])
    return total_s


@given(jobs())
def test_a_shared_link_is_busy_for_the_sum_of_its_transfers(job: tuple[Schedule, Costs]) -> None:
    """Processor sharing conserves work: with no latency, busy time is the work that came, whenever it came."""
    schedule, costs = job
    pure = Costs(costs.issue_s, np.where(costs.link_s > 0, costs.link_s, costs.duration_s), costs.link_s)
    timeline = event_engine.simulate(schedule, pure, Modes("shared"))
    for lane in (Lane.H2D, Lane.D2H):
        expected_s = float(pure.link_s[schedule.cost[schedule.lane == lane]].sum())
        assert busy_s(timeline, lane) == pytest.approx(expected_s, rel=1e-9)


@given(jobs(), st.sampled_from([None, 1, 3]))
def test_a_link_by_priority_is_busy_for_the_sum_of_its_copies(job: tuple[Schedule, Costs], chunk: int | None) -> None:
    """Whoever goes first: copies of 4 bytes in chunks of at most 1 or 3 are 4 or 2 chunks, each with the latency."""
    schedule, costs = job
    n_chunks = {None: 1, 1: 4, 3: 2}[chunk]
    timeline = event_engine.simulate(schedule, costs, Modes("priority", chunk))
    whole_s = n_chunks * (costs.duration_s - costs.link_s) + costs.link_s
    for lane in (Lane.H2D, Lane.D2H):
        expected_s = float(whole_s[schedule.cost[schedule.lane == lane]].sum())
        assert busy_s(timeline, lane) == pytest.approx(expected_s, rel=1e-9)


@given(jobs(), st.sampled_from(["fifo", "shared", "priority"]))
def test_hbm_never_serves_more_than_its_bandwidth(job: tuple[Schedule, Costs], link: str) -> None:
    """All traffic takes at least its time at full bandwidth, however it is divided, and sharing only ever delays."""
    schedule, costs = job
    timeline = event_engine.simulate(schedule, costs, Modes(link, hbm_shared=True))  # type: ignore[arg-type]
    on_device = np.isin(schedule.lane, (Lane.COMPUTE, Lane.H2D, Lane.D2H))
    traffic_s = float(costs.hbm_s[schedule.cost[on_device]].sum())
    assert timeline.makespan_s >= traffic_s * (1 - 1e-9)
    assert np.all(timeline.end_s - timeline.start_s >= costs.duration_s[schedule.cost] * (1 - 1e-9))


@given(jobs(), modes)
def test_without_hbm_traffic_sharing_hbm_changes_nothing(job: tuple[Schedule, Costs], chosen: Modes) -> None:
    """The limit of infinite HBM bandwidth."""
    schedule, costs = job
    free = Costs(costs.issue_s, costs.duration_s, costs.link_s)
    with_it, without = (
        event_engine.simulate(schedule, free, Modes(chosen.link, chosen.chunk_bytes, shared, chosen.cancel))
        for shared in (True, False)
    )
    assert with_it.start_s == pytest.approx(without.start_s, rel=1e-12, abs=1e-12)
    assert with_it.end_s == pytest.approx(without.end_s, rel=1e-12, abs=1e-12)


@given(jobs(), st.sampled_from(["shared", "priority"]))
def test_a_link_that_never_has_two_copies_is_fifo(job: tuple[Schedule, Costs], link: str) -> None:
    """Every copy waits for the one before it in its lane: nothing to share, nothing to choose."""
    schedule, costs = job
    recorder, last = Recorder(), dict[int, int]()
    for i, lane in enumerate(schedule.lane.tolist()):
        before = {last[lane]} if lane in (Lane.H2D, Lane.D2H) and lane in last else set()
        recorder.issue(Lane(lane), schedule.works[i], sorted({*schedule.deps(i).tolist(), *before}), step=0)
        last[lane] = i
    chained = recorder.schedule()
    timeline, fifo = event_engine.simulate(chained, costs, Modes(link)), recurrence.simulate(chained, costs)  # type: ignore[arg-type]
    assert timeline.start_s == pytest.approx(fifo.start_s, rel=1e-12, abs=1e-12)
    assert timeline.end_s == pytest.approx(fifo.end_s, rel=1e-12, abs=1e-12)


@given(jobs(), st.sampled_from([Modes(cancel=True), Modes(chunk_bytes=1 << 40), Modes(chunk_bytes=4, cancel=True)]))
def test_modes_with_nothing_to_do_are_fifo_bit_for_bit(job: tuple[Schedule, Costs], idle: Modes) -> None:
    """Nothing to cancel, and copies of one chunk: the engines of modes against the recurrence."""
    schedule, costs = job
    fifo = recurrence.simulate(schedule, costs, FIFO)
    for engine in ENGINES:
        timeline = engine(schedule, costs, idle)
        assert timeline.start_s.tolist() == fifo.start_s.tolist()
        assert timeline.end_s.tolist() == fifo.end_s.tolist()
