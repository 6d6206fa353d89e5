"""Corners of the compiled decode loop that shipped executions and ample slots keep away from are written alike."""

from __future__ import annotations

from dataclasses import replace

import pytest

from offload.decode import DecodeStream
from offload.execution import EXECUTIONS, Execution
from offload.fast.decode_compiled import CompiledLoop
from offload.fast.kernels.kernel_layout import BLOCK_BITS
from offload.policies import policy_named
from offload.policy import Policy
from offload.recorder import assemble
from offload.slots.memory import CapacityExceeded
from tests.small_models import MODELS, decoder_only, routing
from tests.written_schedules import resident_set
from traces.model.architecture import ModelArchitecture
from traces.phase import Phase
from traces.routing import RoutingTrace

DESIGNS = (
    "on_demand+lru:4", "pregate+lfu:5", "pregate(2)", "prefetch_all+lru:9", "on_demand", "pregate(3)+lifo:6@micro=1",
)  # fmt: skip
FLAGS = ("stage", "fetch_first", "readback_per_fetch", "host_waits", "sync_after_ffn")
"""What `fastertransformer` does and `streams` does not."""

TURNED = {
    f"{name}, {flag} turned": replace(EXECUTIONS[name], **{flag: name == "streams"})  # type: ignore[arg-type]
    for name in ("streams", "fastertransformer")
    for flag in FLAGS
}


def outcome(
    model: ModelArchitecture, trace: RoutingTrace, design: str | Policy, execution: Execution, n_buffers: int,
    *, compiled: bool, disk: bool = False,
) -> str | tuple[str, dict[Phase, list[int]]]:  # fmt: skip
    """The digest and lookups of what is written, or the words of the refusal."""
    policy = policy_named(design) if isinstance(design, str) else design
    cache, run = resident_set(model, trace, policy, 7), policy.placement.execution(execution)
    stream = DecodeStream(
        model, trace.steps(), policy, run, n_buffers=n_buffers, cache=cache, disk=disk, compiled=compiled
    )
    assert isinstance(stream._loop, CompiledLoop) == compiled
    try:
        return assemble(stream, 11 + stream.warm_bytes).digest, stream.lookups
    except CapacityExceeded as refusal:
        return str(refusal)


def assert_alike(
    model: ModelArchitecture, trace: RoutingTrace, design: str | Policy, execution: Execution, n_buffers: int,
    *, disk: bool = False,
) -> str | tuple[str, dict[Phase, list[int]]]:  # fmt: skip
    fast, slow = (
        outcome(model, trace, design, execution, n_buffers, compiled=compiled, disk=disk) for compiled in (True, False)
    )
    assert fast == slow
    return slow


@pytest.mark.parametrize("name", list(TURNED))
def test_each_flag_of_an_execution_is_written_alike_without_the_others(name: str) -> None:
    for at, text in enumerate(DESIGNS):
        model = MODELS["decoder-only" if at % 2 else "shared experts, three matrices"]
        trace = routing(model, batch=2, seed=at, output_tokens=3, input_tokens=2)
        for n_buffers in (5, 2 * model.n_experts):
            assert_alike(model, trace, text, TURNED[name], n_buffers, disk=n_buffers == 5)


@pytest.mark.parametrize("text", ["on_demand+lru:6", "on_demand+fifo:18:per_layer", "prefetch_all+lru:18"])
def test_a_cache_that_has_room_for_a_block_needs_no_buffers(text: str) -> None:
    """The first slot of all is then one of the cache."""
    model = MODELS["decoder-only"]
    trace = routing(model, input_tokens=2, output_tokens=9)
    assert not isinstance(assert_alike(model, trace, text, EXECUTIONS["streams"], 0), str)


def test_a_prompt_that_streams_every_layer_hands_its_last_activations_to_the_host() -> None:
    """The host has all layers and so the head, which waits for what the device has computed."""
    model = MODELS["decoder-only"]
    for execution in ("llama_cpp", "llama_cpp_2023"):
        trace = routing(model, batch=2, input_tokens=7, output_tokens=3)
        assert_alike(model, trace, "gpu_only@layers=cpu@stream=2", EXECUTIONS[execution], 0)


@pytest.mark.parametrize("name", ["streams, stage turned", "streams", "fastertransformer"])
@pytest.mark.parametrize("text", ["prefetch_all", "prefetch_all+lru:9", "prefetch_all+lru:24:per_layer"])
def test_what_waits_for_a_slot_and_is_not_named_is_dropped_alike(text: str, name: str) -> None:
    """Half of the experts are ever named; slots for these and few others. What is dropped leaves the cache."""
    model, run = decoder_only(n_experts=8), TURNED[name] if name in TURNED else EXECUTIONS[name]
    trace = routing(decoder_only(n_experts=4), output_tokens=4)
    for n_buffers in (4, 5, 7):
        assert not isinstance(assert_alike(model, trace, text, run, n_buffers), str)


