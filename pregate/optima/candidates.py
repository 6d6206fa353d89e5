"""What was tried: policies and settings with their figures, each evaluated as a sweep evaluates a point."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pregate.optima.goals import figure_names
from pregate.optima.space import Space
from pregate.sweeps.axes import Axis
from pregate.sweeps.layout import lay_out
from pregate.sweeps.planning import plan_points
from pregate.sweeps.points import Points
from pregate.sweeps.runner import Progress, run_tasks
from pregate.sweeps.sweep_work import Pricing, SweepWork, plan_work
from traces.errors import PregateError


class SearchFailed(PregateError):
    """Some evaluations failed, such as in a worker process that was killed."""


@dataclass(frozen=True, slots=True, eq=False)
class Candidates:
    """`n` candidates in the order they were tried: the policy `policies[i_policy]` at the values of `axes`, (n,) each.

    `fields`: figures and texts by name, (n,); NaN, or "", of what does not fit. `refused`: why candidates have no
    figures, other than memory too small, with how many met each reason.
    """

    policies: tuple[str, ...]
    i_policy: NDArray[np.int64]
    axes: tuple[Axis, ...]
    fields: Mapping[str, NDArray[Any]]
    refused: Mapping[str, int]

    @property
    def n(self) -> int:
        """Candidates."""
        return int(self.i_policy.size)

    @property
    def fits(self) -> NDArray[np.bool_]:
        """Which candidates have figures, (n,)."""
        found: NDArray[np.bool_] = self.fields["fits"]
        return found

    def values(self, field: str) -> NDArray[np.float64]:
        """A figure of every candidate, (n,) in SI; NaN where there is none."""
        found: NDArray[np.float64] = self.fields[field] if field in self.fields else np.full(self.n, np.nan)
        return found

    def row(self, i: int) -> dict[str, Any]:
        """A candidate, JSON-ready: `policy`, `settings` by axis, `fields` in SI (None for a price not known)."""
        numbers = {name: self.values(name)[i].item() for name in figure_names()}
        return {
            "policy": self.policies[self.i_policy[i]],
            "settings": {axis.name: axis.value(i) for axis in self.axes},
            "fields": {name: None if np.isnan(number) else number for name, number in numbers.items()}
            | {"calibration": str(self.fields["calibration"][i]) if "calibration" in self.fields else ""},
        }


def plan_candidates(
    points: Points, i_policy: NDArray[np.int64] | None, space: Space, pricing: Pricing
) -> list[SweepWork]:
    """The work of each policy at its points: at those where `i_policy` (points.n,) names it, or at all when None."""
    plan = plan_points(points, space.subject)
    works = []
    for i in range(len(space.subject.designs)):
        rows = np.arange(points.n) if i_policy is None else np.flatnonzero(i_policy == i)
        if not rows.size:
            continue
        mine = dataclasses.replace(
            points, shape=(len(rows),), i_choice=points.i_choice[rows], i_price=points.i_price[rows]
        )
        planned = dataclasses.replace(plan, i_group=plan.i_group[i : i + 1])
        if plan.groups:
            works.append(plan_work(mine, planned, pricing))
        else:  # nothing here fits
            works.append(SweepWork(mine, planned, pricing, tuple(lay_out(mine, planned)), (), (0,), (), ()))
    return works


def evaluated(
    works: Sequence[SweepWork],
    axes: Sequence[Axis],
    i_policy: NDArray[np.int64] | None,
    space: Space,
    executor: Executor,
    progress: Progress | None = None,
) -> Candidates:
    """Run the work of `plan_candidates`; `axes`: their values at each point, (n_points,).

    In the order of the points, or with `i_policy` None policy by policy. Raises `SearchFailed`.
    """
    tasks = [task for work in works for task in work.tasks]
    digests = [digest for work in works for digest in work.digests]
    outcomes, failures = run_tasks(tasks, digests, executor, None, progress)
    if failures:
        reason = " ".join(str(failures[0]).split())[:300]
        raise SearchFailed(f"{len(failures)} of {len(tasks)} tasks failed, first with {type(failures[0]).__name__}: "
                           f"{reason}") from failures[0]  # fmt: skip
    parts, refused, end = [], Counter[str](), 0
    for work in works:
        mine, end = outcomes[end : end + len(work.tasks)], end + len(work.tasks)
        parts.append(work.fields(mine)[0])
        refused.update(work.refusals(mine))
    n_points = len(works[0].points.i_choice) if i_policy is None else len(i_policy)
    if i_policy is None:
        order, axes = np.arange(n_points * len(works)), [_repeated(axis, len(works)) for axis in axes]
        i_policy = np.repeat(np.arange(len(works)), n_points)
    else:
        order = np.argsort(np.argsort(i_policy, kind="stable"))
    fields = {name: column[order] for name, column in _stacked(parts).items()}
    fields |= _price_figures(fields, space.price_usd(axes, len(i_policy)))
    names = tuple(design.policy.name for design in space.subject.designs)
    return Candidates(names, i_policy, tuple(axes), fields, refused)


def joined(parts: Sequence[Candidates]) -> Candidates:
    """Candidates of the same space, one part after the other."""
    first = parts[0]
    axes = tuple(
        dataclasses.replace(axis, values=np.concatenate([part.axes[i].values for part in parts]))
        for i, axis in enumerate(first.axes)
    )
    refused: Counter[str] = Counter()
    for part in parts:
        refused.update(part.refused)
    i_policy = np.concatenate([part.i_policy for part in parts])
    return Candidates(first.policies, i_policy, axes, _stacked([part.fields for part in parts]), refused)


def _stacked(parts: Sequence[Mapping[str, NDArray[Any]]]) -> dict[str, NDArray[Any]]:
    """Columns one after the other; a part without one has NaN there, or "" of a text."""
    likes = {name: column for part in parts for name, column in part.items()}
    sizes = [len(part["fits"]) for part in parts]
    return {
        name: np.concatenate([
            part[name] if name in part else np.full(n, "" if like.dtype.kind == "U" else np.nan)
            for part, n in zip(parts, sizes, strict=True)
        ])
        for name, like in likes.items()
    }  # fmt: skip


def _repeated(axis: Axis, n: int) -> Axis:
    return dataclasses.replace(axis, values=np.tile(axis.values, n))


def _price_figures(
    fields: Mapping[str, NDArray[Any]], price_usd: NDArray[np.float64]
) -> dict[str, NDArray[np.float64]]:
    """The figures that a price has part in, (n,)."""
    rate = fields["tokens_per_s"] if "tokens_per_s" in fields else np.full(len(price_usd), np.nan)
    return {"price_usd": price_usd, "usd_per_token_per_s": price_usd / rate}
