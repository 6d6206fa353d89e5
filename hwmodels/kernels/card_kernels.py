"""What a stack states of cards whose kernels are not the usual ones, by the cards that it names."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from hwmodels.quantity import ReadOnly
from traces.errors import InvalidFile
from traces.foundation.documents import Section

T = TypeVar("T")

_BEFORE = " before "
_NAMED = re.compile(r"\w+( before \d{1,2}\.\d|( \d{1,2}\.\d| gfx[0-9a-f]+)+)?")


@dataclass(frozen=True, slots=True)
class ByCard(Generic[T]):
    """By `MAKER`, `MAKER before CAPABILITY` (MAJOR.MINOR) or `MAKER CAPABILITY ...`, those that are listed; the
    first that a card is among holds of it.
    """

    stated: Mapping[str, T] = field(default_factory=lambda: ReadOnly({}))

    def of(self, vendor: str, compute_capability: str) -> T | None:
        """What holds of a card; None where it is the usual."""
        for cards, what in self.stated.items():
            maker, _, listed = cards.partition(" ")
            if vendor != maker:
                continue
            if _BEFORE in cards:
                if _is_before(compute_capability, cards.partition(_BEFORE)[2]):
                    return what
            elif not listed or compute_capability in listed.split():
                return what
        return None


def read_by_card(section: Section, name: str, read: Callable[[Section], T]) -> ByCard[T]:
    """What a stack states in section `name`. Raises `InvalidFile` for cards that are not said so."""
    table = section.optional_section(name)
    if table is None:
        return ByCard()
    stated = {cards: read(table.section(cards)) for cards in table.remaining()}
    for cards in stated:
        if not _NAMED.fullmatch(cards):
            raise InvalidFile(
                f"{table.where}: {cards!r} is not of the form MAKER, MAKER{_BEFORE}MAJOR.MINOR or MAKER CAPABILITY ..."
            )
    return ByCard(ReadOnly(stated))


def _is_before(compute_capability: str, newer: str) -> bool:
    """Whether a card's capability is below `newer`; of a card that has none nothing is known."""
    if not compute_capability[:1].isdigit():
        return False
    one, other = (tuple(map(int, text.split("."))) for text in (compute_capability, newer))
    return one < other
