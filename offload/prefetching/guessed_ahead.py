"""What a predictor expects of blocks to come is brought beside the cache, which takes over what a gate then names.

A wrong guess evicts nothing and costs link time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from offload.policy import BlockView, Buffers, Decisions, Fetch, RunFacts
from traces.errors import InvalidInput
from traces.foundation.type_checks import check_fields

if TYPE_CHECKING:
    from offload.predictors.learnt import Lessons


@dataclass(frozen=True, slots=True)
class LearnsAsItRuns:
    """The prefetch of one run, made anew: predictor `name` of `offload.predictors.catalogue` learns as it serves.

    `ahead`: blocks; `more`: experts guessed beyond k a token; `shuffled`: the control; `lessons`: what it has learnt
    before; `dram`: blocks ahead that storage is read into host memory for, 0 none.
    """

    name: str
    ahead: int = 1
    more: int = 0
    shuffled: bool = False
    lessons: Lessons | None = None
    dram: int = 0

    def __post_init__(self) -> None:
        check_fields(self)
        if self.ahead < 1:
            raise InvalidInput(f"guessing {self.ahead} blocks ahead: at least 1, a block's own gate has run then")
        if not 0 <= self.more <= 32767:
            raise InvalidInput(f"more = {self.more}: 0 to 32767 experts guessed beyond k")

    def __call__(self, facts: RunFacts) -> Decisions:
        """The decisions of a run that has seen nothing, but for what it has learnt before."""
        from offload.predictors.running_guesses import RunningGuesses

        return Decisions(
            RunningGuesses(self.name, facts, self.ahead, self.more, self.shuffled, self.lessons, self.dram)
        )


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


@dataclass(frozen=True, slots=True)
class GuessedNext:
    """Bring what the predictor names for the next block and is not there, most named first, `most` at most."""

    most: int

    def __post_init__(self) -> None:
        if self.most < 1:
            raise InvalidInput(f"most = {self.most} experts ahead is below 1: leave the prefetch out instead")

    def __call__(self, view: BlockView) -> Sequence[Fetch]:
        """One fetch, or none."""
        after = view.block + 1
        guessed = view.predicted(after)
        if guessed is None:
            return []
        named = Counter(guessed[guessed >= 0].tolist())
        missing = [expert for expert, _ in named.most_common() if not view.resident(after, expert)]
        return [Fetch(after, tuple(missing[: self.most]), aside=True)] if missing else []


@dataclass(frozen=True, slots=True)
class StagingSlots:
    """Slots beside the cache: the staging buffers, and where a block must fit at once its union."""

    n_buffers: int

    def __call__(self, n_active: int, n_experts: int) -> Buffers:
        """Of the largest union of an event."""
        return Buffers(n_active, max(n_active, self.n_buffers))


def said_guessed(name: str, lookahead: int, more: int) -> str:
    """The name of policy `name` that guesses `lookahead` blocks ahead, `more` experts than a token chooses.

    Raises `InvalidInput` below 1 block.
    """
    if lookahead < 1:
        raise InvalidInput(f"{name}({lookahead}) guesses at least 1 block ahead: 0 is on_demand")
    ahead = f"({lookahead})" if lookahead > 1 else ""
    return f"{name}{ahead}:more={more}" if more else f"{name}{ahead}"
