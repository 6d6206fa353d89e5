"""The work of a sweep: its tasks in the order of the layouts, their digests, and what their outcomes mean together."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from pregate.ask.capturing.schedule_cache import ScheduleCache, lasting_key
from pregate.sweeps.layout import Layout, lay_out, scatter
from pregate.sweeps.planning import PlanGroup, SweepPlan
from pregate.sweeps.points import Points
from pregate.sweeps.tasks import Task, TaskOutcome, task_digest
from simulator.modes import Modes
from traces.errors import InvalidInput

CHUNK_MACHINES = 1024
SMALL_CHUNK_MACHINES = 32
"""Machines of one task, the few where each takes long: on the event engine, or with draws. Results do not depend on it;
it depends on no executor, so that a rerun finds what a checkpoint has."""


@dataclass(frozen=True, slots=True)
class Pricing:
    """How every task is priced: the modes of the links, draws and seed of the intervals, where schedules are kept."""

    modes: Modes
    draws: int
    seed: int
    schedules: ScheduleCache | None

    @property
    def chunk_machines(self) -> int:
        """Machines of one task at most."""
        return CHUNK_MACHINES if self.modes.is_fifo and not self.draws else SMALL_CHUNK_MACHINES


@dataclass(frozen=True, slots=True, eq=False)
class SweepWork:
    """`tasks`: policy by policy, group by group, rows ascending; `n_tasks`: of each policy; `digests`: of each task.

    `strangers`: policies of code that another run cannot recognise.
    """

    points: Points
    plan: SweepPlan
    pricing: Pricing
    layouts: tuple[Layout, ...]
    tasks: tuple[Task, ...]
    n_tasks: tuple[int, ...]
    digests: tuple[str, ...]
    strangers: tuple[str, ...]

    @property
    def digest(self) -> str:
        """16 hex digits that the same sweep has in every run of the same code, and no other sweep has."""
        state = hashlib.sha256(json.dumps([self.digests, self.n_tasks, self.points.dims, self.points.shape]).encode())
        for axis in self.points.axes:
            state.update(f"{axis.key}={axis.values.tolist()!r};".encode())
        for layout in self.layouts:
            state.update(layout.i_result.data)
        return state.hexdigest()[:16]

    def check_lasting(self) -> None:
        """Raise `InvalidInput` when another run could not recognise this sweep."""
        if self.strangers:
            raise InvalidInput(
                f"policy {self.strangers[0]} is made of functions of your own, and a later run cannot tell whether "
                f"they changed: leave the checkpoint out, or put it into one file of plain code (docs/policies.md)"
            )

    def fields(self, outcomes: Sequence[TaskOutcome | None]) -> list[dict[str, NDArray[Any]]]:
        """The fields of each policy at every point, (n_points,)."""
        found = [(task.n_machines, outcome) for task, outcome in zip(self.tasks, outcomes, strict=True)]
        ends = np.cumsum(self.n_tasks).tolist()
        parts = [found[end - n : end] for end, n in zip(ends, self.n_tasks, strict=True)]
        return [scatter(layout, self.plan.holes, part) for layout, part in zip(self.layouts, parts, strict=True)]

    def refusals(self, outcomes: Sequence[TaskOutcome | None]) -> Mapping[str, int]:
        """Why points have no figures, other than memory too small, with the number of evaluations each reason met."""
        met: Counter[str] = Counter()
        for layout in self.layouts:
            rows, counts = np.unique(-1 - layout.i_result[layout.i_result < 0], return_counts=True)
            for row, n in zip(rows.tolist(), counts.tolist(), strict=True):
                met[self.plan.holes[row].reason] += n if not self.plan.holes[row].memory else 0
        for task, outcome in zip(self.tasks, outcomes, strict=True):
            if outcome is not None and outcome.hole is not None and not outcome.hole.memory:
                met[outcome.hole.reason] += task.n_machines
        return {reason: n for reason, n in met.items() if n}


def plan_work(points: Points, plan: SweepPlan, pricing: Pricing) -> SweepWork:
    """Tasks of a chunk of rows each. Raises `InvalidInput` with the reason when no point can be."""
    if not plan.groups and not any(hole.memory for hole in plan.holes):
        raise InvalidInput(plan.holes[0].reason)
    lasting = [lasting_key(group.request) for group in plan.groups]
    mine = uuid4().hex
    keys = [key or f"{group.request.key}-{mine}" for key, group in zip(lasting, plan.groups, strict=True)]
    layouts, n = tuple(lay_out(points, plan)), pricing.chunk_machines
    tasks = [
        [
            _task(plan.groups[i], keys[i], {key: column[some] for key, column in points.prices.items()}, some, pricing)
            for i, rows in zip(layout.groups.tolist(), layout.rows, strict=True)
            for some in np.split(rows, range(n, len(rows), n))
        ]
        for layout in layouts
    ]
    every = tuple(task for of_policy in tasks for task in of_policy)
    strangers = {group.request.policy.name for key, group in zip(lasting, plan.groups, strict=True) if key is None}
    return SweepWork(
        points, plan, pricing, layouts, every, tuple(map(len, tasks)), tuple(map(task_digest, every)),
        tuple(sorted(strangers)),
    )  # fmt: skip


def _task(
    group: PlanGroup, key: str, values: Mapping[str, NDArray[np.float64]], rows: NDArray[np.int64], pricing: Pricing
) -> Task:
    return Task(
        group.request, key, group.hw, values, len(rows), pricing.modes, pricing.draws, pricing.seed, pricing.schedules
    )
