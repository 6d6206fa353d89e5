"""The event engine does what SimPy does: bit for bit, with FIFO lanes and with everything that lanes cannot say."""

from __future__ import annotations

import dataclasses
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from hwmodels.cost import Costs, price
from hwmodels.platform import Platform, load_platform
from offload.caches.residency import ResidentSet
from offload.decode import decode
from offload.execution import EXECUTIONS
from offload.ops import Lane, OpKind, Work
from offload.placing.workload import measure_workload
from offload.policies import eviction_named
from offload.recorder import Recorder
from offload.schedule import Schedule
from pregate.ask.capturing.demands import demands
from pregate.named import load_model
from pregate.routing_traces import load_trace
from simulator import recurrence
from simulator.definition import des
from simulator.events import event_engine
from simulator.modes import FIFO, LINKS, Modes
from simulator.resources import RESOURCES, Resource
from tests.grids import one_in
from tests.small_models import MODELS, TRIED, WHOLE, routing, told
from traces.model.architecture import ModelArchitecture
from traces.routing import RoutingTrace

HBM_BYTES = 1 << 50

MODES = [
    FIFO,
    Modes(link="shared"),
    Modes(link="priority"),
    Modes(hbm_shared=True),
    Modes(cancel=True),
    Modes(chunk_bytes=3),
    Modes(link="priority", chunk_bytes=3, cancel=True),
    Modes(link="shared", chunk_bytes=3, hbm_shared=True, cancel=True),
    Modes(link="priority", chunk_bytes=2, hbm_shared=True, cancel=True),
    Modes(both_ways=True),
    Modes(dram_shared=True),
    Modes(beside_copies=True),
    Modes(
        link="shared", chunk_bytes=2, hbm_shared=True, cancel=True, both_ways=True, dram_shared=True, beside_copies=True
    ),
]

modes = st.builds(
    Modes,
    link=st.sampled_from(["fifo", "shared", "priority"]),
    chunk_bytes=st.sampled_from([None, 1, 2, 3, 7]),
    hbm_shared=st.booleans(),
    cancel=st.booleans(),
    both_ways=st.booleans(),
    dram_shared=st.booleans(),
    beside_copies=st.booleans(),
)
kinds = st.sampled_from([OpKind.FETCH, OpKind.STAGE, OpKind.READBACK, OpKind.EXPERTS, OpKind.WAIT])
times = st.one_of(st.sampled_from([0.0, 1.0, 2.0, 0.5]), st.floats(1e-3, 3.0, allow_nan=False))
shares = st.one_of(st.sampled_from([0.0, 0.5, 1.0]), st.floats(0.0, 1.0, allow_nan=False))


@st.composite
def jobs(draw: st.DrawFn) -> tuple[Schedule, Costs]:
    """A few ops on any lane, with exact ties, nothing-long ops, priorities and cancellations either way."""
    n_works, n_ops = draw(st.integers(1, 5)), draw(st.integers(1, 24))
    works = [Work(draw(kinds), flop=i, copy_bytes=draw(st.integers(0, 9))) for i in range(n_works)]
    recorder = Recorder()
    for i in range(n_ops):
        deps = sorted(draw(st.sets(st.integers(0, i - 1), max_size=2))) if i else []
        lane = draw(st.sampled_from([Lane.HOST, Lane.COMPUTE, Lane.H2D, Lane.H2D, Lane.D2H, Lane.DISK, Lane.CPU]))
        recorder.issue(lane, draw(st.sampled_from(works)), deps, step=0, priority=draw(st.integers(0, 2)))
    for i in range(n_ops):
        by = draw(st.integers(-2, n_ops - 1))
        if by >= 0 and by != i:
            recorder.cancel(i, by)
    schedule = recorder.schedule()
    n = len(schedule.works)
    columns = {name: np.array(draw(st.lists(times, min_size=n, max_size=n))) for name in ("issue", "duration")}
    link, hbm = (np.array(draw(st.lists(shares, min_size=n, max_size=n))) * columns["duration"] for _ in range(2))
    slower = np.array(draw(st.lists(st.sampled_from([1.0, 1.5, 3.0]), min_size=n, max_size=n)))
    kept = np.array(draw(st.lists(st.sampled_from([1.0, 0.7, 0.25]), min_size=n, max_size=n)))
    return schedule, Costs(columns["issue"], columns["duration"], link, hbm, link * slower, kept, kept[::-1])


