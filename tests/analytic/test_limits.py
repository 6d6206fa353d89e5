"""Closed forms and limits: what a schedule must cost when the answer is known without simulating."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from hwmodels.cost import price
from hwmodels.platform import Platform, load_platform
from hwmodels.stacks.stack import FLOORS
from offload.decode import Decoded, decode
from offload.execution import EXECUTIONS
from offload.ops import Lane, OpKind
from offload.policies import policy_named
from offload.timeline import Timeline
from simulator.definition import des
from simulator.explain.bounds import lower_bounds
from tests.small_models import decoder_only, encoder_decoder, routing
from traces.model.architecture import ModelArchitecture
from traces.routing import RoutingTrace
from traces.synthesis.forced import forced_active_routing

FREE = {"stack.launch_s": 1e-30, "stack.sync_s": 1e-30, "stack.step_s": 1e-30, "stack.copy_issue_s": 1e-30}
"""A host that costs nothing: what is left is compute and copies."""

NO_FLOORS = {f"stack.{kind}_floor_s": 1e-30 for kind in FLOORS}
NO_LATENCY = {"stack.copy_latency_s": 1e-30}


def machine(**overrides: float) -> Platform:
    return load_platform("a100-sxm4-80gb", "streams", FREE | NO_LATENCY | overrides)


def one_expert(model: ModelArchitecture, n_tokens: int = 6) -> RoutingTrace:
    """One active expert at every layer, always the same."""
    return forced_active_routing(
        n_moe_layers=model.n_moe_layers,
        n_encoder_moe_layers=model.n_encoder_moe_layers,
        n_experts=model.n_experts,
        top_k=1,
        input_tokens=1,
        output_tokens=n_tokens,
        batch=1,
        n_active=1,
    )


def run(model: ModelArchitecture, trace: RoutingTrace, policy: str, hw: Platform) -> tuple[Decoded, Timeline]:
    decoded = decode(model, trace.steps(), policy_named(policy), EXECUTIONS["streams"], n_buffers=64)
    costs = price(decoded.schedule.works, hw)
    return decoded, des.simulate(decoded.schedule, costs, 1 << 50)


MODEL = decoder_only(top_k=1, n_experts=8)


def decode_part(timeline: Timeline) -> float:
    """Time from the end of the first forward pass on."""
    first = timeline.schedule.step == 0
    return timeline.makespan_s - float(timeline.end_s[first].max())


def test_gpu_only_is_the_sum_of_its_compute() -> None:
    _, timeline = run(MODEL, routing(MODEL), "gpu_only", machine())
    assert timeline.makespan_s == pytest.approx(timeline.busy_s(Lane.COMPUTE), rel=1e-12)
    assert timeline.busy_s(Lane.H2D) == 0


@pytest.mark.parametrize("bytes_per_s", [1e6, 1e9, 1e12])
def test_on_demand_with_one_expert_is_compute_plus_transfer(bytes_per_s: float) -> None:
    hw = machine(**{"link.h2d_bytes_per_s": bytes_per_s, "link.d2h_bytes_per_s": 1e30})
    _, resident = run(MODEL, one_expert(MODEL), "gpu_only", hw)
    decoded, timeline = run(MODEL, one_expert(MODEL), "on_demand", hw)
    n_fetches = int(np.count_nonzero(decoded.schedule.kind == OpKind.FETCH))
    copy_s = MODEL.expert_bytes / (bytes_per_s * hw.constant("link_efficiency"))
    assert timeline.makespan_s == pytest.approx(resident.makespan_s + n_fetches * copy_s, rel=1e-9)


@pytest.mark.parametrize("ratio", [0.01, 0.5, 2.0, 100.0])
def test_pregate_tends_to_the_larger_of_compute_and_transfer_and_the_exposed_first_fetch(ratio: float) -> None:
    """A deep stack of equal blocks: per pass, first fetch + max(compute, transfer) of every block after it."""
    n_layers = 200
    attention = MODEL.decoder.attention
    deep = dataclasses.replace(
        MODEL, decoder=dataclasses.replace(MODEL.decoder, n_layers=n_layers, moe_layers=tuple(range(n_layers)),
                                           d_ff_dense=0, attention=attention),
    )  # fmt: skip
    trace = one_expert(deep, 3)
    _, resident = run(deep, trace, "gpu_only", machine())
    block_s = decode_part(resident) / 2 / n_layers
    bandwidth = deep.expert_bytes / (ratio * block_s)
    hw = machine(**{"link.h2d_bytes_per_s": bandwidth, "link.d2h_bytes_per_s": 1e30, "stack.link_efficiency": 1.0})
    copy_s = ratio * block_s
    _, timeline = run(deep, trace, "pregate", hw)
    expected = 2 * (copy_s + n_layers * max(block_s, copy_s))
    assert decode_part(timeline) == pytest.approx(expected, rel=0.02)


def test_an_infinite_link_leaves_the_compute() -> None:
    hw = machine(**{"link.h2d_bytes_per_s": 1e30, "link.d2h_bytes_per_s": 1e30})
    for model in (MODEL, encoder_decoder()):
        trace = routing(model, batch=1)
        for policy in ("on_demand", "pregate", "pregate(2)", "prefetch_all"):
            _, timeline = run(model, trace, policy, hw)
            assert timeline.makespan_s == pytest.approx(timeline.busy_s(Lane.COMPUTE), rel=1e-9)


def test_free_compute_leaves_the_transfers() -> None:
    free = NO_FLOORS | {"stack.kernel_s": 1e-30, "accelerator.hbm_bytes_per_s": 1e30,
            "accelerator.peak_flop_per_s.fp32": 1e30, "link.d2h_bytes_per_s": 1e30}  # fmt: skip
    trace = routing(MODEL, batch=2)
    for policy in ("on_demand", "pregate", "pregate(2)", "prefetch_all"):
        _, timeline = run(MODEL, trace, policy, machine(**free))
        assert timeline.makespan_s == pytest.approx(timeline.busy_s(Lane.H2D), rel=1e-9)


def test_prefetch_all_moves_every_expert_of_every_block() -> None:
    trace = routing(MODEL)
    decoded, _ = run(MODEL, trace, "prefetch_all", machine())
    moved = decoded.schedule.bytes[decoded.schedule.kind == OpKind.FETCH].sum()
    assert moved == trace.n_steps * MODEL.n_moe_layers * MODEL.n_experts * MODEL.expert_bytes


def test_deeper_lookahead_helps_only_what_one_block_cannot_hide() -> None:
    """The second block's fetch can start during the first; a bandwidth-bound run gains nothing."""
    slow = machine(**{"link.h2d_bytes_per_s": 1e8, "link.d2h_bytes_per_s": 1e30})
    trace = routing(MODEL, batch=2)
    one, two = (run(MODEL, trace, policy, slow)[1] for policy in ("pregate", "pregate(2)"))
    assert two.makespan_s == pytest.approx(one.makespan_s, rel=0.01)


