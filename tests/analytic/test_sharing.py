"""Modes beyond FIFO against answers known beforehand, on SimPy and on the event engine."""

from __future__ import annotations

import numpy as np
import pytest

from hwmodels.cost import Costs, price
from hwmodels.platform import load_platform
from offload.ops import Lane, OpKind, Work
from offload.recorder import Recorder
from offload.schedule import Schedule
from simulator.modes import LINKS, Modes
from simulator.resources import RESOURCES, Resource
from tests.engines import ENGINES, Engine
from traces.errors import InvalidInput

COPY, KERNEL = Work(OpKind.FETCH, copy_bytes=100), Work(OpKind.EXPERTS, flop=1)


def of_works(schedule: Schedule, **by_work: dict[Work, float]) -> Costs:
    """Costs by name and work, 0 where none is said."""
    columns = {
        name: np.array([by_work.get(name, {}).get(work, 0.0) for work in schedule.works])
        for name in ("issue_s", "duration_s", "link_s", "hbm_s", "crossed_s")
    }
    for name in ("contended", "beside_copies"):
        columns[name] = np.array([by_work.get(name, {}).get(work, 1.0) for work in schedule.works])
    columns["crossed_s"] = np.maximum(columns["crossed_s"], columns["link_s"])
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


@pytest.mark.parametrize("engine", ENGINES)
def test_copies_both_ways_slow_each_other_down_only_while_both_move_bytes(engine: Engine) -> None:
    """2 s to the device beside 1 s back, each at half its rate while both run: back ends at 2 s, when half of the other
    is done; that goes on alone and ends at 3. Without the mode each takes its own time, as does what is only latency.
    """
    back = Work(OpKind.READBACK, copy_bytes=1)
    recorder = copies(1)
    recorder.issue(Lane.D2H, back, step=0)
    schedule = recorder.schedule()
    costs = of_works(
        schedule, duration_s={COPY: 2.0, back: 1.0}, link_s={COPY: 2.0, back: 1.0}, crossed_s={COPY: 4.0, back: 2.0}
    )
    assert engine(schedule, costs, Modes(both_ways=True)).end_s == pytest.approx([3.0, 2.0], rel=1e-12)
    assert engine(schedule, costs, Modes()).end_s.tolist() == [2.0, 1.0]
    late = of_works(
        schedule, duration_s={COPY: 2.0, back: 3.0}, link_s={COPY: 2.0, back: 1.0}, crossed_s={COPY: 4.0, back: 2.0}
    )
    assert engine(schedule, late, Modes(both_ways=True)).end_s == pytest.approx([2.0, 3.0], rel=1e-12)


@pytest.mark.parametrize("engine", ENGINES)
def test_copies_both_ways_under_one_cap_move_what_it_allows(engine: Engine) -> None:
    """Both directions busy all the while: bytes over time are the cap of the link, whatever each does alone."""
    hw = load_platform("rtx-5090", "streams", {"link.copy_latency_s": 0.0})
    here, back = Work(OpKind.FETCH, copy_bytes=1 << 28), Work(OpKind.READBACK, copy_bytes=1 << 28)
    recorder = Recorder()
    for _ in range(4):
        recorder.issue(Lane.H2D, here, step=0)
        recorder.issue(Lane.D2H, back, step=0)
    schedule = recorder.schedule()
    costs = price(schedule.works, hw)
    timeline = engine(schedule, costs, Modes(both_ways=True))
    first_end_s = min(timeline.end_s[-2:])
    rates = [(1 << 28) / float(costs.crossed_s[schedule.cost[i]]) for i in (0, 1)]
    assert sum(rates) == pytest.approx(hw.machine.link.both_ways_bytes_per_s, rel=1e-12)
    assert first_end_s == pytest.approx(4 * min(costs.crossed_s), rel=1e-3)


@pytest.mark.parametrize("engine", ENGINES)
def test_copies_and_the_processor_slow_each_other_down_while_both_read_host_memory(engine: Engine) -> None:
    """A copy, 1 s of latency and 2 s of transfer, beside 2 s of an expert. From 1 s on the copy keeps half of its rate
    and the expert a quarter: 1 s of it is left, which takes 4 s, until 5. By then all of the transfer is done: it ends
    at 5 exactly, and both with it. The next expert has the memory for itself.
    """
    expert, copy = Work(OpKind.CPU_EXPERT, flop=1), Work(OpKind.FETCH, copy_bytes=100)
    recorder = Recorder()
    recorder.issue(Lane.H2D, copy, step=0)
    for _ in range(2):
        recorder.issue(Lane.CPU, expert, step=0)
    schedule = recorder.schedule()
    costs = of_works(
        schedule, duration_s={copy: 3.0, expert: 2.0}, link_s={copy: 2.0}, contended={copy: 0.5, expert: 0.25}
    )
    shared = engine(schedule, costs, Modes(dram_shared=True))
    assert shared.end_s == pytest.approx([5.0, 5.0, 7.0], rel=1e-12)
    assert engine(schedule, costs, Modes()).end_s.tolist() == [3.0, 2.0, 4.0]
    assert engine(schedule, costs, Modes(both_ways=True)).end_s == pytest.approx([3.0, 2.0, 4.0], rel=1e-12)


