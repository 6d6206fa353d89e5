"""`guess/PREDICTOR`: what a predictor expects is brought beside the cache, which takes over what a gate then names.

`guess/markov(2):more=1` guesses two blocks ahead, one expert more than a token chooses; `guess/markov:from=FILE` has
learnt from a trace before. A wrong guess evicts nothing
and costs link time. `guess/shuffled_learned` brings what the same predictor said of other tokens: a control.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import offload.policies.lru_next_gate as eliseev
from offload.policy import BlockView, Buffers, Decisions, Fetch, Policy, RunFacts
from offload.predictors.curves import curve_named
from offload.predictors.next_gate import CurveGate, NextGate
from traces.errors import InvalidInput
from traces.typed import check_fields

if TYPE_CHECKING:
    from offload.predictors.learnt import Lessons

__all__ = ["AheadSlots", "BringsGuesses", "LearnsAsItRuns", "guess_next_gate", "guesses"]


@dataclass(frozen=True, slots=True)
class LearnsAsItRuns:
    """The prefetch of one run, made anew: predictor `name` of `offload.predictors.catalogue` learns as it serves.

    `ahead`: blocks; `more`: experts guessed beyond k a token; `shuffled`: the control; `lessons`: what it has learnt
    before.
    """

    name: str
    ahead: int = 1
    more: int = 0
    shuffled: bool = False
    lessons: Lessons | None = None

    def __post_init__(self) -> None:
        check_fields(self)
        if self.ahead < 1:
            raise InvalidInput(f"guessing {self.ahead} blocks ahead: at least 1, a block's own gate has run then")
        if not 0 <= self.more <= 32767:
            raise InvalidInput(f"more = {self.more}: 0 to 32767 experts guessed beyond k")

    def __call__(self, facts: RunFacts) -> Decisions:
        """The decisions of a run that has seen nothing, but for what it has learnt before."""
        from offload.predictors.running import RunningGuesses

        return Decisions(RunningGuesses(self.name, facts, self.ahead, self.more, self.shuffled, self.lessons))


@dataclass(frozen=True, slots=True)
class BringsGuesses:
    """Bring what `view.predicted` names `ahead` blocks on and is not there; the first block also those between."""

    ahead: int

    def __call__(self, view: BlockView) -> Sequence[Fetch]:
        """A fetch a block."""
        first = 1 if view.block == 0 else view.block + self.ahead
        fetches = []
        for block in range(first, min(view.block + self.ahead, view.n_blocks - 1) + 1):
            guessed = view.predicted(block)
            named = () if guessed is None else dict.fromkeys(guessed[guessed >= 0].tolist())
            missing = tuple(expert for expert in named if not view.resident(block, expert))
            if missing:
                fetches.append(Fetch(block, missing, aside=True))
        return fetches


@dataclass(frozen=True, slots=True)
class AheadSlots:
    """Slots for a block's own experts, and for those guessed of each of `ahead` blocks."""

    ahead: int
    more: int

    def __call__(self, n_active: int, n_experts: int) -> Buffers:
        """Of the largest union of an event."""
        return Buffers(n_active, n_active + self.ahead * min(n_experts, n_active + self.more))


def guesses(predictor: str) -> Callable[..., Policy]:
    """The preset of one predictor, "shuffled_..." for its control."""
    shuffled = predictor.startswith("shuffled_")
    name = predictor.removeprefix("shuffled_")

    def guess(lookahead: int = 1, more: int = 0, learnt: str | None = None) -> Policy:
        said = _said(f"guess/{predictor}", lookahead, more)
        lessons = None
        if learnt is not None:
            from offload.predictors.learnt import lessons_named  # on use: a design that is only named needs no arrays

            if name == "uniform":
                raise InvalidInput(f"{said}:from={learnt}: it learns nothing, leave from= out")
            said, lessons = f"{said}:from={learnt}", lessons_named(learnt)
        return Policy(
            said,
            start=LearnsAsItRuns(name, lookahead, more, shuffled=shuffled, lessons=lessons),
            buffers=AheadSlots(lookahead, more),
        )

    return guess


def guess_next_gate(lookahead: int = 1, recall: float | None = None, curve: str | None = None, more: int = 0) -> Policy:
    """A later block's gate on this block's hidden states: right as a `recall` states, or as a `curve` by layer."""
    if recall is not None and curve is not None:
        raise InvalidInput("guess/next_gate has a recall or a curve, not both")
    stated = eliseev.NEXT_GATE_RECALL if recall is None else recall
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
