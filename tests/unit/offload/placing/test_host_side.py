"""Layers, weights, keys and values away from the accelerator, by hand: every op, its bytes and what it waits for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from offload import work
from offload.decoding.work_rows import Works
from offload.ops import Gemm, Lane, OpKind, Work
from offload.placing.host_side import listed_cells, scores_of, split_attention, streams_experts
from tests.unit.offload.placing.host_side_ops import MODEL, begun, works_of, written
from traces.model.layer_bytes import layer_weight_bytes

ATTENTION = Work(OpKind.SELF_ATTENTION, (Gemm(1, 2, 3),), "bf16", 16.0, flop=1001, hbm_bytes=2003)


def test_the_host_has_a_share_of_the_keys_and_values_and_the_device_the_rest_and_the_products() -> None:
    own, there = split_attention(ATTENTION, 0.3)
    assert own == ATTENTION._replace(flop=701, hbm_bytes=1403)
    assert there == ATTENTION._replace(flop=300, hbm_bytes=600)
    scores = Work(OpKind.CPU_LAYER, (), "bf16", 32.0, flop=300, hbm_bytes=600)
    assert scores_of(Works(MODEL, 0), there) == scores
    side, _ = begun("kv=cpu")
    assert side.scores(there) == scores


def test_cells_are_those_whose_keys_and_values_of_one_layer_are_whole() -> None:
    assert [listed_cells(MODEL, n_bytes) for n_bytes in (127, 128, 5 * 128, 6 * 128 - 1)] == [0, 1, 5, 5]


@pytest.mark.parametrize(
    ("changes", "most"),
    [
        ({"stream_tokens": 5}, 4),
        ({"stream_tokens": 1}, 0),
        ({"stream_tokens": 2, "stream_per_expert": True}, 5),  # two for each of six experts, of which a token takes two
        ({"stream_tokens": 0, "stream_per_expert": True}, 10**9),
        ({"stream_tokens": 0}, 10**9),
    ],
)
def test_a_pass_streams_what_the_host_holds_from_so_many_tokens_on(changes: dict[str, Any], most: int) -> None:
    side, loop = begun("experts=cpu", **changes)
    for n_tokens, streams in ((most, False), (most + 1, bool(changes["stream_tokens"]))):
        assert streams_experts(loop.execution, MODEL, n_tokens) is streams
        assert side.streams_experts(n_tokens) is streams


@pytest.mark.parametrize("host_computes", [False, True])
def test_activations_cross_where_the_sides_change(host_computes: bool) -> None:
    """An issuing thread that computes itself waits for what comes down, and issues what goes up when it is done."""
    side, loop = begun("layers=cpu:1-2", host_computes=host_computes)
    side.enter(0, -1)
    side.leave(0, loop.computes(0))
    side.enter(1, 0)
    assert side.take_waits() == []
    first, second = side.compute(loop.works.gate(3), 1), side.compute(ATTENTION, 1)
    side.leave(1, 0)
    side.enter(2, 0)
    third = side.compute(loop.works.gate(3), 2)
    side.leave(2, 0)
    assert side.live_ops() == [third]
    side.enter(3, 0)
    if host_computes:
        assert (first, second, third) == (3, 4, 5)
        assert side.live_ops() == [5, 7]
        assert side.take_waits() == [7]
    else:
        assert (first, second, third) == (2, 3, 4)
        assert side.live_ops() == [4, 5]
        assert side.take_waits() == [5]
    assert side.take_waits() == []
    side.leave(3, loop.computes(3))
    assert side.end_pass(-1) is False
    assert side.take_waits() == []
    down = ["compute gate 0", "d2h handover 1 384B after 0"]
    if host_computes:
        assert written(loop) == [
            *down, "host wait 1 after 1", "cpu cpu_layer 1 after 2", "cpu cpu_layer 1", "cpu cpu_layer 2",
            "host issue 3 after 5", "h2d return 3 384B after 5", "compute gate 3",
        ]  # fmt: skip
    else:
        assert written(loop) == [
            *down, "cpu cpu_layer 1 after 1", "cpu cpu_layer 1", "cpu cpu_layer 2", "h2d return 3 384B after 4",
            "compute gate 3",
        ]  # fmt: skip


def test_the_thread_that_computes_waits_for_a_copy_and_then_for_nothing() -> None:
    side, loop = begun("layers=cpu:1", host_computes=True)
    side.enter(0, loop.computes(-1))
    side.compute(loop.works.gate(3), 0)
    side.enter(1, 0)
    part = loop.recorder.take()
    host = [part.works[row] for row in part.columns["cost"][part.columns["lane"] == Lane.HOST].tolist()]
    assert host == [Work(OpKind.WAIT), Work(OpKind.ISSUE, n_copies=0)]


def test_an_op_of_the_host_is_that_of_the_accelerator_as_a_processor_computes_it() -> None:
    side, loop = begun("layers=cpu")
    side.compute(ATTENTION, 0)
    assert works_of(loop, OpKind.CPU_LAYER) == [work.cpu_layer_work(MODEL, ATTENTION)]


def test_a_first_layer_on_the_host_takes_nothing_over() -> None:
    side, loop = begun("layers=cpu:1")
    for _ in range(2):  # of every pass
        side.enter(0, -1)
        side.compute(loop.works.gate(3), 0)
        side.enter(1, -1)
        side.leave(1, loop.computes(1, *side.take_waits()))
        assert side.end_pass(-1) is False
    assert written(loop) == [
        "cpu cpu_layer 0", "h2d return 1 384B after 0", "compute gate 1 after 1",
        "cpu cpu_layer 0", "h2d return 1 384B after 3", "compute gate 1 after 4",
    ]  # fmt: skip


def test_last_layers_on_the_host_hand_their_tokens_back_for_the_head() -> None:
    side, loop = begun("layers=cpu:2-3")
    for _ in range(2):
        for layer in (0, 1):
            side.enter(layer, -1)
            side.leave(layer, loop.computes(layer, *side.take_waits()))
        for layer in (2, 3):
            side.enter(layer, loop.recorder.next_op - 1 if layer == 2 else 0)
            side.compute(loop.works.gate(3), layer)
        assert side.end_pass(-1) is False
        assert side.waits == [loop.recorder.next_op - 1]
        loop.computes(-1, *side.take_waits())
    assert written(loop) == [
        "compute gate 0", "compute gate 1", "d2h handover 2 384B after 1", "cpu cpu_layer 2 after 2",
        "cpu cpu_layer 3", "h2d return 3 384B after 4", "compute gate -1 after 5",
        "compute gate 0", "compute gate 1", "d2h handover 2 384B after 8", "cpu cpu_layer 2 after 9",
        "cpu cpu_layer 3", "h2d return 3 384B after 11", "compute gate -1 after 12",
    ]  # fmt: skip


def test_where_all_layers_are_on_the_host_so_is_the_head() -> None:
    side, loop = begun("layers=cpu")
    for _ in range(2):
        for layer in range(4):
            side.enter(layer, -1)
            side.compute(loop.works.gate(3), layer)
        assert side.end_pass(-1) is True
        assert side.waits == []
    assert written(loop) == [f"cpu cpu_layer {layer}" for layer in (0, 1, 2, 3)] * 2


def test_a_pass_that_ended_on_the_host_leaves_its_activations_there() -> None:
    """The next pass begins with tokens of its own, on the accelerator."""
    side, loop = begun("layers=cpu")
    side.enter(0, -1)
    side.compute(loop.works.gate(3), 0)
    side.end_pass(-1)
    side.enter(0, loop.computes(-1))
    assert written(loop) == ["cpu cpu_layer 0", "compute gate -1", "d2h handover 0 384B after 1"]


def test_weights_stream_a_layer_ahead_through_two_buffers() -> None:
    side, loop = begun("weights=stream:1-3:share=0.5")
    bytes_of = [int(n_bytes * 0.5) for n_bytes in layer_weight_bytes(MODEL)]
    for _ in range(2):
        for layer in range(4):
            side.enter(layer, -1)
            side.leave(layer, loop.computes(layer, *side.take_waits()))
        assert side.end_pass(-1) is False
    stream = [f"h2d stream {layer} {n_bytes}B" for layer, n_bytes in enumerate(bytes_of)]
    assert written(loop) == [
        "compute gate 0", stream[1], stream[2], "compute gate 1 after 1", f"{stream[3]} after 3",
        "compute gate 2 after 2", "compute gate 3 after 4",
        "compute gate 0", f"{stream[1]} after 5", f"{stream[2]} after 6", "compute gate 1 after 8",
        f"{stream[3]} after 10", "compute gate 2 after 9", "compute gate 3 after 11",
    ]  # fmt: skip
    assert side.live_ops() == [12, 13]


def test_a_buffer_that_the_first_op_of_a_run_has_read_is_free_when_that_has_run() -> None:
    side, loop = begun("weights=stream:0-1")
    for _ in range(2):
        side.enter(0, -1)
        side.take_waits()
        side.leave(0, 0)  # as if op 0 had read it
        side.enter(1, -1)
        side.leave(1, 1)
        side.end_pass(-1)
    assert [line.partition("B ")[2] for line in written(loop)] == ["", "", "after 0", "after 1"]
    assert side.live_ops()[:2] == [0, 1]


@pytest.mark.parametrize("host_computes", [False, True])
def test_queries_go_down_and_results_come_back(host_computes: bool) -> None:
    side, loop = begun("kv=cpu", host_computes=host_computes)
    scores = side.scores(ATTENTION)
    side.attend(scores, 2, loop.computes(2))
    asked = [ops for ops in written(loop) if ops]
    if host_computes:
        assert asked == [
            "compute gate 2", "d2h handover 2 384B after 0", "host wait 2 after 1", "cpu cpu_layer 2 after 2",
            "host issue 2 after 3", "h2d return 2 384B after 3",
        ]  # fmt: skip
        assert side.live_ops() == [3, 5]
        assert side.take_waits() == [5]
    else:
        assert asked == ["compute gate 2", "d2h handover 2 384B after 0", "cpu cpu_layer 2 after 1",
                         "h2d return 2 384B after 2"]  # fmt: skip
        assert side.live_ops() == [2, 3]
        assert side.take_waits() == [3]
    projected = loop.computes(3)
    last = side.run_hops(scores, 3, projected, 1)  # of a micro-batch of one token
    assert last == loop.recorder.next_op - 1
    assert side.waits == []
    part = loop.recorder.take()
    assert set(part.columns["layer"].tolist()) == {3}
    assert part.columns["bytes"][[1, -1]].tolist() == [128, 128]
    assert scores in part.works
    if host_computes:
        assert {Work(OpKind.WAIT), Work(OpKind.ISSUE, n_copies=0)} <= set(part.works)


@pytest.mark.parametrize("gathers_cells", [False, True])
def test_keys_and_values_stream_through_two_buffers_and_their_cells_are_listed_before(gathers_cells: bool) -> None:
    side, loop = begun("kv=stream", gathers_cells=gathers_cells)
    copies = []
    for layer in range(3):
        side.stream_cache(5 * 128, layer)
        copies.append(loop.recorder.next_op - 1)
        assert side.waits == copies[-1:]
        side.leave(layer, loop.computes(layer, *side.take_waits()))
    part = loop.recorder.take()
    rows = part.columns
    assert [rows["dep"][rows["dep_ptr"][op] : rows["dep_ptr"][op + 1]].tolist() for op in copies] == [
        [], [], [copies[0] + 1],
    ]  # fmt: skip
    assert rows["bytes"][copies].tolist() == [5 * 128] * 3
    assert rows["layer"][copies].tolist() == [0, 1, 2]
    listing = np.flatnonzero(rows["lane"] == Lane.HOST).tolist()
    assert listing == ([copy - 1 for copy in copies] if gathers_cells else [])
    for op in listing:
        assert part.works[rows["cost"][op]] == work.gather_work(5)
        assert rows["layer"][op] == rows["layer"][op + 1]
        assert rows["dep_ptr"][op] == rows["dep_ptr"][op + 1]


def test_a_micro_batch_copies_keys_and_values_where_the_one_before_the_last_was_read() -> None:
    """In the buffers that whole passes stream through, too."""
    side, loop = begun("kv=stream")
    readers = [loop.computes(0)]
    for layer in (1, 1, 2, 2):
        copy = side.copy_cache(128 * layer, layer)
        readers.append(loop.computes(layer, copy))
        side.has_read_cache(readers[-1])
    side.stream_cache(128, 3)
    assert written(loop) == [
        "compute gate 0", "h2d stream 1 128B", "compute gate 1 after 1", "h2d stream 1 128B", "compute gate 1 after 3",
        "h2d stream 2 256B after 2", "compute gate 2 after 5", "h2d stream 2 256B after 4", "compute gate 2 after 7",
        "h2d stream 3 128B after 6",
    ]  # fmt: skip
    assert side.live_ops() == [6, 8, 9]


def test_a_copy_may_wait_for_the_first_op_of_a_run() -> None:
    side, loop = begun("kv=stream")
    side.copy_cache(128, 1)
    side.has_read_cache(0)
    side.copy_cache(128, 1)
    side.has_read_cache(1)
    side.copy_cache(128, 1)
    assert written(loop) == ["h2d stream 1 128B", "h2d stream 1 128B", "h2d stream 1 128B after 0"]
    assert side.live_ops() == [0, 1]
