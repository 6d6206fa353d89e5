"""Groups of predicted cases run one after the other: what fails is noted, what there is no time for is left out."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from offload.slots.memory import CapacityExceeded
from pregate.validation.outcome import CaseOutcome, CasePrediction
from pregate.validation.predictions import PreparedCase
from pregate.validation.runs.case_runner import Runner
from pregate.validation.runs.recording import Recording
from runtime.backends.backend import LaneFailure
from runtime.run import OutputMismatch

PredictedGroup = list[tuple[PreparedCase, CasePrediction]]
"""The cases of a group, each with what is predicted of it."""


@dataclass
class GroupErrors:
    """Groups that failed, and why."""

    reasons: dict[str, str] = field(default_factory=dict)
    first: Exception | None = None

    @contextmanager
    def noted(self, group: str) -> Iterator[None]:
        """What a memory, a run, or the framework below it raises is noted for `group`."""
        try:
            yield
        except (CapacityExceeded, LaneFailure, OutputMismatch, RuntimeError) as error:
            self.reasons[group] = str(error).partition("\n")[0]
            self.first = self.first or error


@dataclass
class TimeBudget:
    """Time for all groups, begun when made; each run takes what was predicted and, beside it, `beside_s` at most."""

    budget_s: float | None
    repeats: int
    beside_s: float = 0.0
    begin_s: float = field(default_factory=lambda: time.monotonic())

    def lacking(self, pairs: PredictedGroup) -> str | None:
        """Why there is no time for a group; None when there is."""
        if self.budget_s is None:
            return None
        left_s = self.budget_s - (time.monotonic() - self.begin_s)
        n_runs, predicted_s = self._runs_of(pairs)
        wanted_s = predicted_s + n_runs * self.beside_s
        return f"{max(left_s, 0.0):.0f} s were left, {wanted_s:.0f} s needed" if wanted_s > left_s else None

    @contextmanager
    def spent_on(self, pairs: PredictedGroup) -> Iterator[None]:
        """Learn from a group what its runs take beside their makespans."""
        begin_s = time.monotonic()
        yield
        n_runs, predicted_s = self._runs_of(pairs)
        self.beside_s = max(self.beside_s, (time.monotonic() - begin_s - predicted_s) / n_runs)

    def _runs_of(self, pairs: PredictedGroup) -> tuple[int, float]:
        """Runs of a group, and their makespans together."""
        makespan_s = sum(prediction.metrics["makespan_s"] for _, prediction in pairs)
        return 1 + self.repeats * len(pairs), self.repeats * makespan_s


def run_groups(
    predicted: Sequence[PredictedGroup],
    runner: Runner,
    budget: TimeBudget,
    errors: GroupErrors,
    say: Callable[[str], None],
    earlier: Recording | None = None,
    keep: Callable[[], None] = lambda: None,
) -> tuple[list[CaseOutcome], dict[str, str]]:
    """Run each group that there is time for and that `earlier` has no runs of; what each case came to, and why groups
    were left out. `keep`: called when one has run, so that a call that is ended keeps what it has.
    """
    outcomes: list[CaseOutcome] = []
    skipped: dict[str, str] = {}
    for pairs in predicted:
        name = pairs[0][0].case.group
        drawn = [one.case.name for one, prediction in pairs if prediction.timeline is not None]
        if earlier is not None and all(one.case.name in earlier.cases for one, _ in pairs):
            measured = earlier.measure([one for one, _ in pairs], drawn)
            outcomes += [CaseOutcome(one.case, said, run) for (one, said), run in zip(pairs, measured, strict=True)]
            continue
        lacking = budget.lacking(pairs)
        if lacking is not None:
            skipped[name] = lacking
            continue
        say(f"running {name}")
        with errors.noted(name), budget.spent_on(pairs):
            measured = runner.measure([one for one, _ in pairs], drawn)
            keep()
            outcomes += [CaseOutcome(one.case, said, run) for (one, said), run in zip(pairs, measured, strict=True)]
    return outcomes, skipped
