"""Modes beyond FIFO, rule by rule: chunks, who goes first at one instant, who is cancelled, HBM, refusals."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

import pregate
from hwmodels.cost import Costs
from offload.ops import Lane, OpKind, Work
from offload.recorder import Recorder
from offload.schedule import Schedule
from offload.slots.memory import CapacityExceeded
from simulator import recurrence
from simulator.definition import des
from simulator.definition.flow import max_min_level
from simulator.events import event_engine
from simulator.modes import FIFO, MAX_CHUNKS, Link, Modes, NotFifo, chunks
from tests.engines import ENGINES, Engine
from tests.grids import one_in
from traces.errors import InvalidInput

on_both = pytest.mark.parametrize("engine", ENGINES, ids=["des", "event"])


class Story:
    """Ops told one by one, each with its own duration and issue cost; a copy is all transfer."""

    def __init__(self) -> None:
        self.recorder, self.durations_s, self.issues_s = Recorder(), list[float](), list[float]()

    def op(
        self, lane: Lane, duration_s: float, *, after: tuple[int, ...] = (), issue_s: float = 0.0,
        priority: int = 0, n_bytes: int = 0, by: int | None = None, acquired: int = 0, released: int = 0,
    ) -> int:  # fmt: skip
        kind = OpKind.FETCH if lane in (Lane.H2D, Lane.D2H) else OpKind.GATE
        work = Work(kind, flop=len(self.durations_s), copy_bytes=n_bytes)
        self.durations_s.append(duration_s)
        self.issues_s.append(issue_s)
        i = self.recorder.issue(
            lane, work, after, step=0, priority=priority, hbm_acquired=acquired, hbm_released=released
        )
        if by is not None:
            self.recorder.cancel(i, by)
        return i

    def told(self) -> tuple[Schedule, Costs]:
        schedule, duration_s = self.recorder.schedule(), np.array(self.durations_s)
        link_s = np.where([work.kind is OpKind.FETCH for work in schedule.works], duration_s, 0.0)
        return schedule, Costs(np.array(self.issues_s), duration_s, link_s)


def test_fifo_says_nothing_more() -> None:
    assert FIFO.is_fifo
    assert FIFO.describe() == "FIFO lanes"
    for modes in (Modes("shared"), Modes("priority"), Modes(chunk_bytes=1), Modes(hbm_shared=True), Modes(cancel=True)):
        assert not modes.is_fifo
        assert modes.describe() != FIFO.describe()


def test_the_recurrence_refuses_what_it_cannot_express() -> None:
    story = Story()
    story.op(Lane.COMPUTE, 1.0)
    job = story.told()
    with pytest.raises(
        NotFifo, match="links by priority: the recurrence knows FIFO lanes only, use the engine event or des"
    ):
        recurrence.simulate(*job, Modes("priority"))
    assert recurrence.simulate(*job, FIFO).makespan_s == 1.0


def test_only_fetches_on_a_link_are_cut() -> None:
    recorder = Recorder()
    for lane, kind, n_bytes in [
        (Lane.H2D, OpKind.FETCH, 100), (Lane.D2H, OpKind.FETCH, 101), (Lane.H2D, OpKind.FETCH, 0),
        (Lane.H2D, OpKind.STAGE, 100), (Lane.D2H, OpKind.READBACK, 100), (Lane.DISK, OpKind.FETCH, 100),
    ]:  # fmt: skip
        recorder.issue(lane, Work(kind, copy_bytes=n_bytes), step=0)
    schedule = recorder.schedule()
    assert chunks(schedule, Modes(chunk_bytes=50)).tolist() == [2, 3, 1, 1, 1, 1]
    assert chunks(schedule, Modes(chunk_bytes=1 << 40)).tolist() == [1] * 6
    assert chunks(schedule, FIFO).tolist() == [1] * 6


def test_chunks_beyond_reason_are_refused() -> None:
    story = Story()
    story.op(Lane.H2D, 1.0, n_bytes=MAX_CHUNKS + 1)
    with pytest.raises(InvalidInput, match=f"chunk_bytes = 1: {MAX_CHUNKS + 1} chunks a copy, at most {MAX_CHUNKS}"):
        event_engine.simulate(*story.told(), Modes(chunk_bytes=1))


@pytest.mark.parametrize(
    ("demands", "level"),
    [
        ([], math.inf),
        ([0.0, 0.0], math.inf),
        ([0.5, 0.5], math.inf),
        ([0.6, 0.3], math.inf),
        ([1.0, 1.0], 0.5),
        ([1.0, 0.2], 0.8),
        ([0.9, 0.9, 0.1, 0.0], 0.45),
        ([0.2, 0.3, 2.0, 3.0], 0.8 / 3),  # a quarter serves the first only; the three others share what it leaves
    ],
)
def test_max_min_level(demands: list[float], level: float) -> None:
    """Bertsekas and Gallager, Data Networks, section 6.5.2: who asks for less gets it, the others the rest alike."""
    assert max_min_level(demands) == pytest.approx(level, rel=1e-15)
    shares = [min(demand, max_min_level(demands)) for demand in demands]
    assert sum(shares) == pytest.approx(min(1.0, sum(demands)), rel=1e-15)


@on_both
def test_an_op_whose_canceller_ends_as_it_would_start_is_cancelled(engine: Engine) -> None:
    """The copy waits for the kernel; the gate ends with the kernel, and makes the copy pointless."""
    story = Story()
    kernel, gate = story.op(Lane.COMPUTE, 2.0), story.op(Lane.CPU, 2.0)
    copy = story.op(Lane.H2D, 5.0, after=(kernel,), by=gate)
    timeline = engine(*story.told(), Modes(cancel=True))
    assert (timeline.start_s[copy], timeline.end_s[copy]) == (2.0, 2.0)


@on_both
def test_an_op_that_started_before_its_canceller_ended_runs_on(engine: Engine) -> None:
    story = Story()
    gate = story.op(Lane.COMPUTE, 2.0)
    copy = story.op(Lane.H2D, 5.0, by=gate)
    timeline = engine(*story.told(), Modes(cancel=True))
    assert (timeline.start_s[copy], timeline.end_s[copy]) == (0.0, 5.0)


@on_both
@pytest.mark.parametrize("link", ["fifo", "shared", "priority"])
def test_a_cancelled_op_still_waits_for_its_issue_and_its_dependencies(engine: Engine, link: str) -> None:
    story = Story()
    gate, kernel = story.op(Lane.CPU, 1.0), story.op(Lane.COMPUTE, 4.0)
    late = story.op(Lane.H2D, 5.0, after=(kernel,), by=gate)
    issued_late = story.op(Lane.H2D, 5.0, issue_s=2.0, by=gate)
    timeline = engine(*story.told(), Modes(link, cancel=True))  # type: ignore[arg-type]
    assert (timeline.start_s[late], timeline.end_s[late]) == (4.0, 4.0)
    assert (timeline.start_s[issued_late], timeline.end_s[issued_late]) == (2.0, 2.0)


@on_both
def test_fifo_successors_pass_a_cancelled_op_by(engine: Engine) -> None:
    """The first copy waits until 4 s; known at 1 s to be pointless, it no longer blocks the second."""
    story = Story()
    gate, kernel = story.op(Lane.CPU, 1.0), story.op(Lane.COMPUTE, 4.0)
    story.op(Lane.H2D, 5.0, after=(kernel,), by=gate)
    second = story.op(Lane.H2D, 0.5)
    job = story.told()
    assert engine(*job, Modes(cancel=True)).start_s[second] == 1.0
    assert engine(*job, Modes(hbm_shared=True)).start_s[second] == 9.0


@on_both
def test_the_host_passes_its_own_cancelled_op_by(engine: Engine) -> None:
    story = Story()
    gate, kernel = story.op(Lane.CPU, 1.0), story.op(Lane.COMPUTE, 4.0)
    wait = story.op(Lane.HOST, 3.0, after=(kernel,), by=gate)
    following = story.op(Lane.CPU, 1.0)
    timeline = engine(*story.told(), Modes(cancel=True))
    assert (timeline.start_s[wait], timeline.end_s[wait]) == (4.0, 4.0)
    assert timeline.start_s[following] == 1.0


@on_both
def test_a_cancelled_op_cancels_in_turn(engine: Engine) -> None:
    """What is dropped has ended, for those who wait for it and for what it makes pointless."""
    story = Story()
    gate = story.op(Lane.CPU, 1.0)
    story.op(Lane.H2D, 3.0)
    first = story.op(Lane.H2D, 5.0, by=gate)
    second = story.op(Lane.H2D, 5.0, by=first)
    kernel = story.op(Lane.COMPUTE, 1.0, after=(second,))
    timeline = engine(*story.told(), Modes(cancel=True))
    assert timeline.end_s[[first, second]].tolist() == [1.0, 1.0]
    assert timeline.start_s[kernel] == 1.0


@on_both
def test_the_lowest_lane_chooses_first_and_all_is_settled_before_the_next(engine: Engine) -> None:
    """The disk's op of no time cancels both others at 0 s: the link has chosen before, the CPU has not."""
    story = Story()
    copy, on_cpu = story.op(Lane.H2D, 1.0), story.op(Lane.CPU, 1.0)
    gate = story.op(Lane.DISK, 0.0)
    story.recorder.cancel(copy, gate)
    story.recorder.cancel(on_cpu, gate)
    timeline = engine(*story.told(), Modes(cancel=True))
    assert timeline.end_s.tolist() == [1.0, 0.0, 0.0]


