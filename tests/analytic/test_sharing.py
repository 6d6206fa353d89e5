"""Modes beyond FIFO against answers known beforehand, on SimPy and on the event engine."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from hwmodels.cost import Costs
from offload.ops import Lane, OpKind, Work
from offload.schedule import Recorder, Schedule
from offload.timeline import Timeline
from simulator import des, event
from simulator.modes import Modes
from traces.errors import InvalidInput

Engine = Callable[[Schedule, Costs, Modes], Timeline]
ENGINES: list[Engine] = [
    lambda schedule, costs, modes: des.simulate(schedule, costs, 1 << 50, modes),
    lambda schedule, costs, modes: event.simulate(schedule, costs, modes),
]
COPY, KERNEL = Work(OpKind.FETCH, copy_bytes=100), Work(OpKind.EXPERTS, flop=1)


def of_works(schedule: Schedule, **by_work: dict[Work, float]) -> Costs:
    """Costs by name and work, 0 where none is said."""
    columns = {
        name: np.array([by_work.get(name, {}).get(work, 0.0) for work in schedule.works])
        for name in ("issue_s", "duration_s", "link_s", "hbm_s")
    }
    return Costs(**columns)


def copies(n: int, priorities: tuple[int, ...] = ()) -> Recorder:
    recorder = Recorder()
    for i in range(n):
        recorder.issue(Lane.H2D, COPY, step=0, priority=priorities[i] if priorities else 0)
    return recorder


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("n", [1, 2, 5])
def test_equal_copies_that_share_a_link_all_end_at_the_sum(engine: Engine, n: int) -> None:
    """Processor sharing (Kleinrock, Queueing Systems II, 1976): n equal jobs at once end together, at n times one."""
    schedule = copies(n).schedule()
    costs = of_works(schedule, duration_s={COPY: 1.5}, link_s={COPY: 1.0})
    timeline = engine(schedule, costs, Modes(link="shared"))
    assert timeline.start_s.tolist() == [0.0] * n
    assert timeline.end_s == pytest.approx(0.5 + n, rel=1e-12)  # the latency is not shared


@pytest.mark.parametrize("engine", ENGINES)
def test_a_copy_that_comes_later_gets_half_from_then_on(engine: Engine) -> None:
    """Alone for 1 s of 3, then both at half rate: the first ends at 1 + 2 x 2 = 5, the second has 1 left, ends at 6."""
    schedule = copies(2).schedule()
    costs = of_works(schedule, issue_s={COPY: 1.0}, duration_s={COPY: 3.0}, link_s={COPY: 3.0})
    timeline = engine(schedule, costs, Modes(link="shared"))
    assert timeline.start_s.tolist() == [1.0, 2.0]
    assert timeline.end_s == pytest.approx([6.0, 7.0], rel=1e-12)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_shared_link_conserves_work(engine: Engine) -> None:
    """However copies come, a link that is never idle ends with the sum of its transfers, as a FIFO one would."""
    works = [Work(OpKind.FETCH, copy_bytes=i) for i in range(1, 7)]
    recorder = Recorder()
    for work in works:
        recorder.issue(Lane.H2D, work, step=0)
    schedule = recorder.schedule()
    transfer = {work: 0.3 * (i + 1) ** 1.5 for i, work in enumerate(works)}
    costs = of_works(schedule, issue_s=dict.fromkeys(works, 0.01), duration_s=transfer, link_s=transfer)
    shared, fifo = engine(schedule, costs, Modes(link="shared")), engine(schedule, costs, Modes())
    assert shared.makespan_s == pytest.approx(0.01 + sum(transfer.values()), rel=1e-12)
    assert shared.makespan_s == pytest.approx(fifo.makespan_s, rel=1e-12)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("n_chunks", [1, 4, 20])
def test_an_urgent_copy_waits_for_one_chunk_at_most(engine: Engine, n_chunks: int) -> None:
    """A bulk copy of 10 s; the urgent one is issued at 1 s and needs 2 s."""
    bulk, urgent = Work(OpKind.FETCH, copy_bytes=1000), Work(OpKind.FETCH, copy_bytes=1)
    recorder = Recorder()
    recorder.issue(Lane.H2D, bulk, step=0, priority=1)
    recorder.issue(Lane.H2D, urgent, step=0, priority=0)
    schedule = recorder.schedule()
    costs = of_works(schedule, issue_s={urgent: 1.0}, duration_s={bulk: 10.0, urgent: 2.0}, link_s={bulk: 10.0})
    modes = Modes(link="priority", chunk_bytes=1000 // n_chunks)
    timeline = engine(schedule, costs, modes)
    chunk_s = 10.0 / n_chunks
    began = np.ceil(1.0 / chunk_s) * chunk_s
    assert timeline.start_s[1] == pytest.approx(began, rel=1e-12)
    assert timeline.start_s[1] - 1.0 <= chunk_s
    assert timeline.end_s.tolist() == pytest.approx([12.0 if n_chunks > 1 else 10.0, began + 2.0], rel=1e-12)


@pytest.mark.parametrize("engine", ENGINES)
def test_the_lowest_priority_number_goes_first_then_issue_order(engine: Engine) -> None:
    schedule = copies(4, (2, 1, 2, 0)).schedule()
    costs = of_works(schedule, issue_s={COPY: 0.1}, duration_s={COPY: 1.0}, link_s={COPY: 1.0})
    timeline = engine(schedule, costs, Modes(link="priority"))
    assert np.argsort(timeline.start_s).tolist() == [0, 3, 1, 2]  # the first was alone when it started


@pytest.mark.parametrize("engine", ENGINES)
def test_every_chunk_pays_its_latency_and_its_issue(engine: Engine) -> None:
    schedule = copies(1).schedule()
    costs = of_works(schedule, issue_s={COPY: 0.25}, duration_s={COPY: 3.0}, link_s={COPY: 2.0})
    timeline = engine(schedule, costs, Modes(chunk_bytes=25))
    assert timeline.start_s.tolist() == [1.0]  # four issues
    assert timeline.end_s == pytest.approx(1.0 + 4 * 1.0 + 2.0, rel=1e-12)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(("chunk_bytes", "ends"), [(None, 12.0), (10, 6.0)])
def test_a_cancelled_copy_frees_the_link(engine: Engine, chunk_bytes: int | None, ends: float) -> None:
    """Known at 4.5 s to be pointless: whole, a copy of 10 s runs on; in chunks of 1 s it stops at 5, one waiting is
    dropped, and the needed copy of 1 s that came last runs at once.
    """
    host, needed = Work(OpKind.WAIT), Work(OpKind.FETCH, copy_bytes=1)
    recorder = copies(2)
    known = recorder.issue(Lane.HOST, host, step=0)
    recorder.issue(Lane.H2D, needed, step=0)
    for op in (0, 1):
        recorder.cancel(op, known)
    schedule = recorder.schedule()
    costs = of_works(schedule, duration_s={COPY: 10.0, host: 4.5, needed: 1.0}, link_s={COPY: 10.0, needed: 1.0})
    timeline = engine(schedule, costs, Modes(chunk_bytes=chunk_bytes, cancel=True))
    assert timeline.start_s[1] == timeline.end_s[1] == 4.5
    assert timeline.end_s[3] == pytest.approx(ends - (1.0 if chunk_bytes is None else 0.0), rel=1e-12)
    uncancelled = engine(schedule, costs, Modes(chunk_bytes=chunk_bytes))
    assert uncancelled.end_s[3] == pytest.approx(21.0, rel=1e-12)


@pytest.mark.parametrize("engine", ENGINES)
def test_hbm_is_divided_max_min_fair(engine: Engine) -> None:
    """A kernel that wants all of HBM and a copy that wants a fifth: the copy gets its fifth, the kernel four.

    The copy ends at 1 s as if alone, when the kernel has done 0.8 of its 2 s and goes on at full rate: 1 + 1.2.
    """
    recorder = copies(1)
    recorder.issue(Lane.COMPUTE, KERNEL, step=0)
    schedule = recorder.schedule()
    costs = of_works(schedule, duration_s={COPY: 1.0, KERNEL: 2.0}, link_s={COPY: 1.0}, hbm_s={COPY: 0.2, KERNEL: 2.0})
    timeline = engine(schedule, costs, Modes(hbm_shared=True))
    assert timeline.end_s == pytest.approx([1.0, 2.2], rel=1e-12)
    alone = engine(schedule, costs, Modes())
    assert alone.end_s.tolist() == [1.0, 2.0]


@pytest.mark.parametrize("engine", ENGINES)
def test_hbm_that_suffices_for_all_slows_nobody(engine: Engine) -> None:
    recorder = copies(1)
    recorder.issue(Lane.COMPUTE, KERNEL, step=0)
    schedule = recorder.schedule()
    costs = of_works(schedule, duration_s={COPY: 1.0, KERNEL: 2.0}, link_s={COPY: 1.0}, hbm_s={COPY: 0.4, KERNEL: 1.2})
    assert engine(schedule, costs, Modes(hbm_shared=True)).end_s == pytest.approx([1.0, 2.0], rel=1e-12)


def test_modes_that_cannot_be_are_refused() -> None:
    with pytest.raises(InvalidInput, match="'fair': it is one of fifo, shared, priority"):
        Modes(link="fair")  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="chunk_bytes = 0"):
        Modes(chunk_bytes=0)
    assert Modes().is_fifo
    assert not Modes(cancel=True).is_fifo
    assert Modes("shared", 4, True, True).describe() == (
        "links shared, copies in chunks of at most 4 bytes, HBM bandwidth shared, copies cancelled when pointless"
    )
