"""Of a schedule of few ops whose every start is known by hand: its path, its derivatives, what each figure does."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from hwmodels.cost import Costs, Parts, price_figures
from hwmodels.figures import MEMORY_FIGURES, Figures, figures_of
from hwmodels.platform import load_platform
from offload.metrics.metric_probes import Probes, no_probes
from offload.ops import Lane, OpKind, Work
from offload.recorder import Recorder
from simulator.explain import attribution, critical_path
from simulator.explain.attribution import CLASSES, partition
from simulator.explain.critical_path import ExplainedRun, gradient, pulled_back, slot_edges, walk
from simulator.explain.sensitivity import Weights, elasticities, metric_weights
from traces.errors import InvalidInput, UnknownName

ISSUE_S = {OpKind.GATE: 0.25, OpKind.FETCH: 0.5, OpKind.EXPERTS: 0.25, OpKind.HEAD: 0.25, OpKind.READBACK: 0.25}
DURATION_S = {
    OpKind.STEP: 1.0, OpKind.GATE: 2.0, OpKind.FETCH: 4.0, OpKind.EXPERTS: 1.0, OpKind.WAIT: 0.5, OpKind.HEAD: 1.0,
    OpKind.READBACK: 0.5,
}  # fmt: skip


def run(*, last_step: bool = False) -> ExplainedRun:
    """A step 0-1, a gate issued until 1.25, a fetch until 1.75 that runs until 5.75, experts until 6.75, a wait for
    them until 7.25, a head issued until 7.5 that runs until 8.5, its ids back until 9, and a gate behind the head until
    10.5; or for it, issued until 8, a step of the host from 8 to 9, and one more until 10.
    """
    recorder = Recorder()

    def op(lane: Lane, kind: OpKind, *deps: int) -> int:
        return recorder.issue(lane, Work(kind), deps, step=0)

    op(Lane.HOST, OpKind.STEP)
    op(Lane.COMPUTE, OpKind.GATE)
    fetch = op(Lane.H2D, OpKind.FETCH)
    experts = op(Lane.COMPUTE, OpKind.EXPERTS, fetch)
    op(Lane.HOST, OpKind.WAIT, experts)
    head = op(Lane.COMPUTE, OpKind.HEAD)
    op(Lane.D2H, OpKind.READBACK, head)
    if last_step:
        op(Lane.COMPUTE, OpKind.READBACK)  # half a second, until 9
        op(Lane.HOST, OpKind.STEP)
        op(Lane.HOST, OpKind.STEP)
    else:
        op(Lane.COMPUTE, OpKind.GATE)
    schedule = recorder.schedule()
    kinds = [work.kind for work in schedule.works]
    issue, duration = (np.array([of.get(kind, 0.0) for kind in kinds]) for of in (ISSUE_S, DURATION_S))
    return walk(schedule, Costs(issue, duration))


def test_every_start_is_known_and_what_it_waited_for() -> None:
    found = run()
    assert found.timeline.start_s.tolist() == [0, 1.25, 1.75, 5.75, 6.75, 7.5, 8.5, 8.5]
    assert found.timeline.end_s.tolist() == [1, 3.25, 5.75, 6.75, 7.25, 8.5, 9, 10.5]
    assert found.bound_by.tolist() == [-2, -2, -2, 2, 3, -2, 5, 5]
    assert found.host_s.tolist() == [1, 1.25, 1.75, 2, 7.25, 7.5, 7.75, 8]
    assert found.slotless_s().tolist() == found.timeline.start_s.tolist()
    assert found.timeline.source == "recurrence"


def test_the_path_is_ops_and_their_issues_in_order() -> None:
    path = attribution.critical_path(run())
    assert path.op.tolist() == [0, 1, 2, 2, 3, 4, 5, 5, 7]
    assert path.issuing.tolist() == [False, True, True, False, False, False, True, False, False]
    assert path.begin_s.tolist() == [0, 1, 1.25, 1.75, 5.75, 6.75, 7.25, 7.5, 8.5]
    assert path.end_s.tolist() == [1, 1.25, 1.75, 5.75, 6.75, 7.25, 7.5, 8.5, 10.5]
    assert path.slot_s.tolist() == [0.0] * 9


def test_a_path_goes_back_along_the_host_from_one_of_its_ops_to_the_other() -> None:
    """The last step waited for the one before, and that for the issue of three ops behind the wait."""
    path = attribution.critical_path(run(last_step=True))
    assert path.op.tolist() == [0, 1, 2, 2, 3, 4, 5, 6, 7, 8, 9]
    assert path.issuing.tolist() == [False, True, True, False, False, False, True, True, True, False, False]
    assert path.end_s.tolist() == [1, 1.25, 1.75, 5.75, 6.75, 7.25, 7.5, 7.75, 8, 9, 10]


def test_a_path_may_begin_with_the_issue_of_the_first_op() -> None:
    recorder = Recorder()
    for lane, kind in ((Lane.COMPUTE, OpKind.GATE), (Lane.HOST, OpKind.WAIT), (Lane.HOST, OpKind.WAIT)):
        recorder.issue(lane, Work(kind), step=0)
    found = walk(recorder.schedule(), Costs(np.array([0.25, 0.0]), np.array([3.0, 0.5])))
    path = attribution.critical_path(found)
    assert (path.op.tolist(), path.issuing.tolist()) == ([0, 0], [True, False])
    assert (path.begin_s.tolist(), path.end_s.tolist()) == ([0, 0.25], [0.25, 3.25])
    assert found.slotless_s().tolist() == found.timeline.start_s.tolist() == [0.25, 0.25, 0.75]


def test_of_ops_that_end_last_the_first_counts() -> None:
    recorder = Recorder()
    for lane, kind in ((Lane.COMPUTE, OpKind.GATE), (Lane.H2D, OpKind.FETCH)):
        recorder.issue(lane, Work(kind), step=0)
    found = walk(recorder.schedule(), Costs(np.zeros(2), np.array([3.0, 3.0])))
    assert attribution.critical_path(found).op.tolist() == [0]
    timeline = found.timeline
    assert metric_weights(timeline, no_probes(timeline.schedule), "makespan_s").end.tolist() == [1, 0]


@pytest.mark.parametrize("small", [True, False, None])
def test_derivatives_by_every_cost_are_those_of_the_path(small: bool | None) -> None:
    """Rows: step, gate, fetch, experts, wait, head, ids. The last gate runs, the first is only issued."""
    found = run()
    schedule = found.timeline.schedule
    last = np.zeros(8)
    last[7] = 1.0
    by = pulled_back(schedule.lane, schedule.cost, found.bound_by, np.zeros(8), last, 7, small=small)
    assert by.duration_s.tolist() == [1, 1, 1, 1, 1, 1, 0]
    assert by.issue_s.tolist() == [0, 1, 1, 0, 0, 1, 0]
    again = gradient(found, np.zeros(8), last)
    assert (again.issue_s.tolist(), again.duration_s.tolist()) == (by.issue_s.tolist(), by.duration_s.tolist())


@pytest.mark.parametrize("small", [True, False])
def test_weights_of_starts_count_for_what_came_before(small: bool) -> None:
    """3 x the end of the ids back, 7 x that of the wait, 5 x its start, less 2 x that of the experts."""
    found = run()
    schedule = found.timeline.schedule
    start, end = np.zeros(8), np.zeros(8)
    end[6], end[4], start[3], start[4] = 3.0, 7.0, -2.0, 5.0
    by = pulled_back(schedule.lane, schedule.cost, found.bound_by, start, end, 7, small=small)
    # 3 for the head's and the ids' own time, 7 more for the wait's, 5 more for the experts', 2 less for all before them
    assert by.duration_s.tolist() == [13, 0, 13, 15, 10, 3, 3]
    assert by.issue_s.tolist() == [0, 13, 13, 0, 0, 3, 0]
    assert end.tolist() == [0, 0, 0, 0, 7, 0, 3, 0]  # as it was given


def test_what_was_bound_before_a_part_begins_ends_the_path() -> None:
    for small in (True, False):
        by = pulled_back(
            np.array([1, 1], np.int8), np.array([0, 1], np.int32), np.array([-1, 0]), np.array([1.0, 0.0]),
            np.array([0.0, 1.0]), 2, small=small,
        )  # fmt: skip
        assert (by.duration_s.tolist(), by.issue_s.tolist()) == ([1, 1], [0, 0])


def test_whole_weights_of_ends_do_not_round_those_of_starts() -> None:
    lane, bound = np.array([1, 2], np.int8), np.array([-1, 0])
    for small in (True, False):
        by = pulled_back(
            lane, np.array([0, 1], np.int32), bound, np.array([0.0, 0.5]), np.array([1, 2]), 2, small=small
        )  # fmt: skip
        assert by.duration_s.tolist() == [3.5, 2]


def test_what_is_small_is_asked_of_the_number_of_ops(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(critical_path, "is_small", lambda *given: asked.append(given) or True)
    gradient(run(), np.zeros(8), np.zeros(8))
    assert asked == [(8, critical_path.SMALL_OPS, critical_path.REVERSE)]


def test_weights_have_an_entry_an_op() -> None:
    for weights in ((np.zeros(7), np.zeros(8)), (np.zeros(8), np.zeros(9)), (np.zeros((8, 1)), np.zeros(8))):
        with pytest.raises(InvalidInput, match=r"weights have shape .*, the schedule has 8 ops"):
            gradient(run(), *weights)


def test_a_copy_could_start_when_its_lane_the_host_and_its_own_expert_let_it() -> None:
    """A read 0-1, its copy 1-3; a second read waits for that copy's buffer, and its copy for the first one's reader."""
    recorder = Recorder()

    def op(lane: Lane, kind: OpKind, *deps: int, expert: int = -1, slot: int = -1) -> int:
        return recorder.issue(lane, Work(kind), deps, step=0, layer=0, expert=expert, slot=slot)

    read = op(Lane.DISK, OpKind.DISK_READ, expert=1)
    fetch = op(Lane.H2D, OpKind.FETCH, read, expert=1, slot=0)
    experts = op(Lane.COMPUTE, OpKind.EXPERTS, fetch)
    other = op(Lane.DISK, OpKind.DISK_READ, fetch, expert=2)
    op(Lane.H2D, OpKind.FETCH, other, experts, expert=2, slot=0)
    op(Lane.HOST, OpKind.WAIT, experts)
    op(Lane.HOST, OpKind.WAIT)
    op(Lane.COMPUTE, OpKind.GATE)
    schedule = recorder.schedule()
    duration = {OpKind.DISK_READ: 1.0, OpKind.FETCH: 2.0, OpKind.EXPERTS: 4.0, OpKind.WAIT: 0.5, OpKind.GATE: 1.0}
    kinds = [work.kind for work in schedule.works]
    found = walk(schedule, Costs(np.full(len(kinds), 0.125), np.array([duration[kind] for kind in kinds])))
    assert slot_edges(schedule).tolist() == [False, False, True, False, True, False]
    starts = [0.125, 1.125, 3.125, 3.125, 7.125, 7.125, 7.625, 8.25]
    assert found.timeline.start_s.tolist() == starts
    without = [*starts[:3], 1.125, 4.125, *starts[5:]]  # behind the read before it, and its own
    assert found.slotless_s().tolist() == without


def with_parts(monkeypatch: pytest.MonkeyPatch, parts: dict[OpKind, Parts]) -> Figures:
    """Figures by which works split so; they are those of the works of the schedule."""
    monkeypatch.setattr(attribution, "parts_of", lambda work, figures: parts[work.kind] if figures == "them" else None)
    given: Any = SimpleNamespace(for_works=lambda works: "them" if len(works) == 7 else None)
    return given


def test_seconds_of_the_path_by_what_they_are_spent_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the makespan of 10.5 s a second is the issue of ops on the path."""
    parts = {
        OpKind.STEP: Parts(1.0), OpKind.GATE: Parts(0.5, compute_s=1.0, hbm_s=0.5),
        OpKind.FETCH: Parts(1.0, link_s=3.0),
        OpKind.EXPERTS: Parts(0.0, compute_s=0.25, hbm_s=0.75), OpKind.WAIT: Parts(0.5), OpKind.HEAD: Parts(1.0),
        OpKind.READBACK: Parts(0.5),
    }  # fmt: skip
    assert partition(run(), with_parts(monkeypatch, parts)) == {
        "compute": 1.25, "kernel": 1.5, "hbm": 1.25, "h2d": 4.0, "disk": 0.0, "cpu": 0.0, "host": 2.0, "sync": 0.5,
        "slot": 0.0,
    }  # fmt: skip


