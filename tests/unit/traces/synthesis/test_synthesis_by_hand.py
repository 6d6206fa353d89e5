"""Synthetic traces of a few tokens, by hand: who runs when, what dials may be, how popular experts are."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tests.unit.traces.synthesis.toy_traces import SHAPE, made
from traces.errors import InvalidInput
from traces.phase import Phase
from traces.synthesis import dials as synthesis
from traces.synthesis.dials import Dials, token_layout
from traces.synthesis.forced import forced_active_routing


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
    with pytest.raises(
        InvalidInput, match=r"^active_fraction = 0\.4 leaves 2 of 5 experts, top_k is 3: give 0\.6 or more$"
    ):
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