@on_both
def test_an_op_that_cannot_start_blocks_nobody_on_a_link_by_priority(engine: Engine) -> None:
    story = Story()
    kernel = story.op(Lane.COMPUTE, 2.0)
    waits = story.op(Lane.H2D, 1.0, after=(kernel,), priority=0)
    free = story.op(Lane.H2D, 3.0, priority=1)
    job = story.told()
    assert engine(*job, Modes("priority")).start_s[[waits, free]].tolist() == [3.0, 0.0]
    assert engine(*job, Modes(hbm_shared=True)).start_s[[waits, free]].tolist() == [2.0, 3.0]


@on_both
def test_another_copy_may_go_between_two_chunks(engine: Engine) -> None:
    """A bulk copy of four chunks, issued first, and two urgent ones that come during its first chunk."""
    story = Story()
    bulk = story.op(Lane.H2D, 4.0, priority=1, n_bytes=4)
    urgent = [story.op(Lane.H2D, 1.0, issue_s=0.25, n_bytes=1) for _ in range(2)]
    timeline = engine(*story.told(), Modes("priority", chunk_bytes=1))
    assert timeline.start_s.tolist() == [0.0, 1.0, 2.0]
    assert timeline.end_s[urgent].tolist() == [2.0, 3.0]
    assert timeline.end_s[bulk] == 6.0


