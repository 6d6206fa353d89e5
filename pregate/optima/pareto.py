"""What no other point beats: the Pareto front of points whose every cost is to be small. No machine is known here."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def pareto_front(costs: NDArray[np.float64]) -> NDArray[np.int64]:
    """Rows of `costs` (n, n_objectives) that no row dominates: none is at most as much everywhere and less somewhere.

    Ascending by the first cost, then the second, ...; of equal rows only the first. No row may have a NaN. One cost
    and two take O(n log n) (Kung, Luccio and Preparata, JACM 22(4), 1975), more take O(n x rows of the front).
    """
    order = np.lexsort(costs.T[::-1])  # stable: of equal rows the first stays the first, and is the one that is found
    ascending = costs[order]
    if ascending.shape[1] == 1:
        return order[:1]
    if ascending.shape[1] == 2:
        second = ascending[:, 1]
        return order[second < np.concatenate([[np.inf], np.minimum.accumulate(second)[:-1]])]
    return order[_unbeaten(ascending)]


def _unbeaten(ascending: NDArray[np.float64]) -> NDArray[np.int64]:
    """Of rows in lexicographic order, of equal ones the first. What dominates a row comes before it: the first one left
    is unbeaten.
    """
    left = np.arange(len(ascending))
    found = []
    while left.size:
        found.append(left[0])
        left = left[np.any(ascending[left] < ascending[left[0]], axis=1)]
    return np.array(found, dtype=np.int64)
