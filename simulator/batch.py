"""One schedule on many machines at once: the recurrence, with the metrics taken on the way.

What it says of a machine agrees with `recurrence` and `offload.metrics` to 1e-12 (tests/agree) and does not depend on
which machines it is evaluated with. The compiled code releases the interpreter lock: chunks run on threads.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwmodels.cost import Costs
from offload.ops import Lane
from offload.probes import Probes
from offload.schedule import Schedule
from traces.errors import InvalidInput

__all__ = ["Compiled", "Measured", "compile_schedule", "evaluate"]


@dataclass(frozen=True, slots=True, eq=False)
class Compiled:
    """A schedule made ready: dependencies as places in a small table of ends that are still waited for.

    `n_places`: the most ends waited for at one time. Made by `compile_schedule`, read by the kernel.
    """

    probes: Probes
    place: NDArray[np.int32]
    dep: NDArray[np.int32]
    n_transfers: NDArray[np.int32]
    probe: NDArray[np.uint8]
    n_places: int
    lane_counts: NDArray[np.int64]
    issue_counts: NDArray[np.int64]
    merge: tuple[Any, ...]

    @property
    def schedule(self) -> Schedule:
        """The schedule."""
        return self.probes.schedule


@dataclass(frozen=True, slots=True, eq=False)
class Measured:
    """Metrics of each machine, (n_machines,), defined as in `offload.metrics`, bounds as in `simulator.explain.bounds`.

    `binding`: what the bound comes from, the number of a `Lane` or -1 for the critical path. `step_end_s`
    (n_machines, n_steps): end of each forward pass that makes tokens.
    """

    makespan_s: NDArray[np.float64]
    moe_layer_latency_s: NDArray[np.float64]
    ttft_s: NDArray[np.float64]
    tpot_s: NDArray[np.float64]
    tpot_p50_s: NDArray[np.float64]
    tpot_p99_s: NDArray[np.float64]
    stall_s: NDArray[np.float64]
    exposed_s: NDArray[np.float64]
    transfer_s: NDArray[np.float64]
    peak_hbm_bytes: NDArray[np.int64]
    bound_s: NDArray[np.float64]
    binding: NDArray[np.int8]
    step_end_s: NDArray[np.float64]


def compile_schedule(schedule: Schedule, probes: Probes, *, most_hbm_bytes: int | None = None) -> Compiled:
    """Make `schedule` ready to be evaluated.

    `most_hbm_bytes`: a level that it is known never to pass, which spares looking on once it is reached.
    """
    kernel = _kernel()
    moving = np.zeros(len(schedule), dtype=np.bool_)
    moving[probes.moving] = True
    place, dep, n_transfers, n_places = _prepared()(
        schedule.lane, schedule.dep_ptr, schedule.dep, moving, int(Lane.COMPUTE)
    )
    probe = np.zeros(len(schedule), dtype=np.uint8)
    for ops, flag in (
        (probes.layer_first, kernel.FIRST),
        (probes.layer_last, kernel.LAST),
        (probes.step_ends, kernel.STEP),
        (probes.moving, kernel.MOVES),
        (np.flatnonzero(schedule.hbm_acquired), kernel.TAKES),
        (np.flatnonzero(schedule.hbm_released), kernel.GIVES),
        (np.flatnonzero(n_transfers), kernel.STALLS),
    ):
        probe[ops] |= flag
    n_works = len(schedule.works)
    key = schedule.lane.astype(np.int64) * n_works + schedule.cost
    counts = np.bincount(key, minlength=len(Lane) * n_works).reshape(len(Lane), n_works)
    issued = np.bincount(schedule.cost[schedule.lane != Lane.HOST], minlength=n_works)
    return Compiled(
        probes, place, dep, n_transfers, probe, n_places, counts, issued, _merge(schedule, probes, most_hbm_bytes)
    )


def _merge(schedule: Schedule, probes: Probes, most_hbm_bytes: int | None) -> tuple[Any, ...]:
    """Events by lane, to be walked in order of time: HBM taken, HBM given back, and movers where several lanes move."""
    takes, gives = np.flatnonzero(schedule.hbm_acquired), np.flatnonzero(schedule.hbm_released)
    take_ptr, take_at = _by_lane(schedule.lane[takes])
    take_sum = np.append(0, np.cumsum(schedule.hbm_acquired[takes][take_at]))
    most = np.iinfo(np.int64).max if most_hbm_bytes is None else most_hbm_bytes
    return (
        *(take_ptr, take_at, take_sum),
        *_by_lane(schedule.lane[gives]),
        schedule.hbm_released[gives],
        np.int64(schedule.static_bytes),
        np.int64(most),
        *_by_lane(schedule.lane[probes.moving]),
    )


def _by_lane(lane: NDArray[np.int8]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Places of the events of each lane that has any: (n_lanes + 1,) where each begins, (n,) places."""
    order = np.argsort(lane, kind="stable")
    _, counts = np.unique(lane, return_counts=True)
    return np.append(0, np.cumsum(counts)), order


