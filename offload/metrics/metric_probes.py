"""Which op times the metrics of a schedule read: found once, so that no clock has to keep the times of all ops.

The definitions are those of `offload.metrics`, for lanes that are FIFO: there the first op of a lane starts first.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from offload.metrics.run_metrics import decode_steps, gap_pairs, moe_layers
from offload.ops import TRANSFERS, OpKind
from offload.schedule import Schedule
from traces.routing import RoutingTrace


@dataclass(frozen=True, slots=True, eq=False)
class Probes:
    """Op indices, ascending, of `schedule`.

    `layer_first`, `layer_last`: (n_layers,) of each MoE layer of each decode step, on the compute lane. `step_ends`:
    (n_steps,) the op that ends each forward pass that makes tokens. `gap_from`, `gap_to`: (n_gaps,) places in
    `step_ends` between whose ends a sequence makes one token. `moving`: (n_moving,) ops that move experts.
    """

    schedule: Schedule
    layer_first: NDArray[np.int64]
    layer_last: NDArray[np.int64]
    step_ends: NDArray[np.int64]
    gap_from: NDArray[np.int64]
    gap_to: NDArray[np.int64]
    moving: NDArray[np.int64]


def find_probes(schedule: Schedule, trace: RoutingTrace) -> Probes:
    """The probes of a schedule of `trace`."""
    first, last = moe_layers(schedule.lane, schedule.kind, schedule.step, schedule.layer, decode_steps(trace))
    ends = np.flatnonzero(schedule.kind == OpKind.STEP)
    gap_from, gap_to = gap_pairs(trace, schedule.step[ends])
    moving = np.flatnonzero(np.isin(schedule.kind, TRANSFERS))
    return Probes(schedule, first, last, ends, gap_from, gap_to, moving)


def no_probes(schedule: Schedule) -> Probes:
    """Those of metrics that read the end of the last op alone: the makespan, and rates by it."""
    return Probes(schedule, *(np.zeros(0, np.int64) for _ in range(6)))
