"""Which design, and whether that can be said: two designs are apart where the interval of their ratio leaves out 1."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pregate.ask.intervals import Interval
from pregate.card.designs import RESEARCH
from pregate.card.judged import NORMAL_95, TAGS, Judged

__all__ = ["Ranking", "choose", "ratio"]


@dataclass(frozen=True, slots=True)
class Ranking:
    """`ranked`: every design that fits, the best first; `now`: what runs today. `rivals`: designs that cannot be told
    from the best, without it; `gain`: of the best over `now`, as a factor, with its interval.
    """

    objective: str
    ranked: tuple[Judged, ...]
    now: Judged
    rivals: tuple[Judged, ...]
    gain: float
    gain_interval: Interval

    @property
    def best(self) -> Judged:
        """The design with the best objective."""
        return self.ranked[0]

    @property
    def deployable(self) -> Judged | None:
        """The best that an engine runs, and not only this project's own runtime."""
        return next((one for one in self.ranked if one.design.stack != RESEARCH), None)

    @property
    def abstains(self) -> bool:
        """Whether the best cannot be told from what runs now, while it is another design."""
        return self.best is not self.now and any(one is self.now for one in self.rivals)

    def verdict(self) -> str:
        """What to do, in a sentence."""
        best, now = self.best, self.now
        rests = _tag(best, now, self.objective)
        near = [one for one in self.rivals if one is not now]
        if best is now:
            told = f"Leave it as it is: {now.design} is the best of {len(self.ranked)} that fit"
        elif self.abstains:
            told = (
                f"No verdict against leaving it as it is: {best.design} is predicted {self.gain:.2f} times as good as "
                f"{now.design}, and the interval {_span(self.gain_interval)} holds 1 ({rests})"
            )
        else:
            told = (
                f"Change to {best.design}: {self.gain:.2f} times as good as {now.design} "
                f"({_span(self.gain_interval)}, {rests})"
            )
        if near:
            names = ", ".join(str(one.design) for one in near[:3])
            more = f" and {len(near) - 3} more" if len(near) > 3 else ""
            told += f"; it cannot be told from {names}{more}, whose intervals straddle"
        other = self.deployable
        if best.design.stack == RESEARCH and other is now:
            told += f". Of what engines run, {now.design} stays the best"
        elif best.design.stack == RESEARCH and other is not None:
            times, span = ratio(other, now, self.objective)
            rests = _tag(other, now, self.objective)
            told += f". Of what engines run, {other.design} comes first: {times:.2f} times ({_span(span)}, {rests})"
        return f"{told}."


def choose(judged: Sequence[Judged], now: Judged, objective: str) -> Ranking:
    """Rank designs by `objective`. `now` is one of them."""
    ranked = tuple(sorted(judged, key=lambda one: one.cost(objective)))
    best = ranked[0]
    rivals = tuple(one for one in ranked[1:] if _straddles(ratio(best, one, objective)[1]))
    gain, interval = ratio(best, now, objective)
    return Ranking(objective, ranked, now, rivals, gain, interval)


def ratio(one: Judged, other: Judged, objective: str) -> tuple[float, Interval]:
    """How many times as good `one` is as `other`, and the 95 % interval of that.

    Designs of one stack share its constants, so only what lies between rows of one source counts; of two stacks all.
    """
    here, there = one.estimate(objective), other.estimate(objective)
    times = here.value / there.value if objective == "throughput" else there.value / here.value
    if one.design == other.design:
        return times, (times, times)
    same = one.design.stack == other.design.stack
    spread = math.hypot(here.within, there.within) if same else math.hypot(here.spread, there.spread)
    factor = math.exp(NORMAL_95 * spread)
    return times, (times / factor, times * factor)


def _straddles(interval: Interval) -> bool:
    return interval[0] <= 1 <= interval[1]


def _tag(one: Judged, other: Judged, objective: str) -> str:
    """What a ratio rests on: the weaker of the two."""
    return min((judged.estimate(objective).tag for judged in (one, other)), key=TAGS.index)


def _span(interval: Interval) -> str:
    return f"{interval[0]:.2f} to {interval[1]:.2f}"
