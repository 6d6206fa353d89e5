"""The smallest SimPy program for the events of a schedule: the yardstick of `simulator.definition.des`.

A process a lane walks its ops: it waits for the host's word and for dependencies, then for the op's time to pass. No
HBM, no modes, no checks.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import simpy

from hwmodels.cost import Costs
from offload.schedule import Schedule


def simulate(schedule: Schedule, costs: Costs) -> tuple[Any, Any]:
    """Start and end of every op, (n_ops,) seconds each."""
    env = simpy.Environment()
    issue, duration = costs.issue_s[schedule.cost].tolist(), costs.duration_s[schedule.cost].tolist()
    lane, ptr, dep = schedule.lane.tolist(), schedule.dep_ptr.tolist(), schedule.dep.tolist()
    issued, done = [env.event() for _ in lane], [env.event() for _ in lane]
    start, end = np.zeros(len(lane)), np.zeros(len(lane))

    def run(i: int) -> Any:
        for k in range(ptr[i], ptr[i + 1]):
            yield done[dep[k]]
        start[i] = env.now
        yield env.timeout(duration[i])
        end[i] = env.now
        done[i].succeed()

    def host() -> Any:
        for i, here in enumerate(lane):
            if here == 0:
                yield from run(i)
            else:
                yield env.timeout(issue[i])
                issued[i].succeed()

    def serve(mine: list[int]) -> Any:
        for i in mine:
            yield issued[i]
            yield from run(i)

    env.process(host())
    for number in sorted(set(lane) - {0}):
        env.process(serve([i for i, here in enumerate(lane) if here == number]))
    env.run()
    return start, end