@on_both
def test_what_waits_between_two_chunks_ends_when_it_is_cancelled(engine: Engine) -> None:
    """The bulk copy has moved one chunk of four; the urgent one has the link from 1 to 4 s, the gate ends at 2 s."""
    story = Story()
    gate = story.op(Lane.CPU, 2.0)
    bulk = story.op(Lane.H2D, 4.0, priority=1, n_bytes=4, by=gate)
    urgent = story.op(Lane.H2D, 3.0, issue_s=0.25, n_bytes=1)
    timeline = engine(*story.told(), Modes("priority", chunk_bytes=1, cancel=True))
    assert (timeline.start_s[bulk], timeline.end_s[bulk]) == (0.0, 2.0)
    assert (timeline.start_s[urgent], timeline.end_s[urgent]) == (1.0, 4.0)


@on_both
@pytest.mark.parametrize("link", ["fifo", "priority"])
def test_what_is_in_service_ends_with_its_chunk_when_it_is_cancelled(engine: Engine, link: str) -> None:
    story = Story()
    gate = story.op(Lane.CPU, 1.5)
    copy = story.op(Lane.H2D, 4.0, n_bytes=4, by=gate)
    timeline = engine(*story.told(), Modes(link, chunk_bytes=1, cancel=True))  # type: ignore[arg-type]
    assert (timeline.start_s[copy], timeline.end_s[copy]) == (0.0, 2.0)


@on_both
def test_a_shared_copy_under_way_is_not_cut_short(engine: Engine) -> None:
    """Its chunks overlap those of others: there is nothing between two of them."""
    story = Story()
    gate = story.op(Lane.CPU, 1.5)
    copy = story.op(Lane.H2D, 4.0, n_bytes=4, by=gate)
    assert engine(*story.told(), Modes("shared", chunk_bytes=1, cancel=True)).end_s[copy] == 4.0


def test_what_shares_is_summed_in_the_order_of_the_ops_whenever_it_began() -> None:
    """To the last bit: the kernel, an earlier op than both copies, begins after them and leaves .28 of HBM less."""
    story = Story()
    first = story.op(Lane.CPU, 1.0)
    story.op(Lane.COMPUTE, 3.0, after=(first,))
    story.op(Lane.H2D, 3.0, n_bytes=1)
    story.op(Lane.D2H, 3.0, n_bytes=1)
    schedule, costs = story.told()
    costs = dataclasses.replace(costs, hbm_s=costs.duration_s * (0.0, 0.28, 0.29, 0.75))
    ends_s = [engine(schedule, costs, Modes(hbm_shared=True)).end_s.tolist() for engine in ENGINES]
    assert ends_s[0] == ends_s[1]
    assert ends_s[0][3] > 3.0, "nothing was shared"


