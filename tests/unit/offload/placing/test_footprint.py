"""HBM before the first expert, by hand; and how many expert slots a policy is granted."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from offload.placing.footprint import MemoryPlan, host_bytes, plan_memory
from offload.placing.placed import Placed
from offload.placing.workload import Workload, measure_workload
from offload.policies import policy_named
from offload.policies.pregate import pregate
from offload.policy import Buffers, Policy
from offload.slots.memory import CapacityExceeded
from tests.small_models import decoder_only, routing
from tests.unit.offload.by_hand import step
from tests.unit.offload.placing.granted_memory import DECODER, RELEASED, STREAMS, SWITCH, WORKLOAD, plan, static_bytes
from traces.model.architecture import DTYPES
from traces.model.layer_bytes import layer_weight_bytes
from traces.model.linear_mixer import LinearMixer
from traces.phase import Phase
from traces.routing import Provenance, RoutingTrace
from traces.transforms.rebatching import rebatch


def test_the_workload_of_one_sequence() -> None:
    """Four prompt tokens, then four of five outputs by decoding: the first is the prefill's."""
    found = measure_workload(DECODER, routing(DECODER).steps())
    assert found.n_cached_tokens == found.n_context == 8
    assert (found.n_memory_tokens, found.n_encoder_active) == (0, 0)
    assert found.n_tokens == 4
    assert (found.n_output_tokens, found.n_sequences) == (5, 1)


def test_the_workload_of_a_batch_with_an_encoder() -> None:
    found = measure_workload(SWITCH, routing(SWITCH, batch=3).steps())
    assert found.n_cached_tokens == 3 * 5
    assert found.n_memory_tokens == 3 * 4
    assert found.n_tokens == 3 * 4
    assert (found.n_output_tokens, found.n_sequences) == (15, 3)


def test_encoder_outputs_count_while_their_sequence_still_decodes() -> None:
    """The second prompt is read while the first sequence is being decoded: both memories are alive."""
    place = [
        (0, 0, 0, 0),
        (0, 1, 0, 0),
        (0, 0, 1, 1),
        (1, 0, 0, 2),
        (1, 1, 0, 2),
        (1, 2, 0, 2),
        (0, 1, 1, 3),
        (1, 0, 1, 3),
    ]
    sequence, position, phase, step = np.array(place, np.int32).T
    experts = np.zeros((len(place), SWITCH.n_moe_layers, 1), np.int16)
    trace = RoutingTrace(
        experts, sequence, position, phase.astype(np.int8), step, SWITCH.n_experts, Provenance("small", "a test")
    )
    assert measure_workload(SWITCH, trace.steps()).n_memory_tokens == 5


def test_sequences_run_one_by_one_do_not_share_the_cache() -> None:
    found = measure_workload(DECODER, rebatch(routing(DECODER, batch=2), 1).steps())
    assert found.n_cached_tokens == 8
    assert (found.n_sequences, found.n_running) == (2, 1)


def test_what_passes_ask_for_is_counted_pass_by_pass() -> None:
    """Of three layers: a prompt of three tokens, two sequences at once, and tokens that one sequence makes together."""
    prompt = step(0, Phase.PREFILL, [(4, 0), (4, 1), (4, 2)], [[[0, 5], [0, 1], [2, -1]]] * 3)
    other = step(1, Phase.PREFILL, [(7, 0)], [[[1, 2], [3, 4], [0, 5]]])
    both = step(2, Phase.DECODE, [(4, 3), (7, 1)], [[[0, 1], [0, 1], [0, 1]], [[2, 3], [0, 2], [-1, -1]]])
    drafted = step(3, Phase.DECODE, [(4, 5), (4, 4)], [[[0, 1]] * 3] * 2)
    assert measure_workload(DECODER, [prompt]) == Workload(3, 0, 3, 3, 2, 0, 0, 1, 1, 1)
    assert measure_workload(DECODER, [prompt, other, both]) == Workload(4 + 2, 0, 3, 4, 4, 4, 0, 2 + 2, 2, 2)
    found = measure_workload(DECODER, [prompt, drafted, dataclasses.replace(both, i_step=4)])
    assert found.n_decode_active == 4  # more than two tokens chose before
    apart = measure_workload(DECODER, [drafted, prompt, dataclasses.replace(both, i_step=4)])
    assert apart.n_decode_active == 4  # as many tokens of as many experts each as before, but of other ones
    assert measure_workload(DECODER, [prompt, drafted]) == Workload(6, 0, 3, 6, 2, 2, 0, 1 + 2, 1, 1)


