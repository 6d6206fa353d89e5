"""Whatever the policy, the runtime ends in the same hidden states, bit for bit, having moved the schedule's bytes."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path

import numpy as np
import pytest

from hwmodels.platform import load_platform
from offload.decode import decode
from offload.execution import EXECUTIONS
from offload.ops import Lane, OpKind
from offload.policies import policy_named
from offload.schedule import COLUMNS, Schedule
from pregate.ask.capturing.capture import Captured, capture_request
from pregate.ask.capturing.request import request
from pregate.ask.capturing.starting_cache import resident_set
from tests.small_models import MODELS, in_parts, routing
from traces.errors import InvalidInput, PregateError
from traces.model.architecture import ModelArchitecture
from traces.phase import Phase
from traces.routing import RoutingTrace

torch = pytest.importorskip("torch", reason="the runtime needs PyTorch (the extra 'runtime')")

from runtime.backends.backend import Times  # noqa: E402
from runtime.backends.cpu import CpuBackend  # noqa: E402
from runtime.backends.pacing import Link  # noqa: E402
from runtime.model import bound_pass  # noqa: E402
from runtime.model.weights import Experts  # noqa: E402
from runtime.programs.precedence import order_of  # noqa: E402
from runtime.programs.program import ExpertKey, build_program, cached_slots, resident_slots  # noqa: E402
from runtime.programs.races import UnsafeSchedule  # noqa: E402
from runtime.run import MeasuredRun, OutputMismatch, check_same_output, execute  # noqa: E402
from tests.close_outputs import check_close_output  # noqa: E402

HW = load_platform("rtx-4090", "pytorch-eager")
POLICIES = [
    "gpu_only", "on_demand", "prefetch_all", "pregate", "pregate(2)", "pregate:encoder", "lru", "lfu",
    "on_demand+lru:0.3", "pregate+lfu:4", "on_demand+lru:5:warm", "prefetch_all+random:3:per_layer",
    "on_demand:granularity=matrix", "pregate:granularity=matrix+lru:4", "on_demand+lru:5:write_back",
    "on_demand:granularity=matrix+lru:4:warm:write_back", "lru_next_gate+lru:4:write_back", "pregate:granularity=64kB",
]  # fmt: skip


def captured(
    model: ModelArchitecture, trace: RoutingTrace, policy: str, tier: str = "dram"
) -> tuple[Captured, dict[int, ExpertKey]]:
    """A schedule, and the experts that are in slots before it starts."""
    asked = request(model, HW, trace, policy, expert_tier=tier)
    cache = resident_set(asked)
    initial = resident_slots(model) if asked.policy.resident else {}
    if cache is not None:
        initial = cached_slots(cache, asked.plan.n_buffers)
    return capture_request(asked), initial


def run(
    model: ModelArchitecture, trace: RoutingTrace, policy: str, experts: Experts, *,
    tier: str = "dram", storage: Path | None = None,
) -> tuple[MeasuredRun, Captured]:  # fmt: skip
    what, initial = captured(model, trace, policy, tier)
    schedule = what.decoded.schedule
    done = execute(CpuBackend(), model, trace.steps(), schedule, initial=initial, experts=experts, storage=storage)
    return done, what


@pytest.mark.parametrize("name", MODELS)
def test_prompts_attended_to_together_end_where_each_alone_does(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = MODELS[name]
    trace, experts = routing(model, batch=3, seed=3, input_tokens=5), Experts(model)
    together, _ = run(model, trace, "gpu_only", experts)
    monkeypatch.setattr(bound_pass, "segments_alike", lambda segments: ((one,) for one in segments))
    alone, _ = run(model, trace, "gpu_only", experts)
    check_close_output(together, alone, 1e-5)


@pytest.mark.parametrize(
    ("name", "batch"),
    [
        pytest.param(name, batch, marks=[pytest.mark.thorough] if (i, batch) in ((1, 3), (2, 1)) else [])
        for i, name in enumerate(MODELS)
        for batch in (1, 3)
    ],
)
def test_all_policies_end_in_the_same_hidden_states(name: str, batch: int, tmp_path: Path) -> None:
    """Every other policy beside the resident run, the others in the other batch; the next model has it turned round."""
    model, turn = MODELS[name], (list(MODELS).index(name) + batch // 3) % 2
    trace = routing(model, batch=batch, seed=7, output_tokens=4)
    experts = Experts(model)
    runs = {}
    for policy in dict.fromkeys(["gpu_only", *POLICIES[turn::2]]):
        tiers = ("dram", "ssd") if policy in ("on_demand", "pregate", "lru") else ("dram",)
        for tier in tiers:
            done, what = run(model, trace, policy, experts, tier=tier, storage=tmp_path)
            runs[f"{policy} from {tier}"] = done
            schedule, decoded = what.decoded.schedule, what.decoded
            assert done.lookups[Phase.DECODE] == (decoded.n_lookups, decoded.n_hits)
            assert done.lookups[Phase.PREFILL] == (decoded.n_prefill_lookups, decoded.n_prefill_hits)
            for lane in Lane:
                assert done.moved_bytes[lane] == schedule.bytes[schedule.lane == lane].sum()
            assert_sane(done)
    assert check_same_output(runs) == runs["gpu_only from dram"].digest
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["decoder-only", "shared experts, three matrices"])
def test_a_prompt_in_several_steps_ends_in_the_states_of_the_whole(name: str) -> None:
    """Of one word, since ids are drawn by the step; what a token is depends on its experts and on who came before."""
    model = dataclasses.replace(MODELS[name], vocab_size=1)
    whole, experts, states = routing(model, batch=2, seed=3, input_tokens=7), Experts(model), []
    for one in (whole, in_parts(whole, 4)):
        done, what = run(model, one, "on_demand+lru:0.3", experts)
        assert np.count_nonzero(what.decoded.schedule.kind == OpKind.HEAD) == whole.n_steps
        ran = np.lexsort((one.position, one.sequence, one.step))
        states.append(done.states[np.lexsort((one.position[ran], one.sequence[ran]))])
    assert np.abs(states[0] - states[1]).max() < 1e-5 * np.abs(states[0]).max()


def assert_sane(done: MeasuredRun) -> None:
    """Ops of one lane follow one another, and none starts before what it depends on has ended."""
    timeline, schedule = done.timeline, done.timeline.schedule
    for lane in Lane:
        mine = np.flatnonzero(schedule.lane == lane)
        assert np.all(timeline.start_s[mine][1:] >= timeline.end_s[mine][:-1])
    owner = np.repeat(np.arange(len(schedule)), np.diff(schedule.dep_ptr))
    assert np.all(timeline.start_s[owner] >= timeline.end_s[schedule.dep])
    assert timeline.start_s.min() == 0
    assert timeline.source == "cpu"


def test_a_paced_link_is_never_faster_than_it_says() -> None:
    model = MODELS["decoder-only"]
    trace = routing(model, batch=2, output_tokens=3)
    what, _ = captured(model, trace, "pregate")
    link = Link(bytes_per_s=50e6, latency_s=1e-4)
    done = execute(CpuBackend(h2d=link), model, trace.steps(), what.decoded.schedule)
    mine = done.timeline.schedule.kind == OpKind.FETCH
    end_s = done.timeline.end_s[mine]
    least_s = np.arange(1, len(end_s) + 1) * (1e-4 + model.expert_bytes / 50e6)
    assert np.all(end_s >= least_s - 1e-4)  # a copy that ended late does not delay the next one's clock


def without(schedule: Schedule, op: int, dep: int) -> Schedule:
    """The schedule in which `op` no longer waits for `dep`."""
    columns = {name: getattr(schedule, name) for name in COLUMNS}
    gone = int(schedule.dep_ptr[op]) + schedule.deps(op).tolist().index(dep)
    columns["dep"] = np.delete(schedule.dep, gone)
    columns["dep_ptr"] = schedule.dep_ptr - (np.arange(len(schedule.dep_ptr)) > op)
    return Schedule(**columns, works=schedule.works, static_bytes=schedule.static_bytes)


def edges(schedule: Schedule, kind: OpKind, of: OpKind) -> list[tuple[int, int]]:
    """Ops of `kind`, with an op of kind `of` that each waits for."""
    return [
        (op, dep)
        for op in np.flatnonzero(schedule.kind == kind).tolist()
        for dep in schedule.deps(op).tolist()
        if schedule.kind[dep] == of
    ]


def few_slots(policy: str) -> tuple[ModelArchitecture, RoutingTrace, Schedule]:
    """One sequence, as many slots as one block needs: every slot is refilled again and again."""
    model = MODELS["decoder-only"]
    trace = routing(model, seed=2)
    decoded = decode(model, trace.steps(), policy_named(policy), EXECUTIONS["streams"], n_buffers=model.n_experts)
    return model, trace, decoded.schedule


def held_until(op: int, end: int, schedule: Schedule) -> CpuBackend:
    """A back end on which `op` begins no sooner than `end`, which does not wait for it, has ended."""
    assert not order_of(schedule).before(op, end)

    def late(running: int) -> None:
        while running == op and not backend._end_ns[end] and not backend._stop[0]:
            time.sleep(1e-3)

    backend = CpuBackend(disturb=late)
    return backend


@pytest.mark.parametrize("prove", [True, False])
def test_an_ffn_that_does_not_wait_for_its_expert_is_caught(prove: bool) -> None:
    model, trace, schedule = few_slots("on_demand")
    good = execute(CpuBackend(), model, trace.steps(), schedule)
    op, fetch = edges(schedule, OpKind.EXPERTS, OpKind.FETCH)[-1]
    broken = schedule
    for dep in schedule.deps(op).tolist():
        broken = without(broken, op, dep)
    if prove:
        with pytest.raises(UnsafeSchedule, match=f"op {op} reads slot .* without waiting for op {fetch} .FETCH"):
            execute(CpuBackend(), model, trace.steps(), broken)
        return
    bad = execute(held_until(fetch, op, broken), model, trace.steps(), broken, prove=False)
    with pytest.raises(OutputMismatch, match=r"broken and good disagree in the hidden states of forward pass \d+"):
        check_same_output({"good": good, "broken": bad})


@pytest.mark.parametrize("prove", [True, False])
def test_a_slot_refilled_while_its_expert_is_in_use_is_caught(prove: bool) -> None:
    model, trace, schedule = few_slots("pregate")
    good = execute(CpuBackend(), model, trace.steps(), schedule)
    slot = build_program(model, trace.steps(), schedule).slot
    op, dep = edges(schedule, OpKind.FETCH, OpKind.EXPERTS)[0]
    broken = without(schedule, op, dep)  # the last FFN of the block that had the slot
    reader = max(i for i in range(op) if schedule.kind[i] == OpKind.EXPERTS and slot[i] == slot[op])
    assert schedule.expert[reader] != schedule.expert[op]
    if prove:
        with pytest.raises(
            UnsafeSchedule, match=f"op {op} overwrites slot .* without waiting for op {reader} .EXPERTS"
        ):
            execute(CpuBackend(), model, trace.steps(), broken)
        return
    bad = execute(held_until(reader, op, broken), model, trace.steps(), broken, prove=False)
    with pytest.raises(OutputMismatch):
        check_same_output({"good": good, "broken": bad})


def test_ids_read_back_before_their_gate_are_caught() -> None:
    model, trace, schedule = few_slots("on_demand")
    op, gate = edges(schedule, OpKind.READBACK, OpKind.GATE)[0]
    broken = without(schedule, op, gate)

    with pytest.raises(OutputMismatch, match="ids that the host read back are not those that the gates chose"):
        execute(held_until(gate, op, broken), model, trace.steps(), broken, prove=False)


def test_runs_of_other_workloads_are_not_compared() -> None:
    model = MODELS["decoder-only"]
    experts = Experts(model)
    runs = {str(seed): run(model, routing(model, seed=seed), "gpu_only", experts)[0] for seed in (0, 1)}
    with pytest.raises(OutputMismatch, match="1 and 0 disagree in the hidden states of forward pass 0"):
        check_same_output(runs)
    assert check_close_output(runs["0"], runs["0"]) == 0
    with pytest.raises(OutputMismatch, match="one of them computes something else"):
        check_close_output(runs["0"], runs["1"])


def test_a_lane_that_moved_other_bytes_than_scheduled_is_caught() -> None:
    class Miscounting(CpuBackend):
        def times(self) -> Times:
            times = super().times()
            return Times(times.start_s, times.end_s, {**times.moved_bytes, Lane.H2D: 1})

    model, trace, schedule = few_slots("on_demand")
    with pytest.raises(OutputMismatch, match=r"lane H2D moved 1 bytes, not \d+"):
        execute(Miscounting(), model, trace.steps(), schedule)


def test_a_back_end_serves_one_run() -> None:
    model, trace, schedule = few_slots("on_demand")
    backend = CpuBackend()
    execute(backend, model, trace.steps(), schedule)
    with pytest.raises(InvalidInput, match="a back end serves one run: make another for the next"):
        execute(backend, model, trace.steps(), schedule)


def test_what_does_not_fit_ends_in_one_line() -> None:
    model = MODELS["decoder-only"]
    trace = routing(model)
    what, initial = captured(model, trace, "gpu_only")
    with pytest.raises(PregateError, match=r"^expert slots: .* GB do not fit, .* try a larger --hbm.*$"):
        execute(
            CpuBackend(hbm_bytes=model.non_expert_bytes + 100_000), model, trace.steps(), what.decoded.schedule,
            initial=initial,
        )  # fmt: skip


def test_layers_on_the_host_do_not_run_a_part_of_a_prompt() -> None:
    model = MODELS["decoder-only"]
    parts = in_parts(routing(model, batch=2, input_tokens=7), 4)
    what, initial = captured(model, parts, "gpu_only@layers=cpu:2")
    with pytest.raises(InvalidInput, match="step 0 reads a part of a prompt, of which the host computes layers"):
        build_program(model, parts.steps(), what.decoded.schedule, initial)
    what, initial = captured(model, parts, "gpu_only@experts=cpu")
    done = execute(CpuBackend(), model, parts.steps(), what.decoded.schedule, initial=initial)
    assert np.all(np.abs(done.states).max(axis=1) > 0)