def test_an_op_that_takes_no_time_is_spent_on_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    nothing = dict.fromkeys(DURATION_S, Parts())
    found = partition(run(), with_parts(monkeypatch, nothing))
    assert found == dict.fromkeys(CLASSES, 0.0) | {"host": 1.0}


def test_waits_for_slots_are_apart_and_the_rest_is_split_as_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """Experts 0-5, a fetch into their slot 5-7 that could have been at 2: 3 s of the experts' 5 are a wait."""
    recorder = Recorder()
    experts = recorder.issue(Lane.COMPUTE, Work(OpKind.EXPERTS), step=0, layer=0)
    recorder.issue(Lane.H2D, Work(OpKind.FETCH), step=0, layer=1, expert=2, slot=1)
    recorder.issue(Lane.H2D, Work(OpKind.FETCH), (experts,), step=0, layer=1, expert=3, slot=0)
    schedule = recorder.schedule()
    found = walk(schedule, Costs(np.zeros(2), np.array([5.0, 2.0])))
    parts = {OpKind.EXPERTS: Parts(1.0, compute_s=4.0), OpKind.FETCH: Parts(2.0)}
    monkeypatch.setattr(attribution, "parts_of", lambda work, _: parts[work.kind])
    figures: Any = SimpleNamespace(for_works=lambda works: None)
    seconds = partition(found, figures)
    assert seconds == pytest.approx(
        dict.fromkeys(CLASSES, 0.0) | {"kernel": 0.4, "compute": 1.6, "h2d": 2.0, "slot": 3.0}
    )


