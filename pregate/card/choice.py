"""Which design, and whether that can be said: two designs are apart where the interval of their ratio leaves out 1.

The verdict is among what can be run and is known best: designs that an engine runs, and of these the ones whose number
is fitted where any is. What is beside these and predicted to be better is a possibility, and said as one.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from pregate.ask.comparison import not_told_from
from pregate.ask.timing.intervals import Interval
from pregate.ask.timing.time_errors import alike_on, holds_one, interval_of_ratio
from pregate.card.designs import RESEARCH
from pregate.card.judged_design import TAGS, Expected, Judged

TIED = 1.02
"""Times that a design may be worse than the best and be tied with it: two runs of one design differ by as much."""


@dataclass(frozen=True, slots=True)
class Ranking:
    """`ranked`: the designs that the verdict is among, the best first; `now`: what runs today, one of them. `beside`:
    the others that fit, the best first. `rivals`: of the ranked those that cannot be told from the best, without it;
    `gain`: of the best over `now`, as a factor, with its interval. `is_stated`: whether somebody said what runs now;
    else `now` is what an engine does that is told nothing.
    """

    objective: str
    ranked: tuple[Judged, ...]
    beside: tuple[Judged, ...]
    now: Judged
    rivals: tuple[Judged, ...]
    gain: float
    gain_interval: Interval
    is_stated: bool = True

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
        return holds_one(ratio(self.best, one, self.objective)[1])

    @property
    def abstains(self) -> bool:
        """Whether the best cannot be told from what runs now, while it is another design."""
        return self.best is not self.now and any(one is self.now for one in self.rivals)

    def verdict(self) -> str:
        """What to do, in a sentence or two, and what is possible beside it."""
        told = self.advice(str(self.now.design))
        near = [one for one in self.rivals if one is not self.now]
        same = [one for one in near if self._is_best_too(one)]
        if near:
            others = [str(one.design) for one in near if one not in same]
            told += f"; {not_told_from(others, [str(one.design) for one in same])}"
        return f"{told}.{self._possibility()}"

    def _is_best_too(self, one: Judged) -> bool:
        """Whether `one` runs what the best runs, under another name."""
        best = self.best
        return one.design.stack == best.design.stack and (one.ttft.value, one.tpot.value) == (
            best.ttft.value,
            best.tpot.value,
        )

    def advice(self, now: str) -> str:
        """What to do, in a sentence without its point, in which what runs now is called `now`."""
        best, rests = self.best, weakest(self._tag(self.best), self._tag(self.now))
        if best is self.now:
            n, is_fitted = len(self.ranked), self._tag(best) == "fitted"
            place = f"the best of {n} {'fitted here' if is_fitted else 'that fit'}"
            if n == 1:
                place = f"the only one {'fitted here' if is_fitted else 'that fits'}"
            do = "Leave it as it is: " if self.is_stated else "Run "
            is_best = f"{best.design}{' is' if self.is_stated else ':'}"
            return f"{do}{is_best} {place}"
        span, tied = span_of(self.gain_interval), ", its first token earlier" if self.gain < 1 else ""
        if self.abstains:
            return (
                f"No verdict: {best.design} is predicted {times_of(self.gain)} times as good as {now}, {span} "
                f"({rests}){tied}: too close, {'leave it as it is' if self.is_stated else 'try both'}"
            )
        do = "Change to" if self.is_stated else "Run"
        return f"{do} {best.design}: {times_of(self.gain)} times as good as {now} ({span}, {rests}){tied}"

    def _possibility(self) -> str:
        """What would be better if it could be run, or if its claims held."""
        other = self.possible
        if other is None:
            return ""
        times, span = ratio(other, self.best, self.objective)
        rests = weakest(self._tag(other), self._tag(self.best))
        return (
            f" Possible, not proven: {other.design}, {times_of(times)} times as good as that ({span_of(span)}, "
            f"{rests}); {self.lacking(other)}."
        )

    def lacking(self, other: Judged) -> str:
        """What a design beside the verdict lacks to be among it."""
        lacks = []
        if other.design.stack == RESEARCH:
            lacks.append("no engine runs it")
        if any(self._tag(one) == "fitted" for one in self.ranked):
            lacks.append("unmeasured here")
        return ", ".join(lacks)

    def _tag(self, one: Judged) -> str:
        return one.estimate(self.objective).tag


def standing(judged: Sequence[Judged], objective: str, *, engines_only: bool = True) -> list[Judged]:
    """The designs that a verdict can be among: those that an engine runs where any is (`engines_only`), and of these
    the ones whose objective is fitted where any is.
    """
    run = [one for one in judged if one.design.stack != RESEARCH] if engines_only else []
    run = run or list(judged)
    return [one for one in run if one.estimate(objective).tag == "fitted"] or run


def ranking_of(judged: Sequence[Judged], now: Judged, objective: str, *, is_stated: bool = True) -> Ranking:
    """Rank designs by `objective`, ties settled by the first token. `now` is one of them: who runs no engine today is
    not held to engines.
    """
    among = standing(judged, objective, engines_only=now.design.stack != RESEARCH)
    ids = {id(one) for one in (*among, now)}
    in_order = sorted(judged, key=lambda one: one.cost(objective))
    ranked = _ties_settled([one for one in in_order if id(one) in ids], now if is_stated else None, objective)
    beside = tuple(one for one in in_order if id(one) not in ids)
    best = ranked[0]
    rivals = tuple(one for one in ranked[1:] if holds_one(ratio(best, one, objective)[1]))
    gain, interval = ratio(best, now, objective)
    return Ranking(objective, ranked, beside, now, rivals, gain, interval, is_stated)


def _ties_settled(in_order: Sequence[Judged], now: Judged | None, objective: str) -> tuple[Judged, ...]:
    """`in_order`, the best first. Those that are tied with it are led by what runs `now`, then by the earliest first
    token, then by the fewest dials.
    """
    floor = in_order[0].cost(objective)
    tied = [one for one in in_order if times_worse(one.cost(objective), floor) <= TIED]
    led = sorted(tied, key=lambda one: (one is not now, one.ttft.value, one.design.policy.count("@")))
    return (*led, *in_order[len(tied) :])


def times_worse(cost: float, best: float) -> float:
    """By what factor `cost` is worse than `best`, where less is better; both are below 0 where more of a figure is."""
    return cost / best if best > 0 else best / cost


def ratio(one: Judged, other: Judged, objective: str) -> tuple[float, Interval]:
    """How many times as good `one` is as `other`, and the 95 % interval of that.

    Designs of one stack share its constants, so only what they depend on differently counts; of two stacks all.
    """
    here, there = one.estimate(objective), other.estimate(objective)
    if one.design == other.design:
        times = _times_as_good(here, there, objective)
        return times, (times, times)
    return times_with_interval(here, there, objective, shared=one.design.stack == other.design.stack)


def between_machines(one: Judged, other: Judged, objective: str) -> tuple[float, Interval]:
    """As `ratio`, of designs on two machines: what is one host's is off on both alike, and all else independently."""
    alike = alike_on(one.planned.hw, other.planned.hw)
    return times_with_interval(one.estimate(objective), other.estimate(objective), objective, shared=False, alike=alike)


def times_with_interval(
    here: Expected, there: Expected, objective: str, *, shared: bool, alike: Collection[str] = ()
) -> tuple[float, Interval]:
    """How many times as good `here` is as `there`, and its 95 % interval; `shared`: of one machine and stack, `alike`:
    numbers that are off in both alike, where not all are.
    """
    over, under = (here, there) if objective == "throughput" else (there, here)
    times = _times_as_good(here, there, objective)
    return times, interval_of_ratio(times, over.error, under.error, shared=shared, alike=alike)


def _times_as_good(here: Expected, there: Expected, objective: str) -> float:
    return here.value / there.value if objective == "throughput" else there.value / here.value


def weakest(*tags: str) -> str:
    """What a comparison rests on: the weakest of what its numbers do."""
    return min(tags, key=TAGS.index)


def span_of(interval: Interval) -> str:
    """The interval of a ratio in words."""
    return f"{times_of(interval[0])} to {times_of(interval[1])}"


def times_of(factor: float) -> str:
    """A ratio with three digits, two of them behind the point at most."""
    return f"{factor:.2f}" if factor < 10 else f"{factor:.1f}" if factor < 100 else f"{factor:,.0f}"
