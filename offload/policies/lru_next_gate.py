"""`lru_next_gate`: an LRU of each layer, and a guess at the next layer by its own gate (mixtral-offloading, 2023).

arXiv:2312.17238, sections 3.1 to 3.3. While a layer runs, the gate of the next one is applied to this layer's hidden
states, and what it names is brought into staging buffers that all layers share. A guess replaces nothing: the cache
of a layer takes it over only when the layer's own gate names it.

Differs: the cache takes all HBM that is left, `lru_next_gate+lru:0.5:per_layer` holds half of each layer as published
(k = 4 of 8 in Mixtral); guesses are drawn as often right as a number states; the released code's write-back is
`:write_back` after the cache.
"""

from __future__ import annotations

from offload.policy import Cache, Policy
from offload.predictors.next_gate import NextGate
from offload.prefetching.guessed_ahead import GuessedNext, StagingSlots

NEXT_GATE_RECALL = 0.84
"""One layer ahead on Mixtral-8x7B the next gate is right in 84 to 91 % of cases, as was published; the lowest."""

N_STAGING = 4
"""Staging buffers that all layers share (section 3.3)."""


def lru_next_gate(recall: float = NEXT_GATE_RECALL) -> Policy:
    """The cache takes all HBM that is left, split evenly over the layers."""
    name = "lru_next_gate" if recall == NEXT_GATE_RECALL else f"lru_next_gate:recall={recall:g}"
    return Policy(
        name,
        prefetch=GuessedNext(N_STAGING),
        predictor=NextGate(recall),
        buffers=StagingSlots(N_STAGING),
        cache=Cache("lru", per_layer=True),
    )
