"""Copies of fewer bits in a cache of their own: which are kept, their bytes, and when they are overwritten."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pregate
from hwmodels.cost import price
from hwmodels.platform import load_platform
from offload.caches.residency import ResidentSet
from offload.decode import Decoded, decode
from offload.execution import EXECUTIONS
from offload.ops import OpKind
from offload.placing.footprint import MemoryPlan, with_low_slots
from offload.policies import policy_named
from offload.policy import Cache
from offload.slots.low_bit_copies import LowAccess, LowCopies, LowSlots
from tests.engines import timed_alike
from tests.small_models import decoder_only, routing
from traces.errors import InvalidInput

HW = load_platform("rtx-4090", "streams")
MODEL = decoder_only(top_k=3)
BITS = 4.0
LOW_BYTES = int(MODEL.expert_bytes * BITS / MODEL.expert_dtype.bits)
N_BUFFERS, N_CACHE = 6, 4


def written(n_low: int, seed: int, batch: int = 2) -> Decoded:
    policy = policy_named(f"mixed_precision:high=0.3:low=1:bits={BITS:g}+lru:{N_CACHE}")
    cache = ResidentSet(N_CACHE, "lru", n_layers=MODEL.n_moe_layers, n_experts=MODEL.n_experts)
    return decode(
        MODEL, routing(MODEL, seed=seed, batch=batch).steps(), policy, EXECUTIONS["streams"], n_buffers=N_BUFFERS,
        cache=cache, low=LowSlots(n_low, BITS, Cache("lru")) if n_low else None,
    )  # fmt: skip


def slow_lru(n_slots: int, events: list[tuple[int, list[int]]]) -> int:
    """How many copies a list of `n_slots`, the oldest first, has to bring or let pass."""
    held: list[tuple[int, int]] = []
    n_missed = 0
    for layer, experts in events:
        keys = [(layer, expert) for expert in experts]
        absent = [key for key in keys if key not in held]
        n_missed += len(absent)
        for key in absent:
            spare = [one for one in held if one not in keys]
            if len(held) >= n_slots and spare:
                held.remove(spare[0])
            if len(held) < n_slots:
                held.append(key)
        for key in keys:
            if key in held:
                held.remove(key)
                held.append(key)
    return n_missed


@given(st.integers(1, 12), st.integers(0, 30), st.integers(1, 3))
def test_what_is_brought_in_fewer_bits_is_what_a_slow_lru_has_not(n_low: int, seed: int, batch: int) -> None:
    events: list[tuple[int, list[int]]] = []
    bring = LowCopies.bring

    def told(self: LowCopies, layer: int, experts: Sequence[int], step: int) -> list[LowAccess]:
        events.append((layer, list(experts)))
        return bring(self, layer, experts, step)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LowCopies, "bring", told)
        schedule = written(n_low, seed, batch).schedule
    bits = np.array([work.weight_bits for work in schedule.works])[schedule.cost]
    low = (schedule.kind == OpKind.FETCH) & (bits == BITS)
    assert int(low.sum()) == slow_lru(n_low, events)
    assert set(schedule.bytes[low].tolist()) <= {LOW_BYTES}
    kept = low & (schedule.slot >= N_BUFFERS + N_CACHE)
    assert set(schedule.slot[kept].tolist()) <= set(range(N_BUFFERS + N_CACHE, N_BUFFERS + N_CACHE + n_low))
    assert int(schedule.hbm_acquired[kept].sum()) == len(set(schedule.slot[kept].tolist())) * LOW_BYTES


@given(st.integers(1, 8), st.integers(0, 30))
@settings(max_examples=20)
def test_a_slot_is_filled_again_only_after_its_last_read_and_engines_agree(n_low: int, seed: int) -> None:
    schedule = written(n_low, seed).schedule
    timeline = timed_alike(schedule, price(schedule.works, HW))
    bits = np.array([work.weight_bits for work in schedule.works])[schedule.cost]
    in_slot: dict[tuple[int, int], int] = {}  # layer, expert -> the copy of it in fewer bits
    free_s: dict[int, float] = {}
    reader: dict[int, int] = {}  # slot -> the op that read it last
    for op, kind in enumerate(schedule.kind.tolist()):
        key, slot = (int(schedule.layer[op]), int(schedule.expert[op])), int(schedule.slot[op])
        if kind == OpKind.FETCH and bits[op] == BITS and slot >= N_BUFFERS + N_CACHE:
            assert timeline.start_s[op] >= free_s.get(slot, 0.0)
            assert slot not in reader or max(schedule.deps(op), default=-1) >= reader[slot]
            in_slot = {other: copy for other, copy in in_slot.items() if int(schedule.slot[copy]) != slot}
            in_slot[key] = op
        elif kind == OpKind.EXPERTS and bits[op] == BITS and key in in_slot:
            copy = in_slot[key]
            assert timeline.start_s[op] >= timeline.end_s[copy]
            free_s[int(schedule.slot[copy])] = float(timeline.end_s[op])
            reader[int(schedule.slot[copy])] = op


def test_copies_of_fewer_bits_take_no_more_memory_than_the_cache_had() -> None:
    policy = policy_named("mixed_precision:bits=4:copies=0.5+lru:9")
    plan = with_low_slots(MemoryPlan(100, 3, 9), policy, MODEL)
    assert plan.low == LowSlots(int(9 * 0.5 * MODEL.expert_bytes) // LOW_BYTES, 4.0, Cache("lru", n_slots=9)) or (
        plan.low is not None and plan.low.n == MODEL.n_moe_layers * MODEL.n_experts
    )
    assert plan.n_cache_slots * MODEL.expert_bytes + plan.low_bytes <= 9 * MODEL.expert_bytes
    assert with_low_slots(MemoryPlan(100, 3, 9), policy_named("mixed_precision+lru:9"), MODEL).low is None


@pytest.mark.parametrize(
    "text", ["mixed_precision:copies=1", "mixed_precision:copies=-0.1", "mixed_precision:copies=", "pregate:copies=0.5"]
)
def test_a_share_of_copies_that_cannot_be_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput):
        policy_named(text)


def test_bits_that_are_not_fewer_are_refused_and_the_rest_is_said() -> None:
    trace = routing(MODEL, batch=2)
    with pytest.raises(InvalidInput, match="give fewer"):
        pregate.simulate(MODEL, HW, trace, "mixed_precision:bits=32:copies=0.5+lru:6")
    for engine in ("des", "recurrence", "event", "stream"):
        found = pregate.simulate(MODEL, HW, trace, "mixed_precision:high=0.2:bits=4:copies=0.5+lru:6", engine=engine)
        assert found.output == "approximate"
        assert found.changed_share > 0
        assert found.n_low_slots > 0
    swept = pregate.sweep(
        MODEL, HW, trace, policies=["mixed_precision:high=0.2:bits=4:copies=0.5+lru:6"],
        axes={"link.h2d_bytes_per_s": [found.h2d_bytes * 1.0 + 1e9, 25e9]},
    )  # fmt: skip
    assert int(swept.n_low_slots[0, 0]) == found.n_low_slots
