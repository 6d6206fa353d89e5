"""`pregate.optimize`: the cheapest or fastest machine, policy and settings under constraints, and the Pareto front."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwmodels.platform import Platform
from offload.policy import Cache, Policy
from pregate.ask.capturing.schedule_cache import ScheduleCache
from pregate.optima.candidates import Candidates, evaluated, joined, plan_candidates
from pregate.optima.goals import Goals, read_goals
from pregate.optima.optimum import Optimum
from pregate.optima.scoring import optimum_of
from pregate.optima.space import Space, read_space
from pregate.optima.trials import GENERATION, Point, Trials, points_as_axes
from pregate.sweeps.axes import Axis
from pregate.sweeps.machines import MachineRecipe
from pregate.sweeps.points import grid_points, sample_points
from pregate.sweeps.runner import Progress, check_jobs, opened
from pregate.sweeps.sweep_work import Pricing, SweepWork
from pregate.sweeps.workloads import TraceRecipe
from simulator.modes import FIFO, Modes
from traces.errors import InvalidInput, unknown_name
from traces.model.architecture import ModelArchitecture
from traces.routing import RoutingTrace

DEFAULT_OBJECTIVES = ("price_usd:min", "tokens_per_s:max")
METHODS = ("auto", "exhaustive", "optuna")
_DOES_NOT_FIT = 1e6
"""What a candidate without figures exceeds its limits by, in the eyes of Optuna: more than any that has some."""


def optimize(
    model: ModelArchitecture | str | Path,
    hw: Platform | MachineRecipe | str | Path | None = None,
    trace: RoutingTrace | TraceRecipe | str | Path | None = None,
    *,
    policies: Sequence[str | Policy],
    axes: Mapping[str, Any],
    objectives: str | Sequence[str] = DEFAULT_OBJECTIVES,
    constraints: str | Sequence[str] = (),
    method: str = "auto",
    max_points: int = 200_000,
    n_trials: int = 2_000,
    seed: int = 0,
    modes: Modes = FIFO,
    expert_tier: str = "dram",
    cache: Cache | None = None,
    executor: Any = None,
    jobs: int | None = None,
    cache_dir: str | Path | ScheduleCache | None = None,
    progress: Progress | None = None,
) -> Optimum:
    """Find the policy and settings with the best objectives among those that meet every constraint.

    `model`, `hw`, `trace`, `policies`, `axes`, `executor`, `jobs`: as of `pregate.sweep`; an axis is a list of values,
    or a range `(low, high)` or `(low, high, "log")`. `objectives`: `FIGURE:min` or `FIGURE:max`, `best` is about the
    first. `constraints`: `FIGURE<=NUMBER` or `FIGURE>=NUMBER`, with a unit or in SI. A figure is a number of a
    `SimulationResult`; `price_usd`, the accelerators'; or `usd_per_token_per_s`. Where prices count, machines without
    one are left out, and named.

    `method`: "exhaustive" tries every point of lists, and is exact; "optuna" tries `n_trials` points, in batches, drawn
    by NSGA-II from `seed` (the extra `optimize`); "auto" is exhaustive up to `max_points` points x policies.
    `cache_dir`: a folder for schedules, None for none. `progress(done, total)`: machines evaluated, or trials.

    Raises `InvalidInput` or `UnknownName` for arguments that are wrong or when no point can be, `SearchFailed` when
    evaluations failed. That nothing is feasible is a result: `Optimum.why_infeasible` says what was nearest.
    """
    if method not in METHODS:
        raise unknown_name("method", method, METHODS)
    if n_trials < 1 or max_points < 1 or seed < 0:
        raise InvalidInput(f"n_trials = {n_trials}, max_points = {max_points}, seed = {seed}: at least 1, 1 and 0")
    check_jobs(jobs)
    goals = read_goals(objectives, constraints)
    space = read_space(
        model, hw, trace, policies, axes, expert_tier=expert_tier, cache=cache, need_prices=goals.need_prices
    )
    n = space.n_evaluations
    if method == "auto":
        method = "exhaustive" if n is not None and n <= max_points else "optuna"
    schedules = (
        cache_dir if cache_dir is None or isinstance(cache_dir, ScheduleCache) else ScheduleCache(Path(cache_dir))
    )
    pricing = Pricing(modes, 0, 0, schedules)
    if method == "exhaustive":
        candidates = _all_points(space, pricing, executor, jobs, progress)
    else:
        candidates = _some(space, goals, pricing, executor, jobs, n_trials, seed, progress)
    if candidates.refused and not candidates.fits.any() and not np.any(candidates.fields["memory"] != ""):
        raise InvalidInput(next(iter(candidates.refused)))
    return optimum_of(
        candidates, goals, model=space.subject.model.name, hardware=space.hardware, method=method,
        left_out=space.left_out, told_apart=space.told_apart,
    )  # fmt: skip


def _all_points(
    space: Space, pricing: Pricing, executor: Any, jobs: int | None, progress: Progress | None
) -> Candidates:
    """Every policy at every point of the grid."""
    axes = space.grid()
    points = grid_points(axes, len(space.subject.designs), asks_machine=space.subject.asks_machine)
    works = plan_candidates(points, None, space, pricing)
    indices = np.unravel_index(np.arange(points.n), points.shape) if axes else ()
    everywhere = [replace(axis, values=axis.values[index]) for axis, index in zip(axes, indices, strict=True)]
    with opened(executor, jobs, [task for work in works for task in work.tasks]) as runs:
        return evaluated(works, everywhere, None, space, runs, progress)


def _some(
    space: Space,
    goals: Goals,
    pricing: Pricing,
    executor: Any,
    jobs: int | None,
    n_trials: int,
    seed: int,
    progress: Progress | None,
) -> Candidates:
    """What Optuna asks for in `n_trials` trials, generation by generation; what it asks for again is not run again."""
    trials = Trials(space, len(goals.objectives), seed)
    known: dict[Point, tuple[NDArray[np.float64], NDArray[np.float64]]] = {}
    parts: list[Candidates] = []
    asked = trials.ask(min(GENERATION, n_trials))
    first, *_ = _planned(asked, space, pricing)
    with opened(executor, jobs, [task for work in first for task in work.tasks]) as runs:
        while asked:
            fresh = [point for point in dict.fromkeys(asked) if point not in known]
            if fresh:
                works, i_policy, axes = _planned(fresh, space, pricing)
                parts.append(evaluated(works, axes, i_policy, space, runs))
                known |= zip(fresh, zip(*_scores(parts[-1], goals), strict=True), strict=True)
            costs, excess = zip(*(known[point] for point in asked), strict=True)
            trials.tell(np.array(costs), np.array(excess))
            if progress is not None:
                progress(trials.told, n_trials)
            asked = trials.ask(min(GENERATION, n_trials - trials.told)) if len(known) != space.n_evaluations else []
    return joined(parts)


def _planned(
    points: Sequence[Point], space: Space, pricing: Pricing
) -> tuple[list[SweepWork], NDArray[np.int64], tuple[Axis, ...]]:
    """The work of some points, with their policies and the values of their axes."""
    i_policy, axes = points_as_axes(points, space)
    return (
        plan_candidates(
            sample_points(axes, len(points), 1, asks_machine=space.subject.asks_machine), i_policy, space, pricing
        ),
        i_policy,
        axes,
    )


def _scores(candidates: Candidates, goals: Goals) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """For Optuna: costs (n, n_objectives), and what is exceeded as a share of its limit (n, 1 + n_constraints).

    What does not fit exceeds the first column, by more the more memory it needs.
    """
    costs, values = goals.costs(candidates.values), candidates.values
    known = candidates.fits & np.all(np.isfinite(costs), axis=1)
    needed = np.nan_to_num(values("needed_bytes"))
    over = [constraint.excess(values) / (abs(constraint.limit) or 1.0) for constraint in goals.constraints]
    columns = [np.where(known, 0.0, _DOES_NOT_FIT * (1.0 + needed)), *map(np.nan_to_num, over)]
    return np.where(known[:, None], costs, 0.0), np.stack(columns, axis=1)
