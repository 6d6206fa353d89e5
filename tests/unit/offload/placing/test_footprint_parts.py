"""Parts of a footprint by hand: what streams, drafts, copies in fewer bits, whole layers, and what the host keeps."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest

from offload.execution import Execution
from offload.placing.footprint import LowSlots, MemoryPlan, host_bytes, plan_memory, with_low_slots
from offload.placing.placed import Placed
from offload.placing.workload import Workload
from offload.policies import policy_named
from offload.policy import Buffers
from offload.policy_parts.speculation import Speculation
from tests.unit.offload.placing.granted_memory import DECODER, STREAMS, WORKLOAD, plan, static_bytes
from traces.errors import InvalidInput
from traces.model.architecture import DTYPES, Attention, ModelArchitecture, load_architecture
from traces.model.layer_bytes import head_bytes, layer_weight_bytes
from traces.model.linear_mixer import LinearMixer


@pytest.mark.parametrize(
    ("answer", "is_right"),
    [
        ((0, 0), True), (Buffers(1, 3), True), ((2, 2), True), ((np.int64(1), 4), True),
        ([1, 2], False), ((1, 2, 3), False), ((1,), False), ((1.0, 2), False), ((1, 2.0), False), ((2, 1), False),
        ((-1, 4), False), ("12", False), (None, False),
    ],
)  # fmt: skip
def test_a_policy_answers_with_two_whole_numbers_of_which_the_first_is_no_larger(answer: Any, is_right: bool) -> None:
    policy = dataclasses.replace(policy_named("on_demand"), buffers=lambda n_active, n_experts: answer)
    if is_right:
        assert plan_memory(DECODER, WORKLOAD, policy, STREAMS, hbm_bytes=1 << 40, reserve_bytes=0).n_buffers >= 1
        return
    with pytest.raises(InvalidInput, match=r"policy on_demand: buffers\(\d+, \d+\) returned"):
        plan_memory(DECODER, WORKLOAD, policy, STREAMS, hbm_bytes=1 << 40, reserve_bytes=0)


def placed_bytes(text: str, execution: Execution = STREAMS, workload: Workload = WORKLOAD) -> int:
    """Static bytes of a design that keeps all experts where `text` says."""
    policy = policy_named(f"gpu_only@{text}" if text else "gpu_only")
    run = policy.placement.execution(execution)
    return plan_memory(DECODER, workload, policy, run, hbm_bytes=1 << 40, reserve_bytes=0).static_bytes


def test_streamed_keys_and_values_take_two_buffers_of_the_largest_layer() -> None:
    """Four layers of 10 cached tokens, keys and values of 2 heads of 8 in fp32; a share of the sequences of each."""
    layer_bytes = 10 * (2 * 2 * 8) * 4
    assert placed_bytes("") - placed_bytes("kv=stream") == (4 - 2) * layer_bytes
    half = dataclasses.replace(WORKLOAD, n_running=2)
    whole, shared = (placed_bytes(f"kv=stream{micro}", workload=half) for micro in ("", "@micro=1"))
    activation_bytes = 2 * (14 * 32 + 2 * 96 - 2 * 32) * 4  # of two tokens of four, but two rows between layers
    assert whole - shared == 2 * layer_bytes // 2 + activation_bytes


def test_a_prompt_that_streams_experts_has_room_for_a_matrix_of_a_layer() -> None:
    """From as many tokens on as the stack says, one of them included; not where all experts stay on the device."""
    matrix_bytes = DECODER.n_experts * DECODER.expert_bytes // DECODER.n_expert_matrices
    streams = {n: dataclasses.replace(STREAMS, stream_tokens=n) for n in (0, 1, 4, 5)}
    found = {n: placed_bytes("experts=cpu", execution) for n, execution in streams.items()}
    assert found == {0: found[0], 1: found[0] + matrix_bytes, 4: found[0] + matrix_bytes, 5: found[0]}
    beside = [placed_bytes("experts=cpu:keep=1", streams[n]) for n in (0, 4)]
    assert beside[1] - beside[0] == matrix_bytes
    here = [plan(DECODER, "on_demand", 1 << 40, execution=streams[n]).static_bytes for n in (0, 4)]
    assert here[0] == here[1]


def test_of_few_tokens_inside_a_layer_the_others_keep_two_rows_between_layers() -> None:
    few = dataclasses.replace(STREAMS, workspace_tokens=3)
    assert static_bytes(DECODER) - static_bytes(DECODER, few) == 1 * (14 * 32 + 2 * 96 - 2 * 32) * 4
    many = dataclasses.replace(STREAMS, workspace_tokens=4)
    assert static_bytes(DECODER, many) == static_bytes(DECODER)


def with_low(share: float, bits: float | None, n_cache: int = 10, model: ModelArchitecture = DECODER) -> MemoryPlan:
    """A plan of `n_cache` slots, `share` of which are for copies of `bits`."""
    policy = dataclasses.replace(policy_named("on_demand+lru:10"), low_share=share, low_bits=bits)
    return with_low_slots(MemoryPlan(5, 2, n_cache), policy, model)


def test_a_share_of_the_cache_holds_copies_of_fewer_bits_in_its_bytes() -> None:
    """Of ten slots of 32 bits half: twenty copies of 8; a third: 13 of 8 bits take 3.25 slots, for which four go."""
    cache = policy_named("on_demand+lru:10").cache
    each = DECODER.expert_bytes // 4
    assert DECODER.expert_dtype.bits == 32
    n_all = DECODER.n_moe_layers * DECODER.n_experts
    half = with_low(0.5, 8.0)
    assert n_all < 20
    assert half == MemoryPlan(5, 2, 10 - math.ceil(n_all / 4), low=LowSlots(n_all, 8.0, cache), low_bytes=n_all * each)
    n = int(10 * 0.1 * DECODER.expert_bytes) // each
    assert with_low(0.1, 8.0) == MemoryPlan(5, 2, 10 - 1, low=LowSlots(n, 8.0, cache), low_bytes=n * each) != half
    assert with_low(0.1, None) == with_low(0.1, 8.0)  # a quarter of what is stored, unless it is said
    more = with_low(0.11, 8.0)
    assert (more.n_low_slots, more.n_cache_slots) == (4, 9)
    wide = with_low(0.4, 31.0)
    wide_bytes = int(DECODER.expert_bytes * 31 / 32)
    assert (wide.n_low_slots, wide.low_bytes, wide.n_cache_slots) == (4, 4 * wide_bytes, 10 - 4)
    small = dataclasses.replace(DECODER, expert_dtype=DTYPES["fp32"])
    assert with_low(0.01, 8.0, n_cache=1, model=small) == MemoryPlan(5, 2, 1)  # no copy has room


def test_no_share_no_cache_and_no_fewer_bits_leave_no_copies() -> None:
    plain = MemoryPlan(5, 2, 10)
    assert with_low(0.0, 8.0) == plain
    shared = dataclasses.replace(policy_named("on_demand"), low_share=0.5, low_bits=8.0)
    assert with_low_slots(plain, shared, DECODER) == plain
    with pytest.raises(InvalidInput, match=r"keeps copies of 32 bits, .* stores 32: give fewer"):
        with_low(0.5, 32.0)
    by_matrix = dataclasses.replace(policy_named("on_demand+lru:10"), low_share=0.5, granularity="matrix")
    with pytest.raises(InvalidInput, match="whole experts in fewer bits: leave granularity= out"):
        with_low_slots(plain, by_matrix, DECODER)


@pytest.mark.parametrize(("lookahead", "n_layers"), [(0, 2), (1, 2), (2, 3)])
def test_a_policy_that_copies_whole_layers_has_slots_for_whole_layers(lookahead: int, n_layers: int) -> None:
    """For one at least, and no more than run and come at once; those that HBM has room for, whole ones."""
    policy = dataclasses.replace(policy_named("on_demand"), granularity="layer", lookahead=lookahead)

    def granted(full: int, hbm_bytes: int = 1 << 40) -> int:
        asked = dataclasses.replace(policy, buffers=lambda n_active, n_experts: Buffers(1, full))
        return plan_memory(DECODER, WORKLOAD, asked, STREAMS, hbm_bytes=hbm_bytes, reserve_bytes=0).n_buffers

    n_experts, n_active = DECODER.n_experts, WORKLOAD.n_active
    assert granted(100) == n_layers * n_experts
    assert (granted(1), granted(n_active), granted(n_active + 1)) == (n_experts, n_experts, 2 * n_experts)
    room = static_bytes(DECODER) - 100 + (2 * n_experts - 1) * DECODER.expert_bytes
    assert granted(100, room) == n_experts


def test_a_draft_takes_all_of_its_weights_and_keys_and_values_of_as_many_tokens() -> None:
    """The decoder of two rooms as its own draft: weights, experts, ten cached tokens, and no activations."""
    drafting = policy_named("on_demand").with_speculation(
        Speculation(gamma=2, acceptance=0.5, draft_name="mine", draft=DECODER)
    )
    with_draft, stated, plain = (
        plan_memory(DECODER, WORKLOAD, policy, STREAMS, hbm_bytes=1 << 40, reserve_bytes=0).static_bytes
        for policy in (
            drafting,
            policy_named("on_demand").with_speculation(Speculation(gamma=2, acceptance=0.5, draft_name="stated")),
            policy_named("on_demand"),
        )
    )
    experts = DECODER.n_moe_layers * DECODER.n_experts * DECODER.expert_bytes
    kv_bytes = 10 * 4 * (2 * 2 * 8) * 4
    assert with_draft - plain == DECODER.non_expert_bytes + experts + kv_bytes
    assert stated == plain
    mixer = LinearMixer("gated_delta_net", ((12, 32), (32, 4)), vectors=0, state_elements=30, flop_per_token=70)
    stack = dataclasses.replace(DECODER.decoder, mixers=(mixer,), mixer_of=(1, 1, 1, 1))
    stateful = dataclasses.replace(DECODER, decoder=stack)
    again = dataclasses.replace(drafting, speculation=dataclasses.replace(drafting.speculation, draft=stateful))
    found = plan_memory(DECODER, WORKLOAD, again, STREAMS, hbm_bytes=1 << 40, reserve_bytes=0).static_bytes
    weights = stateful.non_expert_bytes + experts
    assert found - plain == weights + 2 * stateful.state_bytes_per_sequence
    assert stateful.state_bytes_per_sequence > 0


def test_shares_and_storage_leave_so_much_of_it_out_of_host_memory() -> None:
    nothing: frozenset[int] = frozenset()
    plain = Placed(nothing, nothing, (None, None, None), "device")
    kv_layer = 10 * (2 * 2 * 8) * 4
    half = dataclasses.replace(plain, kv="host", kv_share=0.5)
    assert host_bytes(DECODER, WORKLOAD, policy_named("gpu_only"), half) == 2 * kv_layer
    on_demand = policy_named("on_demand")
    assert host_bytes(DECODER, WORKLOAD, on_demand, half, experts=False) == 2 * kv_layer
    weights = layer_weight_bytes(DECODER)
    layers = Placed(frozenset({0}), frozenset({3}), (None, None, None), "device", streamed_share=0.5)
    wanted = weights[0] + weights[3] // 2 + kv_layer  # of the layer that streams a half stays
    assert host_bytes(DECODER, WORKLOAD, policy_named("gpu_only"), layers) == wanted


def test_a_model_whose_layers_are_all_on_the_host_leaves_its_head_there_too() -> None:
    """And keys and values that would stream have none to stream for."""
    weights, experts = layer_weight_bytes(DECODER), DECODER.n_moe_layers * DECODER.n_experts * DECODER.expert_bytes
    gone = experts + sum(weights) + head_bytes(DECODER) + 4 * 10 * (2 * 2 * 8) * 4
    assert head_bytes(DECODER) > 0
    assert placed_bytes("") - placed_bytes("layers=cpu") == gone
    nothing: frozenset[int] = frozenset()
    away = Placed(frozenset(range(4)), nothing, (nothing,) * 3, "stream")
    found = plan_memory(
        DECODER, WORKLOAD, policy_named("gpu_only"), STREAMS, hbm_bytes=1 << 40, reserve_bytes=0, placed=away
    )
    assert found.static_bytes == placed_bytes("layers=cpu")
    assert isinstance(placed_bytes("experts=cpu", dataclasses.replace(STREAMS, stream_tokens=1)), int)


def test_micro_batches_of_more_sequences_than_run_are_whole_passes() -> None:
    two = dataclasses.replace(WORKLOAD, n_running=2)
    assert placed_bytes("kv=stream@micro=9", workload=two) == placed_bytes("kv=stream", workload=two)


def test_a_cache_has_one_slot_where_no_layer_is_decided_on() -> None:
    """The least that a stated one has; of one layer a half would be three."""
    policy = policy_named("on_demand+lru:0.5@experts=cpu")
    assert plan_memory(DECODER, WORKLOAD, policy, STREAMS, hbm_bytes=1 << 40, reserve_bytes=0).n_cache_slots == 1


def test_buffers_that_fail_are_told_by_the_name_of_their_policy() -> None:
    policy = dataclasses.replace(policy_named("on_demand"), buffers=lambda n_active, n_experts: Buffers(1 // 0, 1))
    with pytest.raises(InvalidInput, match="policy on_demand: buffers "):
        plan_memory(DECODER, WORKLOAD, policy, STREAMS, hbm_bytes=1 << 40, reserve_bytes=0)


def test_layers_of_a_pass_with_one_active_expert_are_as_many_as_are_asked_for() -> None:
    one = dataclasses.replace(WORKLOAD, n_active=1, n_decode_active=1)
    policy = dataclasses.replace(
        policy_named("on_demand"), granularity="layer", buffers=lambda n_active, n_experts: Buffers(1, 2)
    )
    found = plan_memory(DECODER, one, policy, STREAMS, hbm_bytes=1 << 40, reserve_bytes=0)
    assert found.n_buffers == 2 * DECODER.n_experts


def test_a_compressed_cache_keeps_its_window_and_an_entry_for_several_tokens() -> None:
    """Of each layer: what lies in the window, and beside it what stands for all that is cached."""
    model = load_architecture("deepseek-v4-flash")
    mixers = [one for one in model.decoder.all_mixers if isinstance(one, Attention)]
    assert any(one.compression for one in mixers)

    def kv_elements(n_tokens: int) -> float:
        kept = [min(n_tokens, one.window) if one.window else n_tokens for one in mixers]
        beside = [n_tokens * one.kv_elements_per_token if one.compression else 0 for one in mixers]
        return sum(n * one.entry_elements for n, one in zip(kept, mixers, strict=True)) + sum(beside)

    few, many = (dataclasses.replace(WORKLOAD, n_cached_tokens=n, n_running=1) for n in (64, 4096))
    first, second = (
        plan_memory(model, one, policy_named("on_demand"), STREAMS, hbm_bytes=1 << 50, reserve_bytes=0).static_bytes
        for one in (few, many)
    )
    wanted = (kv_elements(4096) - kv_elements(64)) * model.stored_kv_dtype.bytes_per_param
    assert second - first == pytest.approx(wanted, abs=1)


def test_tables_of_n_grams_lie_in_host_memory_whatever_is_placed_elsewhere() -> None:
    tables = dataclasses.replace(DECODER, table_params=1000, table_dtype=DTYPES["mxfp8"])
    assert tables.total_params == DECODER.total_params + 1000
    assert tables.active_params == DECODER.active_params
    assert tables.non_expert_bytes == DECODER.non_expert_bytes
    nothing: frozenset[int] = frozenset()
    placed = Placed(nothing, nothing, (None, None, None), "device")
    for policy in map(policy_named, ("gpu_only", "on_demand")):
        plain, more = (host_bytes(model, WORKLOAD, policy, placed) for model in (DECODER, tables))
        assert more - plain == 1032  # 8.25 bits each
