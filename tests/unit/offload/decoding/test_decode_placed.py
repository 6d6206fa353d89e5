"""Passes whose weights, keys and values, or copies lie elsewhere: on the host, in storage, beside the slots."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from offload import work
from offload.caches.residency import ResidentSet
from offload.ops import OpKind
from offload.placing.placed import Placed
from offload.policies import policy_named
from offload.policy import Cache
from offload.slots.host_tier import ReadThrough
from offload.slots.low_bit_copies import LowSlots
from tests.unit.offload.by_hand import DECODER, NEXT, PROMPT, asked, ops, written


def test_layers_that_are_placed_on_the_host_run_there() -> None:
    placed = Placed(frozenset({0}), frozenset(), (None, None, None), "device")
    decoded = written(DECODER, [NEXT], "gpu_only", placed=placed)
    assert len(asked(decoded, OpKind.CPU_LAYER, 1)) >= 2  # its attention and its FFN
    assert len(asked(decoded, OpKind.SELF_ATTENTION, 1)) == DECODER.decoder.n_layers - 1
    assert not asked(written(DECODER, [NEXT], "gpu_only"), OpKind.CPU_LAYER, 1)


def test_host_memory_above_storage_is_looked_up_and_what_storage_is_asked_is_told() -> None:
    """The prompt's experts by layer and those of the step after it: of 13 lookups those hit that came before."""
    log: list[tuple[int, tuple[int, ...]]] = []
    host = ResidentSet(18, "lru", n_layers=3, n_experts=6)
    decoded = written(DECODER, [PROMPT, NEXT], "on_demand", disk=True, through=ReadThrough(cache=host, log=log))
    assert log == [(0, (0, 1, 5)), (1, (0, 1)), (2, (2, 3, 4)), (0, (1, 2)), (1, (0, 5)), (2, (3, 4))]
    assert (decoded.n_host_lookups, decoded.n_host_hits) == (14, 4)
    assert len(asked(decoded, OpKind.DISK_READ, 0)) + len(asked(decoded, OpKind.DISK_READ, 1)) == 14 - 4
    assert len(asked(written(DECODER, [PROMPT, NEXT], "on_demand", disk=True), OpKind.DISK_READ, 1)) == 6


def test_copies_of_fewer_bits_have_slots_behind_all_others() -> None:
    cache = ResidentSet(2, "lru", n_layers=3, n_experts=6)
    policy = policy_named("mixed_precision:high=0:low=1:bits=4+lru:2")
    decoded = written(DECODER, [PROMPT, NEXT], policy, cache=cache, low=LowSlots(5, 4.0, Cache("lru")))
    schedule = decoded.schedule
    low = np.array([what.weight_bits == 4.0 for what in schedule.works])[schedule.cost] & (
        schedule.kind == OpKind.FETCH
    )
    assert schedule.slot[low].min() >= 8 + 2
    assert schedule.slot.max() == 8 + 2 + 5 - 1


def test_attention_over_keys_and_values_in_host_memory_is_divided_by_their_share_in_each_pass() -> None:
    """A quarter of the arithmetic and of the traffic of each pass is the host's; products stay on the device."""
    later = dataclasses.replace(NEXT, i_step=2, position=NEXT.position + 900)
    plain, decoded = (written(DECODER, [NEXT, later], f"gpu_only{text}") for text in ("", "@kv=cpu:share=0.25"))
    for i in (1, 2):
        (whole,) = set(asked(plain, OpKind.SELF_ATTENTION, i))
        flop, hbm_bytes = int(whole.flop * 0.25), int(whole.hbm_bytes * 0.25)
        here = whole._replace(flop=whole.flop - flop, hbm_bytes=whole.hbm_bytes - hbm_bytes)
        assert asked(decoded, OpKind.SELF_ATTENTION, i) == [here] * 4
        there = asked(decoded, OpKind.CPU_LAYER, i)
        assert [(what.flop, what.hbm_bytes, what.gemms) for what in there] == [(flop, hbm_bytes, ())] * 4


