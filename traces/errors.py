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


_MOST_NAMES = 24
"""Known names that a message lists where none is near."""
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
    n_more = len(names) - _MOST_NAMES
    told = ", ".join(names[:_MOST_NAMES]) + (f" and {n_more} more" if n_more > 0 else "")
    hint = f"did you mean {' or '.join(map(repr, near))}?" if near else f"known: {told}" if names else "there are none"
    place = f" in {where}" if where else ""
    return UnknownName(f"unknown {kind} {name!r}{place}: {hint}")


def check_least(name: str, value: float, least: int) -> None:
    """Raise `InvalidInput` for a `value` below `least`, the smallest that `name` may have."""
    if value < least:
        raise InvalidInput(f"{name} = {value} is below {least}: give {least} or more")
