"""The critical path covers the makespan, its parts are known by hand, and every derivative is what the engine does."""

from __future__ import annotations

import dataclasses
import math
from functools import cache

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import assume, given, settings

import pregate
from hwmodels.cost import Costs, price_figures
from hwmodels.figures import MEMORY_FIGURES, Figures, figures_of
from hwmodels.platform import Platform, load_platform
from offload.decode import decode
from offload.execution import EXECUTIONS
from offload.metrics import run_metrics
from offload.metrics.metric_probes import find_probes, no_probes
from offload.ops import Lane, OpKind, Work
from offload.policies import policy_named
from offload.recorder import Recorder
from offload.schedule import Schedule
from pregate.ask.capturing.capture import capture, capture_request
from pregate.ask.capturing.request import request
from simulator import recurrence
from simulator.explain.attribution import CLASSES, critical_path, partition
from simulator.explain.critical_path import gradient, slot_edges, walk
from simulator.explain.explained_metrics import METRICS
from simulator.explain.sensitivity import elasticities, metric_weights
from tests.small_models import MODELS, TRIED, decoder_only, routing
from traces.errors import InvalidInput, UnknownName
from traces.routing import RoutingTrace

times = st.one_of(st.just(0.0), st.floats(1e-3, 10.0, allow_nan=False))
kinds = st.sampled_from([OpKind.GATE, OpKind.FETCH, OpKind.STAGE, OpKind.DISK_READ, OpKind.WAIT, OpKind.READBACK])
weights = st.floats(-2.0, 2.0, allow_nan=False)


@st.composite
def schedules(draw: st.DrawFn) -> tuple[Schedule, Costs]:
    n_works, n_ops = draw(st.integers(1, 6)), draw(st.integers(1, 30))
    works = [Work(draw(kinds), flop=i) for i in range(n_works)]
    recorder = Recorder()
    for i in range(n_ops):
        deps = sorted(draw(st.sets(st.integers(0, i - 1), max_size=3))) if i else []
        lane, work = draw(st.sampled_from(list(Lane))), draw(st.sampled_from(works))
        recorder.issue(lane, work, deps, step=0, layer=0, expert=draw(st.integers(0, 1)))
    schedule = recorder.schedule()
    n = len(schedule.works)
    issue, duration = (np.array(draw(st.lists(times, min_size=n, max_size=n))) for _ in range(2))
    return schedule, Costs(issue, duration)


def ends(schedule: Schedule, costs: Costs) -> np.ndarray:
    return recurrence.simulate(schedule, costs).end_s


@given(schedules())
def test_the_path_covers_the_makespan_without_gap_and_every_link_of_it_holds(case: tuple[Schedule, Costs]) -> None:
    schedule, costs = case
    explained = walk(schedule, costs)
    plain = recurrence.simulate(schedule, costs)
    assert explained.timeline.start_s.tolist() == plain.start_s.tolist()
    assert explained.timeline.end_s.tolist() == plain.end_s.tolist()
    path = critical_path(explained)
    assert path.begin_s[0] == 0.0
    assert path.end_s[-1] == plain.makespan_s
    assert path.begin_s[1:].tolist() == path.end_s[:-1].tolist()
    assert np.all((path.slot_s >= 0) & (path.slot_s <= path.end_s - path.begin_s))
    lengths = np.where(path.issuing, costs.issue_s[schedule.cost[path.op]], costs.duration_s[schedule.cost[path.op]])
    np.testing.assert_allclose(path.end_s - path.begin_s, lengths, rtol=0, atol=1e-12 * (1 + plain.makespan_s))


