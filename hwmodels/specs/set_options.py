"""Numbers of a machine as a user types them, KEY=VALUE: of `--set`, and of the cells of a table."""

from __future__ import annotations

from collections.abc import Sequence

from traces.errors import InvalidInput


def parse_sets(sets: Sequence[str] | None, where: str = "--set") -> dict[str, str]:
    """The numbers that `sets` name, by key. Raises `InvalidInput` for one that is no KEY=VALUE or is given twice."""
    overrides: dict[str, str] = {}
    for text in sets or []:
        key, separator, value = (part.strip() for part in text.partition("="))
        if not separator or not key or not value:
            raise InvalidInput(f"{where} {text!r} is not KEY=VALUE, such as link.h2d_bytes_per_s=64e9")
        if key in overrides:
            raise InvalidInput(f"{where} {key} is given twice")
        overrides[key] = value
    return overrides
