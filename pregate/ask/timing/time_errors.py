"""How far a predicted time may be off, and what of that two predictions share: one make of interval for every command.

Where a fit is of this machine, its devices and formats, its covariance says so (`pregate.ask.timing.intervals`), and of
numbers that somebody set how far claims scatter (`pregate.ask.timing.moved_numbers`). Else a time is off by what it
depends on, times how far that scattered from source to source (`pregate.ask.timing.claimed_intervals`): the ratio of
two designs depends on less, and is known better than either.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hwmodels.figures import figures_of
from hwmodels.fits.coverage import unseen
from hwmodels.platform import Platform
from hwmodels.specs.spread import HALF_95, OF_HOST, SPREAD_KEYS, shipped_spread
from offload.metrics.metric_probes import find_probes
from pregate.ask.capturing.capture import Captured
from pregate.ask.timing.claimed_intervals import claimed_depends, claimed_run, room_of, set_by_user
from pregate.ask.timing.intervals import Interval, intervals
from pregate.ask.timing.moved_numbers import moved_depends, moved_numbers
from simulator.explain.critical_path import ExplainedRun
from simulator.explain.sensitivity import metric_weights

OWN_ERROR = "interval of "
"""How the draws of what a prediction is off by itself are called, before its name."""

SCATTER = "scatter of "
"""How the draws of a number that scatters from source to source are called, before the number."""

OF_FIT = f"{SCATTER}the fit"
"""How the draws of what a fit is off by in all designs of a machine and stack alike are called."""

_NORMAL_95 = 1.96
"""Half a 95 % interval of a normal law, in its scales."""

_OF_FIT = math.sqrt(0.5)
"""What two designs of a machine and stack do not share of what a fit is unsure of: half of the variance."""


@dataclass(frozen=True, slots=True)
class TimeError:
    """What ln(real time / predicted time) is made of.

    `depends`: d ln(time) / d ln(number), by the numbers that scatter from source to source; `room`: by how much ln of
    one may rise, of those with a limit; `rows`: what a measurement is off by itself, in its scales; `fitted`: half 95 %
    intervals of a fit, down and up, (0, 0) without.
    """

    depends: Mapping[str, float] = field(default_factory=dict)
    room: Mapping[str, float] = field(default_factory=dict)
    rows: float = 0.0
    fitted: tuple[float, float] = (0.0, 0.0)

    @property
    def half_widths(self) -> tuple[float, float]:
        """How far down and up ln(time) goes, 95 %."""
        spread = shipped_spread()
        faster = {key: -depends for key, depends in self.depends.items()}
        claimed = (spread.half_width(each, self.room, self.rows) for each in (faster, self.depends))
        down, up = map(math.hypot, claimed, self.fitted)
        return down, up

    def interval(self, value: float) -> Interval:
        """The 95 % interval of a time that is predicted as `value`."""
        down, up = self.half_widths
        return value * math.exp(-down), value * math.exp(up)

    def drawn(self, normal: Callable[[str], NDArray[np.float64]], name: str) -> NDArray[np.float64]:
        """Real over predicted time in every draw. `normal`: standard normal draws by name, those of a number that
        scatters by `SCATTER` and the number, those of what is off by itself by `OWN_ERROR` and `name`, those of a fit
        in all designs by `OF_FIT`, which share as much of it as `interval_of_ratio` has it; 0 is no error.

        As wide at 95 % as `half_widths`, whose t law has tails that no mean survives.
        """
        spread, (down, up) = shipped_spread(), self.fitted
        scale = HALF_95 / _NORMAL_95
        off = np.zeros(()) if not self.rows else scale * self.rows * spread.row * normal(f"{OWN_ERROR}{name}")
        for key, depends in self.depends.items():
            moved = scale * spread.constants[key] * normal(f"{SCATTER}{key}")
            off = off + depends * np.minimum(moved, self.room.get(key, math.inf))
        if down or up:
            own, alike = normal(f"{OWN_ERROR}{name}"), normal(OF_FIT)
            both = _OF_FIT * own + math.sqrt(1 - _OF_FIT**2) * alike
            off = off + both * np.where(both < 0, down, up) / _NORMAL_95
        return np.exp(off)

    def inverse(self) -> TimeError:
        """Of what is so much over the time."""
        down, up = self.fitted
        return TimeError({key: -depends for key, depends in self.depends.items()}, self.room, self.rows, (up, down))

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready, as `from_dict` reads it."""
        return {"depends": self.depends, "room": self.room, "rows": self.rows, "fitted": list(self.fitted)}

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> TimeError:
        """What `to_dict` wrote."""
        down, up = document["fitted"]
        return cls(document["depends"], document["room"], document["rows"], (down, up))


def summed(parts: Sequence[tuple[float, TimeError]]) -> TimeError:
    """Of a sum of times (seconds, error): a number that is off is off in all parts, and each part is off by itself."""
    whole = sum(seconds for seconds, _ in parts)
    shares = [(seconds / whole, error) for seconds, error in parts]
    keys = dict.fromkeys(key for _, error in shares for key in error.depends)
    down, up = (math.hypot(*(share * error.fitted[end] for share, error in shares)) for end in (0, 1))
    return TimeError(
        {key: sum(share * error.depends.get(key, 0.0) for share, error in shares) for key in keys},
        {key: room for _, error in shares for key, room in error.room.items()},
        math.hypot(*(share * error.rows for share, error in shares)),
        (down, up),
    )