@given(schedules())
def test_time_spent_waiting_for_slots_is_the_union_of_the_waits_on_the_path(case: tuple[Schedule, Costs]) -> None:
    """Nested waits count once: [could have started, started] of every op on the path, by the definition itself."""
    schedule, costs = case
    explained = walk(schedule, costs)
    path, timeline, edges = critical_path(explained), explained.timeline, slot_edges(schedule)
    on_path = set(path.op[~path.issuing].tolist())
    busy_until = dict.fromkeys(Lane, 0.0)
    covered: list[tuple[float, float]] = []
    for i in range(len(schedule)):
        lane = Lane(int(schedule.lane[i]))
        if lane is not Lane.HOST:
            busy_until[Lane.HOST] += float(costs.issue_s[schedule.cost[i]])
        span = range(schedule.dep_ptr[i], schedule.dep_ptr[i + 1])
        could = max(busy_until[lane], busy_until[Lane.HOST])
        could = max([could, *(timeline.end_s[schedule.dep[k]] for k in span if not edges[k])])
        if i in on_path and could < timeline.start_s[i]:
            covered.append((could, float(timeline.start_s[i])))
        busy_until[lane] = float(timeline.end_s[i])
    total, reach = 0.0, 0.0
    for begin, end in sorted(covered):
        total += max(end - max(begin, reach), 0.0)
        reach = max(reach, end)
    assert float(path.slot_s.sum()) == pytest.approx(total, abs=1e-12 * (1 + timeline.makespan_s))


def test_nothing_to_do_has_an_empty_path() -> None:
    path = critical_path(walk(Recorder().schedule(), Costs(np.zeros(0), np.zeros(0))))
    assert path.op.size == 0


@given(schedules(), st.data())
def test_the_gradient_of_the_makespan_bounds_it_from_below_everywhere(
    case: tuple[Schedule, Costs], data: st.DataObject
) -> None:
    """The makespan is convex and of degree 1 in the costs: M(c) = g c, and M(c') >= g c' for any c', at ties too."""
    schedule, costs = case
    explained = walk(schedule, costs)
    last = np.zeros(len(schedule))
    last[int(np.argmax(explained.timeline.end_s))] = 1.0
    found = gradient(explained, np.zeros(len(schedule)), last)
    n = len(schedule.works)
    other = Costs(*(np.array(data.draw(st.lists(times, min_size=n, max_size=n))) for _ in range(2)))
    for at, equal in ((costs, True), (other, False)):
        line = float(found.issue_s @ at.issue_s + found.duration_s @ at.duration_s)
        makespan_s = float(ends(schedule, at).max())
        slack = 1e-12 * (1 + makespan_s)
        assert line <= makespan_s + slack
        assert not equal or line >= makespan_s - slack


@given(schedules(), st.data())
def test_the_gradient_of_any_weighted_sum_of_times_is_that_of_the_engine(
    case: tuple[Schedule, Costs], data: st.DataObject
) -> None:
    """Euler's identity exactly, and the finite difference along a direction where there is no tie."""
    schedule, costs = case
    n_ops, n_works = len(schedule), len(schedule.works)
    at_start, at_end = (np.array(data.draw(st.lists(weights, min_size=n_ops, max_size=n_ops))) for _ in range(2))
    along = [np.array(data.draw(st.lists(st.floats(0.5, 1.0), min_size=n_works, max_size=n_works))) for _ in range(2)]
    found = gradient(walk(schedule, costs), at_start, at_end)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recurrence, "SMALL_OPS", -1)
        patch.setattr("simulator.explain.critical_path.SMALL_OPS", -1)
        compiled = gradient(walk(schedule, costs), at_start, at_end)
    assert compiled.issue_s.tobytes() == found.issue_s.tobytes()
    assert compiled.duration_s.tobytes() == found.duration_s.tobytes()

    def metric(move: float) -> float:
        moved = Costs(costs.issue_s * (1 + move * along[0]), costs.duration_s * (1 + move * along[1]))
        timeline = recurrence.simulate(schedule, moved)
        return float(at_start @ timeline.start_s + at_end @ timeline.end_s)

    scale = float(np.abs(at_start).sum() + np.abs(at_end).sum()) * (1 + float(ends(schedule, costs).max()))
    here, h = metric(0.0), 1e-5
    assert float(found.issue_s @ costs.issue_s + found.duration_s @ costs.duration_s) == pytest.approx(
        here, abs=1e-12 * (1 + scale)
    )
    for move in (h, -h):  # no tie nearby: the same chains bind on both sides
        moved = Costs(costs.issue_s * (1 + move * along[0]), costs.duration_s * (1 + move * along[1]))
        nearby = gradient(walk(schedule, moved), at_start, at_end)
        assume(np.array_equal(nearby.issue_s, found.issue_s) and np.array_equal(nearby.duration_s, found.duration_s))
    right, left = (metric(h) - here) / h, (here - metric(-h)) / h
    assume(abs(right - left) < 1e-8 * (1 + scale))
    exact = float(found.issue_s @ (costs.issue_s * along[0]) + found.duration_s @ (costs.duration_s * along[1]))
    assert (right + left) / 2 == pytest.approx(exact, abs=1e-8 * (1 + scale))


