from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from traces.errors import InvalidInput
from traces.phase import Phase
from traces.routing import Provenance, RoutingTrace
from traces.transforms.rebatching import rebatch

ORIGIN = Provenance(model="toy", source="test")


def decode_trace(lengths: list[int], *, prompts: int = 0, n_layers: int = 2, seed: int = 0) -> RoutingTrace:
    """Sequences one after another, each a prompt of `prompts` tokens (one step) and `length` decode steps."""
    rng = np.random.default_rng(seed)
    rows: list[tuple[int, int, int, int]] = []
    step = -1
    for i, length in enumerate(lengths):
        if prompts:
            step += 1
            rows += [(i, position, Phase.PREFILL, step) for position in range(prompts)]
        for age in range(length):
            step += 1
            rows.append((i, prompts + age, Phase.DECODE, step))
    sequence, position, phase, steps = np.array(rows).T
    scores = rng.random((len(rows), n_layers, 8))
    experts = np.argsort(scores, axis=2)[:, :, :2].astype(np.int16)
    return RoutingTrace(experts, sequence, position, phase, steps, 8, ORIGIN)


def test_sizes_are_read_off_the_arrays() -> None:
    trace = decode_trace([3, 2], prompts=4)
    assert (trace.n_tokens, trace.n_moe_layers, trace.top_k) == (13, 2, 2)
    assert (trace.n_steps, trace.batch, trace.n_sequences) == (7, 1, 2)


def test_steps_cover_every_token_once_and_in_order() -> None:
    trace = rebatch(decode_trace([3, 5, 2], prompts=2), 2)
    steps = list(trace.steps())
    assert len(steps) == trace.n_steps
    assert np.array_equal(np.concatenate([step.experts for step in steps]), trace.experts)
    assert [step.i_step for step in steps] == list(range(trace.n_steps))
    assert {step.phase for step in steps} == {Phase.PREFILL, Phase.DECODE}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"experts": (1, 0, 0, 8)}, r"token 1, MoE layer 0: expert 8 is not in \[-1, 8\)"),
        ({"experts": (2, 1, 0, -2)}, r"token 2, MoE layer 1: expert -2 is not in \[-1, 8\)"),
        ({"position": (3, -1)}, r"token 3: position below 0 \(-1\)"),
        ({"phase": (0, 2)}, r"token 0: phase not 0 or 1 \(2\)"),
        ({"step": (4, 1)}, r"token 4: step below the one before"),
    ],
)
def test_wrong_value_is_named_with_its_token(change: dict[str, tuple[int, ...]], message: str) -> None:
    trace = decode_trace([6])
    ((name, (*index, value)),) = change.items()
    array = getattr(trace, name).copy()
    array[tuple(index)] = value
    with pytest.raises(InvalidInput, match=message):
        replace(trace, **{name: array})


def test_expert_chosen_twice_by_one_token_is_refused() -> None:
    trace = decode_trace([6])
    experts = trace.experts.copy()
    experts[4, 1] = 3
    with pytest.raises(InvalidInput, match="token 4, MoE layer 1: expert 3 is chosen twice"):
        replace(trace, experts=experts)


def test_fewer_experts_than_top_k_are_padded() -> None:
    trace = decode_trace([2])
    experts = trace.experts.copy()
    experts[0, 1] = [3, -1]
    assert replace(trace, experts=experts).experts[0, 1].tolist() == [3, -1]


def test_two_phases_in_one_step_are_refused() -> None:
    trace = decode_trace([2], prompts=1)
    with pytest.raises(InvalidInput, match="token 1: phase unlike the rest of its step"):
        replace(trace, step=np.zeros(3, np.int32))


@pytest.mark.parametrize(
    "change",
    [
        {"position": np.zeros(5, np.int32)},
        {"experts": np.zeros((6, 2), np.int16)},
        {"experts": np.zeros((6, 2, 2), np.float32)},
        {"sequence": np.full(6, 1 << 40)},
        {"gate_weights": np.full((6, 2, 2), np.nan, np.float32)},
        {"expert_bytes": np.array([5, 0])},
        {"n_experts": 40_000},
        {"n_experts": 1},
        {"n_experts": 8.5},
        {"n_experts": "8"},
        {"n_experts": True},
        {"provenance": None},
        {"position": np.full(6, (1 << 31) - 1)},
        {"position": np.zeros(6, np.int32)},
        {"expert_bytes": np.array([5, 1 << 62])},
        {"sequence": np.ma.masked_array(np.zeros(6, int), mask=True)},
    ],
)
def test_wrong_shape_type_or_size_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput):
        replace(decode_trace([6]), **change)


def test_arrays_are_read_only() -> None:
    trace = decode_trace([2])
    with pytest.raises(ValueError, match="read-only"):
        trace.experts[0, 0, 0] = 1


def test_digest_changes_with_the_routing_and_not_with_its_description() -> None:
    trace = decode_trace([4])
    experts = trace.experts.copy()
    experts[3, 1] = experts[3, 1, ::-1]
    assert replace(trace, experts=experts).digest != trace.digest
    assert replace(trace, n_experts=9).digest != trace.digest
    assert replace(trace, provenance=Provenance("toy", "elsewhere")).digest == trace.digest
    assert len(trace.digest) == 16


