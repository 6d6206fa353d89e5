"""Every interpreter of a schedule gives the same start and end of every op, bit for bit."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from benchmarks import smallest_simpy
from hwmodels.cost import Costs, price
from hwmodels.platform import load_platform
from offload.caches.residency import ResidentSet
from offload.decode import decode
from offload.execution import EXECUTIONS
from offload.ops import Lane, OpKind, Work
from offload.placing.workload import measure_workload
from offload.policies import policy_named
from offload.recorder import Recorder
from offload.schedule import Schedule
from offload.slots.memory import CapacityExceeded
from simulator import recurrence
from simulator.definition import des
from simulator.events import event_engine
from simulator.explain.bounds import lower_bounds
from tests.small_models import MODELS, TRIED, routing
from traces.errors import InvalidInput

Times = tuple[list[float], list[float]]


def oracle(schedule: Schedule, issue_s: np.ndarray, duration_s: np.ndarray) -> Times:
    """The contract, as its docstring reads, in plain Python."""
    free = dict.fromkeys(Lane, 0.0)
    start: list[float] = []
    end: list[float] = []
    for i in range(len(schedule)):
        lane, row = Lane(int(schedule.lane[i])), int(schedule.cost[i])
        if lane is not Lane.HOST:
            free[Lane.HOST] = free[Lane.HOST] + float(issue_s[row])
        begin = max([free[lane], free[Lane.HOST], *(end[int(d)] for d in schedule.deps(i))])
        start.append(begin)
        end.append(begin + float(duration_s[row]))
        free[lane] = end[-1]
    return start, end


times = st.one_of(st.just(0.0), st.floats(1e-9, 10.0, allow_nan=False))


@st.composite
def schedules(draw: st.DrawFn) -> tuple[Schedule, np.ndarray, np.ndarray]:
    n_works, n_ops = draw(st.integers(1, 5)), draw(st.integers(1, 40))
    works = [Work(OpKind.GATE, flop=i) for i in range(n_works)]
    recorder = Recorder()
    for i in range(n_ops):
        deps = sorted(draw(st.sets(st.integers(0, i - 1), max_size=3))) if i else []
        recorder.issue(draw(st.sampled_from(list(Lane))), draw(st.sampled_from(works)), deps, step=0)
    schedule = recorder.schedule()
    n = len(schedule.works)
    issue, duration = (np.array(draw(st.lists(times, min_size=n, max_size=n))) for _ in range(2))
    return schedule, issue, duration


@given(schedules())
def test_the_yardstick_of_benchmarks_does_the_same(case: tuple[Schedule, np.ndarray, np.ndarray]) -> None:
    start, end = smallest_simpy.simulate(case[0], Costs(*case[1:]))
    assert (start.tolist(), end.tolist()) == oracle(*case)


def assert_agree(schedule: Schedule, issue_s: np.ndarray, duration_s: np.ndarray) -> Any:
    reference = des.simulate(schedule, Costs(issue_s, duration_s), hbm_bytes=1 << 50)
    plain = recurrence.simulate(schedule, Costs(issue_s, duration_s))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recurrence, "SMALL_OPS", -1)
        compiled = recurrence.simulate(schedule, Costs(issue_s, duration_s))
    by_events = event_engine.simulate(schedule, Costs(issue_s, duration_s))
    start, end = oracle(schedule, issue_s, duration_s)
    for timeline in (reference, plain, compiled, by_events):
        assert timeline.start_s.tolist() == start
        assert timeline.end_s.tolist() == end
    return reference


@given(schedules())
def test_random_schedules_agree_bit_for_bit(case: tuple[Schedule, np.ndarray, np.ndarray]) -> None:
    timeline = assert_agree(*case)
    bounds = lower_bounds(case[0], Costs(*case[1:]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("simulator.explain.bounds.SMALL_OPS", -1)
        assert lower_bounds(case[0], Costs(*case[1:])) == bounds
    assert timeline.makespan_s >= bounds.makespan_s * (1 - 1e-12)
    for lane in Lane:
        assert timeline.busy_s(lane) <= timeline.makespan_s * (1 + 1e-12)


@given(schedules(), st.integers(0, 4), st.floats(0.0, 1.0))
def test_a_shorter_cost_never_finishes_later(
    case: tuple[Schedule, np.ndarray, np.ndarray], row: int, factor: float
) -> None:
    schedule, issue_s, duration_s = case
    before = recurrence.simulate(schedule, Costs(issue_s, duration_s))
    row %= len(duration_s)
    for values in (issue_s, duration_s):
        values[row] *= factor
        after = recurrence.simulate(schedule, Costs(issue_s, duration_s))
        assert np.all(after.end_s <= before.end_s + 1e-12)
        before = after


@pytest.mark.parametrize("execution", TRIED)
@pytest.mark.parametrize("model", list(MODELS))
@pytest.mark.parametrize(
    "text", ["gpu_only", "on_demand", "prefetch_all", "pregate", "pregate(2)", "pregate(3)", "on_demand+lru:0.3",
             "pregate+lfu:4", "pregate(2)+lifo:0.5:per_layer", "prefetch_all+lru:0.6"]
)  # fmt: skip
def test_schedules_of_every_policy_agree(text: str, model: str, execution: str) -> None:
    architecture, policy = MODELS[model], policy_named(text)
    hw = load_platform("a100-sxm4-80gb", "streams")
    for batch in (1, 3):
        trace = routing(architecture, batch=batch)
        workload = measure_workload(architecture, trace.steps())
        buffers = policy.buffers(workload.n_active, architecture.n_experts)
        cache = None
        if policy.cache is not None:
            cache = ResidentSet(
                policy.cache.capacity(architecture.n_moe_layers, architecture.n_experts),
                policy.cache.eviction,
                per_layer=policy.cache.per_layer,
                n_layers=architecture.n_moe_layers,
                n_experts=architecture.n_experts,
            )
        n_buffers = max(buffers.full, workload.n_encoder_active)
        decoded = decode(architecture, trace.steps(), policy, EXECUTIONS[execution], n_buffers=n_buffers, cache=cache)
        costs = price(decoded.schedule.works, hw)
        assert_agree(decoded.schedule, costs.issue_s, costs.duration_s)


def test_hbm_one_byte_too_small_is_refused() -> None:
    model = MODELS["decoder-only"]
    trace = routing(model)
    decoded = decode(model, trace.steps(), policy_named("pregate"), EXECUTIONS["streams"], n_buffers=12, static_bytes=7)
    costs = price(decoded.schedule.works, load_platform("h100-sxm"))
    peak = recurrence.simulate(decoded.schedule, costs).peak_hbm_bytes
    des.simulate(decoded.schedule, costs, peak)
    with pytest.raises(CapacityExceeded, match="bytes of HBM"):
        des.simulate(decoded.schedule, costs, peak - 1)


def engines(schedule: Schedule, issue_s: np.ndarray, duration_s: np.ndarray) -> list[Any]:
    return [
        lambda: des.simulate(schedule, Costs(issue_s, duration_s), 1 << 50),
        lambda: recurrence.simulate(schedule, Costs(issue_s, duration_s)),
        lambda: event_engine.simulate(schedule, Costs(issue_s, duration_s)),
        lambda: lower_bounds(schedule, Costs(issue_s, duration_s)),
    ]


@pytest.mark.parametrize("times", [[], [1.0, 2.0], [-1.0], [np.nan], [np.inf]])
def test_every_interpreter_refuses_times_that_are_not(times: list[float]) -> None:
    recorder = Recorder()
    recorder.issue(Lane.COMPUTE, Work(OpKind.GATE), step=0)
    schedule, good, bad = recorder.schedule(), np.zeros(1), np.array(times)
    for issue_s, duration_s in ((good, bad), (bad, good)):
        for engine in engines(schedule, issue_s, duration_s):
            with pytest.raises(InvalidInput, match=r"issue_s|duration_s"):
                engine()


def test_giving_back_hbm_that_nobody_took_is_refused() -> None:
    recorder = Recorder()
    recorder.issue(Lane.H2D, Work(OpKind.FETCH), step=0, hbm_acquired=10)
    recorder.issue(Lane.H2D, Work(OpKind.FETCH), step=0, hbm_released=11)
    with pytest.raises(InvalidInput, match="op 1 gives back 11 bytes of HBM, ops have taken 10"):
        des.simulate(recorder.schedule(static_bytes=100), Costs(np.zeros(1), np.ones(1)), 1000)


def test_static_bytes_beyond_hbm_are_refused() -> None:
    with pytest.raises(CapacityExceeded, match="before the first op"):
        des.simulate(Recorder().schedule(static_bytes=11), Costs(np.zeros(0), np.zeros(0)), 10)


def test_nothing_to_do_ends_at_once() -> None:
    assert_agree(Recorder().schedule(), np.zeros(0), np.zeros(0))
