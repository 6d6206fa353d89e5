"""The definition: a schedule executed on SimPy, lane by lane, in virtual time.

Exactness contract of FIFO lanes, shared with every other interpreter, in float64 and in this order:

- an op on `HOST`: `start = max(host free, dependencies)`, and the host is busy until `end`;
- any other op: the host is busy for its issue cost first, then
  `start = max(lane free, host issue, dependencies)`;
- `end = start + duration`.

What FIFO lanes cannot say is defined in `simulator.modes` and runs in `simulator.definition.des_timed`. HBM is checked
in both.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable
from typing import Any

import numpy as np
import simpy

from hwmodels.cost import Costs
from offload.lanes import n_lanes
from offload.ops import Lane
from offload.schedule import Schedule
from offload.slots.copy_runs import unrolled
from offload.timeline import Timeline
from simulator.costs import check_costs, one_by_one
from simulator.definition.des_timed import TimedMachine
from simulator.definition.hbm import Hbm
from simulator.modes import FIFO, Modes

_Process = Generator[simpy.Event, Any, None]


def simulate(schedule: Schedule, costs: Costs, hbm_bytes: int, modes: Modes = FIFO) -> Timeline:
    """Run `schedule` and return when every op started and ended.

    `costs`: (n_works,) by row of `schedule.works`. `hbm_bytes`: capacity of the device. `modes`: what FIFO lanes cannot
    say; those see runs of copies one by one, and the timeline is then of `offload.slots.copy_runs.unrolled`.
    Deterministic. Raises `InvalidInput` for times that are negative, not finite or of another length and for an op that
    gives back HBM nobody took, `CapacityExceeded` when HBM would be overdrawn.
    """
    check_costs(schedule, costs)
    copies = None if modes.is_fifo else unrolled(schedule)
    if copies is not None:
        schedule, costs = copies.schedule, one_by_one(costs, copies)
    env = simpy.Environment()
    hbm = Hbm(env, schedule, hbm_bytes)
    machine = (
        _FifoMachine(env, schedule, costs, hbm) if modes.is_fifo else TimedMachine(env, schedule, costs, hbm, modes)
    )
    env.run()
    copied = machine.copied_bytes(schedule) if isinstance(machine, TimedMachine) else None
    return Timeline(schedule, np.array(machine.start_s), np.array(machine.end_s), "des", copied)


class _FifoMachine:
    """The host and the lanes of one run, a process each; that an op is issued, or done, is an event."""

    def __init__(self, env: simpy.Environment, schedule: Schedule, costs: Costs, hbm: Hbm) -> None:
        n_ops, cost = len(schedule), schedule.cost
        self.env, self.hbm = env, hbm
        self.lane = schedule.lane.tolist()
        self.issue_s, self.duration_s = costs.issue_s[cost].tolist(), costs.duration_s[cost].tolist()
        self.dep_ptr, self.dep = schedule.dep_ptr.tolist(), schedule.dep.tolist()
        self.start_s, self.end_s = [0.0] * n_ops, [0.0] * n_ops
        self.issued = [simpy.Event(env) for _ in range(n_ops)]
        self.done = [simpy.Event(env) for _ in range(n_ops)]
        env.process(self._issue(range(n_ops)))
        for lane in range(1, n_lanes(schedule.lane)):
            env.process(self._serve(np.flatnonzero(schedule.lane == lane).tolist()))

    def _issue(self, ops: Iterable[int]) -> _Process:
        """The host: issues ops in order, and runs its own."""
        for i in ops:
            if self.lane[i] == Lane.HOST:
                yield from self._run(i)
            else:
                yield self.env.timeout(self.issue_s[i])
                self.issued[i].succeed()

    def _serve(self, ops: Iterable[int]) -> _Process:
        """One lane: first in, first out, one op at a time."""
        for i in ops:
            yield self.issued[i]
            yield from self._run(i)

    def _run(self, i: int) -> _Process:
        for dep in self.dep[self.dep_ptr[i] : self.dep_ptr[i + 1]]:
            yield self.done[dep]
        self.start_s[i] = self.env.now
        self.hbm.take(i)
        yield self.env.timeout(self.duration_s[i])
        self.end_s[i] = self.env.now
        self.hbm.give_back(i)
        self.done[i].succeed()