PROBED = {"layer_first": [1, 3], "layer_last": [3, 5], "step_ends": [0, 4, 7], "gap_from": [0, 1], "gap_to": [1, 2]}


def probes(found: ExplainedRun, **changes: list[int]) -> Probes:
    arrays = {name: np.array(places, np.int64) for name, places in (PROBED | changes).items()}
    return Probes(found.timeline.schedule, **arrays, moving=np.zeros(0, np.int64))


@pytest.mark.parametrize(
    ("metric", "start", "end", "value"),
    [
        ("makespan_s", {}, {7: 1.0}, 10.5),
        ("tokens_per_s", {}, {7: 1.0}, 10.5),
        ("ttft_s", {}, {0: 1.0}, 1.0),
        ("tpot_s", {}, {0: -0.5, 7: 0.5}, (10.5 - 1) / 2),
        ("moe_layer_latency_s", {1: -0.5, 3: -0.5}, {3: 0.5, 5: 0.5}, (6.75 - 1.25 + 8.5 - 5.75) / 2),
    ],
)
def test_a_metric_is_a_weighted_sum_of_starts_and_ends(
    metric: str, start: dict[int, float], end: dict[int, float], value: float
) -> None:
    found = run()
    weights = metric_weights(found.timeline, probes(found), metric)
    for mine, wanted in ((weights.start, start), (weights.end, end)):
        assert mine.tolist() == [wanted.get(i, 0.0) for i in range(8)]
    assert weights.value(found.timeline) == value