@pytest.mark.parametrize("cache", ["", "+lru:5", "+lfu:2:per_layer"])
def test_slots_of_what_was_brought_in_vain_are_given_up_alike(cache: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A design that brings whole blocks and knows the ids runs experts one by one in fewer slots than a block takes."""
    model = decoder_only(n_experts=8)
    policy = replace(policy_named(f"prefetch_all{cache}"), needs_ids=True)
    for n_buffers in (1, 2, 3, 6):
        trace = routing(model, batch=2, seed=n_buffers, output_tokens=4)
        found = assert_alike(model, trace, policy, EXECUTIONS["streams"], n_buffers)
        assert not isinstance(found, str)
        with monkeypatch.context() as patch:
            patch.setattr("offload.fast.decode_compiled._PART_OPS", 1)
            assert outcome(model, trace, policy, EXECUTIONS["streams"], n_buffers, compiled=True) == found


def test_ops_of_a_long_schedule_are_cancelled_and_released_alike() -> None:
    """More than a block of ops, as the kernel writes them, most of them of copies in vain."""
    model = decoder_only(n_experts=8)
    policy = replace(policy_named("prefetch_all"), needs_ids=True)
    trace = routing(model, output_tokens=125)
    for n_buffers in (3, 24):
        assert assert_alike(model, trace, policy, EXECUTIONS["streams"], n_buffers)
    schedule = assemble(DecodeStream(model, trace.steps(), policy, EXECUTIONS["streams"], n_buffers=3, compiled=True))
    assert len(schedule) > 1 << BLOCK_BITS


@pytest.mark.parametrize("text", ["prefetch_all", "prefetch_all+lru:9", "prefetch_all+lifo:2"])
def test_runs_of_copies_go_around_the_ring_of_free_slots_alike(text: str) -> None:
    model = decoder_only(n_experts=8)
    for at, execution in enumerate(("fastertransformer", "ik_llama")):
        for n_buffers in (9, 13, 19):
            trace = routing(model, batch=1 + at, seed=n_buffers, output_tokens=6)
            assert not isinstance(assert_alike(model, trace, text, EXECUTIONS[execution], n_buffers), str)
    model = MODELS["encoder-decoder"]
    for n_buffers in (6, 7, 8):
        trace = routing(model, batch=5, seed=n_buffers, input_tokens=1)
        assert_alike(model, trace, text, EXECUTIONS["ik_llama"], n_buffers)


@pytest.mark.parametrize("text", ["on_demand+lfu_released:9:per_layer:warm", "pregate+lifo_released:9:per_layer:warm"])
def test_warm_caches_of_each_layer_of_two_stacks_are_filled_alike(text: str) -> None:
    model = MODELS["encoder-decoder"]
    for seed in range(3):
        trace = routing(model, batch=2, seed=seed, output_tokens=12)
        assert not isinstance(assert_alike(model, trace, text, EXECUTIONS["streams"], 10), str)


def test_two_layers_have_a_cache_each() -> None:
    model = MODELS["decoder-only"]
    model = replace(model, decoder=replace(model.decoder, moe_layers=(1, 3)))
    trace = routing(model, batch=2, output_tokens=6)
    for text in ("on_demand+lru:8:per_layer", "pregate+lfu:6:per_layer:warm"):
        assert not isinstance(assert_alike(model, trace, text, EXECUTIONS["streams"], 6), str)


@pytest.mark.parametrize("text", ["gpu_only@layers=cpu:2-", "gpu_only@layers=cpu:3", "on_demand@layers=cpu:2-"])
def test_a_head_behind_a_layer_of_the_host_is_written_alike(text: str) -> None:
    model = MODELS["decoder-only"]
    for execution in ("streams", "llama_cpp"):
        trace = routing(model, batch=2, output_tokens=3)
        assert not isinstance(assert_alike(model, trace, text, EXECUTIONS[execution], 12), str)


@pytest.mark.parametrize("text", ["on_demand@experts=cpu:1@stream=2", "prefetch_all@experts=cpu:1"])
def test_blocks_after_one_whose_experts_are_streamed_leave_nothing_to_the_host(text: str) -> None:
    model = MODELS["shared experts, three matrices"]
    for execution in ("streams", "llama_cpp", "fastertransformer"):
        trace = routing(model, batch=2, output_tokens=3)
        assert not isinstance(assert_alike(model, trace, text, EXECUTIONS[execution], 12), str)


def test_a_later_block_that_finds_no_slots_is_refused_in_the_same_words() -> None:
    model = MODELS["decoder-only"]
    traces = [routing(model, batch=2, seed=seed, input_tokens=1, output_tokens=3) for seed in range(6)]
    refused = {str(assert_alike(model, trace, "on_demand", EXECUTIONS["vllm"], 3)) for trace in traces}
    assert any("MoE layer 1: 4 experts" in words for words in refused)
    assert any("step 1" in words for words in refused)
