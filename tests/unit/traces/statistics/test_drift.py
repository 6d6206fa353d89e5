"""Drift of routing: exact where it can be counted, calibrated on resampled sequences, and found where it is."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest

from traces.errors import InvalidInput
from traces.phase import Phase
from traces.routing import Provenance, RoutingTrace
from traces.statistics.drift import drift_between, energy_distances, hellinger_distance, mean_shift
from traces.statistics.permutation import unit_counts

MADE = Provenance("any", "synthetic")


def routed(rng: np.random.Generator, n_sequences: int, shares: np.ndarray, *, n_tokens: int = 40) -> RoutingTrace:
    """Sequences of one decode token a step; each favours experts of its own, as real ones do."""
    n_layers, n_experts = shares.shape
    experts = np.empty((n_sequences * n_tokens, n_layers, 1), dtype=np.int16)
    for i in range(n_sequences):
        for layer in range(n_layers):
            own = rng.dirichlet(30 * shares[layer])
            drawn = rng.choice(n_experts, n_tokens, p=own)
            experts[i * n_tokens : (i + 1) * n_tokens, layer, 0] = drawn
    sequence = np.repeat(np.arange(n_sequences, dtype=np.int32), n_tokens)
    return RoutingTrace(
        experts=experts,
        sequence=sequence,
        position=np.tile(np.arange(n_tokens, dtype=np.int32), n_sequences),
        phase=np.full(len(experts), Phase.DECODE, dtype=np.int8),
        step=np.arange(len(experts), dtype=np.int32),
        n_experts=n_experts,
        provenance=MADE,
    )


SHARES = np.array([[0.4, 0.3, 0.1, 0.1, 0.05, 0.05], [0.3, 0.25, 0.15, 0.1, 0.1, 0.1]])


def test_distances_by_hand() -> None:
    one, other = np.array([[3.0, 1.0], [2.0, 0.0], [5.0, 0.0]]), np.array([[3.0, 1.0], [0.0, 7.0], [1.0, 1.0]])
    expected = [0.0, 1.0, np.sqrt(1 - np.sqrt(0.5))]
    np.testing.assert_allclose(hellinger_distance(one, other), expected, atol=1e-7)


def test_the_energy_distance_is_the_mean_of_pairs() -> None:
    units = np.random.default_rng(0).integers(1, 9, (5, 2, 4)).astype(float)
    drawn = np.array([[0.0, 0, 1, 1, 1]])

    def mean(one: list[int], other: list[int]) -> float:
        pairs = [hellinger_distance(units[i], units[j]).mean() for i, j in itertools.product(one, other)]
        return float(np.mean(pairs))

    here, there = [2, 3, 4], [0, 1]
    expected = 2 * mean(here, there) - mean(here, here) - mean(there, there)
    assert energy_distances(units, drawn)[0] == pytest.approx(expected, abs=1e-6)


def test_alarms_are_as_many_as_stated_where_nothing_moved() -> None:
    """400 pairs of windows of the same traffic, each held to 10 %: 40 alarms, 23 to 60 in all but 1 of 300 cases."""
    rng = np.random.default_rng(1)
    alarms = 0
    for i in range(400):
        here, there = routed(rng, 6, SHARES, n_tokens=20), routed(rng, 7, SHARES, n_tokens=20)
        alarms += drift_between(here, there, n_permutations=99, seed=i).p_value <= 0.1
    assert 23 <= alarms <= 60


def test_what_moved_is_found_and_which_experts() -> None:
    rng = np.random.default_rng(2)
    moved = SHARES.copy()
    moved[0] = [0.05, 0.3, 0.1, 0.1, 0.05, 0.4]
    found = drift_between(routed(rng, 20, SHARES), routed(rng, 20, moved))
    assert found.p_value == pytest.approx(1 / 1000)
    assert found.distance > 2 * found.by_chance
    assert found.by_layer[0] > 3 * found.by_layer[1]
    assert [(one.layer, one.expert) for one in found.colder] == [(0, 0)]
    assert [(one.layer, one.expert) for one in found.hotter] == [(0, 5)]
    assert found.hotter[0].reference_share < 0.15 < 0.3 < found.hotter[0].observed_share


def test_the_same_window_twice_is_as_near_as_can_be() -> None:
    trace = routed(np.random.default_rng(3), 8, SHARES)
    found = drift_between(trace, trace)
    assert found.distance == pytest.approx(0.0, abs=1e-7)
    assert found.p_value > 0.5
    assert not found.colder
    assert not found.hotter


def test_one_sequence_is_cut_into_blocks_and_says_so() -> None:
    trace = routed(np.random.default_rng(4), 1, SHARES, n_tokens=640)
    found = drift_between(trace, trace)
    assert not found.by_sequence
    assert (found.n_reference, found.n_observed) == (10, 10)


def test_more_sequences_than_are_told_apart_are_counted_together() -> None:
    trace = routed(np.random.default_rng(5), 600, SHARES, n_tokens=2)
    counts = unit_counts(trace, [0, 1], by_sequence=True)
    assert counts.shape == (250, 2, 6)
    assert counts.sum() == 600 * 2 * 2


def test_a_shift_of_a_mean() -> None:
    rng = np.random.default_rng(6)
    here, there = routed(rng, 12, SHARES), routed(rng, 12, SHARES)
    values, more = rng.normal(0.5, 0.1, here.n_tokens), rng.normal(0.6, 0.1, there.n_tokens)
    values[0] = np.nan
    found = mean_shift(here, there, values, more)
    assert found.reference == pytest.approx(np.nanmean(values))
    assert found.observed == pytest.approx(more.mean())
    assert found.p_value < 0.01
    assert mean_shift(here, here, values, values).p_value > 0.5


def test_what_makes_no_test_is_refused() -> None:
    rng = np.random.default_rng(7)
    trace, short = routed(rng, 6, SHARES), routed(rng, 1, SHARES, n_tokens=30)
    with pytest.raises(InvalidInput, match="the trace has 30 decode tokens of 1 sequences: record 5 sequences"):
        drift_between(trace, short)
    with pytest.raises(InvalidInput, match="2 MoE layers x 6 experts, the trace of 1 x 6"):
        drift_between(trace, dataclasses.replace(trace, experts=trace.experts[:, :1]))
    with pytest.raises(InvalidInput, match="n_permutations = 0"):
        drift_between(trace, trace, n_permutations=0)
    with pytest.raises(InvalidInput, match=r"alpha = 1\.5"):
        drift_between(trace, trace, alpha=1.5)
