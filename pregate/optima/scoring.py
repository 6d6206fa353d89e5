"""Which candidates are feasible, which of them no other beats, what each constraint costs, or how near it came.

Everything is read off the candidates; nothing is evaluated here.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pregate.optima.candidates import Candidates
from pregate.optima.goals import Goals
from pregate.optima.optimum import Optimum, Shortfall, Toll
from pregate.optima.pareto import pareto_front


def optimum_of(
    candidates: Candidates, goals: Goals, *, model: str, hardware: str, method: str, left_out: Sequence[str],
    told_apart: Sequence[str] = (),
) -> Optimum:  # fmt: skip
    """Find what is feasible, its front, and what each constraint costs or misses."""
    costs, met = goals.costs(candidates.values), goals.met(candidates.values)
    known = candidates.fits & np.all(np.isfinite(costs), axis=1)
    without = [_all_hold([known, *met[:i], *met[i + 1 :]]) for i in range(len(met))]
    feasible = _all_hold([known, *met])
    found: tuple[tuple[Toll, ...], tuple[Shortfall, ...]] = (), ()
    if feasible.any():
        found = _tolls(candidates, goals, feasible, without), ()
    elif known.any():
        found = (), _shortfalls(candidates, goals, known, without)
    rows = tuple(candidates.row(i) for i in _ranked(candidates, costs, feasible).tolist())
    return Optimum(
        goals, model, hardware, method, candidates, feasible, rows, *found, tuple(left_out), tuple(told_apart)
    )


def _tolls(
    candidates: Candidates, goals: Goals, feasible: NDArray[np.bool_], without: Sequence[NDArray[np.bool_]]
) -> tuple[Toll, ...]:
    """What each constraint costs each objective; nothing is not listed."""
    found = []
    for objective in goals.objectives:
        costs = objective.cost(candidates.values)[:, None]
        held = _ranked(candidates, costs, feasible)[0]
        for constraint, others in zip(goals.constraints, without, strict=True):
            freed = _ranked(candidates, costs, others)[0]
            if costs[freed] < costs[held]:
                with_, without_ = (candidates.values(objective.field)[i].item() for i in (held, freed))
                found.append(Toll(constraint.text, objective, with_, without_, candidates.row(freed)))
    return tuple(found)


def _shortfalls(
    candidates: Candidates, goals: Goals, known: NDArray[np.bool_], without: Sequence[NDArray[np.bool_]]
) -> tuple[Shortfall, ...]:
    """How near each constraint came."""
    found = []
    for constraint, others in zip(goals.constraints, without, strict=True):
        figure, excess = candidates.values(constraint.field), constraint.excess(candidates.values)
        nearest, alone = (int(np.argmin(np.where(some, excess, np.inf))) for some in (known, others))
        enough = figure[alone].item() if others.any() else None
        row = candidates.row(nearest)
        found.append(Shortfall(constraint.text, constraint.field, figure[nearest].item(), row, enough))
    return tuple(found)


def _all_hold(conditions: Sequence[NDArray[np.bool_]]) -> NDArray[np.bool_]:
    """Where every condition holds, (n,)."""
    found: NDArray[np.bool_] = np.logical_and.reduce(conditions)
    return found


def _ranked(candidates: Candidates, costs: NDArray[np.float64], some: NDArray[np.bool_]) -> NDArray[np.int64]:
    """The front of `some` candidates, (k,), best first; equal ones by tokens/s, then price, then order."""
    rows = np.flatnonzero(some)
    rate, price = candidates.values("tokens_per_s")[rows], candidates.values("price_usd")[rows]
    rows = rows[np.lexsort((np.nan_to_num(price, nan=np.inf), -rate))]
    return rows[pareto_front(costs[rows])]
