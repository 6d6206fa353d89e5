"""When the threads of a run were kept from running by other work of the machine, and what the run was without it.

A scheduler that gives a core to someone else does so for a tick or a slice, 1 to 4 ms on Linux, which is ten times what
a small op takes: it falls on some ops and not on others. A thread that does not run has no processor time, and a lane
whose thread waits to run says so in /proc/thread-self/schedstat.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from offload.ops import Lane

LEAST_NS = 500_000
"""What is shorter is of the run itself: threads of a quiet machine that hand the interpreter lock to each other wait 20
us at a time."""

AWAKE_NS = 50_000
"""What a thread of a quiet machine takes to wake up (30 to 50 us, two cores under KVM), which is of the run too."""


@dataclass(frozen=True, slots=True, eq=False)
class Interruptions:
    """Seconds, (n_ops,) each: `on_lane_s` in which an op was kept from running on its lane, `host_s` in which the host
    was kept from issuing it since it issued or waited for another; `issued_s`: when it was issued, or the host began to
    wait, from the zero of the run.
    """

    on_lane_s: NDArray[np.float64]
    host_s: NDArray[np.float64]
    issued_s: NDArray[np.float64]

    @property
    def total_s(self) -> float:
        """Of all threads together."""
        return float(self.on_lane_s.sum() + self.host_s.sum())


def uninterrupted(
    lanes: Sequence[int],
    waits: Sequence[Sequence[int]],
    start_s: NDArray[np.float64],
    end_s: NDArray[np.float64],
    lost: Interruptions,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Start and end of every op, had no thread been kept from running: lanes in order, each op as long as it ran.

    `waits`: for each op those of other lanes that it waits for. What was not interrupted stays as it was, to rounding.
    """
    start, end = np.zeros_like(start_s), np.zeros_like(end_s)
    free = dict.fromkeys(Lane, 0.0)
    host_s = then_s = 0.0  # when the host is at the next op; when it was, in the run
    for op, lane in enumerate(lanes):
        host_s += lost.issued_s[op] - then_s - lost.host_s[op]
        then_s = float(lost.issued_s[op])
        lasted_s = max(end_s[op] - start_s[op] - lost.on_lane_s[op], 0.0)
        ready_s = max([host_s, *(end[dep] for dep in waits[op])])
        if lane == Lane.HOST:
            start[op], end[op] = ready_s, ready_s + lasted_s
            host_s, then_s = float(end[op]), float(end_s[op])
            continue
        start[op] = max(ready_s, free[Lane(lane)])
        free[Lane(lane)] = end[op] = start[op] + lasted_s
    return start, end


def interrupted_ns(idle_ns: int, own_ns: int = 0) -> int:
    """What other work has of the time in which a thread did not run, of which `own_ns` would be its own anyway."""
    return idle_ns - own_ns if idle_ns >= LEAST_NS else 0


class RunQueue:
    """How long the calling thread waits for a core; always 0 where Linux does not say."""

    def __init__(self) -> None:
        self._before_ns = 0
        try:
            self._file = os.open("/proc/thread-self/schedstat", os.O_RDONLY)
        except OSError:
            self._file = -1

    def waited_ns(self) -> int:
        """Nanoseconds since the last call in which the thread could have run and no core was free."""
        if self._file < 0:
            return 0
        before_ns, self._before_ns = self._before_ns, int(os.pread(self._file, 64, 0).split()[1])
        return self._before_ns - before_ns

    def close(self) -> None:
        """Close the file."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
