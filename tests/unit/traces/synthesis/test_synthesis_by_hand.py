"""Synthetic traces of a few tokens, by hand: who runs when, what is drawn, taken over and fitted."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from compiled.machine_code import Kernel
from traces.errors import InvalidInput
from traces.phase import Phase
from traces.routing import RoutingTrace
from traces.synthesis import dials as synthesis
from traces.synthesis import filling
from traces.synthesis.dials import Dials, synthesize_routing, token_layout
from traces.synthesis.filling import filler
from traces.synthesis.forced import forced_active_routing
from traces.synthesis.layers_kernel import FILL_LAYERS, pays
from traces.synthesis.sequence_popularity import SequencePopularity, guides_of
from traces.synthesis.synthesis_kernel import FILL, fill
from traces.synthesis.taken_over import starts_of

SHAPE: dict[str, Any] = {"n_moe_layers": 3, "n_encoder_moe_layers": 0, "n_experts": 6, "top_k": 2, "input_tokens": 3,
                         "output_tokens": 3, "batch": 2}  # fmt: skip


def made(dials: Dials, *, seed: int = 0, **changes: Any) -> RoutingTrace:
    return synthesize_routing(
        **({"rng": np.random.default_rng(seed), "model_name": "toy", "dials": dials} | SHAPE | changes)
    )


@pytest.mark.parametrize(("has_encoder", "n_decode", "first"), [(False, 2, 3), (True, 3, 0)])
def test_sequences_run_side_by_side_after_a_pass_of_all_prompts(has_encoder: bool, n_decode: int, first: int) -> None:
    layout = token_layout(input_tokens=3, output_tokens=3, batch=2, has_encoder=has_encoder)
    assert layout.sequence.tolist() == [0, 0, 0, 1, 1, 1, *[0, 1] * n_decode]
    assert layout.position.tolist() == [0, 1, 2, 0, 1, 2, *np.repeat(np.arange(n_decode) + first, 2)]
    assert layout.phase.tolist() == [Phase.PREFILL] * 6 + [Phase.DECODE] * 2 * n_decode
    assert layout.step.tolist() == [0] * 6 + np.repeat(np.arange(n_decode) + 1, 2).tolist()
    types = [column.dtype for column in (layout.sequence, layout.position, layout.phase, layout.step)]
    assert types == [np.int32, np.int32, np.int8, np.int32]


@pytest.mark.parametrize("name", ["input_tokens", "output_tokens", "batch"])
def test_a_count_is_one_at_least_and_is_named(name: str) -> None:
    sizes = {"input_tokens": 1, "output_tokens": 1, "batch": 1}
    assert token_layout(**sizes, has_encoder=False).step.tolist() == [0]
    with pytest.raises(InvalidInput, match=f"^{name} = 0: it must be at least 1$"):
        token_layout(**(sizes | {name: 0}), has_encoder=False)


@pytest.mark.parametrize(("batch", "n_in", "n_out", "has_encoder"), [
    (1 << 20, 1 << 10, 1025, False), (1 << 20, 1 << 10, 1024, True), (3, 1 << 29, 1 << 29, False),
])  # fmt: skip
def test_more_tokens_than_a_number_of_32_bits_counts_are_no_trace(
    batch: int, n_in: int, n_out: int, has_encoder: bool
) -> None:
    with pytest.raises(InvalidInput, match=r"^\d+ x \(\d+ \+ \d+\) tokens are more than a trace can hold$"):
        token_layout(input_tokens=n_in, output_tokens=n_out, batch=batch, has_encoder=has_encoder)


def test_cells_are_tokens_layers_and_choices(monkeypatch: pytest.MonkeyPatch) -> None:
    n_cells = (6 + 4) * 3 * 2
    monkeypatch.setattr(synthesis, "_MAX_CELLS", n_cells)
    made(Dials(1.0, 0.1, 0.1))
    monkeypatch.setattr(synthesis, "_MAX_CELLS", n_cells - 1)
    with pytest.raises(InvalidInput, match=r"^60 routing cells, at most 59: fewer tokens, or a smaller batch$"):
        made(Dials(1.0, 0.1, 0.1))


def test_a_trace_says_that_it_is_made_up_and_by_what() -> None:
    dials = Dials(1.0, 0.1, 0.1)
    origin = made(dials).provenance
    assert (origin.model, origin.source, origin.licence) == ("toy", "synthetic", "none needed")
    assert (origin.recorder, origin.note) == ("traces.synthesis", str(dials))
    assert made(dials, origin="dials as given").provenance.note == f"dials as given: {dials}"
    assert made(dials).n_experts == 6
    shape = {**SHAPE, "top_k": 1, "input_tokens": 1, "batch": 1}
    forced = forced_active_routing(**shape, n_active=1).provenance
    assert (forced.model, forced.source, forced.licence, forced.recorder) == (
        "any", "synthetic", "none needed", "traces.forced",
    )  # fmt: skip
    assert forced.note == "exactly 1 experts active at every step and layer"


@pytest.mark.parametrize(
    ("name", "edges", "beyond"),
    [
        ("zipf_exponent", (0.0, 20.0, (0.0, 20.0, 1.0)), (-0.001, 20.001, (1.0, 21.0))),
        ("repeat_probability", (0.0, 1.0), (-0.001, 1.001)),
        ("layer_correlation", (0.0, 1.0), (-0.001, 1.001)),
        ("active_fraction", (0.001, 1.0), (0.0, 1.001, -0.001)),
        ("sequence_affinity", (0.0, 1.0), (-0.001, 1.001)),
    ],
)
def test_the_ends_of_a_dial_are_values_of_it(name: str, edges: tuple[Any, ...], beyond: tuple[Any, ...]) -> None:
    plain = Dials(1.0, 0.5, 0.5)
    assert (plain.active_fraction, plain.sequence_affinity) == (1.0, 0.0)
    for value in edges:
        assert getattr(replace(plain, **{name: value}), name) == value
    for value in beyond:
        with pytest.raises(InvalidInput, match=f"^{name} = .*it must be"):
            replace(plain, **{name: value})


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"n_moe_layers": 0}, "0 encoder MoE layers of 0: the decoder needs one"),
        ({"n_encoder_moe_layers": 3}, "3 encoder MoE layers of 3: the decoder needs one"),
        ({"n_encoder_moe_layers": -1}, "-1 encoder MoE layers of 3: the decoder needs one"),
        ({"top_k": 0}, "top_k = 0 of n_experts = 6: 1 <= top_k <= n_experts <= 32767"),
        ({"top_k": 7}, "top_k = 7 of n_experts = 6: 1 <= top_k <= n_experts <= 32767"),
        ({"n_experts": 32768}, "top_k = 2 of n_experts = 32768: 1 <= top_k <= n_experts <= 32767"),
    ],
)
def test_shapes_that_no_model_has_are_refused_by_both(changes: dict[str, int], told: str) -> None:
    for make in (
        lambda: made(Dials(1.0, 0.0, 0.0), **changes),
        lambda: forced_active_routing(**(SHAPE | changes), n_active=2),
    ):
        with pytest.raises(InvalidInput) as refused:
            make()
        assert str(refused.value) == told


def test_the_smallest_and_the_widest_model_have_traces() -> None:
    assert made(Dials(1.0, 0.0, 0.0), n_moe_layers=1, n_experts=1, top_k=1).experts.tolist() == [[[0]]] * 10
    assert forced_active_routing(**(SHAPE | {"n_moe_layers": 1, "n_experts": 1, "top_k": 1}), n_active=1).n_tokens == 10
    assert made(Dials(1.0, 0.0, 0.0), n_experts=32767).n_experts == 32767
    assert (
        forced_active_routing(**(SHAPE | {"n_experts": 32767, "batch": 1, "input_tokens": 1}), n_active=2).n_experts
        == 32767
    )
    assert made(Dials(1.0, 0.0, 0.0), n_encoder_moe_layers=2).n_steps == 4


def test_popularity_is_cumulative_by_rank_of_the_experts_that_are_active() -> None:
    found = synthesis._popularity(Dials((0.0, 1.0, 2.0), 0.0, 0.0, 0.5), 3, 5, 2)
    assert found == pytest.approx(np.array([[0, 1 / 3, 2 / 3, 1], [0, 6 / 11, 9 / 11, 1], [0, 36 / 49, 45 / 49, 1]]))
    assert synthesis._popularity(Dials(1.0, 0.0, 0.0, 0.4), 2, 5, 2) == pytest.approx(np.array([[0, 2 / 3, 1]] * 2))
    with pytest.raises(InvalidInput, match=r"^active_fraction = 0\.4 leaves 2 of 5 experts, top_k is 3$"):
        synthesis._popularity(Dials(1.0, 0.0, 0.0, 0.4), 2, 5, 3)
    with pytest.raises(InvalidInput, match=r"^2 zipf exponents for 3 MoE layers: give one, or one each$"):
        synthesis._popularity(Dials((1.0, 2.0), 0.0, 0.0), 3, 5, 2)


def test_a_trace_says_how_popular_each_expert_is_with_all_sequences() -> None:
    order = np.random.default_rng(0).permuted(np.tile(np.arange(6), (3, 1)), axis=1)
    for affinity in (0.0, 0.5):
        found = made(Dials((0.0, 1.0, 2.0), 0.2, 0.2, 0.5, affinity)).popularity
        assert found is not None
        for layer, by_rank in enumerate(([1 / 3] * 3, [6 / 11, 3 / 11, 2 / 11], [36 / 49, 9 / 49, 4 / 49])):
            wanted = np.zeros(6)
            wanted[order[layer, :3]] = by_rank
            assert found[layer] == pytest.approx(wanted)
    shares = np.array([[0.2, 0.5, 0.3], [0.5, 0.0, 0.5], [0.1, 0.1, 0.8]])
    assert made(Dials(1.0, 0.0, 0.0), n_experts=3, shares=shares).popularity == pytest.approx(shares, abs=1e-8)


def test_a_search_for_a_draw_begins_at_the_rank_of_its_eighth() -> None:
    """Of three experts: a power of two cells, more than twice as many; the last number is of the last rank."""
    guides = guides_of(np.array([[0.0, 0.25, 0.5, 1.0], [0.0, 0.1, 0.9, 1.0]]))
    assert guides.tolist() == [[0, 0, 1, 1, 2, 2, 2, 2, 2], [0, 1, 1, 1, 1, 1, 1, 1, 2]]
    assert guides.dtype == np.int16
    assert guides_of(np.array([[0.0, 1.0]])).tolist() == [[0] * 5]
    assert guides_of(np.linspace(0, 1, 5)[None]).shape == (1, 17)


def test_a_profile_ranks_its_experts_and_leaves_none_impossible() -> None:
    shares = np.array([[0.2, 0.5, 0.3], [0.5, 0.0, 0.5]])
    popularity, by_rank = synthesis._ranked(shares, (2, 3), Dials(1.0, 0.0, 0.0))
    assert by_rank.tolist() == [[1, 2, 0], [0, 2, 1]]  # equal shares: the lower number first
    assert by_rank.dtype == np.int16
    assert popularity == pytest.approx(np.array([[0, 0.5, 0.8, 1], [0, 0.5, 1.0, 1]]), abs=2e-9)
    many = np.tile([0.25, 0.75], 500)
    _, order = synthesis._ranked(np.stack([many / many.sum()] * 2), (2, 1000), Dials(1.0, 0.0, 0.0))
    assert order.tolist() == [[*range(1, 1000, 2), *range(0, 1000, 2)]] * 2
    assert 1 - popularity[1, 2] == pytest.approx(1e-9 / 3 / (1 + 1e-9), rel=1e-6)
    with pytest.raises(InvalidInput, match=r"^popularity of \(2, 3\) MoE layers and experts, the model has \(3, 6\)$"):
        made(Dials(1.0, 0.0, 0.0), shares=shares)
    with pytest.raises(InvalidInput, match="say which experts are used: leave out one"):
        synthesis._ranked(shares, (2, 3), Dials(1.0, 0.0, 0.0, 0.9))


def test_who_has_a_profile_draws_by_it_whatever_the_exponents() -> None:
    shares = np.tile([0.0, 0.0, 0.5, 0.0, 0.5, 0.0], (3, 1))
    trace = made(Dials(3.0, 0.2, 0.2), shares=shares, output_tokens=40)
    assert set(np.unique(trace.experts).tolist()) == {2, 4}


def test_experts_of_ranks_are_random_in_each_layer_and_certain_ones_follow_rank_by_rank() -> None:
    """With a draw that is next to certain the first two ranks are chosen; the map takes a rank to the same rank."""
    trace = made(Dials(20.0, 0.0, 0.0), n_moe_layers=8, top_k=1)
    first = trace.experts[0, :, 0]
    assert (trace.experts[:, :, 0] == first).all()
    assert len(set(first.tolist())) > 1
    order = np.random.default_rng(0).permuted(np.tile(np.arange(6), (8, 1)), axis=1)
    assert first.tolist() == order[:, 0].tolist()


@pytest.mark.parametrize(
    "dials",
    [
        Dials(0.7, 0.0, 0.0), Dials(0.7, 0.4, 0.0), Dials(0.7, 1.0, 0.0), Dials(0.7, 0.4, 0.0, sequence_affinity=0.8),
    ],
)  # fmt: skip
def test_one_expert_a_token_without_a_loop_is_what_the_loop_chooses(
    dials: Dials, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = made(dials, top_k=1, output_tokens=30)
    asked: list[int] = []

    def loop(n_cells: int) -> Any:
        asked.append(n_cells)
        return fill

    monkeypatch.setattr(filling, "filler", loop)
    assert made(dials, top_k=1, output_tokens=30).digest == whole.digest
    assert not asked
    monkeypatch.setattr(filling, "_CHUNK_DRAWS", 100)
    assert made(dials, top_k=1, output_tokens=30).digest == whole.digest
    assert asked == [64 * 3]
    monkeypatch.setattr(filling, "_CHUNK_DRAWS", 32 * 3 * 2)  # for all tokens of a sequence, just
    assert made(dials, top_k=1, output_tokens=30).digest == whole.digest
    assert asked == [64 * 3]


@pytest.mark.parametrize(
    ("top_k", "dials"),
    [(2, Dials(0.7, 0.2, 0.0)), (1, Dials(0.7, 0.2, 0.1)), (2, Dials(0.7, 0.2, 0.0, sequence_affinity=0.1))],
)
def test_everything_else_takes_the_loop(top_k: int, dials: Dials, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def loop(n_cells: int) -> Any:
        asked.append(n_cells)
        return fill

    monkeypatch.setattr(filling, "filler", loop)
    made(dials, top_k=top_k)
    assert asked == [10 * 3 * top_k]


def test_random_numbers_are_drawn_two_a_choice_and_so_many_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two sequences, each with three tokens of a prompt and two after it."""
    sizes: list[tuple[int, ...]] = []

    def watched(part: Any, drawn: Any, *rest: Any) -> None:
        sizes.append(drawn.shape)
        fill(part, drawn, *rest)

    monkeypatch.setattr(filling, "filler", lambda _: watched)
    monkeypatch.setattr(filling, "_CHUNK_DRAWS", 24)  # two tokens of three layers and two choices
    made(Dials(0.7, 0.2, 0.1))
    assert sizes == [(2, 3, 2, 2), (1, 3, 2, 2), (2, 3, 2, 2)] * 2
    sizes.clear()
    monkeypatch.setattr(filling, "_CHUNK_DRAWS", 11)  # less than a token needs
    made(Dials(0.7, 0.2, 0.1))
    assert sizes == [(1, 3, 2, 2)] * 10
    rng, other = np.random.default_rng(0), np.random.default_rng(0)
    made(Dials(0.7, 0.2, 0.1), rng=rng)
    other.permuted(np.tile(np.arange(6, dtype=np.int16), (3, 1)), axis=1)
    other.integers(1 << 63)
    assert rng.random() == other.random()


