"""`adap_moe`: a gate's guess at the next layer, as good as was measured of each layer of Mixtral (AdapMoE, ICCAD 2024).

Recall by layer is that of the released constants; `adap_moe@skip=0.1` skips experts by their sensitivity.

Differs: slots are split evenly over layers, not by dynamic programming; sensitivities are stated, not measured.
"""

from __future__ import annotations

from offload.policy import Cache, Policy
from offload.predictors.curves import curve_named
from offload.predictors.next_gate import CurveGate
from offload.prefetching.guessed_ahead import AheadSlots, BringsGuesses


def adap_moe() -> Policy:
    """An LRU of each layer takes all HBM that is left."""
    return Policy(
        "adap_moe",
        prefetch=BringsGuesses(1),
        predictor=CurveGate(curve_named("adapmoe")),
        buffers=AheadSlots(1, 0),
        cache=Cache("lru", per_layer=True),
    )
