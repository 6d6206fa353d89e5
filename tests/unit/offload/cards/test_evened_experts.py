"""Experts spread over cards by how much each serves, counted by hand."""

from __future__ import annotations

import numpy as np
import pytest

from offload.cards.evened_experts import evened_experts, served_by_held
from offload.placing.placement_clauses import placement_named
from traces.errors import InvalidInput

LOAD = np.array([[8.0, 1.0, 1.0, 2.0]])


def test_the_next_expert_of_most_load_goes_where_there_is_least() -> None:
    """8 to the first; 2 and 1 to the second, which is full then; the last 1 to the first."""
    assert evened_experts(LOAD, 2, 0) == ((0, 2, 3, 1),)


def test_what_serves_most_has_replicas() -> None:
    """Expert 0 twice more, a third of 8 each: one to either card, the third to the first; then 2 and 1, and 1."""
    assert evened_experts(LOAD, 2, 2) == ((0, 0, 2, 0, 3, 1),)


def test_replicas_share_the_tokens_of_an_expert() -> None:
    counts = np.array([[7, 0, 3, 1], [1, 5, 0, 0]])
    held = np.array([[0, 0, 2, 0, 3, 1]] * 2)
    assert served_by_held(counts, held).tolist() == [[3, 2, 3, 2, 1, 0], [1, 0, 0, 0, 0, 5]]


def test_single_tokens_are_spread_over_the_replicas_too() -> None:
    """Two replicas of each of four experts, on a card each: what has one token alternates between the cards."""
    counts, held = np.array([[1, 1, 1, 1], [0, 1, 0, 1]]), np.array([[0, 1, 2, 3, 0, 1, 2, 3]] * 2)
    assert served_by_held(counts, held).tolist() == [[1, 0, 1, 0, 0, 1, 0, 1], [0, 1, 0, 0, 0, 0, 0, 1]]


def test_each_layer_has_places_of_its_own() -> None:
    held = np.array(evened_experts(np.array([[1.0, 9.0], [9.0, 1.0]]), 2, 2))
    assert held.tolist() == [[1, 1, 1, 0], [0, 0, 0, 1]]
    assert served_by_held(np.array([[4, 9], [9, 4]]), held).tolist() == [[3, 3, 3, 4], [3, 3, 3, 4]]


@pytest.mark.parametrize(("n_groups", "n_redundant"), [(3, 0), (2, 1)])
def test_numbers_that_cards_do_not_share_evenly_are_refused(n_groups: int, n_redundant: int) -> None:
    told = f"redundant={n_redundant}: {n_groups} groups of cards do not share 4 experts and {n_redundant} replicas"
    with pytest.raises(InvalidInput, match=told):
        evened_experts(LOAD, n_groups, n_redundant)


@pytest.mark.parametrize("n_redundant", [6, -4])
def test_more_replicas_than_experts_or_fewer_than_none_are_refused(n_redundant: int) -> None:
    with pytest.raises(InvalidInput, match=f"redundant={n_redundant}: 4 experts have 0 to 4 replicas"):
        evened_experts(LOAD, 2, n_redundant)


def test_replicas_are_of_whole_experts() -> None:
    placement = placement_named("redundant=16@experts=whole")
    assert (placement.redundant, str(placement)) == (16, "experts=whole@redundant=16")
    assert placement.goes_by_popularity
    with pytest.raises(InvalidInput, match="say experts=whole too"):
        placement_named("redundant=16")
