"""The GEMMs of many works as columns: listed once of a schedule, whatever is asked of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from offload.ops import Gemm, Work
from traces.foundation.memoised_values import ByIdentity


@dataclass(frozen=True, slots=True, eq=False)
class GemmCells:
    """`columns` (4, n_gemms) int64: m, n, k and how many of all GEMMs of works, one work after the other, `n_gemms`
    (n_works,) each.
    """

    columns: NDArray[np.int64]
    n_gemms: NDArray[np.int64]

    @property
    def owner(self) -> NDArray[np.int64]:
        """The work that each GEMM is of, (n_gemms,)."""
        return np.repeat(np.arange(len(self.n_gemms)), self.n_gemms)

    @property
    def place(self) -> NDArray[np.int64]:
        """The place of each GEMM in its work, (n_gemms,)."""
        first = np.cumsum(self.n_gemms) - self.n_gemms
        return np.arange(self.columns.shape[1]) - np.repeat(first, self.n_gemms)


def listed_gemms(works: Sequence[Work]) -> GemmCells:
    """The GEMMs of `works`; of the tuples asked for last, which stay as they are, listed before."""
    return _last(ByIdentity(works)) if type(works) is tuple else _listed(works)


@lru_cache(2)
def _last(works: ByIdentity) -> GemmCells:
    return _listed(works.one)


def _listed(works: Sequence[Work]) -> GemmCells:
    n_gemms, n_fields = np.array([len(work.gemms) for work in works], np.int64), len(Gemm._fields)
    flat = chain.from_iterable(chain.from_iterable(work.gemms for work in works))
    columns = np.fromiter(flat, np.int64, int(n_gemms.sum()) * n_fields).reshape(-1, n_fields).T
    return GemmCells(columns, n_gemms)
