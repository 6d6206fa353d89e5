"""Many machines at once, and a schedule part by part, say what one machine at a time says of the whole schedule."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from hwmodels.cost import Costs, price, price_figures
from hwmodels.figures import figures_of
from hwmodels.platform import load_platform
from offload.caches.residency import ResidentSet
from offload.decode import DecodeStream, decode
from offload.execution import EXECUTIONS
from offload.metrics import run_metrics
from offload.metrics.metric_probes import Probes, find_probes
from offload.ops import Lane, OpKind, Work
from offload.placing.workload import measure_workload
from offload.policies import policy_named
from offload.recorder import Recorder
from offload.schedule import Schedule, ScheduleDigest
from offload.timeline import Timeline
from pregate.named import load_model
from pregate.routing_traces import load_trace
from simulator import recurrence
from simulator.batched import batch, batch_small
from simulator.batched.batch_small import evaluate_small
from simulator.explain.bounds import lower_bounds
from simulator.streamed.stream import Stream
from tests.grids import one_in
from tests.small_models import MODELS, TRIED, routing
from traces.errors import InvalidInput
from traces.model.architecture import ModelArchitecture
from traces.routing import RoutingTrace

POLICIES = ["gpu_only", "on_demand", "prefetch_all", "pregate", "pregate(2)", "lru", "on_demand+lru:5", "pregate+lfu:4"]


def captured(
    model: ModelArchitecture, trace: RoutingTrace, text: str, execution: str, *, disk: bool = False
) -> tuple[Schedule, int, dict[str, Any]]:
    """The schedule, the most HBM it can use, and how to write it again."""
    policy = policy_named(text)
    workload = measure_workload(model, trace.steps())
    n_buffers = max(policy.buffers(workload.n_active, model.n_experts).full, workload.n_encoder_active)
    n_slots = 0 if policy.cache is None else policy.cache.n_slots or 6

    def options() -> dict[str, Any]:
        cache = None
        if policy.cache is not None:
            cache = ResidentSet(n_slots, policy.cache.eviction, n_layers=model.n_moe_layers, n_experts=model.n_experts)
        return {"n_buffers": n_buffers, "cache": cache, "disk": disk}

    decoded = decode(model, trace.steps(), policy, EXECUTIONS[execution], **options(), static_bytes=1000)
    again = {"policy": policy, "execution": EXECUTIONS[execution], **options()}
    return decoded.schedule, 1000 + (n_buffers + n_slots) * model.expert_bytes, again


def column(costs: Costs, i: int) -> Costs:
    return Costs(*(np.ascontiguousarray(getattr(costs, name)[:, i]) for name in costs.__slots__))


def wanted(timeline: Timeline, trace: RoutingTrace, costs: Costs) -> dict[str, float]:
    """One machine, by the definitions."""
    bounds = lower_bounds(timeline.schedule, costs)
    return {
        "makespan_s": timeline.makespan_s,
        "moe_layer_latency_s": run_metrics.moe_layer_latency_s(timeline, run_metrics.decode_steps(trace)),
        "stall_s": run_metrics.stall_s(timeline),
        "transfer_s": run_metrics.transfer_s(timeline),
        "exposed_s": run_metrics.exposed_s(timeline),
        "peak_hbm_bytes": timeline.peak_hbm_bytes,
        "bound_s": bounds.makespan_s,
    }


def assert_batch_is_right(
    schedule: Schedule, trace: RoutingTrace, costs: Costs, most: int | None, every: int = 1
) -> None:
    """Of all machines, or of the last and every so many before it: odd ones meet every place in a vector."""
    compiled = batch.compile_schedule(schedule, find_probes(schedule, trace), most_hbm_bytes=most)
    found = batch.evaluate(compiled, costs)
    n_machines = costs.duration_s.shape[1]
    for i in range((n_machines - 1) % every, n_machines, every):
        mine = column(costs, i)
        timeline = recurrence.simulate(schedule, mine)
        for name, value in wanted(timeline, trace, mine).items():
            assert getattr(found, name)[i] == pytest.approx(value, rel=1e-12, abs=1e-15), name
        assert (found.makespan_s[i], found.peak_hbm_bytes[i]) == (timeline.makespan_s, timeline.peak_hbm_bytes)
        assert found.step_end_s[i].tolist() == list(run_metrics.step_end_s(timeline).values())
        bounds = lower_bounds(schedule, mine)
        named = [*(lane.name for lane in Lane), "critical path"][found.binding[i]]
        runner_up = sorted([*bounds.lane_s.values(), bounds.critical_path_s])[-2]
        assert named == bounds.binding or runner_up == pytest.approx(bounds.makespan_s, rel=1e-12)


def machines(schedule: Schedule, n: int, seed: int) -> Costs:
    """Random costs, zeros and ties included."""
    rng = np.random.default_rng(seed)
    shape = (len(schedule.works), n)
    issue, duration = (rng.choice([0.0, 1.0, 2.0, rng.random()], shape) * rng.choice([1e-6, 1.0]) for _ in range(2))
    return Costs(issue, duration)


@pytest.mark.parametrize(("text", "name", "execution"), one_in(2, POLICIES, MODELS, TRIED))
def test_many_machines_are_each_measured_as_one(text: str, name: str, execution: str) -> None:
    model = MODELS[name]
    for size, disk in ((1, False), (3, True)):
        trace = routing(model, batch=size)
        schedule, most, _ = captured(model, trace, text, execution, disk=disk)
        figures = figures_of(load_platform("a100-sxm4-80gb", "streams"))
        swept = figures.with_values({"link.h2d_bytes_per_s": np.geomspace(1e6, 1e12, 17)})
        assert_batch_is_right(schedule, trace, price_figures(schedule.works, swept, 17), most, every=3)
        assert_batch_is_right(schedule, trace, machines(schedule, 5, seed=size), None)


@given(st.integers(0, 10**6), st.sampled_from(POLICIES), st.sampled_from(list(MODELS)), st.integers(1, 4))
def test_random_machines_are_measured_right(seed: int, text: str, name: str, size: int) -> None:
    model = MODELS[name]
    trace = routing(model, batch=size, seed=seed, output_tokens=3)
    schedule, _, _ = captured(model, trace, text, sorted(TRIED)[seed % 2], disk=seed % 3 == 0)
    assert_batch_is_right(schedule, trace, machines(schedule, 3, seed), None)


@pytest.mark.parametrize("name", list(MODELS))
@pytest.mark.parametrize("text", POLICIES)
def test_schedules_are_measured_the_same_without_code_for_many_machines(
    text: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = MODELS[name]
    trace = routing(model, batch=2)
    schedule, _, _ = captured(model, trace, text, "streams")
    probes, rng = find_probes(schedule, trace), np.random.default_rng(0)
    costs = Costs(*rng.exponential(1e-3, (2, len(schedule.works), 5)))
    small, other = evaluate_small(probes, costs), batch.evaluate(batch.compile_schedule(schedule, probes), costs)
    for field in small.__slots__:
        np.testing.assert_allclose(getattr(small, field), getattr(other, field), rtol=1e-13, err_msg=field)
    np.testing.assert_array_equal(small.step_end_s, other.step_end_s)
    monkeypatch.setattr(batch_small, "FEW_OPS", len(schedule) - 1)
    each = evaluate_small(probes, costs)  # one machine after the other
    for field in small.__slots__:
        np.testing.assert_array_equal(getattr(each, field), getattr(small, field), err_msg=field)


def test_a_machine_does_not_depend_on_its_neighbours() -> None:
    """To the last bit, wherever a batch is cut: what makes sweeps the same for every executor."""
    model = MODELS["encoder-decoder"]
    trace = routing(model, batch=2)
    schedule, most, _ = captured(model, trace, "pregate", "fastertransformer")
    compiled = batch.compile_schedule(schedule, find_probes(schedule, trace), most_hbm_bytes=most)
    costs = machines(schedule, 70, seed=7)
    whole = batch.evaluate(compiled, costs)
    for low, high in ((0, 1), (1, 16), (16, 33), (33, 70)):
        part = batch.evaluate(compiled, Costs(costs.issue_s[:, low:high], costs.duration_s[:, low:high]))
        for name in whole.__slots__:
            assert getattr(part, name).tobytes() == np.ascontiguousarray(getattr(whole, name)[low:high]).tobytes(), name


def any_schedule(data: st.DataObject, takes: list[Lane], gives: list[Lane]) -> Schedule:
    """Ops on any lanes after any ops; HBM is taken on some lanes and given back on some."""
    recorder, works = Recorder(), [Work(OpKind.GATE, flop=i) for i in range(3)]
    for i in range(data.draw(st.integers(1, 40))):
        deps = sorted(data.draw(st.sets(st.integers(0, i - 1), max_size=5))) if i else []
        lane = data.draw(st.sampled_from(list(Lane)))
        recorder.issue(
            lane, data.draw(st.sampled_from(works)), deps, step=0,
            hbm_acquired=data.draw(st.integers(0, 3)) if lane in takes else 0,
            hbm_released=data.draw(st.integers(0, 3)) if lane in gives else 0,
        )  # fmt: skip
    return recorder.schedule(static_bytes=1000)


@pytest.mark.parametrize(
    ("takes", "gives"),
    [
        ([Lane.H2D], [Lane.COMPUTE]),
        ([Lane.COMPUTE], [Lane.COMPUTE]),
        ([Lane.H2D], [Lane.HOST]),
        (list(Lane), list(Lane)),
    ],
)
@given(st.data())
def test_any_schedule_ends_and_peaks_as_its_timeline_says(
    takes: list[Lane], gives: list[Lane], data: st.DataObject
) -> None:
    """To the last bit, at equal instants and where nothing takes any time too."""
    schedule, none = any_schedule(data, takes, gives), np.zeros(0, dtype=np.int64)
    probes = Probes(schedule, none, none, np.arange(len(schedule)), none, none, none)
    costs = machines(schedule, 4, data.draw(st.integers(0, 1000)))
    costs = Costs(
        *(np.append(values, np.zeros((len(schedule.works), 1)), axis=1) for values in (costs.issue_s, costs.duration_s))
    )
    found = batch.evaluate(batch.compile_schedule(schedule, probes), costs)
    for i in range(5):
        mine = column(costs, i)
        timeline = recurrence.simulate(schedule, mine)
        assert found.peak_hbm_bytes[i] == timeline.peak_hbm_bytes
        assert found.makespan_s[i] == timeline.makespan_s
        assert found.step_end_s[i].tolist() == timeline.end_s.tolist()
        assert found.bound_s[i] == pytest.approx(lower_bounds(schedule, mine).makespan_s, rel=1e-12)


def test_what_is_taken_in_no_time_has_its_place() -> None:
    """Many takes at the instant of a give, more than ever wait for one where copies take time: none of them counts."""
    recorder, copy, ffn = Recorder(), Work(OpKind.FETCH), Work(OpKind.EXPERTS)
    read = -1
    for _ in range(100):
        bring = recorder.issue(Lane.H2D, copy, [] if read < 0 else [read], step=0, hbm_acquired=1)
        read = recorder.issue(Lane.COMPUTE, ffn, [bring], step=0, hbm_released=1)
    schedule, none = recorder.schedule(), np.zeros(0, dtype=np.int64)
    costs = Costs(np.zeros((2, 3)), np.array([[0.0, 1.0, 0.0], [0.0, 1.0, 1.0]]))
    found = batch.evaluate(batch.compile_schedule(schedule, Probes(schedule, *[none] * 6)), costs)
    assert found.peak_hbm_bytes.tolist() == [
        recurrence.simulate(schedule, column(costs, i)).peak_hbm_bytes for i in range(3)
    ]


@pytest.mark.parametrize("bad", [np.full((1, 2), -1.0), np.full((1, 2), np.nan), np.zeros((2, 2)), np.zeros(1)])
def test_impossible_costs_are_refused(bad: np.ndarray) -> None:
    recorder = Recorder()
    recorder.issue(Lane.COMPUTE, Work(OpKind.GATE), step=0)
    schedule, none = recorder.schedule(), np.zeros(0, dtype=np.int64)
    compiled = batch.compile_schedule(schedule, Probes(schedule, none, none, none, none, none, none))
    for costs in (Costs(bad, np.zeros((1, 2))), Costs(np.zeros((1, 2)), bad)):
        with pytest.raises(InvalidInput, match=r"issue_s|duration_s"):
            batch.evaluate(compiled, costs)


@pytest.mark.parametrize(("text", "execution", "compiled"), one_in(2, POLICIES, TRIED, [None, False]))
def test_part_by_part_is_as_the_whole(
    text: str, execution: str, compiled: bool | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Parts of a step or two: carried ends, levels and intervals change nothing."""
    for module in ("offload.decoding.decode_loop", "offload.fast.decode_compiled"):
        monkeypatch.setattr(f"{module}._PART_OPS", 1)
    hw = load_platform("a100-sxm4-80gb", "streams", {"link.h2d_bytes_per_s": 1e7})
    for name, disk in (("decoder-only", False), ("encoder-decoder", True)):
        model = MODELS[name]
        trace = routing(model, batch=3, output_tokens=8)
        schedule, _, again = captured(model, trace, text, execution, disk=disk)
        parts = DecodeStream(model, trace.steps(), **again, compiled=compiled)
        stream, digest = Stream(run_metrics.decode_steps(trace), schedule.static_bytes), ScheduleDigest()
        n_parts = 0
        for part in parts:
            stream.feed(part, price(part.works, hw))
            digest.update(part.columns, part.works)
            n_parts += 1
        assert n_parts > trace.n_steps // 3
        assert digest.of(schedule.static_bytes) == schedule.digest
        costs = price(schedule.works, hw)
        timeline = recurrence.simulate(schedule, costs)
        whole = wanted(timeline, trace, costs)
        steps, ends = stream.step_ends
        assert dict(zip(steps.tolist(), ends.tolist(), strict=True)) == run_metrics.step_end_s(timeline)
        for what in ("makespan_s", "moe_layer_latency_s", "stall_s", "transfer_s", "peak_hbm_bytes"):
            assert getattr(stream, what) == pytest.approx(whole[what], rel=1e-12), what
        assert max(stream.lane_s.max(), stream.critical_path_s) == pytest.approx(whole["bound_s"], rel=1e-12)
        assert stream.moved == run_metrics.moved_bytes(schedule.kind, timeline.moved_bytes)


@pytest.mark.parametrize("text", ["on_demand", "pregate", "lru"])
def test_a_recorded_trace_is_measured_right(text: str) -> None:
    trace = load_trace("gpt-oss-120b-phone")
    model = load_model("gpt-oss-120b").with_top_k(trace.top_k)
    schedule, most, _ = captured(model, trace, text, "streams")
    figures = figures_of(load_platform("rtx-4090", "streams"))
    swept = figures.with_values({"link.h2d_bytes_per_s": np.geomspace(1e9, 1e11, 3)})
    assert_batch_is_right(schedule, trace, price_figures(schedule.works, swept, 3), most)
