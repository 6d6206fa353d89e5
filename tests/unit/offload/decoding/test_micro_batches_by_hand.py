"""Micro-batches of two sequences, written by hand: every op, what it waits for, what it computes."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from offload import ffn_work, work
from offload.decode import Decoded, decode
from offload.decoding.micro_batches import MicroBatches, micro_batches_of, tokens_of
from offload.execution import EXECUTIONS
from offload.ops import OpKind
from offload.policies import policy_named
from tests.unit.offload.by_hand import DECODER, SHARED, asked, ops, step
from traces.model.architecture import ModelArchitecture
from traces.phase import Phase
from traces.routing import Step

TWO = step(1, Phase.DECODE, [(4, 2), (7, 9)], [[[1, 2], [0, 5], [4, 3]], [[1, 3], [-1, -1], [2, 3]]])
NOBODY = step(1, Phase.DECODE, [(4, 2), (7, 9)], [[[1, 2], [-1, -1], [4, 3]], [[1, 3], [-1, -1], [2, 3]]])


def written(model: ModelArchitecture, passed: Step, design: str, stack: str = "streams") -> Decoded:
    policy = policy_named(f"{design}@micro=1")
    return decode(model, [passed], policy, policy.placement.execution(EXECUTIONS[stack]), n_buffers=8, compiled=False)


def test_what_is_fetched_for_a_layer_waits_for_all_gates_and_frees_with_its_last_op() -> None:
    decoded = written(DECODER, TWO, "on_demand")
    assert ops(decoded, 1)[:21] == [
        "attention 0", "attention 0", "ffn 0", "ffn 0", "attention 1", "attention 1",
        "gate 1", "gate 1", "readback 1 after 7", "wait 1 after 8", "fetch 1 e1 s0", "fetch 1 e2 s1", "fetch 1 e3 s2",
        "experts 1 e1 after 10", "experts 1 e1 after 10", "experts 1 e2 after 11", "experts 1 e3 after 10 11 12",
        "attention 2", "attention 2", "gate 2", "gate 2",
    ]  # fmt: skip
    released = decoded.schedule.hbm_released
    assert {int(i): int(released[i]) for i in np.flatnonzero(released)} == {
        16: 3 * DECODER.expert_bytes, 26: 2 * DECODER.expert_bytes, 39: 3 * DECODER.expert_bytes,
    }  # fmt: skip


def test_a_gate_runs_right_before_the_experts_of_its_micro_batch_and_after_what_the_host_computed_for_it() -> None:
    assert ops(written(DECODER, TWO, "gpu_only@kv=cpu"), 1)[8:24] == [
        "ffn 0 after 3", "ffn 0 after 7", "attention 1", "handover 1 after 10", "cpu_layer 1 after 11",
        "return 1 after 12", "attention 1", "handover 1 after 14", "cpu_layer 1 after 15", "return 1 after 16",
        "gate 1 after 13", "experts 1 e1", "gate 1 after 17", "experts 1 e1", "experts 1 e2", "experts 1 e3",
    ]  # fmt: skip
    gates = [line for line in ops(written(DECODER, TWO, "gpu_only"), 1) if line.endswith(" 3") or " 3 e" in line]
    assert gates == ["attention 3", "attention 3", "gate 3", "gate 3",
                     "experts 3 e2", "experts 3 e3", "experts 3 e3", "experts 3 e4"]  # fmt: skip


def test_keys_and_values_of_a_micro_batch_come_by_their_share_where_those_before_the_last_were_read() -> None:
    decoded = written(DECODER, TWO, "gpu_only@kv=stream:share=0.5")
    assert [line for line in ops(decoded, 1) if line[:6] in ("stream", "attent")][:8] == [
        "stream 0", "attention 0 after 0", "stream 0", "attention 0 after 2",
        "stream 1 after 1", "attention 1 after 6", "stream 1 after 3", "attention 1 after 8",
    ]  # fmt: skip
    attended = asked(decoded, OpKind.SELF_ATTENTION, 1)[:2]
    assert attended == [work.self_attention_work(DECODER, DECODER.decoder, 1, n, n) for n in (3, 10)]
    assert [what.copy_bytes for what in asked(decoded, OpKind.STREAM, 1)[:2]] == [w.hbm_bytes // 2 for w in attended]


@pytest.mark.parametrize("stack", ["vllm", "streams"])
def test_shared_experts_run_in_the_op_of_a_micro_batch_or_before_it(stack: str) -> None:
    """vLLM fuses all experts of a layer; of block 2 the second sequence names none, and has its shared experts."""
    decoded, slots_bytes = written(SHARED, TWO, "gpu_only", stack), 8 * SHARED.expert_bytes
    found = asked(decoded, OpKind.EXPERTS, 1)
    if stack == "vllm":
        served = [(1, 1), (1, 1), (1, 1), (), (1, 1), (1, 1)]
        assert found == [ffn_work.experts_work(SHARED, one, 1, slots_bytes, fused=True) for one in served]
        assert decoded.schedule.expert.min() == decoded.schedule.expert.max() == -1
        assert [line for line in ops(decoded, 1) if line.split()[0] in ("gate", "experts")] == [
            f"{kind} {layer}" for layer in (1, 2, 3) for _ in TWO.sequence for kind in ("gate", "experts")
        ]
    else:
        alone, one = ffn_work.experts_work(SHARED, (), 1), ffn_work.experts_work(SHARED, (1,), 0, slots_bytes)
        assert found == [alone, alone, *[one] * 4, alone, alone, one, one, alone, alone, *[one] * 4]
        assert not decoded.schedule.hbm_released.any()
        experts = decoded.schedule.expert[decoded.schedule.kind == OpKind.EXPERTS].tolist()
        assert experts == [-1, -1, 1, 1, 2, 3, -1, -1, 0, 5, -1, -1, 2, 3, 3, 4]


def test_a_block_in_which_nobody_computes_is_one_op_of_nothing() -> None:
    decoded = written(DECODER, NOBODY, "on_demand", "vllm")
    assert [line for line in ops(decoded, 1) if " 2" in line and line.split()[1] == "2"] == [
        "attention 2", "attention 2", "gate 2", "gate 2", "experts 2",
    ]  # fmt: skip
    empty = asked(decoded, OpKind.EXPERTS, 1)[2]
    assert empty == ffn_work.experts_work(DECODER, (), 0, 8 * DECODER.expert_bytes, fused=True)
    assert not empty.gemms
    three = dataclasses.replace(
        NOBODY,
        experts=NOBODY.experts[[0, 1, 1]],
        sequence=np.array([4, 7, 8], np.int32),
        position=NOBODY.position[[0, 1, 1]],
    )
    due = [
        line for line in ops(written(DECODER, three, "gpu_only", "vllm"), 1) if " 2" in line and line.split()[1] == "2"
    ]
    assert due == ["attention 2"] * 3 + ["gate 2"] * 3 + ["experts 2"]


def test_the_tokens_of_a_sequence_may_lie_apart() -> None:
    experts = [[[0, 1]] * 3, [[1, 2]] * 3, [[1, 3]] * 3]
    prompt = step(0, Phase.PREFILL, [(4, 0), (7, 0), (4, 1)], experts)
    parts = micro_batches_of(prompt, 1)
    assert [part.position.tolist() for part in parts] == [[0, 1], [0]]
    weighed = dataclasses.replace(prompt, gate_weights=np.arange(18, dtype=np.float32).reshape(3, 3, 2))
    first, second = (part.gate_weights for part in micro_batches_of(weighed, 1))
    assert weighed.gate_weights is not None
    assert first is not None
    assert second is not None
    assert np.array_equal(first, weighed.gate_weights[[0, 2]])
    assert np.array_equal(second, weighed.gate_weights[[1]])
    counts = tokens_of(prompt, parts, 0, 3, 6)
    assert counts[0].T.tolist() == [[1, 2, 0, 1, 0, 0], [0, 1, 1, 0, 0, 0]]
    in_order = micro_batches_of(TWO, 1)
    assert tokens_of(TWO, in_order, 0, 3, 6)[2].T.tolist() == [[0, 0, 0, 1, 1, 0], [0, 0, 1, 1, 0, 0]]


def test_gates_that_are_not_due_yet_have_not_run() -> None:
    loop: Any = SimpleNamespace()
    micro = MicroBatches(loop, [TWO], [[]], np.zeros((3, 6, 1), np.int64))
    assert micro.gate == micro.gates(1, now=False) == -1
