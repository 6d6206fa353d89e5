"""The timeline: start and end of every op of a schedule, virtual or real, in one schema."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from offload.lanes import computes
from offload.ops import Lane
from offload.schedule import Schedule
from traces.errors import InvalidInput


@dataclass(frozen=True, slots=True, eq=False)
class Timeline:
    """When each op of `schedule` ran: `start_s`, `end_s` (n_ops,) float64, seconds from the first op.

    `source` names the interpreter ("des", "cuda", ...). `copied_bytes` (n_ops,) int64: what each op moved, where copies
    were cancelled; None: all of `schedule.bytes`. Raises `InvalidInput` when an op ends before its
    start or a time is not finite.
    """

    schedule: Schedule
    start_s: NDArray[np.float64]
    end_s: NDArray[np.float64]
    source: str
    copied_bytes: NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        for name in ("start_s", "end_s"):
            array = np.ascontiguousarray(getattr(self, name), dtype=np.float64)
            if array.shape != (len(self.schedule),):
                raise InvalidInput(f"timeline: {name} has shape {array.shape}, not ({len(self.schedule)},)")
            if not np.all(np.isfinite(array)):
                raise InvalidInput(f"timeline: {name} holds a time that is not finite")
            array.flags.writeable = False
            object.__setattr__(self, name, array)
        if np.any(self.end_s < self.start_s):
            raise InvalidInput("timeline: an op ends before it starts")

    @property
    def moved_bytes(self) -> NDArray[np.int64]:
        """Bytes that each op moved, (n_ops,)."""
        return self.schedule.bytes if self.copied_bytes is None else self.copied_bytes

    @property
    def makespan_s(self) -> float:
        """End of the last op."""
        return float(self.end_s.max(initial=0.0))

    def since(self, time_s: float) -> Timeline:
        """What ran from `time_s` on, which is its zero: of an op that began before, the rest; what ended by then takes
        no time and moved nothing.
        """
        start, end = (np.maximum(times - time_s, 0.0) for times in (self.start_s, self.end_s))
        return Timeline(self.schedule, start, end, self.source, np.where(self.end_s > time_s, self.moved_bytes, 0))

    def busy_s(self, lane: Lane) -> float:
        """Time during which `lane` serves an op, counted once where it serves several, as a shared link does, and where
        several cards compute.
        """
        mine = computes(self.schedule.lane) if lane is Lane.COMPUTE else self.schedule.lane == lane
        return self.covered_s(mine)

    def covered_s(self, ops: NDArray[np.bool_]) -> float:
        """Time during which at least one of `ops` (n,) runs."""
        start, end = self.start_s[ops], self.end_s[ops]
        order = np.argsort(start, kind="stable")
        start, end = start[order], end[order]
        before = np.concatenate([[-np.inf], np.maximum.accumulate(end)[:-1]])[: len(end)]
        return float(np.sum(np.maximum(end - np.maximum(start, before), 0)))

    def hbm_events(self) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Times (n,) and HBM bytes in use from each on; at one time, releases come before what is taken."""
        schedule = self.schedule
        taken, given = schedule.hbm_acquired > 0, schedule.hbm_released > 0
        times = np.concatenate([self.end_s[given], self.start_s[taken]])
        deltas = np.concatenate([-schedule.hbm_released[given], schedule.hbm_acquired[taken]])
        order = np.argsort(times, kind="stable")
        return times[order], schedule.static_bytes + np.cumsum(deltas[order])

    @property
    def peak_hbm_bytes(self) -> int:
        """Most HBM in use at any time, static bytes included."""
        return int(max(self.hbm_events()[1].max(initial=0), self.schedule.static_bytes))
