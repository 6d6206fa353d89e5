"""What a search found, as data and in plain words: the best, the front, what constraints cost, what to relax."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pregate.ask.result_display import html_rows, to_dataframe
from pregate.draw import render
from pregate.optima.candidates import Candidates
from pregate.optima.goals import Goals, Objective, shown

if TYPE_CHECKING:
    import pandas as pd


Row = dict[str, Any]
"""A candidate: `policy`, `settings` by axis, `fields` in SI."""


_N_NAMED = 5
"""Machines without a price that a sentence names."""


@dataclass(frozen=True, slots=True)
class Shortfall:
    """How near a constraint came to being met when nothing meets all of them.

    `nearest`: the nearest value that any candidate reached, at `row`. `alone`: the nearest of the candidates that meet
    all other constraints, which is what relaxing this one alone takes; None where there are none.
    """

    constraint: str
    field: str
    nearest: float
    row: Row
    alone: float | None

    def to_dict(self) -> Row:
        """JSON-ready."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True)
class Toll:
    """What a constraint costs an objective: the best value that is reached `with_it`, and that without it, at `row`."""

    constraint: str
    objective: Objective
    with_it: float
    without_it: float
    row: Row

    def to_dict(self) -> Row:
        """JSON-ready."""
        return {name: getattr(self, name) for name in self.__slots__} | {"objective": self.objective.text}


@dataclass(frozen=True, slots=True, eq=False)
class Optimum:
    """The candidates that meet every constraint, judged.

    `front`: rows of the Pareto front, ascending from the best of the first objective; of candidates with the same
    objectives the one with the most tokens/s, then the cheapest, then the first declared. `best`: the first of them,
    None when nothing is feasible. `tolls`: what constraints cost; `why_infeasible`: what was nearest when nothing meets
    all of them. All of it is exact when `method` is "exhaustive", and of what was tried with "optuna". `left_out`:
    machines without a price; `told_apart`: sentences about designs that were not tried, for nobody can build them or
    their output is another, or that were tried for want of others.
    """

    goals: Goals
    model: str
    hardware: str
    method: str
    candidates: Candidates
    feasible: NDArray[np.bool_]
    front: tuple[Row, ...]
    tolls: tuple[Toll, ...]
    why_infeasible: tuple[Shortfall, ...]
    left_out: tuple[str, ...]
    told_apart: tuple[str, ...] = ()

    @property
    def best(self) -> Row | None:
        """The best of the first objective, ties decided by the next; None when nothing is feasible."""
        return self.front[0] if self.front else None

    @property
    def n_evaluated(self) -> int:
        """Candidates tried: a policy at a point."""
        return self.candidates.n

    @property
    def n_fits(self) -> int:
        """Candidates that memory is large enough for."""
        return int(self.candidates.fits.sum())

    @property
    def n_feasible(self) -> int:
        """Candidates that fit and meet every constraint."""
        return int(self.feasible.sum())

    @property
    def calibration(self) -> str:
        """What the predictions of the front rest on: fitted, extrapolated, claimed, or several of them."""
        return ", ".join(dict.fromkeys(row["fields"]["calibration"] for row in self.front))

    def __repr__(self) -> str:
        return f"Optimum({self.model} on {self.hardware}: {self.verdict()})"

    def _repr_html_(self) -> str:
        return html_rows(self.rows(), self.verdict())

    def to_dict(self) -> Row:
        """JSON-ready: the best, the front, what constraints cost, counts, and the verdict."""
        return {
            "model": self.model,
            "hardware": self.hardware,
            "method": self.method,
            "objectives": [objective.text for objective in self.goals.objectives],
            "constraints": [constraint.text for constraint in self.goals.constraints],
            "best": self.best,
            "front": list(self.front),
            "tolls": [toll.to_dict() for toll in self.tolls],
            "why_infeasible": [shortfall.to_dict() for shortfall in self.why_infeasible],
            "n_evaluated": self.n_evaluated,
            "n_fits": self.n_fits,
            "n_feasible": self.n_feasible,
            "left_out": list(self.left_out),
            "told_apart": list(self.told_apart),
            "refused": dict(self.candidates.refused),
            "calibration": self.calibration,
            "verdict": self.verdict(),
        }

    def rows(self) -> list[Row]:
        """The front as flat rows: the policy, a column a setting, a column a figure."""
        return [{"policy": row["policy"], **row["settings"], **row["fields"]} for row in self.front]

    def to_dataframe(self) -> pd.DataFrame:
        """The front, one row a candidate (the extra `notebooks`)."""
        return to_dataframe(self.rows())

    def describe(self, row: Row) -> str:
        """A candidate in a few words: `pregate on rtx-4090, batch 2, link.h2d_bytes_per_s 32 GB/s`."""
        settings = self.shown_settings(row)
        lead = f"{row['policy']} on {settings.pop('hardware')}" if "hardware" in settings else row["policy"]
        return ", ".join([lead, *(f"{name} {value}" for name, value in settings.items())])

    def shown_settings(self, row: Row) -> dict[str, str]:
        """The settings of a candidate in units people read, by axis."""
        units = {axis.name: axis.unit for axis in self.candidates.axes}
        return {name: _setting(value, units[name]) for name, value in row["settings"].items()}

    def verdict(self) -> str:
        """The optimum and what the constraints cost, or what to relax, in plain words."""
        told = [*(_found(self) if self.front else _missed(self)), *_notes(self)]
        return " ".join(told)


