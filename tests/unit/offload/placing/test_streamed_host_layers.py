"""Layers of the host that a prompt streams whole: what is copied and when, and where decoding and the head run."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from hwmodels.cost import price
from offload.decode import Decoded
from offload.execution import EXECUTIONS
from offload.ops import Lane, OpKind
from offload.placing.footprint import plan_memory
from offload.placing.workload import Workload
from offload.policies import policy_named
from tests.engines import timed_alike
from tests.unit.offload.placing.host_side_ops import EXPERT, MODEL, begun, written
from tests.unit.offload.placing.placed_schedules import HW
from tests.unit.offload.placing.placed_schedules import MODEL as PLACED
from tests.unit.offload.placing.placed_schedules import written as schedule_of
from traces.model.layer_bytes import layer_weight_bytes

WEIGHTS = layer_weight_bytes(MODEL)
STREAMS = {"streams_layers": True, "stream_tokens": 3}


def test_a_layer_comes_when_it_begins_and_its_cache_and_experts_behind_what_asks_for_them() -> None:
    """One thing after the other: nothing is copied while the layer before, its attention or its gate computes."""
    side, loop = begun("layers=cpu:2-2", **STREAMS)
    side.enter(0, -1)
    side.leave(0, loop.computes(0))
    side.enter(1, 0)
    side.leave(1, loop.computes(1))
    side.enter(2, 1)
    assert not side.computes(2)
    side.stream_own_cache(384, 2, 1)
    mixed = loop.computes(2, *side.take_waits())
    side.stream_experts([4, 2], 2, 1, mixed)
    last = loop.computes(2, *side.take_waits())
    side.leave(2, last)
    side.enter(3, last)
    assert side.take_waits() == [], "its activations are where they were"
    assert side.end_pass(last) is False
    assert written(loop) == [
        "compute gate 0", "compute gate 1", f"h2d stream 2 {WEIGHTS[2]}B after 1", "h2d stream 2 384B after 1",
        "compute gate 2 after 2 3", f"h2d stream 2 {2 * EXPERT}B after 4", "compute gate 2 after 5",
    ]  # fmt: skip


def test_a_pass_of_fewer_tokens_is_computed_on_the_host() -> None:
    side, loop = begun("layers=cpu:2", **{**STREAMS, "stream_tokens": 4})
    assert [side.computes(layer) for layer in range(4)] == [True, True, False, False]
    loop.n_tokens = 4
    assert not any(side.computes(layer) for layer in range(4))
    side, _ = begun("layers=cpu:2", stream_tokens=3)
    assert side.computes(0), "an engine that streams experts alone"


def test_buffers_go_round() -> None:
    """The third layer is copied into what the first was in, once that has been read."""
    side, loop = begun("layers=cpu", **STREAMS)
    for layer in range(4):
        side.enter(layer, loop.recorder.next_op - 1)
        side.leave(layer, loop.computes(layer, *side.take_waits()))
    assert [one for one in written(loop) if "stream" in one] == [
        f"h2d stream 0 {WEIGHTS[0]}B", f"h2d stream 1 {WEIGHTS[1]}B after 1",
        f"h2d stream 2 {WEIGHTS[2]}B after 1 3", f"h2d stream 3 {WEIGHTS[3]}B after 3 5",
    ]  # fmt: skip


def test_where_all_layers_are_on_the_host_the_head_stays_there() -> None:
    side, loop = begun("layers=cpu", **STREAMS)
    side.enter(0, -1)
    last = loop.computes(0, *side.take_waits())
    side.leave(0, last)
    assert side.end_pass(last) is True
    side.compute(loop.works.head(1), -1)
    assert written(loop)[-2:] == ["d2h handover 3 384B after 1", "cpu cpu_layer -1 after 2"]


def lanes(found: Decoded, step: int) -> set[str]:
    """Where the layers of a pass are computed."""
    schedule = found.schedule
    kinds = [OpKind.SELF_ATTENTION, OpKind.GATE, OpKind.EXPERTS, OpKind.CPU_LAYER, OpKind.CPU_EXPERT]
    ops = (schedule.step == step) & np.isin(schedule.kind, kinds) & (schedule.layer >= 0)
    return {Lane(lane).name for lane in schedule.lane[ops]}


@pytest.mark.parametrize(
    ("execution", "text", "prompt"),
    [
        ("llama_cpp", "layers=cpu@stream=12", {"COMPUTE"}), ("llama_cpp_2025", "layers=cpu@stream=12", {"COMPUTE"}),
        ("llama_cpp", "layers=cpu@stream=13", {"CPU"}), ("llama_cpp", "layers=cpu@stream=never", {"CPU"}),
        ("llama_cpp", "layers=cpu", {"CPU"}), ("ik_llama", "layers=cpu@stream=12", {"CPU"}),
        ("llama_cpp", "layers=cpu:2@stream=12", {"COMPUTE"}), ("llama_cpp", "layers=cpu:2", {"CPU", "COMPUTE"}),
    ],
)  # fmt: skip
def test_llama_cpp_computes_prompts_of_layers_on_the_host_on_the_device(
    execution: str, text: str, prompt: set[str]
) -> None:
    found = schedule_of(text, execution)
    first, last = int(found.schedule.step.min()), int(found.schedule.step.max())
    assert lanes(found, first) == prompt
    assert "CPU" in lanes(found, last), "a token alone is computed where its weights are"
    timed_alike(found.schedule, price(found.schedule.works, HW), 1 << 40)


def test_what_is_streamed_is_all_that_a_layer_holds_and_the_experts_that_were_chosen() -> None:
    schedule = schedule_of("layers=cpu@stream=12", "llama_cpp").schedule
    first = (schedule.step == schedule.step.min()) & (schedule.kind == OpKind.STREAM)
    attentions = [work for work in schedule.works if work.kind is OpKind.SELF_ATTENTION]
    kv_bytes = max(work.hbm_bytes for work in attentions)
    n_layers, weights = PLACED.decoder.n_layers, sum(layer_weight_bytes(PLACED))
    experts = int(schedule.bytes[first].sum()) - weights - n_layers * kv_bytes
    assert experts % PLACED.expert_bytes == 0
    assert 0 < experts <= PLACED.n_moe_layers * PLACED.n_experts * PLACED.expert_bytes


def test_memory_has_room_for_the_keys_and_values_of_one_layer() -> None:
    workload = Workload(10, 0, 4, 10, 2, 2, 0, 3, 1, 1)
    found = {}
    for streams in (False, True):
        policy = policy_named("gpu_only@layers=cpu:2")
        execution = dataclasses.replace(EXECUTIONS["llama_cpp"], stream_tokens=4, streams_layers=streams)
        found[streams] = plan_memory(MODEL, workload, policy, execution, hbm_bytes=1 << 40, reserve_bytes=0)
    assert found[True].static_bytes - found[False].static_bytes == 10 * 128
