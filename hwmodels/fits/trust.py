"""How far times can be trusted: what the machine showed of itself while they were taken, in one word with reasons.

Two things are judged. The scatter says how far the same thing lies from itself when it is timed again: the standard
deviation of the logarithm, so 0.05 is 5 % more or less. The load says what ran beside it, in multiples of what leaves
times alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from traces.errors import unknown_name

LEVELS = ("high", "fair", "low", "none")
"""From figures to quote to figures that say nothing."""

_MOST_SCATTER = (0.05, 0.15, 0.6)
"""The scatter up to which trust is high, fair, low. What differs by 60 % from itself tells no two designs apart."""

TIMED_ONCE_SCATTER = _MOST_SCATTER[1]
"""What counts for a session in which nothing was timed twice, trust in which is fair at most."""

_QUIET_SHARE = 0.9
"""Trust is high where at least so much was timed on a quiet machine."""

_HEAVY = 5.0
"""Load of so many times what leaves times alone is heavy: a third of a core of two. Trust is low where most was."""

_LEVEL, _REASONS = "trust", "trust_reasons"


@dataclass(frozen=True, slots=True)
class Trust:
    """`level` (LEVELS) and the `reasons` for it; `scatter`: of the same thing timed again, None where nothing was.

    Raises `UnknownName` for another level.
    """

    level: str
    reasons: tuple[str, ...] = ()
    scatter: float | None = None

    def __post_init__(self) -> None:
        if self.level not in LEVELS:
            raise unknown_name("level of trust", self.level, LEVELS)

    def __str__(self) -> str:
        return f"{self.level} ({'; '.join(self.reasons)})" if self.reasons else self.level

    @property
    def is_doubtful(self) -> bool:
        """Whether an error may be the machine's as well as the model's."""
        return self.level in ("low", "none")

    def recorded(self) -> dict[str, str]:
        """As entries of a provenance, which `recorded_trust` reads."""
        return {_LEVEL: self.level, _REASONS: "; ".join(self.reasons)}

    def lowered(self, level: str, reason: str) -> Trust:
        """At most `level`, for one more reason."""
        worse = max(self.level, level, key=LEVELS.index)
        return Trust(worse, (*self.reasons, reason), self.scatter)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {"level": self.level, "scatter": self.scatter, "reasons": list(self.reasons)}


def trust_of(scatter: float | None, loads: Sequence[float], what: str) -> Trust:
    """The trust in figures that scatter so and were timed under such `loads`, one for each of `what` ("parts").

    A load of 1 is the most that leaves times alone.
    """
    level = LEVELS.index(worst_by_scatter(scatter))
    reasons = [_scatter_line(scatter)]
    n, quiet, heavy = len(loads), sum(load <= 1 for load in loads), sum(load > _HEAVY for load in loads)
    if quiet < _QUIET_SHARE * n:
        level = max(level, 1)
    if 2 * heavy > n:
        level = max(level, 2)
    if quiet < n:
        reasons.append(f"{n - quiet} of {n} {what} were timed beside other work")
    return Trust(LEVELS[level], tuple(reasons), scatter)


def worst_by_scatter(scatter: float | None) -> str:
    """The level of figures that scatter so, whatever ran beside them; fair where nothing was timed twice."""
    return LEVELS[1 if scatter is None else sum(scatter > most for most in _MOST_SCATTER)]


def _scatter_line(scatter: float | None) -> str:
    if scatter is None:
        return "nothing was timed twice"
    return f"the same thing takes {100 * scatter:.0f} % more or less when timed again"


def least_trusted(*several: Trust) -> Trust:
    """The least level, with the reasons for it; raises `ValueError` for none."""
    return max(several, key=lambda one: LEVELS.index(one.level))


def recorded_trust(provenance: Mapping[str, str]) -> Trust | None:
    """The trust that a provenance records; None where it records none."""
    level = provenance.get(_LEVEL)
    if level is None:
        return None
    return Trust(level, tuple(reason for reason in provenance.get(_REASONS, "").split("; ") if reason))
