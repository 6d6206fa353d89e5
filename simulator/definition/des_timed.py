"""The definition of what FIFO lanes cannot say (`simulator.modes`), on SimPy: a process a lane, a process an op.

One instant in order: ends are events of SimPy's normal priority; the host and the lanes choose at priorities of their
own behind it, the lowest lane first, and give way after every choice; rates change last.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import numpy as np
import simpy
from numpy.typing import NDArray
from simpy.events import NORMAL, EventPriority

from hwmodels.cost import Costs
from offload.ops import Lane
from offload.schedule import Schedule
from simulator.definition.flow import Flow
from simulator.definition.hbm import Hbm
from simulator.modes import LINKS, Modes, chunks, copied_bytes, require_one_card
from simulator.resources import TRANSFER, WHOLE, demands_of

_Process = Generator[simpy.Event, Any, None]


class _Turn(simpy.Event):
    """An event of the present instant, after all that have a lower priority number."""

    def __init__(self, env: simpy.Environment, priority: EventPriority) -> None:
        super().__init__(env)
        self._ok, self._value = True, None
        env.schedule(self, priority)


class TimedMachine:
    """The host and the lanes of one run under `modes`; after `env.run()`, `start_s` and `end_s` of every op."""

    def __init__(self, env: simpy.Environment, schedule: Schedule, costs: Costs, hbm: Hbm, modes: Modes) -> None:
        n_ops, cost = len(schedule), schedule.cost
        self.env, self.hbm, self.modes = env, hbm, modes
        self.lane, self.priority = schedule.lane.tolist(), schedule.priority.tolist()
        self.issue_s, self.duration_s = costs.issue_s[cost].tolist(), costs.duration_s[cost].tolist()
        self.link_s, self.cost, self.draws = costs.link_s[cost].tolist(), cost.tolist(), demands_of(costs, modes)
        self.dep_ptr, self.dep = schedule.dep_ptr.tolist(), schedule.dep.tolist()
        self.n_chunks = chunks(schedule, modes).tolist()
        self.n_served = [1] * n_ops if modes.link == "shared" else self.n_chunks
        self.n_left = list(self.n_served)
        self.cancelled_by = schedule.cancelled_by.tolist() if modes.cancel else [-1] * n_ops
        self.cancels: dict[int, list[int]] = {}
        for i, by in enumerate(self.cancelled_by):
            self.cancels.setdefault(by, []).append(i)
        self.start_s: list[float | None] = [None] * n_ops
        self.end_s: list[float | None] = [None] * n_ops
        self.done = [simpy.Event(env) for _ in range(n_ops)]
        require_one_card(schedule.lane)
        self.ready: dict[int, set[int]] = {lane: set() for lane in Lane}
        self.queue = {lane: np.flatnonzero(schedule.lane == lane)[::-1].tolist() for lane in Lane}
        self.idle: dict[int, simpy.Event] = {}
        self.flow = Flow(env, self.draws.divided.tolist(), lambda: self._turn(len(Lane)))
        env.process(self._issue())
        for lane in list(Lane)[1:]:
            env.process(self._serve(lane))

    def copied_bytes(self, schedule: Schedule) -> NDArray[np.int64] | None:
        """Bytes that each op moved, (n_ops,); None where none could be cancelled."""
        served, left = (np.array(counts, dtype=np.int32) for counts in (self.n_served, self.n_left))
        return copied_bytes(schedule, self.modes, served, left)

    def _issue(self) -> _Process:
        """The host: issues ops in order, and runs its own unless they are cancelled."""
        for i in range(len(self.lane)):
            if self.lane[i] != Lane.HOST:
                yield self.env.timeout(self.n_chunks[i] * self.issue_s[i])
                self.env.process(self._admit(i))
                continue
            self.env.process(self._admit(i))
            while True:
                yield self._turn(Lane.HOST)
                if self._is_cancelled(i):
                    break
                if i in self.ready[Lane.HOST]:
                    self.ready[Lane.HOST].remove(i)
                    yield from self._run_chunk(i)
                    break
                yield self._call(Lane.HOST)

    def _admit(self, i: int) -> _Process:
        """An issued op: ready when its dependencies have ended."""
        for dep in self.dep[self.dep_ptr[i] : self.dep_ptr[i + 1]]:
            yield self.done[dep]
        self._ready(i)

    def _ready(self, i: int) -> None:
        """Op `i` could start, or go on with its next chunk."""
        self.ready[self.lane[i]].add(i)
        if self._is_cancelled(i):
            self._drop(i)
        self._wake(self.lane[i])

    def _serve(self, lane: Lane) -> _Process:
        """One lane: whenever it is free, it chooses; a shared link is always free."""
        while True:
            yield self._turn(lane)
            i = self._choose(lane)
            if i is None:
                yield self._call(lane)
            elif self._shares(lane):
                self.env.process(self._run_chunk(i))
            else:
                yield from self._run_chunk(i)

    def _choose(self, lane: Lane) -> int | None:
        """The op that `lane` serves next: taken out of those that are ready; None if there is none."""
        ready = self.ready[lane]
        if self._shares(lane):
            chosen = min(ready, default=None)
        elif lane in LINKS and self.modes.link == "priority":
            chosen = min(ready, key=lambda i: (self.priority[i], i), default=None)
        else:
            queue = self.queue[lane]
            while queue and (self.end_s[queue[-1]] is not None or self._is_cancelled(queue[-1])):
                queue.pop()
            chosen = queue[-1] if queue and queue[-1] in ready else None
        if chosen is not None:
            ready.remove(chosen)
        return chosen

    def _run_chunk(self, i: int) -> _Process:
        """Op `i` is served: all of it, or its next chunk."""
        if self.start_s[i] is None:
            self._start(i)
        yield from self._work(i)
        self.n_left[i] -= 1
        if self.n_left[i]:
            self._ready(i)
        else:
            self._end(i)

    def _work(self, i: int) -> _Process:
        """The time of one chunk: fixed, or in pieces at a rate that depends on what else is under way."""
        lane, n_chunks, duration_s, link_s = self.lane[i], self.n_chunks[i], self.duration_s[i], self.link_s[i]
        latency_s, n_at_once = max(duration_s - link_s, 0.0), n_chunks if self._shares(lane) else 1
        if not self.draws.flowing >> lane & 1:
            yield self.env.timeout(duration_s if n_chunks == 1 else latency_s + link_s / n_chunks)
        elif lane in LINKS and link_s > 0:
            yield self.env.timeout(latency_s * n_at_once)
            transfer_s = link_s / (n_chunks // n_at_once)
            yield from self.flow.work(i, lane, transfer_s, self.draws.of(lane, TRANSFER, self.cost[i]))
        elif duration_s > 0:
            yield from self.flow.work(i, lane, duration_s * n_at_once, self.draws.of(lane, WHOLE, self.cost[i]))

    def _shares(self, lane: int) -> bool:
        return lane in LINKS and self.modes.link == "shared"

    def _start(self, i: int) -> None:
        self.start_s[i] = self.env.now
        self.hbm.take(i)

    def _end(self, i: int) -> None:
        """Op `i` has ended: what waited for it goes on, and what it makes pointless is dropped."""
        self.end_s[i] = self.env.now
        self.hbm.give_back(i)
        self.done[i].succeed()
        for victim in self.cancels.get(i, ()):
            if victim in self.ready[self.lane[victim]]:
                self._drop(victim)
            self._wake(self.lane[victim])

    def _is_cancelled(self, i: int) -> bool:
        return self.cancelled_by[i] >= 0 and self.end_s[self.cancelled_by[i]] is not None

    def _drop(self, i: int) -> None:
        """Op `i` is cancelled while it is ready: it ends without its lane, or without the rest of its chunks."""
        self.ready[self.lane[i]].remove(i)
        if self.start_s[i] is None:
            self._start(i)
        self._end(i)

    def _turn(self, lane: int) -> simpy.Event:
        """Once everything that ends now has ended, the host can go no further and no lower lane can choose."""
        return _Turn(self.env, EventPriority(NORMAL + 1 + lane))

    def _call(self, lane: int) -> simpy.Event:
        """When `lane` is woken."""
        self.idle[lane] = simpy.Event(self.env)
        return self.idle[lane]

    def _wake(self, lane: int) -> None:
        if lane in self.idle:
            self.idle.pop(lane).succeed()
