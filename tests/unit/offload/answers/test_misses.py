"""What designs do with a missing expert: answers by hand, the numbers they know, every interpreter of the result."""

from __future__ import annotations

import dataclasses
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import pregate
from hwmodels.cost import price
from hwmodels.platform import load_platform
from hwmodels.start_up import miss_costs
from offload.answers.by_bandwidth import ByBandwidth, ByBandwidthWithin
from offload.answers.cheaper import CheaperEach, ShorterLane
from offload.answers.list_schedule import ListScheduled
from offload.ffn_work import experts_work
from offload.ops import OpKind
from offload.policies import policy_named
from offload.policy import BlockView, MissAction, OnMiss
from offload.policy_parts.miss_costs import MissCosts
from offload.work import cpu_expert_work, expert_copy_work
from pregate.ask.capturing.capture import capture
from pregate.ask.capturing.request import request
from tests.engines import timed_alike
from tests.small_models import MISSES_KNOW, MODELS, routing
from traces.errors import InvalidInput

MODEL = MODELS["shared experts, three matrices"]
TRACE = routing(MODEL, batch=3, seed=2)
HW = load_platform("rtx-4090", "streams", {"host.dram_bytes_per_s": 30e9})
DESIGNS = [
    "min_latency/paper+static:4", "min_latency/released+static:4", "bandwidth_split+lru:5:per_layer",
    "hybrid_schedule+lru:4", "bandwidth_split/within+static:4", "on_demand+lru:0.4:cheaper", "pregate:cheaper_sum",
    "lru_next_gate+lru:6:per_layer", "lru_next_gate:recall=0.3+lru:4:per_layer", "on_demand:split_within",
    "on_demand:scheduled=0.7",
]  # fmt: skip


def view(tokens: dict[int, int]) -> BlockView:
    """A block whose experts serve `tokens` each."""
    active = tuple(sorted(tokens))
    return BlockView(
        0, 0, 3, 16, active, tuple(tokens[e] for e in active), lambda block: None, lambda block, expert: False
    )


def fetched(rule: OnMiss, tokens: dict[int, int], resident: tuple[int, ...] = ()) -> set[int]:
    """The experts that a rule fetches; the host computes the other missing ones."""
    missing = [expert for expert in sorted(tokens) if expert not in resident]
    answers = rule(view(tokens), missing)
    assert set(answers) == set(missing)
    assert set(answers.values()) <= {MissAction.FETCH, MissAction.CPU}
    return {expert for expert, action in answers.items() if action == MissAction.FETCH}


def test_the_paper_makes_the_longer_lane_as_short_as_it_can_be() -> None:
    """Host 0.4 of a copy a token. Loads 5, 3, 1, 1: two copies and 0.8 on the host take 2; one copy would leave 2.0."""
    rule = ShorterLane(MissCosts(0.4, host_token=0.4))
    assert fetched(rule, {0: 1, 1: 5, 2: 1, 3: 3}) == {1}  # max(1, 2.0) = max(2, 0.8): the fewer copies
    assert fetched(rule, {0: 1, 1: 5, 2: 1, 3: 4}) == {1, 3}  # max(1, 2.4) > max(2, 0.8)
    assert fetched(rule, {0: 1, 1: 1}) == set()  # 0.8 on the host against a copy
    assert fetched(ShorterLane(MissCosts(3.0)), {0: 1, 1: 1}) == {0, 1}


def test_the_released_code_sums_both_lanes_so_each_expert_decides_alone() -> None:
    rule = CheaperEach(MissCosts(0.4))
    assert fetched(rule, {0: 1, 1: 2, 2: 3, 3: 4}) == {2, 3}  # 0.4, 0.8 | 1.2, 1.6
    assert fetched(CheaperEach(MissCosts(0.5)), {0: 2}) == {0}  # as long as the copy: fetched


