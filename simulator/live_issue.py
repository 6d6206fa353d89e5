"""A schedule that its host decides and issues as it runs: the time of every decision, and who is in whose way.

The host makes up its mind about an op, issues it and goes on; a lane starts it once lane and dependencies allow. Where
host and compute lane share an interpreter, each goes at a share of its rate while the other is at work. With no time
for decisions but that of `issue_s` and nobody in the way, times are those of `simulator.recurrence`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from offload.ops import Lane
from offload.schedule import Schedule
from offload.timeline import Timeline
from traces.errors import InvalidInput

_MOST_OF_CORE = 0.5
"""Of a core that two threads want, each gets its half."""

_NOTHING: Mapping[int, int] = {}


@dataclass(frozen=True, slots=True, eq=False)
class Deciding:
    """What issuing live costs. `host_s` (n_ops,): the host's time to decide and issue each op, alone; `slowed`
    (n_ops,): how many times as long an op takes while the host decides, 1 or above; `host_slowed`: the host while the
    compute lane runs. `asked`: op -> the op whose end the host waits for before it decides, with nothing in the
    schedule that says so; `woken_s`: what waking up from that takes. `core_s` (n_ops,): processor time of the host's
    own core that an op takes as long as it runs; the host has what is left, half of it at least.
    """

    host_s: NDArray[np.float64]
    slowed: NDArray[np.float64]
    host_slowed: float = 1.0
    asked: Mapping[int, int] = field(default_factory=lambda: _NOTHING)
    woken_s: float = 0.0
    core_s: NDArray[np.float64] | None = None

    def __post_init__(self) -> None:
        if self.host_s.shape != self.slowed.shape or np.any(self.host_s < 0) or np.any(self.slowed < 1):
            raise InvalidInput("times of deciding are 0 or above and slowdowns 1 or above, one an op")
        if self.host_slowed < 1 or self.woken_s < 0:
            raise InvalidInput(f"host_slowed = {self.host_slowed:g}, woken_s = {self.woken_s:g}: at least 1 and 0")
        if self.core_s is not None and (self.core_s.shape != self.host_s.shape or np.any(self.core_s < 0)):
            raise InvalidInput("what ops take of the host's core is 0 s or above, one an op")


def issued_live(schedule: Schedule, duration_s: NDArray[np.float64], deciding: Deciding) -> Timeline:
    """When each op runs, `duration_s` (n_ops,) being what it takes alone. Raises `InvalidInput` for other lengths."""
    if not len(schedule) == len(duration_s) == len(deciding.host_s):
        raise InvalidInput(f"{len(schedule)} ops, {len(duration_s)} durations, {len(deciding.host_s)} decisions")
    start_s, end_s = _Run(schedule, duration_s, deciding).times()
    return Timeline(schedule, start_s, end_s, "issued live")


class _Run:
    """One run through time: the host at one op, each lane at one or none."""

    def __init__(self, schedule: Schedule, duration_s: NDArray[np.float64], deciding: Deciding) -> None:
        dep, ends = schedule.dep.tolist(), schedule.dep_ptr.tolist()
        self.deps: list[Sequence[int]] = [dep[ends[i] : ends[i + 1]] for i in range(len(schedule))]
        self.lane: list[int] = schedule.lane.tolist()
        self.duration_s, self.host_s = duration_s.tolist(), deciding.host_s.tolist()
        self.slowed, self.deciding = deciding.slowed.tolist(), deciding
        core_s = np.zeros(len(schedule)) if deciding.core_s is None else deciding.core_s
        shares = np.divide(core_s, duration_s, out=np.zeros(len(schedule)), where=(core_s > 0) & (duration_s > 0))
        self.core_share: list[float] = shares.tolist()
        self.now, self.at = 0.0, 0  # the op that the host is at
        self.start_s, self.end_s = [-1.0] * len(schedule), [-1.0] * len(schedule)
        self.queues: dict[int, deque[int]] = {int(lane): deque() for lane in Lane if lane is not Lane.HOST}
        self.running: dict[int, list[float]] = {}  # lane -> the op and what is left of it
        self.stages: deque[tuple[str, float]] = deque()  # what the host has before it: at its op
        self.left = 0.0

    def times(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Start and end of every op, (n_ops,) each, in seconds."""
        self._arrive()
        while True:
            self._settle()
            if not self._advance():
                break
        return np.array(self.start_s), np.array(self.end_s)

    def _arrive(self) -> None:
        """The host turns to its next op: waits for what it asks, decides, and runs what is its own."""
        if self.at == len(self.lane):
            return
        self.stages.clear()
        if self.at in self.deciding.asked:
            self.stages += [("ask", 0.0), ("sleep", self.deciding.woken_s)]
        self.stages.append(("decide", self.host_s[self.at]))
        if self.lane[self.at] == Lane.HOST:
            self.stages += [("wait", 0.0), ("sleep", self.duration_s[self.at])]
        self.left = self.stages[0][1]

    def _settle(self) -> None:
        """Everything that takes no time: stages that are over, ops that can start."""
        moved = True
        while moved:
            moved = self._host_moves()
            for lane, queue in self.queues.items():
                if queue and lane not in self.running and all(self.end_s[dep] >= 0 for dep in self.deps[queue[0]]):
                    op = queue.popleft()
                    self.start_s[op] = self.now
                    self.running[lane] = [op, self.duration_s[op]]
                    moved = True

    def _host_moves(self) -> bool:
        if self.at == len(self.lane):
            return False
        stage = self.stages[0][0]
        if stage == "ask":
            over = self.end_s[self.deciding.asked[self.at]] >= 0
        elif stage == "wait":
            over = all(self.end_s[dep] >= 0 for dep in self.deps[self.at])
        else:
            over = self.left <= 0
        if not over:
            return False
        if stage == "wait":
            self.start_s[self.at] = self.now
        self.stages.popleft()
        if self.stages:
            self.left = self.stages[0][1]
            return True
        if self.lane[self.at] == Lane.HOST:
            self.end_s[self.at] = self.now
        else:
            self.queues[self.lane[self.at]].append(self.at)
        self.at += 1
        self._arrive()
        return True

    def _host_takes(self) -> float:
        """How many times as long as alone the host takes to decide, beside what runs now."""
        taken = sum(self.core_share[int(op)] for op, _ in self.running.values())
        beside = self.deciding.host_slowed if int(Lane.COMPUTE) in self.running else 1.0
        return beside / (1 - min(taken, _MOST_OF_CORE))

    def _advance(self) -> bool:
        """On to the next thing that ends; False where nothing does any more."""
        at_work = self.at < len(self.lane) and self.stages[0][0] in ("decide", "sleep")
        decides = at_work and self.stages[0][0] == "decide"
        host_takes = self._host_takes() if decides else 1.0
        takes = {lane: self.slowed[int(op)] if decides else 1.0 for lane, (op, _) in self.running.items()}
        spans = [left * takes[lane] for lane, (_, left) in self.running.items()]
        if at_work:
            spans.append(self.left * host_takes)
        if not spans:
            return False
        span_s = min(spans)
        self.now += span_s
        if at_work:
            ends = self.left * host_takes <= span_s
            self.left = 0.0 if ends else self.left - span_s / host_takes
        for lane, (op, left) in list(self.running.items()):
            if left * takes[lane] <= span_s:
                self.end_s[int(op)] = self.now
                del self.running[lane]
            else:
                self.running[lane][1] = left - span_s / takes[lane]
        return True
