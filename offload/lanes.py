"""Lanes of a schedule of one card or several: those of `Lane`, then the compute streams of further cards."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from offload.ops import Lane


def card_lane(card: int) -> int:
    """The compute stream of one card, counted from 0."""
    return int(Lane.COMPUTE) if card == 0 else len(Lane) + card - 1


def n_lanes(lane: NDArray[np.int8]) -> int:
    """Lanes that a schedule has, `lane` (n_ops,): those of `Lane` at least."""
    return max(len(Lane), int(lane.max(initial=0)) + 1)


def cards(lane: NDArray[np.int8]) -> list[int]:
    """The compute streams of the cards of a schedule, `lane` (n_ops,), in order."""
    return [card_lane(card) for card in range(n_lanes(lane) - len(Lane) + 1)]


def computes(lane: NDArray[np.int8]) -> NDArray[np.bool_]:
    """Which ops run on the compute stream of a card, (n_ops,)."""
    found: NDArray[np.bool_] = (lane == Lane.COMPUTE) | (lane >= len(Lane))
    return found


def kind_of_lane(lane: int) -> Lane:
    """What a lane is, of whichever card."""
    return Lane.COMPUTE if lane >= len(Lane) else Lane(lane)
