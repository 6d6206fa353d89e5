"""Which constants carry predictions to sources and machines that nobody has seen, from rows that none was fitted on.

A row that is off by ln(measured / predicted) would be right with a constant that is off by that over its elasticity.
Each group of rows is judged with the constant as it ships, with the one that the rows of all other groups ask for
(leave-one-group-out), and with the one that its own rows ask for, which is the best that one number a group could do.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hwmodels.specs.spread import SPREAD_KEYS
from pregate.measured.constants.spreads import Residual

_BINDS = 0.3
"""Rows whose time depends on a constant by an elasticity beyond this say something of it."""

_LEAST_GROUPS = 3
_OF_HARDWARE = (
    "stack.hbm_", "stack.gemm_", "stack.kernel_", "stack.row_", "stack.tile", "stack.launch_", "stack.attention_",
)  # fmt: skip
"""Constants of what runs on the accelerator, whose machine is that; of the others it is the host."""


@dataclass(frozen=True, slots=True)
class Carried:
    """Of `n_rows` in `n_groups` (sources, or machines): what rows are off by on average (a share of what was measured)
    with the constant as `shipped`, with that of the `others` and with each group's `own`; `scatter`: the standard
    deviation between groups of ln(what a group's rows ask for over what ships).
    """

    constant: str
    by: str
    n_rows: int
    n_groups: int
    shipped: float
    others: float
    own: float
    scatter: float

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {name: getattr(self, name) for name in self.__slots__}


def carried(rows: Sequence[Residual]) -> list[Carried]:
    """By constant and by source and machine; none of constants that rows of fewer than three groups depend on."""
    found = []
    for i, key in enumerate(SPREAD_KEYS):
        of_machine: Callable[[Residual], str] = _hardware if key.startswith(_OF_HARDWARE) else _host
        bound = [row for row in rows if abs(row.elasticities[i]) > _BINDS]
        for by, group_of in (("source", _source), ("machine", of_machine)):
            groups: dict[str, list[Residual]] = {}
            for row in bound:
                groups.setdefault(group_of(row), []).append(row)
            if len(groups) >= _LEAST_GROUPS:
                found.append(_carried(key, by, i, groups))
    return found


def _carried(key: str, by: str, i: int, groups: dict[str, list[Residual]]) -> Carried:
    asked = {name: float(np.median([row.off / row.elasticities[i] for row in group])) for name, group in groups.items()}
    off: dict[str, list[float]] = {"shipped": [], "others": [], "own": []}
    for name, group in groups.items():
        others = float(np.median([one for other, one in asked.items() if other != name]))
        for row in group:
            for which, moved in (("shipped", 0.0), ("others", others), ("own", asked[name])):
                off[which].append(abs(math.exp(row.elasticities[i] * moved - row.off) - 1))
    means = {which: float(np.mean(errors)) for which, errors in off.items()}
    n_rows = sum(len(group) for group in groups.values())
    return Carried(key, by, n_rows, len(groups), **means, scatter=float(np.std(list(asked.values()), ddof=1)))


def _source(row: Residual) -> str:
    return row.source


def _hardware(row: Residual) -> str:
    return row.hardware


def _host(row: Residual) -> str:
    return row.host
