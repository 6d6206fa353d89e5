"""Words of the command line become values here, without pydantic, whose import takes as long as a listing does.

Typer from 0.29 on makes a pydantic adapter for every parameter as it is read, unless the parameter has been given what
coerces it. Releases that keep no such place coerce as they did.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, get_args, get_origin

import typer

_PLACE = "_runtime_param"
"""Where typer keeps what coerces a parameter, None until it is read."""


@dataclass(frozen=True, slots=True)
class Coercion:
    """Reads one parameter: `read` a word, `many` whether it takes several, no number below `least`."""

    read: Callable[[str], Any]
    many: bool
    least: float | None

    def coerce(self, value: Any, param: Any, ctx: Any) -> Any:
        """`value`, a word or a default, as the command takes it. Raises `typer.BadParameter` for what it cannot be."""
        if value is None:
            return () if self.many else None
        try:
            return [self._one(item) for item in value] if self.many else self._one(value)
        except ValueError as error:
            raise typer.BadParameter(str(error), ctx=ctx, param=param) from None

    def _one(self, value: Any) -> Any:
        found = self.read(value) if isinstance(value, str) else value
        if self.least is not None and found < self.least:
            raise ValueError(f"{found} is below {self.least:g}.")
        return found


def coerced_here(params: list[Any]) -> list[Any]:
    """`params` of a command again, each given what coerces it, where that is known."""
    for param in params:
        found = _coercion(param) if getattr(param, _PLACE, param) is None else None
        if found is not None:
            setattr(param, _PLACE, found)
    return params


def _coercion(param: Any) -> Coercion | None:
    """None for a parameter of a type that no command here has."""
    kind, least = param.type_descriptor.annotation, param.type_descriptor.parameter_info.min
    many = get_origin(kind) is list
    if many:
        (kind,) = get_args(kind)
    if isinstance(kind, type) and issubclass(kind, Enum):
        return Coercion(lambda word: _choice(kind, word), many, None)
    reader = _READERS.get(kind)
    return None if reader is None else Coercion(reader, many, least)


def _choice(kind: type[Enum], word: str) -> Enum:
    try:
        return kind(word)
    except ValueError:
        known = ", ".join(repr(choice.value) for choice in kind)
        raise ValueError(f"{word!r} is not one of {known}.") from None


def _whole(word: str) -> int:
    try:
        return int(word)
    except ValueError:
        raise ValueError(f"{word[:60]!r} is not a whole number.") from None


def _real(word: str) -> float:
    try:
        return float(word)
    except ValueError:
        raise ValueError(f"{word[:60]!r} is not a number.") from None


_READERS: dict[Any, Callable[[str], Any]] = {str: str, bool: bool, int: _whole, float: _real, Path: Path}
"""How a word is read, by the type that a parameter is annotated with; no flag is given one."""