def interval_of_ratio(
    times: float, one: TimeError, other: TimeError, *, shared: bool, alike: Collection[str] = ()
) -> Interval:
    """The 95 % interval of `times`, the ratio of a time that is off by `one` to a time that is off by `other`.

    `shared`: of one machine and stack, whose numbers are off in both alike; else only those of `alike` are.
    """
    scale = _OF_FIT if shared else 1.0
    alike = {*one.depends, *other.depends} if shared else alike
    differ = TimeError(
        {key: one.depends.get(key, 0.0) - other.depends.get(key, 0.0) for key in SPREAD_KEYS if key in alike},
        {**one.room, **other.room},
        math.hypot(one.rows, other.rows),
    )
    both, here, there = differ.half_widths, _own(one, alike).half_widths, _own(other, alike).half_widths
    claimed = math.hypot(both[0], here[0], there[1]), math.hypot(both[1], here[1], there[0])
    down = math.hypot(claimed[0], scale * one.fitted[0], scale * other.fitted[1])
    up = math.hypot(claimed[1], scale * one.fitted[1], scale * other.fitted[0])
    return times * math.exp(-down), times * math.exp(up)


def _own(error: TimeError, alike: Collection[str]) -> TimeError:
    """What numbers outside of `alike` make of an error."""
    return TimeError({key: depends for key, depends in error.depends.items() if key not in alike}, error.room)


def alike_on(one: Platform, other: Platform) -> Collection[str]:
    """The numbers that are off on two machines alike: those of the host, where it is the same under the same stack."""
    same = one.machine.host == other.machine.host and one.stack.name == other.stack.name
    return OF_HOST if same else ()


def fit_speaks(captured: Captured, hw: Platform) -> bool:
    """Whether the covariance of the platform's fit is of this: of the same accelerator, and of every device and format
    that the schedule asks for.
    """
    works = captured.decoded.schedule.works
    return hw.fit is not None and hw.fit.hardware == hw.hardware and not unseen(works, hw)


def time_error(captured: Captured, hw: Platform, metric: str, run: ExplainedRun | None = None) -> TimeError:
    """How far `metric`, a time of the `run` of `captured` on `hw`, may be off."""
    figures = figures_of(hw)
    run = run or claimed_run(captured, figures)
    if fit_speaks(captured, hw):
        value = metric_weights(run.timeline, find_probes(captured.decoded.schedule, captured.trace), metric)
        fitted = _of_fit(captured, hw, {metric: value.value(run.timeline)}, run)[metric].error
        if fitted is not None:
            return fitted
    _, depends = claimed_depends(captured, hw, figures, (metric,), run)[metric]
    return TimeError(depends, room_of(hw, captured, figures), 1.0)


class Doubt(NamedTuple):
    """The 95 % interval of a metric and what its logarithm is off by; None where nothing says so."""

    interval: Interval | None
    error: TimeError | None


def run_doubts(captured: Captured, hw: Platform, metrics: Sequence[str], run: ExplainedRun | None) -> dict[str, Doubt]:
    """Of each of `metrics`, rates among them; `run`: of `captured` on `hw`, when it is known."""
    figures = figures_of(hw)
    run = run or claimed_run(captured, figures)
    depends = claimed_depends(captured, hw, figures, metrics, run)
    if fit_speaks(captured, hw):
        return _of_fit(captured, hw, {name: value for name, (value, _) in depends.items()}, run)
    spread, room = shipped_spread(), room_of(hw, captured, figures)
    return {
        name: Doubt(spread.interval(value, each, room), TimeError(each, room, 1.0)) if value > 0 else Doubt(None, None)
        for name, (value, each) in depends.items()
    }


def _of_fit(captured: Captured, hw: Platform, values: Mapping[str, float], run: ExplainedRun) -> dict[str, Doubt]:
    """Of metrics by their `values`, where a fit speaks: what it is unsure of, and what is reached of numbers that the
    user set, which is off in all designs alike as far as the metric is in proportion to it, and in one alone beyond.
    """
    assert hw.fit is not None
    figures, metrics = figures_of(hw), tuple(values)
    found = intervals(captured, hw, np.random.default_rng(0), metrics=metrics, explained=run)
    moved = moved_numbers(hw.fit, figures, set_by_user(hw))
    if not any(moved.values()):
        return {name: Doubt(found[name], _fitted(value, found[name])) for name, value in values.items()}
    own = intervals(captured, hw, np.random.default_rng(0), metrics=metrics, explained=run, with_moved=False)
    depends, room = moved_depends(captured, moved, figures, metrics, run)
    doubts = {}
    for name, value in values.items():
        of_fit, whole, alike = _fitted(value, own[name]), _fitted(value, found[name]), TimeError(depends[name], room)
        error = None
        if of_fit is not None and whole is not None:
            down, up = (
                max(each, math.sqrt(max(total**2 - shared**2, 0.0)))
                for each, total, shared in zip(of_fit.fitted, whole.fitted, alike.half_widths, strict=True)
            )
            error = replace(alike, fitted=(down, up))
        doubts[name] = Doubt(found[name], error)
    return doubts


def _fitted(value: float, interval: Interval | None) -> TimeError | None:
    """What a fit is off by where its `interval` is of `value`."""
    if interval is None or interval[0] <= 0:
        return None
    return TimeError(fitted=(math.log(value / interval[0]), math.log(interval[1] / value)))


def holds_one(interval: Interval) -> bool:
    """Whether the interval of a ratio holds 1."""
    return interval[0] <= 1 <= interval[1]
