"""What the clock of a table leaves to be ranked: times that lie on the same tick are in no order that a law could know.

Blackwell's tables of attention and of experts count in ticks of 2.048 us (`docs/table_ticks.py`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

TICK_S = 2.048e-6

_SHORTER_S = 40e-6
"""Below it the times of a table tell its clock."""

_LEAST_TIMES = 50
_TICKING = 0.4
"""How far times are whole ticks where a clock ticks: 0.04 to 0.2 of those that do not, 0.6 to 0.9 of those that do."""


@dataclass(frozen=True, slots=True)
class RankAgreement:
    """How well times are ranked that were read from a clock that ticks.

    `ceiling`: tau that is expected of true times, each anywhere within the tick that its reading lies on. `apart`: tau
    of what was predicted, over pairs that were read more than a tick apart.
    """

    ceiling: float
    apart: float

    def to_dict(self) -> dict[str, float]:
        """JSON-ready."""
        return {"ceiling": round(self.ceiling, 4), "apart": round(self.apart, 4)}


def in_ticks(seconds: NDArray[np.float64]) -> complex:
    """Mean of the shorter times as angles, a tick the whole turn: length 0 where no clock ticks, 1 of whole ticks."""
    shorter = seconds[seconds < _SHORTER_S]
    return complex(np.exp(2j * np.pi * shorter / TICK_S).mean()) if len(shorter) >= _LEAST_TIMES else 0j


def rank_agreement(predicted: NDArray[np.float64], measured: NDArray[np.float64]) -> RankAgreement | None:
    """Of the seconds (n,) that were predicted and measured; None where the clock does not tick."""
    said = np.isfinite(predicted)
    predicted, measured = predicted[said], measured[said]
    turn = in_ticks(measured)
    if abs(turn) < _TICKING:
        return None
    tick = np.round(measured / TICK_S - np.angle(turn) / (2 * np.pi))
    _, alike = np.unique(tick, return_counts=True)
    n = len(measured)
    same = float((alike * (alike - 1)).sum() / (n * (n - 1)))
    one, other = np.triu_indices(n, 1)
    apart = np.abs(measured[one] - measured[other]) > TICK_S
    ordered = np.sign(predicted[one] - predicted[other]) * np.sign(measured[one] - measured[other])
    return RankAgreement(1 - same, float(ordered[apart].mean()))