def test_the_bound_is_reached_when_one_lane_does_everything() -> None:
    decoded, timeline = run(MODEL, routing(MODEL), "gpu_only", machine())
    costs = price(decoded.schedule.works, machine())
    bounds = lower_bounds(decoded.schedule, costs)
    assert bounds.binding == "COMPUTE"
    assert timeline.makespan_s == pytest.approx(bounds.makespan_s, rel=1e-12)


def test_host_bound_when_launches_cost_more_than_kernels() -> None:
    hw = load_platform("a100-sxm4-80gb", "streams", {"stack.launch_s": 1e-3})
    decoded, timeline = run(MODEL, routing(MODEL), "gpu_only", hw)
    costs = price(decoded.schedule.works, hw)
    assert lower_bounds(decoded.schedule, costs).binding in ("HOST", "critical path")
    assert timeline.busy_s(Lane.COMPUTE) < 0.05 * timeline.makespan_s


EVEN = dataclasses.replace(MODEL, decoder=dataclasses.replace(MODEL.decoder, moe_layers=(0, 1, 2, 3), d_ff_dense=0))
"""Every layer an MoE block: all blocks of a forward pass take the same time."""


def kind_s(decoded: Decoded, hw: Platform, kind: OpKind, step: int | None = None) -> float:
    """Time of all ops of `kind`, of one forward pass or all."""
    schedule = decoded.schedule
    mine = (schedule.kind == kind) & ((schedule.step == step) if step is not None else True)
    return float(price(schedule.works, hw).duration_s[schedule.cost[mine]].sum())


