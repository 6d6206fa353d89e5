"""Experts that the host computes or streams, by hand: every op, its bytes and what it waits for."""

from __future__ import annotations

import pytest

from offload import ffn_work, work
from offload.ops import Lane, OpKind
from tests.unit.offload.placing.host_side_ops import EXPERT, MODEL, STEP, begun, works_of, written


@pytest.mark.parametrize("layer", [1, 2])
def test_experts_wait_for_their_activations_once_and_their_results_come_back(layer: int) -> None:
    side, loop = begun("experts=cpu")
    arrived = side.hand_over(loop.computes(layer), layer)
    side.experts([4, 2], [1, 3], layer, layer - 1, arrived)
    assert side.take_waits() == [4]
    side.experts([5], [2], layer, layer - 1)  # activations are there already, and stay
    assert side.take_waits() == []
    assert written(loop) == [
        f"compute gate {layer}", f"d2h handover {layer} 384B after 0", f"cpu cpu_expert {layer} e4 after 1",
        f"cpu cpu_expert {layer} e2", f"h2d return {layer} 384B after 3", f"cpu cpu_expert {layer} e5",
    ]  # fmt: skip


def test_experts_may_wait_for_the_first_op_of_a_run() -> None:
    side, loop = begun("experts=cpu")
    side.experts([4], [1], 1, 0, loop.computes(1))
    assert written(loop) == ["compute gate 1", "cpu cpu_expert 1 e4 after 0", "h2d return 1 384B after 1"]


def test_of_an_expert_that_is_divided_the_host_computes_its_share_of_the_hidden_units() -> None:
    side, loop = begun("experts=cpu")
    side.experts([4, 2, 5], [1, 3, 1], 1, 0, -1, (1, 0.25, 0.5))
    one, three = (work.cpu_expert_work(MODEL, n_tokens) for n_tokens in (1, 3))
    assert works_of(loop, OpKind.CPU_EXPERT) == [
        one, ffn_work.expert_part_work(MODEL, three, 0.25), ffn_work.expert_part_work(MODEL, one, 0.5),
    ]  # fmt: skip
    side.experts([4, 2], [1, 3], 1, 0)
    assert works_of(loop, OpKind.CPU_EXPERT) == [one, three]


def test_experts_above_storage_are_computed_as_they_are_read_those_that_are_here_first() -> None:
    side, loop = begun("experts=cpu", reads=True, n_slots=4)
    side.experts([4, 2], [1, 3], 2, 1, loop.computes(2))
    assert side.take_waits() == [5]
    side.experts([5, 4], [2, 1], 2, 1, loop.computes(2))  # 4 is here
    assert loop.log == [(1, (4, 2)), (1, (5, 4))]
    part = loop.recorder.take()
    tokens = [
        part.works[row].n_rows for row in part.columns["cost"][part.columns["kind"] == OpKind.CPU_EXPERT].tolist()
    ]
    assert tokens == [1, 3, 1, 2]
    columns = part.columns
    found = [
        (
            Lane(columns["lane"][i]).name,
            int(columns["layer"][i]),
            int(columns["expert"][i]),
            columns["dep"][columns["dep_ptr"][i] : columns["dep_ptr"][i + 1]].tolist(),
        )
        for i in range(len(part))
    ]
    assert found == [
        ("COMPUTE", 2, -1, []),
        ("DISK", 2, 4, [0]), ("CPU", 2, 4, [0, 1]), ("DISK", 2, 2, [0]), ("CPU", 2, 2, [3]), ("H2D", 2, -1, [4]),
        ("COMPUTE", 2, -1, []),
        ("CPU", 2, 4, [1, 6]), ("DISK", 2, 5, [6]), ("CPU", 2, 5, [8]), ("H2D", 2, -1, [9]),
    ]  # fmt: skip


def test_what_the_host_reads_for_a_layer_of_its_own_begins_when_the_gate_has_run() -> None:
    """Buffers of what is not kept go round: a read waits for who used its buffer before."""
    side, loop = begun("layers=cpu", reads=True)
    gate = side.compute(loop.works.gate(3), 1)
    side.experts([4, 2, 0], [1, 1, 1], 1, 0, chosen_by=gate)
    assert side.waits == []
    disk = f"{EXPERT}B after"
    assert written(loop) == [
        "cpu cpu_layer 1", f"disk disk_read 1 e4 {disk} 0", "cpu cpu_expert 1 e4 after 1",
        f"disk disk_read 1 e2 {disk} 0", "cpu cpu_expert 1 e2 after 3",
        f"disk disk_read 1 e0 {disk} 0 2", "cpu cpu_expert 1 e0 after 5",
    ]  # fmt: skip


def test_nothing_waits_for_a_hand_over_that_has_not_been() -> None:
    side, loop = begun("layers=cpu", reads=True)
    side.experts([4], [1], 1, 0)
    assert written(loop) == [f"disk disk_read 1 e4 {EXPERT}B", "cpu cpu_expert 1 e4 after 0"]


