"""`--speculative`: how designs draft tokens, and the time of a draft as a number of the machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pregate.ask.speculative import Drafting


def drafting_of(text: str | None) -> Drafting | None:
    """What the option says; None where it is left out."""
    from pregate.ask.speculative import drafting_named

    return None if text is None else drafting_named(text)


def with_draft_time(sets: list[str] | None, text: str | None) -> list[str] | None:
    """The overrides of a machine, with the time of a drafted token where the option states one."""
    drafting = drafting_of(text)
    if drafting is None or not drafting.overrides:
        return sets
    return [*(sets or ()), *(f"{key}={value}" for key, value in drafting.overrides.items())]
