"""What the designs that ship do, in the words of their files; what papers and systems call them."""

from __future__ import annotations

import inspect
import re

from offload.policies.presets import PRESETS

_GUESS = "guess/"
_LEAST = 4
"""Letters of a name that is looked for."""

DESIGNS = tuple(name for name in PRESETS if not name.startswith(_GUESS) or name == f"{_GUESS}next_gate")
"""The designs, of which those that guess by other predictors are variants."""


def what_it_does(name: str) -> str:
    """The first sentence of a design's file, "a missing expert is fetched or ... (Fiddler, ICLR 2025)"; where the file
    has several designs, behind it the first sentence of its own.
    """
    of_file = first_sentence(_said(name))
    if sum(_said(other) == _said(name) for other in DESIGNS) < 2 or name not in DESIGNS:
        return of_file
    own = (PRESETS[name].__doc__ or "").split(". ")[0].split(".\n")[0].rstrip(".")
    return f"{of_file}: {own[:1].lower()}{own[1:]}"


def first_sentence(docstring: str) -> str:
    """What a design's file says first, behind its name and without its point."""
    return docstring.split("\n")[0].partition(": ")[2].rstrip(".")


def published_as(system: str) -> tuple[str, ...]:
    """The designs whose files name a system, `Fiddler` or `moe-infinity`: in their first sentence, or else anywhere."""
    wanted = _letters(system)
    if len(wanted) < _LEAST:
        return ()
    first = tuple(name for name in DESIGNS if wanted in _letters(first_sentence(_said(name))))
    return first or tuple(name for name in DESIGNS if wanted in _letters(_said(name)))


def _said(name: str) -> str:
    module = inspect.getmodule(PRESETS[name])
    return (module.__doc__ or "") if module is not None else ""


def _letters(text: str) -> str:
    return re.sub(r"[^a-z0-9]", "", text.lower())
