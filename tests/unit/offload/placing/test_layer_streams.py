"""Whole layers that pass through HBM: when each is copied, what waits for it, and the buffers that it takes."""

from __future__ import annotations

import numpy as np
import pytest

import pregate
from offload.execution import EXECUTIONS
from offload.ops import Lane, OpKind
from offload.placing.footprint import host_bytes, plan_memory
from offload.placing.layers import LayerGroups
from offload.placing.placed import place
from offload.placing.placement_clauses import placement_named
from offload.placing.workload import measure_workload
from offload.policies import policy_named
from offload.schedule import Schedule
from tests.unit.offload.placing.placed_schedules import MODEL, TRACE, written
from traces.errors import InvalidInput
from traces.model.layer_bytes import layer_weight_bytes

N_LAYERS = MODEL.decoder.n_layers
EXPERTS = MODEL.n_experts * MODEL.expert_bytes


def copies(schedule: Schedule, step: int) -> dict[int, int]:
    """By layer its copy in a pass, in the order of issue."""
    found = np.flatnonzero((schedule.kind == OpKind.STREAM) & (schedule.step == step)).tolist()
    return {int(schedule.layer[op]): op for op in found}


def last_of(schedule: Schedule, step: int, layer: int) -> int:
    there = (schedule.lane == Lane.COMPUTE) & (schedule.step == step) & (schedule.layer == layer)
    return int(np.flatnonzero(there)[-1])


def first_of(schedule: Schedule, step: int, layer: int) -> int:
    there = (schedule.lane == Lane.COMPUTE) & (schedule.step == step) & (schedule.layer == layer)
    return int(np.flatnonzero(there)[0])


@pytest.mark.parametrize("ahead", [1, 2, 3])
def test_a_layer_is_copied_once_the_layer_that_its_buffer_held_has_run(ahead: int) -> None:
    schedule = written(f"experts=stream@weights=stream@ahead={ahead}").schedule
    for step in (0, 1):
        found = copies(schedule, step)
        assert list(found) == list(range(N_LAYERS))
        for layer, copy in found.items():
            assert copy in schedule.deps(first_of(schedule, step, layer))
            if layer >= ahead:
                assert list(schedule.deps(copy)) == [last_of(schedule, step, layer - ahead)]
            else:
                assert copy < first_of(schedule, step, 0)


def test_a_layer_that_is_copied_as_it_begins_has_nothing_run_beside_it() -> None:
    schedule = written("experts=stream@weights=stream@ahead=0").schedule
    found = copies(schedule, 1)
    for layer in range(1, N_LAYERS):
        assert list(schedule.deps(found[layer])) == [last_of(schedule, 1, layer - 1)]
        assert found[layer] in schedule.deps(first_of(schedule, 1, layer))


def test_of_every_group_the_last_layers_come_and_bring_experts_where_they_have_some() -> None:
    assert list(LayerGroups(2, 3).of(8)) == [1, 2, 4, 5, 7]
    schedule = written("experts=stream:1/2@weights=stream:1/2@ahead=1").schedule
    named = [layer for layer in range(N_LAYERS) if layer % 2]
    sizes = [layer_weight_bytes(MODEL)[layer] + EXPERTS * (layer in MODEL.decoder.moe_layers) for layer in named]
    found = copies(schedule, 0)
    assert list(found) == named
    assert schedule.bytes[list(found.values())].tolist() == sizes
    alone = copies(written("experts=stream:1/2:share=0.5").schedule, 0)
    assert set(alone) == {layer for layer in named if layer in MODEL.decoder.moe_layers}


def test_buffers_are_in_hbm_and_layers_in_host_memory() -> None:
    workload, policy = measure_workload(MODEL, TRACE.steps()), policy_named("gpu_only")
    sizes = [layer_weight_bytes(MODEL)[i] + EXPERTS * (i in MODEL.decoder.moe_layers) for i in range(N_LAYERS)]

    def held(text: str) -> int:
        placed = place(MODEL, placement_named(text))
        assert host_bytes(MODEL, workload, policy, placed) == sum(sizes)
        return plan_memory(
            MODEL, workload, policy, EXECUTIONS["vllm"], hbm_bytes=10**12, reserve_bytes=0, placed=placed
        ).static_bytes

    whole = plan_memory(MODEL, workload, policy, EXECUTIONS["vllm"], hbm_bytes=10**12, reserve_bytes=0).static_bytes
    for ahead, n in (("", 2), ("@ahead=0", 1), ("@ahead=1", 1), ("@ahead=3", 3)):
        buffers = min(n * max(sizes), sum(sizes))
        assert held(f"experts=stream@weights=stream{ahead}") == whole - sum(sizes) + buffers
    assert held("experts=stream@weights=stream@ahead=99") == whole


@pytest.mark.parametrize(
    ("policy", "told"),
    [
        ("on_demand@experts=stream", "gpu_only@experts=stream leaves it to the placement"),
        ("gpu_only@ahead=1", "is of layers that are streamed"),
        ("gpu_only@experts=stream@experts=cpu", "says experts twice"),
        ("gpu_only@experts=stream:8/8", "of a group some are named"),
        ("gpu_only@experts=stream:0/8", "of a group some are named"),
        ("gpu_only@experts=stream:1/99", "of which none is named"),
        ("gpu_only@experts=cpu:1/2", "neither a number of layers"),
        ("gpu_only@weights=stream@ahead=x", "no number of layers"),
        ("gpu_only@experts=stream:2:uniform", "is not of the form"),
    ],
)
def test_what_cannot_be_streamed_is_refused_by_name(policy: str, told: str) -> None:
    with pytest.raises(InvalidInput, match=told):
        pregate.simulate(MODEL, pregate.load_hardware("rtx-4090", stack="vllm"), TRACE, policy)


@pytest.mark.parametrize(
    "text", ["experts=stream", "experts=stream:2/8@weights=stream:2/8@ahead=1", "weights=stream:3@ahead=0@kv=stream"]
)
def test_what_is_typed_is_what_is_said(text: str) -> None:
    assert set(str(placement_named(text)).split("@")) == set(text.split("@"))
    assert placement_named(str(placement_named(text))) == placement_named(text)
