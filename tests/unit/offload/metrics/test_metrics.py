"""Metrics on hand-made timelines."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from offload.metrics import run_metrics
from offload.ops import Lane, OpKind, Work
from offload.recorder import Recorder
from offload.schedule import Schedule
from offload.timeline import Timeline
from pregate.ask.simulation import SimulationResult
from pregate.running.measured_run import RunResult
from traces.errors import InvalidFile, InvalidInput
from traces.routing import Provenance, RoutingTrace


def hand_made() -> Timeline:
    """Two steps of one layer: attention 0-1, gate 1-2, fetch 2-5, experts 5-7, head 7-8, host step 8-9; again at 10."""
    recorder = Recorder()
    start: list[float] = []
    for step in range(2):
        at = 10.0 * step
        recorder.issue(Lane.COMPUTE, Work(OpKind.SELF_ATTENTION), step=step, layer=0)
        gate = recorder.issue(Lane.COMPUTE, Work(OpKind.GATE), step=step, layer=0)
        copy = Work(OpKind.FETCH, copy_bytes=100)
        fetch = recorder.issue(Lane.H2D, copy, (gate,), step=step, layer=0, slot=0, hbm_acquired=100)
        experts = recorder.issue(Lane.COMPUTE, Work(OpKind.EXPERTS), (fetch,), step=step, layer=0, hbm_released=100)
        head = recorder.issue(Lane.COMPUTE, Work(OpKind.HEAD), (experts,), step=step)
        recorder.issue(Lane.HOST, Work(OpKind.STEP), (head,), step=step)
        start += [at, at + 1, at + 2, at + 5, at + 7, at + 8]
    lengths = np.array([1, 1, 3, 2, 1, 1] * 2)
    return Timeline(recorder.schedule(static_bytes=1000), np.array(start), np.array(start) + lengths, "hand")


def trace_of(steps: list[int], sequences: list[int]) -> RoutingTrace:
    n = len(steps)
    return RoutingTrace(
        experts=np.zeros((n, 1, 1), np.int16),
        sequence=np.array(sequences, np.int32),
        position=np.array([sequences[:i].count(one) for i, one in enumerate(sequences)], np.int32),
        phase=np.ones(n, np.int8),
        step=np.array(steps, np.int32),
        n_experts=2,
        provenance=Provenance("m", "a test"),
    )


def test_a_layer_begins_and_ends_with_what_any_processor_computes_of_it() -> None:
    """Two steps of layers 0, dense, and 1: a gate, an expert on the host, its return; copies and reads do not count."""
    ops = [
        (Lane.COMPUTE, OpKind.SELF_ATTENTION, 0), (Lane.H2D, OpKind.FETCH, 1), (Lane.COMPUTE, OpKind.GATE, 1),
        (Lane.CPU, OpKind.CPU_EXPERT, 1), (Lane.H2D, OpKind.RETURN, 1), (Lane.H2D, OpKind.FETCH, 1),
        (Lane.COMPUTE, OpKind.HEAD, -1),
    ]  # fmt: skip
    lane, kind, layer = (np.array(column) for column in zip(*(ops * 2), strict=True))
    step = np.repeat(np.array([3, 4]), len(ops)).astype(np.int32)
    columns = (lane.astype(np.int8), kind.astype(np.int8), step, layer.astype(np.int16))
    first, last = run_metrics.moe_layers(*columns, np.array([3, 4], np.int32))
    assert (first.tolist(), last.tolist()) == ([2, 9], [4, 11])
    first, last = run_metrics.moe_layers(*columns, np.array([4], np.int32))
    assert (first.tolist(), last.tolist()) == ([9], [11])


def test_figures_of_a_hand_made_timeline() -> None:
    timeline, trace = hand_made(), trace_of([0, 1], [0, 0])
    assert run_metrics.moe_layer_latency_s(timeline, run_metrics.decode_steps(trace)) == 7.0
    assert run_metrics.step_end_s(timeline) == {0: 9.0, 1: 19.0}
    assert run_metrics.ttft_s(timeline) == 9.0
    assert run_metrics.tpot_s(timeline, trace) == {"mean": 10.0, "p50": 10.0, "p99": 10.0}
    assert run_metrics.moved_bytes(timeline.schedule.kind, timeline.moved_bytes)["h2d_bytes"] == 200
    assert run_metrics.stall_s(timeline) == 6.0
    assert run_metrics.transfer_s(timeline) == 6.0
    assert timeline.peak_hbm_bytes == 1100
    assert timeline.busy_s(Lane.COMPUTE) == 10.0
    assert timeline.makespan_s == 19.0


def test_tpot_is_of_a_sequence_not_across_sequences() -> None:
    assert set(run_metrics.tpot_s(hand_made(), trace_of([0, 1], [0, 1])).values()) == {0.0}


def test_tpot_percentiles_of_uneven_gaps_are_interpolated() -> None:
    """Steps end at 1, 2, 4 and 12: gaps of 1, 2 and 8; p99 lies 0.98 of the way from the second to the last."""
    recorder = Recorder()
    for step in range(4):
        recorder.issue(Lane.HOST, Work(OpKind.STEP), step=step)
    end = np.array([1.0, 2.0, 4.0, 12.0])
    found = run_metrics.tpot_s(Timeline(recorder.schedule(), end - 0.5, end, "hand"), trace_of([0, 1, 2, 3], [0] * 4))
    assert found == pytest.approx({"mean": 11 / 3, "p50": 2.0, "p99": 2 + 0.98 * 6})


def test_the_latency_of_moe_layers_leaves_dense_layers_and_other_steps_out() -> None:
    recorder = Recorder()
    for step, layer, kind in (
        (0, 0, OpKind.DENSE_FFN),
        (0, 1, OpKind.GATE),
        (0, 1, OpKind.EXPERTS),
        (1, 1, OpKind.GATE),
    ):
        recorder.issue(Lane.COMPUTE, Work(kind), step=step, layer=layer)
    timeline = Timeline(recorder.schedule(), np.array([0.0, 50, 51, 60]), np.array([50.0, 51, 53, 90]), "hand")
    assert run_metrics.moe_layer_latency_s(timeline, np.array([0], np.int32)) == 3.0
    assert run_metrics.moe_layer_latency_s(timeline, np.array([0, 1], np.int32)) == (3.0 + 30.0) / 2
    assert run_metrics.moe_layer_latency_s(timeline, np.array([7], np.int32)) == 0.0


def test_every_metric_by_its_name() -> None:
    timeline, trace = hand_made(), trace_of([0, 1], [0, 0])
    found = run_metrics.of_timeline(timeline, trace, 38, (8, 2))
    assert (found["tokens_per_s"], found["hit_rate"], found["stall_share"]) == (2.0, 0.25, 6 / 19)
    assert found["exposed_transfer_fraction"] == 1.0
    assert run_metrics.of_timeline(timeline, trace, 38, (0, 0))["hit_rate"] == 0.0


def test_what_ran_since_a_time_is_a_timeline_that_begins_there() -> None:
    """The second of two steps, whose copy ends 15 s after the first began and takes 3."""
    second, later = hand_made().since(9.0), hand_made().since(13.0)
    assert (second.makespan_s, second.busy_s(Lane.COMPUTE), second.busy_s(Lane.H2D)) == (10.0, 5.0, 3.0)
    assert (run_metrics.stall_s(second), second.moved_bytes.sum()) == (3.0, 100)
    assert (later.makespan_s, later.busy_s(Lane.H2D), later.moved_bytes.sum()) == (6.0, 2.0, 100)
    assert (hand_made().since(15.0).moved_bytes.sum(), hand_made().since(19.0).makespan_s) == (0, 0.0)


def test_overlapping_transfers_are_counted_once() -> None:
    recorder = Recorder()
    for lane in (Lane.H2D, Lane.DISK, Lane.H2D):
        recorder.issue(lane, Work(OpKind.FETCH), step=0)
    timeline = Timeline(recorder.schedule(), np.array([0.0, 1.0, 5.0]), np.array([3.0, 4.0, 6.0]), "hand")
    assert run_metrics.transfer_s(timeline) == 5.0


def test_a_timeline_fits_its_schedule_and_runs_forward() -> None:
    schedule = hand_made().schedule
    with pytest.raises(InvalidInput, match="shape"):
        Timeline(schedule, np.zeros(1), np.zeros(1), "x")
    with pytest.raises(InvalidInput, match="ends before"):
        Timeline(schedule, np.ones(len(schedule)), np.zeros(len(schedule)), "x")


def test_a_schedule_survives_the_disk_and_tampering_is_refused(tmp_path: object) -> None:
    from pathlib import Path

    path = Path(str(tmp_path)) / "s.safetensors"
    schedule = hand_made().schedule
    schedule.save(path)
    loaded = Schedule.load(path)
    assert loaded == schedule
    assert loaded.works == schedule.works
    assert not path.with_name(f".{path.name}.partial").exists()
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(InvalidFile, match="readable schedule"):
        Schedule.load(path)
    with pytest.raises(InvalidFile):
        Schedule.load(path.with_name("none"))
    with pytest.raises(InvalidFile, match="cannot be written"):
        schedule.save(Path("/no/such/folder/s.safetensors"))


def test_the_digest_of_a_schedule_is_golden() -> None:
    assert hand_made().schedule.digest == "40cb6d5763fe6a65"


def test_an_op_cannot_wait_for_a_later_one() -> None:
    recorder = Recorder()
    recorder.issue(Lane.COMPUTE, Work(OpKind.GATE), (0,), step=0)
    with pytest.raises(InvalidInput, match="a later op"):
        recorder.schedule()


def test_what_is_exposed_is_the_part_of_transfers_that_passes_in_waits_for_them() -> None:
    """The compute lane waits from 1 on for a copy that moves from 4 to 6, and another moves from 6 to 8."""
    recorder = Recorder()
    gate = recorder.issue(Lane.COMPUTE, Work(OpKind.GATE), step=0, layer=0)
    fetch = recorder.issue(Lane.H2D, Work(OpKind.FETCH, copy_bytes=1), (gate,), step=0, layer=0)
    experts = recorder.issue(Lane.COMPUTE, Work(OpKind.EXPERTS), (fetch,), step=0, layer=0)
    recorder.issue(Lane.H2D, Work(OpKind.FETCH, copy_bytes=1), step=0, layer=0)
    recorder.issue(Lane.HOST, Work(OpKind.STEP), (experts,), step=0)
    start, end = np.array([0.0, 4.0, 6.0, 6.0, 7.0]), np.array([1.0, 6.0, 7.0, 8.0, 9.0])
    timeline = Timeline(recorder.schedule(), start, end, "hand")
    assert run_metrics.stall_s(timeline) == 5.0
    assert run_metrics.exposed_s(timeline) == 2.0
    found = run_metrics.of_timeline(timeline, trace_of([0, 1], [0, 0]), 2, (2, 1))
    assert found["exposed_transfer_fraction"] == 0.5
    assert found["stall_share"] == 5.0 / 9.0


def test_tokens_of_decoding_are_those_after_the_first_pass_over_the_time_after_it() -> None:
    found = run_metrics.of_timeline(hand_made(), trace_of([0, 1], [0, 0]), 2, (0, 0))
    assert found["tokens_per_s"] == 2 / 19.0
    assert found["decode_tokens_per_s"] == 1 / 10.0


def test_results_list_the_metrics_where_they_belong_and_declare_none_of_their_own() -> None:
    for result in (SimulationResult, RunResult):
        assert set(run_metrics.METRICS) < {field.name for field in dataclasses.fields(result)}
        assert not set(run_metrics.METRICS) & set(result.__annotations__)


def test_all_that_is_summed_up_is_a_metric_in_order() -> None:
    found = run_metrics.of_timeline(hand_made(), trace_of([0, 1], [0, 0]), 2, (0, 0))
    assert tuple(found) == run_metrics.METRICS
    assert run_metrics.Metrics(**found).ttft_s == 9.0


def of_ops(
    *ops: tuple[Lane, OpKind, int, int, float, float], deps: dict[int, tuple[int, ...]] | None = None
) -> Timeline:
    """A timeline of ops (lane, kind, step, layer, start, end), each of which waits for `deps`."""
    recorder = Recorder()
    for i, (lane, kind, step, layer, _, _) in enumerate(ops):
        recorder.issue(lane, Work(kind, copy_bytes=1), (deps or {}).get(i, ()), step=step, layer=layer)
    start, end = np.array([op[4:] for op in ops]).reshape(-1, 2).T
    return Timeline(recorder.schedule(), start, end, "hand")


TWO_SEQUENCES = trace_of([0, 0, 1, 1, 2, 3], [0, 1, 0, 1, 0, 1])
"""Sequence 0 makes tokens in steps 0, 1 and 2, sequence 1 in 0, 1 and 3."""


def test_every_metric_of_many_machines_and_of_each_alone() -> None:
    """Steps end at 1, 3, 4, 9 on one machine: gaps of 2, 1, 2, 6; at 2, 4, 8, 10 on the other: 2, 4, 2, 6."""
    ends = np.array([[1.0, 3, 4, 9], [2, 4, 8, 10]])
    by_machine = {
        "makespan_s": [10.0, 20.0], "moe_layer_latency_s": [0.5, 0.25], "stall_s": [4.0, 5.0], "exposed_s": [3.0, 2.0],
        "transfer_s": [6.0, 0.5], "peak_hbm_bytes": [7, 8],
    }  # fmt: skip
    moved = {"h2d_bytes": 9, "written_back_bytes": 11}
    wanted = {
        "moe_layer_latency_s": [0.5, 0.25], "tokens_per_s": [0.6, 0.3], "decode_tokens_per_s": [4 / 8, 4 / 8],
        "ttft_s": [1.0, 2.0], "tpot_s": [11 / 4, 14 / 4], "tpot_p50_s": [2.0, 3.0],
        "tpot_p99_s": [2 + 0.97 * 4, 4 + 0.97 * 2], "makespan_s": [10.0, 20.0], "peak_hbm_bytes": [7, 8],
        "h2d_bytes": 9, "written_back_bytes": 11, "hit_rate": 0.25, "stall_s": [4.0, 5.0],
        "stall_share": [0.4, 0.25],
        "exposed_transfer_fraction": [0.5, 1.0],  # no more is exposed than was transferred
    }  # fmt: skip
    steps = np.arange(4, dtype=np.int32)
    arrays = {name: np.array(values) for name, values in by_machine.items()}
    seen = run_metrics.Totals(**arrays, moved=moved)
    found = run_metrics.summed_up(TWO_SEQUENCES, steps, ends, seen, n_output_tokens=6, lookups=(8, 2))
    assert set(found) == set(wanted)
    for name, values in wanted.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-12, err_msg=name)
    for i in range(2):
        one = run_metrics.Totals(**{name: values[i] for name, values in arrays.items()}, moved=moved)
        alone = run_metrics.summed_up(TWO_SEQUENCES, steps, ends[i], one, n_output_tokens=6, lookups=(8, 2))
        for name, value in alone.items():
            assert type(value) in (float, int), name
            assert value == np.broadcast_to(found[name], 2)[i], name


def test_a_run_without_tokens_or_transfers_has_zeros() -> None:
    none = np.zeros(0, dtype=np.int32)
    moved = {"h2d_bytes": 0, "written_back_bytes": 0}
    seen = run_metrics.Totals(2.0, 0.0, 0.0, 0.0, 0.0, 0, moved)
    found = run_metrics.summed_up(TWO_SEQUENCES, none, np.zeros(0), seen, n_output_tokens=0, lookups=(0, 0))
    assert found == dict.fromkeys(found, 0.0) | {"makespan_s": 2.0}
    nothing = np.zeros(3)
    seen = run_metrics.Totals(np.full(3, 2.0), nothing, nothing, nothing, nothing, nothing, moved)
    many = run_metrics.summed_up(TWO_SEQUENCES, none, np.zeros((3, 0)), seen, n_output_tokens=0, lookups=(0, 0))
    for name in ("ttft_s", "tpot_s", "tpot_p50_s", "tpot_p99_s", "decode_tokens_per_s", "exposed_transfer_fraction"):
        assert many[name].tolist() == [0.0] * 3, name
    assert run_metrics.n_first_tokens(TWO_SEQUENCES, none) == 0
    timeline = of_ops((Lane.COMPUTE, OpKind.GATE, 0, 0, 0.0, 1.0))
    assert run_metrics.ttft_s(timeline) == run_metrics.transfer_s(timeline) == run_metrics.exposed_s(timeline) == 0.0


def test_first_tokens_are_one_a_sequence_of_the_first_pass() -> None:
    assert run_metrics.n_first_tokens(TWO_SEQUENCES, np.array([0, 1, 2, 3], np.int32)) == 2
    assert run_metrics.n_first_tokens(TWO_SEQUENCES, np.array([2, 3], np.int32)) == 1


def test_gaps_are_between_passes_in_which_a_sequence_makes_tokens() -> None:
    """Whatever the order of passes; a pass that makes none, or of which the trace knows nothing, is left out."""
    begin, end = run_metrics.gap_pairs(TWO_SEQUENCES, np.array([3, 0, 9, 1], np.int32))
    assert (begin.tolist(), end.tolist()) == ([1, 1, 3], [3, 3, 0])  # of sequence 0, then of sequence 1
    begin, end = run_metrics.gap_pairs(TWO_SEQUENCES, np.array([1], np.int32))
    assert not len(begin)  # one pass, whatever the sequences that it serves
    begin, end = run_metrics.gap_pairs(TWO_SEQUENCES, np.zeros(0, np.int32))
    assert begin.size == end.size == 0


def test_a_gap_takes_one_sequence() -> None:
    assert run_metrics.tpot_s(hand_made(), trace_of([0, 1], [0, 1])) == {"mean": 0.0, "p50": 0.0, "p99": 0.0}


def test_layers_of_many_steps_are_told_apart() -> None:
    """Layer 1 of step 0 and layer 0 of step 2, and a layer that has no gate."""
    timeline = of_ops(
        (Lane.COMPUTE, OpKind.GATE, 0, 1, 0.0, 2.0),
        (Lane.COMPUTE, OpKind.GATE, 2, 0, 10.0, 14.0),
        (Lane.COMPUTE, OpKind.DENSE_FFN, 3, 1, 20.0, 90.0),
    )
    steps = np.array([0, 1, 2, 3], np.int32)
    assert run_metrics.moe_layer_latency_s(timeline, steps) == (2.0 + 4.0) / 2
    assert run_metrics.moe_layer_latency_s(timeline, steps[3:]) == 0.0


def test_waits_are_for_transfers_alone_and_have_a_length() -> None:
    """The first op waits from the start to 3 for a fetch; the next for a read-back; the last comes just in time."""
    timeline = of_ops(
        (Lane.H2D, OpKind.FETCH, 0, 0, 0.0, 3.0),
        (Lane.COMPUTE, OpKind.EXPERTS, 0, 0, 3.5, 5.0),
        (Lane.D2H, OpKind.READBACK, 0, 0, 5.0, 8.0),
        (Lane.COMPUTE, OpKind.GATE, 0, 0, 8.0, 9.0),
        (Lane.H2D, OpKind.FETCH, 0, 0, 4.0, 9.0),
        (Lane.COMPUTE, OpKind.EXPERTS, 0, 0, 9.0, 10.0),
        (Lane.COMPUTE, OpKind.EXPERTS, 0, 0, 12.0, 13.0),
        deps={1: (0,), 3: (2,), 5: (4,), 6: (4,)},
    )
    begin, end = run_metrics.stall_intervals(timeline)
    assert (begin.tolist(), end.tolist()) == ([0.0], [3.0])
    assert run_metrics.stall_s(timeline) == run_metrics.exposed_s(timeline) == 3.0
    assert run_metrics.transfer_s(timeline) == 8.0


def test_what_overlaps_is_counted_once_whatever_the_order() -> None:
    """Moving from 0 to 10 with two copies within, from 12 to 14 and from 13 to 20; stalled 1-3, 9-13 and 19-30."""
    moving = (np.array([12.0, 0, 1, 5, 13]), np.array([14.0, 10, 2, 6, 20]))
    stalls = (np.array([1.0, 9, 19]), np.array([3.0, 13, 30]))
    assert run_metrics.overlap_s(moving, stalls) == 2 + (1 + 1) + 1
    none = (np.zeros(0), np.zeros(0))
    assert run_metrics.overlap_s(none, stalls) == run_metrics.overlap_s(moving, none) == 0.0


def test_a_copy_within_another_takes_no_time_of_its_own() -> None:
    timeline = of_ops(
        (Lane.H2D, OpKind.FETCH, 0, 0, 0.0, 6.0),
        (Lane.DISK, OpKind.DISK_READ, 0, 0, 1.0, 5.0),
        (Lane.H2D, OpKind.STAGE, 0, 0, 6.0, 6.5),
        (Lane.DISK, OpKind.DISK_READ, 0, 0, 5.75, 6.25),
    )
    assert run_metrics.transfer_s(timeline) == 6.5


def test_all_figures_of_a_hand_made_timeline_by_their_names() -> None:
    assert run_metrics.of_timeline(hand_made(), trace_of([0, 1], [0, 0]), 2, (8, 2)) == {
        "moe_layer_latency_s": 7.0, "tokens_per_s": 2 / 19, "decode_tokens_per_s": 1 / 10, "ttft_s": 9.0,
        "tpot_s": 10.0, "tpot_p50_s": 10.0, "tpot_p99_s": 10.0, "makespan_s": 19.0, "peak_hbm_bytes": 1100,
        "h2d_bytes": 200, "written_back_bytes": 0, "hit_rate": 0.25, "stall_s": 6.0, "stall_share": 6 / 19,
            "exposed_transfer_fraction": 1.0,
    }  # fmt: skip