def test_a_sequence_is_the_same_whatever_runs_beside_it_and_after_it() -> None:
    dials = Dials(0.7, 0.2, 0.1, sequence_affinity=0.6)
    few, many = made(dials), made(dials, batch=7, output_tokens=20)
    for i in range(2):
        own = few.experts[few.sequence == i]
        assert np.array_equal(own, many.experts[many.sequence == i][: len(own)])
    assert not np.array_equal(few.experts[few.sequence == 0], few.experts[few.sequence == 1])


@pytest.mark.parametrize(("kept", "size", "is_compiled"), [(False, 100, False), (False, 101, True), (True, 1, True)])
def test_small_traces_are_filled_in_python_unless_machine_code_is_kept(
    kept: bool, size: int, is_compiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def of(kernel: Kernel) -> bool:
        assert kernel is FILL
        return kept

    monkeypatch.setattr(filling, "are_kept", of)
    monkeypatch.setattr(filling, "loaded", lambda kernel: ("code of", kernel))
    monkeypatch.setattr(filling, "_SMALL_CELLS", 100)
    assert filler(size) == (("code of", FILL) if is_compiled else fill)


@pytest.mark.parametrize(
    ("changes", "more", "kept", "n_tokens", "at_once"),
    [
        ({}, 0, True, 4, True),
        ({}, 0, True, 3, False),  # as few cells as plain Python fills
        ({}, 1, True, 4, False),
        ({"layer_correlation": 0.1}, 0, True, 4, False),
        ({}, 0, False, 10, False),
        ({}, 0, False, 11, True),
    ],
)
def test_layers_that_know_nothing_of_one_another_are_filled_at_once_where_that_is_quicker(
    changes: dict[str, float], more: int, kept: bool, n_tokens: int, at_once: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`more`: experts than the most for which it is quicker."""

    def of(kernel: Kernel) -> bool:
        assert kernel is FILL_LAYERS
        return kept

    monkeypatch.setattr(filling, "are_kept", of)
    monkeypatch.setattr(filling, "_SMALL_CELLS", 3 * 16 * 2)
    monkeypatch.setattr(filling, "_MANY_CELLS", 10 * 16 * 2)
    n_active = more + max(n for n in range(1, 200) if pays(16, 2, n))
    experts, popularity = np.zeros((n_tokens, 16, 2), np.int16), np.zeros((16, n_active + 1))
    chances = 0.1, changes.get("layer_correlation", 0.0)
    assert filling._may_take_all_layers(experts, popularity, chances) is at_once


def test_the_quicker_loop_is_for_several_choices_of_few_experts_in_layers_that_fill_vectors() -> None:
    assert pays(16, 2, 24, 8)
    assert not pays(16, 2, 25, 8)
    assert not pays(16, 1, 24, 8)
    assert pays(15, 2, 22, 8)  # two vectors of layers, one of them not full
    assert not pays(15, 2, 23, 8)


@pytest.mark.parametrize("n_layers", [1, 7, 32, 33, 70])
def test_all_layers_at_once_go_on_from_what_was_taken_over(n_layers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    exponents = tuple(np.linspace(0.0, 2.0, n_layers).tolist())
    shape = {"n_moe_layers": n_layers, "n_experts": 9, "top_k": 3}
    plain = {n: made(Dials(exponents, 0.6, 0.0), **shape, output_tokens=n) for n in (2, 9)}
    monkeypatch.setattr(filling, "_may_take_all_layers", lambda *_: True)
    monkeypatch.setattr(filling, "_token_by_token", None)
    for begun in ((), (plain[2],)):
        found = made(Dials(exponents, 0.6, 0.0), **shape, output_tokens=9, begun=begun)
        assert np.array_equal(found.experts, plain[9].experts)


@pytest.mark.parametrize("p_repeat", [0.0, 0.3, 0.31])
def test_a_draw_on_an_edge_is_of_the_rank_above_and_one_at_the_chance_of_a_repeat_is_none(p_repeat: float) -> None:
    """And a token that follows those that are known repeats the last of them, where the first has nothing to repeat."""
    names, none = np.array([[2, 0, 1]], np.int16), np.zeros((0, 1, 1), np.int16)
    draws = np.array([[0.0, 0.5], [0.3, 0.25], [0.3, 0.0]]).reshape(3, 1, 1, 2)
    edges = np.array([[0.0, 0.25, 0.5, 1.0]])
    ranks = {0.0: [2, 1, 0], 0.3: [2, 1, 0], 0.31: [2, 2, 2]}[p_repeat]
    later = {0.0: [2, 1, 0], 0.3: [0, 1, 0], 0.31: [0, 0, 0]}[p_repeat]
    for begin in (
        filling._alone(names, (p_repeat, 0.0)),
        filling._token_by_token(np.zeros((3, 1, 1), np.int16), edges, names, (p_repeat, 0.0)),
        filling._all_layers(np.zeros((3, 1, 1), np.int16), edges, names, (p_repeat, 0.0)),
    ):
        for known, wanted in ((none, ranks), (np.full((1, 1, 1), 2, np.int16), later)):
            for cuts in ((0, 3), (0, 1, 3)):
                found, go_on = np.full((3, 1, 1), -1, np.int16), begin(edges, known)
                for start, stop in pairwise(cuts):
                    go_on(found[start:stop], draws[start:stop])
                assert found[:, 0, 0].tolist() == names[0, wanted].tolist()


def test_each_sequence_starts_as_where_it_is_longest() -> None:
    dials = Dials(1.0, 0.1, 0.1)
    wide, long = made(dials, batch=4, input_tokens=1), made(dials, batch=2, input_tokens=2, output_tokens=9)
    assert starts_of((), 3) == []
    for begun in ((wide, long), (long, wide)):
        starts = starts_of(begun, 3)
        assert len(starts) == 3
        for i, trace in enumerate((long, long, wide)):
            assert np.array_equal(starts[i], trace.experts[trace.sequence == i])
    assert len(starts_of((wide,), 9)) == 4
    assert len(starts_of((wide,), 1)) == 1


def test_of_a_sequence_that_is_known_as_far_as_asked_nothing_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    dials = Dials(1.0, 0.3, 0.2, sequence_affinity=0.4)
    long, short = made(dials, batch=3, input_tokens=4, output_tokens=9), made(dials, input_tokens=4)
    monkeypatch.setattr(filling, "filler", lambda _: None)
    monkeypatch.setattr(SequencePopularity, "drawn", None)
    for begun in (long, short):
        assert made(dials, input_tokens=4, begun=[begun]).digest == short.digest


@pytest.mark.parametrize(("affinity", "n_made"), [(0.0, 1), (0.5, 1 + 2)])
def test_sequences_that_share_a_popularity_share_where_searches_begin(
    affinity: float, n_made: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    made_of: list[Any] = []

    def watched(popularity: Any) -> Any:
        made_of.append(popularity)
        return guides_of(popularity)

    monkeypatch.setattr(filling, "guides_of", watched)
    made(Dials(1.0, 0.3, 0.2, sequence_affinity=affinity))
    assert len(made_of) == n_made


def test_choices_go_round_the_active_experts() -> None:
    trace = forced_active_routing(**(SHAPE | {"input_tokens": 2}), n_active=3)
    assert trace.experts[:, 0].tolist() == [[0, 1], [2, 0], [1, 2], [0, 1], [0, 1], [2, 0], [0, 1], [2, 0]]
    assert (trace.experts == trace.experts[:, :1]).all()
    dealt = forced_active_routing(**(SHAPE | {"input_tokens": 2}), n_active=3, rng=np.random.default_rng(0))
    order = np.random.default_rng(0).permuted(np.tile(np.arange(4), (3, 1)), axis=1)
    plain = np.array([[0, 1], [2, 0], [1, 2], [0, 1]])
    assert dealt.experts[:4].tolist() == [[plain[order[layer, t]].tolist() for layer in range(3)] for t in range(4)]


@pytest.mark.parametrize("n_encoder", [0, 1])
def test_forced_tokens_run_as_those_of_any_synthetic_trace(n_encoder: int) -> None:
    for output_tokens in (1, 2, 3):
        shape = SHAPE | {"n_encoder_moe_layers": n_encoder, "output_tokens": output_tokens}
        forced, any_other = forced_active_routing(**shape, n_active=3), made(Dials(1.0, 0.0, 0.0), **shape)
        for name in ("sequence", "position", "phase", "step"):
            assert getattr(forced, name).tolist() == getattr(any_other, name).tolist()
        assert ((forced.experts >= 0) == (any_other.experts >= 0)).all()
        assert forced.experts.dtype == any_other.experts.dtype == np.int16


@pytest.mark.parametrize(
    ("n_active", "told"),
    [
        (1, "n_active = 1: it must be top_k = 2 to n_experts = 6"),
        (7, "n_active = 7: it must be top_k = 2 to n_experts = 6"),
        (5, "n_active = 5, but a step of batch 2 x top_k 2 makes 4 choices: a batch of 3 is enough"),
        (6, "n_active = 6, but a step of batch 2 x top_k 2 makes 4 choices: a batch of 3 is enough"),
    ],
)
def test_a_number_of_active_experts_that_no_step_can_have_is_refused(n_active: int, told: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        forced_active_routing(**SHAPE, n_active=n_active)
    assert str(refused.value) == told
    for possible in (2, 4):
        assert len(np.unique(forced_active_routing(**SHAPE, n_active=possible).experts)) == possible
    assert len(np.unique(forced_active_routing(**(SHAPE | {"batch": 3}), n_active=6).experts)) == 6