def test_one_gap_and_one_layer_count_whole() -> None:
    found = run()
    one = probes(found, gap_from=[0], gap_to=[2], layer_first=[1], layer_last=[5])
    assert metric_weights(found.timeline, one, "tpot_s").value(found.timeline) == 10.5 - 1
    assert metric_weights(found.timeline, one, "moe_layer_latency_s").value(found.timeline) == 8.5 - 1.25
    with pytest.raises(UnknownName, match="unknown metric 'latency'"):
        metric_weights(found.timeline, probes(found), "latency")


def test_where_there_is_nothing_to_measure_all_weights_are_0() -> None:
    found = run()
    for metric, changes in (
        ("tpot_s", {"gap_from": [], "gap_to": []}),
        ("moe_layer_latency_s", {"layer_first": [], "layer_last": []}),
        ("ttft_s", {"step_ends": []}),
    ):
        weights = metric_weights(found.timeline, probes(found, **changes), metric)
        assert not np.any(weights.start)
        assert not np.any(weights.end)
    empty = walk(Recorder().schedule(), Costs(np.zeros(0), np.zeros(0)))
    nothing = metric_weights(empty.timeline, no_probes(empty.timeline.schedule), "makespan_s")
    assert nothing.value(empty.timeline) == 0
    path = attribution.critical_path(empty)
    columns = [getattr(path, field.name) for field in dataclasses.fields(path)]
    assert [(column.dtype, column.size) for column in columns] == [(np.int64, 0), (np.bool_, 0), *[(np.float64, 0)] * 3]


