"""Several equal cards that a token passes through in turn: one card's rates, the memory of all, whole layers each."""

from __future__ import annotations

import itertools
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import pregate
from hwmodels.specs.machine_files import machine_document
from offload.ops import OpKind
from offload.placing.footprint import largest_layer_bytes, pass_bytes
from offload.placing.layers import LayerRange
from offload.placing.placement import Placement
from offload.slots.memory import CapacityExceeded
from pregate.ask.capturing.machine_memory import memory_of
from pregate.ask.capturing.request import request
from pregate.card.job import RequestLoad
from pregate.card.plan import plan
from pregate.draw.perfetto import write_trace
from pregate.draw.timelines import gantt
from pregate.economics.assumptions import load_assumptions
from pregate.economics.machine_ranking import rank_machines
from pregate.engines.flag_table import engines
from pregate.engines.writing import _on_cards
from simulator.modes import Modes
from tests.small_models import in_parts
from traces.errors import InvalidInput, UnknownName
from traces.model.architecture import ModelArchitecture
from traces.model.tensor_parallel import sharded

LOAD = RequestLoad(24, 8, 1)


@pytest.fixture(scope="module")
def model() -> ModelArchitecture:
    return pregate.load_model("qwen3-30b-a3b", formats={"all": "q8_0"})


@pytest.mark.parametrize("written", ["2x rtx-3090", "2x RTX 3090", "2x3090", "RTX 3090 x2", "dual 3090", "2 RTX 3090"])
def test_cards_are_counted_as_people_write_them(written: str) -> None:
    hw = pregate.load_hardware(written)
    assert (hw.hardware, hw.machine.n_cards, hw.stack.name) == ("2x rtx-3090", 2, "llama-cpp")
    assert hw.machine.accelerator.hbm_bytes == pregate.load_hardware("rtx-3090").machine.accelerator.hbm_bytes


def test_cards_may_be_stated_as_a_number_of_the_machine() -> None:
    stated = pregate.load_hardware("rtx-3090", "llama-cpp", {"accelerator.n_cards": 2})
    assert stated.hardware == "2x rtx-3090"
    assert machine_document(stated.machine)["n_cards"]["value"] == 2


def test_a_token_takes_as_long_on_two_cards_as_on_one_with_the_memory_of_both(model: ModelArchitecture) -> None:
    trace = pregate.synthesize(model, 16, 4, 1, 0)
    two = pregate.simulate(model, pregate.load_hardware("2x rtx-3090"), trace, "gpu_only")
    roomy = pregate.load_hardware("rtx-3090", "llama-cpp", {"hbm_bytes": 60e9})
    one = pregate.simulate(model, roomy, trace, "gpu_only")
    assert (two.tpot_s, two.ttft_s) == (one.tpot_s, one.ttft_s)
    reserve = int(roomy.constant("reserve_bytes"))
    asked = request(model, roomy, trace, "gpu_only")
    passing = pass_bytes(model, asked.workload, asked.execution, asked.placed)
    assert passing > 0
    assert two.peak_hbm_bytes == one.peak_hbm_bytes + reserve + passing, "each has a context and activations of its own"


def test_cards_with_whole_layers_leave_room_for_a_layer_with_its_keys(model: ModelArchitecture) -> None:
    """Where 24 layers of 48 and a head are on either card, half of the bytes may not fit either."""
    trace = pregate.synthesize(model, 16, 4, 1, 0)
    asked = request(model, pregate.load_hardware("2x rtx-3090"), trace, "gpu_only")
    long = replace(asked.workload, n_cached_tokens=4_000_000)
    n_bytes = asked.plan.static_bytes + (4_000_000 - asked.workload.n_cached_tokens) * model.kv_bytes_per_token
    a_layer = largest_layer_bytes(model, long, asked.placed)
    assert a_layer > model.kv_bytes_per_token * 4_000_000 / model.decoder.n_layers
    for more, fits in ((0, True), (-1, False)):
        hw = replace(memory_of(pregate.load_hardware("2x rtx-3090")), hbm_bytes=n_bytes + a_layer + more)
        if fits:
            request(model, hw, trace, "gpu_only", workload=long)
        else:
            with pytest.raises(CapacityExceeded):
                request(model, hw, trace, "gpu_only", workload=long)


