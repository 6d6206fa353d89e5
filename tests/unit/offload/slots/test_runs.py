"""Runs of copies: fewer ops, the same schedule. Each is unrolled and compared with what is written without runs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from hwmodels.cost import Costs, price
from hwmodels.platform import load_platform
from offload.decode import DecodeStream
from offload.execution import EXECUTIONS
from offload.ops import Lane, OpKind, Work
from offload.policies import policy_named
from offload.recorder import Recorder, assemble
from offload.schedule import Schedule
from offload.slots.copy_runs import run_work, unrolled
from offload.slots.memory import ExpertMemory
from pregate.ask.capturing.capture import capture
from simulator import recurrence
from simulator.costs import one_by_one
from simulator.definition import des
from simulator.events import event_engine
from simulator.modes import FIFO, Modes
from tests.small_models import MODELS, routing
from traces.model.architecture import ModelArchitecture

A100 = load_platform("a100-sxm4-80gb")
NAMES = list(MODELS)


def _prefetched(model: ModelArchitecture, n_buffers: int, execution: str = "fastertransformer") -> Schedule:
    steps = routing(model, batch=2, seed=3).steps()
    policy = policy_named("prefetch_all")
    stream = DecodeStream(model, steps, policy, EXECUTIONS[execution], n_buffers=n_buffers, compiled=False)
    return assemble(stream, 11)


def _one_by_one(
    model: ModelArchitecture, n_buffers: int, monkeypatch: pytest.MonkeyPatch, execution: str = "fastertransformer"
) -> Schedule:
    def without_runs(*args: Any, **more: Any) -> ExpertMemory:
        return ExpertMemory(*args[:6], in_runs=False, **{key: value for key, value in more.items() if key != "in_runs"})

    with monkeypatch.context() as patched:
        patched.setattr("offload.decoding.decode_loop.ExpertMemory", without_runs)
        return _prefetched(model, n_buffers, execution)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("spare", [0, 1, 3, 100])
def test_unrolled_is_the_schedule_without_runs(name: str, spare: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model = MODELS[name]
    n_buffers = min(model.n_experts + spare, 2 * model.n_experts)
    short, long = _prefetched(model, n_buffers), _one_by_one(model, n_buffers, monkeypatch)
    copies = unrolled(short)
    assert copies is not None
    assert len(short) < len(long)
    assert copies.schedule == long
    assert short.bytes.sum() == long.bytes.sum()


@pytest.mark.parametrize("name", NAMES)
def test_a_run_takes_the_time_of_its_copies(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """FIFO lanes: every op that is no copy starts and ends when it does without runs, but for rounding."""
    model = MODELS[name]
    times = []
    for schedule in (_prefetched(model, 2 * model.n_experts), _one_by_one(model, 2 * model.n_experts, monkeypatch)):
        timeline = recurrence.simulate(schedule, price(schedule.works, A100))
        others = ~np.isin(schedule.kind, (OpKind.FETCH, OpKind.STAGE, OpKind.ISSUE))
        times.append(np.stack([timeline.start_s[others], timeline.end_s[others]]))
    np.testing.assert_allclose(times[0], times[1], rtol=1e-9)


@pytest.mark.parametrize(
    "modes",
    [Modes("priority"), Modes("shared", hbm_shared=True), Modes(chunk_bytes=1000), Modes("priority", cancel=True)],
    ids=Modes.describe,
)
def test_modes_see_copies_one_by_one(modes: Modes, monkeypatch: pytest.MonkeyPatch) -> None:
    model = MODELS[NAMES[0]]
    short, long = (
        _prefetched(model, 2 * model.n_experts),
        _one_by_one(model, 2 * model.n_experts, monkeypatch),
    )
    costs, copies = price(short.works, A100), unrolled(short)
    assert copies is not None
    found = event_engine.simulate(short, costs, modes)
    defined = des.simulate(short, costs, A100.machine.accelerator.hbm_bytes, modes)
    assert found.schedule == defined.schedule == long
    np.testing.assert_allclose(found.end_s, defined.end_s, rtol=1e-12)
    alone = event_engine.simulate(long, price(long.works, A100), modes)
    np.testing.assert_allclose(found.end_s, alone.end_s, rtol=1e-9)
    shares = one_by_one(costs, copies).duration_s
    np.testing.assert_allclose(shares, price(copies.schedule.works, A100).duration_s, rtol=1e-12)


def test_where_experts_are_read_one_by_one_so_are_copies() -> None:
    model = MODELS[NAMES[0]]
    assert unrolled(_prefetched(model, 2 * model.n_experts, "streams")) is None


def test_a_host_that_waits_for_what_it_computes_issues_no_run_and_waits_without_runs_too() -> None:
    """Op 3 has the host wait for its own expert, op 0, before it issues the FFN; the run of op 1 is two copies."""
    recorder, fetch = Recorder(), Work(OpKind.FETCH, copy_bytes=10, weight_bits=8.0)
    expert = recorder.issue(Lane.CPU, Work(OpKind.CPU_EXPERT, flop=1), step=0)
    run = recorder.issue(Lane.H2D, run_work(fetch, 2), step=0, layer=0, expert=4, slot=0, hbm_acquired=20)
    recorder.issue(Lane.HOST, Work(OpKind.ISSUE, n_copies=1), step=0, layer=0)
    waits = recorder.issue(Lane.HOST, Work(OpKind.ISSUE, n_copies=0), (expert,), step=0, layer=0)
    recorder.issue(Lane.COMPUTE, Work(OpKind.EXPERTS, flop=1), (run,), step=0, layer=0)
    schedule = recorder.schedule()
    copies = unrolled(schedule)
    assert copies is not None
    whole = copies.schedule
    assert [OpKind(kind).name for kind in whole.kind.tolist()] == ["CPU_EXPERT", "FETCH", "FETCH", "ISSUE", "EXPERTS"]
    assert [whole.deps(op).tolist() for op in range(5)] == [[], [], [], [expert], [1, 2]]
    costs = Costs(np.zeros(5), np.array([5.0, 2.0, 0.0, 0.0, 1.0]), np.array([0.0, 2.0, 0.0, 0.0, 0.0]))
    assert waits == 3
    for found in (
        event_engine.simulate(schedule, costs, Modes("shared")),
        des.simulate(schedule, costs, 99, Modes("shared")),
    ):
        assert found.end_s.tolist() == [5.0, 2.0, 2.0, 5.0, 6.0]


@pytest.mark.parametrize("text", ["gpu_only@experts=cpu", "on_demand:cpu+lru:4", "gpu_only@kv=cpu"])
def test_designs_that_compute_on_the_issuing_thread_have_times_in_every_mode(text: str) -> None:
    hw, model = load_platform("rtx-4090", "llama-cpp"), MODELS["decoder-only"]
    schedule = capture(model, hw, routing(model, batch=2, seed=3), text).decoded.schedule
    costs = price(schedule.works, hw)
    for modes in (FIFO, Modes("shared", hbm_shared=True), Modes("priority", 1000, both_ways=True)):
        found = event_engine.simulate(schedule, costs, modes)
        assert np.array_equal(found.end_s, des.simulate(schedule, costs, 1 << 40, modes).end_s)
