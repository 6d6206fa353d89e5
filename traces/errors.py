"""The errors a user can mend. Each message is one line: the value, the limit and the way out."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class PregateError(Exception):
    """Anything this project refuses on purpose. The command line prints it as one line and exits with 2."""


class InvalidInput(PregateError):
    """A value outside its limits: a negative bandwidth, an impossible shape, a trace of another model."""


class InvalidFile(InvalidInput):
    """A file that is missing, too big, malformed or not of the stated format."""


class UnknownName(InvalidInput):
    """A name that is not in a registry; the message offers the nearest one."""


_MOST_NAMES = 20
"""Known names of which a message lists all where none is near; of more it lists the nearest and where they stand."""
_NEAREST = 3
_LISTED = {
    "model": "pregate models",
    "hardware": "pregate hardware",
    "stack": "pregate hardware",
    "host": "pregate hardware hosts",
    "link": "pregate hardware links",
    "policy": "pregate policies",
    "dtype": "docs/formats.md",
    "eviction": "docs/residency.md",
}
"""Where a user finds all names of a kind."""
_MOST_BEGUN = 6
"""Names that begin as the unknown one does, of which all are told: a card has several memories and forms."""


def unknown_name(kind: str, name: str, known: Iterable[str], where: str = "", *, spelled: str = "") -> UnknownName:
    """Build the error for `name`, unknown among `known`: it names the nearest valid ones.

    `kind` is what was looked for ("model", "key"), `where` the file or option it was found in, `spelled` the name as
    known ones are spelt, where it is not written so.
    """
    names, wanted = sorted(known), spelled or name
    near = [known_name for known_name in names if wanted and known_name.startswith(wanted)][:_MOST_BEGUN]
    near = near or difflib.get_close_matches(wanted, names, n=1, cutoff=0.5)
    hint = f"did you mean {' or '.join(map(repr, near))}?" if near else _told(kind, wanted, names)
    place = f" in {where}" if where else ""
    return UnknownName(f"unknown {kind} {name!r}{place}: {hint}")


def _told(kind: str, wanted: str, names: list[str]) -> str:
    """What is known where nothing is near: all of a few, else the nearest of many and where the list is."""
    if len(names) <= _MOST_NAMES:
        return f"known: {', '.join(names)}" if names else "there are none"
    nearest = difflib.get_close_matches(wanted, names, n=_NEAREST, cutoff=0.0)
    listed = f" (all: {_LISTED[kind]})" if kind in _LISTED else ""
    return f"nearest of {len(names):,} known: {', '.join(nearest)}{listed}"


def check_least(name: str, value: float, least: int) -> None:
    """Raise `InvalidInput` for a `value` below `least`, the smallest that `name` may have."""
    if value < least:
        raise InvalidInput(f"{name} = {value} is below {least}: give {least} or more")
