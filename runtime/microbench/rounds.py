"""Microbenchmarks in rounds: every part once, then again while there is time, first what was disturbed.

What a fit cannot do without comes first and is measured whatever it takes; on a machine too busy for the rest within
the budget, the rest is left out and said to be.

What drifts then hits all parts alike, and a part that is timed twice says how far it lies from itself.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from hwmodels.calibrate.measurements import Sample
from hwmodels.calibrate.rounds import merged_rounds
from hwmodels.fits.trust import Trust, trust_of
from runtime.machine.watch import Clock, LoadWatch, Seen, counting

_QUIET_ROUNDS = 2
"""Quiet rounds of a part wanted, of at most `_MOST_ROUNDS`."""

_MOST_ROUNDS = 4


@dataclass(frozen=True, slots=True)
class Microbenchmark:
    """A microbenchmark. `run`: takes whether this is its first round, in which libraries choose their kernels.
    `needed`: no fit can be made without it.
    """

    name: str
    run: Callable[[bool], list[Sample]]
    needed: bool = False


@dataclass(frozen=True, slots=True)
class Round:
    """What a part gave in one round, what else was seen on the machine, and how long it took."""

    samples: list[Sample]
    seen: Seen
    took_s: float


@dataclass(frozen=True, slots=True)
class Session:
    """The rounds of each part by name, in the order of their first; `left_out`: parts that there was no time for."""

    rounds: Mapping[str, Sequence[Round]]
    left_out: tuple[str, ...] = ()

    @property
    def samples(self) -> tuple[Sample, ...]:
        """Each sample of the rounds that count, made one."""
        found: list[Sample] = []
        for rounds in self.rounds.values():
            found += merged_rounds([one.samples for one in _counted(rounds)], [one.samples for one in rounds])
        return tuple(found)

    @property
    def disturbances(self) -> tuple[str, ...]:
        """A line for each part that was never timed on a quiet machine: what was seen in its least disturbed round."""
        least = {name: min(rounds, key=lambda one: one.seen.load()) for name, rounds in self.rounds.items()}
        lines = {name: one.seen.disturbance() for name, one in least.items()}
        return tuple(f"{name}: {line}" for name, line in lines.items() if line is not None)

    def trust(self, samples: Sequence[Sample]) -> Trust:
        """By how far `samples` lie from themselves between rounds, and the load beside the rounds that count; low where
        parts were left out.
        """
        scatter = [sample.scatter for sample in samples if sample.scatter is not None]
        loads = [max(one.seen.load() for one in _counted(rounds)) for rounds in self.rounds.values()]
        trust = trust_of(float(np.median(scatter)) if scatter else None, loads, "parts")
        if 0 < len(scatter) <= len(samples) / 2:
            trust = trust.lowered("fair", f"{len(samples) - len(scatter)} of {len(samples)} samples were timed once")
        if not self.left_out:
            return trust
        n, of = len(self.left_out), len(self.left_out) + len(self.rounds)
        return trust.lowered("low", f"{n} of {of} parts were left out, there was no time for them")


def in_rounds(
    parts: Sequence[Microbenchmark], budget_s: float, say: Callable[[str], None], clock: Clock | None = None
) -> Session:
    """Measure every part once, then again within `budget_s`; `say` hears what is being done. `clock`: of the session.

    A part is wanted again until it has been timed twice on a quiet machine, four times at most, and is left out of a
    round that it would carry past the budget: taking what it took before, of its first time what the longest part took.
    What is needed comes first, in the first round, whatever it takes.
    """
    begin_s, clock = time.monotonic(), clock or Clock()
    rounds: dict[str, list[Round]] = {part.name: [] for part in parts}
    for i in range(_MOST_ROUNDS):
        wanted = [part for part in parts if _is_wanted(rounds[part.name])]
        for part in sorted(wanted, key=lambda part: _n_quiet(rounds[part.name]) > 0 if i else not part.needed):
            spent_s, before = time.monotonic() - begin_s, rounds[part.name]
            if (before or not part.needed) and spent_s + _expected_s(before, rounds) > budget_s:
                continue
            say(f"{part.name} (round {i + 1}, {spent_s:.0f} of {budget_s:.0f} s)")
            before.append(_one_round(part, not before, clock))
    left_out = tuple(name for name, mine in rounds.items() if not mine)
    if left_out:
        say(f"left out, there was no time for them: {', '.join(left_out)}")
    return Session({name: mine for name, mine in rounds.items() if mine}, left_out)


def _expected_s(before: Sequence[Round], rounds: Mapping[str, Sequence[Round]]) -> float:
    """What a part will take that had the rounds `before`."""
    if before:
        return before[-1].took_s
    return max((one.took_s for mine in rounds.values() for one in mine), default=0.0)


def _one_round(part: Microbenchmark, first: bool, clock: Clock) -> Round:
    gc.collect()
    begin_s = time.monotonic()
    with LoadWatch(clock) as watch:
        samples = part.run(first)
    return Round(samples, watch.seen, time.monotonic() - begin_s)


def _counted(rounds: Sequence[Round]) -> list[Round]:
    return [rounds[i] for i in counting([one.seen for one in rounds])]


def _n_quiet(rounds: Sequence[Round]) -> int:
    return sum(one.seen.disturbance() is None for one in rounds)


def _is_wanted(rounds: Sequence[Round]) -> bool:
    return _n_quiet(rounds) < _QUIET_ROUNDS
