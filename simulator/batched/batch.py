"""One schedule on many machines at once: the recurrence, with the metrics taken on the way.

What it says of a machine agrees with `recurrence` and `offload.metrics` to 1e-12 (tests/agree) and does not depend on
which machines it is evaluated with. The compiled code releases the interpreter lock: chunks run on threads.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from compiled.machine_code import Kernel, are_kept, loaded, width
from hwmodels.cost import Costs
from offload.lanes import n_lanes
from offload.metrics.metric_probes import Probes
from offload.metrics.run_metrics import Totals
from offload.ops import Lane
from offload.schedule import Schedule
from simulator.batched.batch_code import NO_LANES, NO_LEVELS, BatchCode, power, write_code
from simulator.batched.batch_layout import (
    CRITICAL,
    EXPOSED,
    MAKESPAN,
    MOE_LAYERS,
    MOVED,
    N_LANES,
    N_SUMS,
    OVERRUN,
    PEAK,
    STALL,
)
from simulator.batched.batch_waits import WAITS
from simulator.recurrence import simulate
from traces.errors import InvalidInput

RUN = Kernel(
    "simulator.batched.batch_kernel",
    "run",
    (
        *["int32[1]"] * 5, "int64[1]", "float64[2]", "float64[1]", *["float64[2]"] * 4, "float64[1]", "float64[1]",
        "int64[1]", "float64[1]", "float64", "int64", *["int64[1]"] * 3, *["float64[2]"] * 10,
    ),
    sources=(
        "simulator.batched.batch_walk", "simulator.batched.batch_layout", "offload.ops"
    ),
    unrolls=False,
)  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class Compiled:
    """A schedule made ready by `compile_schedule`: its code, and how often each lane runs, and issues, each work."""

    probes: Probes
    code: BatchCode
    lane_counts: NDArray[np.float64]
    issue_counts: NDArray[np.float64]

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
    stall_s: NDArray[np.float64]
    exposed_s: NDArray[np.float64]
    transfer_s: NDArray[np.float64]
    peak_hbm_bytes: NDArray[np.int64]
    bound_s: NDArray[np.float64]
    binding: NDArray[np.int8]
    step_end_s: NDArray[np.float64]

    def totals(self, moved: dict[str, int]) -> Totals:
        """What was seen of the machines; `moved` as of `Totals`."""
        return Totals(
            self.makespan_s, self.moe_layer_latency_s, self.stall_s, self.exposed_s, self.transfer_s,
            self.peak_hbm_bytes, moved,
        )  # fmt: skip


def is_kept() -> bool:
    """Whether the kernels need not be compiled first."""
    return are_kept(*WAITS, RUN)


def compile_schedule(schedule: Schedule, probes: Probes, *, most_hbm_bytes: int | None = None) -> Compiled:
    """Make `schedule` ready to be evaluated.

    `most_hbm_bytes`: a level that it is known never to pass, which spares looking on once it is reached.
    """
    n_works = len(schedule.works)
    key, lanes = schedule.lane.astype(np.int64) * n_works + schedule.cost, n_lanes(schedule.lane)
    counts = np.bincount(key, minlength=lanes * n_works).reshape(lanes, n_works)
    issued = np.bincount(schedule.cost[schedule.lane != Lane.HOST], minlength=n_works)
    most = np.iinfo(np.int64).max if most_hbm_bytes is None else most_hbm_bytes
    return Compiled(probes, write_code(probes, int(most)), counts.astype(np.float64), issued.astype(np.float64))


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
    sums, step_end = _run(compiled, issue_s, duration_s)
    lane_s, critical_s = sums[:, N_SUMS:], sums[:, CRITICAL]
    work_s, busiest = lane_s.max(axis=1), lane_s.argmax(axis=1)
    n_layers = max(len(probes.layer_first), 1)
    return Measured(
        makespan_s=sums[:, MAKESPAN].copy(),
        moe_layer_latency_s=sums[:, MOE_LAYERS] / n_layers,
        stall_s=sums[:, STALL].copy(),
        exposed_s=sums[:, EXPOSED].copy(),
        transfer_s=sums[:, MOVED].copy(),
        peak_hbm_bytes=_peaks(compiled, issue_s, duration_s, sums[:, PEAK]),
        bound_s=np.maximum(work_s, critical_s),
        binding=np.where(work_s >= critical_s, np.where(busiest < len(Lane), busiest, Lane.COMPUTE), -1).astype(
            np.int8
        ),
        step_end_s=step_end,
    )


def _run(
    compiled: Compiled, issue_s: NDArray[np.float64], duration_s: NDArray[np.float64], *, roomy: bool = False
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The sums, with the work of each lane, (n_machines, N_SUMS + n_lanes), and the ends of steps.

    `roomy`: with room to look at every take of HBM.
    """
    code, schedule = compiled.code, compiled.schedule
    sums = np.empty((issue_s.shape[1], N_SUMS + len(compiled.lane_counts)))
    step_end = np.empty((issue_s.shape[1], len(compiled.probes.step_ends)))
    levels, (move_ptr, move_at) = code.levels or NO_LEVELS, code.move_lanes or NO_LANES
    n_taken = power(len(levels.take_bytes)) if roomy else levels.n_taken
    n_works = len(schedule.works)
    rows = (
        n_works, n_works + code.n_chain_places, code.n_places, step_end.shape[1], sums.shape[1], N_LANES, n_taken,
        levels.n_given, 2 * code.n_moves, 2 * code.n_stalls,
    )  # fmt: skip
    loaded(RUN)(
        code.code, code.refs, schedule.cost, code.chain_code, code.chain_refs, code.alone, compiled.lane_counts,
        compiled.issue_counts, issue_s, duration_s, sums, step_end, levels.take_bytes, levels.give_bytes, levels.limit,
        levels.most, schedule.static_bytes, levels.last, move_ptr, move_at, np.empty(len(move_ptr) - 1, np.int64),
        *(np.empty((n, width())) for n in rows),
    )  # fmt: skip
    return sums, step_end


def _peaks(
    compiled: Compiled, issue_s: NDArray[np.float64], duration_s: NDArray[np.float64], found: NDArray[np.float64]
) -> NDArray[np.int64]:
    """The peak of each machine, looked for again where it was not found.

    That is where copies and kernels take no time, so that more is taken at one instant than a machine has room for; and
    where several lanes take HBM or give it back, which no policy here does: one machine at a time then.
    """
    peak = found.astype(np.int64)
    if compiled.code.levels is None:
        for i in range(len(peak)):
            costs = Costs(*(np.ascontiguousarray(values[:, i]) for values in (issue_s, duration_s)))
            peak[i] = simulate(compiled.schedule, costs).peak_hbm_bytes
        return peak
    again = np.flatnonzero(found == OVERRUN)
    if again.size:
        mine = (np.ascontiguousarray(values[:, again]) for values in (issue_s, duration_s))
        peak[again] = _run(compiled, *mine, roomy=True)[0][:, PEAK]
    return peak
