"""The cores that this thread may run on, and which of them is fastest now.

On a shared host the other hardware thread of a core is someone else's, and the same loop takes once or twice as long
there, for tenths of a second to minutes. Which cores are slow changes; some core is fast at any time where there are
several (LOG.md, 2026-11-29).
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable

LEAST_CORES = 4
"""With fewer, there is none to spare for a thread alone."""

_N, _SHORT_N = 20_000, 4_000
"""Steps of the loop; of the one that picks a core before a run, of which there are hundreds in a session."""

_TRIES = 3


def loop_s(n_tries: int, n: int = _N) -> float:
    """The time of a fixed loop of `n` steps, the best of several: a processor whose clock fell, or is shared, takes
    longer.
    """
    times = []
    for _ in range(n_tries):
        begin = time.perf_counter()
        sum(range(n))
        times.append(time.perf_counter() - begin)
    return min(times)


def loop_s_by_core(cores: Iterable[int], n: int = _N) -> dict[int, float]:
    """The same on each of `cores`, on which this thread runs in turn; where it may run is as before in the end."""
    before = os.sched_getaffinity(0)
    found = {}
    try:
        for core in cores:
            os.sched_setaffinity(0, {core})
            found[core] = loop_s(_TRIES, n)
    finally:
        os.sched_setaffinity(0, before)
    return found


class OnFastestCore:
    """`enter`: this thread runs on the core that is fastest now, until `leave`. Threads that it starts meanwhile would
    too. Nothing happens on fewer than four cores, and where a system has no say in it.
    """

    def __init__(self) -> None:
        self._before: set[int] | None = None

    def enter(self) -> None:
        """Move this thread."""
        cores = own_cores()
        if self._before is None and len(cores) >= LEAST_CORES:
            times = loop_s_by_core(sorted(cores), _SHORT_N)
            self._before = cores
            os.sched_setaffinity(0, {min(times, key=lambda core: times[core])})

    def leave(self) -> None:
        """Let it run where it could before; again does nothing."""
        before, self._before = self._before, None
        if before is not None:
            os.sched_setaffinity(0, before)


def own_cores() -> set[int]:
    """The cores that this thread may run on; none where the system does not say."""
    return set(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else set()
