"""Between points and results: which rows of prices each group of points needs, and where each point finds its result.

A row is priced once a group, however many points of the grid share it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pregate.sweeps.planning import Hole, SweepPlan
from pregate.sweeps.points import Points
from pregate.sweeps.tasks import TaskOutcome


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """Of one policy: `groups`, ascending, and for each the `rows` of prices it needs, ascending, (n_rows,) int64.

    `i_result`: (n_points,) int64, the place of each point in the rows of all groups one after the other, or -1 - a row
    of the plan's holes.
    """

    groups: NDArray[np.int64]
    rows: tuple[NDArray[np.int64], ...]
    i_result: NDArray[np.int64]


def lay_out(points: Points, plan: SweepPlan) -> list[Layout]:
    """The layout of each policy."""
    layouts = []
    for of_choice in plan.i_group:
        group = of_choice[points.i_choice]  # [n_points]
        fits = group >= 0
        wanted, place = np.unique(group[fits] * points.n_prices + points.i_price[fits], return_inverse=True)
        i_result = group.copy()
        i_result[fits] = place.reshape(-1)
        groups, starts = np.unique(wanted // points.n_prices, return_index=True)
        rows = np.split(wanted % points.n_prices, starts[1:]) if groups.size else []
        layouts.append(Layout(groups, tuple(rows), i_result))
    return layouts


def scatter(
    layout: Layout, holes: Sequence[Hole], parts: Sequence[tuple[int, TaskOutcome | None]]
) -> dict[str, NDArray[Any]]:
    """Every field at every point, (n_points,) or (n_points, 2): NaN, or "" for text, where there is none.

    `parts`: machines and outcome of each task in the order of the layout's rows, None of one that failed. Besides the
    fields of a result: `fits`, and `needed_bytes` of `memory` where that is why.
    """
    columns = [_columns(n, outcome) for n, outcome in parts]
    columns += [_columns(1, TaskOutcome(hole=hole)) for hole in reversed(holes)]  # the last is at -1: see `i_result`
    likes = {name: values for part in columns for name, values in part.items()}
    fields = {}
    for name, like in likes.items():
        whole = [_plain(part[name]) if name in part else _empty(like, len(part["fits"])) for part in columns]
        fields[name] = np.concatenate(whole)[layout.i_result]
    return fields


def _columns(n: int, outcome: TaskOutcome | None) -> dict[str, NDArray[Any]]:
    """The fields of `n` machines, and whether and why they have none."""
    hole = Hole("failed") if outcome is None else outcome.hole
    needed = float(hole.needed_bytes) if hole is not None and hole.needed_bytes else np.nan
    return {
        **(outcome.fields if outcome is not None else {}),
        "fits": np.full(n, hole is None),
        "needed_bytes": np.full(n, needed),
        "memory": np.full(n, "" if hole is None else hole.memory),
    }


def _empty(like: NDArray[Any], n: int) -> NDArray[Any]:
    return np.full((n, *like.shape[1:]), "" if like.dtype.kind in "OU" else np.nan)


def _plain(column: NDArray[Any]) -> NDArray[Any]:
    """Integers as floats, which can say NaN; sizes below 2**53 bytes stay exact."""
    if column.dtype.kind in "iu":
        return column.astype(np.float64)
    return column.astype(np.str_) if column.dtype.kind == "O" else column
