"""Prompts in chunks, or that several steps read: the compiled decode loop writes what the definition writes."""

from __future__ import annotations

from dataclasses import replace

import hypothesis.strategies as st
import pytest
from hypothesis import given

from offload.execution import EXECUTIONS
from offload.placing.workload import measure_workload
from offload.policies import policy_named
from tests.small_models import MODELS, in_parts, routing
from tests.written_schedules import POLICIES, assert_written_alike


@given(
    st.sampled_from(POLICIES), st.sampled_from(list(MODELS)),
    st.sampled_from(("llama_cpp", "ik_llama", "ktransformers", "vllm")),
    st.integers(1, 5), st.integers(1, 9), st.integers(0, 10**6),
)  # fmt: skip
def test_prompts_in_chunks_are_written_alike(
    text: str, name: str, execution: str, batch: int, n_tokens: int, seed: int
) -> None:
    model = MODELS[name]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(EXECUTIONS, execution, replace(EXECUTIONS[execution], micro_batch=n_tokens))
        trace = routing(model, batch=batch, seed=seed)
        workload = measure_workload(model, trace.steps())
        wanted = policy_named(text).buffers(max(workload.n_active, workload.n_encoder_active), model.n_experts)
        assert_written_alike(model, trace, text, execution, n_buffers=wanted.full + workload.n_encoder_active)


@given(
    st.sampled_from(POLICIES), st.sampled_from(list(MODELS)), st.sampled_from(("streams", "llama_cpp", "vllm")),
    st.integers(1, 4), st.integers(1, 9), st.integers(1, 12), st.integers(0, 4), st.integers(0, 10**6),
)  # fmt: skip
def test_prompts_that_several_steps_read_are_written_alike(
    text: str, name: str, execution: str, batch: int, n_each: int, n_prompt: int, n_chunk: int, seed: int
) -> None:
    model = MODELS[name]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(EXECUTIONS, execution, replace(EXECUTIONS[execution], micro_batch=n_chunk))
        trace = in_parts(routing(model, batch=batch, seed=seed, input_tokens=n_prompt, output_tokens=2), n_each)
        workload = measure_workload(model, trace.steps())
        wanted = policy_named(text).buffers(max(workload.n_active, workload.n_encoder_active), model.n_experts)
        assert_written_alike(model, trace, text, execution, n_buffers=wanted.full + workload.n_encoder_active)
