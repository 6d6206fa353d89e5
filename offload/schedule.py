"""The schedule: what is executed, in issue order, captured once and interpreted anywhere.

A struct of arrays, read-only, hashable by `digest`, stored as safetensors. Nothing here may know time.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from offload.ops import MOST_LANES, Attending, FusedExperts, Gemm, OpKind, Piece, ReadRounds, Work
from traces.errors import InvalidFile, InvalidInput
from traces.foundation.atomic_files import whole_file
from traces.foundation.documents import require_regular

FORMAT = "pregate.schedule"
VERSION = 6
MAX_OPS = 200_000_000
"""Largest schedule file accepted, in ops (about 12 GB of arrays)."""

_CHECKED_OPS = 1 << 15
"""Ops whose dependencies are checked at a time, so that they stay in the caches of the processor."""

COLUMNS: dict[str, Any] = {
    "lane": np.int8, "kind": np.int8, "cost": np.int32, "dep_ptr": np.int64, "dep": np.int32,
    "step": np.int32, "layer": np.int16, "expert": np.int16, "slot": np.int32, "bytes": np.int64,
    "hbm_acquired": np.int64, "hbm_released": np.int64, "priority": np.int8, "cancelled_by": np.int32,
}  # fmt: skip
"""The arrays of a schedule, by name, with their dtypes."""


@dataclass(frozen=True, slots=True, eq=False)
class Schedule:
    """`n_ops` ops in issue order; op i may depend on ops < i only.

    Shapes `(n_ops,)` unless stated: `lane` int8 (`offload.lanes`), `kind` int8, `cost` int32 (row of `works`), `step`
    int32 (forward pass), `layer` int16 (layer of the decoder or encoder that the op belongs to, -1 none; of `FETCH`,
    `STAGE` and `DISK_READ` the layer whose expert moves, in the stack that its step runs), `expert` int16 (-1 none or
    grouped), `slot` int32 (-1 none), `bytes` int64 (copied), `hbm_acquired` int64 (taken when the op starts),
    `hbm_released` int64 (given back when it ends), `priority` int8 (0 needed now, 1 brought ahead of need),
    `cancelled_by` int32 (the op, earlier or later, whose end makes this copy pointless, -1 none); dependencies in CSR
    form: `dep_ptr` (n_ops + 1,) int64, `dep` (n_deps,) int32. `static_bytes`: HBM in use from the start to the end.
    A copy whose work has `n_copies` above 1 is a run (`offload.slots.copy_runs`): `expert` and `slot` are those of its
    first. FIFO lanes know neither priorities nor cancellation; an interpreter that does is told so (`simulator.modes`).

    Raises `InvalidInput` when the arrays do not fit together or an op depends on a later one.
    """

    lane: NDArray[np.int8]
    kind: NDArray[np.int8]
    cost: NDArray[np.int32]
    dep_ptr: NDArray[np.int64]
    dep: NDArray[np.int32]
    step: NDArray[np.int32]
    layer: NDArray[np.int16]
    expert: NDArray[np.int16]
    slot: NDArray[np.int32]
    bytes: NDArray[np.int64]
    hbm_acquired: NDArray[np.int64]
    hbm_released: NDArray[np.int64]
    priority: NDArray[np.int8]
    cancelled_by: NDArray[np.int32]
    works: tuple[Work, ...]
    static_bytes: int = 0
    _digest: str = field(init=False, repr=False)

    def __post_init__(self) -> None:
        for name, dtype in COLUMNS.items():
            array = np.ascontiguousarray(getattr(self, name), dtype=dtype)
            array.flags.writeable = False
            object.__setattr__(self, name, array)
        self._check()
        object.__setattr__(self, "_digest", "")

    @property
    def digest(self) -> str:
        """16 hex digits of the SHA-256 of all columns and costs (`ScheduleDigest`), taken when first asked for."""
        if not self._digest:
            seen = ScheduleDigest()
            seen.update({name: getattr(self, name) for name in COLUMNS}, self.works)
            object.__setattr__(self, "_digest", seen.of(self.static_bytes))
        return self._digest

    def with_static_bytes(self, static_bytes: int) -> Schedule:
        """The same ops with another `static_bytes`; columns are not looked through again. Raises `InvalidInput` for
        less than 0.
        """
        if static_bytes < 0:
            raise InvalidInput(f"schedule: static_bytes = {static_bytes} is below 0")
        found = object.__new__(Schedule)
        for name in (*COLUMNS, "works"):
            object.__setattr__(found, name, getattr(self, name))
        object.__setattr__(found, "static_bytes", static_bytes)
        object.__setattr__(found, "_digest", "")
        return found

    def _check(self) -> None:
        """Raise `InvalidInput` for columns of other lengths, values out of range or dependencies that point ahead."""
        n = len(self.lane)
        for name in COLUMNS:
            wanted = {"dep_ptr": n + 1, "dep": int(self.dep_ptr[-1]) if len(self.dep_ptr) else -1}.get(name, n)
            if getattr(self, name).shape != (wanted,):
                raise InvalidInput(f"schedule: {name} has shape {getattr(self, name).shape}, not ({wanted},)")
        if self.dep_ptr[0] != 0 or np.any(self.dep_ptr[1:] < self.dep_ptr[:-1]):
            raise InvalidInput("schedule: dep_ptr must rise from 0")
        for first in range(0, n, _CHECKED_OPS):
            ptr = self.dep_ptr[first : first + _CHECKED_OPS + 1]
            owner = np.repeat(np.arange(first, first + len(ptr) - 1, dtype=np.int32), np.diff(ptr))
            dep = self.dep[ptr[0] : ptr[-1]]
            if np.any(dep >= owner) or np.any(dep < 0):
                raise InvalidInput("schedule: an op depends on itself, a later op or none that exists")
        if n and (self.lane.min() < 0 or self.lane.max() >= MOST_LANES):
            raise InvalidInput(f"schedule: a lane is outside 0..{MOST_LANES - 1}")
        if n and (self.kind.min() < 0 or self.kind.max() >= len(OpKind)):
            raise InvalidInput(f"schedule: an op kind is outside 0..{len(OpKind) - 1}")
        for name in ("bytes", "hbm_acquired", "hbm_released", "priority"):
            if n and getattr(self, name).min() < 0:
                raise InvalidInput(f"schedule: {name} of op {int(getattr(self, name).argmin())} is below 0")
        if n and (self.cancelled_by.min() < -1 or self.cancelled_by.max() >= n):
            raise InvalidInput("schedule: an op is cancelled by one that does not exist")
        if self.static_bytes < 0:
            raise InvalidInput(f"schedule: static_bytes = {self.static_bytes} is below 0")
        if n and (self.cost.min() < 0 or self.cost.max() >= len(self.works)):
            raise InvalidInput(f"schedule: a cost row is outside 0..{len(self.works) - 1}")

    def __len__(self) -> int:
        return len(self.lane)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Schedule) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    def deps(self, i: int) -> NDArray[np.int32]:
        """The ops that op `i` waits for, (n_deps,)."""
        return self.dep[self.dep_ptr[i] : self.dep_ptr[i + 1]]

    def save(self, path: Path) -> None:
        """Write to `path` as safetensors; a reader sees the old file or the whole new one."""
        header = {
            "format": FORMAT,
            "version": str(VERSION),
            "digest": self.digest,
            "static_bytes": str(self.static_bytes),
            "works": json.dumps(_works_to_json(self.works)),
        }
        with whole_file(path) as partial:
            partial.write_bytes(save({name: getattr(self, name) for name in COLUMNS}, metadata=header))

    @classmethod
    def load(cls, path: Path) -> Schedule:
        """Read what `save` wrote. Raises `InvalidFile` on anything else, or when the digest is not the one written."""
        require_regular(path)
        try:
            with safe_open(path, framework="numpy") as file:
                header = file.metadata() or {}
                if header.get("format") != FORMAT or header.get("version") != str(VERSION):
                    raise InvalidFile(f"{path}: not a {FORMAT} file of version {VERSION}")
                if file.get_slice("lane").get_shape()[0] > MAX_OPS:
                    raise InvalidFile(f"{path}: more than {MAX_OPS} ops")
                arrays = {name: file.get_tensor(name) for name in COLUMNS}
                for name, dtype in COLUMNS.items():
                    if arrays[name].dtype != dtype:
                        raise InvalidFile(f"{path}: {name} is {arrays[name].dtype}, not {np.dtype(dtype)}")
                works = _works_from_json(json.loads(header["works"]))
                schedule = cls(**arrays, works=works, static_bytes=int(header["static_bytes"]))
        except InvalidFile:
            raise
        except (OSError, SafetensorError, KeyError, ValueError, TypeError, RecursionError, InvalidInput) as error:
            raise InvalidFile(f"{path}: not a readable schedule ({error})") from error
        if header.get("digest") != schedule.digest:
            raise InvalidFile(
                f"{path}: its digest is {schedule.digest}, {header.get('digest')} was written: the file was changed"
            )
        return schedule


class ScheduleDigest:
    """The digest of a schedule that is seen part by part: the same for the whole at once.

    A SHA-256 of every column; costs count by what they ask (`Work`), not by their row, and `dep_ptr` as counts.
    """

    def __init__(self) -> None:
        self._columns = {name: hashlib.sha256() for name in COLUMNS}
        self._around_context: dict[tuple[Any, ...], tuple[str, str]] = {}
        self._last_rest: tuple[Any, ...] = ()
        self._last_around = "", ""

    def update(self, columns: Mapping[str, NDArray[Any]], works: Sequence[Work]) -> None:
        """The next ops in order; `dep_ptr` (n + 1,) may start anywhere, `dep` and `cancelled_by` count from op 0."""
        prints = [hashlib.sha256(self._text(work).encode()).digest()[:8] for work in works]
        fingerprint = np.frombuffer(b"".join(prints), dtype="<u8")
        seen: dict[str, NDArray[Any]] = {**columns, "dep_ptr": np.diff(columns["dep_ptr"])}
        if fingerprint.size:
            seen["cost"] = fingerprint[columns["cost"]]
        for name, sha in self._columns.items():
            sha.update(np.ascontiguousarray(seen[name]).data)

    def _text(self, work: Work) -> str:
        """A work as JSON; attentions differ in their context alone, of which every step has its own."""
        if not work.flop:
            return json.dumps(_work_to_json(work))
        rest = work[:_FLOP] + work[_FLOP + 2 :]
        if rest != self._last_rest:  # mostly the same objects, which is found at once
            around = self._around_context.get(rest)
            if around is None:
                row = _work_to_json(work)
                around = self._around_context[rest] = json.dumps(row[:_FLOP])[:-1], json.dumps(row[_FLOP + 2 :])[1:]
            self._last_rest, self._last_around = rest, around
        flop, hbm_bytes = work[_FLOP : _FLOP + 2]
        if type(flop) is int and type(hbm_bytes) is int:
            context = f"{flop}, {hbm_bytes}"
        else:
            context = json.dumps([flop, hbm_bytes])[1:-1]
        return f"{self._last_around[0]}, {context}, {self._last_around[1]}"

    def of(self, static_bytes: int) -> str:
        """16 hex digits of all ops so far with `static_bytes` of HBM in use throughout."""
        parts = [sha.hexdigest() for sha in self._columns.values()]
        return hashlib.sha256(json.dumps([static_bytes, parts]).encode()).hexdigest()[:16]


def _works_to_json(works: Sequence[Work]) -> list[list[Any]]:
    """Rows of plain lists; an attention without a window has no word on it, nor on what it makes first, nor has what
    asks nothing of a table, does not say how storage is read, is of all of an expert, or unpacks nothing.
    """
    return [_work_to_json(work) for work in works]


def _work_to_json(work: Work) -> list[Any]:
    rare = [work.reading, work.piece, work.stored or None]
    while rare and rare[-1] is None:
        rare.pop()
    row = [int(work.kind), [list(g) for g in work.gemms], *work[2:_N_PLAIN]]
    row += [work.n_entries] if work.n_entries or rare else []
    return [*row, _attention_to_json(work), work.fused, *rare]


_FLOP = Work._fields.index("flop")
"""The first of two fields that are a context; bytes of HBM follow."""

_N_PLAIN = Work._fields.index("n_entries")
"""Fields before those that a row may lack."""

_N_ATTENDING = Attending._fields.index("window")
"""The same of an attention."""


def _stored(name: object) -> str:
    if not isinstance(name, str):
        raise ValueError("the format of a cost row is no text")
    return name


def _attention_to_json(work: Work) -> list[Any] | None:
    if work.attending is None:
        return None
    row = list(work.attending)
    while len(row) > _N_ATTENDING and not row[-1]:
        row.pop()
    return row


def _works_from_json(rows: list[list[Any]]) -> tuple[Work, ...]:
    least = _N_PLAIN + 2
    if any(not least <= len(row) <= len(Work._fields) for row in rows):
        raise ValueError("a cost row has the wrong number of fields")
    return tuple(_work_from_json(row if len(row) > least else [*row[:-2], 0, *row[-2:]]) for row in rows)


def _work_from_json(row: list[Any]) -> Work:
    work = Work(OpKind(row[0]), tuple(Gemm(*gemm) for gemm in row[1]), *row[2:])
    attending = None if work.attending is None else Attending(*work.attending)
    return work._replace(
        attending=attending,
        fused=None if work.fused is None else FusedExperts(*work.fused),
        reading=None if work.reading is None else ReadRounds(*work.reading),
        piece=None if work.piece is None else Piece(*work.piece),
        stored=_stored(work.stored),
    )


assert {f.name for f in fields(Schedule)} - {"works", "static_bytes", "_digest"} == set(COLUMNS)
