"""Schedules as the compiled decode loop and its definition write them, and models that try both."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from offload.caches.residency import ResidentSet
from offload.decode import DecodeStream
from offload.execution import EXECUTIONS
from offload.fast.compilable import is_compilable
from offload.placing.placed import place
from offload.policies import PRESETS, eviction_named, policy_named
from offload.policy import Policy
from offload.recorder import assemble
from offload.schedule import ScheduleDigest
from tests.small_models import decoder_only, stored_apart
from traces.model.architecture import LinearMixer, ModelArchitecture
from traces.phase import Phase
from traces.routing import RoutingTrace

POLICIES = [
    *(name for name in PRESETS if is_compilable(policy_named(name), EXECUTIONS["streams"], None) and name != "oracle"),
    "pregate(2)",
    "pregate(3)",
    "pregate:encoder",
    "on_demand+lru:5",
    "pregate+fifo:5:per_layer",
    "pregate(2)+lifo:3",
    "prefetch_all+lru:9",
    "pregate+lru:4:warm",
    "on_demand+lfu:4",
    "pregate+lfu:6:per_layer:warm",
    "pregate+lfu_released:5",
    "on_demand+lfu_released:9:warm",
    "pregate(2)+lfu_released:12:per_layer",
    "on_demand+lifo_released:6:warm",
    "pregate+lifo_released:11",
    "on_demand+static:6",
    "pregate+hot_lru:7",
    "prefetch_all+hot_lru:6:per_layer:warm",
]


def resident_set(model: ModelArchitecture, trace: RoutingTrace, policy: Policy, n_slots: int) -> ResidentSet | None:
    if policy.cache is None:
        return None
    residents = ResidentSet(
        policy.cache.n_slots if policy.cache.n_slots is not None else n_slots,
        eviction_named(policy.cache.eviction, model.n_encoder_moe_layers * model.n_experts),
        per_layer=policy.cache.per_layer,
        n_layers=model.n_moe_layers,
        n_experts=model.n_experts,
    )
    if policy.cache.eviction == "hot_lru":
        residents.hold([(layer, expert) for layer in range(model.n_moe_layers) for expert in (1, 2)], 0.5)
    if policy.cache.eviction == "static":
        residents.admit(0, [1, 2])
    if policy.cache.warm:
        for layer in range(model.n_moe_layers):
            residents.admit(layer, [0, 1])
    return residents


def written(
    model: ModelArchitecture,
    trace: RoutingTrace,
    policy: Policy,
    execution: str,
    *,
    n_buffers: int,
    n_slots: int = 7,
    disk: bool = False,
    compiled: bool | None = True,
) -> tuple[str, dict[Phase, list[int]]]:
    cache = resident_set(model, trace, policy, n_slots)
    stream = DecodeStream(
        model, trace.steps(), policy, EXECUTIONS[execution], n_buffers=n_buffers, cache=cache, disk=disk,
        compiled=compiled,
    )  # fmt: skip
    schedule = assemble(stream, 11 + stream.warm_bytes)
    return schedule.digest, stream.lookups


def assert_written_alike(
    model: ModelArchitecture, trace: RoutingTrace, text: str, execution: str, **options: int
) -> None:
    policy = policy_named(text)
    fast, slow = (
        written(model, trace, policy, execution, compiled=compiled, **options)  # type: ignore[arg-type]
        for compiled in (True, False)
    )
    assert fast == slow


def assert_written_alike_in_parts_of_any_size(stream_of: Callable[[bool], DecodeStream], digest: str) -> None:
    """`stream_of` asked with and without the compiled decoder writes the schedule of that digest, of 1000 bytes that
    stay: whole, and in parts as small as may be, each of whose ops that are still asked for are in order.
    """
    for compiled in (False, True):
        assert assemble(stream_of(compiled), 1000).digest == digest
        with pytest.MonkeyPatch.context() as patch:
            for module in ("offload.fast.decode_compiled", "offload.decoding.decode_loop"):
                patch.setattr(f"{module}._PART_OPS", 1)
            seen = ScheduleDigest()
            for part in stream_of(compiled):
                assert np.all(np.diff(part.live) > 0)
                seen.update(part.columns, part.works)
            assert seen.of(1000) == digest


def layers_that_differ(*, d_expert: int = 0) -> ModelArchitecture:
    """Six layers: a window, all of the context, an indexer, a state, nothing that mixes; one of them without an FFN."""
    plain = decoder_only()
    attention = plain.decoder.attention
    mixers = (
        dataclasses.replace(attention, window=5),
        dataclasses.replace(attention, index_heads=2, index_dim=4, index_topk=3),
        LinearMixer("gated_delta_net", ((96, 32), (32, 32)), 40, 256, 512),
    )
    stack = dataclasses.replace(
        plain.decoder, n_layers=6, moe_layers=(1, 2, 4), mixers=mixers, mixer_of=(0, 1, 2, 3, 1, -1), bare_layers=(3,)
    )
    return dataclasses.replace(plain, decoder=stack, d_expert=d_expert)


UNEVEN = {
    "layers that differ": layers_that_differ(),
    "experts of another width": layers_that_differ(d_expert=16),
    "layers stored apart": stored_apart(layers_that_differ()),
}


def stream_on_cards(
    model: ModelArchitecture, trace: RoutingTrace, micro_batch: int, *, compiled: bool, **cards: Any
) -> DecodeStream:
    """Everything in HBM under vllm, on cards as `Placed` has them (`n_cards`, `expert_groups`, `copies`, `turns`)."""
    policy = policy_named("gpu_only")
    placed = dataclasses.replace(place(model, policy.placement), **cards)
    how = dataclasses.replace(EXECUTIONS["vllm"], micro_batch=micro_batch)
    return DecodeStream(model, trace.steps(), policy, how, n_buffers=0, placed=placed, compiled=compiled)
