"""Metrics on hand-made timelines."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from offload import metrics
from offload.ops import Lane, OpKind, Work
from offload.recorder import Recorder
from offload.schedule import Schedule
from offload.timeline import Timeline
from pregate.ask.simulation import SimulationResult
from pregate.check.running import RunResult
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
        position=np.arange(n, dtype=np.int32),
        phase=np.ones(n, np.int8),
        step=np.array(steps, np.int32),
        n_experts=2,
        provenance=Provenance("m", "a test"),
    )


def test_figures_of_a_hand_made_timeline() -> None:
    timeline, trace = hand_made(), trace_of([0, 1], [0, 0])
    assert metrics.moe_layer_latency_s(timeline, metrics.decode_steps(trace)) == 7.0
    assert metrics.ttft_s(timeline) == 9.0
    assert metrics.tpot_s(timeline, trace) == {"mean": 10.0, "p50": 10.0, "p99": 10.0}
    assert metrics.h2d_bytes(timeline) == 200
    assert metrics.stall_s(timeline) == 6.0
    assert metrics.transfer_s(timeline) == 6.0
    assert timeline.peak_hbm_bytes == 1100
    assert timeline.busy_s(Lane.COMPUTE) == 10.0
    assert timeline.makespan_s == 19.0


def test_tpot_is_of_a_sequence_not_across_sequences() -> None:
    assert set(metrics.tpot_s(hand_made(), trace_of([0, 1], [0, 1])).values()) == {0.0}


def test_tpot_percentiles_of_uneven_gaps_are_interpolated() -> None:
    """Steps end at 1, 2, 4 and 12: gaps of 1, 2 and 8; p99 lies 0.98 of the way from the second to the last."""
    recorder = Recorder()
    for step in range(4):
        recorder.issue(Lane.HOST, Work(OpKind.STEP), step=step)
    end = np.array([1.0, 2.0, 4.0, 12.0])
    found = metrics.tpot_s(Timeline(recorder.schedule(), end - 0.5, end, "hand"), trace_of([0, 1, 2, 3], [0] * 4))
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
    assert metrics.moe_layer_latency_s(timeline, np.array([0], np.int32)) == 3.0
    assert metrics.moe_layer_latency_s(timeline, np.array([0, 1], np.int32)) == (3.0 + 30.0) / 2
    assert metrics.moe_layer_latency_s(timeline, np.array([7], np.int32)) == 0.0


def test_every_metric_by_its_name() -> None:
    timeline, trace = hand_made(), trace_of([0, 1], [0, 0])
    found = metrics.of_timeline(timeline, trace, 38, (8, 2))
    assert (found["tokens_per_s"], found["hit_rate"], found["stall_share"]) == (2.0, 0.25, 6 / 19)
    assert found["exposed_transfer_fraction"] == 1.0
    assert metrics.of_timeline(timeline, trace, 38, (0, 0))["hit_rate"] == 0.0


def test_overlapping_transfers_are_counted_once() -> None:
    recorder = Recorder()
    for lane in (Lane.H2D, Lane.DISK, Lane.H2D):
        recorder.issue(lane, Work(OpKind.FETCH), step=0)
    timeline = Timeline(recorder.schedule(), np.array([0.0, 1.0, 5.0]), np.array([3.0, 4.0, 6.0]), "hand")
    assert metrics.transfer_s(timeline) == 5.0


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
    assert hand_made().schedule.digest == "6f610c509e5dfe99"


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
    assert metrics.stall_s(timeline) == 5.0
    assert metrics.exposed_s(timeline) == 2.0
    found = metrics.of_timeline(timeline, trace_of([0, 1], [0, 0]), 2, (2, 1))
    assert found["exposed_transfer_fraction"] == 0.5
    assert found["stall_share"] == 5.0 / 9.0


def test_tokens_of_decoding_are_those_after_the_first_pass_over_the_time_after_it() -> None:
    found = metrics.of_timeline(hand_made(), trace_of([0, 1], [0, 0]), 2, (0, 0))
    assert found["tokens_per_s"] == 2 / 19.0
    assert found["decode_tokens_per_s"] == 1 / 10.0


def test_results_list_the_metrics_where_they_belong_and_declare_none_of_their_own() -> None:
    for result in (SimulationResult, RunResult):
        assert set(metrics.METRICS) < {field.name for field in dataclasses.fields(result)}
        assert not set(metrics.METRICS) & set(result.__annotations__)


def test_all_that_is_summed_up_is_a_metric_in_order() -> None:
    found = metrics.of_timeline(hand_made(), trace_of([0, 1], [0, 0]), 2, (0, 0))
    assert tuple(found) == metrics.METRICS
    assert metrics.Metrics(**found).ttft_s == 9.0