def test_drafted_tokens_that_are_not_taken_are_no_output() -> None:
    """Three of a sequence in one pass, of which the last two are rejected; then one that nobody drafted."""
    made = step(0, Phase.DECODE, [(4, 5), (4, 6), (4, 7)], [[[0, 1]] * 3] * 3)
    made = dataclasses.replace(made, rejected=np.array([False, True, True]))
    after = step(1, Phase.DECODE, [(4, 6)], [[[0, 1]] * 3])
    assert measure_workload(DECODER, [made]).n_output_tokens == 1
    assert measure_workload(DECODER, [made, after]).n_output_tokens == 2


def test_what_an_encoder_reads_after_a_pass_is_not_in_memory_during_it() -> None:
    """Two prompts of two tokens, a token of each, then one more token read of the first."""
    hidden = [[-1]] * 3
    reads = step(0, Phase.PREFILL, [(0, 0), (0, 1), (1, 0), (1, 1)], [[[0], *hidden]] * 4)
    makes = step(1, Phase.DECODE, [(0, 0), (1, 0)], [[[-1], [1], [0], [3]]] * 2)
    more = step(2, Phase.PREFILL, [(0, 2)], [[[0], *hidden]])
    assert measure_workload(SWITCH, [reads, makes, more]).n_memory_tokens == 4
    assert measure_workload(SWITCH, [reads, more, makes]).n_memory_tokens == 5


def test_unions_of_an_encoder_and_of_a_decoder_are_counted_apart() -> None:
    """The encoder's layer comes first in a trace; the other layers of a pass are not its own."""
    hidden = [[-1]] * 3
    reads = step(0, Phase.PREFILL, [(0, 0), (0, 1), (0, 2)], [[[0], *hidden], [[4], *hidden], [[2], *hidden]])
    makes = step(1, Phase.DECODE, [(0, 0), (1, 0)], [[[-1], [1], [0], [3]], [[-1], [1], [4], [3]]])
    assert measure_workload(SWITCH, [reads]) == Workload(0, 3, 3, 3, 0, 0, 3, 0, 1, 0)
    again = measure_workload(SWITCH, [reads, dataclasses.replace(reads, i_step=1)])
    assert again.n_memory_tokens == 6  # what a sequence has read so far stays
    assert measure_workload(SWITCH, [reads, makes]) == Workload(2, 3, 3, 3, 2, 2, 3, 2, 2, 2)
    dense = dataclasses.replace(SWITCH.stacks[0], moe_layers=())
    model = dataclasses.replace(SWITCH, encoder=dense)
    reads = step(0, Phase.PREFILL, [(0, 0)], [hidden])
    assert measure_workload(model, [reads]).n_encoder_active == 0


def test_a_prompt_read_in_two_steps_makes_one_token_and_keeps_what_it_has_read() -> None:
    first, second = (step(i, Phase.PREFILL, [(9, i)], [[[0, 1]] * 3]) for i in range(2))
    first = dataclasses.replace(first, unfinished=np.array([True]))
    assert measure_workload(DECODER, [first, second]) == Workload(2, 0, 1, 2, 2, 0, 0, 1, 1, 1)