def assert_alike(schedule: Schedule, costs: Costs, chosen: Modes) -> None:
    reference = des.simulate(schedule, costs, HBM_BYTES, chosen)
    found = event_engine.simulate(schedule, costs, chosen)
    assert found.start_s.tolist() == reference.start_s.tolist()
    assert found.end_s.tolist() == reference.end_s.tolist()


@given(jobs(), modes)
@settings(max_examples=100)  # of few ops, in any of some hundred modes
def test_random_schedules_agree_in_every_mode(job: tuple[Schedule, Costs], chosen: Modes) -> None:
    assert_alike(*job, chosen)


@given(jobs(), modes, st.lists(st.floats(0.05, 1.0), min_size=2, max_size=2))
def test_random_schedules_agree_when_more_is_shared(
    job: tuple[Schedule, Costs], chosen: Modes, drawn: list[float]
) -> None:
    """Two rows more: one divided among four lanes, one of which three keep a share beside each other."""
    divided = Resource(lambda modes: True, LINKS, (Lane.DISK, Lane.COMPUTE), lambda costs, alone_s: drawn[0], True)
    kept = Resource(lambda modes: True, (Lane.H2D,), (Lane.DISK, Lane.CPU), lambda costs, alone_s: drawn[1], False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(RESOURCES, "switch", divided)
        patch.setitem(RESOURCES, "board", kept)
        assert_alike(*job, dataclasses.replace(chosen, cancel=True))


@given(jobs())
def test_without_modes_all_engines_agree(job: tuple[Schedule, Costs]) -> None:
    assert_alike(*job, FIFO)
    assert event_engine.simulate(*job).end_s.tolist() == recurrence.simulate(*job).end_s.tolist()


@given(jobs(), modes)
def test_causes_come_before_effects_in_every_mode(job: tuple[Schedule, Costs], chosen: Modes) -> None:
    schedule, costs = job
    timeline = event_engine.simulate(schedule, costs, chosen)
    for i in range(len(schedule)):
        for dep in schedule.deps(i).tolist():
            assert timeline.start_s[i] >= timeline.end_s[dep]
        cancelled = chosen.cancel and schedule.cancelled_by[i] >= 0
        if not cancelled:
            least = float(costs.duration_s[schedule.cost[i]])
            assert timeline.end_s[i] - timeline.start_s[i] >= least * (1 - 1e-9) - 1e-12


def test_a_prepared_schedule_serves_many_machines() -> None:
    model = MODELS["decoder-only"]
    schedule = captured(model, routing(model), "pregate", "streams")
    prepared = event_engine.prepare(schedule)
    for bandwidth in (1e6, 1e9):
        costs = price(schedule.works, load_platform("rtx-4090", "streams", {"link.h2d_bytes_per_s": bandwidth}))
        once, again = event_engine.simulate(schedule, costs), event_engine.simulate(schedule, costs, prepared=prepared)
        assert once.end_s.tolist() == again.end_s.tolist()


@pytest.mark.parametrize("chosen", [FIFO, Modes("shared", hbm_shared=True), Modes("priority", 100, cancel=True)])
def test_threads_that_share_a_prepared_schedule_do_not_disturb_each_other(chosen: Modes) -> None:
    """The engine releases the interpreter lock, and keeps its state to itself."""
    model = MODELS["encoder-decoder"]
    schedule = captured(model, routing(model, batch=2), "pregate", "fastertransformer")
    prepared = event_engine.prepare(schedule)
    machines = [{"link.h2d_bytes_per_s": float(bandwidth)} for bandwidth in np.geomspace(1e6, 1e10, 16)]
    costs = [price(schedule.works, load_platform("rtx-4090", "streams", machine)) for machine in machines]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda mine: event_engine.simulate(schedule, mine, chosen, prepared), costs))
    for timeline, mine in zip(together, costs, strict=True):
        assert timeline.end_s.tolist() == event_engine.simulate(schedule, mine, chosen).end_s.tolist()


