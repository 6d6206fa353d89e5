"""A metric as a sum of costs along its critical paths, so that many machines that share the paths need no walk."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwmodels.cost import price_figures
from hwmodels.figures import Figures
from offload.ops import Work
from simulator.explain.critical_path import Gradient
from traces.foundation.memoised_values import ByIdentity

_FLOP, _HBM_BYTES = Work._fields.index("flop"), Work._fields.index("hbm_bytes")


class PathSum:
    """Gradients of one metric, whole or part by part, in memory bounded by the number of GEMM shapes.

    Works that differ in attention alone count as their mean: prices are linear in `flop` and `hbm_bytes` while the same
    of the two binds, and then that is exact. What counts for less than nothing is kept apart, so that a mean is one.
    """

    def __init__(self) -> None:
        self._sums: dict[tuple[tuple[Any, ...], bool], tuple[Work, list[float]]] = {}

    def add(self, works: Sequence[Work], by: Gradient) -> None:
        """More of the metric: the derivative by the costs of `works`."""
        counted = np.flatnonzero((by.issue_s != 0) | (by.duration_s != 0)).tolist()
        last: tuple[Any, ...] = ()
        sums: list[float] = []
        # Of a tuple, which stays as it is, they are asked for again: by the other path.
        below, keys = False, _last_keys(ByIdentity(works)) if type(works) is tuple else _but_contexts(works)
        for i, issues, runs in zip(counted, by.issue_s[counted].tolist(), by.duration_s[counted].tolist(), strict=True):
            flop, hbm_bytes = works[i][_FLOP], works[i][_HBM_BYTES]
            if keys[i] is not last or (runs < 0) != below:
                last, below = keys[i], runs < 0
                sums = self._sums.setdefault((last, below), (works[i], [0.0] * 4))[1]
            sums[0] += issues
            sums[1] += runs
            sums[2] += runs * flop
            sums[3] += runs * hbm_bytes

    def at(self, figures: Figures, n_machines: int) -> NDArray[np.float64]:
        """The metric, (n_machines,), on the machines that `figures` has arrays for, where the paths are the same."""
        works = []
        for work, (_, runs, flop, hbm_bytes) in self._sums.values():
            mean: Any = (flop / runs, hbm_bytes / runs) if runs else (0, 0)
            works.append(work._replace(flop=mean[0], hbm_bytes=mean[1]))
        costs = price_figures(works, figures, n_machines)
        sums = np.array([sums for _, sums in self._sums.values()]).reshape(-1, 4)
        value: NDArray[np.float64] = sums[:, 0] @ costs.issue_s + sums[:, 1] @ costs.duration_s
        return value


@lru_cache(1)
def _last_keys(works: ByIdentity) -> list[tuple[Any, ...]]:
    return _but_contexts(works.one)


def _but_contexts(works: Sequence[Work]) -> list[tuple[Any, ...]]:
    """All of each work but its context: where the one before has the same, the same object."""
    found: list[tuple[Any, ...]] = []
    last: tuple[Any, ...] = ()
    for work in works:
        key = (*work[:_FLOP], *work[_FLOP + 1 : _HBM_BYTES], *work[_HBM_BYTES + 1 :])
        if key != last:
            last = key
        found.append(last)
    return found
