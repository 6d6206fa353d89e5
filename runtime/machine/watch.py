"""What else the machine did while something was timed, and which of several timings count therefore.

Foreign load is processor time that neither this process nor idleness accounts for, and time that a hypervisor gave to
someone else (steal); both from /proc, which Linux has. Neither shows a core whose other hardware thread is someone
else's: there the same loop takes up to twice as long, for seconds or minutes. So a loop is timed before and after, and
both must take about as long as the fastest seen in the session. No machine is refused for its load: quiet timings count
where there are any, the less disturbed ones otherwise.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from runtime.machine.cores import LEAST_CORES, loop_s, loop_s_by_core, own_cores
from traces.errors import PregateError

_N_LOOPS = 10
"""The best of so many is the clock's."""


class Busy(PregateError):
    """The machine does so much else that nothing can be said of its times."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What is still quiet: `foreign`, `steal` in cores' worth of time; `clock`: how far a loop's time may grow.

    On virtual machines the same loop was seen to take a third more or less from one second to the next, with nothing
    else running; what that does to times is seen by timing them again.
    """

    foreign: float
    steal: float
    clock: float = 0.5


def limits_of(n_cores: int) -> Limits:
    """What is still quiet on so many cores: load was weighed on two, more have more room for it."""
    pairs = max(1.0, n_cores / 2)
    return Limits(foreign=0.06 * pairs, steal=0.03 * pairs)


LIMITS = limits_of(os.cpu_count() or 1)
"""On two cores foreign load was seen to leave medians alone below a sixteenth of a core, and to cost 4 % at a tenth."""


@dataclass(frozen=True, slots=True)
class Reading:
    """Seconds since boot: of all processors, of this process, and stolen; None where /proc does not say."""

    wall_s: float
    own_s: float
    busy_s: float | None
    steal_s: float | None
    loop_s: float

    @classmethod
    def now(cls, *, any_core: bool = False) -> Reading:
        """Read the counters and time the clock loop; with `any_core`, on the core where it is fastest."""
        busy, steal = _processors()
        cores = sorted(own_cores()) if any_core else []
        taken_s = min(loop_s_by_core(cores).values()) if len(cores) >= LEAST_CORES else loop_s(_N_LOOPS)
        return cls(time.monotonic(), _own_s(), busy, steal, taken_s)


@dataclass(frozen=True, slots=True)
class Seen:
    """Between two readings: `foreign`, `steal` in cores' worth of time, `clock` the slower loop over the fastest."""

    foreign: float
    steal: float
    clock: float

    def disturbance(self, limits: Limits = LIMITS) -> str | None:
        """What was wrong, in one line; None on a quiet machine."""
        if self.foreign > limits.foreign:
            return f"other processes used {self.foreign:.2f} cores (at most {limits.foreign:g})"
        if self.steal > limits.steal:
            return f"the hypervisor took {self.steal:.2f} cores away (at most {limits.steal:g})"
        if self.clock > 1 + limits.clock:
            return f"the same loop took {self.clock:.2f} times as long as at its fastest (at most {1 + limits.clock:g})"
        return None

    def load(self, limits: Limits = LIMITS) -> float:
        """How many times the limit that it comes closest to, or is furthest beyond; 1 is the most that is quiet."""
        clock = math.log(self.clock) / math.log(1 + limits.clock)
        return max(self.foreign / limits.foreign, self.steal / limits.steal, clock)


@dataclass
class Clock:
    """The fastest that the loop was, of all readings that share it. `any_core`: what is timed runs on the fastest."""

    fastest_s: float = math.inf
    any_core: bool = False

    def see(self, *readings: Reading) -> float:
        """How many times as long as at its fastest the slowest of the loops of `readings` took."""
        self.fastest_s = min(self.fastest_s, *(one.loop_s for one in readings))
        return max(one.loop_s for one in readings) / self.fastest_s


class LoadWatch:
    """`with LoadWatch(clock) as watch: ...`, then `watch.seen`. `clock`: of the session; of its own without."""

    seen: Seen

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or Clock()

    def __enter__(self) -> LoadWatch:
        self._before = Reading.now(any_core=self._clock.any_core)
        return self

    def __exit__(self, *_: object) -> None:
        self.seen = between(self._before, Reading.now(any_core=self._clock.any_core), self._clock)


def between(before: Reading, after: Reading, clock: Clock) -> Seen:
    """What happened from one reading to another."""
    wall_s = max(after.wall_s - before.wall_s, 1e-9)
    foreign = steal = 0.0
    if before.busy_s is not None and after.busy_s is not None:
        foreign = max(0.0, (after.busy_s - before.busy_s) - (after.own_s - before.own_s)) / wall_s
    if before.steal_s is not None and after.steal_s is not None:
        steal = (after.steal_s - before.steal_s) / wall_s
    return Seen(foreign, steal, clock.see(before, after))


def counting(seen: Sequence[Seen], limits: Limits = LIMITS) -> list[int]:
    """Which of several timings count, in order: the quiet ones, or where none was, the less disturbed half, two of them
    at least where there are two: what was timed once says nothing of its scatter.
    """
    quiet = [i for i, one in enumerate(seen) if one.disturbance(limits) is None]
    if quiet:
        return quiet
    by_load = sorted(range(len(seen)), key=lambda i: seen[i].load(limits))
    return sorted(by_load[: max(2, (len(seen) + 1) // 2)])


def _own_s() -> float:
    times = os.times()
    return times.user + times.system


def _processors() -> tuple[float | None, float | None]:
    """Seconds that all processors were busy, and that were stolen, since boot; stolen time is not busy."""
    stat = Path("/proc/stat")
    if not stat.exists():
        return None, None
    ticks = [int(text) for text in stat.read_text().split("\n", 1)[0].split()[1:9]]
    user, nice, system, _idle, _iowait, irq, softirq, steal = ticks
    per_s = os.sysconf("SC_CLK_TCK")
    return (user + nice + system + irq + softirq) / per_s, steal / per_s
