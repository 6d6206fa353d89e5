"""`guess/PREDICTOR`: what a predictor expects is brought beside the cache, which takes over what a gate then names.

`guess/markov(2):more=1` guesses two blocks ahead, one expert more than a token chooses; `guess/markov:from=FILE` has
learnt from a trace before. `guess/shuffled_learned` brings what the same predictor said of other tokens: a control.
"""

from __future__ import annotations

from collections.abc import Callable

from offload.policies.lru_next_gate import NEXT_GATE_RECALL
from offload.policy import Policy
from offload.predictors.curves import curve_named
from offload.predictors.next_gate import CurveGate, NextGate
from offload.prefetching.guessed_ahead import AheadSlots, BringsGuesses, LearnsAsItRuns
from offload.prefetching.read_ahead import said_dram
from traces.errors import InvalidInput

__all__ = ["guess_next_gate", "guesses"]


def guesses(predictor: str) -> Callable[..., Policy]:
    """The preset of one predictor, "shuffled_..." for its control."""
    shuffled = predictor.startswith("shuffled_")
    name = predictor.removeprefix("shuffled_")

    def guess(lookahead: int = 1, more: int = 0, learnt: str | None = None, dram: int = 0) -> Policy:
        said = said_dram(_said(f"guess/{predictor}", lookahead, more), lookahead, dram)
        lessons = None
        if learnt is not None:
            from offload.predictors.learnt import lessons_named  # on use: a design that is only named needs no arrays

            if name == "uniform":
                raise InvalidInput(f"{said}:from={learnt}: it learns nothing, leave from= out")
            said, lessons = f"{said}:from={learnt}", lessons_named(learnt)
        return Policy(
            said,
            start=LearnsAsItRuns(name, lookahead, more, shuffled=shuffled, lessons=lessons, dram=dram),
            buffers=AheadSlots(lookahead, more),
        )

    return guess


def guess_next_gate(lookahead: int = 1, recall: float | None = None, curve: str | None = None, more: int = 0) -> Policy:
    """A later block's gate on this block's hidden states: right as a `recall` states, or as a `curve` by layer."""
    if recall is not None and curve is not None:
        raise InvalidInput("guess/next_gate has a recall or a curve, not both")
    stated = NEXT_GATE_RECALL if recall is None else recall
    name = _said("guess/next_gate", lookahead, more)
    name += "" if recall is None else f":recall={recall:g}"
    return Policy(
        name if curve is None else f"{name}:curve={curve}",
        prefetch=BringsGuesses(lookahead),
        predictor=NextGate(stated, more=more) if curve is None else CurveGate(curve_named(curve), lookahead, more),
        buffers=AheadSlots(lookahead, more),
    )


def _said(name: str, lookahead: int, more: int) -> str:
    if lookahead < 1:
        raise InvalidInput(f"{name}({lookahead}) guesses at least 1 block ahead: 0 is on_demand")
    ahead = f"({lookahead})" if lookahead > 1 else ""
    return f"{name}{ahead}:more={more}" if more else f"{name}{ahead}"
