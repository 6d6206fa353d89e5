"""Layers and experts that come over the link whatever a policy decides: their bytes, counted by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from offload.execution import EXECUTIONS
from offload.placing import streamed_layers
from offload.placing.placed import place
from offload.placing.placement_clauses import placement_named
from offload.placing.streamed_layers import LayerStreams, ZeroCopies, check_over_link, experts_away, host_layer_bytes
from offload.policies import policy_named
from tests.small_models import MODELS
from traces.errors import InvalidInput
from traces.model.layer_bytes import layer_part_bytes, layer_weight_bytes

MODEL = MODELS["shared experts, three matrices"]  # four layers, the last three MoE, of six experts each
EXPERTS = MODEL.n_experts * MODEL.expert_bytes
WEIGHTS = layer_weight_bytes(MODEL)


def streams(text: str) -> LayerStreams:
    return LayerStreams(MODEL, place(MODEL, placement_named(text)))


def test_a_layer_that_streams_is_its_weights_and_its_experts_or_a_share_of_each() -> None:
    found = streams("weights=stream:2:share=0.5@experts=stream:2-3:share=0.25")
    quarter = 6 * (MODEL.expert_bytes // 4)
    assert found.n_bytes == {0: WEIGHTS[0] // 2, 1: WEIGHTS[1] // 2, 2: quarter, 3: quarter}
    assert found.order == (0, 1, 2, 3)
    assert streams("experts=stream:1/3").n_bytes == {2: EXPERTS}
    assert streams("weights=stream@experts=stream").n_bytes == {
        layer: weights + EXPERTS * (layer > 0) for layer, weights in enumerate(WEIGHTS)
    }
    assert streams("kv=stream").n_bytes == {}
    assert streams("kv=stream").buffer_bytes == 0


@pytest.mark.parametrize(("ahead", "n"), [("", 2), ("@ahead=0", 1), ("@ahead=1", 1), ("@ahead=2", 2), ("@ahead=3", 3)])
def test_there_is_a_buffer_for_every_layer_that_is_there_ahead(ahead: str, n: int) -> None:
    assert streams(f"experts=stream{ahead}").buffer_bytes == n * EXPERTS
    assert streams(f"experts=stream{ahead}").ahead == (None if not ahead else int(ahead[-1]))


def test_buffers_hold_no_more_than_all_that_streams() -> None:
    assert streams("experts=stream:1-1").buffer_bytes == EXPERTS
    found = streams("experts=stream@ahead=9")
    assert (found.ahead, found.buffer_bytes) == (3, 3 * EXPERTS)


def test_layers_of_the_host_pass_through_hbm_whole_in_engines_that_stream_them() -> None:
    runs = [replace(EXECUTIONS["llama_cpp"], streams_layers=streams_layers) for streams_layers in (True, False)]
    placed = place(MODEL, placement_named("layers=cpu:2-3"))
    assert [host_layer_bytes(MODEL, run, placed) for run in runs] == [{2: WEIGHTS[2], 3: WEIGHTS[3]}, {}]
    assert host_layer_bytes(MODEL, runs[0], place(MODEL, placement_named("experts=cpu"))) == {}


def test_kernels_ask_for_weights_once_and_again_by_every_block_of_rows() -> None:
    placed = place(MODEL, placement_named("weights=zerocopy:2:share=0.5@experts=zerocopy:1-1:share=0.25"))
    reads = ZeroCopies(MODEL, placed, 4)
    assert [reads.blocks(n) for n in (1, 4, 5, 8)] == [1, 1, 2, 2]
    mixing, rest = (int(part / 2) for part in layer_part_bytes(MODEL)[1])
    expert = MODEL.expert_bytes // 4
    assert [reads.mixing(1, n) for n in (4, 5)] == [(mixing, mixing), (mixing, 2 * mixing)]
    assert [reads.ffn(1, 5, *n) for n in ((0, 0), (2, 3))] == [
        (rest, 2 * rest), (rest + 2 * expert, 2 * rest + 3 * expert)
    ]  # fmt: skip
    assert (reads.mixing(2, 5), reads.ffn(2, 5, 2, 3)) == ((0, 0), (0, 0))
    dense = int(layer_part_bytes(MODEL)[0][1] / 2)
    assert reads.ffn(0, 5, 2, 3) == (dense, 2 * dense), "a dense layer: no experts"
    many = np.array([4, 5])
    assert [one.tolist() for one in reads.mixing(1, many)] == [[mixing, mixing], [mixing, 2 * mixing]]
    for nothing in (*reads.mixing(3, many), *reads.ffn(3, many, np.array([1, 2]), np.array([1, 2]))):
        assert (nothing.tolist(), nothing.dtype) == ([0, 0], many.dtype)
    alone = ZeroCopies(MODEL, place(MODEL, placement_named("experts=zerocopy:3-3")), 4)
    found = alone.ffn(3, many, np.array([1, 1]), np.array([1, 2]))
    assert [one.tolist() for one in found] == [[MODEL.expert_bytes] * 2, [MODEL.expert_bytes, 2 * MODEL.expert_bytes]]


def test_experts_that_wait_in_host_memory_are_those_read_and_those_streamed() -> None:
    for text, n in (("experts=zerocopy:3", 2), ("experts=stream", 3), ("experts=cpu", 0), ("weights=stream", 0)):
        assert experts_away(MODEL, place(MODEL, placement_named(text))) == n * EXPERTS
    share = place(MODEL, placement_named("experts=stream:share=0.25"))
    assert experts_away(MODEL, share) == 3 * 6 * (MODEL.expert_bytes // 4)


def refusal(policy: str, execution: str) -> str:
    chosen = policy_named(policy)
    try:
        check_over_link(chosen, EXECUTIONS[execution], place(MODEL, chosen.placement))
    except InvalidInput as error:
        return str(error)
    return ""


def test_engines_that_read_host_memory_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    reading = {name: replace(EXECUTIONS["vllm"], name=name) for name in ("a", "b")}
    monkeypatch.setattr(streamed_layers, "EXECUTIONS", reading | {"llama_cpp": EXECUTIONS["llama_cpp"]})
    assert refusal("gpu_only@experts=zerocopy", "llama_cpp").endswith("those of a, b do")


def test_only_engines_that_read_host_memory_do_and_no_policy_moves_experts_beside() -> None:
    assert EXECUTIONS["vllm"].zero_copy_rows
    assert not EXECUTIONS["llama_cpp"].zero_copy_rows
    known = ", ".join(name for name, one in EXECUTIONS.items() if one.zero_copy_rows)
    for text in ("experts=zerocopy", "weights=zerocopy"):
        assert refusal(f"gpu_only@{text}", "vllm") == ""
        assert refusal(f"gpu_only@{text}", "llama_cpp") == (
            f"gpu_only@{text}: kernels of llama_cpp read no weights in host memory (zerocopy): those of {known} do"
        )
        assert refusal(f"on_demand@{text}", "vllm") == (
            f"on_demand@{text}: a policy that moves experts has the link to itself: gpu_only@{text} leaves it to the "
            f"placement"
        )
    assert refusal("gpu_only@experts=stream", "llama_cpp") == ""
    assert "leaves it to the placement" in refusal("on_demand@experts=stream", "llama_cpp")
    for text in ("weights=stream", "experts=cpu", "kv=cpu"):
        assert refusal(f"on_demand@{text}", "llama_cpp") == ""