def test_weights_of_another_shape_are_refused() -> None:
    recorder = Recorder()
    recorder.issue(Lane.COMPUTE, Work(OpKind.GATE), step=0)
    explained = walk(recorder.schedule(), Costs(np.zeros(1), np.ones(1)))
    with pytest.raises(InvalidInput, match=r"weights have shape \(2,\), the schedule has 1 ops"):
        gradient(explained, np.zeros(2), np.zeros(1))


POLICIES = ("gpu_only", "on_demand", "prefetch_all", "pregate", "pregate(2)", "on_demand+lru:0.3", "pregate+lfu:4")
factors = st.floats(-2.0, 2.0, allow_nan=False).map(math.exp)


@cache
def machine(stack: str) -> Platform:
    return load_platform("a100-sxm4-80gb", stack)


@st.composite
def runs(draw: st.DrawFn) -> tuple[Schedule, RoutingTrace, Figures]:
    """A small model under any policy, execution and tier, on a machine with every price moved by up to e^2."""
    model = MODELS[draw(st.sampled_from(list(MODELS)))]
    stack = draw(st.sampled_from(TRIED))
    hw = machine(stack)
    trace = routing(model, seed=draw(st.integers(0, 3)), batch=draw(st.integers(1, 2)))
    tier = draw(st.sampled_from(["dram", "ssd"]))
    asked = request(model, hw, trace, draw(st.sampled_from(POLICIES)), expert_tier=tier)
    if draw(st.booleans()) and not asked.policy.resident:  # no more slots than needed: copies wait for them
        fewest = asked.policy.buffers(asked.workload.n_active, model.n_experts).minimum
        fewest = max(fewest, asked.workload.n_encoder_active)
        if asked.execution.hands_slots_on and asked.policy.needs_ids:
            fewest = draw(st.integers(1, fewest))
        plan = dataclasses.replace(asked.plan, n_buffers=min(asked.plan.n_buffers, fewest))
        asked = dataclasses.replace(asked, plan=plan)
    figures = figures_of(hw)
    moved = {
        key: value * draw(factors)
        for key, value in figures.values.items()
        if key not in MEMORY_FIGURES and key != "accelerator.n_sm" and "efficiency" not in key
    }
    return capture_request(asked).decoded.schedule, trace, figures.with_values(moved)


def measured(schedule: Schedule, trace: RoutingTrace, figures: Figures) -> dict[str, float]:
    """Every metric by its definition in `offload.metrics`."""
    timeline = recurrence.simulate(schedule, price_figures(schedule.works, figures))
    return {
        "makespan_s": timeline.makespan_s,
        "tokens_per_s": 1 / timeline.makespan_s,
        "ttft_s": run_metrics.ttft_s(timeline),
        "tpot_s": run_metrics.tpot_s(timeline, trace)["mean"],
        "moe_layer_latency_s": run_metrics.moe_layer_latency_s(timeline, run_metrics.decode_steps(trace)),
    }


