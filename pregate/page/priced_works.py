"""What works take on one machine at each stop of its link: schedules of a page ask for the same ones, priced once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hwmodels.cost import Costs, Parts, parts_of, price_figures
from hwmodels.figures import Figures
from offload.ops import Work


class PricedWorks:
    """The prices of one machine, `figures`, at each of its `links`, (n_links,) bytes/s."""

    def __init__(self, figures: Figures, links: NDArray[np.float64]) -> None:
        self._figures, self._links = figures, links
        self._kinds: dict[tuple[bool | None, bool], _Rows] = {}

    def of(self, works: Sequence[Work]) -> tuple[Costs, NDArray[np.float32]]:
        """Of a schedule of `works`: costs (n_works, n_links), and on the machine's own link where the time goes
        (`Parts`), (n_works, n_parts).
        """
        figures = self._figures.for_works(works)
        rows = self._kinds.setdefault((figures.offloaded, figures.is_cut), _Rows(figures, self._links))
        return rows.of(works)


class _Rows:
    """Works of schedules that are priced alike: whether those fetch and are cut decides what a work takes."""

    def __init__(self, figures: Figures, links: NDArray[np.float64]) -> None:
        self._plain, self._on_links = figures, figures.with_values({"link.h2d_bytes_per_s": links})
        self._sized = any(key.endswith(".cached") for key in figures.values)  # else nothing asks for `slots_bytes`
        self._row: dict[Work, int] = {}
        self._issue_s, self._duration_s = np.zeros((2, 0, len(links)))
        self._parts = np.zeros((0, len(Parts._fields)), np.float32)

    def of(self, works: Sequence[Work]) -> tuple[Costs, NDArray[np.float32]]:
        """As `PricedWorks.of`, of one kind of figures."""
        if not self._sized:
            works = [work if not work.slots_bytes else work._replace(slots_bytes=0) for work in works]
        new = [work for work in dict.fromkeys(works) if work not in self._row]
        if new:
            self._row |= {work: len(self._row) + i for i, work in enumerate(new)}
            costs = price_figures(new, self._on_links, self._issue_s.shape[1], shares=False)
            parts = [[float(part) for part in parts_of(work, self._plain)] for work in new]
            self._issue_s = np.concatenate([self._issue_s, costs.issue_s])
            self._duration_s = np.concatenate([self._duration_s, costs.duration_s])
            self._parts = np.concatenate([self._parts, np.array(parts, np.float32)])
        rows = [self._row[work] for work in works]
        none = np.zeros(0)
        return Costs(self._issue_s[rows], self._duration_s[rows], none, none), self._parts[rows]