def test_states_and_windows_are_of_the_sequences_that_run_at_once() -> None:
    """A layer with a state of 30 numbers, one that sees four tokens, two that see all; two sequences, one by one."""
    decoder = DECODER.decoder
    window = dataclasses.replace(decoder.attention, window=4)
    mixer = LinearMixer("gated_delta_net", ((12, 32), (32, 4)), vectors=0, state_elements=30, flop_per_token=70)
    stack = dataclasses.replace(decoder, mixers=(window, mixer), mixer_of=(0, 1, 2, 0))
    model = dataclasses.replace(DECODER, decoder=stack)
    activation_bytes = 4 * (14 * 32 + 2 * 96) * 4
    kv_bytes = 2 * 2 * 8 * 4  # of a token in one layer
    for batch, n_cached, n_kept in ((1, 8, 4), (2, 16, 8)):
        workload = measure_workload(model, rebatch(routing(DECODER, batch=2), batch).steps())
        workload = dataclasses.replace(workload, n_tokens=4)
        assert (workload.n_cached_tokens, workload.n_sequences) == (n_cached, 2)
        outside = plan(model, "on_demand", 1 << 40, workload).static_bytes - model.non_expert_bytes - 100
        assert outside == activation_bytes + (2 * n_cached + n_kept) * kv_bytes + batch * 30 * 4
    short = dataclasses.replace(WORKLOAD, n_cached_tokens=5, n_sequences=9, n_running=3)
    outside = plan(model, "on_demand", 1 << 40, short).static_bytes - model.non_expert_bytes - 100
    assert outside == activation_bytes + 3 * 5 * kv_bytes + 3 * 30 * 4  # all within the window


def test_static_bytes_by_hand() -> None:
    """Weights + 10 cached tokens + activations of 4 tokens: 14 rows of 32, two hidden rows of top-2 experts of 48."""
    kv_bytes = 10 * 4 * (2 * 2 * 8) * 4  # 4 layers, keys and values of 2 heads of 8, fp32
    activation_bytes = 4 * (14 * 32 + 2 * 96) * 4
    assert static_bytes(DECODER) == DECODER.non_expert_bytes + kv_bytes + activation_bytes + 100


