"""The definition: a schedule executed on SimPy, lane by lane, in virtual time.

Exactness contract, shared with every other interpreter, in float64 and in this order:

- an op on `HOST`: `start = max(host free, dependencies)`, and the host is busy until `end`;
- any other op: the host is busy for its issue cost first, then
  `start = max(lane free, host issue, dependencies)`;
- `end = start + duration`.

HBM is a SimPy `Container` that can never be overdrawn: a schedule that tries is a bug and is refused.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import numpy as np
import simpy

from hwmodels.cost import Costs
from offload.memory import CapacityExceeded
from offload.ops import Lane
from offload.schedule import Schedule
from offload.timeline import Timeline
from simulator.costs import check_costs
from traces.errors import InvalidInput

__all__ = ["simulate"]

_Process = Generator[simpy.Event, Any, None]


def simulate(schedule: Schedule, costs: Costs, hbm_bytes: int) -> Timeline:
    """Run `schedule` and return when every op started and ended.

    `costs`: (n_works,) by row of `schedule.works`. `hbm_bytes`: capacity of the device. Deterministic. Raises
    `InvalidInput` for times that are negative, not finite or of another length and for an op that gives back HBM
    nobody took, `CapacityExceeded` when HBM would be overdrawn.
    """
    check_costs(schedule, costs)
    if schedule.static_bytes > hbm_bytes:
        raise CapacityExceeded(f"{schedule.static_bytes} bytes are in use before the first op, HBM has {hbm_bytes}")
    machine = _Machine(schedule, costs, hbm_bytes)
    machine.env.run()
    return Timeline(schedule, np.array(machine.start_s), np.array(machine.end_s), "des")


class _Machine:
    """Lanes, HBM and the host of one run."""

    def __init__(
        self,
        schedule: Schedule,
        costs: Costs,
        hbm_bytes: int,
    ) -> None:
        self.env = simpy.Environment()
        n_ops = len(schedule)
        self.lane, cost = schedule.lane.tolist(), schedule.cost
        self.issue_s, self.duration_s = costs.issue_s[cost].tolist(), costs.duration_s[cost].tolist()
        self.dep_ptr, self.dep = schedule.dep_ptr.tolist(), schedule.dep.tolist()
        self.acquired, self.released = schedule.hbm_acquired.tolist(), schedule.hbm_released.tolist()
        self.start_s, self.end_s = [0.0] * n_ops, [0.0] * n_ops
        self.done = [simpy.Event(self.env) for _ in range(n_ops)]
        self.hbm = simpy.Container(self.env, capacity=hbm_bytes, init=schedule.static_bytes)
        self.static_bytes = schedule.static_bytes
        used = [lane for lane in Lane if lane is not Lane.HOST and lane in schedule.lane]
        self.queues = {int(lane): simpy.Store(self.env) for lane in used}
        for queue in self.queues.values():
            self.env.process(self._serve(queue))
        self.env.process(self._issue(n_ops))

    def _issue(self, n_ops: int) -> _Process:
        """The host: issues ops in order, and runs its own."""
        for i in range(n_ops):
            queue = self.queues.get(self.lane[i])
            if queue is None:
                yield from self._run(i)
            else:
                if self.issue_s[i]:
                    yield self.env.timeout(self.issue_s[i])
                queue.put(i)

    def _serve(self, queue: simpy.Store) -> _Process:
        """One lane: first in, first out, one op at a time."""
        while True:
            yield from self._run((yield queue.get()))

    def _run(self, i: int) -> _Process:
        for dep in self.dep[self.dep_ptr[i] : self.dep_ptr[i + 1]]:
            if not self.done[dep].processed:
                yield self.done[dep]
        self.start_s[i] = self.env.now
        if self.acquired[i]:
            self._take(i)
        yield self.env.timeout(self.duration_s[i])
        self.end_s[i] = self.env.now
        if self.released[i]:
            self._give_back(i)
        self.done[i].succeed()

    def _take(self, i: int) -> None:
        if self.hbm.level + self.acquired[i] > self.hbm.capacity:
            raise CapacityExceeded(
                f"op {i} takes {self.acquired[i]} bytes of HBM, {self.hbm.level} of {self.hbm.capacity} are in use"
            )
        self.hbm.put(self.acquired[i])

    def _give_back(self, i: int) -> None:
        taken = self.hbm.level - self.static_bytes
        if self.released[i] > taken:
            raise InvalidInput(f"op {i} gives back {self.released[i]} bytes of HBM, ops have taken {taken}")
        self.hbm.get(self.released[i])
