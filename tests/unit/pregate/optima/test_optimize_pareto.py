"""The Pareto front: what no other point beats, held against every pair of points."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from pregate.optima.pareto import pareto_front

COSTS = st.integers(1, 4).flatmap(
    lambda d: st.integers(0, 40).flatmap(
        lambda n: arrays(np.float64, (n, d), elements=st.integers(-3, 3).map(float) | st.floats(-1e300, 1e300))
    )
)
"""Small numbers too, so that many are equal."""


def dominated(costs: NDArray[np.float64], i: int) -> bool:
    return any(np.all(other <= costs[i]) and np.any(other < costs[i]) for other in costs)


@given(COSTS)
def test_the_front_is_what_no_point_dominates_one_of_each_equal(costs: NDArray[np.float64]) -> None:
    unbeaten = [i for i in range(len(costs)) if not dominated(costs, i)]
    first_of_equals = {tuple(costs[i].tolist()): i for i in reversed(unbeaten)}
    assert sorted(pareto_front(costs).tolist()) == sorted(first_of_equals.values())


@given(COSTS)
def test_the_front_ascends_from_the_best_of_the_first_cost(costs: NDArray[np.float64]) -> None:
    front = [tuple(row) for row in costs[pareto_front(costs)].tolist()]
    assert front == sorted(front)


@pytest.mark.parametrize("n_objectives", [2, 3])
def test_a_hundred_thousand_points_are_judged(n_objectives: int) -> None:
    """Too many for every pair: each point is on the front, or something on the front dominates it."""
    costs = np.random.default_rng(0).random((100_000, n_objectives))
    front = costs[pareto_front(costs)]
    beaten = np.zeros(len(costs), dtype=bool)
    for point in front:
        beaten |= np.all(point <= costs, axis=1) & np.any(point < costs, axis=1)
    assert len(front) + beaten.sum() == len(costs)
