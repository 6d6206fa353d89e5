"""Machines whose host and accelerator share one memory: what lies in it counts once, and its speed is one number."""

from __future__ import annotations

import dataclasses

import pytest

import pregate
from offload.slots.memory import CapacityExceeded
from pregate.ask.capturing.machine_memory import memory_of
from pregate.ask.capturing.request import request
from pregate.card.job import RequestLoad
from pregate.card.plan import NothingFits, plan

MODEL = pregate.load_model("mixtral-mini-8")
TRACE = pregate.synthesize(MODEL, 16, 4)
EXPERTS = MODEL.n_moe_layers * MODEL.n_experts * MODEL.expert_bytes


def needed(policy: str, *, is_one: bool, hbm_bytes: int, dram_bytes: int) -> int:
    hw = pregate.load_hardware("strix-halo", "streams" if policy.startswith("on_demand") else "llama-cpp")
    memory = dataclasses.replace(memory_of(hw), hbm_bytes=hbm_bytes, dram_bytes=dram_bytes, is_one=is_one)
    found = request(MODEL, memory, TRACE, policy)
    return found.plan.static_bytes + found.plan.n_slots * MODEL.expert_bytes


@pytest.mark.parametrize("policy", ["gpu_only", "gpu_only@experts=cpu:4", "gpu_only@layers=cpu:4"])
def test_what_the_host_keeps_is_taken_from_the_one_memory(policy: str) -> None:
    """The whole model fits in a memory of its size and a little, wherever its parts are; a tenth less holds none."""
    whole = needed("gpu_only", is_one=True, hbm_bytes=1 << 40, dram_bytes=1 << 40)
    assert needed(policy, is_one=True, hbm_bytes=1 << 40, dram_bytes=int(1.05 * whole)) <= whole * 1.05
    short = int(0.9 * whole)
    with pytest.raises(CapacityExceeded) as error:
        needed(policy, is_one=True, hbm_bytes=1 << 40, dram_bytes=short)
    assert error.value.memory == "DRAM"
    assert f"in one memory of {short / 1e9:.1f} GB" in str(error.value)
    if policy != "gpu_only":
        needed(policy, is_one=False, hbm_bytes=whole, dram_bytes=short)


def test_slots_of_a_cache_are_what_the_copies_of_the_host_leave() -> None:
    whole = needed("gpu_only", is_one=True, hbm_bytes=1 << 40, dram_bytes=1 << 40)
    pool = whole + EXPERTS // 2
    cached = needed("on_demand+lru", is_one=True, hbm_bytes=1 << 40, dram_bytes=pool)
    assert cached + EXPERTS <= pool
    assert needed("on_demand+lru", is_one=False, hbm_bytes=1 << 40, dram_bytes=pool) > cached


def test_a_cache_above_storage_of_no_size_takes_what_hbm_leaves_of_the_one_memory() -> None:
    """Without a cache in HBM the host keeps all but what is granted there; one in HBM without a size comes first."""
    hw = pregate.load_hardware("strix-halo", "streams")
    whole = needed("gpu_only", is_one=True, hbm_bytes=1 << 40, dram_bytes=1 << 40)
    pool = whole - EXPERTS // 2
    memory = dataclasses.replace(memory_of(hw), hbm_bytes=1 << 40, dram_bytes=pool, is_one=True)
    for policy, some in (("on_demand", True), ("on_demand+lru", False), ("on_demand+lru:4", True)):
        plan = request(MODEL, memory, TRACE, policy, expert_tier="ssd+lru").plan
        taken = plan.static_bytes + (plan.n_slots + plan.n_host_slots) * MODEL.expert_bytes
        assert pool - MODEL.expert_bytes < taken <= pool
        assert (plan.n_host_slots > 0) == some


@pytest.mark.parametrize(
    ("policy", "tier", "way_out"),
    [
        ("gpu_only", "dram", r"fewer bits \(--formats\), or --tier ssd"),
        ("gpu_only", "ssd", "an offloading policy, or fewer bits"),
        ("on_demand+lru:0.7", "ssd+lru:0.7", "a smaller cache, or fewer bits"),
    ],
)
def test_what_does_not_fit_one_memory_is_told_what_it_has_not_tried(policy: str, tier: str, way_out: str) -> None:
    hw = pregate.load_hardware("strix-halo", "streams")
    memory = dataclasses.replace(memory_of(hw), dram_bytes=EXPERTS, is_one=True)
    with pytest.raises(CapacityExceeded, match=f"in one memory of .*: try {way_out}"):
        request(MODEL, memory, TRACE, policy, expert_tier=tier)


def test_a_card_of_one_memory_holds_no_model_that_is_larger() -> None:
    large = pregate.load_model("qwen3-235b-a22b", formats={"all": "q4_k_m"})
    for machine in ("dgx-spark", "strix-halo"):
        with pytest.raises(NothingFits, match=r"fewer bits \(--formats all=q3_k\)"):
            plan(large, machine, RequestLoad(32, 8, 1))


def test_its_speed_is_one_number_that_moves_all_there_is() -> None:
    """A slower memory is slower for the processor too: the host wins nothing by it."""
    model = pregate.load_model("gpt-oss-20b")
    points = plan(model, "apple-m3-ultra", RequestLoad(32, 8, 1)).turning_points
    assert {point.name for point in points} <= {"memory bandwidth", "HBM"}
    for point in points:
        assert "=cpu" not in point.winner
