"""Kernels that read weights in host memory: what they read, when, and what that takes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import pregate
from hwmodels.cost import price, price_figures
from hwmodels.figures import figures_of
from hwmodels.platform import load_platform
from offload.decode import Decoded, decode
from offload.execution import EXECUTIONS
from offload.metrics.run_metrics import moe_layer_latency_s
from offload.ops import Lane, OpKind
from offload.placing.footprint import host_bytes, plan_memory
from offload.placing.placed import place
from offload.placing.placement import Placement
from offload.placing.placement_clauses import placement_named
from offload.placing.workload import measure_workload
from offload.policies import policy_named
from simulator.definition import des
from simulator.explain.critical_path import slot_edges
from tests.engines import timed_alike
from tests.unit.offload.placing.placed_schedules import MODEL, TRACE
from traces.errors import InvalidInput
from traces.model.layer_bytes import layer_part_bytes, layer_weight_bytes

VLLM = EXECUTIONS["vllm"]
STACK = MODEL.decoder


def written(text: str, rows: int = 64) -> Decoded:
    policy = policy_named(f"gpu_only@{text}" if text else "gpu_only")
    run = policy.placement.execution(replace(VLLM, zero_copy_rows=rows))
    return decode(MODEL, TRACE.steps(), policy, run, n_buffers=0)


def reads(decoded: Decoded) -> list[int]:
    return np.flatnonzero(decoded.schedule.kind == OpKind.ZERO_COPY).tolist()


def in_blocks(decoded: Decoded) -> list[int]:
    """What each read is were every block of rows to read its weights again."""
    schedule = decoded.schedule
    return [schedule.works[schedule.cost[op]].n_entries for op in reads(decoded)]


def test_parts_of_a_layer_are_the_layer() -> None:
    parts = layer_part_bytes(MODEL)
    assert [-(-sum(one) // 1) for one in parts] == list(layer_weight_bytes(MODEL))
    assert all(mixing > 0 and rest > 0 for mixing, rest in parts)


def test_a_kernel_and_what_it_reads_begin_together_and_end_together() -> None:
    decoded = written("experts=zerocopy:2@weights=zerocopy:2")
    schedule = decoded.schedule
    found = reads(decoded)
    steps = np.unique(TRACE.step)
    assert sorted({int(schedule.layer[op]) for op in found}) == [0, 1]
    assert len(found) == 4 * len(steps)  # what mixes tokens, then the FFN, of each layer
    for op in found:
        kernel, (*before,) = op - 1, schedule.deps(op)
        assert schedule.lane[kernel] == Lane.COMPUTE
        assert schedule.layer[kernel] == schedule.layer[op]
        assert (schedule.kind[op + 1], schedule.layer[op + 1]) == (OpKind.JOIN, schedule.layer[op])
        assert list(schedule.deps(op + 1)) == [op]
        earlier = np.flatnonzero((schedule.lane == Lane.COMPUTE) & (np.arange(len(schedule.lane)) < kernel))
        begins_pass = not any(schedule.step[one] == schedule.step[op] for one in earlier)
        assert before == ([] if begins_pass else [int(earlier[-1])])


def test_only_experts_that_tokens_chose_are_read_and_again_for_every_block_of_rows() -> None:
    prompt = next(iter(TRACE.steps()))
    layer, moe_layer = STACK.moe_layers[0], 0
    counts = np.bincount(prompt.experts[:, moe_layer].ravel(), minlength=MODEL.n_experts)
    for rows in (1, 2, 64):
        decoded = written(f"experts=zerocopy:{layer}-{layer}", rows)
        ops = [op for op in reads(decoded) if decoded.schedule.step[op] == 0]
        assert [int(decoded.schedule.layer[op]) for op in ops] == [layer]
        assert int(decoded.schedule.bytes[ops[0]]) == MODEL.expert_bytes * np.count_nonzero(counts)
        assert in_blocks(decoded)[0] == MODEL.expert_bytes * sum(-(-n // rows) for n in counts.tolist())
    decoded = written("weights=zerocopy", rows=4)
    first = [op for op in reads(decoded) if decoded.schedule.step[op] == 0]
    n_blocks = -(-len(prompt.experts) // 4)
    wanted = [int(part) for parts in layer_part_bytes(MODEL) for part in parts if int(part)]
    assert decoded.schedule.bytes[first].tolist() == wanted
    assert in_blocks(decoded)[: len(first)] == [n_blocks * n for n in wanted]


def test_a_read_waits_for_no_slot() -> None:
    schedule = written("experts=zerocopy@weights=zerocopy").schedule
    assert len(schedule.dep)
    assert not slot_edges(schedule).any()


def test_a_share_is_of_the_bytes_of_each_weight() -> None:
    half, whole = written("experts=zerocopy:share=0.5"), written("experts=zerocopy")
    sizes = [decoded.schedule.bytes[reads(decoded)].astype(float) for decoded in (half, whole)]
    assert sizes[0] == pytest.approx(sizes[1] / 2)


def test_a_step_takes_the_longer_of_what_it_computes_and_what_it_reads() -> None:
    everything = written("experts=zerocopy@weights=zerocopy").schedule
    resident = written("").schedule
    kept = ~np.isin(everything.kind, (OpKind.ZERO_COPY, OpKind.JOIN))
    assert (everything.kind[kept] == resident.kind).all()
    fast = load_platform("rtx-4090", "vllm", {"link.h2d_bytes_per_s": 1e30})
    slow = load_platform("rtx-4090", "vllm", {"link.h2d_bytes_per_s": 1e6})
    ends = [des.simulate(one, price(one.works, fast), 10**12).end_s.max() for one in (everything, resident)]
    assert ends[0] == pytest.approx(ends[1], rel=1e-9)
    costs = price(everything.works, slow)
    end = des.simulate(everything, costs, 10**12).end_s.max()
    link_s = costs.link_s[everything.cost[everything.kind == OpKind.ZERO_COPY]].sum()
    head = np.isin(everything.kind, (OpKind.HEAD, OpKind.STEP, OpKind.GATE))
    rest = (costs.duration_s + costs.issue_s)[everything.cost[head]].sum()
    assert link_s <= end <= link_s + rest + 1e-3 * len(everything.lane)
    assert (costs.issue_s[everything.cost[~kept]] == 0).all()
    layers = moe_layer_latency_s(des.simulate(everything, costs, 10**12), np.unique(TRACE.step).astype(np.int32))
    moe = np.isin(everything.layer, STACK.moe_layers) & (everything.kind == OpKind.ZERO_COPY)
    n_layers = len(STACK.moe_layers) * len(np.unique(TRACE.step))
    assert layers == pytest.approx(costs.link_s[everything.cost[moe]].sum() / n_layers, rel=0.02)


def test_one_reading_and_one_a_block_are_the_ends_of_an_interval_and_its_middle_is_said() -> None:
    """Nobody measured which it is; a token reads once, whichever it is."""
    model, policy = pregate.load_model("qwen3-30b-a3b"), "gpu_only@experts=zerocopy@weights=zerocopy"
    trace = pregate.synthesize(model, 1024, 2)

    def run(exponent: float | None) -> pregate.SimulationResult:
        numbers = {} if exponent is None else {"stack.reread_exponent": exponent}
        return pregate.simulate(model, pregate.load_hardware("rtx-4090", "vllm", numbers), trace, policy)

    once, middle, every = run(1e-9), run(None), run(1.0)
    assert once.ttft_s < middle.ttft_s < every.ttft_s / 1.5
    assert middle.ttft_s == pytest.approx((once.ttft_s * every.ttft_s) ** 0.5, rel=0.15)
    assert once.tpot_s == pytest.approx(every.tpot_s, rel=1e-9), "one row reads once"
    assert once.h2d_bytes == every.h2d_bytes, "what is asked for"
    assert middle.tokens_per_s_ci95 is not None
    low, high = middle.tokens_per_s_ci95
    assert low < every.tokens_per_s < once.tokens_per_s < high
    sure = every.tokens_per_s_ci95
    assert sure is not None
    assert sure[1] / sure[0] < 0.7 * high / low, "stated, it is not in doubt"


def test_many_machines_at_once_are_priced_to_the_same_bit() -> None:
    schedule = written("experts=zerocopy@weights=zerocopy", rows=2).schedule
    hw = load_platform("rtx-4090", "vllm")
    exponents = np.array([0.1, 0.5, 0.9])
    figures = figures_of(hw)
    many = price_figures(schedule.works, figures.with_values({"stack.reread_exponent": exponents}), 3)
    for i, exponent in enumerate(exponents.tolist()):
        one = price_figures(schedule.works, figures.with_values({"stack.reread_exponent": exponent}))
        assert (many.duration_s[:, i] == one.duration_s).all()


def test_every_engine_times_it_alike() -> None:
    schedule = written("experts=zerocopy:3:share=0.4@weights=zerocopy:1-2").schedule
    timed_alike(schedule, price(schedule.works, load_platform("rtx-4090", "vllm")))


def test_what_kernels_read_is_in_host_memory_and_not_in_hbm() -> None:
    workload, policy = measure_workload(MODEL, TRACE.steps()), policy_named("gpu_only")
    placed = place(MODEL, placement_named("experts=zerocopy:3:share=0.5@weights=zerocopy:2"))
    sizes = {"hbm_bytes": 10**12, "reserve_bytes": 0}
    all_here = plan_memory(MODEL, workload, policy, VLLM, **sizes).static_bytes
    there = host_bytes(MODEL, workload, policy, placed)
    n_moe = len([layer for layer in STACK.moe_layers if layer < 3])
    assert there == n_moe * MODEL.n_experts * (MODEL.expert_bytes // 2) + sum(layer_weight_bytes(MODEL)[:2])
    assert plan_memory(MODEL, workload, policy, VLLM, placed=placed, **sizes).static_bytes == all_here - there


@pytest.mark.parametrize(
    ("stack", "policy", "told"),
    [
        ("streams", "gpu_only@experts=zerocopy", "kernels of streams_fused|kernels of streams read no weights"),
        ("llama-cpp", "gpu_only@weights=zerocopy", "kernels of llama_cpp read no weights in host memory"),
        ("vllm", "prefetch_all@weights=zerocopy", "gpu_only@weights=zerocopy leaves it to the placement"),
        ("vllm", "gpu_only@weights=zerocopy@kv=cpu", "leave out kv=host|leave out kv=cpu"),
        ("vllm", "gpu_only@experts=zerocopy@layers=cpu:1", "leave out layers=cpu"),
        ("vllm", "gpu_only@experts=zerocopy@weights=stream", "leave out weights=stream"),
        ("vllm", "gpu_only@experts=zerocopy@micro=2", "leave out micro"),
        ("vllm", "gpu_only@experts=zerocopy:keep=2", "neither a number of layers"),
        ("vllm", "gpu_only@experts=zerocopy:2:uniform", "is not of the form"),
        ("vllm", "gpu_only@layers=zerocopy", "is not of the form"),
        ("vllm", "gpu_only@experts=zerocopy:99", "99 layers: there are"),
    ],
)
def test_what_reads_no_host_memory_is_refused_by_name(stack: str, policy: str, told: str) -> None:
    with pytest.raises(InvalidInput, match=told) as caught:
        pregate.simulate(MODEL, pregate.load_hardware("rtx-4090", stack=stack), TRACE, policy)
    assert "\n" not in str(caught.value)


def test_experts_have_one_home() -> None:
    everywhere = placement_named("experts=cpu").host_experts
    with pytest.raises(InvalidInput, match="leave out experts=cpu"):
        Placement(host_experts=everywhere, zero_copy_experts=everywhere)


@pytest.mark.parametrize(
    "text",
    ["experts=zerocopy", "experts=zerocopy:3:share=0.98@weights=zerocopy:3", "weights=zerocopy:1-2:share=0.5@ubatch=8"],
)
def test_what_is_typed_is_what_is_said(text: str) -> None:
    assert str(placement_named(text)) == text
    assert policy_named(f"gpu_only@{text}").name == f"gpu_only@{text}"