def test_the_released_stack_stores_scores_and_splits_a_weight_buffer() -> None:
    released = plan_memory(
        DECODER, WORKLOAD, policy_named("on_demand"), RELEASED, hbm_bytes=1 << 40, reserve_bytes=100
    ).static_bytes
    buffer_bytes = DECODER.n_experts * DECODER.expert_bytes // 2
    activation_bytes = 4 * (14 * 32 + 2 * 96 + 5 * 4) * 4
    assert released == DECODER.non_expert_bytes + buffer_bytes + activation_bytes + 100
    odd = dataclasses.replace(
        decoder_only(n_experts=3, n_matrices=3), d_model=33, d_ff_expert=47,
        dtype=DTYPES["fp8"], expert_dtype=DTYPES["fp8"], activation_dtype=DTYPES["bf16"],
    )  # fmt: skip
    found = plan_memory(odd, WORKLOAD, policy_named("on_demand"), RELEASED, hbm_bytes=1 << 40, reserve_bytes=0)
    assert odd.n_experts * odd.expert_bytes == 3 * 3 * 33 * 47  # an odd number: whole bytes all the same
    kv_bytes = max(3 * 3 * 33 * 47 // 2, 10 * 4 * (2 * 2 * 8) * 2)
    assert found.static_bytes == odd.non_expert_bytes + kv_bytes + 4 * (14 * 33 + 2 * 94 + 5 * 4) * 2


def test_keys_and_values_of_what_an_encoder_read_are_kept() -> None:
    """Six decoder layers of keys and values, 4 heads of 8 each in fp32, for every encoder output."""
    none, some = (dataclasses.replace(WORKLOAD, n_memory_tokens=n) for n in (0, 3))
    first, second = (plan(SWITCH, "on_demand", 1 << 40, workload).static_bytes for workload in (none, some))
    assert second - first == 3 * 6 * (4 * 8 + 4 * 8) * 4


def test_a_model_of_small_weights_keeps_its_activations_wide() -> None:
    """fp8 weights do not halve a bf16 KV cache."""
    wide = dataclasses.replace(DECODER, dtype=DTYPES["bf16"], expert_dtype=DTYPES["bf16"])
    narrow = dataclasses.replace(wide, dtype=DTYPES["fp8"], activation_dtype=DTYPES["bf16"])
    outside = [static_bytes(model) - model.non_expert_bytes for model in (wide, narrow)]
    assert outside[0] == outside[1]


@pytest.mark.parametrize(
    ("policy", "minimum", "full"),
    [("on_demand", 1, 3), ("pregate", 1, 6), ("pregate(2)", 1, 9), ("prefetch_all", 6, 12), ("pregate+lru:4", 5, 10)],
)
def test_slots_are_granted_up_to_full_overlap_and_refused_below_the_least(policy: str, minimum: int, full: int) -> None:
    base, slot = static_bytes(DECODER), DECODER.expert_bytes
    n_cached = 4 if "lru" in policy else 0
    for n_fit, granted in ((minimum, minimum), (full, full), (full + 5, full)):
        assert plan(DECODER, policy, base + n_fit * slot) == MemoryPlan(base, granted - n_cached, n_cached)
    if full > minimum:
        assert plan(DECODER, policy, base + full * slot - 1).n_buffers == full - 1 - n_cached
    with pytest.raises(CapacityExceeded, match="GB of HBM, there are") as caught:
        plan(DECODER, policy, base + minimum * slot - 1)
    assert caught.value.needed_bytes == base + minimum * slot
    assert str(caught.value).endswith(
        "GB: try a smaller --cache" if n_cached else "GB: try a smaller batch or a larger --hbm"
    )


def test_a_refusal_names_both_sizes_in_gb_and_the_way_out() -> None:
    with pytest.raises(CapacityExceeded) as caught:
        plan_memory(DECODER, WORKLOAD, policy_named("on_demand"), STREAMS, hbm_bytes=5 * 10**17, reserve_bytes=10**18)
    assert str(caught.value) == (
        "on_demand needs 1000000000.0 GB of HBM, there are 500000000.0 GB: try a smaller batch or a larger --hbm"
    )


def test_a_policy_asks_for_buffers_by_the_experts_that_a_block_has() -> None:
    """Of six experts, of which three are active at most: a third of all at least, all and the active to overlap."""
    policy = Policy("of its own", buffers=lambda n_active, n_experts: Buffers(n_experts // 3, n_experts + n_active))
    for n_slots, granted in ((2, 2), (9, 9), (20, 9)):
        hbm_bytes = static_bytes(DECODER) + n_slots * DECODER.expert_bytes
        found = plan_memory(DECODER, WORKLOAD, policy, STREAMS, hbm_bytes=hbm_bytes, reserve_bytes=100)
        assert found.n_buffers == granted


def test_gpu_only_needs_every_expert() -> None:
    needed = static_bytes(DECODER) + 3 * 6 * DECODER.expert_bytes
    assert plan(DECODER, "gpu_only", needed) == MemoryPlan(needed, 0, 0)
    with pytest.raises(CapacityExceeded, match=r"gpu_only needs .* try an offloading policy"):
        plan(DECODER, "gpu_only", needed - 1)


def test_an_encoder_with_larger_unions_gets_its_slots() -> None:
    """On demand it needs one block's experts; pre-gated as well, twice as many overlap."""
    busy = dataclasses.replace(WORKLOAD, n_active=1, n_decode_active=1, n_encoder_active=5, n_memory_tokens=4)
    for encoder, granted in (("on_demand", 5), ("same", 10)):
        policy = pregate(encoder=encoder)  # type: ignore[arg-type]
        found = plan_memory(SWITCH, busy, policy, RELEASED, hbm_bytes=1 << 40, reserve_bytes=0)
        assert found.n_buffers == granted


@pytest.mark.parametrize(("policy", "granted"), [("on_demand", 2), ("pregate", 2), ("pregate(2)", 3)])
def test_a_long_prompt_passes_through_the_slots_of_decoding(policy: str, granted: int) -> None:
    """Two at least, so that a copy runs beside an FFN."""
    long = dataclasses.replace(WORKLOAD, n_active=6, n_decode_active=1)
    found = plan_memory(DECODER, long, policy_named(policy), STREAMS, hbm_bytes=1 << 40, reserve_bytes=0)
    assert found.n_buffers == granted
    rest = plan_memory(DECODER, long, policy_named(f"{policy}+lru"), STREAMS, hbm_bytes=1 << 40, reserve_bytes=0)
    assert rest == MemoryPlan(found.static_bytes, granted, 3 * 6)


def test_a_trace_that_only_reads_prompts_gets_the_slots_of_a_prompt() -> None:
    long = dataclasses.replace(WORKLOAD, n_active=6, n_decode_active=0)
    assert plan_memory(DECODER, long, pregate(), STREAMS, hbm_bytes=1 << 40, reserve_bytes=0).n_buffers == 12


def test_a_cache_ratio_is_of_the_decoders_experts() -> None:
    assert plan(SWITCH, "on_demand+lru:0.2", 1 << 40).n_cache_slots == round(3 * 5 * 0.2)
    assert plan(decoder_only(), "on_demand+lru:0.5", 1 << 40).n_cache_slots == 9


def test_a_cache_of_no_stated_size_takes_what_is_left() -> None:
    static = plan(DECODER, "on_demand", 1 << 40).static_bytes

    def slots(policy: str, room: int) -> tuple[int, int]:
        granted = plan(DECODER, policy, static + room * DECODER.expert_bytes)
        return granted.n_buffers, granted.n_cache_slots

    assert [slots("lru", room) for room in (3, 4, 8)] == [(3, 0), (3, 1), (3, 5)]
    assert slots("lru", 10_000) == (3, DECODER.n_moe_layers * DECODER.n_experts)
    assert [slots("pregate+lru", room) for room in (4, 6, 7)] == [(4, 0), (6, 0), (6, 1)]  # its buffers come first


def test_what_waits_in_host_memory_is_counted_once() -> None:
    """Experts that a policy moves or a placement keeps there, whole layers, what streams, and keys and values."""
    expert, weights, kv_layer = DECODER.expert_bytes, layer_weight_bytes(DECODER), 10 * (2 * 2 * 8) * 4
    nothing: frozenset[int] = frozenset()
    plain = Placed(nothing, nothing, (None, None, None), "device")
    some = Placed(nothing, nothing, (frozenset({0, 1}), None, nothing), "device")  # 4 and 6 of two blocks on the host
    layers = Placed(frozenset({0}), frozenset({3}), (None, None, None), "device")
    for policy, placed, wanted in (
        ("on_demand", plain, 3 * 6 * expert),
        ("gpu_only", plain, 0),
        ("on_demand", some, (4 + 6 + 6) * expert),
        ("gpu_only", some, (4 + 6) * expert),
        ("gpu_only", layers, weights[0] + weights[3] + kv_layer),
        ("gpu_only", dataclasses.replace(plain, kv="host"), 4 * kv_layer),
        ("gpu_only", dataclasses.replace(layers, kv="stream"), weights[0] + weights[3] + 4 * kv_layer),
    ):
        assert host_bytes(DECODER, WORKLOAD, policy_named(policy), placed) == wanted


def test_a_placement_that_is_given_takes_the_place_of_the_policys() -> None:
    on_host = Placed(frozenset({3}), frozenset(), (None, None, None), "device")
    policy, given = policy_named("gpu_only"), {"hbm_bytes": 1 << 40, "reserve_bytes": 0}
    own = plan_memory(DECODER, WORKLOAD, policy, STREAMS, **given).static_bytes
    other = plan_memory(DECODER, WORKLOAD, policy, STREAMS, placed=on_host, **given).static_bytes
    assert other < own