def evaluate(compiled: Compiled, costs: Costs) -> Measured:
    """The metrics of every machine; `costs` (n_works, n_machines).

    HBM is not checked against a capacity. Raises `InvalidInput` for costs of another shape, negative or not finite.
    """
    schedule, probes = compiled.schedule, compiled.probes
    issue_s, duration_s = (np.ascontiguousarray(v, dtype=np.float64) for v in (costs.issue_s, costs.duration_s))
    for name, values in (("issue_s", issue_s), ("duration_s", duration_s)):
        if values.ndim != 2 or len(values) != len(schedule.works):
            raise InvalidInput(f"{name} has shape {values.shape}, not ({len(schedule.works)}, n_machines)")
        if not np.all(np.isfinite(values)) or np.any(values < 0):
            raise InvalidInput(f"{name} holds a time that is negative or not finite")
    kernel, n_machines = _kernel(), issue_s.shape[1]
    sums = np.empty((n_machines, kernel.N_SUMS))
    step_end = np.empty((n_machines, len(probes.step_ends)))
    peak = np.empty(n_machines, dtype=np.int64)
    n_stalls = np.count_nonzero(compiled.n_transfers)
    kernel.run(
        schedule.lane, schedule.cost, compiled.place, schedule.dep_ptr, compiled.dep, compiled.n_transfers,
        compiled.probe, issue_s, duration_s, sums, step_end, peak,
        np.empty((compiled.merge[1].size, kernel.WIDTH)), np.empty((compiled.merge[4].size, kernel.WIDTH)),
        np.empty((2 * probes.moving.size, kernel.WIDTH)), np.empty((2 * n_stalls, kernel.WIDTH)), compiled.merge,
        compiled.n_places, len(Lane),
    )  # fmt: skip
    bound_s, binding = _bounds(compiled, issue_s, duration_s, sums[:, kernel.CRITICAL])
    tpot = _tpot(step_end, probes)
    n_layers = max(len(probes.layer_first), 1)
    return Measured(
        makespan_s=sums[:, kernel.MAKESPAN].copy(),
        moe_layer_latency_s=sums[:, kernel.MOE_LAYERS] / n_layers,
        ttft_s=step_end.min(axis=1) if step_end.size else np.zeros(n_machines),
        tpot_s=tpot[0],
        tpot_p50_s=tpot[1],
        tpot_p99_s=tpot[2],
        stall_s=sums[:, kernel.STALL].copy(),
        exposed_s=sums[:, kernel.EXPOSED].copy(),
        transfer_s=sums[:, kernel.MOVED].copy(),
        peak_hbm_bytes=peak,
        bound_s=bound_s,
        binding=binding,
        step_end_s=step_end,
    )


def _tpot(step_end: NDArray[np.float64], probes: Probes) -> list[NDArray[np.float64]]:
    """Mean, p50 and p99 of the gaps between a sequence's tokens, each (n_machines,); 0 without a gap."""
    if not probes.gap_to.size:
        return [np.zeros(len(step_end)) for _ in range(3)]
    gaps = step_end[:, probes.gap_to] - step_end[:, probes.gap_from]
    p50, p99 = np.percentile(gaps, [50, 99], axis=1)
    return [np.array([row.mean() for row in gaps]), p50, p99]


def _bounds(
    compiled: Compiled, issue_s: NDArray[np.float64], duration_s: NDArray[np.float64], critical_s: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.int8]]:
    """The largest lower bound of each machine and where it comes from."""
    lane_s = np.zeros((len(Lane), duration_s.shape[1]))
    for lane, counts in enumerate(compiled.lane_counts):
        for work in np.flatnonzero(counts).tolist():
            lane_s[lane] += counts[work] * duration_s[work]
    for work in np.flatnonzero(compiled.issue_counts).tolist():
        lane_s[Lane.HOST] += compiled.issue_counts[work] * issue_s[work]
    most = lane_s.argmax(axis=0)
    work_s = lane_s.max(axis=0)
    binding = np.where(work_s >= critical_s, most, -1).astype(np.int8)
    return np.maximum(work_s, critical_s), binding


@cache
def _kernel() -> Any:
    from simulator import batch_kernel

    return batch_kernel


@cache
def _prepared() -> Any:
    from traces.compiled import njit

    return njit(cache=True, nogil=True)(_places)


def _places(
    lane: NDArray[np.int8],
    dep_ptr: NDArray[np.int64],
    dep: NDArray[np.int32],
    moving: NDArray[np.bool_],
    compute: int,
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32], int]:
    """Where each end is kept from its op to the last that waits for it; dependencies as places, transfers first."""
    n = lane.size
    last_use = np.full(n, -1, dtype=np.int64)
    for i in range(n):
        for k in range(dep_ptr[i], dep_ptr[i + 1]):
            last_use[dep[k]] = i
    place, placed = np.full(n, -1, dtype=np.int32), np.empty(dep.size, dtype=np.int32)
    n_transfers = np.zeros(n, dtype=np.int32)
    free, n_free, n_places = np.empty(n + 1, dtype=np.int32), 0, 0
    for i in range(n):
        low, high = dep_ptr[i], dep_ptr[i + 1]
        at = low
        if lane[i] == compute:
            for k in range(low, high):
                if moving[dep[k]]:
                    placed[at] = place[dep[k]]
                    at += 1
            n_transfers[i] = at - low
        for k in range(low, high):
            if lane[i] != compute or not moving[dep[k]]:
                placed[at] = place[dep[k]]
                at += 1
        for k in range(low, high):
            if last_use[dep[k]] == i:
                last_use[dep[k]] = -1
                free[n_free] = place[dep[k]]
                n_free += 1
        if last_use[i] >= 0:
            if n_free:
                n_free -= 1
                place[i] = free[n_free]
            else:
                place[i] = n_places
                n_places += 1
    for i in range(n):
        if place[i] < 0:
            place[i] = n_places
    return place, placed, n_transfers, n_places + 1
