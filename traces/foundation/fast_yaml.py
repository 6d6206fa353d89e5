"""YAML as most of it is written, read straight from libyaml's events: plain values, lists and mappings.

What says more (aliases, tags, dates, merged keys) or is wrong is `Unusual`: `documents` then has PyYAML read it, which
takes four times as long, or says what is wrong and where.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import yaml

NOTHING_FAST = not hasattr(yaml, "CSafeLoader")
"""Whether PyYAML was built without libyaml, so that events come no quicker than all the rest."""

_RESOLVERS = yaml.SafeLoader.yaml_implicit_resolvers
"""By the first letter of a plain scalar, what it may be: a tag of YAML, and how such are written."""

_TAG = "tag:yaml.org,2002:"


class Unusual(Exception):
    """A document that is left to PyYAML."""


def fast_value(text: str, number: Callable[[str], int | float | None], most_nodes: int) -> Any:
    """What the one document in `text` says. `number`: what a plain scalar is that YAML takes for one, None if unsure.

    Raises `Unusual`, also for more than `most_nodes` keys, values and containers, and what PyYAML raises.
    """
    events = yaml.CSafeLoader(text)
    _expect(events, yaml.StreamStartEvent)
    _expect(events, yaml.DocumentStartEvent)
    value = _Reader(events.get_event, number, most_nodes).value(events.get_event())
    _expect(events, yaml.DocumentEndEvent)
    _expect(events, yaml.StreamEndEvent)
    return value


def _expect(events: yaml.CSafeLoader, kind: type[yaml.Event]) -> None:
    if type(events.get_event()) is not kind:
        raise Unusual


class _Reader:
    def __init__(
        self, get_event: Callable[[], Any], number: Callable[[str], int | float | None], most_nodes: int
    ) -> None:
        self._get, self._number, self._left = get_event, number, most_nodes

    def value(self, event: Any) -> Any:
        """What begins with `event`."""
        kind = type(event)
        self._left -= 1
        if self._left < 0 or event.anchor is not None or event.tag is not None:  # an alias has an anchor
            raise Unusual
        if kind is yaml.ScalarEvent:
            return _plain(event.value, self._number) if event.implicit[0] else event.value
        return self._mapping() if kind is yaml.MappingStartEvent else self._sequence()

    def _mapping(self) -> dict[Any, Any]:
        found: dict[Any, Any] = {}
        seen: set[str] = set()
        while type(event := self._get()) is not yaml.MappingEndEvent:
            if type(event) is not yaml.ScalarEvent or event.value in seen:
                raise Unusual
            seen.add(event.value)
            key = self.value(event)
            found[key] = self.value(self._get())
        return found

    def _sequence(self) -> list[Any]:
        found: list[Any] = []
        while type(event := self._get()) is not yaml.SequenceEndEvent:
            found.append(self.value(event))
        return found


@lru_cache(maxsize=4096)
def _plain(text: str, number: Callable[[str], int | float | None]) -> Any:
    """What a plain scalar is: machines say the same units and sources over and over."""
    for tag, pattern in (*_RESOLVERS.get(text[:1], ()), *_RESOLVERS.get(None, ())):
        if pattern.match(text):
            return _tagged(tag.removeprefix(_TAG), text, number)
    return text


def _tagged(tag: str, text: str, number: Callable[[str], int | float | None]) -> Any:
    if tag == "null":
        return None
    if tag == "bool":
        return yaml.SafeLoader.bool_values[text.lower()]
    found = number(text) if tag in ("int", "float") else None
    if found is None:
        raise Unusual
    return found