def test_select_keeps_one_phase_and_renumbers_its_steps() -> None:
    trace = decode_trace([3, 2], prompts=4)
    decoded = trace.decode_only()
    assert decoded.n_tokens == 5
    assert decoded.step.tolist() == [0, 1, 2, 3, 4]
    assert trace.select(phase=Phase.PREFILL).step.tolist() == [0] * 4 + [1] * 4
    with pytest.raises(InvalidInput, match="no prefill tokens"):
        decoded.select(phase=Phase.PREFILL)


def test_model_of_another_shape_is_refused_naming_both_sides() -> None:
    trace = decode_trace([2])
    fitting: Any = SimpleNamespace(name="fits", n_moe_layers=2, n_experts=8, top_k=2, n_encoder_moe_layers=0)
    trace.check_model(fitting)
    other: Any = SimpleNamespace(name="other", n_moe_layers=2, n_experts=64, top_k=2)
    with pytest.raises(InvalidInput, match="toy has n_experts = 8, model other has 64"):
        trace.check_model(other)


def test_next_sequence_starts_when_one_ends() -> None:
    trace = rebatch(decode_trace([3, 1, 2]), 2)
    members = [step.sequence.tolist() for step in trace.steps()]
    assert members == [[0, 1], [0, 2], [0, 2]]


def test_prompts_run_just_before_their_first_decode_step() -> None:
    trace = rebatch(decode_trace([2, 1, 1], prompts=2), 2)
    order = [(step.phase.name, step.sequence.tolist()) for step in trace.steps()]
    assert order == [
        ("PREFILL", [0, 0, 1, 1]),
        ("DECODE", [0, 1]),
        ("PREFILL", [2, 2]),
        ("DECODE", [0, 2]),
    ]


@given(st.lists(st.integers(1, 6), min_size=1, max_size=6), st.integers(1, 8), st.integers(0, 2))
def test_rebatching_keeps_every_choice_and_can_be_undone(lengths: list[int], batch: int, prompts: int) -> None:
    trace = decode_trace(lengths, prompts=prompts)
    batch = min(batch, len(lengths))
    side_by_side = rebatch(trace, batch)
    assert side_by_side.batch == batch
    for i in range(len(lengths)):
        assert np.array_equal(trace.experts[trace.sequence == i], side_by_side.experts[side_by_side.sequence == i])
    assert rebatch(side_by_side, 1).digest == trace.digest


def test_batch_below_one_is_refused() -> None:
    with pytest.raises(InvalidInput, match="batch = 0"):
        rebatch(decode_trace([2]), 0)


@pytest.mark.parametrize("batch", [3, 4, 8, 1000])
def test_batch_above_the_recorded_sequences_is_refused(batch: int) -> None:
    with pytest.raises(InvalidInput, match=f"batch = {batch}: the trace of toy has 2 sequences, at most 2"):
        rebatch(decode_trace([2, 3]), batch)


def with_holes(trace: RoutingTrace, *cells: tuple[int, int | slice]) -> RoutingTrace:
    experts = trace.experts.copy()
    for token, layer in cells:
        experts[token, layer] = -1
    return replace(trace, experts=experts)


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ([(slice(None), slice(None))], "token 0: no expert at any MoE layer"),
        ([(7, slice(None))], "token 7: no expert at any MoE layer"),
        ([(7, 1)], "token 7, MoE layer 1: no expert, unlike other decode tokens"),
        ([(1, 0)], "token 1, MoE layer 0: no expert, unlike other prefill tokens"),
        ([(7, 2)], "token 7, MoE layer 2: no expert"),
        ([(slice(0, 4), 0)], "MoE layer 0: decode tokens have experts, prefill tokens none"),
    ],
)
def test_a_trace_with_holes_is_refused(cells: list[Any], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        with_holes(decode_trace([8], prompts=4, n_layers=3), *cells)


def test_a_prompt_may_leave_out_the_last_layer_and_an_encoder_all_of_the_decoder() -> None:
    trace = decode_trace([8], prompts=4, n_layers=3)
    assert with_holes(trace, (slice(0, 3), 2)).n_tokens == 12
    assert with_holes(trace, (slice(0, 4), 2)).n_tokens == 12
    encoder_decoder = with_holes(trace, (slice(0, 4), slice(1, 3)), (slice(4, None), 0))
    with pytest.raises(InvalidInput, match="token 0, MoE layer 1: an expert, unlike other prefill tokens"):
        replace(encoder_decoder, experts=np.concatenate((trace.experts[:1], encoder_decoder.experts[1:])))
    with pytest.raises(InvalidInput, match="prefill tokens at MoE layer 1, where one has some"):
        encoder_decoder.check_model(model("one", n_encoder=0))
    with pytest.raises(InvalidInput, match="prefill tokens at MoE layer 1, where two has some"):
        encoder_decoder.check_model(model("two", n_encoder=2))
    encoder_decoder.check_model(model("three", n_encoder=1))


def model(name: str, n_encoder: int) -> Any:
    return SimpleNamespace(name=name, n_moe_layers=3, n_experts=8, top_k=2, n_encoder_moe_layers=n_encoder)
