"""`pregate.sweep`: policies on every point of a grid or sample, each schedule written once, prices vectorised."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwmodels.platform import Platform
from offload.policy import Cache, Policy
from pregate.ask.capturing.schedule_cache import ScheduleCache, schedules_in
from pregate.sweeps.axes import LatinHypercube, read_axes
from pregate.sweeps.checkpoint import Checkpoint
from pregate.sweeps.dataset import build_table
from pregate.sweeps.machines import MachineRecipe
from pregate.sweeps.planning import plan_points, read_subject
from pregate.sweeps.points import grid_points, sample_points
from pregate.sweeps.provenance import describe, engine_used
from pregate.sweeps.runner import Progress, check_jobs, opened, run_tasks
from pregate.sweeps.sweep_table import SweepTable
from pregate.sweeps.sweep_work import Pricing, SweepWork, plan_work
from pregate.sweeps.tasks import TaskOutcome
from pregate.sweeps.workloads import TraceRecipe
from simulator.modes import FIFO, Modes
from traces.errors import InvalidInput, PregateError
from traces.model.architecture import ModelArchitecture
from traces.routing import RoutingTrace

if TYPE_CHECKING:
    import xarray as xr


class SweepFailed(PregateError):
    """Some tasks failed. `dataset` has what the others found; the failed ones' points are empty, `fits` False."""

    def __init__(self, message: str, table: SweepTable) -> None:
        super().__init__(message)
        self.table = table

    @property
    def dataset(self) -> xr.Dataset:
        """What was found, as `sweep` returns it."""
        return self.table.dataset()


def sweep(
    model: ModelArchitecture | str | Path,
    hw: Platform | MachineRecipe | str | Path | None = None,
    trace: RoutingTrace | TraceRecipe | str | Path | None = None,
    *,
    policies: Sequence[str | Policy],
    axes: Mapping[str, Any],
    sample: LatinHypercube | None = None,
    modes: Modes = FIFO,
    expert_tier: str = "dram",
    cache: Cache | None = None,
    draws: int = 0,
    seed: int = 0,
    executor: Any = None,
    jobs: int | None = None,
    checkpoint: str | Path | None = None,
    cache_dir: str | Path | ScheduleCache | bool | None = None,
    progress: Progress | None = None,
) -> xr.Dataset:
    """Predict every policy at every point of a grid of axes, or at a sample of it.

    `model`, `hw`, `trace`: objects, names or files; `hw` may be left out where an axis `hardware` names machines,
    `trace` for a synthetic one of 256 + 256 tokens (`TraceRecipe` makes others). `axes`: name -> values, or ranges with
    `sample`.

    An axis is any hardware number by dotted key (`link.h2d_bytes_per_s`, `stack.sync_s`, `hbm_bytes`), a part of the
    machine by name (`hardware`, `accelerator`, `link`, `host`, `storage`, `stack`), the workload (`batch`,
    `input_tokens`, `output_tokens`, `n_active`), the model (`dtype`, `expert_dtype`, `formats.experts` and the other
    parts of `ModelArchitecture.with_formats`, `top_k`), the policy (`lookahead` of `pregate`, `cache_ratio` of an LRU
    cache added to policies without one, 0 for none, `gamma` and `acceptance` of those that draft tokens, `gamma` 0 for
    none), `expert_tier`, or `tier_bytes`, the size of what a tier such as `ssd+lru` keeps in host memory.

    `draws`, `seed`: of the 95 % intervals, 0 for none. `executor`: any `concurrent.futures.Executor`, or a Dask client;
    `jobs`: that many processes; with neither, threads of this process. Results are the same bit for bit. `checkpoint`:
    a folder that keeps finished tasks, from which the same sweep goes on. `cache_dir`: a folder for schedules (None:
    `~/.cache/pregate/schedules`, False: none). `progress(done, total)` counts machines evaluated.

    The dataset has the fields of a `SimulationResult` as variables over `policy` and the axes, in SI; what does not fit
    is NaN with `fits` False and `needed_bytes`. Raises `InvalidInput` or `UnknownName` for arguments that are wrong or
    when no point can be, `SweepFailed` when tasks failed.
    """
    return sweep_table(
        model, hw, trace, policies, axes, sample, modes, expert_tier, cache, draws, seed, executor, jobs, checkpoint,
        cache_dir, progress,
    ).dataset()  # fmt: skip


def sweep_table(
    model: ModelArchitecture | str | Path,
    hw: Platform | MachineRecipe | str | Path | None,
    trace: RoutingTrace | TraceRecipe | str | Path | None,
    policies: Sequence[str | Policy],
    axes: Mapping[str, Any],
    sample: LatinHypercube | None,
    modes: Modes,
    expert_tier: str,
    cache: Cache | None,
    draws: int,
    seed: int,
    executor: Any,
    jobs: int | None,
    checkpoint: str | Path | None,
    cache_dir: str | Path | ScheduleCache | bool | None,
    progress: Progress | None,
) -> SweepTable:
    """What `sweep` finds, with its arguments and errors, without xarray, which takes a second to import."""
    if draws < 0 or seed < 0:
        raise InvalidInput(f"draws = {draws}, seed = {seed}: neither can be below 0")
    check_jobs(jobs)
    names = {axis.key: axis for axis in (sample.axes(axes) if sample is not None else read_axes(axes))}
    given = tuple(names.values())
    subject = read_subject(model, hw, trace, policies, names, cache=cache, expert_tier=expert_tier)
    designs = subject.designs
    n, asks = len(designs), subject.asks_machine
    points = (
        grid_points(given, n, asks_machine=asks)
        if sample is None
        else sample_points(given, sample.n, n, asks_machine=asks)
    )
    work = plan_work(points, plan_points(points, subject), Pricing(modes, draws, seed, schedules_in(cache_dir)))
    with opened(executor, jobs, work.tasks) as runs:
        outcomes, failures = run_tasks(work.tasks, work.digests, runs, _checkpoint(checkpoint, work), progress)
    refusals = work.refusals(outcomes)
    if refusals and not failures and not any(outcome and outcome.fields for outcome in outcomes):
        raise InvalidInput(next(iter(refusals)))
    attributes = describe(subject, sample, work, outcomes)
    table = build_table(points, [design.policy.name for design in designs], work.fields(outcomes), attributes)
    if failures:
        raise SweepFailed(_failed(outcomes, failures, checkpoint), table) from failures[0]
    _warn(modes, refusals)
    return table


def _checkpoint(folder: str | Path | None, work: SweepWork) -> Checkpoint | None:
    if folder is None:
        return None
    work.check_lasting()
    return Checkpoint(Path(folder), work.digest)


def _failed(
    outcomes: Sequence[TaskOutcome | None], failures: Sequence[BaseException], checkpoint: str | Path | None
) -> str:
    n_done = sum(outcome is not None for outcome in outcomes)
    kept = f"kept in {checkpoint}, sweep again to go on" if checkpoint is not None else "in the dataset of this error"
    first = " ".join(str(failures[0]).split())[:300]
    return (
        f"{len(outcomes) - n_done} of {len(outcomes)} tasks failed, first with {type(failures[0]).__name__}: {first}; "
        f"the results of the other {n_done} are {kept}"
    )


def _warn(modes: Modes, refusals: Mapping[str, int]) -> None:
    if not modes.is_fifo:
        warnings.warn(engine_used(modes), stacklevel=4)
    for reason, n_points in refusals.items():
        warnings.warn(f"{n_points} points have no figures: {reason}", stacklevel=4)
