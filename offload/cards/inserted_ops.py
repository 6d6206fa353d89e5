"""Ops put into a schedule that was written without them, part by part: all others keep their order and their waits.

Nothing here may know time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offload.ops import Work
from offload.recorder import Part
from offload.schedule import COLUMNS

_Ints = NDArray[np.int64]


class InsertedOps:
    """Counts ops anew while more are put in between: `place` those of a part, then `part` it."""

    def __init__(self) -> None:
        self._n = 0
        self._live, self._live_at = np.zeros(0, np.int64), np.zeros(0, np.int64)

    def place(self, part: Part, before: _Ints) -> tuple[_Ints, _Ints]:
        """How the ops of `part` count now, (n_ops,), and those put in `before` ops of it, (n,) ascending, n_ops at its
        end.
        """
        self._base, self._before = part.base + self._n, before
        n_before = np.searchsorted(before, np.arange(len(part)), "right")
        self._at = self._base + np.arange(len(part)) + n_before
        return self._at, self._base + before + np.arange(len(before))

    def as_it_is(self, part: Part, live: _Ints | None = None) -> Part:
        """A part that nothing is put into, counted anew; `live` as of `part`."""
        self.place(part, np.zeros(0, np.int64))
        return self.part(part, part.works, {}, (), live=live)

    def part(
        self,
        part: Part,
        works: tuple[Work, ...],
        one: Mapping[str, Any],
        edges: Sequence[tuple[_Ints, _Ints]],
        *,
        lane: NDArray[np.int8] | None = None,
        instead: Mapping[int, int] | None = None,
        live: _Ints | None = None,
    ) -> Part:
        """The part with what was placed: `one` has its columns, 0 where it says nothing. `edges`: ops that wait and
        what each waits for, as they count now, beside those of the part. `lane`: of its ops, if others. `instead`: of
        ops of the part (as they count there) those that others wait for in their place. `live`: more that later ones
        may wait for.
        """
        columns = part.columns if lane is None else {**part.columns, "lane": lane}
        found = {
            name: np.insert(values, self._before, one.get(name, 0)).astype(COLUMNS[name])
            for name, values in columns.items()
            if name not in ("dep", "dep_ptr", "cancelled_by")
        }
        ends = self._at.copy()
        for op, other in (instead or {}).items():
            ends[op] = other
        by = part.columns["cancelled_by"]
        cancelled = by.copy()
        cancelled[by >= 0] = self._now(part, by[by >= 0], ends)
        found["cancelled_by"] = np.insert(cancelled, self._before, -1)
        owner, dep = (
            np.concatenate(side)
            for side in zip(
                (np.repeat(self._at, np.diff(part.columns["dep_ptr"])), self._now(part, part.columns["dep"], ends)),
                *edges,
                strict=True,
            )
        )
        order = np.argsort(owner, kind="stable")
        counts = np.bincount(owner - self._base, minlength=len(found["lane"]))
        found |= {"dep_ptr": np.append(0, np.cumsum(counts)), "dep": dep[order].astype(COLUMNS["dep"])}
        live_at = self._now(part, part.live, ends)
        self._live, self._live_at = part.live, live_at
        self._n += len(self._before)
        kept = live_at if live is None else np.union1d(live_at, live)
        return Part(self._base, found, works, np.sort(kept))

    def _now(self, part: Part, ops: NDArray[Any], ends: _Ints) -> _Ints:
        """How ops count now that count so in the schedule before: of this part, or live since an earlier one."""
        ops = ops.astype(np.int64)
        here = ops >= part.base
        found = np.empty(len(ops), np.int64)
        found[here] = ends[ops[here] - part.base]
        found[~here] = self._live_at[np.searchsorted(self._live, ops[~here])] if self._live.size else ops[~here]
        return found


def row_of(work: Work, works: tuple[Work, ...]) -> tuple[int, tuple[Work, ...]]:
    """The row of a work, and the works with it."""
    return (works.index(work), works) if work in works else (len(works), (*works, work))


def n_tokens_of(work: Work) -> int:
    """Tokens that an op computes with."""
    return work.n_rows if work.attending is None else work.attending.n_tokens
