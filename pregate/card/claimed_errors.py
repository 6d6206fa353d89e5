"""How far claimed predictions were off on rows that nothing was fitted on: the spread of a number without a fit.

`claimed_errors.yaml` is made of the committed predictions of others' measurements (`docs/claimed_errors.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

from traces.foundation.documents import read_yaml

__all__ = ["RECORD", "Spread", "spread_of"]

RECORD = Path(__file__).parent / "claimed_errors.yaml"

_ENOUGH = (8, 2)
"""Rows and sources from which a stack is judged by its own rows, and not by all."""


@dataclass(frozen=True, slots=True)
class Spread:
    """Of ln(predicted / measured): the root mean square, and the standard deviation `within` rows of one source, which
    share a machine and a stack. `rows` from `sources`, of `stack` ("": of all), gathered until `date`.
    """

    rms: float
    within: float
    rows: int
    sources: int
    stack: str
    date: str

    def __str__(self) -> str:
        return f"errors on {self.rows} rows of {self.sources} sources" + (f" with {self.stack}" if self.stack else "")


def spread_of(phase: str, stack: str) -> Spread:
    """The spread of `phase`, "prefill" or "decode", with `stack`; of all stacks where its own rows are too few."""
    known = _record()
    own = known.get((phase, stack))
    if own is not None and own.rows >= _ENOUGH[0] and own.sources >= _ENOUGH[1]:
        return own
    return known[phase, ""]


@cache
def _record() -> dict[tuple[str, str], Spread]:
    section = read_yaml(RECORD)
    section.text("source")
    date = section.text("date")
    found: dict[tuple[str, str], Spread] = {}
    for phase, stacks in section.section("spreads").sections():
        for stack, entry in stacks.sections():
            named = "" if stack == "all" else stack
            numbers = entry.number("rms", minimum=0), entry.number("within", minimum=0)
            found[phase, named] = Spread(*numbers, entry.integer("rows"), entry.integer("sources"), named, date)
            entry.done()
    section.done()
    return found