def test_a_layer_that_no_card_holds_is_named(model: ModelArchitecture) -> None:
    """The memory of all cards less a layer of each but one would be below nothing."""
    hw = pregate.load_hardware("4x rtx-3090", overrides={"hbm_bytes": "500MB"})
    with pytest.raises(
        CapacityExceeded, match=r"a layer or the head of .* takes 0\.7 GB .*, one of 4 cards has 0\.5 GB"
    ):
        request(model, hw, pregate.synthesize(model, 16, 4, 1, 0), "gpu_only")


def test_no_design_of_several_cards_is_faster_than_the_limit() -> None:
    """Passes of a prompt are in all cards at once."""
    card = pregate.plan(
        "olmoe-1b-7b", "4x rtx-3090", pregate.RequestLoad(4096, 2, 2), stacks=["llama-cpp"], objective="ttft"
    )
    assert card.limit.ttft_s < card.best.ttft.value
    assert card.reached <= 1
    alone = pregate.plan(
        "olmoe-1b-7b", "rtx-3090", pregate.RequestLoad(4096, 2, 2), stacks=["llama-cpp"], objective="ttft"
    )
    assert card.limit.ttft_s == pytest.approx(alone.limit.ttft_s / 4)
    assert card.limit.tpot_s == alone.limit.tpot_s


def test_the_limit_counts_the_passes_that_a_recorded_prompt_has() -> None:
    """Eight steps of 32 tokens on eight cards: each is a pass, though one of 512 would hold all."""
    model = pregate.load_model("olmoe-1b-7b")
    trace = in_parts(pregate.synthesize(model, 256, 3), 32)
    several, alone = (
        pregate.plan(model, machine, trace=trace, stacks=["llama-cpp"], objective="ttft")
        for machine in ("8x rtx-3090", "rtx-3090")
    )
    assert several.limit.ttft_s == pytest.approx(alone.limit.ttft_s / 8)


def test_the_definition_has_the_memory_of_all_cards(model: ModelArchitecture) -> None:
    """A model larger than one card, which the plan grants on several: the definition ran out of the first."""
    trace = pregate.synthesize(model, 16, 4, 1, 0)
    for stack, machine in (("llama-cpp", "4x rtx-3090"), ("vllm", "4x a100-sxm4-80gb")):
        hw = pregate.load_hardware(machine, stack, {"hbm_bytes": "18GiB"})
        found = pregate.simulate(model, hw, trace, "gpu_only", check=True)
        assert found.makespan_s == pregate.simulate(model, hw, trace, "gpu_only", engine="des").makespan_s


@pytest.mark.parametrize(("stack", "n_copies"), [("llama-cpp", 4), ("ik-llama", 1)])
@pytest.mark.parametrize("n_cards", [2, 4])
def test_passes_of_a_prompt_are_in_several_cards_at_once(
    model: ModelArchitecture, stack: str, n_copies: int, n_cards: int
) -> None:
    """Eight passes of 512 tokens: as many cards at work as there are, or as copies let the host be ahead."""
    trace = pregate.synthesize(model, 4096, 2, 1, 0)
    several = pregate.simulate(model, pregate.load_hardware(f"{n_cards}x rtx-3090", stack), trace, "gpu_only")
    one = pregate.simulate(model, pregate.load_hardware("rtx-3090", stack, {"hbm_bytes": 60e9}), trace, "gpu_only")
    at_once = min(n_cards, n_copies + 1)
    assert 1 / at_once < several.ttft_s / one.ttft_s < (1 / at_once + 1 / 8) * 1.1
    assert several.tpot_s == pytest.approx(one.tpot_s, rel=1e-9)
    assert several.bound_s <= several.makespan_s