HW = load_platform("a100-sxm4-80gb", "streams")
FETCH = Work(OpKind.FETCH, copy_bytes=10_000_000)
READBACK = Work(OpKind.READBACK, copy_bytes=1_000_000)


def copies() -> tuple[ExplainedRun, Figures]:
    """A copy to the device, then one back."""
    recorder = Recorder()
    there = recorder.issue(Lane.H2D, FETCH, step=0)
    recorder.issue(Lane.D2H, READBACK, (there,), step=0)
    schedule = recorder.schedule()
    figures = figures_of(HW).for_works(schedule.works)
    return walk(schedule, price_figures(schedule.works, figures)), figures


def test_elasticities_of_two_copies_by_hand() -> None:
    """A rate counts by the share of time that its bytes take, and with a minus; a latency by its own share."""
    found, figures = copies()
    makespan_s = found.timeline.makespan_s
    there_s = 1e7 / figures.link_bytes_per_s("h2d")
    back_s = 1e6 / figures.link_bytes_per_s("d2h")
    mine = elasticities(found, no_probes(found.timeline.schedule), figures, "makespan_s")
    assert mine["link.h2d_bytes_per_s"] == pytest.approx(-there_s / makespan_s, rel=1e-12)
    assert mine["link.d2h_bytes_per_s"] == pytest.approx(-back_s / makespan_s, rel=1e-12)
    assert mine["stack.copy_issue_s"] == pytest.approx(figures.values["stack.copy_issue_s"] / makespan_s, rel=1e-12)
    assert mine["stack.step_s"] == 0
    assert str(mine["stack.step_s"]) == "0.0"
    assert set(mine) == set(figures.values) - set(MEMORY_FIGURES)
    assert list(mine) == [key for key in figures.values if key in mine]
    rate = elasticities(found, no_probes(found.timeline.schedule), figures, "tokens_per_s")
    assert rate == {key: -value for key, value in mine.items()}
    assert not any(str(value) == "-0.0" for value in rate.values())
    some = elasticities(found, no_probes(found.timeline.schedule), figures, "makespan_s",
                        ["link.d2h_bytes_per_s", "stack.copy_issue_s"])  # fmt: skip
    assert some == {key: mine[key] for key in some}
    assert set(some) == {"link.d2h_bytes_per_s", "stack.copy_issue_s"}


def test_a_metric_that_is_0_has_no_elasticity() -> None:
    found, figures = copies()
    for wanted in (None, ["stack.step_s"]):
        mine = elasticities(found, no_probes(found.timeline.schedule), figures, "ttft_s", wanted)
        keys = set(figures.values) - set(MEMORY_FIGURES) if wanted is None else set(wanted)
        assert mine == dict.fromkeys(keys, 0.0)


def test_weights_are_summed_over_starts_and_ends() -> None:
    timeline: Any = SimpleNamespace(start_s=np.array([1.0, 2.0]), end_s=np.array([3.0, 5.0]))
    assert Weights(np.array([2.0, 0.5]), np.array([1.0, -1.0])).value(timeline) == 2 + 1 + 3 - 5
