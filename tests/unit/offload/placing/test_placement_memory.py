"""What a placement leaves in HBM and asks of the host, shares of it included."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from hwmodels.cost import price
from hwmodels.platform import load_platform
from hwmodels.stacks.stack_files import stack_names
from offload import work
from offload.decode import Decoded
from offload.execution import EXECUTIONS
from offload.ops import OpKind, Work
from offload.placing.footprint import plan_memory
from offload.placing.placed import place
from offload.placing.placement_clauses import placement_named
from offload.placing.workload import measure_workload
from offload.policies import policy_named
from offload.slots.memory import CapacityExceeded
from pregate import load_hardware, simulate
from pregate.ask.capturing.capture import capture
from pregate.ask.capturing.machine_memory import memory_of
from tests.small_models import routing
from tests.unit.offload.placing.placed_schedules import HW, MODEL, TRACE, count, written
from traces.errors import InvalidInput
from traces.model.layer_bytes import layer_weight_bytes


def test_hbm_holds_what_the_placement_leaves_there() -> None:
    workload = measure_workload(MODEL, TRACE.steps())

    def static(text: str, execution: str = "streams") -> int:
        policy = policy_named(f"gpu_only@{text}" if text else "gpu_only")
        run = policy.placement.execution(EXECUTIONS[execution])
        return plan_memory(MODEL, workload, policy, run, hbm_bytes=1 << 40, reserve_bytes=0).static_bytes

    whole, expert = static(""), MODEL.expert_bytes
    weights, element_bytes = layer_weight_bytes(MODEL), MODEL.stored_kv_dtype.bytes_per_param
    kv = [mixer.kv_elements_per_token * element_bytes for mixer in MODEL.decoder.all_mixers if mixer is not None]
    n_experts = MODEL.n_moe_layers * MODEL.n_experts
    assert whole - static("experts=cpu") == n_experts * expert
    assert whole - static("experts=cpu:2") == MODEL.n_experts * expert  # layers 0 and 1, of which 1 has experts
    assert whole - static("experts=cpu:keep=2") == (n_experts - 2 * MODEL.n_moe_layers) * expert
    first = weights[0] + weights[1] + MODEL.n_experts * expert + 2 * workload.n_cached_tokens * kv[0]
    assert whole - static("layers=cpu:2") == first
    assert whole - static("weights=stream") == sum(weights) - 2 * max(weights)
    assert whole - static("kv=cpu") == workload.n_cached_tokens * sum(kv)
    assert static("experts=cpu@ubatch=3") < static("experts=cpu")
    assert static("experts=cpu@stream=2") > static("experts=cpu")


def test_host_memory_must_hold_what_is_placed_there() -> None:
    hw = load_hardware("rtx-4090", stack="streams")
    trace = routing(MODEL, batch=1)
    small = dataclasses.replace(memory_of(hw), dram_bytes=1000)
    with pytest.raises(CapacityExceeded, match="of host memory"):
        capture(MODEL, small, trace, "gpu_only@experts=cpu")
    with pytest.raises(CapacityExceeded, match="of host memory"):
        capture(MODEL, small, trace, "gpu_only@kv=cpu")
    capture(MODEL, small, trace, "gpu_only")


def test_a_policy_decides_about_the_experts_that_the_placement_leaves() -> None:
    decoded = written("experts=cpu:2", policy="pregate")
    schedule = decoded.schedule
    assert not np.any((schedule.kind == OpKind.FETCH) & (schedule.layer == 1))
    assert set(schedule.layer[schedule.kind == OpKind.FETCH].tolist()) == {2, 3}
    assert set(schedule.layer[schedule.kind == OpKind.CPU_EXPERT].tolist()) == {1}


def test_misses_of_a_static_cache_run_on_the_host() -> None:
    kept = written("experts=cpu:keep=2", "streams")
    hw = load_hardware("rtx-4090", stack="streams")
    cached = capture(MODEL, hw, TRACE, "on_demand:cpu+static:6:per_layer").decoded
    assert count(cached, OpKind.FETCH) == 0
    popular = capture(MODEL, hw, TRACE, "gpu_only@experts=cpu:keep=2").decoded
    for kind in (OpKind.CPU_EXPERT, OpKind.HANDOVER, OpKind.RETURN):
        assert count(popular, kind) == count(cached, kind)
    assert count(popular, OpKind.CPU_EXPERT) <= count(kept, OpKind.CPU_EXPERT)


@pytest.mark.parametrize("stack", stack_names())
def test_the_host_reads_no_faster_than_its_cores_and_sockets(stack: str) -> None:
    base = load_platform("rtx-4090", stack)
    what = work.cpu_expert_work(MODEL, 1)
    moved = what.weight_bytes

    def took(**numbers: float) -> float:
        overrides = {key.replace("__", "."): value for key, value in numbers.items()}
        return float(price([what], load_platform("rtx-4090", stack, overrides)).duration_s[0])

    efficiency, core = base.constant("cpu_efficiency"), base.constant("cpu_core_bytes_per_s")
    many = {"host__peak_flop_per_s": 1e16, "host__n_cores": 1000, "host__read_efficiency": 1.0}
    assert took(**many, host__dram_bytes_per_s=1e11) == pytest.approx(moved / (1e11 * efficiency))
    assert took(**{**many, "host__n_cores": 1}, host__dram_bytes_per_s=1e12) == pytest.approx(moved / core)
    sockets = min(base.constant("cpu_sockets"), 4) / 4
    four = took(**many, host__dram_bytes_per_s=1e11, host__n_sockets=4)
    assert four == pytest.approx(moved / (1e11 * efficiency * sockets))


def stream_bytes(decoded: Decoded) -> int:
    return int(decoded.schedule.bytes[decoded.schedule.kind == OpKind.STREAM].sum())


def test_a_share_of_the_experts_is_of_all_layers_as_near_as_whole_experts_can_be() -> None:
    """Six experts in each of three layers: 0.4 of them elsewhere leave 3.6 a layer, 10.8 of 18 in all."""
    kept = [place(MODEL, placement_named(f"experts=cpu:share={share}")).kept for share in (0.4, 0.5, 1.0, 0.01)]
    assert [[len(one or ()) for one in layers] for layers in kept] == [[4, 3, 4], [3, 3, 3], [0, 0, 0], [6, 6, 6]]
    assert kept[1] == place(MODEL, placement_named("experts=cpu:keep=3")).kept
    some = place(MODEL, placement_named("experts=cpu:2-:share=0.5")).kept
    assert [one and len(one) for one in some] == [None, 3, 3]


def test_the_popular_experts_of_a_share_stay() -> None:
    popularity = np.zeros((3, 6))
    popularity[:, 5] = 1.0
    assert 5 in (place(MODEL, placement_named("experts=cpu:share=0.8"), popularity).kept[1] or ())
    first = place(MODEL, placement_named("experts=cpu:share=0.8:uniform"), popularity).kept
    assert first == place(MODEL, placement_named("experts=cpu:share=0.8")).kept
    asked = [capture(MODEL, HW, TRACE, f"gpu_only@experts=cpu:share=0.5{rest}").request for rest in ("", ":uniform")]
    assert asked[0].placed.kept != asked[1].placed.kept


@pytest.mark.parametrize("part", ["weights=stream", "kv=stream"])
def test_a_share_streams_so_many_bytes_and_the_rest_takes_hbm(part: str) -> None:
    whole, half = (capture(MODEL, HW, TRACE, f"gpu_only@{text}") for text in (part, f"{part}:share=0.5"))
    assert stream_bytes(half.decoded) == pytest.approx(stream_bytes(whole.decoded) / 2, rel=1e-3)
    plain = capture(MODEL, HW, TRACE, "gpu_only").plan.static_bytes
    away = [plain - one.plan.static_bytes for one in (whole, half)]
    assert away[0] == pytest.approx(2 * away[1], rel=1e-2)


def test_a_share_of_the_cache_is_attended_to_on_each_side() -> None:
    """Scores of both sides add up to those of one; projections stay on the device."""
    plain, half = written(""), written("kv=cpu:share=0.25")

    def work_of(decoded: Decoded, kind: OpKind) -> list[Work]:
        rows = np.flatnonzero(decoded.schedule.kind == kind).tolist()
        return [decoded.schedule.works[decoded.schedule.cost[i]] for i in rows]

    here, there = work_of(half, OpKind.SELF_ATTENTION), work_of(half, OpKind.CPU_LAYER)
    for whole, own, other in zip(work_of(plain, OpKind.SELF_ATTENTION), here, there, strict=True):
        assert (own.flop + other.flop, own.hbm_bytes + other.hbm_bytes) == (whole.flop, whole.hbm_bytes)
        assert other.hbm_bytes == whole.hbm_bytes // 4
        assert own.gemms == whole.gemms
        assert not other.gemms
    memory = [capture(MODEL, HW, TRACE, f"gpu_only@kv=cpu{rest}").plan.static_bytes for rest in ("", ":share=0.25")]
    plan = capture(MODEL, HW, TRACE, "gpu_only").plan.static_bytes
    assert plan - memory[1] == pytest.approx((plan - memory[0]) / 4, rel=1e-2)


@pytest.mark.parametrize("text", ["experts=cpu:share=0.4", "weights=stream:share=0.3", "kv=cpu:share=0.5"])
def test_shares_run_alike_in_every_interpreter(text: str) -> None:
    whole, streamed = (simulate(MODEL, HW, TRACE, f"gpu_only@{text}", engine=one) for one in ("des", "stream"))
    recurred = simulate(MODEL, HW, TRACE, f"gpu_only@{text}", engine="recurrence")
    assert streamed.schedule_digest == whole.schedule_digest == recurred.schedule_digest
    assert streamed.makespan_s == whole.makespan_s == recurred.makespan_s
    assert np.array_equal(whole.timeline.end_s, recurred.timeline.end_s)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("experts=cpu:share=0", "above 0"),
        ("experts=cpu:share=1.2", "at most 1"),
        ("experts=cpu:share=half", "such as 0.4"),
        ("experts=cpu:keep=2:share=0.5", "give one"),
        ("layers=cpu:share=0.5", "neither a number of layers"),
        ("kv=cpu:0.5", "not of the form"),
        ("activations=cpu:share=0.5", "not of the form"),
    ],
)
def test_shares_that_cannot_be_are_one_clear_line(text: str, words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        placement_named(text)