@given(st.dictionaries(st.integers(0, 7), st.integers(1, 9), min_size=1), st.floats(0.01, 5), st.floats(0, 2))
def test_no_other_choice_beats_either_rule(tokens: dict[int, int], host: float, host_token: float) -> None:
    """Every subset of the misses tried."""
    costs = MissCosts(host, host_token)
    choices = [set(some) for n in range(len(tokens) + 1) for some in combinations(tokens, n)]

    def lanes(chosen: set[int], linear: bool) -> tuple[float, float]:
        times = {e: n * host if linear else costs.on_host(n) for e, n in tokens.items()}
        return sum(times[e] for e in tokens if e not in chosen), float(len(chosen))

    best = min(max(lanes(some, False)) for some in choices)
    assert max(lanes(fetched(ShorterLane(costs), tokens), False)) <= best * (1 + 1e-12)
    least = min(sum(lanes(some, True)) for some in choices)
    per_token = dataclasses.replace(costs, host_token=0.0)
    assert sum(lanes(fetched(CheaperEach(per_token), tokens), True)) <= least * (1 + 1e-12)


def test_bandwidths_divide_the_misses_by_count_and_those_that_serve_most_are_fetched() -> None:
    """B_cpu twice B_link: a third over the link. FreeToken's formula with its two bandwidths."""
    costs = MissCosts(0.5)
    link, cpu = 25.0, 50.0
    assert costs.fetched_share == pytest.approx(link / (link + cpu))
    rule = ByBandwidth(costs)
    assert fetched(rule, dict.fromkeys(range(6), 1)) == {0, 1}
    assert fetched(rule, {0: 1, 1: 1, 2: 7}) == {2}
    assert fetched(rule, {4: 1}) == set()  # a third of one: none
    assert fetched(ByBandwidth(MissCosts(1.0)), {4: 1}) == {4}


def test_bandwidths_are_those_measured_while_the_other_runs() -> None:
    """Copies keep 0.8 of their rate beside the processor, which keeps 0.5: the link is worth more than it is alone."""
    figures = {"host.dram_bytes_per_s": 30e9}
    contended = {"host.copies_beside_cpu": 0.8, "host.cpu_beside_copies": 0.5}
    alone, both = (
        miss_costs(MODEL, load_platform("rtx-4090", "streams", one)) for one in (figures, figures | contended)
    )
    assert (alone.beside, both.host) == (1.0, alone.host)
    works = [expert_copy_work(MODEL, OpKind.FETCH), cpu_expert_work(MODEL, 1)]
    copies_keep, host_keeps = price(works, load_platform("rtx-4090", "streams", figures | contended)).contended
    assert copies_keep == 0.8
    assert 0.5 <= host_keeps < 0.6  # reading weights is nearly all of a token
    link, cpu = copies_keep / 1.0, host_keeps / alone.host
    assert both.fetched_share == pytest.approx(link / (link + cpu))
    assert both.fetched_share > alone.fetched_share
    assert str(both) != str(alone)


def test_a_share_of_every_expert_hits_the_fraction_exactly() -> None:
    answers = ByBandwidthWithin(MissCosts(0.5))(view({1: 1, 2: 1}), [1, 2])
    assert answers == dict.fromkeys([1, 2], MissAction(share=1 / 3))


def test_a_list_schedule_ends_each_expert_where_it_is_done_first() -> None:
    """Loads 4, 2, 1; host 0.4 a token, device 0.1. Host takes 1 (0.4 < 1.1), link takes 4 (1.1 < 1.2), host 2 (1.2)."""
    costs = MissCosts(0.4, host_token=0.4, device=0.1)
    assert fetched(ListScheduled(costs), {0: 4, 1: 2, 2: 1}) == {0}
    slow = dataclasses.replace(costs, handover=5.0)
    assert fetched(ListScheduled(slow), {0: 4, 1: 2, 2: 1}) == {0, 1, 2}
    busy = dataclasses.replace(costs, device=3.0)  # what is resident keeps the device busy: the host is done first
    assert fetched(ListScheduled(busy), {0: 4, 1: 2, 2: 1, 3: 1}, resident=(3,)) == set()