def test_long_prompts_on_cards_are_the_same_part_by_part(model: ModelArchitecture) -> None:
    hw, trace = pregate.load_hardware("2x rtx-3090"), pregate.synthesize(model, 2048, 3, 1, 0)
    whole = pregate.simulate(model, hw, trace, "gpu_only")
    parts = pregate.simulate(model, hw, trace, "gpu_only", engine="stream")
    assert (parts.schedule_digest, parts.ttft_s, parts.makespan_s) == (
        whole.schedule_digest, whole.ttft_s, whole.makespan_s,
    )  # fmt: skip
    assert parts.binding in ("COMPUTE", "HOST", "critical path")


def test_what_the_host_computes_keeps_passes_apart(model: ModelArchitecture) -> None:
    """As llama.cpp does with tensors elsewhere: its scheduler then runs one pass at a time."""
    trace = pregate.synthesize(model, 2048, 2, 1, 0)
    two = pregate.simulate(model, pregate.load_hardware("2x rtx-3090"), trace, "gpu_only@experts=cpu:8")
    roomy = pregate.load_hardware("rtx-3090", "llama-cpp", {"hbm_bytes": 60e9})
    assert two.ttft_s == pregate.simulate(model, roomy, trace, "gpu_only@experts=cpu:8").ttft_s


@pytest.mark.parametrize("draft", ["stated", "olmoe-1b-7b"])
def test_what_drafts_is_before_the_pass_on_whichever_card(model: ModelArchitecture, draft: str) -> None:
    trace, numbers = pregate.synthesize(model, 16, 8, 1, 0), {"hbm_bytes": 60e9, "stack.draft_s": 1e-3}
    policy = f"gpu_only@gamma=2:acceptance=0.5:draft={draft}"
    times = [
        pregate.simulate(model, pregate.load_hardware(name, "llama-cpp", numbers), trace, policy).tpot_s
        for name in ("rtx-3090", "2x rtx-3090")
    ]
    assert times[0] == times[1]


@pytest.mark.parametrize("stack", ["llama-cpp", "ik-llama"])
def test_cards_that_are_told_to_share_every_layer_do(model: ModelArchitecture, stack: str) -> None:
    """`-sm tensor`, `-sm graph`: half of the weights each, and sums in place of turns."""
    trace, hw = pregate.synthesize(model, 16, 4, 1, 0), pregate.load_hardware("2x rtx-3090", stack)
    turns, shared = (pregate.simulate(model, hw, trace, policy) for policy in ("gpu_only", "gpu_only@turns=1"))
    assert shared.timeline is not None
    assert np.count_nonzero(shared.timeline.schedule.kind == OpKind.ALL_REDUCE) == 4 * (2 * model.decoder.n_layers + 2)
    assert 0.5 < shared.peak_hbm_bytes / turns.peak_hbm_bytes < 0.52, "of one card, gates and norms on both"
    one = pregate.load_hardware("rtx-3090", stack)
    half = pregate.simulate(sharded(model, 2), one, trace, "gpu_only").tpot_s
    assert half < shared.tpot_s < half + 4e-3, "98 sums, of 20 us each to begin"
    alone = pregate.simulate(
        model, pregate.load_hardware("rtx-3090", stack, {"hbm_bytes": 60e9}), trace, "gpu_only@turns=1"
    )
    assert alone.tpot_s == turns.tpot_s, "one card is the card"
    host = pregate.simulate(model, hw, trace, "gpu_only@experts=cpu:4@stream=never@turns=1", check=True)
    assert host.tpot_s > shared.tpot_s


