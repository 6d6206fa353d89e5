"""What a schedule's ops touch, derived without a clock or a device; and what proves that timing cannot matter."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import numpy as np
import pytest

from offload.caches.residency import ResidentSet
from offload.decode import decode
from offload.execution import EXECUTIONS
from offload.ffn_work import experts_work
from offload.ops import KINDS, Lane, OpKind, Work
from offload.policies import policy_named
from offload.recorder import Recorder
from offload.schedule import COLUMNS, Schedule
from offload.work import expert_copy_work, gate_work
from runtime.programs.passes import plan_passes
from runtime.programs.precedence import order_of
from runtime.programs.program import Program, build_program, cached_slots, resident_slots
from runtime.programs.races import UnsafeSchedule, check_races
from tests.small_models import MODELS, decoder_only, routing
from tests.unit.runtime.small_schedules import schedule_of
from traces.errors import InvalidInput
from traces.model.architecture import ModelArchitecture
from traces.phase import Phase
from traces.routing import Provenance, RoutingTrace

MODEL = MODELS["decoder-only"]
POLICIES = ["on_demand", "prefetch_all", "pregate", "pregate(2)", "pregate:encoder"]


def changed(schedule: Schedule, **columns: np.ndarray) -> Schedule:
    kept = {name: getattr(schedule, name) for name in COLUMNS}
    return Schedule(**(kept | columns), works=schedule.works, static_bytes=schedule.static_bytes)


def caches(model: ModelArchitecture, n_slots: int, eviction: str = "lru") -> ResidentSet:
    return ResidentSet(n_slots, eviction, n_layers=model.n_moe_layers, n_experts=model.n_experts)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("n_cached", [0, 4, 9])
def test_slots_hits_and_safety_follow_from_the_schedule_alone(name: str, policy: str, n_cached: int) -> None:
    model = MODELS[name]
    for batch, disk in ((1, False), (3, True)):
        trace = routing(model, batch=batch, seed=batch)
        cache = caches(model, n_cached, "lfu") if n_cached else None
        decoded = schedule_of(model, trace, policy, cache, disk=disk)
        program = build_program(model, trace.steps(), decoded.schedule)
        check_races(program)
        assert program.lookups[Phase.DECODE] == (decoded.n_lookups, decoded.n_hits)
        assert program.lookups[Phase.PREFILL] == (decoded.n_prefill_lookups, decoded.n_prefill_hits)
        assert program.n_staging == (EXECUTIONS["streams"].n_host_buffers if disk else 0)
        assert_slots_hold_what_is_read(program)


def assert_slots_hold_what_is_read(program: Program) -> None:
    """Replay the fetches: whoever reads a slot finds its expert there."""
    held = dict(program.initial)
    for op, kind in enumerate(program.schedule.kind.tolist()):
        slot = int(program.slot[op])
        if kind == OpKind.FETCH:
            held[slot] = program.key(op)
        elif kind == OpKind.EXPERTS and slot >= 0:
            assert held[slot] == program.key(op)


def test_every_token_reaches_its_experts_in_ascending_rank() -> None:
    trace = routing(MODEL, batch=3)
    program = build_program(MODEL, trace.steps(), schedule_of(MODEL, trace, "pregate").schedule)
    reached: dict[tuple[int, int, int], list[int]] = {}
    for op, (tokens, ranks) in program.routed.items():
        layer, expert = program.key(op)
        for token, rank in zip(tokens.tolist(), ranks.tolist(), strict=True):
            reached.setdefault((int(program.pass_of[op]), layer, token), [-1] * MODEL.top_k)[rank] = expert
    assert len(reached) == trace.n_tokens * MODEL.n_moe_layers
    for (i, layer, token), experts in reached.items():
        assert experts == sorted(program.passes.passes[i].experts[token, layer].tolist())


def test_a_warm_cache_starts_with_its_residents_in_their_slots() -> None:
    trace = routing(MODEL)
    cache = caches(MODEL, 5)
    cache.admit(1, [4, 2])
    cache.admit(2, [0])
    slots = cached_slots(cache, n_buffers=7)
    assert sorted(slots.values()) == [(1, 2), (1, 4), (2, 0)]
    assert set(slots) == {7 + slot for slot in cache.slots_in_use}
    decoded = schedule_of(MODEL, trace, "on_demand", cache, n_buffers=7)
    program = build_program(MODEL, trace.steps(), decoded.schedule, slots)
    assert sum(hits for _, hits in program.lookups.values()) == decoded.n_hits + decoded.n_prefill_hits
    assert_slots_hold_what_is_read(program)


def test_all_resident_reads_every_expert_from_its_own_slot() -> None:
    trace = routing(MODEL, batch=2)
    decoded = schedule_of(MODEL, trace, "gpu_only")
    program = build_program(MODEL, trace.steps(), decoded.schedule, resident_slots(MODEL))
    check_races(program)
    assert program.n_slots == MODEL.n_moe_layers * MODEL.n_experts
    assert program.lookups[Phase.DECODE] == (decoded.n_lookups, decoded.n_lookups)


@pytest.mark.parametrize("policy", ["on_demand", "pregate"])
@pytest.mark.parametrize("disk", [False, True])
def test_no_dependency_between_copies_and_ffns_can_be_left_out(policy: str, disk: bool) -> None:
    trace = routing(MODEL, seed=4, output_tokens=4)
    schedule = schedule_of(MODEL, trace, policy, n_buffers=MODEL.n_experts, disk=disk).schedule
    moving = (OpKind.FETCH, OpKind.DISK_READ, OpKind.EXPERTS)
    n_tried = 0
    for op, waits in enumerate(order_of(schedule).waits):
        for dep in waits:
            if schedule.kind[op] in moving and schedule.kind[dep] in moving and necessary(schedule, op, dep):
                with pytest.raises((UnsafeSchedule, InvalidInput), match=r"without waiting for op|no later op waits"):
                    check_races(build_program(MODEL, trace.steps(), without(schedule, op, dep)))
                n_tried += 1
    assert n_tried > 20


def without(schedule: Schedule, op: int, dep: int) -> Schedule:
    gone = int(schedule.dep_ptr[op]) + schedule.deps(op).tolist().index(dep)
    ptr = schedule.dep_ptr - (np.arange(len(schedule.dep_ptr)) > op)
    return changed(schedule, dep=np.delete(schedule.dep, gone), dep_ptr=ptr)


def necessary(schedule: Schedule, op: int, dep: int) -> bool:
    """Whether nothing else that is scheduled brings about that `dep` ends before `op` starts, or its expert matters.

    The last FFN of a block also waits for prefetches that turn out wrong; those it does not read.
    """
    if schedule.kind[op] == OpKind.EXPERTS:
        return bool(schedule.expert[op] == schedule.expert[dep])
    return not order_of(without(schedule, op, dep)).before(dep, op) and schedule.kind[dep] != OpKind.FETCH


def test_an_order_knows_lanes_host_waits_and_chains_of_dependencies() -> None:
    recorder = Recorder()
    gate = recorder.issue(Lane.COMPUTE, Work(OpKind.GATE), step=0)
    ids = recorder.issue(Lane.D2H, Work(OpKind.READBACK), (gate,), step=0)
    early = recorder.issue(Lane.H2D, Work(OpKind.FETCH), step=0)
    recorder.issue(Lane.HOST, Work(OpKind.WAIT), (ids,), step=0)
    fetch = recorder.issue(Lane.H2D, Work(OpKind.FETCH), (gate,), step=0)
    ffn = recorder.issue(Lane.COMPUTE, Work(OpKind.EXPERTS), (early, fetch), step=0)
    order = order_of(recorder.schedule())
    assert order.before(gate, ids)
    assert not order.before(gate, early)
    assert order.before(gate, fetch)  # through the ids and the host
    assert order.before(early, ffn)
    assert not order.before(ffn, fetch)
    assert order.waits == ((), (gate,), (), (ids,), (), (fetch,))  # what lanes and the host imply is left out


def test_sequences_share_rows_of_the_cache_one_after_the_other() -> None:
    steps = [(0, 0, 0), (0, 1, 0), (1, 0, 1), (2, 2, 0), (2, 0, 2), (3, 2, 1)]  # step, sequence, position
    step, sequence, position = (np.array(column) for column in zip(*steps, strict=True))
    experts = np.zeros((len(steps), 3, 1), dtype=np.int16)
    trace = RoutingTrace(experts, sequence, position, np.ones(len(steps)).astype(int), step, 6, Provenance("m", "t"))
    passes = plan_passes(decoder_only(top_k=1), trace.steps())
    rows = [{segment.sequence: segment.row for segment in one.segments} for one in passes.passes]
    assert rows == [{0: 0, 1: 1}, {0: 0}, {0: 0, 2: 1}, {2: 1}]
    assert (passes.n_rows, passes.n_context) == (2, 3)
    assert passes.passes[2].kv_places.tolist() == [2, 3]


def test_traces_that_cannot_be_run_are_refused() -> None:
    def trace_of(model: ModelArchitecture, position: list[int], phase: int) -> RoutingTrace:
        n = len(position)
        experts = np.tile(np.arange(model.top_k, dtype=np.int16), (n, model.n_moe_layers, 1))
        experts[:, : model.n_encoder_moe_layers if phase == Phase.DECODE else 0] = -1
        column = np.zeros(n, dtype=int)
        phases = np.full(n, phase)
        return RoutingTrace(experts, column, np.array(position), phases, column, model.n_experts, Provenance("m", "t"))

    gap = trace_of(MODEL, [0, 1], Phase.PREFILL)
    steps = [dataclasses.replace(step, position=np.array([0, 2], np.int32)) for step in gap.steps()]
    with pytest.raises(InvalidInput, match="step 0: the positions of sequence 0 are not consecutive"):
        plan_passes(MODEL, steps)
    switch = MODELS["encoder-decoder"]
    with pytest.raises(InvalidInput, match="sequence 0 decodes but was never encoded: keep the prefill steps"):
        plan_passes(switch, trace_of(switch, [0], Phase.DECODE).steps())


def test_schedules_that_are_not_of_the_trace_are_refused() -> None:
    trace, other = routing(MODEL, seed=0), routing(MODEL, seed=1)
    decoded = schedule_of(MODEL, trace, "on_demand").schedule
    steps = list(trace.steps())
    cases: list[tuple[Schedule, list, str]] = [
        (decoded, list(other.steps()), r"op \d+ computes expert \d of MoE layer \d for no token"),
        (decoded, steps[:-1], "the schedule runs step 4, which the trace does not have"),
        (schedule_of(MODEL, trace, "on_demand", execution="fastertransformer").schedule, steps,
         "into no slot: capture the schedule with a stack whose execution is 'streams'"),
        (schedule_of(MODEL, trace, "gpu_only").schedule, steps, "which no slot holds by then"),
        (changed(decoded, lane=np.where(decoded.kind == OpKind.HEAD, Lane.CPU, decoded.lane)), steps,
         "a HEAD, is on lane CPU: it runs on COMPUTE"),
        (changed(decoded, bytes=decoded.bytes * 2), steps, "the schedule is of another model"),
        (changed(decoded, slot=np.full(len(decoded), -1)), steps, "into no slot"),
    ]  # fmt: skip
    for schedule, of, message in cases:
        with pytest.raises(InvalidInput, match=message):
            build_program(MODEL, of, schedule)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (OpKind.DRAFT, "op 0 is a DRAFT: the runtime executes none, simulate it instead"),
        (OpKind.SORT, "op 0 sorts rows by expert on the host"),
        (OpKind.MASK, "op 0 fills a mask on the host"),
        (OpKind.SCHEDULE, "op 0 decides on a pass while another computes"),
        (OpKind.STREAM, "op 0 streams weights, keys or values: the runtime executes experts=cpu and layers=cpu"),
        (OpKind.ISSUE, "op 0 issues a run of copies"),
    ],
)
def test_a_kind_of_op_that_is_bound_to_nothing_is_refused(kind: OpKind, message: str) -> None:
    recorder = Recorder()
    recorder.issue(KINDS[kind].lane, Work(kind), step=0, layer=0)
    with pytest.raises(InvalidInput, match=message):
        build_program(MODEL, routing(MODEL).steps(), recorder.schedule())


def test_experts_computed_in_a_group_are_refused() -> None:
    trace = routing(MODEL)
    grouped = dataclasses.replace(EXECUTIONS["fastertransformer"], stage=False)
    decoded = decode(MODEL, trace.steps(), policy_named("on_demand"), grouped, n_buffers=12)
    with pytest.raises(InvalidInput, match=r"the trace asks for \d+ expert FFNs, the schedule has 0: it groups them"):
        build_program(MODEL, trace.steps(), decoded.schedule)


def test_reads_from_storage_share_buffers_as_far_as_the_schedule_lets_them() -> None:
    """Two reads ahead of their fetches need two staging buffers, a third that waits for the first fetch takes its."""
    model = decoder_only(top_k=1, n_experts=3)
    experts = np.full((1, 3, 1), -1, dtype=np.int16)
    experts[0, 0] = 0
    zero = np.zeros(1, dtype=int)
    trace = RoutingTrace(experts, zero, zero, zero + 1, zero, 3, Provenance("m", "t"))
    recorder = Recorder()
    disk, fetch = (expert_copy_work(model, kind) for kind in (OpKind.DISK_READ, OpKind.FETCH))

    def move(expert: int, after: tuple[int, ...]) -> int:
        read = recorder.issue(Lane.DISK, disk, after, step=0, layer=1, expert=expert)
        reads.append(read)
        return recorder.issue(Lane.H2D, fetch, (read,), step=0, layer=1, expert=expert, slot=expert)

    reads: list[int] = []
    recorder.issue(Lane.COMPUTE, gate_work(model, 1), step=0, layer=1)
    first = move(0, ())
    move(1, ())
    move(2, (first,))
    recorder.issue(Lane.COMPUTE, experts_work(model, [1]), (first,), step=0, layer=1, expert=0)
    program = build_program(model, trace.steps(), recorder.schedule())
    check_races(program)
    assert program.staging[reads].tolist() == [0, 1, 0]
    assert program.n_staging == 2


def test_torch_is_loaded_by_what_runs_alone() -> None:
    code = (
        "import sys, pregate, simulator, runtime.programs.races; "
        "sys.exit('torch' in sys.modules or 'llvmlite' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
