"""What a user types as a placement, and what it means for a model, all counted by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from offload.execution import EXECUTIONS
from offload.placing.layers import EVERYWHERE, LayerGroups, LayerRange, layers_named, range_named
from offload.placing.placed import Placed, place
from offload.placing.placement import AS_DECIDED, Placement
from offload.placing.placement_clauses import placement_named
from tests.small_models import MODELS, decoder_only
from traces.errors import InvalidInput

MODEL = MODELS["shared experts, three matrices"]  # four layers, the last three MoE, of six experts each
FIRST_TWO = LayerRange(0, 1)
TYPED: dict[str, dict[str, Any]] = {
    "experts=cpu": {"host_experts": EVERYWHERE},
    "experts=cpu:2": {"host_experts": FIRST_TWO},
    "experts=cpu:1-2": {"host_experts": LayerRange(1, 2)},
    "experts=cpu:12-": {"host_experts": LayerRange(12)},
    "experts=cpu:keep=28": {"host_experts": EVERYWHERE, "n_kept": 28},
    "experts=cpu:2:keep=1234:uniform": {"host_experts": FIRST_TWO, "n_kept": 1234, "uniform": True},
    "experts=cpu:share=0.4": {"host_experts": EVERYWHERE, "expert_share": 0.4},
    "experts=cpu:2:share=0.4:uniform": {"host_experts": FIRST_TWO, "expert_share": 0.4, "uniform": True},
    "experts=cpu:fit": {"host_experts": EVERYWHERE, "fits": True},
    "experts=cpu@host=beside": {"host_experts": EVERYWHERE, "beside": True},
    "layers=cpu": {"host_layers": EVERYWHERE},
    "layers=cpu:2": {"host_layers": FIRST_TWO},
    "experts=stream": {"streamed_experts": EVERYWHERE},
    "experts=stream:2/8:share=0.5": {"streamed_experts": LayerGroups(2, 8), "expert_share": 0.5},
    "weights=stream": {"streamed": EVERYWHERE},
    "weights=stream:1/4:share=0.25@ahead=3": {"streamed": LayerGroups(1, 4), "streamed_share": 0.25, "ahead": 3},
    "experts=stream:2@ahead=0": {"streamed_experts": FIRST_TWO, "ahead": 0},
    "experts=zerocopy:2:share=0.5": {"zero_copy_experts": FIRST_TWO, "expert_share": 0.5},
    "experts=zerocopy": {"zero_copy_experts": EVERYWHERE},
    "weights=zerocopy:2:share=0.75": {"zero_copy_weights": FIRST_TWO, "streamed_share": 0.75},
    "kv=cpu": {"kv": "host"},
    "kv=cpu:share=0.5": {"kv": "host", "kv_share": 0.5},
    "kv=stream:share=1e-05": {"kv": "stream", "kv_share": 1e-5},
    "ubatch=2048": {"micro_batch": 2048},
    "ubatch=0": {"micro_batch": 0},
    "stream=1234567": {"stream_from": 1234567},
    "stream=never": {"stream_from": 0},
    "micro=1": {"micro_sequences": 1},
    "experts=whole": {"expert_groups": 0},
    "experts=whole:4": {"expert_groups": 4},
    "experts=whole:99@turns=2": {"expert_groups": 99, "turns": 2},
}


@pytest.mark.parametrize("text", TYPED)
def test_what_is_typed_means_one_placement_and_is_written_back(text: str) -> None:
    wanted = Placement(**TYPED[text])
    assert placement_named(text) == wanted
    assert placement_named(f" {text.replace('@', ' , ')} ") == wanted
    assert str(wanted) == text


def test_clauses_stand_in_any_order_and_are_written_in_one() -> None:
    said = (
        "experts=cpu:1-2:keep=2", "layers=cpu:1", "weights=stream:2-3:share=0.5", "ahead=1", "kv=stream:share=0.5",
        "ubatch=4", "stream=5", "host=beside",
    )  # fmt: skip
    everything = Placement(
        host_experts=LayerRange(1, 2), n_kept=2, host_layers=LayerRange(0, 0), streamed=LayerRange(2, 3),
        streamed_share=0.5, ahead=1, kv="stream", kv_share=0.5, micro_batch=4, stream_from=5, beside=True,
    )  # fmt: skip
    for clauses in (said, said[::-1], said[4:] + said[:4]):
        assert placement_named("@".join(clauses)) == everything
    assert str(everything) == "@".join(said)
    assert str(AS_DECIDED) == ""


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("ubatch=12345678", "ubatch=12345678 is no number of tokens"), ("ubatch=never", "no number of tokens"),
        ("ubatch=", "ubatch= is no number of tokens"), ("micro=x", "micro=x is no number of sequences"),
        ("micro=12345678", "no number of sequences"), ("micro=0", "micro = 0 sequences in a micro-batch is below 1"),
        ("weights=stream@ahead=12345678", "ahead=12345678 is no number of layers"), ("ahead=1", "give weights=stream"),
        ("experts=cpu:keep=12345", "keep=12345 is not a number of experts a layer"),
        ("experts=cpu:keep=2:share=0.5", "keep and share both"), ("experts=cpu:fit:2", "neither a number"),
        ("experts=stream:fit", "neither a number of layers"), ("layers=cpu:fit", "neither a number of layers"),
        ("experts=cpu:uniform", "uniform is neither a number of layers"), ("layers=cpu:2:uniform", "neither a number"),
        ("weights=stream:2:uniform", "neither a number of layers"), ("kv=cpu:share=0.5:2", "is not of the form"),
        ("experts=cpu:2:3", "2:3 is neither a number of layers"), ("layers=cpu:share=0.5", "neither a number"),
        ("layers=cpu:keep=1", "neither a number of layers"), ("experts=stream:keep=1", "neither a number of layers"),
        ("kv=cpu:share=0", "share=0 is not a share"), ("kv=cpu:share=1.1", "share=1.1 is not a share"),
        ("kv=cpu:share=x", "share=x is not a share"), ("kv=device", "is not of the form"),
        ("experts=cpu@layers=stream", "layers=stream is not of the form"), ("weights=cpu", "is not of the form"),
        ("experts=cpu:12345", "neither a number of layers"), ("experts=cpu:1-12345", "neither a number of layers"),
        ("micro=2@experts=cpu", "leave out experts=cpu and layers=cpu"), ("micro=2@layers=cpu:1", "leave out experts"),
        ("experts=cpu:fit@layers=cpu:1", "experts=cpu:fit chooses the layers of the host itself"),
        ("heads=cpu", "placement 'heads=cpu': heads=cpu is not of the form"), ("host=", "host= is not host=beside"),
        ("ubatch=\N{ARABIC-INDIC DIGIT TWO}", "no number of tokens"),
        ("kv=cpu,micro=\N{ARABIC-INDIC DIGIT TWO}", "no number of sequences"),
        ("experts=cpu:keep=\N{ARABIC-INDIC DIGIT TWO}", "not a number of experts"),
        ("weights=stream:x", "placement 'weights=stream:x': x is neither"),
        ("layers=cpu:x", "placement 'layers=cpu:x': x is neither"),
        ("kv=cpu:share=2", "placement 'kv=cpu:share=2': share=2 is not a share"),
        ("kv=cpu@kv=stream", "says kv twice: once is enough"),
        ("experts=whole:2:3", "experts=whole:2:3 is not experts=whole:GROUPS, up to 99"),
        ("experts=whole:100", "experts=whole:100 is not experts=whole:GROUPS, up to 99"),
        ("experts=whole:0", "is not experts=whole:GROUPS"), ("experts=whole:x", "is not experts=whole:GROUPS"),
        ("experts=whole:1\N{ARABIC-INDIC DIGIT TWO}", "is not experts=whole:GROUPS"),
        ("weights=whole", "weights=whole is not of the form"),
        ("experts=cpu:2/8", "2/8 is neither a number of layers (26) nor a range (12-47)"),
        ("experts=cpu:keep=x", "placement 'experts=cpu:keep=x': keep=x is not a number of experts"),
    ],
)  # fmt: skip
def test_what_means_nothing_is_refused(text: str, told: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        placement_named(text)
    assert told in str(refused.value)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"host_experts": EVERYWHERE, "fits": True, "n_kept": 1}, "experts=cpu:fit chooses"),
        ({"host_experts": EVERYWHERE, "fits": True, "expert_share": 0.5}, "experts=cpu:fit chooses"),
        ({"host_experts": FIRST_TWO, "fits": True}, "experts=cpu:fit chooses"),
        ({"kv": "cpu"}, "kv = 'cpu'"),
        ({"beside": True}, "give experts=cpu with it"),
        ({"host_experts": EVERYWHERE, "streamed_experts": FIRST_TWO}, "have one home"),
        ({"host_experts": EVERYWHERE, "n_kept": -1}, "keep = -1 experts a layer is below 0"),
        ({"n_kept": 1}, "keep = 1 says how many experts stay in HBM"),
        ({"streamed_experts": EVERYWHERE, "n_kept": 1}, "keep = 1 says how many experts stay in HBM"),
        ({"host_experts": EVERYWHERE, "n_kept": 1, "expert_share": 0.5}, "keep and share both"),
        ({"host_experts": EVERYWHERE, "expert_share": 0.0}, "experts: share = 0 of the bytes is outside"),
        ({"host_experts": EVERYWHERE, "expert_share": 1.5}, "experts: share = 1.5 of the bytes is outside"),
        ({"streamed": EVERYWHERE, "streamed_share": -0.5}, "weights: share = -0.5 of the bytes is outside"),
        ({"kv": "host", "kv_share": 2.0}, "kv: share = 2 of the bytes is outside"),
        ({"expert_share": 0.5}, "experts: share = 0.5 is of what is not in HBM"),
        ({"streamed_share": 0.5}, "weights: share = 0.5 is of what is not in HBM"),
        ({"kv_share": 0.5}, "kv: share = 0.5 is of what is not in HBM"),
        ({"micro_sequences": -1}, "micro = -1 sequences"),
        ({"zero_copy_experts": EVERYWHERE, "streamed_experts": FIRST_TWO}, "leave out experts=stream"),
        ({"zero_copy_weights": EVERYWHERE, "streamed": FIRST_TWO}, "leave out weights=stream"),
        ({"zero_copy_weights": EVERYWHERE, "host_layers": FIRST_TWO}, "leave out layers=cpu"),
        ({"zero_copy_weights": EVERYWHERE, "host_experts": FIRST_TWO}, "leave out experts=cpu"),
        ({"zero_copy_weights": EVERYWHERE, "kv": "stream"}, "leave out kv=stream"),
        ({"zero_copy_weights": EVERYWHERE, "micro_sequences": 2}, "leave out micro"),
    ],
)
def test_placements_that_contradict_themselves_are_refused(given: dict[str, Any], told: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        Placement(**given)
    assert told in str(refused.value)


def test_a_share_of_all_is_no_share() -> None:
    assert placement_named("kv=cpu:share=1") == placement_named("kv=cpu:share=1.0") == placement_named("kv=cpu")


def test_what_a_placement_says_of_itself() -> None:
    assert [placement_named(text).streams for text in ("experts=stream", "weights=stream", "kv=stream")] == [
        True, True, False
    ]  # fmt: skip
    assert [placement_named(t).zero_copies for t in ("experts=zerocopy", "weights=zerocopy", "experts=cpu")] == [
        True, True, False
    ]  # fmt: skip
    keeps = ("experts=cpu:keep=1", "experts=cpu:share=0.5", "experts=cpu", "experts=stream:share=0.5")
    assert [placement_named(text).keeps for text in keeps] == [True, True, False, False]


def test_an_execution_passes_prompts_as_the_placement_says() -> None:
    run = replace(
        EXECUTIONS["llama_cpp"], host_computes=True, micro_batch=512, stream_tokens=32, stream_per_expert=True
    )  # fmt: skip
    assert AS_DECIDED.execution(run) == run
    assert placement_named("ubatch=0").execution(run) == replace(run, micro_batch=0)
    assert placement_named("stream=never").execution(run) == replace(run, stream_tokens=0, stream_per_expert=False)
    assert placement_named("micro=3").execution(run) == replace(run, micro_sequences=3)
    assert placement_named("experts=cpu@host=beside").execution(run) == replace(run, host_computes=False)
    assert placement_named("experts=cpu").execution(run) == run


def test_ranges_of_layers_by_hand() -> None:
    assert (range_named([], ""), range_named(["3"], ""), range_named(["1"], "")) == (
        EVERYWHERE, LayerRange(0, 2), LayerRange(0, 0)
    )  # fmt: skip
    assert (range_named(["2-3"], ""), range_named(["2-"], ""), range_named(["0-0"], "")) == (
        LayerRange(2, 3), LayerRange(2), LayerRange(0, 0)
    )  # fmt: skip
    assert layers_named(["2/8"], "") == LayerGroups(2, 8)
    assert layers_named(["2"], "") == LayerRange(0, 1)
    assert layers_named([], "") == EVERYWHERE
    with pytest.raises(InvalidInput, match="2/8:3 is neither"):
        layers_named(["2/8", "3"], "")
    with pytest.raises(InvalidInput, match="placement 'all of it': 0 layers are no placement"):
        range_named(["0"], "all of it")
    assert [list(one.of(4)) for one in (EVERYWHERE, LayerRange(2), LayerRange(1, 3), LayerRange(3, 3))] == [
        [0, 1, 2, 3], [2, 3], [1, 2, 3], [3]
    ]  # fmt: skip
    assert [str(one) for one in (EVERYWHERE, LayerRange(2), LayerRange(0, 0), LayerRange(0, 3), LayerRange(1, 3))] == [
        "", ":2-", ":1", ":4", ":1-3"
    ]  # fmt: skip
    assert str(LayerGroups(2, 8)) == ":2/8"
    assert [list(LayerGroups(n, size).of(7)) for n, size in ((1, 2), (2, 4), (1, 7))] == [[1, 3, 5], [2, 3, 6], [6]]


@pytest.mark.parametrize(
    ("layers", "told"),
    [
        (LayerRange(4), "layers from 4 on: there are 4, the last is 3"),
        (LayerRange(0, 4), "5 layers: there are 4; leave the number out for all"),
        (LayerRange(1, 4), "layers 1-4: there are 4; 1- for the rest"),
        (LayerGroups(1, 5), "layers 1/5: there are 4, of which none is named"),
    ],
)
def test_layers_that_a_decoder_has_not_are_refused(layers: LayerRange | LayerGroups, told: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        layers.of(4)
    assert str(refused.value) == told


def test_ranges_and_groups_that_are_none_are_refused() -> None:
    for first, last in ((-1, None), (2, 1), (-1, 3)):
        with pytest.raises(InvalidInput, match=f"layers {first}-{last}: the first layer is 0"):
            LayerRange(first, last)
    assert LayerRange(2, 2).of(3) == range(2, 3)
    for n, size, some in ((0, 8, 8), (8, 8, 8), (1, 1, 2), (9, 8, 8)):
        with pytest.raises(InvalidInput, match=f"layers {n}/{size}: of a group some are named, 1/{some} its last"):
            LayerGroups(n, size)
    assert LayerGroups(1, 2).of(2) == [1]


def kept(text: str, popularity: Any = None) -> list[list[int] | None]:
    found = place(MODEL, placement_named(text), popularity).kept
    return [None if one is None else sorted(one) for one in found]


def test_experts_that_stay_are_the_most_popular_of_their_layer() -> None:
    popularity = np.array([[0, 5, 1, 5, 0, 0], [9, 0, 0, 0, 0, 8], [0, 0, 0, 0, 0, 0]], float)
    assert kept("experts=cpu:keep=2", popularity) == [[1, 3], [0, 5], [0, 1]]
    assert kept("experts=cpu:keep=2:uniform", popularity) == [[0, 1]] * 3
    assert kept("experts=cpu:keep=6") == [[0, 1, 2, 3, 4, 5]] * 3
    assert kept("experts=cpu:2:keep=1", popularity) == [[1], None, None]
    assert kept("experts=cpu@layers=cpu:2", popularity) == [[], [], []]
    assert kept("layers=cpu:3", popularity) == [[], [], None]
    assert kept("kv=cpu") == [None] * 3
    many = decoder_only(n_experts=64)  # of equally popular ones the first, however many there are
    among = np.tile(np.arange(64) % 2, (3, 1)).astype(float)
    assert kept_of(many, "experts=cpu:keep=40", among)[2] == sorted([*range(1, 64, 2), *range(0, 16, 2)])


@pytest.mark.parametrize(
    ("share", "numbers"),
    [
        (0.75, [2, 1, 2]),  # 1.5 of 6 stay: 1.5, 3 and 4.5 in all, and halves are whole
        (0.9, [1, 0, 1]),  # .6, 1.2, 1.8
        (0.5, [3, 3, 3]),
        (0.95, [0, 1, 0]),  # .3, .6, .9
    ],
)
def test_a_share_keeps_whole_experts_as_near_as_can_be_over_all_layers(share: float, numbers: list[int]) -> None:
    found = place(MODEL, Placement(host_experts=EVERYWHERE, expert_share=share))
    assert [len(one) for one in found.kept if one is not None] == numbers
    assert found.n_kept == sum(numbers)


def test_a_placed_model_has_every_part_once() -> None:
    found = place(
        MODEL,
        placement_named(
            "layers=cpu:1-1@weights=stream:2:share=0.5@experts=stream:1/2:share=0.25@ahead=1@kv=cpu:share=0.75"
        ),
    )
    assert found == Placed(
        host_layers=frozenset({1}), streamed_layers=frozenset({0}), kept=(frozenset(), None, None), kv="host",
        streamed_share=0.5, kv_share=0.75, expert_share=0.25, streamed_experts=frozenset({3}), ahead=1,
    )  # fmt: skip
    zero = place(MODEL, placement_named("experts=zerocopy:3@weights=zerocopy:2"))
    assert (zero.zero_copy_experts, zero.zero_copy_weights) == ({1, 2}, {0, 1})  # the first layer has no experts


def test_experts_of_an_encoder_are_decided_by_the_policy() -> None:
    model = MODELS["encoder-decoder"]  # one MoE layer in the encoder, then three in the decoder's layers 1, 3 and 5
    popularity = np.eye(4, 5, 1)
    assert kept_of(model, "experts=cpu:4:keep=1", popularity) == [None, [2], [3], None]
    assert kept_of(model, "layers=cpu:2-3", popularity) == [None, None, [], None]


def kept_of(model: Any, text: str, popularity: Any) -> list[list[int] | None]:
    return [None if one is None else sorted(one) for one in place(model, placement_named(text), popularity).kept]


def test_what_is_plain_has_all_in_hbm_but_what_a_policy_moves() -> None:
    assert place(MODEL, AS_DECIDED).is_plain
    for text in ("layers=cpu:1-1", "weights=stream:1", "experts=stream", "kv=cpu", "kv=stream", "experts=cpu",
                 "experts=zerocopy", "weights=zerocopy:1", "layers=cpu:1"):  # fmt: skip
        assert not place(MODEL, placement_named(text)).is_plain, text
    found = place(MODEL, placement_named("experts=cpu:2:keep=4"))
    assert (found.n_decided, found.n_kept) == (2, 4)
    for text in ("experts=zerocopy", "weights=zerocopy:1"):
        assert place(MODEL, placement_named(text)).zero_copies
    assert not place(MODEL, AS_DECIDED).zero_copies


def test_a_model_refuses_what_it_has_not() -> None:
    with pytest.raises(InvalidInput, match="keep = 7 experts a layer: small-decoder has 6"):
        place(MODEL, placement_named("experts=cpu:keep=7"))
    for text in ("kv=cpu", "kv=stream"):
        with pytest.raises(InvalidInput, match="of a decoder whose layers all have one kind of attention only"):
            place(MODELS["encoder-decoder"], placement_named(text))