@pytest.mark.parametrize(
    ("hardware", "stack", "policy", "told"),
    [
        ("2x rtx-3090", "llama-cpp", "gpu_only@layers=cpu:2@turns=1", "handed over by one card"),
        ("2x rtx-3090", "llama-cpp", "gpu_only@experts=cpu:2@turns=1", "add stream=never"),
        ("2x rtx-3090", "llama-cpp-2025", "gpu_only@turns=1", "no way of llama_cpp_2025"),
        ("2x rtx-3090", "ik-llama", "gpu_only@experts=whole@turns=1", "whole layers"),
    ],
)
def test_what_cards_that_are_told_to_share_layers_cannot_do_is_named(
    model: ModelArchitecture, hardware: str, stack: str, policy: str, told: str
) -> None:
    with pytest.raises(InvalidInput, match=told):
        request(model, pregate.load_hardware(hardware, stack), pregate.synthesize(model, 64, 4, 1, 0), policy)


def test_layers_that_a_prompt_streams_are_computed_by_cards_that_always_share_them(model: ModelArchitecture) -> None:
    hw, trace = pregate.load_hardware("2x rtx-3090", "ktransformers"), pregate.synthesize(model, 64, 4, 1, 0)
    streamed, handed = (
        pregate.simulate(model, hw, trace, f"gpu_only@experts=cpu@stream={least}").timeline for least in (64, 65)
    )
    assert streamed is not None
    assert handed is not None
    assert [bool(np.any(one.schedule.kind == OpKind.STREAM)) for one in (streamed, handed)] == [True, False]


def test_modes_of_links_are_of_one_card(model: ModelArchitecture) -> None:
    trace = pregate.synthesize(model, 16, 2, 1, 0)
    with pytest.raises(InvalidInput, match="modes of links and memories are of one card"):
        pregate.simulate(model, pregate.load_hardware("2x rtx-3090"), trace, "gpu_only", modes=Modes(link="shared"))


def test_pictures_show_a_lane_a_card(model: ModelArchitecture, tmp_path: Path) -> None:
    trace = pregate.synthesize(model, 1024, 2, 1, 0)
    found = pregate.simulate(model, pregate.load_hardware("2x rtx-3090"), trace, "gpu_only")
    figure = gantt(found)
    lanes = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert {"compute, card 1", "compute, card 2"} <= set(lanes)
    assert "compute" not in lanes
    assert found.timeline is not None
    write_trace(found.timeline, tmp_path / "trace.json")
    written = (tmp_path / "trace.json").read_text()
    assert all(f'"name": "compute, card {card}"' in written for card in (1, 2))
    assert '"name": "compute"' not in written


def test_whole_layers_leave_less_than_a_layer_of_each_card_but_the_last(model: ModelArchitecture) -> None:
    trace = pregate.synthesize(model, 16, 4, 1, 0)
    asked = request(model, pregate.load_hardware("4x rtx-3090"), trace, "gpu_only")
    needed, layer = asked.plan.static_bytes, largest_layer_bytes(model, asked.workload, asked.placed)
    assert layer > model.n_experts * model.expert_bytes
    share = pregate.load_hardware("rtx-3090", "llama-cpp").constants.get("memory_share", 1.0)
    each = (needed + 3 * layer) / 4 / share
    for hbm_bytes, fits in ((each * 1.001, True), (each * 0.999, False)):
        hw = pregate.load_hardware("4x rtx-3090", overrides={"hbm_bytes": hbm_bytes})
        if fits:
            request(model, hw, trace, "gpu_only")
        else:
            with pytest.raises(CapacityExceeded):
                request(model, hw, trace, "gpu_only")


@pytest.mark.parametrize(
    ("hardware", "stack", "told"),
    [
        (
            "2x rtx-3090",
            "streams",
            "of one card.*share every layer under vllm, or have whole layers each under llama-cpp",
        ),
        ("2x strix-halo", None, "one memory for all"),
        ("99x rtx-3090", None, "99 cards, at most 16"),
        ("0x rtx-3090", None, "unknown hardware '0x rtx-3090'"),
        ("2x RTX 9999", None, "unknown hardware 'RTX 9999'"),
        ("RTX 3090 + RTX 3060", None, "cards that differ cannot be said"),
    ],
)
def test_cards_that_cannot_be_said_are_refused_with_the_way_out(hardware: str, stack: str | None, told: str) -> None:
    with pytest.raises(InvalidInput, match=told):
        pregate.load_hardware(hardware, stack)