@pytest.mark.parametrize("engine", ENGINES)
def test_kernels_take_longer_while_copies_are_under_way_and_copies_take_as_long_as_alone(engine: Engine) -> None:
    """A copy, 1 s of latency and 3 s of transfer, beside kernels of 2 s that take 4 s beside copies. The first does 1 s
    of its 2 before the transfer begins, the other in 2 s, until 3. The second does half a second until the copy has
    ended, at 4, and the rest at its full rate, until 5.5. A readback beside neither slows nor is slowed.
    """
    back = Work(OpKind.READBACK, copy_bytes=1)
    recorder = Recorder()
    recorder.issue(Lane.H2D, COPY, step=0)
    for _ in range(2):
        recorder.issue(Lane.COMPUTE, KERNEL, step=0)
    recorder.issue(Lane.D2H, back, step=0)
    schedule = recorder.schedule()
    costs = of_works(
        schedule, duration_s={COPY: 4.0, KERNEL: 2.0, back: 1.0}, link_s={COPY: 3.0, back: 1.0},
        beside_copies={KERNEL: 0.5},
    )  # fmt: skip
    assert engine(schedule, costs, Modes(beside_copies=True)).end_s == pytest.approx([4.0, 3.0, 5.5, 1.0], rel=1e-12)
    assert engine(schedule, costs, Modes(dram_shared=True)).end_s == pytest.approx([4.0, 2.0, 4.0, 1.0], rel=1e-12)


@pytest.mark.parametrize("engine", ENGINES)
def test_what_reads_no_host_memory_is_not_slowed_by_who_does(engine: Engine) -> None:
    """Copies within HBM and back to the host beside an expert: each takes its own time."""
    expert, stage, back = (Work(kind, flop=1) for kind in (OpKind.CPU_EXPERT, OpKind.STAGE, OpKind.READBACK))
    recorder = Recorder()
    for lane, work in ((Lane.CPU, expert), (Lane.H2D, stage), (Lane.D2H, back)):
        recorder.issue(lane, work, step=0)
    schedule = recorder.schedule()
    costs = of_works(
        schedule, duration_s={expert: 2.0, stage: 1.0, back: 1.0}, link_s={back: 1.0},
        contended={expert: 0.5, stage: 0.5, back: 0.5},
    )  # fmt: skip
    assert engine(schedule, costs, Modes(dram_shared=True)).end_s.tolist() == [2.0, 1.0, 1.0]


@pytest.mark.parametrize("engine", ENGINES)
def test_what_the_host_computes_draws_no_hbm(engine: Engine) -> None:
    """An expert on the host that is said to have HBM traffic, beside a kernel that wants all of HBM."""
    expert = Work(OpKind.CPU_EXPERT, flop=1)
    recorder = Recorder()
    recorder.issue(Lane.CPU, expert, step=0)
    recorder.issue(Lane.COMPUTE, KERNEL, step=0)
    schedule = recorder.schedule()
    costs = of_works(schedule, duration_s={expert: 2.0, KERNEL: 2.0}, hbm_s={expert: 2.0, KERNEL: 2.0})
    assert engine(schedule, costs, Modes(hbm_shared=True, dram_shared=True)).end_s.tolist() == [2.0, 2.0]


@pytest.mark.parametrize("engine", ENGINES)
def test_a_resource_more_is_a_row(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """A switch that both links and a reading disk go through: each draws three quarters of it, so that three at once
    go at 4/9 of their rate and two at 2/3. 1 s back ends at 2.25 s, when the others have done 1 s: of 2 s, and of 3,
    of which the first then ends at 2.25 + 1.5 = 3.75, the second, 1 s later: 4.75.
    """
    switch = Resource(lambda modes: True, LINKS, (Lane.DISK,), lambda costs, alone_s: 0.75, True)
    monkeypatch.setitem(RESOURCES, "switch", switch)
    back, read = Work(OpKind.READBACK, copy_bytes=1), Work(OpKind.DISK_READ, copy_bytes=1)
    recorder = copies(1)
    recorder.issue(Lane.D2H, back, step=0)
    recorder.issue(Lane.DISK, read, step=0)
    schedule = recorder.schedule()
    costs = of_works(schedule, duration_s={COPY: 2.0, back: 1.0, read: 3.0}, link_s={COPY: 2.0, back: 1.0})
    assert engine(schedule, costs, Modes(hbm_shared=True)).end_s == pytest.approx([3.75, 2.25, 4.75], rel=1e-12)


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