def test_a_machine_says_what_a_design_would_measure_there() -> None:
    works = [expert_copy_work(MODEL, OpKind.FETCH), *(cpu_expert_work(MODEL, n) for n in (1, 9, 4000))]
    copy_s, *host_s = price(works, HW).duration_s.tolist()
    costs = miss_costs(MODEL, HW)
    for n, seconds in zip((1, 9, 4000), host_s, strict=True):
        assert costs.on_host(n) == pytest.approx(seconds / copy_s, rel=1e-9)
    device_s = price([*works, experts_work(MODEL, [1])], HW).duration_s[-1]
    assert costs.on_device(1) == pytest.approx(float(device_s) / copy_s, rel=1e-6)
    slow_link = load_platform("rtx-4090", "streams", {"host.dram_bytes_per_s": 30e9, "link.h2d_bytes_per_s": 1e9})
    assert miss_costs(MODEL, slow_link).host < costs.host


def test_what_a_design_asks_is_asked_once_and_is_in_its_key() -> None:
    plain, other = (load_platform("rtx-4090", "streams", {"link.h2d_bytes_per_s": rate}) for rate in (2e9, 20e9))
    asked = [request(MODEL, hw, TRACE, "on_demand:cheaper") for hw in (plain, other)]
    assert asked[0].policy.costs == miss_costs(MODEL, plain)
    assert asked[0].key != asked[1].key
    told = [request(MODEL, hw, TRACE, "on_demand:cheaper=0.4") for hw in (plain, other)]
    assert told[0].policy.costs == MissCosts(0.4)
    assert told[0].key == told[1].key
    result = pregate.simulate(MODEL, plain, TRACE, "on_demand:cheaper")
    assert result.asked_machine == str(miss_costs(MODEL, plain))
    assert pregate.simulate(MODEL, plain, TRACE, "on_demand").asked_machine == ""


def test_who_was_never_asked_says_so() -> None:
    with pytest.raises(InvalidInput, match="simulate it on one, or state"):
        policy_named("on_demand:cheaper").on_miss(view({0: 1}), [0])


@pytest.mark.parametrize("design", DESIGNS)
def test_every_interpreter_gives_the_same_times(design: str) -> None:
    schedule = capture(MODEL, HW, TRACE, design).decoded.schedule
    timed_alike(schedule, price(schedule.works, HW), HW.machine.accelerator.hbm_bytes)
    whole, streamed = (pregate.simulate(MODEL, HW, TRACE, design, engine=engine) for engine in ("des", "stream"))
    assert streamed.schedule_digest == whole.schedule_digest
    assert (streamed.makespan_s, streamed.peak_hbm_bytes) == (whole.makespan_s, whole.peak_hbm_bytes)


def test_parts_of_an_expert_add_up_to_it() -> None:
    """What is fetched and what the host computes of each miss; the device and the host multiply all of it once."""
    decoded = capture(MODEL, HW, TRACE, policy_named("on_demand:split_within").on_machine(MissCosts(1 / 3))).decoded
    schedule = decoded.schedule
    at = {
        kind: {
            (int(schedule.step[i]), int(schedule.layer[i]), int(schedule.expert[i])): i
            for i in np.flatnonzero((schedule.kind == kind) & (schedule.expert >= 0)).tolist()
        }
        for kind in (OpKind.FETCH, OpKind.EXPERTS, OpKind.CPU_EXPERT)
    }
    assert at[OpKind.FETCH].keys() == at[OpKind.EXPERTS].keys() == at[OpKind.CPU_EXPERT].keys()
    assert len(at[OpKind.FETCH]) == decoded.n_lookups + decoded.n_prefill_lookups
    for key, fetch in at[OpKind.FETCH].items():
        here, there = (schedule.works[schedule.cost[at[kind][key]]] for kind in (OpKind.EXPERTS, OpKind.CPU_EXPERT))
        n_tokens = here.gemms[0].m
        assert here.total_flop + there.total_flop == experts_work(MODEL, [n_tokens]).total_flop
        assert here.weight_bytes == schedule.bytes[fetch] == MODEL.expert_bytes / 4
        assert schedule.slot[fetch] >= 0


