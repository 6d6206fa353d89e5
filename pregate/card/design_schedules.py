"""The two schedules of a design, prompt and tokens: written when something first needs them, and not to be told again
what was found of them before.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from hwmodels.cost import price_figures
from hwmodels.figures import figures_of
from pregate.ask.capturing.answer_cache import Answer, answer_key, kept_answer
from pregate.ask.capturing.capture import Captured, capture_request
from pregate.ask.capturing.request import Request
from pregate.ask.capturing.schedule_cache import ScheduleCache
from pregate.ask.timing.stages import token_pace
from pregate.card.designs import Planned
from simulator.recurrence import simulate


@dataclass(slots=True, eq=False, repr=False)
class DesignSchedules:
    """The schedules of `planned`; `kept`: where answers lie, None nowhere. Of a recorded trace both are one."""

    planned: Planned
    kept: ScheduleCache | None = None
    _written: dict[int, Captured] = field(default_factory=dict, init=False)

    @property
    def prompt(self) -> Captured:
        """Of the prompt. Raises `CapacityExceeded` where a layer's experts do not fit."""
        return self._of(self.planned.prompt)

    @property
    def tokens(self) -> Captured:
        """Of the tokens. Raises as `prompt`."""
        return self._of(self.planned.tokens)

    def _of(self, asked: Request) -> Captured:
        found = self._written.get(id(asked))
        if found is None:
            found = self._written[id(asked)] = capture_request(asked)
        return found

    def found(self, question: str, make: Callable[[], Answer]) -> Answer:
        """What `make` finds of the schedules, or found before where it was asked this `question`."""
        if self.kept is None:
            return make()
        planned = self.planned
        return kept_answer(self.kept, answer_key(question, (planned.prompt, planned.tokens), planned.hw), make)

    def token_pace(self) -> float:
        """How many times as long as by its schedule a token takes beside the other passes that are under way."""
        planned = self.planned
        if planned.n_under_way == 1:
            return 1.0

        def pace() -> Answer:
            schedule = self.tokens.decoded.schedule
            run = simulate(schedule, price_figures(schedule.works, figures_of(planned.hw)))
            return {"pace": token_pace(planned.tokens, run, planned.n_under_way)}

        return float(self.found(f"pace of {planned.n_under_way} passes", pace)["pace"])

    def digests(self) -> list[str]:
        """The digest of each."""
        return list(self.found("digests", self._digests)["digests"])

    def _digests(self) -> Answer:
        return {"digests": [one.decoded.schedule.digest for one in (self.prompt, self.tokens)]}
