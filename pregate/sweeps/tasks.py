"""The unit of work of a sweep, one schedule priced on some machines: a pure function of a value one can send anywhere.

Nothing here knows which points it serves or who runs it.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

import compiled
import hwmodels
import offload
import pregate
import simulator
import traces
from hwmodels.platform import Platform
from offload.decode import is_large
from offload.schedule import COLUMNS
from offload.slots.memory import CapacityExceeded
from pregate.ask.capturing.capture import Captured, capture_request
from pregate.ask.capturing.request import Request
from pregate.ask.capturing.schedule_cache import ScheduleCache, source_digest
from pregate.ask.timing.evaluation import evaluate, made_ready
from pregate.sweeps.planning import Hole
from simulator.batched.batch import Compiled
from simulator.modes import Modes
from traces.errors import InvalidInput

_MEMO_BYTES = 1 << 29
"""Schedules that a process keeps in memory (512 MiB)."""


@dataclass(frozen=True, slots=True, eq=False)
class Task:
    """Price the schedule of `request` on `n_machines` that differ from `hw` in `values` (figure keys -> (n,) SI).

    `key`: equal for equal requests only, in this sweep and in any other.
    """

    request: Request
    key: str
    hw: Platform
    values: Mapping[str, NDArray[np.float64]]
    n_machines: int
    modes: Modes
    draws: int
    seed: int
    schedules: ScheduleCache | None


@dataclass(frozen=True, slots=True, eq=False)
class TaskOutcome:
    """What became of a task: the fields of its results, (n_machines,) or (n_machines, 2), or why there are none."""

    fields: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    schedule_digest: str = ""
    hole: Hole | None = None


def run_task(task: Task) -> TaskOutcome:
    """The results of a task, whatever thread, process or machine it runs on. What cannot be is an outcome too."""
    try:
        captured, ready = _memo().get(f"{task.key} {task.modes.is_fifo}", lambda: _capture(task))
        fields = evaluate(
            captured, task.hw, task.values, task.n_machines, modes=task.modes, draws=task.draws, seed=task.seed,
            ready=ready,
        )  # fmt: skip
    except CapacityExceeded as error:
        return TaskOutcome(hole=Hole(str(error), error.needed_bytes, error.memory))
    except InvalidInput as error:
        return TaskOutcome(hole=Hole(str(error)))
    return TaskOutcome(fields, captured.decoded.schedule.digest)


def task_digest(task: Task) -> str:
    """16 hex digits of the SHA-256 of all that the outcome depends on: equal in every run of the same code."""
    parts = (_code(), task.key, task.hw, task.n_machines, task.modes, task.draws, task.seed)
    state = hashlib.sha256(repr(parts).encode())
    for name, values in sorted(task.values.items()):
        state.update(name.encode())
        state.update(np.ascontiguousarray(values, dtype="<f8").data)
    return state.hexdigest()[:16]


_Made = tuple[Captured, Compiled | None]
"""A schedule, and the same made ready for FIFO machines, where these run it."""


def _capture(task: Task) -> _Made:
    compiled = _memo().compiles
    if task.schedules is None:
        captured = capture_request(task.request, compiled=compiled)
    else:
        captured = task.schedules.captured(task.request, compiled=compiled)
    return captured, made_ready(captured) if task.modes.is_fifo else None


@cache
def _code() -> str:
    return source_digest([compiled, hwmodels, offload, pregate, simulator, traces])


class _Memo:
    """The schedules that this process used last; one that two threads ask for is written once."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes, self._n_bytes = max_bytes, 0
        self._kept: OrderedDict[str, _Made] = OrderedDict()
        self._making: dict[str, Lock] = {}
        self._lock = Lock()
        self._n_ops = 0  # written so far

    @property
    def compiles(self) -> bool | None:
        """Whether compiled code pays for the next schedule, small as it may be; None: as for one alone."""
        return is_large(self._n_ops) or None

    def get(self, key: str, make: Callable[[], _Made]) -> _Made:
        """What `make` makes of `key`, made now or before."""
        with self._lock:
            making = self._making.setdefault(key, Lock())
        with making:
            with self._lock:
                if key in self._kept:
                    self._kept.move_to_end(key)
                    return self._kept[key]
            made = make()
            with self._lock:
                self._n_ops += len(made[0].decoded.schedule)
                if key not in self._kept:
                    self._n_bytes += _n_bytes(made)
                self._kept[key] = made
                while len(self._kept) > 1 and self._n_bytes > self._max_bytes:
                    gone, oldest = self._kept.popitem(last=False)
                    self._n_bytes -= _n_bytes(oldest)
                    self._making.pop(gone, None)
            return made


def _n_bytes(made: _Made) -> int:
    captured, ready = made
    n_bytes = 0 if ready is None else ready.code.n_bytes
    for name in COLUMNS:
        n_bytes += getattr(captured.decoded.schedule, name).nbytes
    return n_bytes


@cache
def _memo() -> _Memo:
    return _Memo(_MEMO_BYTES)
