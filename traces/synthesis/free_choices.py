"""Choices of experts that compute nothing, as LongCat has them: there is nothing to fetch of them."""

from __future__ import annotations

import dataclasses

import numpy as np

from traces.routing import RoutingTrace


def without_free_choices(trace: RoutingTrace, computed: float, rng: np.random.Generator) -> RoutingTrace:
    """The trace with each choice kept with the probability `computed`, each for itself; the others are -1, no choice.

    A token keeps one of its choices at a layer at least. That real gates leave out more of some tokens than of others
    (LongCat-Flash computes 0 to 12 experts a token, arXiv 2509.01322) is not modelled beyond that.
    """
    made = trace.experts >= 0
    kept = made & (rng.random(made.shape) < computed)
    kept[..., 0] |= made[..., 0] & ~kept.any(axis=-1)
    return dataclasses.replace(trace, experts=np.where(kept, trace.experts, np.int16(-1)))
