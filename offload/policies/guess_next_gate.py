"""`guess/next_gate`: a later block's gate on this block's hidden states, right as often as a number or a curve states.

`guess/next_gate(2):recall=0.9` is right in 90 % of cases two blocks ahead, `guess/next_gate:curve=adapmoe` by layer, as
a curve of `offload.predictors.curves` has it.

Differs: guesses are drawn one by one, where real ones fail together.
"""

from __future__ import annotations

from offload.policies.lru_next_gate import NEXT_GATE_RECALL
from offload.policy import Policy
from offload.predictors.curves import curve_named
from offload.predictors.next_gate import CurveGate, NextGate
from offload.prefetching.guessed_ahead import AheadSlots, BringsGuesses, said_guessed
from traces.errors import InvalidInput


def guess_next_gate(lookahead: int = 1, recall: float | None = None, curve: str | None = None, more: int = 0) -> Policy:
    """Guesses wait beside the cache. Raises `InvalidInput` for a recall and a curve."""
    if recall is not None and curve is not None:
        raise InvalidInput("guess/next_gate has a recall or a curve, not both")
    stated = NEXT_GATE_RECALL if recall is None else recall
    name = said_guessed("guess/next_gate", lookahead, more) + ("" if recall is None else f":recall={recall:g}")
    return Policy(
        name if curve is None else f"{name}:curve={curve}",
        prefetch=BringsGuesses(lookahead),
        predictor=NextGate(stated, more=more) if curve is None else CurveGate(curve_named(curve), lookahead, more),
        buffers=AheadSlots(lookahead, more),
    )
