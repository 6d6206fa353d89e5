"""A schedule on machines before code for many of them is compiled: small ones on all at once, the recurrence with a
vector, one number a machine, for every time; large ones on one machine after the other.

The same sums in the same order as `recurrence`, so the same times.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hwmodels.cost import Costs
from offload.lanes import n_lanes
from offload.metrics.metric_probes import Probes
from offload.schedule import Schedule
from simulator.recurrence import walked

FEW_OPS = 50_000
"""Schedules of up to so many ops are done in less time than compiled code takes to load, on a thousand machines."""

MOST_ENDS = 1 << 23
"""Ops times machines that are walked one machine after the other in less time than it takes to compile code for all."""


@dataclass(frozen=True, slots=True, eq=False)
class Ends:
    """What op times alone say of each machine, as `batch.Measured` has it: (n_machines,), and (n_machines, n_steps)."""

    makespan_s: NDArray[np.float64]
    moe_layer_latency_s: NDArray[np.float64]
    step_end_s: NDArray[np.float64]


def evaluate_small(probes: Probes, costs: Costs) -> Ends:
    """The metrics of every machine; `costs` (n_works, n_machines)."""
    walk = _walk if len(probes.schedule) <= FEW_OPS else _walk_each
    makespan_s, moe_layers_s, step_end_s = walk(probes, costs)
    return Ends(makespan_s, moe_layers_s / max(len(probes.layer_first), 1), step_end_s)


def _walk(probes: Probes, costs: Costs) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """The makespan, the sum over MoE layers, and the end of every step; a time is kept until its last use."""
    schedule = probes.schedule
    issue_s, duration_s = list(costs.issue_s), list(costs.duration_s)
    nothing = np.zeros(costs.issue_s.shape[1])
    free, host_s, first_s, moe_layer_s = [nothing] * n_lanes(schedule.lane), nothing, nothing, np.zeros_like(nothing)
    waited_for, done = _last_uses(schedule)
    kept: dict[int, NDArray[np.float64]] = {}
    firsts, lasts, steps = (set(ops.tolist()) for ops in (probes.layer_first, probes.layer_last, probes.step_ends))
    step_end_s, deps, low = [], schedule.dep.tolist(), 0
    rows = zip(
        schedule.lane.tolist(), schedule.cost.tolist(), schedule.dep_ptr[1:].tolist(), waited_for.tolist(), strict=True
    )
    for i, (here, row, high, waits) in enumerate(rows):
        time = host_s
        if here:
            host_s = time = host_s + issue_s[row]
            time = np.maximum(free[here], time)
        for k in deps[low:high]:
            time = np.maximum(time, kept[k])
        low = high
        end = time + duration_s[row]
        if here:
            free[here] = end
        else:
            host_s = end
        if waits:
            kept[i] = end
        if i in firsts:
            first_s = time
        if i in lasts:
            moe_layer_s += end - first_s
        if i in steps:
            step_end_s.append(end)
        for k in done.get(i, ()):
            del kept[k]
    makespan_s = np.max([host_s, *free], axis=0)
    return makespan_s, moe_layer_s, np.array(step_end_s).reshape(-1, nothing.size).T


def _walk_each(probes: Probes, costs: Costs) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """`_walk` of one machine after the other."""
    schedule, n_machines = probes.schedule, costs.issue_s.shape[1]
    makespan_s, moe_layer_s = np.zeros((2, n_machines))
    step_end_s = np.empty((n_machines, len(probes.step_ends)))
    for i in range(n_machines):
        mine = Costs(costs.issue_s[:, i], costs.duration_s[:, i])
        start, end, _, host = walked(schedule, mine)
        makespan_s[i] = max(end.max(), host.max())
        spans = end[probes.layer_last] - start[probes.layer_first]
        moe_layer_s[i] = np.cumsum(spans)[-1] if len(spans) else 0.0  # one after the other, as `_walk` adds them
        step_end_s[i] = end[probes.step_ends]
    return makespan_s, moe_layer_s, step_end_s


def _last_uses(schedule: Schedule) -> tuple[NDArray[np.bool_], dict[int, list[int]]]:
    """Which ops, (n_ops,), others wait for; and of each op those that it is the last to wait for."""
    last_use = np.full(len(schedule), -1)
    owner = np.repeat(np.arange(len(schedule)), np.diff(schedule.dep_ptr))
    np.maximum.at(last_use, schedule.dep, owner)
    done: dict[int, list[int]] = {}
    for op in np.flatnonzero(last_use >= 0).tolist():
        done.setdefault(int(last_use[op]), []).append(op)
    return last_use >= 0, done