def test_experts_are_moved_to_one_card_only(model: ModelArchitecture) -> None:
    trace = pregate.synthesize(model, 16, 4, 1, 0)
    with pytest.raises(InvalidInput, match="experts that are moved are of one card"):
        pregate.simulate(model, pregate.load_hardware("2x rtx-3090"), trace, "on_demand")


def test_a_card_of_two_says_so_and_shares_the_layers(model: ModelArchitecture) -> None:
    found = plan(model, "2x rtx-3090", LOAD)
    assert {one.design.stack for one in (*found.choice.ranked, *found.choice.beside)} == {"llama-cpp"}
    assert found.best.design.policy == "gpu_only"
    assert "-sm layer" in found.flags.command
    assert found.text().startswith("qwen3-30b-a3b on 2x rtx-3090")
    assert "How sure: cards take turns; intervals" in found.text()
    assert "what passes between cards is left out" in " ".join(found.text(details=True).split())


@pytest.mark.parametrize(("n_layers", "on_host", "n_cards"), [(36, 11, 2), (48, 1, 2), (61, 30, 4), (94, 93, 2)])
def test_each_card_has_as_many_layers_with_experts(n_layers: int, on_host: int, n_cards: int) -> None:
    on_first = Placement(host_experts=LayerRange(0, on_host - 1))
    words = _on_cards(engines()["llama-cpp"], on_first, n_layers, n_cards)
    counts = [int(n) for n in words[-1].split()[-1].split(",")]
    assert sum(counts) == n_layers + 1, "the output counts as a layer"
    apart = _on_cards(engines()["ik-llama"], on_first, n_layers, n_cards)
    assert sum(map(int, apart[-1].split()[-1].split(","))) == n_layers
    ends = list(itertools.accumulate(counts))
    starts = [0, *ends[:-1]]
    heavy = [len(range(max(start, on_host), min(end, n_layers))) for start, end in zip(starts, ends, strict=True)]
    assert sum(heavy) == n_layers - on_host
    assert max(heavy) - min(heavy) <= 1


def test_two_cards_cost_two(model: ModelArchitecture) -> None:
    one, two = (
        rank_machines(
            model, [hw], LOAD, stacks=["llama-cpp"], overrides={"hbm_bytes": 40e9},
            assumptions=load_assumptions(None, {"machine_usd": "1"}),
        ).machines[0]
        for hw in ("rtx-3090", "2x rtx-3090")
    )  # fmt: skip
    assert two.hardware == "2x rtx-3090"
    assert one.per_million_tokens is not None
    assert two.per_million_tokens is not None
    assert 1.3 < two.per_million_tokens.value / one.per_million_tokens.value < 2


def test_sweeps_take_them_by_name(model: ModelArchitecture) -> None:
    grid = pregate.sweep(
        model, pregate.load_hardware("2x rtx-3090"), pregate.synthesize(model, 4, 2, 1, 0), policies=["gpu_only"],
        axes={"link": ["pcie3-x8", "pcie4-x16"], "accelerator.n_cards": [2, 3]},
    )  # fmt: skip
    assert dict(grid.sizes)["accelerator.n_cards"] == 2


def test_no_name_of_a_card_is_taken_for_several() -> None:
    for name in pregate.hardware_names():
        assert pregate.load_hardware(name).machine.n_cards == 1
    with pytest.raises(UnknownName):
        pregate.load_hardware("2x")
    assert re.fullmatch(r"\d+x .*", pregate.load_hardware("rtx-4090").hardware) is None