@pytest.mark.parametrize("bytes_per_s", [1e6, 1e8, 1e10, 1e13])
def test_pregate_exposes_the_first_fetch_and_then_the_longer_of_block_and_transfer(bytes_per_s: float) -> None:
    """Exactly: attention + gate, first fetch, then max(block, transfer) for each further block, last FFN, head."""
    hw = machine(**{"link.h2d_bytes_per_s": bytes_per_s, "link.d2h_bytes_per_s": 1e30})
    trace = one_expert(EVEN)
    decoded, timeline = run(EVEN, trace, "pregate", hw)
    n_blocks = EVEN.n_moe_layers
    fetch_s = kind_s(decoded, hw, OpKind.FETCH) / (trace.n_steps * n_blocks)
    expected_s = 0.0
    for step in range(trace.n_steps):
        before_s = (
            kind_s(decoded, hw, OpKind.SELF_ATTENTION, step) + kind_s(decoded, hw, OpKind.GATE, step)
        ) / n_blocks
        ffn_s = kind_s(decoded, hw, OpKind.EXPERTS, step) / n_blocks
        expected_s += before_s + fetch_s + (n_blocks - 1) * max(before_s + ffn_s, fetch_s) + ffn_s
        expected_s += kind_s(decoded, hw, OpKind.HEAD, step)
    assert timeline.makespan_s == pytest.approx(expected_s, rel=1e-12)


@pytest.mark.parametrize(
    ("stack", "disk", "serial"),
    [
        ("streams", True, (OpKind.READBACK, OpKind.DISK_READ, OpKind.FETCH)),
        ("fastertransformer", False, (OpKind.READBACK, OpKind.FETCH, OpKind.STAGE)),
        ("fastertransformer", True, (OpKind.READBACK, OpKind.DISK_READ, OpKind.FETCH, OpKind.STAGE)),
    ],
)
def test_on_demand_pays_every_stage_of_the_way_one_after_the_other(
    stack: str, disk: bool, serial: tuple[OpKind, ...]
) -> None:
    hw = load_platform("a100-sxm4-80gb", stack, FREE | NO_LATENCY)
    steps = one_expert(MODEL).steps()
    decoded = decode(MODEL, steps, policy_named("on_demand"), hw.stack.execution, n_buffers=8, disk=disk)
    costs = price(decoded.schedule.works, hw)
    timeline = des.simulate(decoded.schedule, costs, 1 << 50)
    assert all(kind_s(decoded, hw, kind) > 0 for kind in serial)
    expected_s = timeline.busy_s(Lane.COMPUTE) + sum(kind_s(decoded, hw, kind) for kind in serial)
    assert timeline.makespan_s == pytest.approx(expected_s, rel=1e-12)


def test_an_instant_link_makes_pregate_gpu_only_op_by_op() -> None:
    """With one expert a block nothing is left of offloading but ops that take no time."""
    hw = machine(**{"link.h2d_bytes_per_s": 1e30, "link.d2h_bytes_per_s": 1e30})
    ends = []
    for policy in ("gpu_only", "on_demand", "pregate"):
        _, timeline = run(MODEL, one_expert(MODEL), policy, hw)
        ends.append(timeline.end_s[timeline.schedule.lane == Lane.COMPUTE])
    assert ends[1] == pytest.approx(ends[0], rel=1e-12)
    assert ends[2] == pytest.approx(ends[0], rel=1e-12)


def test_looking_two_blocks_ahead_evens_out_an_uneven_load() -> None:
    """Three experts, one, three, one: what one block cannot hide two blocks can."""
    trace = routing(EVEN, batch=3, output_tokens=4)
    experts = np.zeros_like(trace.experts)
    order = np.arange(trace.n_tokens, dtype=np.int16) % 3
    experts[:, 1::2, 0] = order[:, None]
    uneven = dataclasses.replace(trace, experts=experts)
    _, resident = run(EVEN, uneven, "gpu_only", machine())
    block_s = resident.makespan_s / (trace.n_steps * EVEN.n_moe_layers)
    hw = machine(**{"link.h2d_bytes_per_s": 2.0 * EVEN.expert_bytes / block_s, "link.d2h_bytes_per_s": 1e30})
    one, two = (run(EVEN, uneven, policy, hw)[1].makespan_s for policy in ("pregate", "pregate(2)"))
    assert resident.makespan_s < two < one


def test_the_host_issues_every_kernel_when_kernels_are_free() -> None:
    """Launches one after the other, and the host waits for the last kernel of each forward pass."""
    free = NO_FLOORS | {
        "stack.kernel_s": 1e-30,
        "accelerator.hbm_bytes_per_s": 1e30,
        "accelerator.peak_flop_per_s.fp32": 1e30,
    }
    hw = machine(**free | {"stack.launch_s": 1e-3})
    decoded, timeline = run(MODEL, routing(MODEL), "gpu_only", hw)
    n_launches = sum(hw.stack.launches.get(OpKind(int(kind)), 0) for kind in decoded.schedule.kind)
    assert timeline.makespan_s == pytest.approx(n_launches * 1e-3, rel=1e-12)
