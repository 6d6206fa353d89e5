"""Writing a schedule down: op by op, handed over in parts, put together at the end. Nothing here may know time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, repeat
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offload.ops import Lane, Work
from offload.schedule import COLUMNS, Schedule

_RECORDED = ("lane", "cost", "step", "layer", "expert", "slot", "hbm_acquired", "hbm_released", "priority")
"""The columns that an op is recorded with, in order; the others follow from its work, or come later."""


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """Consecutive ops of a schedule that is written part by part, the first of them op `base`.

    `columns`: as in `Schedule`, `dep_ptr` from 0, `dep` and `cancelled_by` counting from op 0 of the schedule, `cost`
    rows of this part's `works`. `live`: (n_live,) int64, ascending, the ops so far that later ones may wait for.
    `made_once`: (n_works,), the works that equal none of the schedule but themselves; None where that is not known.
    """

    base: int
    columns: Mapping[str, NDArray[Any]]
    works: tuple[Work, ...]
    live: NDArray[np.int64]
    made_once: NDArray[np.bool_] | None = None

    def __len__(self) -> int:
        return len(self.columns["lane"])


def assemble(parts: Iterable[Part], static_bytes: int = 0) -> Schedule:
    """The schedule of all `parts`, in order; equal works of different parts share a row."""
    first, *others = parts
    if not others:
        return Schedule(**first.columns, works=first.works, static_bytes=static_bytes)
    works: list[Work] = []
    rows: dict[Work, int] = {}
    row_of: dict[int, int] = {}  # by identity: many parts have a work in common
    gathered: dict[str, list[NDArray[Any]]] = {name: [] for name in COLUMNS}
    n_deps = 0
    for part in (first, *others):
        columns, places = dict(part.columns), list[int]()
        made_once = repeat(False, len(part.works)) if part.made_once is None else part.made_once.tolist()
        for work, once in zip(part.works, made_once, strict=True):
            place = row_of.get(id(work))
            if place is None:  # the hash of a work is that of all of its GEMMs
                place = row_of[id(work)] = len(works) if once else rows.setdefault(work, len(works))
                if place == len(works):
                    works.append(work)
            places.append(place)
        row = np.array(places, dtype=np.int32)
        columns["cost"] = row[part.columns["cost"]] if row.size else part.columns["cost"]
        columns["dep_ptr"] = part.columns["dep_ptr"][1:] + n_deps
        n_deps += int(part.columns["dep_ptr"][-1])
        for name, values in columns.items():
            gathered[name].append(values)
    gathered["dep_ptr"].insert(0, np.zeros(1, dtype=np.int64))
    arrays = {name: np.concatenate(v) if v else np.zeros(0, COLUMNS[name]) for name, v in gathered.items()}
    return Schedule(**arrays, works=tuple(works), static_bytes=static_bytes)


class Recorder:
    """Writes a schedule down op by op; it is asked for everything but the time. `take` hands over what there is.

    `is_live`: whether ops are executed as they are issued, so that none may be written ahead of what is decided.
    """

    is_live = False

    def __init__(self) -> None:
        self._base = 0
        self._clear()

    def _clear(self) -> None:
        self._ops: list[tuple[int, ...]] = []
        self._dep_end: list[int] = []
        self._dep: list[int] = []
        self._rows: dict[Work, int] = {}
        self._row_of: dict[int, int] = {}  # identity of a work -> its row
        self._kept: list[Work] = []  # so that no identity is used again
        self._released: dict[int, int] = {}
        self._cancelled: dict[int, int] = {}

    def __len__(self) -> int:
        """Ops not taken yet."""
        return len(self._ops)

    @property
    def next_op(self) -> int:
        """The index of the op that is issued next."""
        return self._base + len(self._ops)

    def issue(
        self,
        lane: Lane,
        work: Work,
        after: Sequence[int] = (),
        *,
        step: int,
        layer: int = -1,
        expert: int = -1,
        slot: int = -1,
        hbm_acquired: int = 0,
        hbm_released: int = 0,
        priority: int = 0,
    ) -> int:
        """Append one op; returns its index, to be named in later ops' `after`."""
        row = self._row_of.get(id(work))
        if row is None:
            row = self._row(work)
        self._ops.append((lane, row, step, layer, expert, slot, hbm_acquired, hbm_released, priority))
        self._dep += after
        self._dep_end.append(len(self._dep))
        return self._base + len(self._ops) - 1

    def issue_each(
        self,
        lane: Lane,
        work: Work,
        after: Sequence[int],
        experts: Sequence[int],
        slots: Sequence[int],
        *,
        step: int,
        layer: int,
        hbm_acquired: int,
        priority: int,
    ) -> int:
        """`issue` the same work for one expert after the other, each after one op of `after`, -1 none; returns the
        index of the first.
        """
        row, first, dep, dep_end = self._row(work), self.next_op, self._dep, self._dep_end
        for op in after:
            if op >= 0:
                dep.append(op)
            dep_end.append(len(dep))
        self._ops += [
            (lane, row, step, layer, expert, slot, hbm_acquired, 0, priority)
            for expert, slot in zip(experts, slots, strict=True)
        ]
        return first

    def _row(self, work: Work) -> int:
        """The row of a work among those of the ops that are not taken yet."""
        row = self._row_of.get(id(work))
        if row is None:
            row = self._row_of[id(work)] = self._rows.setdefault(work, len(self._rows))
            self._kept.append(work)
        return row

    def _columns(self) -> dict[str, NDArray[Any]]:
        """The columns that are recorded, and the ops that each waits for."""
        width = len(_RECORDED)
        flat = np.fromiter(chain.from_iterable(self._ops), np.int64, len(self._ops) * width).reshape(-1, width)
        columns: dict[str, NDArray[Any]] = {name: flat[:, i].astype(COLUMNS[name]) for i, name in enumerate(_RECORDED)}
        columns["dep_ptr"] = np.array([0, *self._dep_end], np.int64)
        columns["dep"] = np.array(self._dep, np.int32)
        return columns

    def release_after(self, op: int, n_bytes: int) -> None:
        """Op `op` gives back `n_bytes` more of HBM when it ends."""
        self._released[self._local(op)] = self._released.get(op - self._base, 0) + n_bytes

    def cancel(self, op: int, by: int) -> None:
        """The end of op `by` makes op `op` pointless."""
        self._cancelled[self._local(op)] = by

    def _local(self, op: int) -> int:
        if op < self._base:
            raise ValueError(f"op {op} was taken already: the first that is not is {self._base}")
        return op - self._base

    def take(self, live: Iterable[int] = ()) -> Part:
        """What was recorded since the last time; `live`: ops that may still be waited for."""
        n, works = len(self), tuple(self._rows)
        arrays = self._columns()
        kinds, sizes = np.array([w.kind for w in works], np.int8), np.array([w.copy_bytes for w in works], np.int64)
        arrays["kind"] = kinds[arrays["cost"]] if n else np.zeros(0, np.int8)
        arrays["bytes"] = sizes[arrays["cost"]] if n else np.zeros(0, np.int64)
        arrays["cancelled_by"] = np.full(n, -1, np.int32)
        if self._cancelled:
            arrays["cancelled_by"][list(self._cancelled)] = list(self._cancelled.values())
        if self._released:
            arrays["hbm_released"][list(self._released)] += np.array(list(self._released.values()), np.int64)
        part = Part(self._base, arrays, works, np.array(sorted(set(live)), dtype=np.int64))
        self._base += len(part)
        self._clear()
        return part

    def schedule(self, static_bytes: int = 0) -> Schedule:
        """All that was recorded, with `static_bytes` of HBM in use throughout."""
        return assemble([self.take()], static_bytes)