def _setting(value: str | float, unit: str) -> str:
    """The value of an axis in a unit people read."""
    if isinstance(value, str):
        return value
    if unit in ("B", "B/s", "s"):
        return render.si(value, unit[0]) + unit[1:]
    return f"{value:,d}" if isinstance(value, int) else f"{value:.4g}"


def _found(optimum: Optimum) -> list[str]:
    """The best, the other end of the front, and which constraint costs what."""
    first, best, front = optimum.goals.objectives[0], optimum.front[0], optimum.front
    superlative = "Highest" if first.maximise else "Lowest"
    told = [f"{superlative} {first.field}: {_figures(optimum, best)} with {optimum.describe(best)}."]
    if len(front) > 1:
        told.append(
            f"The Pareto front has {len(front)} points, the last one {_figures(optimum, front[-1])} with "
            f"{optimum.describe(front[-1])}."
        )
    for toll in optimum.tolls:
        best_of = "highest" if toll.objective.maximise else "lowest"
        held, freed = (shown(toll.objective.field, value) for value in (toll.with_it, toll.without_it))
        told.append(
            f"Without {toll.constraint} the {best_of} {toll.objective.field} would be {freed}, not {held} "
            f"({optimum.describe(toll.row)})."
        )
    if optimum.goals.constraints and not optimum.tolls:
        told.append("No constraint costs anything.")
    return told


def _missed(optimum: Optimum) -> list[str]:
    """What was nearest, and what it would take."""
    candidates = optimum.candidates
    if not optimum.n_fits:
        needed = candidates.fields["needed_bytes"]
        if not np.isfinite(needed).any():
            return ["Nothing can be evaluated."]
        i = int(np.nanargmin(needed))
        size = f"{render.si(needed[i].item(), 'B')} of {candidates.fields['memory'][i]}"
        return [f"Nothing fits: the least that is needed is {size}, by {optimum.describe(candidates.row(i))}."]
    told = ["Nothing meets every constraint."]
    for miss in optimum.why_infeasible:
        alone = "" if miss.alone is None else f"; relaxing it alone to about {shown(miss.field, miss.alone)} is enough"
        nearest = f"{shown(miss.field, miss.nearest)} ({optimum.describe(miss.row)})"
        told.append(f"{miss.constraint}: the nearest is {nearest}{alone}.")
    return told


def _notes(optimum: Optimum) -> list[str]:
    """How the search went, and what had no part in it."""
    counts = f"{optimum.n_evaluated:,} candidates, {optimum.n_fits:,} fit, {optimum.n_feasible:,} meet the constraints"
    how = "All" if optimum.method == "exhaustive" else "Optuna's choice of"
    told = [f"{how} {counts}."]
    if optimum.left_out:
        named, n_more = optimum.left_out[:_N_NAMED], len(optimum.left_out) - _N_NAMED
        more = f" and {n_more} more (--format json has them)" if n_more > 0 else ""
        told.append(f"Left out for want of a price: {', '.join(named)}{more}.")
    told += optimum.told_apart
    told += [f"{n:,} have no figures: {reason}." for reason, n in optimum.candidates.refused.items()]
    return told


def _figures(optimum: Optimum, row: Row) -> str:
    """The objectives of a row, its tokens/s and price."""
    names = dict.fromkeys([*(objective.field for objective in optimum.goals.objectives), "tokens_per_s", "price_usd"])
    return ", ".join(shown(name, row["fields"][name]) for name in names if row["fields"][name] is not None)
