"""Writing a schedule down: op by op, handed over in parts, put together at the end. Nothing here may know time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offload.ops import Lane, Work
from offload.schedule import COLUMNS, Schedule

__all__ = ["Part", "Recorder", "assemble"]


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


class Recorder:
    """Writes a schedule down op by op; it is asked for everything but the time. `take` hands over what there is."""

    def __init__(self) -> None:
        self._base = 0
        self._clear()

    def _clear(self) -> None:
        self._columns: dict[str, list[int]] = {name: [] for name in COLUMNS if not name.startswith("dep")}
        self._dep_ptr = [0]
        self._dep: list[int] = []
        self._rows: dict[Work, int] = {}

    def __len__(self) -> int:
        """Ops not taken yet."""
        return len(self._dep_ptr) - 1

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
        row = self._rows.setdefault(work, len(self._rows))
        columns = self._columns
        columns["lane"].append(lane)
        columns["kind"].append(work.kind)
        columns["cost"].append(row)
        columns["step"].append(step)
        columns["layer"].append(layer)
        columns["expert"].append(expert)
        columns["slot"].append(slot)
        columns["bytes"].append(work.copy_bytes)
        columns["hbm_acquired"].append(hbm_acquired)
        columns["hbm_released"].append(hbm_released)
        columns["priority"].append(priority)
        columns["cancelled_by"].append(-1)
        self._dep.extend(after)
        self._dep_ptr.append(len(self._dep))
        return self._base + len(self._dep_ptr) - 2

    def release_after(self, op: int, n_bytes: int) -> None:
        """Op `op` gives back `n_bytes` more of HBM when it ends."""
        self._columns["hbm_released"][op - self._base] += n_bytes

    def cancel(self, op: int, by: int) -> None:
        """The end of op `by` makes op `op` pointless."""
        self._columns["cancelled_by"][op - self._base] = by

    def take(self, live: Iterable[int] = ()) -> Part:
        """What was recorded since the last time; `live`: ops that may still be waited for."""
        arrays = {name: np.array(values, dtype=COLUMNS[name]) for name, values in self._columns.items()}
        arrays["dep_ptr"] = np.array(self._dep_ptr, dtype=np.int64)
        arrays["dep"] = np.array(self._dep, dtype=np.int32)
        part = Part(self._base, arrays, tuple(self._rows), np.array(sorted(set(live)), dtype=np.int64))
        self._base += len(part)
        self._clear()
        return part

    def schedule(self, static_bytes: int = 0) -> Schedule:
        """All that was recorded, with `static_bytes` of HBM in use throughout."""
        return assemble([self.take()], static_bytes)
