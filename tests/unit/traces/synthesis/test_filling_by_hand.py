"""How traces of a few tokens are filled: which loop, what it draws, what is taken over."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from compiled.machine_code import Kernel
from tests.unit.traces.synthesis.toy_traces import made
from traces.synthesis import filling
from traces.synthesis.dials import Dials
from traces.synthesis.filling import FILL_MANY, load_if_it_pays
from traces.synthesis.layers_kernel import FILL_LAYERS, pays
from traces.synthesis.sequence_popularity import SequencePopularity, guides_of
from traces.synthesis.sequence_starts import starts_of
from traces.synthesis.synthesis_kernel import fill


def test_a_search_for_a_draw_begins_at_the_rank_of_its_eighth() -> None:
    """Of three experts: a power of two cells, more than twice as many; the last number is of the last rank."""
    guides = guides_of(np.array([[0.0, 0.25, 0.5, 1.0], [0.0, 0.1, 0.9, 1.0]]))
    assert guides.tolist() == [[0, 0, 1, 1, 2, 2, 2, 2, 2], [0, 1, 1, 1, 1, 1, 1, 1, 2]]
    assert guides.dtype == np.int16
    assert guides_of(np.array([[0.0, 1.0]])).tolist() == [[0] * 5]
    assert guides_of(np.linspace(0, 1, 5)[None]).shape == (1, 17)


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

    def plain(n_cells: int) -> bool:
        asked.append(n_cells)
        return False

    monkeypatch.setattr(filling, "load_if_it_pays", plain)
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
    monkeypatch.setattr(filling, "load_if_it_pays", asked.append)
    made(dials, top_k=top_k)
    assert asked == [10 * 3 * top_k]


def test_random_numbers_are_drawn_two_a_choice_and_so_many_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two sequences, each with three tokens of a prompt and two after it."""
    sizes: list[tuple[int, ...]] = []

    def watched(part: Any, drawn: Any, *rest: Any) -> None:
        sizes.append(drawn.shape)
        fill(part, drawn, *rest)

    monkeypatch.setattr(filling, "load_if_it_pays", lambda _: False)
    monkeypatch.setattr(filling, "fill", watched)
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


@pytest.mark.parametrize(("kept", "size", "compiled"), [(False, 100, False), (False, 101, True), (True, 1, True)])
def test_small_traces_are_filled_in_python_unless_machine_code_is_kept(
    kept: bool, size: int, compiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Kernel] = []

    def pays(n_cells: int, kernel: Kernel, *, compile_above: int, load_above: int) -> bool:
        assert kernel is FILL_MANY
        return n_cells > (load_above if kept else compile_above)

    monkeypatch.setattr(filling, "machine_code_pays", pays)
    monkeypatch.setattr(filling, "loaded", asked.append)
    monkeypatch.setattr(filling, "_SMALL_CELLS", 100)
    assert load_if_it_pays(size) is compiled
    assert asked == [FILL_MANY] * compiled


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

    def machine_code_pays(n_cells: int, kernel: Kernel, *, compile_above: int, load_above: int) -> bool:
        assert kernel is FILL_LAYERS
        return n_cells > (load_above if kept else compile_above)

    monkeypatch.setattr(filling, "machine_code_pays", machine_code_pays)
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
        filling._many_experts(np.zeros((3, 1, 1), np.int16), edges, names, (p_repeat, 0.0)),
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
            experts, tokens = starts[i]
            assert np.array_equal(experts[tokens], trace.experts[trace.sequence == i])
    assert len(starts_of((wide,), 9)) == 4
    assert len(starts_of((wide,), 1)) == 1


def test_of_a_sequence_that_is_known_as_far_as_asked_nothing_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    dials = Dials(1.0, 0.3, 0.2, sequence_affinity=0.4)
    long, short = made(dials, batch=3, input_tokens=4, output_tokens=9), made(dials, input_tokens=4)
    monkeypatch.setattr(filling, "load_if_it_pays", lambda _: False)
    monkeypatch.setattr(filling, "fill", None)
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
