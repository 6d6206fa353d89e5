"""Which design, and whether that can be said: two designs are apart where the interval of their ratio leaves out 1.

The verdict is among what can be run and is known best: designs that an engine runs, and of these the ones whose number
is fitted where any is. What is beside these and predicted to be better is a possibility, and said as one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pregate.ask.timing.intervals import Interval
from pregate.card.designs import RESEARCH
from pregate.card.judged import NORMAL_95, TAGS, Judged

__all__ = ["Ranking", "choose", "ratio", "standing", "weakest"]


@dataclass(frozen=True, slots=True)
class Ranking:
    """`ranked`: the designs that the verdict is among, the best first; `now`: what runs today, one of them. `beside`:
    the others that fit, the best first. `rivals`: of the ranked those that cannot be told from the best, without it;
    `gain`: of the best over `now`, as a factor, with its interval.
    """

    objective: str
    ranked: tuple[Judged, ...]
    beside: tuple[Judged, ...]
    now: Judged
    rivals: tuple[Judged, ...]
    gain: float
    gain_interval: Interval

    @property
    def best(self) -> Judged:
        """The design with the best objective."""
        return self.ranked[0]

    @property
    def possible(self) -> Judged | None:
        """The best beside the verdict, where it is predicted to be better."""
        first = next(iter(self.beside), None)
        return first if first is not None and first.cost(self.objective) < self.best.cost(self.objective) else None

    def straddles(self, one: Judged) -> bool:
        """Whether `one` cannot be told from the best."""
        return _straddles(ratio(self.best, one, self.objective)[1])

    @property
    def abstains(self) -> bool:
        """Whether the best cannot be told from what runs now, while it is another design."""
        return self.best is not self.now and any(one is self.now for one in self.rivals)

    def verdict(self) -> str:
        """What to do, in a sentence or two."""
        best, now = self.best, self.now
        rests = weakest(self._tag(best), self._tag(now))
        near = [one for one in self.rivals if one is not now]
        if best is now:
            n = len(self.ranked)
            if self._tag(best) != "fitted":
                told = f"Leave it as it is: {now.design} is the best of {n} that fit"
            else:
                told = (
                    f"Leave it as it is: {now.design} is the "
                    + (f"best of {n}" if n > 1 else "only one")
                    + " fitted here"
                )
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
            more = f" and {len(near) - 1} more" if len(near) > 1 else ""
            told += f"; it cannot be told from {near[0].design}{more}: intervals straddle"
        return f"{told}.{self._possibility()}"

    def _possibility(self) -> str:
        """What would be better if it could be run, or if its claims held."""
        other, best = self.possible, self.best
        if other is None:
            return ""
        times, span = ratio(other, best, self.objective)
        lacks = []
        if other.design.stack == RESEARCH:
            lacks.append("no engine runs it")
        if any(self._tag(one) == "fitted" for one in self.ranked):
            lacks.append("nobody measured it here")
        return (
            f" Possible, not proven: {other.design}, {times:.2f} times as good as that ({_span(span)}, "
            f"{weakest(self._tag(other), self._tag(best))}); {', and '.join(lacks)}."
        )

    def _tag(self, one: Judged) -> str:
        return one.estimate(self.objective).tag


def standing(judged: Sequence[Judged], objective: str, *, engines_only: bool = True) -> list[Judged]:
    """The designs that a verdict can be among: those that an engine runs where any is (`engines_only`), and of these
    the ones whose objective is fitted where any is.
    """
    run = [one for one in judged if one.design.stack != RESEARCH] if engines_only else []
    run = run or list(judged)
    return [one for one in run if one.estimate(objective).tag == "fitted"] or run


def choose(judged: Sequence[Judged], now: Judged, objective: str) -> Ranking:
    """Rank designs by `objective`. `now` is one of them: who runs no engine today is not held to engines."""
    among = standing(judged, objective, engines_only=now.design.stack != RESEARCH)
    ids = {id(one) for one in (*among, now)}
    in_order = sorted(judged, key=lambda one: one.cost(objective))
    ranked = tuple(one for one in in_order if id(one) in ids)
    beside = tuple(one for one in in_order if id(one) not in ids)
    best = ranked[0]
    rivals = tuple(one for one in ranked[1:] if _straddles(ratio(best, one, objective)[1]))
    gain, interval = ratio(best, now, objective)
    return Ranking(objective, ranked, beside, now, rivals, gain, interval)


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


def weakest(*tags: str) -> str:
    """What a comparison rests on: the weakest of what its numbers do."""
    return min(tags, key=TAGS.index)


def _span(interval: Interval) -> str:
    return f"{interval[0]:.2f} to {interval[1]:.2f}"