def assert_elasticities(schedule: Schedule, trace: RoutingTrace, figures: Figures) -> int:
    """Compare with central differences of the engine, wherever its two one-sided ones agree; returns how many did."""
    explained, h, n_compared = walk(schedule, price_figures(schedule.works, figures)), 1e-6, 0
    probes = find_probes(schedule, trace)
    found = {metric: elasticities(explained, probes, figures, metric) for metric in METRICS}
    here = measured(schedule, trace, figures)
    for key in found["ttft_s"]:
        if key == "accelerator.n_sm":
            continue  # a step function: whole waves
        up, down = (
            measured(schedule, trace, figures.with_values({key: figures[key] * factor})) for factor in (1 + h, 1 - h)
        )
        for metric, exact in found.items():
            right, left = math.log(up[metric] / here[metric]) / h, math.log(here[metric] / down[metric]) / h
            if abs(right - left) < 1e-5:
                assert (right + left) / 2 == pytest.approx(exact[key], abs=1e-6), (metric, key)
                n_compared += 1
    return n_compared


@given(runs())
@settings(max_examples=20)
def test_elasticities_are_those_of_the_engine_on_random_machines(run: tuple[Schedule, RoutingTrace, Figures]) -> None:
    assert assert_elasticities(*run) > 50


@given(runs(), st.sets(st.sampled_from(["stack.kernel_s", "link.h2d_bytes_per_s", "stack.gemm_efficiency", "nothing"])))
@settings(max_examples=20)
def test_elasticities_of_some_numbers_are_theirs_among_all_to_the_last_bit(
    run: tuple[Schedule, RoutingTrace, Figures], wanted: set[str]
) -> None:
    schedule, trace, figures = run
    explained, probes = walk(schedule, price_figures(schedule.works, figures)), find_probes(schedule, trace)
    for metric in METRICS:
        every = elasticities(explained, probes, figures, metric)
        some = elasticities(explained, probes, figures, metric, wanted)
        assert some == {key: value for key, value in every.items() if key in wanted}
    assert elasticities(explained, no_probes(schedule), figures, "makespan_s") == elasticities(
        explained, probes, figures, "makespan_s"
    )


@given(runs())
def test_all_times_longer_and_all_rates_slower_by_a_factor_make_every_metric_longer_by_it(
    run: tuple[Schedule, RoutingTrace, Figures],
) -> None:
    """Euler's theorem, at ties too: elasticities of times, less those of rates, sum to the degree of the metric."""
    schedule, trace, figures = run
    explained = walk(schedule, price_figures(schedule.works, figures))
    for metric in METRICS:
        found = elasticities(explained, find_probes(schedule, trace), figures, metric)
        rates = {key for key in found if key.endswith("_per_s") or "_per_s." in key}
        times = {key for key in found if key.endswith("_s")} - rates
        degree = -1.0 if metric == "tokens_per_s" else 1.0
        assert sum(found[key] for key in times) - sum(found[key] for key in rates) == pytest.approx(degree, abs=1e-11)


@given(runs())
def test_shares_sum_to_one_and_are_the_elasticities_of_what_they_are_proportional_to(
    run: tuple[Schedule, RoutingTrace, Figures],
) -> None:
    """Waiting for slots takes its time from other shares, which are then below."""
    schedule, trace, figures = run
    explained = walk(schedule, price_figures(schedule.works, figures))
    seconds = partition(explained, figures)
    assert tuple(seconds) == CLASSES
    assert all(value >= 0 for value in seconds.values())
    makespan_s = explained.timeline.makespan_s
    assert math.fsum(seconds.values()) == pytest.approx(makespan_s, rel=1e-12)
    share = {name: value / makespan_s for name, value in seconds.items()}
    found = elasticities(explained, find_probes(schedule, trace), figures, "makespan_s")
    expected = {
        "kernel": found["stack.kernel_s"] + sum(value for key, value in found.items() if key.endswith("_floor_s")),
        "compute": -found["stack.gemm_efficiency"],
        "hbm": -found["stack.hbm_efficiency"],
        "disk": found["storage.read_latency_s"] - found["stack.storage_efficiency"],
        "host": found["stack.launch_s"] + found["stack.copy_issue_s"] + found["stack.step_s"],
    }
    for name, elasticity in expected.items():
        assert share[name] <= elasticity + 1e-11
        assert seconds["slot"] or share[name] == pytest.approx(elasticity, abs=1e-11)
    link = sum(found.get(key, 0.0) for key in ("stack.link_efficiency", "link.h2d_efficiency", "link.d2h_efficiency"))
    copies = found["stack.copy_latency_s"] - link + found["stack.sync_s"]
    assert share["h2d"] + share["sync"] <= copies + 1e-11


