"""Who is best at each point of one axis: every schedule written once, each point measured once.

What a point runs is planned as `pregate.sweep` plans it, and measured by the same recurrence, so the two say the same
bit for bit. Only the pricing is this module's own: a search comes back to a schedule many times and wants one metric of
it, where a sweep comes once and wants every field.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hwmodels.figures import figures_of
from offload.decode import about_ops, is_large
from offload.metrics.metric_probes import Probes
from offload.slots.memory import CapacityExceeded
from pregate.ask.capturing.capture import Captured, capture_request
from pregate.ask.capturing.request import Request
from pregate.ask.ranked_designs import are_ranked, standing_of, told_apart
from pregate.ask.timing.intervals import compiled, measured, prepared
from pregate.sweeps.axes import Axis
from pregate.sweeps.planning import Planner, Subject
from pregate.sweeps.points import Points, grid_points
from simulator.batched.batch import Compiled, is_kept
from traces.errors import InvalidInput

_TIE = 1e-12
"""Policies this close are one: the first asked for wins, and rounding makes no difference."""


@dataclass(frozen=True, slots=True)
class Winner:
    """Who has the best metric at one point, and what it is; None and NaN when no policy fits."""

    name: str | None
    metric: float


class AxisWinners:
    """Every policy's metric at any value of an axis; the values that `axis` comes with play no part.

    On an axis that only prices, each policy has one schedule, which is kept and priced at all values of a scan at once;
    on another, a schedule is measured when it is written and not kept. `not_ranked`: policies that win nowhere, for
    they know the future or change the output, where another is asked for that does not.
    """

    def __init__(self, subject: Subject, axis: Axis, metric: str) -> None:
        self.axis, self.metric = axis, metric
        self.names = [design.policy.name for design in subject.designs]
        standings = [standing_of(design.policy.with_cache(design.cache)) for design in subject.designs]
        ranked = are_ranked(standings)
        self.not_ranked = tuple(name for name, is_in in zip(self.names, ranked, strict=True) if not is_in)
        self.told_apart = " ".join(told_apart(zip(self.names, standings, strict=True)))
        self._planner, self._asks_machine = Planner(subject), subject.asks_machine
        self._ready: dict[int, tuple[Compiled | Probes, Captured]] = {}
        self._found: dict[int, NDArray[np.float64]] = {}
        self._refused: list[str] = []
        self._compiled: bool | None = None  # True once what a scan writes is large in all, each alone small
        self._winners: dict[float, Winner] = {}

    @property
    def refusal(self) -> str:
        """Why a policy has no figures somewhere, memory too small apart; the first reason met, empty without one."""
        reasons = [hole.reason for hole in self._planner.holes if not hole.memory]
        return next(iter([*reasons, *self._refused]), "")

    def at(self, value: float) -> Winner:
        """Who wins where the axis is `value`."""
        if value not in self._winners:
            self.scan(np.array([value]))
        return self._winners[value]

    def scan(self, values: NDArray[np.float64]) -> None:
        """Find the winner at each of `values`. Raises `InvalidInput` with the reason when no point so far can be."""
        scores = self._scores(values)
        more_is_better = self.metric == "tokens_per_s"
        for i, value in enumerate(values.tolist()):
            ranked = (name for name in self.names if name not in self.not_ranked)
            here = {name: float(scores[name][i]) for name in ranked if np.isfinite(scores[name][i])}
            if not here:
                self._winners[value] = Winner(None, math.nan)
                continue
            best = max(here.values()) if more_is_better else min(here.values())
            name = next(name for name, score in here.items() if abs(score - best) <= _TIE * best)
            self._winners[value] = Winner(name, here[name])
        if self.refusal and all(winner.name is None for winner in self._winners.values()):
            raise InvalidInput(self.refusal)

    def _scores(self, values: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        """The metric of each policy at `values`, (n,); NaN where it does not fit or cannot be."""
        moved = dataclasses.replace(self.axis, values=values)
        points = grid_points((moved,), len(self.names), asks_machine=self._asks_machine)
        groups = self._planner.plan(points).i_group[:, points.i_choice]  # [n_policies, n]
        scores, new = np.full(groups.shape, np.nan), np.unique(groups[groups >= 0]).tolist()
        requests = [self._planner.groups[i].request for i in new if i not in self._found and i not in self._ready]
        if is_large(sum(about_ops(asked.model, asked.trace.steps()) for asked in requests)):
            self._compiled = True
        for i in new:
            scores = np.where(groups == i, self._measured(i, points)[points.i_price], scores)
        return dict(zip(self.names, scores, strict=True))

    def _measured(self, i: int, points: Points) -> NDArray[np.float64]:
        """The metric of group `i` at each row of prices, (n_prices,); NaN when it cannot be."""
        if i in self._found:
            return self._found[i]
        group, found = self._planner.groups[i], np.full(points.n_prices, np.nan)
        try:
            ready = self._ready.get(i) or self._made(group.request, again=bool(points.prices))
            figures = figures_of(group.hw).with_values(points.prices)
            found = measured(*ready, figures, points.n_prices)[self.metric]
        except CapacityExceeded:
            return found
        except InvalidInput as error:
            self._refused.append(str(error))
            return found
        if points.prices:
            self._ready[i] = ready
        else:
            self._found[i] = found
        return found

    def _made(self, request: Request, *, again: bool) -> tuple[Compiled | Probes, Captured]:
        """The schedule of a request, ready to be measured; `again`: by many scans.

        Raises `CapacityExceeded` as `capture_request`.
        """
        captured = capture_request(request, compiled=self._compiled)
        return compiled(captured) if again or is_kept() else prepared(captured, 1), captured
