"""Writing a schedule down: op by op, handed over in parts, put together at the end. Nothing here may know time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from offload.ops import Lane, Work
from offload.schedule import COLUMNS, Schedule

__all__ = ["Part", "Recorder", "assemble"]

_RECORDED = ("lane", "cost", "step", "layer", "expert", "slot", "hbm_acquired", "hbm_released", "priority")
"""The columns that an op is recorded with, in order; the others follow from its work, or come later."""


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """Consecutive ops of a schedule that is written part by part, the first of them op `base`.

    `columns`: as in `Schedule`, `dep_ptr` from 0, `dep` and `cancelled_by` counting from op 0 of the schedule, `cost`
    rows of this part's `works`. `live`: (n_live,) int64, ascending, the ops so far that later ones may wait for.
    """

    base: int
    columns: Mapping[str, NDArray[Any]]
    works: tuple[Work, ...]
    live: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.columns["lane"])


def assemble(parts: Iterable[Part], static_bytes: int = 0) -> Schedule:
    """The schedule of all `parts`, in order; equal works of different parts share a row."""
    first, *others = parts
    if not others:
        return Schedule(**first.columns, works=first.works, static_bytes=static_bytes)
    rows: dict[Work, int] = {}
    gathered: dict[str, list[NDArray[Any]]] = {name: [] for name in COLUMNS}
    n_deps = 0
    for part in (first, *others):
        columns = dict(part.columns)
        row = np.array([rows.setdefault(work, len(rows)) for work in part.works], dtype=np.int32)
        columns["cost"] = row[part.columns["cost"]] if row.size else part.columns["cost"]
        columns["dep_ptr"] = part.columns["dep_ptr"][1:] + n_deps
        n_deps += int(part.columns["dep_ptr"][-1])
        for name, values in columns.items():
            gathered[name].append(values)
    gathered["dep_ptr"].insert(0, np.zeros(1, dtype=np.int64))
    arrays = {name: np.concatenate(v) if v else np.zeros(0, COLUMNS[name]) for name, v in gathered.items()}
    return Schedule(**arrays, works=tuple(rows), static_bytes=static_bytes)


class _Run(NamedTuple):
    """Consecutive ops of one step that were written at once, after `n_before` that were issued one by one, which wait
    for `n_deps_before` ops. `lane`, `step`, `layer`, `expert`: of all of them, or of each, (n,).

    `n_after` (n,): how many of `after` each waits for, one op after the other; None: each for all of them.
    """

    first: int
    n_before: int
    n_deps_before: int
    rows: NDArray[np.int64]
    n_after: NDArray[np.int64] | None
    after: NDArray[np.int64]
    lane: int | NDArray[np.int64]
    step: int | NDArray[np.int64]
    layer: int | NDArray[np.int64]
    expert: int | NDArray[np.int64]

    @property
    def n_deps(self) -> int:
        """How many ops all of them wait for."""
        return len(self.after) * (len(self.rows) if self.n_after is None else 1)

    @property
    def waits(self) -> int | NDArray[np.int64]:
        """These, op after op; a number where it is always the same."""
        if self.n_after is not None:
            return self.after
        return int(self.after[0]) if len(self.after) == 1 else np.tile(self.after, len(self.rows))


_NO_REST = {"slot": -1, "hbm_acquired": 0, "hbm_released": 0, "priority": 0}
"""The other columns of ops that have no slot."""


class Recorder:
    """Writes a schedule down op by op; it is asked for everything but the time. `take` hands over what there is.

    `is_live`: whether ops are executed as they are issued, so that none may be written ahead of what is decided.
    """

    is_live = False

    def __init__(self) -> None:
        self._base = 0
        self._clear()

    def _clear(self) -> None:
        self._first = self._base  # the ops before these and in `_runs`
        self._ops: list[tuple[int, ...]] = []  # issued one by one, with those of `_runs` between them
        self._dep_end: list[int] = []
        self._dep: list[int] = []
        self._runs: list[_Run] = []
        self._rows: dict[Work, int] = {}
        self._row_of: dict[int, int] = {}  # identity of a work -> its row
        self._kept: list[Work] = []  # so that no identity is used again
        self._released: dict[int, int] = {}
        self._cancelled: dict[int, int] = {}

    def __len__(self) -> int:
        """Ops not taken yet."""
        return self.next_op - self._base

    @property
    def n_alone(self) -> int:
        """Those of them that were issued one by one."""
        return len(self._ops)

    @property
    def next_op(self) -> int:
        """The index of the op that is issued next."""
        return self._first + len(self._ops)

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
            row = self.row(work)
        self._ops.append((lane, row, step, layer, expert, slot, hbm_acquired, hbm_released, priority))
        self._dep += after
        self._dep_end.append(len(self._dep))
        return self._first + len(self._ops) - 1

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
        row, first, dep, dep_end = self.row(work), self.next_op, self._dep, self._dep_end
        for op in after:
            if op >= 0:
                dep.append(op)
            dep_end.append(len(dep))
        self._ops += [
            (lane, row, step, layer, expert, slot, hbm_acquired, 0, priority)
            for expert, slot in zip(experts, slots, strict=True)
        ]
        return first

    def row(self, work: Work) -> int:
        """The row of a work among those of the ops that are not taken yet."""
        row = self._row_of.get(id(work))
        if row is None:
            row = self._row_of[id(work)] = self._rows.setdefault(work, len(self._rows))
            self._kept.append(work)
        return row

    def issue_many(
        self,
        lane: Lane | NDArray[np.int64],
        rows: NDArray[np.int64],
        n_after: NDArray[np.int64] | None,
        after: NDArray[np.int64],
        *,
        step: int,
        layer: int,
        expert: int | NDArray[np.int64] = -1,
    ) -> int:
        """Append ops of the works `rows` (n,), numbered by `row`; returns the index of the first.

        Each waits for `n_after` (n,) ops, which `after` (n_deps,) has one op after the other; None: for all of `after`.
        """
        if self.is_live:
            return self._issue_each(lane, rows, n_after, after, step, layer, expert)
        return self._append(rows, n_after, after, lane, step, layer, expert)

    def _issue_each(
        self,
        lane: Lane | NDArray[np.int64],
        rows: NDArray[np.int64],
        n_after: NDArray[np.int64] | None,
        after: NDArray[np.int64],
        step: int,
        layer: int,
        expert: int | NDArray[np.int64],
    ) -> int:
        """As `issue_many`, one after the other."""
        if n_after is None:
            n_after, after = np.full(len(rows), len(after)), np.tile(after, len(rows))
        first, works, ends = self.next_op, list(self._rows), np.cumsum(n_after)
        lanes, experts = np.broadcast_to(lane, rows.shape), np.broadcast_to(expert, rows.shape)
        for i, row in enumerate(rows.tolist()):
            waits = after[ends[i] - n_after[i] : ends[i]].tolist()
            self.issue(Lane(int(lanes[i])), works[row], waits, step=step, layer=layer, expert=int(experts[i]))
        return first

    def _append(self, *about: Any) -> int:
        first = self.next_op
        self._runs.append(_Run(first, len(self._ops), len(self._dep), *about))
        self._first += len(self._runs[-1].rows)
        return first

    def _columns(self) -> tuple[dict[str, NDArray[Any]], NDArray[np.int64], NDArray[np.int32]]:
        """The columns of all ops in order, how many ops each waits for, and these."""
        ops, runs, width = self._ops, self._runs, len(_RECORDED)
        flat = np.fromiter(chain.from_iterable(ops), np.int64, len(ops) * width).reshape(-1, width)
        issued = {name: flat[:, i].astype(COLUMNS[name]) for i, name in enumerate(_RECORDED)}
        ends = np.array([0, *self._dep_end], np.int64)
        n_after, after = ends[1:] - ends[:-1], np.array(self._dep, np.int32)
        if not runs:
            return issued, n_after, after
        order = _Order(len(ops), [run.n_before for run in runs], [len(run.rows) for run in runs])
        written: dict[str, Sequence[Any]] = {
            "lane": [run.lane for run in runs], "cost": [run.rows for run in runs],
            "step": [run.step for run in runs], "layer": [run.layer for run in runs],
            "expert": [run.expert for run in runs],
        }  # fmt: skip
        written |= {name: [none] * len(runs) for name, none in _NO_REST.items()}
        columns = {name: order.of(values, written[name]) for name, values in issued.items()}
        waits = order.of(n_after, [len(run.after) if run.n_after is None else run.n_after for run in runs])
        order = _Order(len(after), [run.n_deps_before for run in runs], [run.n_deps for run in runs])
        return columns, waits, order.of(after, [run.waits for run in runs])

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
        columns, n_after, after = self._columns()
        arrays: dict[str, NDArray[Any]] = {**columns}
        kinds, sizes = np.array([w.kind for w in works], np.int8), np.array([w.copy_bytes for w in works], np.int64)
        arrays["kind"] = kinds[arrays["cost"]] if n else np.zeros(0, np.int8)
        arrays["bytes"] = sizes[arrays["cost"]] if n else np.zeros(0, np.int64)
        arrays["cancelled_by"] = np.full(n, -1, np.int32)
        if self._cancelled:
            arrays["cancelled_by"][list(self._cancelled)] = list(self._cancelled.values())
        if self._released:
            arrays["hbm_released"][list(self._released)] += np.array(list(self._released.values()), np.int64)
        arrays["dep_ptr"] = np.concatenate([np.zeros(1, np.int64), np.cumsum(n_after)])
        arrays["dep"] = after
        part = Part(self._base, arrays, works, np.array(sorted(set(live)), dtype=np.int64))
        self._base += len(part)
        self._clear()
        return part

    def schedule(self, static_bytes: int = 0) -> Schedule:
        """All that was recorded, with `static_bytes` of HBM in use throughout."""
        return assemble([self.take()], static_bytes)


class _Order:
    """The order of `n` things and of runs of `sizes` others, each run after `before` of the `n`."""

    def __init__(self, n: int, before: Sequence[int], sizes: Sequence[int]) -> None:
        runs = np.array(before, np.int64) + np.arange(len(before))
        self._is_run = np.zeros(n + len(before), np.bool_)
        self._is_run[runs] = True
        self._sizes = np.ones(len(self._is_run), np.int64)
        self._sizes[runs] = sizes
        self._begins = (np.cumsum(self._sizes) - self._sizes)[runs].tolist()

    def of(self, values: NDArray[Any], of_runs: Sequence[Any]) -> NDArray[Any]:
        """`values` (n,) of the things and those of each run, one of all of it or of each (size,), in one array."""
        parts = np.empty(len(self._sizes), values.dtype)
        parts[~self._is_run] = values
        parts[self._is_run] = [0 if isinstance(one, np.ndarray) else one for one in of_runs]
        found: NDArray[Any] = np.repeat(parts, self._sizes)
        for begin, one in zip(self._begins, of_runs, strict=True):
            if isinstance(one, np.ndarray):
                found[begin : begin + len(one)] = one
        return found
