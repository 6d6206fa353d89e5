"""Several cards that share every layer (tensor parallel): said, planned, priced, refused by name where they are not."""

from __future__ import annotations

import pytest

import pregate
from offload.ops import OpKind
from offload.policy_parts.decisions import MissAction
from offload.slots.memory import CapacityExceeded
from pregate.ask.capturing.request import request
from traces.errors import InvalidInput
from traces.model.architecture import ModelArchitecture
from traces.model.tensor_parallel import sharded


@pytest.fixture(scope="module")
def model() -> ModelArchitecture:
    return pregate.load_model("qwen3-30b-a3b")


@pytest.fixture(scope="module")
def trace(model: ModelArchitecture) -> pregate.RoutingTrace:
    return pregate.synthesize(model, 64, 4, 1, 0)


def test_a_run_is_that_of_a_cards_share_and_its_sums(model: ModelArchitecture, trace: pregate.RoutingTrace) -> None:
    four = pregate.simulate(model, pregate.load_hardware("4x h100-sxm", "vllm"), trace, "gpu_only")
    one = pregate.simulate(sharded(model, 4), pregate.load_hardware("h100-sxm", "vllm"), trace, "gpu_only")
    assert four.timeline is not None
    assert one.timeline is not None
    sums = four.timeline.schedule.kind == OpKind.ALL_REDUCE
    summed_s = float((four.timeline.end_s - four.timeline.start_s)[sums].sum())
    assert 0 < four.makespan_s - one.makespan_s <= summed_s * (1 + 1e-9)
    assert four.peak_hbm_bytes == one.peak_hbm_bytes, "of each card"
    n_layers = model.decoder.n_layers
    n_passes = len(set(trace.step.tolist()))
    assert sums.sum() == n_passes * (2 * n_layers + 2)


def test_what_does_not_fit_one_card_fits_several(model: ModelArchitecture, trace: pregate.RoutingTrace) -> None:
    with pytest.raises(CapacityExceeded):
        request(model, pregate.load_hardware("rtx-4090", "vllm"), trace, "gpu_only")
    asked = request(model, pregate.load_hardware("4x rtx-4090", "vllm"), trace, "gpu_only")
    assert asked.plan.static_bytes < 23e9


@pytest.mark.parametrize("policy", ["on_demand", "gpu_only@experts=zerocopy:30"])
def test_each_card_brings_its_share_over_its_own_link(
    model: ModelArchitecture, trace: pregate.RoutingTrace, policy: str
) -> None:
    two, four = (
        pregate.simulate(model, pregate.load_hardware(f"{n}x rtx-4090", "vllm"), trace, policy) for n in (2, 4)
    )
    assert two.h2d_bytes == 2 * four.h2d_bytes
    assert 1.5 < two.tpot_s / four.tpot_s < 2


def test_cards_that_copy_at_the_same_time_share_what_host_memory_gives(
    model: ModelArchitecture, trace: pregate.RoutingTrace
) -> None:
    slow, slower = (
        pregate.simulate(
            model, pregate.load_hardware("4x rtx-4090", "vllm", {"host.dram_bytes_per_s": rate}), trace, "on_demand"
        )
        for rate in (40e9, 20e9)
    )
    more_s = slow.h2d_bytes / 5e9 - slow.h2d_bytes / 10e9  # bytes of each card, at a quarter of the rate
    assert slower.makespan_s - slow.makespan_s == pytest.approx(more_s, rel=0.05)


def test_host_memory_holds_the_shares_of_all(model: ModelArchitecture, trace: pregate.RoutingTrace) -> None:
    for dram_bytes, fits in ((62e9, True), (50e9, False)):
        hw = pregate.load_hardware("4x rtx-4090", "vllm", {"host.dram_bytes": dram_bytes})
        if fits:
            request(model, hw, trace, "on_demand")
        else:
            with pytest.raises(CapacityExceeded, match="host memory"):
                request(model, hw, trace, "on_demand")


@pytest.mark.parametrize(
    ("policy", "tier", "told"),
    [
        ("gpu_only@experts=cpu", "dram", "handed over by one card, and several share it here"),
        ("gpu_only@layers=cpu:3", "dram", "handed over by one card, and several share it here"),
        ("gpu_only@kv=cpu", "dram", "handed over by one card, and several share it here"),
        ("bandwidth_split", "dram", r"handed over by one card.*on_demand, pregate"),
        ("min_latency/paper", "dram", "handed over by one card"),
        ("hybrid_schedule+lru", "dram", "handed over by one card"),
        ("static_cpu", "dram", "handed over by one card"),
        ("on_demand", "ssd", "storage is read for one card"),
        ("gpu_only@gamma=2:acceptance=0.5:draft=olmoe-1b-7b", "dram", "a model that drafts is of one card"),
    ],
)
def test_what_is_of_one_card_is_refused_with_the_way_out(
    model: ModelArchitecture, trace: pregate.RoutingTrace, policy: str, tier: str, told: str
) -> None:
    with pytest.raises(InvalidInput, match=told):
        request(model, pregate.load_hardware("4x rtx-4090", "vllm"), trace, policy, expert_tier=tier)


def test_a_policy_whose_answers_are_its_own_is_refused_where_the_host_computes_one(
    model: ModelArchitecture, trace: pregate.RoutingTrace
) -> None:
    """As late as its first op there: nothing says so before."""
    mine = pregate.Policy("mine", on_miss=lambda _, missing: dict.fromkeys(missing, MissAction.CPU))
    hw = pregate.load_hardware("2x rtx-4090", "vllm")
    with pytest.raises(InvalidInput, match="handed over by one card, and several share it here"):
        pregate.simulate(model, hw, trace, mine)


def test_one_card_that_is_stated_is_the_card_to_the_bit(model: ModelArchitecture, trace: pregate.RoutingTrace) -> None:
    """A link that brings more than host memory gives is as fast for one card, whether its number is stated or not."""
    slow = {"host.dram_bytes_per_s": 20e9}
    hardware = [
        pregate.load_hardware("rtx-4090", "vllm", slow), pregate.load_hardware("1x rtx-4090", "vllm", slow),
        pregate.load_hardware("rtx-4090", "vllm", slow | {"accelerator.n_cards": 1}),
    ]  # fmt: skip
    for policy in ("on_demand", "gpu_only@experts=zerocopy:40"):
        ends = {pregate.simulate(model, hw, trace, policy).makespan_s for hw in hardware}
        assert len(ends) == 1


def test_heads_that_cannot_be_shared_are_refused(model: ModelArchitecture, trace: pregate.RoutingTrace) -> None:
    with pytest.raises(InvalidInput, match="cannot be shared evenly by 3 cards"):
        pregate.simulate(model, pregate.load_hardware("3x h100-sxm", "vllm"), trace, "gpu_only")


def test_a_prediction_says_what_it_rests_on() -> None:
    hw = pregate.load_hardware("2x rtx-4090", "vllm")
    assert "every layer shared (tensor parallel)" in hw.describe_calibration("bf16")