def test_parts_need_experts_that_run_one_by_one() -> None:
    with pytest.raises(InvalidInput, match="runs experts one by one"):
        capture(MODEL, load_platform("rtx-4090", "llama-cpp"), TRACE, "on_demand:split_within")
    with pytest.raises(InvalidInput, match="share"):
        MissAction("host", share=0.5)
    with pytest.raises(InvalidInput, match="share"):
        MissAction(share=1.5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("gpu_only:cheaper", "keeps every expert"),
        ("min_latency/paper:cpu", "in its own way"),
        ("min_latency", "here it is min_latency/paper or min_latency/released"),
        ("on_demand=0.4", "weighs nothing"),
        ("on_demand:cpu=0.4", "weighs nothing"),
        ("on_demand:cheaper=much", "not a number"),
        ("on_demand:cheaper=0", "above 0"),
        ("on_demand:cheaper=-1", "from 0"),
        ("on_demand:cheaper:split", "form NAME"),
        ("on_demand:cheapest", "form NAME"),
        ("pregate:recall=0.4", "only lru_next_gate"),
        ("lru_next_gate:recall=1.5", "0 to 1"),
    ],
)
def test_mistyped_answers_are_one_clear_line(text: str, message: str) -> None:
    with pytest.raises(pregate.PregateError, match=message) as caught:
        policy_named(text)
    assert "\n" not in str(caught.value)


def test_the_answer_may_stand_behind_the_cache() -> None:
    behind, before = policy_named("on_demand+lru:0.4:cheaper"), policy_named("on_demand:cheaper+lru:0.4")
    assert behind == before
    assert behind.name == "on_demand:cheaper+lru:0.4"


def test_costs_are_numbers() -> None:
    for wrong in ({"host": 0.0}, {"host": -1.0}, {"host": float("nan")}, {"host": 1.0, "device": float("inf")}):
        with pytest.raises(InvalidInput):
            MissCosts(**wrong)
    assert MISSES_KNOW.on_host(2) == 0.4
    assert MISSES_KNOW.on_host(10) == pytest.approx(1.5)


def test_a_sweep_asks_every_machine_that_it_meets() -> None:
    """Along a number that otherwise only prices, each point decides as a simulation of it does."""
    rates = [1e9, 8e9, 64e9]
    grid = pregate.sweep(
        MODEL, HW, TRACE, policies=["on_demand:cheaper", "on_demand"], axes={"link.h2d_bytes_per_s": rates}
    )
    for i, rate in enumerate(rates):
        hw = load_platform("rtx-4090", "streams", {"host.dram_bytes_per_s": 30e9, "link.h2d_bytes_per_s": rate})
        for policy in ("on_demand:cheaper", "on_demand"):
            alone = pregate.simulate(MODEL, hw, TRACE, policy)
            at = grid.sel(policy=policy).isel({"link.h2d_bytes_per_s": i})
            assert float(at.tpot_s) == alone.tpot_s
            assert str(at.asked_machine.values) == alone.asked_machine
    assert len({str(value) for value in grid.asked_machine.sel(policy="on_demand:cheaper").values}) == 3


def test_a_crossover_asks_every_machine_too() -> None:
    """The lane that is shorter is chosen anew on every link, so it never loses to fetching by more than a hand-over."""
    found = pregate.crossovers(
        MODEL, HW, TRACE, ["on_demand", "on_demand:cheaper"], "link.h2d_bytes_per_s", 1e8, 1e12, n_scan=5
    )
    assert found.first == "on_demand:cheaper"
    assert all(row.axis == "link.h2d_bytes_per_s" for row in found)
