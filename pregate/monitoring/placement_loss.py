"""Whether a placement made from the reference still holds what a window asks for, or chance alone parts them as far.

Counts are fitted to what they were counted on: of the very reference a placement always holds more than of any other
traffic. So it is held against parts of both that are drawn at random, one to place by and the other to serve.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from traces.routing import RoutingTrace
from traces.statistics.locality import decode_layers
from traces.statistics.permutation import drawn_units, exchanged_by_sequence, p_value, unit_counts

_CELLS = 1 << 22
"""Array cells worked on at a time."""


@dataclass(frozen=True, slots=True)
class PlacementLoss:
    """`hit_rate` of a placement by the reference's counts on the window; `by_chance`: the median where parts are drawn
    at random; `p_value`: how often such draws hold as little.
    """

    hit_rate: float
    by_chance: float
    p_value: float


def placement_loss(
    reference: RoutingTrace, observed: RoutingTrace, n_held: int, *, n_permutations: int, seed: int
) -> PlacementLoss:
    """Exchanged as in `traces.statistics.drift.drift_between`; `n_held` experts of each layer are placed."""
    by_sequence, layers = exchanged_by_sequence(reference, observed), decode_layers(reference)
    ours, theirs = (unit_counts(trace, layers, by_sequence=by_sequence) for trace in (reference, observed))
    found = float(_held_shares(ours.sum(axis=0)[None], theirs.sum(axis=0)[None], n_held)[0])
    drawn = drawn_units(len(ours), len(theirs), n_permutations, seed)
    pooled = np.concatenate([ours, theirs]).reshape(drawn.shape[1], -1)
    together, shape, shares = pooled.sum(axis=0), (-1, *ours.shape[1:]), []
    rows = max(1, _CELLS // pooled.shape[1])
    for start in range(0, len(drawn), rows):
        taken = drawn[start : start + rows] @ pooled
        shares.append(_held_shares((together - taken).reshape(shape), taken.reshape(shape), n_held))
    by_chance = np.concatenate(shares)
    return PlacementLoss(found, float(np.median(by_chance)), p_value(-found, -by_chance))


def _held_shares(placed_by: NDArray[np.float64], asked: NDArray[np.float64], n_held: int) -> NDArray[np.float64]:
    """(n,): the share of `asked` (n, n_layers, n_experts) that falls on the experts most counted in `placed_by`."""
    held = np.argsort(-placed_by, axis=2, kind="stable")[:, :, :n_held]
    found: NDArray[np.float64] = np.take_along_axis(asked, held, axis=2).sum(axis=(1, 2)) / asked.sum(axis=(1, 2))
    return found
