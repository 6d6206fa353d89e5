"""The points of a sweep: every combination of a grid's values, or the draws of a sample.

Each point is a pair of rows: one of the structural choices (what may change a decision), one of the prices (numbers of
the machine that change no decision). However many points share a structural row, it is planned once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pregate.sweeps.axes import Axis
from traces.errors import InvalidInput

MAX_EVALUATIONS = 50_000_000
"""Most points x policies of one sweep: their results alone take about 8 GB."""


@dataclass(frozen=True, slots=True, eq=False)
class Points:
    """`n` points in the order of the flattened dimensions.

    `dims`, `shape`: of the dataset, policies not counted. `choices`: (n_choices, n_structural) int64, rows of indices
    into the values of the `structural` axes; `i_choice`: (n,) the row of each point. `prices`: figure keys ->
    (n_prices,) float64; `i_price`: (n,) the row of each point.
    """

    axes: tuple[Axis, ...]
    dims: tuple[str, ...]
    shape: tuple[int, ...]
    structural: tuple[Axis, ...]
    choices: NDArray[np.int64]
    i_choice: NDArray[np.int64]
    prices: Mapping[str, NDArray[np.float64]]
    n_prices: int
    i_price: NDArray[np.int64]

    @property
    def n(self) -> int:
        """Points."""
        return int(self.i_choice.size)

    def choice(self, row: int) -> dict[str, Any]:
        """A structural row as values by axis key, plain Python."""
        return {axis.key: axis.value(int(i)) for axis, i in zip(self.structural, self.choices[row], strict=True)}


def grid_points(axes: Sequence[Axis], n_policies: int, *, asks_machine: bool = False) -> Points:
    """Every combination. `asks_machine`: a policy decides by numbers of the machine, so that none of them only prices.

    Raises `InvalidInput` for more than `MAX_EVALUATIONS` with the policies.
    """
    shape = tuple(len(axis.values) for axis in axes)
    _check_size(math.prod(shape), n_policies, " x ".join(f"{len(axis.values)} {axis.name}" for axis in axes))
    price = () if asks_machine else tuple(axis for axis in axes if axis.is_price_only)
    structural = tuple(axis for axis in axes if axis not in price)
    choices = _combinations([len(axis.values) for axis in structural])
    prices = _combinations([len(axis.values) for axis in price])
    return Points(
        tuple(axes), tuple(axis.name for axis in axes), shape, structural, choices,
        _flat_index(axes, structural), {axis.key: axis.values[prices[:, i]] for i, axis in enumerate(price)},
        len(prices), _flat_index(axes, price),
    )  # fmt: skip


def sample_points(axes: Sequence[Axis], n: int, n_policies: int, *, asks_machine: bool = False) -> Points:
    """Point i has value i of every axis. Arguments and errors as of `grid_points`."""
    _check_size(n, n_policies, f"a sample of {n}")
    price = () if asks_machine else tuple(axis for axis in axes if axis.is_price_only)
    structural = tuple(axis for axis in axes if axis not in price)
    codes = np.zeros((n, len(structural)), dtype=np.int64)
    unique: list[Axis] = []
    for i, axis in enumerate(structural):
        values, codes[:, i] = np.unique(axis.values, return_inverse=True)
        unique.append(Axis(axis.name, axis.key, values, axis.unit))
    choices, i_choice = codes[:1], np.zeros(n, dtype=np.int64)
    if structural:
        choices, i_choice = np.unique(codes, axis=0, return_inverse=True)
    prices = {axis.key: axis.values for axis in price}
    rows = np.arange(n) if prices else np.zeros(n, dtype=np.int64)
    return Points(
        tuple(axes), ("sample",), (n,), tuple(unique), choices, i_choice.reshape(n), prices, n if prices else 1, rows
    )


def _check_size(n_points: int, n_policies: int, what: str) -> None:
    if n_points * n_policies > MAX_EVALUATIONS:
        raise InvalidInput(
            f"{what or 'one point'} x {n_policies} policies are {n_points * n_policies:,} evaluations, at most "
            f"{MAX_EVALUATIONS:,}: give an axis fewer values, or sample (LatinHypercube, `sample: {{n: 10000}}`)"
        )


def _combinations(sizes: Sequence[int]) -> NDArray[np.int64]:
    """All rows of indices below `sizes`, last one fastest: (n_rows, len(sizes)); one empty row without any."""
    n = math.prod(sizes)
    if not sizes:
        return np.zeros((1, 0), dtype=np.int64)
    return np.stack(np.unravel_index(np.arange(n), sizes), axis=1).astype(np.int64)


def _flat_index(axes: Sequence[Axis], some: Sequence[Axis]) -> NDArray[np.int64]:
    """For every point of the grid of `axes` the row of `_combinations` of `some` of them."""
    shape = tuple(len(axis.values) for axis in axes)
    index = np.zeros(shape, dtype=np.int64)
    for axis in some:
        along = [-1 if other is axis else 1 for other in axes]
        index = index * len(axis.values) + np.arange(len(axis.values)).reshape(along)
    return np.ascontiguousarray(np.broadcast_to(index, shape)).reshape(-1)