@pytest.mark.parametrize("tier", ["dram", "ssd"])
@pytest.mark.parametrize("policy", ["gpu_only", "on_demand", "prefetch_all", "pregate", "on_demand+lru:0.1"])
def test_elasticities_are_those_of_the_engine_on_real_captures(policy: str, tier: str) -> None:
    model, hw = pregate.load_model("switch-base-8"), pregate.load_hardware("a100-sxm4-80gb")
    trace = pregate.synthesize(model, 16, 8, 2, 0)
    captured = capture(model, hw, trace, policy, expert_tier=tier)
    assert assert_elasticities(captured.decoded.schedule, trace, figures_of(hw)) > 100


def test_seeds_are_the_metrics_they_stand_for() -> None:
    model, hw = pregate.load_model("mixtral-8x7b"), pregate.load_hardware("h100-sxm")
    trace = pregate.synthesize(model, 4, 5, 3, 0)
    schedule = capture(model, hw, trace, "pregate").decoded.schedule
    found, timeline = (
        measured(schedule, trace, figures_of(hw)),
        walk(schedule, price_figures(schedule.works, figures_of(hw))).timeline,
    )
    for metric in set(METRICS) - {"tokens_per_s"}:
        assert metric_weights(timeline, find_probes(schedule, trace), metric).value(timeline) == pytest.approx(
            found[metric], rel=1e-12
        )
    with pytest.raises(UnknownName, match="did you mean 'tpot_s'"):
        metric_weights(timeline, find_probes(schedule, trace), "tpo_s")


def test_a_metric_with_nothing_to_measure_has_no_elasticity() -> None:
    model, hw = decoder_only(), load_platform("h100-sxm")
    trace = routing(model, output_tokens=2)
    decode_only = dataclasses.replace(
        trace,
        **{
            name: getattr(trace, name)[trace.phase == 1]
            for name in ("experts", "sequence", "position", "phase", "step")
        },
    )
    schedule = decode(model, decode_only.steps(), policy_named("gpu_only"), EXECUTIONS["streams"], n_buffers=6).schedule
    figures = figures_of(hw)
    explained = walk(schedule, price_figures(schedule.works, figures))
    assert set(elasticities(explained, find_probes(schedule, decode_only), figures, "tpot_s").values()) == {0.0}


def test_more_multiprocessors_of_the_same_peak_rate_are_slower_by_their_share_of_whole_waves() -> None:
    """Every grouped GEMM is bound by waves here, so waves held constant, 1 % more of them is 1 % more of that time."""
    model, hw = pregate.load_model("switch-base-8"), pregate.load_hardware("a100-sxm4-80gb")
    trace = pregate.synthesize(model, 16, 8, 1, 0)
    schedule, figures = capture(model, hw, trace, "gpu_only").decoded.schedule, figures_of(hw)
    explained = walk(schedule, price_figures(schedule.works, figures))
    experts = schedule.kind == OpKind.EXPERTS
    fixed_s = hw.stack.launches[OpKind.EXPERTS] * hw.constant("kernel_s")
    waves_s = float((explained.timeline.end_s - explained.timeline.start_s)[experts].sum()) - fixed_s * int(
        experts.sum()
    )
    found = elasticities(explained, find_probes(schedule, trace), figures, "makespan_s")["accelerator.n_sm"]
    assert found == pytest.approx(waves_s / explained.timeline.makespan_s, rel=1e-9)
