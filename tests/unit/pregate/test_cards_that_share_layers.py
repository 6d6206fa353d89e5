"""Several cards that share every layer (tensor parallel): said, planned, priced, refused by name where they are not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import pregate
from hwmodels.figures import figures_of
from hwmodels.kernels.all_reduce import send_s
from offload.ops import OpKind
from offload.policies import policy_named
from offload.policy_parts.decisions import MissAction
from offload.slots.memory import CapacityExceeded
from offload.work import send_work
from pregate.ask.capturing.request import request
from pregate.card.designs import EngineDesign
from pregate.card.job import RequestLoad
from pregate.card.plan import plan
from pregate.engines.writing import flags_of
from traces.errors import InvalidInput
from traces.model.architecture import ModelArchitecture
from traces.model.tensor_parallel import sharded
from traces.statistics.popularity import popularity_of


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


def test_tables_of_n_grams_are_in_host_memory_once_however_many_cards_share_layers() -> None:
    model = pregate.load_model("deepseek-v4.1-flash")
    trace = pregate.synthesize(model, 4, 2)
    for dram_bytes, fits in ((1.01 * model.table_bytes, True), (0.99 * model.table_bytes, False)):
        hw = pregate.load_hardware("8x h200-sxm", "vllm", {"host.dram_bytes": dram_bytes})
        if fits:
            assert request(model, hw, trace, "gpu_only").plan.static_bytes > 0
            continue
        with pytest.raises(CapacityExceeded, match=f"{model.table_bytes / 1e9:.1f} GB of host memory"):
            request(model, hw, trace, "gpu_only")


@pytest.mark.parametrize(
    ("hardware", "stack", "policy", "told"),
    [
        ("4x h100-sxm", "vllm", "on_demand@experts=whole", "all weights, keys and values stay in HBM here"),
        ("4x h100-sxm", "vllm", "gpu_only@kv=cpu@experts=whole", "all weights, keys and values stay in HBM here"),
        ("4x h100-sxm", "vllm", "gpu_only@weights=stream@turns=2", "all weights, keys and values stay in HBM here"),
        ("h100-sxm", "vllm", "gpu_only@experts=whole", "here is one card"),
        ("2x rtx-3090", "llama-cpp", "gpu_only@turns=2", "here each has whole layers"),
        ("4x h100-sxm", "vllm", "gpu_only@turns=3", "4 cards are no 3 equal groups"),
        ("4x h100-sxm", "vllm", "gpu_only@copies=3", "4 cards are no 3 equal groups"),
        ("4x h100-sxm", "vllm", "gpu_only@copies=2@turns=2", "copies of attention with layers in turn cannot be said"),
        ("4x h100-sxm", "vllm", "on_demand@copies=4", "all weights, keys and values stay in HBM here"),
        ("2x rtx-3090", "llama-cpp", "gpu_only@copies=2", "here each has whole layers"),
        ("4x h100-sxm", "vllm", "gpu_only@experts=whole:3", "4 cards are not so many equal groups"),
        ("4x h100-sxm", "vllm", "gpu_only@experts=whole:0", "is not experts=whole:GROUPS"),
        ("4x h100-sxm", "vllm", "gpu_only@turns=x", "is no number of groups of cards"),
    ],
)
def test_whole_experts_and_layers_in_turn_are_of_cards_that_share_the_rest(
    model: ModelArchitecture, trace: pregate.RoutingTrace, hardware: str, stack: str, policy: str, told: str
) -> None:
    with pytest.raises(InvalidInput, match=told):
        request(model, pregate.load_hardware(hardware, stack, {"hbm_bytes": 90e9}), trace, policy)


def test_whole_experts_take_as_much_memory_and_lie_on_as_many_cards_as_they_can(
    model: ModelArchitecture, trace: pregate.RoutingTrace
) -> None:
    hw = pregate.load_hardware("8x h100-sxm", "vllm")
    shared, whole, halves = (
        request(model, hw, trace, policy)
        for policy in ("gpu_only", "gpu_only@experts=whole", "gpu_only@experts=whole:4")
    )
    assert whole.model.expert_bytes == model.expert_bytes == 8 * shared.model.expert_bytes
    assert 2 * halves.model.expert_bytes == model.expert_bytes
    assert whole.plan.static_bytes == pytest.approx(shared.plan.static_bytes, rel=0.01)
    odd = request(model, pregate.load_hardware("3x h100-sxm", "vllm"), trace, "gpu_only@turns=3").plan
    assert odd.static_bytes > 3 * shared.plan.static_bytes


def test_software_takes_its_share_of_every_card_that_has_layers_in_turn(
    model: ModelArchitecture, trace: pregate.RoutingTrace
) -> None:
    policy, reserve = "gpu_only@turns=2", "stack.reserve_bytes"
    needed = request(model, pregate.load_hardware("2x h100-sxm", "vllm"), trace, policy).plan.static_bytes
    sizes = {"hbm_bytes": needed / 2 + 15e9, "stack.memory_share": 1.0}
    for reserve_bytes in (1e9, 13e9):
        hw = pregate.load_hardware("2x h100-sxm", "vllm", sizes | {reserve: reserve_bytes})
        assert pregate.simulate(model, hw, trace, policy, check=True).peak_hbm_bytes > sizes["hbm_bytes"]
    with pytest.raises(CapacityExceeded):
        request(model, pregate.load_hardware("2x h100-sxm", "vllm", sizes | {reserve: 20e9}), trace, policy)


def test_copies_of_attention_hold_all_of_it_and_keys_and_values_of_their_own_sequences(
    model: ModelArchitecture,
) -> None:
    hw, long = pregate.load_hardware("4x h100-sxm", "vllm"), pregate.synthesize(model, 512, 4, 8, 0)
    copied = request(model, hw, long, "gpu_only@copies=4")
    assert copied.model.decoder.attention == model.decoder.attention
    assert 4 * copied.model.expert_bytes == model.expert_bytes
    more = copied.plan.static_bytes - request(model, hw, long, "gpu_only").plan.static_bytes
    attention = model.non_expert_bytes - sharded(model, 4).non_expert_bytes
    kv = model.kv_bytes_per_token * 516 * 2 - sharded(model, 4).kv_bytes_per_token * 516 * 8
    assert more == pytest.approx(attention + kv, rel=0.1)
    assert copied.workload.n_output_tokens == 8 * 4, "of all copies"


def test_a_copy_of_attention_reads_the_context_of_its_own_sequences(model: ModelArchitecture) -> None:
    """Eight sequences on eight cards: one each, or all of them on each, with one of four heads that lie there twice."""
    hw, trace = pregate.load_hardware("8x h100-sxm", "vllm"), pregate.synthesize(model, 512, 3, 8, 0)
    read = []
    for policy in ("gpu_only@copies=8", "gpu_only"):
        timeline = pregate.simulate(model, hw, trace, policy).timeline
        assert timeline is not None
        schedule = timeline.schedule
        last = np.flatnonzero(schedule.kind == OpKind.SELF_ATTENTION)[-1]
        read.append(schedule.works[schedule.cost[last]].hbm_bytes)
    assert 2 * read[0] == read[1]


def test_a_load_that_is_uneven_takes_longer_on_whole_experts_and_none_on_shared_ones(
    model: ModelArchitecture,
) -> None:
    """Tokens that choose experts of one card alone, or of all: the same numbers of experts, and of tokens for each."""
    even = pregate.synthesize(model, 64, 4, 1, 0)
    experts = np.tile(np.arange(0, 128, 16, dtype=np.int16), (len(even.experts), model.n_moe_layers, 1))
    traces = [replace(even, experts=chosen) for chosen in (experts, experts // 16)]
    hw = pregate.load_hardware("8x h100-sxm", "vllm")
    spread, crowded = (pregate.simulate(model, hw, trace, "gpu_only@experts=whole").tpot_s for trace in traces)
    same = [pregate.simulate(model, hw, trace, "gpu_only").tpot_s for trace in traces]
    assert same[0] == same[1]
    assert crowded > 1.1 * spread
    assert spread == pytest.approx(same[0], rel=0.1), "an expert on each of eight cards, or an eighth of eight"
    by_load = policy_named("gpu_only@experts=whole@redundant=0").placed(popularity_of(traces[1]))
    evened = pregate.simulate(model, hw, traces[1], by_load)
    assert evened.tpot_s == pytest.approx(spread, rel=1e-9), "by how much each serves, one of the eight on each card"
    held = request(model, hw, traces[1], "gpu_only@experts=whole@redundant=8").plan.static_bytes
    more = model.n_moe_layers * model.expert_bytes
    assert held == request(model, hw, traces[1], "gpu_only@experts=whole").plan.static_bytes + more, "one a card"


def test_a_token_on_stages_takes_what_it_takes_on_their_cards_alone_and_what_is_sent(
    model: ModelArchitecture, trace: pregate.RoutingTrace
) -> None:
    two = pregate.load_hardware("2x h100-sxm", "vllm")
    roomy = pregate.load_hardware("h100-sxm", "vllm", {"hbm_bytes": 160e9})
    found, one = (
        pregate.simulate(model, hw, trace, policy) for hw, policy in ((two, "gpu_only@turns=2"), (roomy, "gpu_only"))
    )
    sent_s = float(send_s(send_work(model, 1, 1), figures_of(two)))
    assert found.tpot_s - one.tpot_s == pytest.approx(sent_s, rel=0.05)
    assert pregate.simulate(model, two, trace, "gpu_only@turns=2", check=True, engine="des").tpot_s == found.tpot_s


def test_designs_of_cards_that_share_layers_are_ranked_where_their_engine_is_named(model: ModelArchitecture) -> None:
    card = plan(model, "4x h100-sxm", RequestLoad(24, 8, 1), stacks=["vllm"])
    assert {"gpu_only", "gpu_only@experts=whole"} <= {one.design.policy for one in card.choice.ranked}
    assert card.flags.command.startswith("vllm serve MODEL --tensor-parallel-size 4 ")
    one = plan(model, "h100-sxm", RequestLoad(24, 8, 1), stacks=["vllm"])
    assert 4 * card.limit.tpot_s == pytest.approx(one.limit.tpot_s, rel=1e-9)
    assert "How sure: layers shared, sums claimed; intervals" in card.text(width=200)
    assert " ..." not in replace(card, job=RequestLoad(2048, 1024, 64)).text()
    whole = flags_of(EngineDesign("gpu_only@experts=whole", "vllm"), model, card.best.planned.hw, RequestLoad(24, 8, 1))
    assert whole.command.startswith("vllm serve MODEL --enable-expert-parallel --tensor-parallel-size 4 ")
    evened = EngineDesign("gpu_only@experts=whole@redundant=8", "vllm")
    told = flags_of(evened, model, card.best.planned.hw, RequestLoad(24, 8, 1)).command
    assert "--enable-expert-parallel --enable-eplb --eplb-config.num_redundant_experts 8 " in told


def test_cards_that_cannot_share_layers_have_them_in_turn(model: ModelArchitecture) -> None:
    card = plan(model, "3x h100-sxm", RequestLoad(24, 8, 1), stacks=["vllm"])
    assert [one.design.policy for one in card.choice.ranked] == ["gpu_only@turns=3"]
    assert card.choice.verdict() == "Run vllm/gpu_only@turns=3: the only one that fits."
    assert card.flags.command.startswith("vllm serve MODEL --pipeline-parallel-size 3 ")
    with pytest.raises(InvalidInput, match="cannot be shared evenly by 3 cards"):  # whose cards take no turns
        plan(model, "3x h100-sxm", RequestLoad(24, 8, 1), stacks=["ktransformers"])


def test_a_card_has_whole_experts_where_shares_of_them_are_refused(model: ModelArchitecture) -> None:
    """A quarter of 768 hidden units is a block of 128 and a half."""
    blocks = model.with_formats({"all": "fp8-b128"})
    card = plan(blocks, "4x h100-sxm", RequestLoad(24, 8, 1), stacks=["vllm"])
    assert [one.design.policy for one in card.choice.ranked] == ["gpu_only@experts=whole", "gpu_only@turns=4"]
    assert "--enable-expert-parallel" in card.flags.command


def test_a_card_says_what_memory_of_each_card_would_do(model: ModelArchitecture) -> None:
    card = plan(model, "2x rtx-4090", RequestLoad(24, 8, 1), stacks=["vllm"])
    (point,) = (one for one in card.turning_points if one.axis == "accelerator.hbm_bytes")
    assert point.now == pregate.load_hardware("2x rtx-4090", "vllm").machine.accelerator.hbm_bytes
    _check_all_fits_from(point.value, model, "2x rtx-4090", "vllm")


def _check_all_fits_from(hbm_bytes: float, model: ModelArchitecture, hardware: str, stack: str) -> None:
    """`hbm_bytes`: of the boards, of which vLLM uses 0.9 and whole layers on several leave some."""
    trace = pregate.synthesize(model, 24, 8, 1, 0)
    request(model, pregate.load_hardware(hardware, stack, {"hbm_bytes": 1.002 * hbm_bytes}), trace, "gpu_only")
    with pytest.raises(CapacityExceeded):
        request(model, pregate.load_hardware(hardware, stack, {"hbm_bytes": 0.99 * hbm_bytes}), trace, "gpu_only")


@pytest.mark.parametrize("stack", ["llama-cpp", "vllm"])
def test_a_card_says_what_memory_of_all_cards_would_do(model: ModelArchitecture, stack: str) -> None:
    """Of one, and of several in turn: it is never less than they have now, for all does not fit there."""
    hardware, n = ("2x rtx-3090", 2) if stack == "llama-cpp" else ("rtx-3090", 1)
    card = plan(model, hardware, RequestLoad(24, 8, 1), stacks=[stack], overrides={"hbm_bytes": "15GB"})
    (point,) = (one for one in card.turning_points if one.axis == "accelerator.hbm_bytes")
    assert point.value > point.now == n * 15e9
    _check_all_fits_from(point.value / n, model, hardware, stack)


def test_heads_that_cannot_be_shared_are_refused(model: ModelArchitecture, trace: pregate.RoutingTrace) -> None:
    with pytest.raises(InvalidInput, match="cannot be shared evenly by 3 cards"):
        pregate.simulate(model, pregate.load_hardware("3x h100-sxm", "vllm"), trace, "gpu_only")


def test_a_prediction_says_what_it_rests_on() -> None:
    hw = pregate.load_hardware("2x rtx-4090", "vllm")
    assert "every layer shared (tensor parallel)" in hw.describe_calibration("bf16")


@pytest.mark.parametrize(
    ("hardware", "stack", "policy", "n_at_once"),
    [
        ("4x h100-sxm", "vllm", "gpu_only", 4),
        ("4x h100-sxm", "vllm", "gpu_only@turns=2", 2),
        ("4x h100-sxm", "vllm", "gpu_only@copies=2", 4),
        ("4x rtx-3090", "llama-cpp", "gpu_only", 1),
        ("4x rtx-3090", "llama-cpp", "gpu_only@turns=1", 4),
    ],
)
def test_power_is_of_the_cards_that_a_design_has_at_work_at_once(
    model: ModelArchitecture, trace: pregate.RoutingTrace, hardware: str, stack: str, policy: str, n_at_once: int
) -> None:
    assert request(model, pregate.load_hardware(hardware, stack), trace, policy).n_at_once == n_at_once


@pytest.mark.parametrize(
    "policy",
    ["on_demand", "pregate", "gpu_only@weights=stream", "gpu_only@experts=stream", "gpu_only@kv=stream"],
)
@pytest.mark.parametrize("stack", ["llama-cpp", "ik-llama"])
def test_cards_that_share_layers_if_told_to_are_brought_nothing(
    model: ModelArchitecture, trace: pregate.RoutingTrace, stack: str, policy: str
) -> None:
    """Their links would be as fast together as host memory is not."""
    hw = pregate.load_hardware("4x rtx-3090", stack)
    with pytest.raises(InvalidInput, match="brings weights, keys or values to its cards"):
        request(model, hw, trace, policy + "@turns=1")


def test_memory_planned_for_more_than_a_trace_is_planned_of_each_copy_too(model: ModelArchitecture) -> None:
    """As where requests arrive: a trace of a token, memory for the longest of them side by side."""
    trace, hw = pregate.synthesize(model, 8, 2, 8, 0), pregate.load_hardware("4x h100-sxm", "vllm")
    alone = request(model, hw, trace, "gpu_only@copies=4@experts=whole")
    longer = replace(alone.workload, n_cached_tokens=alone.workload.n_cached_tokens + 8 * 1000, n_context=1010)
    asked = request(model, hw, trace, "gpu_only@copies=4@experts=whole", workload=longer)
    assert asked.plan.static_bytes - alone.plan.static_bytes == 2 * 1000 * model.kv_bytes_per_token


def test_the_limit_is_of_cards_that_share_layers_where_a_design_has_them_do_so(model: ModelArchitecture) -> None:
    four, load = "4x rtx-3090", RequestLoad(24, 8, 1)
    small = model.with_formats({"all": "q4_0"})
    alone, told = (
        plan(small, four, load, stacks=["llama-cpp"], policies=policies) for policies in ((), ("gpu_only@turns=1",))
    )
    assert told.limit.tpot_s == pytest.approx(alone.limit.tpot_s / 4)
    assert all(one.tpot.value > told.limit.tpot_s for one in told.choice.ranked)


@pytest.mark.parametrize(
    ("stack", "policy", "told"),
    [
        ("vllm", "gpu_only@turns=4", "MODEL --pipeline-parallel-size 4 --max"),
        ("vllm", "gpu_only@turns=2@experts=whole", "--enable-expert-parallel --tensor-parallel-size 2 --pipeline-p"),
        ("vllm", "gpu_only@turns=2@experts=whole:2", "--enable-expert-parallel --tensor-parallel-size 2 --pipeline-p"),
        ("vllm", "gpu_only@copies=4@experts=whole", "MODEL --enable-expert-parallel --data-parallel-size 4 --max"),
        ("vllm", "gpu_only@copies=2", "MODEL --tensor-parallel-size 2 --data-parallel-size 2 --max"),
        ("vllm", "gpu_only@experts=whole:4", "MODEL --enable-expert-parallel --tensor-parallel-size 4 --max"),
        ("llama-cpp", "gpu_only@turns=1", "-sm tensor -fit"),
        ("llama-cpp", "gpu_only@turns=1@experts=cpu:3@stream=never", "--n-cpu-moe 3 -sm tensor --no-op"),
        ("ik-llama", "gpu_only@turns=1", "-sm graph -np"),
    ],
)
def test_flags_say_how_cards_are_together(model: ModelArchitecture, stack: str, policy: str, told: str) -> None:
    flags = flags_of(
        EngineDesign(policy, stack), model, pregate.load_hardware("4x rtx-3090", stack), RequestLoad(24, 8, 1)
    )
    assert told in flags.command


def test_groups_of_cards_with_whole_experts_are_no_flag_of_vllm(model: ModelArchitecture) -> None:
    hw = pregate.load_hardware("4x h100-sxm", "vllm")
    flags = flags_of(EngineDesign("gpu_only@experts=whole:2", "vllm"), model, hw, RequestLoad(24, 8, 1))
    assert (flags.command, "whole experts on each card, or on none" in flags.left_out) == ("", True)


@pytest.mark.parametrize("turns", [2, 4])
def test_stages_of_an_encoder_decoder_are_refused_whether_cards_share_them_or_not(turns: int) -> None:
    model = pregate.load_model("switch-mini-16")
    trace = pregate.synthesize(model, 8, 2, 1, 0)
    with pytest.raises(InvalidInput, match="encoder-decoder are not"):
        request(model, pregate.load_hardware("4x h100-sxm", "vllm"), trace, f"gpu_only@turns={turns}")


@pytest.mark.parametrize(
    ("name", "told"),
    [("2x rtx-4090", True), ("2x rtx-5060-ti-16gb", True), ("4x rtx-4090", False), ("2x rtx-5000-ada", False),
     ("2x rtx-3090", False), ("rtx-4090", False)],
)  # fmt: skip
def test_two_cards_without_access_to_each_other_say_so(name: str, told: bool) -> None:
    words = pregate.load_hardware(name, stack="vllm").describe_calibration("bf16")
    assert ("no access from card to card" in words) == told