@pytest.mark.parametrize("modes", [FIFO, Modes("shared"), Modes("priority", 1, hbm_shared=True, cancel=True)])
def test_hbm_is_never_overdrawn_in_any_mode(modes: Modes) -> None:
    story = Story()
    copy = story.op(Lane.H2D, 1.0, acquired=60)
    story.op(Lane.COMPUTE, 1.0, after=(copy,), released=60)
    story.op(Lane.H2D, 1.0, acquired=60)
    schedule, costs = story.told()
    assert des.simulate(schedule, costs, 120, modes).peak_hbm_bytes == 120
    with pytest.raises(CapacityExceeded, match="takes 60 bytes of HBM, 60 of 119 are in use"):
        des.simulate(schedule, costs, 119, modes)


def test_a_cancelled_copy_takes_and_gives_back_hbm_as_any_other() -> None:
    story = Story()
    gate = story.op(Lane.CPU, 1.0)
    story.op(Lane.H2D, 3.0)
    copy = story.op(Lane.H2D, 3.0, by=gate, acquired=60, released=20)
    schedule, costs = story.told()
    timeline = des.simulate(schedule, costs, 60, Modes(cancel=True))
    assert timeline.start_s[copy] == timeline.end_s[copy] == 1.0
    with pytest.raises(CapacityExceeded, match="op 2 takes 60 bytes of HBM, 0 of 59 are in use"):
        des.simulate(schedule, costs, 59, Modes(cancel=True))


@pytest.mark.parametrize("modes", [FIFO, Modes("shared", hbm_shared=True)])
def test_the_event_engine_refuses_times_that_are_not(modes: Modes) -> None:
    story = Story()
    story.op(Lane.COMPUTE, 1.0)
    schedule, _ = story.told()
    for bad in ([], [1.0, 2.0], [-1.0], [np.nan], [np.inf]):
        for issue_s, duration_s in (([0.0], bad), (bad, [0.0])):
            with pytest.raises(InvalidInput, match=r"issue_s|duration_s"):
                event_engine.simulate(schedule, Costs(np.array(issue_s), np.array(duration_s)), modes)


def test_what_was_prepared_of_another_schedule_is_refused() -> None:
    story, longer = Story(), Story()
    story.op(Lane.COMPUTE, 1.0)
    for _ in range(2):
        longer.op(Lane.COMPUTE, 1.0)
    prepared, (schedule, costs) = event_engine.prepare(story.told()[0]), longer.told()
    with pytest.raises(InvalidInput, match=f"not {schedule.digest}: prepare this one"):
        event_engine.simulate(schedule, costs, FIFO, prepared)


@on_both
@pytest.mark.parametrize("modes", [FIFO, Modes("shared", 1, True, True)])
def test_nothing_to_do_ends_at_once_in_any_mode(engine: Engine, modes: Modes) -> None:
    assert engine(*Story().told(), modes).makespan_s == 0.0


@pytest.mark.parametrize(
    ("policy", "link", "chunk_bytes", "cancel"),
    one_in(
        3, ["prefetch_all", "pregate(2)", "on_demand"], ["fifo", "shared", "priority"], [None, 1 << 20], [False, True]
    ),
)
def test_no_link_carries_more_than_it_can(policy: str, link: Link, chunk_bytes: int | None, cancel: bool) -> None:
    """Bytes over time are at most the rate of the link in every mode; what was cancelled did not cross it."""
    hw, model = pregate.load_hardware("a100-sxm4-80gb"), pregate.load_model("switch-base-8")
    trace = pregate.synthesize(model, 4, 4)
    modes = Modes(link=link, chunk_bytes=chunk_bytes, cancel=cancel)
    by_event, by_definition = (
        pregate.simulate(model, hw, trace, policy, engine=engine, modes=modes) for engine in ("event", "des")
    )
    assert by_event.h2d_bytes == by_definition.h2d_bytes
    assert by_event.h2d_bytes / by_event.makespan_s <= hw.machine.link.h2d_bytes_per_s
    assert 0 <= by_event.exposed_transfer_fraction <= 1
    needed = pregate.simulate(model, hw, trace, "on_demand").h2d_bytes
    whole = pregate.simulate(model, hw, trace, policy).h2d_bytes
    assert needed <= by_event.h2d_bytes <= whole
    assert cancel or by_event.h2d_bytes == whole