@pytest.mark.parametrize(
    ("streams_from", "after"), [("gate", " after 1"), ("attention", " after 0"), ("layer before", "")]
)
def test_experts_stream_from_the_gate_or_the_layer_before_on(streams_from: str, after: str) -> None:
    side, loop = begun("experts=cpu@stream=2", streams_from=streams_from)
    side.enter(1, loop.computes(0))
    side.stream_experts([4, 2, 5], 1, 0, loop.computes(1))
    assert side.take_waits() == [2]
    assert written(loop) == ["compute gate 0", "compute gate 1", f"h2d stream 1 {3 * EXPERT}B{after}"]


@pytest.mark.parametrize(
    ("streams_from", "before", "begin"), [("gate", 0, " 1"), ("attention", 0, " 0"), ("attention", -1, ""),
                                          ("layer before", 0, "")]
)  # fmt: skip
def test_experts_of_storage_are_read_before_they_stream_and_kept_till_they_have(
    streams_from: str, before: int, begin: str
) -> None:
    """Reads begin when the stream may. What is not kept lies in two buffers: the third waits for nothing that reads
    them yet; the next block's wait for the stream.
    """
    side, loop = begun("experts=cpu@stream=2", reads=True, streams_from=streams_from)
    loop.computes(0)
    side.enter(1, before)
    side.stream_experts([4, 2], 1, 0, loop.computes(1))
    side.leave(1, 1)
    side.enter(2, -1)
    side.stream_experts([0], 2, 1, 1)
    assert loop.log == [(0, (4, 2)), (1, (0,))]
    assert side.take_waits() == [4, 6]
    own = f" after{begin}" if begin else ""
    later = "1 4" if streams_from == "gate" else "4"
    stream = sorted({*map(int, begin.split()), 2, 3})
    assert written(loop) == [
        "compute gate 0", "compute gate 1", f"disk disk_read 1 e4 {EXPERT}B{own}",
        f"disk disk_read 1 e2 {EXPERT}B{own}", f"h2d stream 1 {2 * EXPERT}B after {' '.join(map(str, stream))}",
        f"disk disk_read 2 e0 {EXPERT}B after {later}",
        f"h2d stream 2 {EXPERT}B after {'1 5' if streams_from == 'gate' else '5'}",
    ]  # fmt: skip
    assert loop.host_tier is not None
    assert not loop.host_tier._asked


def test_what_the_link_has_taken_of_a_slot_is_waited_for_on_its_lane() -> None:
    """Host memory that keeps one expert: the next is read into its slot once the stream and the processor used it."""
    side, loop = begun("experts=cpu", reads=True, n_slots=1)
    side.stream_experts([4], 1, 0, loop.computes(1))
    side.leave(1, 0)
    side.experts([4], [1], 1, 0)
    side.experts([2], [1], 1, 0)
    assert written(loop)[1:] == [
        f"disk disk_read 1 e4 {EXPERT}B after 0", f"h2d stream 1 {EXPERT}B after 0 1", "cpu cpu_expert 1 e4 after 1",
        f"disk disk_read 1 e2 {EXPERT}B after 2 3", "cpu cpu_expert 1 e2 after 4",
    ]  # fmt: skip


@pytest.mark.parametrize("lane", [Lane.H2D, Lane.CPU])
def test_of_several_uses_on_a_lane_the_last_is_waited_for(lane: Lane) -> None:
    """By whatever else reads host memory there: a FIFO lane has then run the others."""
    side, loop = begun("experts=cpu", reads=True, n_slots=1)
    assert loop.host_tier is not None
    read = loop.host_tier.read(0, 4, STEP)
    loop.host_tier.use(0, 4, lane, loop.recorder.issue(lane, loop.works.cpu_expert(1), (read,), step=STEP, layer=1))
    if lane is Lane.H2D:
        side.stream_experts([4], 1, 0, 0)
    else:
        side.experts([4], [1], 1, 0)
    loop.host_tier.read(0, 2, STEP)
    assert written(loop)[-1] == f"disk disk_read 1 e2 {EXPERT}B after 2"


@pytest.mark.parametrize("reads", [False, True])
@pytest.mark.parametrize(
    ("tokens", "shares"), [([1], ()), ([1, 1], (0.5,)), ([1, 1], (0.5, 0.5, 0.5)), ([1, 1, 1], ())]
)
def test_each_expert_has_its_tokens_and_its_share(reads: bool, tokens: list[int], shares: tuple[float, ...]) -> None:
    side, _ = begun("experts=cpu", reads=reads)
    with pytest.raises(ValueError, match=r"zip\(\)"):
        side.experts([4, 2], tokens, 1, 0, -1, shares)


def test_experts_that_stream_before_any_layer_has_begun_wait_for_none() -> None:
    side, loop = begun("experts=cpu@stream=2", streams_from="attention")
    side.stream_experts([4], 0, 0, -1)
    assert written(loop) == [f"h2d stream 0 {EXPERT}B"]
