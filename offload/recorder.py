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

__all__ = ["EXPERT", "LAYER", "ROW", "STEP", "OpBlock", "Part", "Recorder", "assemble"]

_RECORDED = ("lane", "cost", "step", "layer", "expert", "slot", "hbm_acquired", "hbm_released", "priority")
"""The columns that an op is recorded with, in order; the others follow from its work, or come later."""

ROW, STEP, LAYER, EXPERT = (_RECORDED.index(name) for name in ("cost", "step", "layer", "expert"))
"""Where some of them are."""


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
    rows: dict[Work, int] = {}
    gathered: dict[str, list[NDArray[Any]]] = {name: [] for name in COLUMNS}
    n_deps = 0
    for part in parts:
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


class OpBlock(NamedTuple):
    """Consecutive ops: (n, n_recorded) as recorded, how many ops each waits for (n,), and these, op after op."""

    ops: NDArray[np.int64]
    n_after: NDArray[np.int64]
    after: NDArray[np.int64]


NOTHING = OpBlock(np.zeros((0, len(_RECORDED)), np.int64), *np.zeros((2, 0), np.int64))
"""No ops."""


class Recorder:
    """Writes a schedule down op by op; it is asked for everything but the time. `take` hands over what there is."""

    def __init__(self) -> None:
        self._base = 0
        self._clear()

    def _clear(self) -> None:
        self._first = self._base  # the first op of `_ops`
        self._ops: list[tuple[int, ...]] = []
        self._dep_end: list[int] = []
        self._dep: list[int] = []
        self._blocks: list[OpBlock] = []  # the ops before those
        self._rows: dict[Work, int] = {}
        self._row_of: dict[int, int] = {}  # identity of a work -> its row
        self._kept: list[Work] = []  # so that no identity is used again
        self._released: dict[int, int] = {}
        self._cancelled: dict[int, int] = {}

    def __len__(self) -> int:
        """Ops not taken yet."""
        return self.next_op - self._base

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
        n_after: NDArray[np.int64],
        after: NDArray[np.int64],
        *,
        step: int,
        layer: int,
        expert: int | NDArray[np.int64] = -1,
    ) -> int:
        """Append ops of the works `rows` (n,), numbered by `row`; returns the index of the first.

        Each waits for `n_after` (n,) ops, which `after` (n_deps,) has one op after the other.
        """
        ops = np.empty((len(rows), len(_RECORDED)), np.int64)
        ops[:] = (0, 0, step, layer, -1, -1, 0, 0, 0)
        ops[:, 0], ops[:, 1], ops[:, 4] = lane, rows, expert
        self.append(OpBlock(ops, n_after, after))
        return self._first - len(ops)

    @property
    def n_marks(self) -> int:
        """Ops that later ones have made give back more, or pointless."""
        return len(self._released) + len(self._cancelled)

    def since(self, op: int) -> tuple[OpBlock, list[Work]]:
        """The ops from `op` on, which are not taken yet, and the work of each."""
        self._close_block()
        n, found = self.next_op - op, list[OpBlock]()
        for block in reversed(self._blocks):
            if n <= 0:
                break
            skipped = max(len(block.ops) - n, 0)
            n -= len(block.ops)
            after = block.after[int(block.n_after[:skipped].sum()) :]
            found.append(OpBlock(block.ops[skipped:], block.n_after[skipped:], after))
        if not found:
            return NOTHING, []
        works = list(self._rows)
        whole = OpBlock(*(np.concatenate(each) for each in zip(*reversed(found), strict=True)))
        return whole, [works[row] for row in whole.ops[:, ROW].tolist()]

    def append(self, block: OpBlock) -> None:
        """Append ops that are written already, their rows numbered by `row`."""
        self._close_block()
        self._blocks.append(block)
        self._first += len(block.ops)

    def _close_block(self) -> None:
        """What was issued op by op becomes a block."""
        n = len(self._ops)
        if n:
            flat = np.fromiter(chain.from_iterable(self._ops), np.int64, n * len(_RECORDED))
            ends = np.array([0, *self._dep_end], np.int64)
            n_after = ends[1:] - ends[:-1]
            block = OpBlock(flat.reshape(n, len(_RECORDED)), n_after, np.array(self._dep, np.int64))
            self._blocks.append(block)
            self._first += n
            self._ops, self._dep_end, self._dep = [], [], []

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
        self._close_block()
        n, works = len(self), tuple(self._rows)
        blocks = self._blocks or [NOTHING]
        flat, n_after, after = (
            np.concatenate(each) if len(each) > 1 else each[0] for each in zip(*blocks, strict=True)
        )
        arrays: dict[str, NDArray[Any]] = {name: flat[:, i].astype(COLUMNS[name]) for i, name in enumerate(_RECORDED)}
        kinds, sizes = np.array([w.kind for w in works], np.int8), np.array([w.copy_bytes for w in works], np.int64)
        arrays["kind"] = kinds[arrays["cost"]] if n else np.zeros(0, np.int8)
        arrays["bytes"] = sizes[arrays["cost"]] if n else np.zeros(0, np.int64)
        arrays["cancelled_by"] = np.full(n, -1, np.int32)
        if self._cancelled:
            arrays["cancelled_by"][list(self._cancelled)] = list(self._cancelled.values())
        if self._released:
            arrays["hbm_released"][list(self._released)] += np.array(list(self._released.values()), np.int64)
        arrays["dep_ptr"] = np.concatenate([np.zeros(1, np.int64), np.cumsum(n_after)])
        arrays["dep"] = after.astype(np.int32)
        part = Part(self._base, arrays, works, np.array(sorted(set(live)), dtype=np.int64))
        self._base += len(part)
        self._clear()
        return part

    def schedule(self, static_bytes: int = 0) -> Schedule:
        """All that was recorded, with `static_bytes` of HBM in use throughout."""
        return assemble([self.take()], static_bytes)
