"""`guess/PREDICTOR`: what a predictor expects is brought beside the cache, which takes over what a gate then names.

`guess/markov(2):more=1` guesses two blocks ahead, one expert more than a token chooses; `guess/markov:from=FILE` has
learnt from a trace before. `guess/shuffled_learned` brings what the same predictor said of other tokens: a control.
"""

from __future__ import annotations

from collections.abc import Callable

from offload.policy import Policy
from offload.prefetching.guessed_ahead import AheadSlots, LearnsAsItRuns, said_guessed
from offload.prefetching.read_ahead import said_dram
from traces.errors import InvalidInput


def guesses(predictor: str) -> Callable[..., Policy]:
    """The preset of one predictor, "shuffled_..." for its control."""
    name = predictor.removeprefix("shuffled_")

    def guess(lookahead: int = 1, more: int = 0, learnt: str | None = None, dram: int = 0) -> Policy:
        said = said_dram(said_guessed(f"guess/{predictor}", lookahead, more), lookahead, dram)
        lessons = None
        if learnt is not None:
            from offload.predictors.learnt import lessons_named  # on use: a design that is only named needs no arrays

            if name == "uniform":
                raise InvalidInput(f"{said}:from={learnt}: it learns nothing, leave from= out")
            said, lessons = f"{said}:from={learnt}", lessons_named(learnt)
        return Policy(
            said,
            start=LearnsAsItRuns(name, lookahead, more, predictor != name, lessons, dram),
            buffers=AheadSlots(lookahead, more),
        )

    return guess
