"""Layers that are stored in formats of their own: what each asks of a machine, and that nothing is lost."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from numpy.typing import NDArray

from offload.decode import Decoded, decode
from offload.execution import EXECUTIONS
from offload.ffn_work import experts_work
from offload.ops import OpKind, Work
from offload.placing.footprint import host_bytes, plan_memory
from offload.placing.placed import place
from offload.placing.workload import measure_workload
from offload.policies import policy_named
from offload.schedule import Schedule
from offload.work import cpu_expert_work, expert_copy_work
from tests.small_models import decoder_only, routing, stored_apart
from traces.model.architecture import ModelArchitecture
from traces.model.layer_bytes import layer_weight_bytes
from traces.model.layer_models import layer_expert_bytes, models_by_layer, models_by_moe_layer
from traces.model.tensor_parallel import sharded

APART = stored_apart(decoder_only(n_shared=1, n_matrices=3))


def written(model: ModelArchitecture, text: str, execution: str = "streams") -> Decoded:
    policy, run = policy_named(text), EXECUTIONS[execution]
    return decode(model, routing(model).steps(), policy, run, n_buffers=2 * model.n_experts, compiled=False)


@pytest.mark.parametrize("text", ["on_demand", "gpu_only@experts=cpu:2", "gpu_only@layers=cpu:3", "on_demand+lru:4"])
def test_ops_of_a_layer_are_those_of_a_model_stored_as_it_is(text: str) -> None:
    found = written(APART, text).schedule
    for layer, model in enumerate(models_by_layer(APART)):
        alike, here = written(model, text).schedule, np.flatnonzero(found.layer == layer)
        there = np.flatnonzero(alike.layer == layer)
        assert works_at(found, here) == works_at(alike, there)


def works_at(schedule: Schedule, ops: NDArray[np.int64]) -> list[Work]:
    """The works of `ops`, slots being of the mean of all layers."""
    return [schedule.works[row]._replace(slots_bytes=0) for row in schedule.cost[ops].tolist()]


def test_an_expert_of_a_layer_has_the_bits_of_that_layer() -> None:
    schedule = written(APART, "on_demand").schedule
    for moe_layer, model in enumerate(models_by_moe_layer(APART)):
        layer = APART.decoder.moe_layers[moe_layer]
        copied = schedule.bytes[(schedule.layer == layer) & (schedule.kind == OpKind.FETCH)]
        assert set(copied.tolist()) == {layer_expert_bytes(APART)[moe_layer]}
        assert expert_copy_work(model, OpKind.FETCH).copy_bytes == copied[0]
    bits = {experts_work(model, [1]).weight_bits for model in models_by_moe_layer(APART)}
    stored = {cpu_expert_work(model, 1).stored for model in models_by_moe_layer(APART)}
    assert bits == {32.0, 8.5, 4.5}
    assert stored == {"", "q8_0", "q4_k"}


@pytest.mark.parametrize("text", ["experts=cpu:2", "experts=cpu:2-3", "experts=cpu:keep=2", "layers=cpu:2"])
def test_memory_of_some_layers_is_the_bytes_of_those_layers(text: str) -> None:
    policy = policy_named(f"gpu_only@{text}@stream=never")
    placed = place(APART, policy.placement)
    workload = dataclasses.replace(measure_workload(APART, routing(APART).steps()), n_cached_tokens=0)
    each = zip(layer_expert_bytes(APART), placed.kept, strict=True)
    away = sum(n * (APART.n_experts - len(kept)) for n, kept in each if kept is not None)
    away += sum(layer_weight_bytes(APART)[layer] for layer in placed.host_layers)
    there, here = (
        plan_memory(APART, workload, one, EXECUTIONS["streams"], hbm_bytes=1 << 40, reserve_bytes=0).static_bytes
        for one in (policy, policy_named("gpu_only"))
    )
    assert host_bytes(APART, workload, policy, placed) == here - there == away


def test_whole_experts_on_cards_have_the_bits_of_their_layer() -> None:
    policy = policy_named("gpu_only")
    placed = dataclasses.replace(place(APART, policy.placement), n_cards=2, expert_groups=2)
    model = sharded(APART, 2, 2)
    steps, run = routing(APART).steps(), EXECUTIONS["vllm"]
    schedule = decode(model, steps, policy, run, n_buffers=0, placed=placed, compiled=False).schedule
    for layer in APART.decoder.moe_layers:
        ops = np.flatnonzero((schedule.layer == layer) & (schedule.kind == OpKind.EXPERTS))
        assert len({*schedule.lane[ops].tolist()}) == 2
        alike = experts_work(models_by_layer(model)[layer], [1], 1, fused=True).weight_bits
        both = [work.weight_bits for work in works_at(schedule, ops) if work.fused and work.fused.n_experts == 1]
        assert set(both) == {alike}