@given(
    st.sampled_from([*WHOLE, "pregate(2)", "pregate+lru:4", "prefetch_all+fifo:7"]),
    st.sampled_from(list(MODELS)),
    st.sampled_from(TRIED),
    st.integers(0, 10**6),
    st.integers(0, 6),
    st.integers(0, 12),
    st.floats(5.0, 12.0),
    modes,
)
def test_random_policies_capacities_and_machines_agree(
    text: str, name: str, execution: str, seed: int, spare: int, n_slots: int, log_bandwidth: float, chosen: Modes
) -> None:
    """FIFO bit for bit on all three engines, and in a mode on both that know modes."""
    model = MODELS[name]
    trace = routing(model, batch=1 + seed % 3, seed=seed, output_tokens=3)
    schedule = captured(model, trace, text, execution, spare=spare, n_slots=n_slots)
    overrides = {"link.h2d_bytes_per_s": 10.0**log_bandwidth, "stack.launch_s": 1e-7 * (1 + seed % 50)}
    costs = price(schedule.works, load_platform("a100-sxm4-80gb", "streams", overrides))
    assert_alike(schedule, costs, FIFO)
    assert event_engine.simulate(schedule, costs).end_s.tolist() == recurrence.simulate(schedule, costs).end_s.tolist()
    cut = None if chosen.chunk_bytes is None else max(model.expert_bytes // chosen.chunk_bytes, 1)
    assert_alike(schedule, costs, dataclasses.replace(chosen, chunk_bytes=cut))


def captured(
    model: ModelArchitecture,
    trace: RoutingTrace,
    text: str,
    execution: str,
    *,
    spare: int | None = None,
    n_slots: int = 6,
) -> Schedule:
    """A schedule with `spare` buffers above the fewest, or all it can use, and a cache of `n_slots` unless it says."""
    policy, workload = told(text), measure_workload(model, trace.steps())
    cache = None
    if policy.cache is not None:
        n_slots = n_slots if policy.cache.n_slots is None else policy.cache.n_slots
        n_encoder_keys = model.n_encoder_moe_layers * model.n_experts
        eviction = eviction_named(policy.cache.eviction, n_encoder_keys, lambda: demands(model, trace))
        cache = ResidentSet(n_slots, eviction, n_layers=model.n_moe_layers, n_experts=model.n_experts)
    minimum, full = policy.buffers(workload.n_active, model.n_experts)
    n_buffers = max(full if spare is None else minimum + spare, workload.n_encoder_active)
    return decode(model, trace.steps(), policy, EXECUTIONS[execution], n_buffers=n_buffers, cache=cache).schedule


QUICK = {"stack.launch_s": 1e-7}


@cache
def over_a_link_of(h2d_bytes_per_s: float) -> Platform:
    return load_platform("a100-sxm4-80gb", "streams", {"link.h2d_bytes_per_s": h2d_bytes_per_s, **QUICK})


@pytest.mark.parametrize(("text", "name", "execution"), one_in(2, [*WHOLE, "pregate(2)"], MODELS, TRIED))
def test_every_preset_agrees_in_every_mode(text: str, name: str, execution: str) -> None:
    """Every third mode, over a slow link or a fast one: over models a preset meets each, the next one over the other
    link, and over executions over both.
    """
    model = MODELS[name]
    schedule = captured(model, routing(model, batch=2, output_tokens=3), text, execution)
    priced = [price(schedule.works, over_a_link_of(rate)) for rate in (1e7, 1e10)]
    on, by = list(MODELS).index(name), list(TRIED).index(execution)
    for i, chosen in list(enumerate(MODES))[on::3]:
        n, costs = chosen.chunk_bytes, priced[(by + i) % 2]
        assert_alike(schedule, costs, dataclasses.replace(chosen, chunk_bytes=n and model.expert_bytes // n))


RECORDED = [FIFO, Modes(link="shared", hbm_shared=True), Modes("priority", 1 << 22, cancel=True)]


@pytest.mark.parametrize(
    ("asked", "name"),
    one_in(
        2,
        [*((text, 8, mode) for text in ("pregate", "lru") for mode in RECORDED), ("prefetch_all", 1, RECORDED[2])],
        ["gpt-oss-120b", "qwen3-30b-a3b"],
    ),
)
def test_recorded_traces_agree(asked: tuple[str, int, Modes], name: str) -> None:
    """The first tokens that were generated; one is many ops where whole layers are prefetched."""
    text, n_steps, chosen = asked
    whole = load_trace(f"{name}-phone").decode_only()
    keep = whole.step < n_steps
    trace = RoutingTrace(
        whole.experts[keep], whole.sequence[keep], whole.position[keep], whole.phase[keep], whole.step[keep],
        whole.n_experts, whole.provenance,
    )  # fmt: skip
    schedule = captured(load_model(name).with_top_k(trace.top_k), trace, text, "streams")
    assert_alike(schedule, price(schedule.works, load_platform("rtx-4090", "streams")), chosen)