def test_what_leaves_a_cache_that_writes_back_goes_to_host_memory_once_it_was_read() -> None:
    cache = ResidentSet(2, "lru", n_layers=3, n_experts=6)
    decoded = written(DECODER, [NEXT], "on_demand+lru:2:write_back", cache=cache, n_buffers=1)
    assert [line for line in ops(decoded, 1) if "write_back" in line or "fetch" in line] == [
        "fetch 1 e1 s1", "fetch 1 e2 s2",
        "write_back 1 e1 s1 after 6 9", "fetch 2 e0 s0", "write_back 1 e2 s2 after 7 9", "fetch 2 e5 s1 after 14",
        "write_back 2 e0 s0 after 15 19", "fetch 3 e3 s2 after 16", "write_back 2 e5 s1 after 17 19",
        "fetch 3 e4 s0 after 24",
    ]  # fmt: skip
    assert set(asked(decoded, OpKind.WRITE_BACK, 1)) == {work.expert_copy_work(DECODER, OpKind.WRITE_BACK)}


@pytest.mark.parametrize(("stack", "apart"), [("fastertransformer", 1), ("streams", 2)])
def test_reads_of_storage_go_round_the_host_buffers_of_the_stack(stack: str, apart: int) -> None:
    schedule = written(DECODER, [PROMPT], "on_demand", stack, disk=True).schedule
    reads, fetches = (np.flatnonzero(schedule.kind == kind).tolist() for kind in (OpKind.DISK_READ, OpKind.FETCH))
    assert len(reads) == 8
    waits = [set(schedule.deps(read).tolist()) & set(fetches) for read in reads]
    assert waits == [set()] * apart + [{fetch} for fetch in fetches[: 8 - apart]]


def test_a_last_layer_on_the_host_hands_its_tokens_back_for_the_head() -> None:
    placed = Placed(frozenset({3}), frozenset(), (None, None, None), "device")
    assert ops(written(DECODER, [NEXT], "gpu_only", placed=placed), 1)[10:] == [
        "handover 3 after 9", "cpu_layer 3 after 10", "cpu_layer 3", "cpu_expert 3 e3", "cpu_expert 3 e4",
        "return 3 after 14", "head after 15", "step after 16",
    ]  # fmt: skip


def test_keys_and_values_that_are_streamed_come_by_their_share() -> None:
    (whole,) = set(asked(written(DECODER, [NEXT], "gpu_only"), OpKind.SELF_ATTENTION, 1))
    decoded = written(DECODER, [NEXT], "gpu_only@kv=stream:share=0.25")
    assert [what.copy_bytes for what in asked(decoded, OpKind.STREAM, 1)] == [whole.hbm_bytes // 4] * 4
    assert asked(decoded, OpKind.SELF_ATTENTION, 1) == [whole] * 4


def test_where_all_layers_are_on_the_host_so_is_the_head() -> None:
    placed = Placed(frozenset(range(4)), frozenset(), (None, None, None), "device")
    decoded = written(DECODER, [NEXT], "gpu_only", placed=placed)
    assert ops(decoded, 1)[-4:] == ["cpu_expert 3 e3", "cpu_expert 3 e4", "cpu_layer", "step after 14"]
    assert asked(decoded, OpKind.CPU_LAYER, 1)[-1] == work.head_work(DECODER, 1)._replace(kind=OpKind.CPU_LAYER)
    assert decoded.schedule.layer[-2] == -1


def test_a_streamed_layer_goes_where_the_one_before_the_last_was_read() -> None:
    streamed = [line for line in ops(written(DECODER, [NEXT], "gpu_only@weights=stream"), 1) if "stream" in line]
    assert streamed == ["stream 0", "stream 1", "stream 2 after 3", "stream 3 after 8"]
