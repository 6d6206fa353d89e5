"""What was predicted of rows, kept on disk: who edits one row of a table and asks again pays for that row only.

A row's answer is found by all that it is made from: its cells but what was measured, the model and the machines as
they were read, constants that other rows determine, dials of its routing, and the code. What is applied to an answer
afterwards (repeated rows, spreads of constants) is no part of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from hwmodels.platform import Platform, load_platform
from pregate.ask.capturing.answer_cache import Answer, kept_answer, said_key
from pregate.ask.capturing.own_policy_checks import is_own
from pregate.ask.capturing.schedule_cache import ScheduleCache, lasting_policy
from pregate.measured.reproduction import published_activation
from pregate.measured.row_prediction import RowBench
from pregate.measured.rows.measured_row import COLUMNS, MeasuredRow
from pregate.routing_traces import default_dials
from traces.errors import PregateError

_ASIDE = ("source", "value", "unit", "role", "reason", "note")
"""Columns that no prediction depends on."""

_SAID = tuple(column for column in COLUMNS if column not in _ASIDE)


class KeptRows:
    """Answers about the rows that `bench` predicts, in the folder of `cache`; None: every row is asked anew."""

    def __init__(self, bench: RowBench, cache: ScheduleCache | None) -> None:
        self._bench, self._cache = bench, cache
        self._words: dict[int, tuple[object, str]] = {}  # by identity: a thing, which is kept, and all of it in words

    def found(
        self, question: str, row: MeasuredRow, constants: Mapping[str, float] | None, make: Callable[[], Answer]
    ) -> Answer:
        """What `make` says of a row with `constants`, or said before where it was asked this `question`."""
        return make() if self._cache is None else kept_answer(self._cache, self._key(question, row, constants), make)

    def _key(self, question: str, row: MeasuredRow, constants: Mapping[str, float] | None) -> str | None:
        """None of what cannot be said, and of a user's own policy, which is held to its promises every time."""
        bench = self._bench
        try:
            claimed, hw = bench.platform(row), bench.platform(row, constants)
            model, policy, assumed = bench.model(row), row.design(), None
            if row.is_of_isca24:
                assumed = published_activation(load_platform(row.hardware, row.stack or None))
        except PregateError:
            return None
        words = None if is_own(policy) else lasting_policy(policy)
        if words is None:
            return None
        cells = [getattr(row, column) for column in _SAID]
        said = (cells, bench.seed, words, self._said(model), default_dials(model), assumed)
        return said_key(question, [*said, *map(self._machine, (claimed, hw))])

    def _machine(self, hw: Platform) -> list[str]:
        return [self._said(one) for one in (hw.machine, hw.stack, hw.overridden, hw.fit)]

    def _said(self, one: object) -> str:
        """All of a frozen thing in words, which are long, and of many rows the same."""
        found = self._words.get(id(one))
        if found is None:
            found = self._words[id(one)] = one, repr(one)
        return found[1]
