"""Documents from outside, parsed once at the edge: bounded size, safe YAML, no key ignored.

Nothing in here knows what a document means; `Section` hands out checked values and remembers where
they stood.
"""

from __future__ import annotations

import math
import reprlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from traces.errors import InvalidFile, unknown_name

MAX_DOCUMENT_BYTES = 4 << 20
"""Largest YAML or JSON document read (4 MiB): the largest of ours is under 100 KiB."""


def read_text(path: Path, max_bytes: int = MAX_DOCUMENT_BYTES) -> str:
    """Text of a UTF-8 file of at most `max_bytes`. Raises `InvalidFile` if missing, too big or not UTF-8."""
    try:
        size = path.stat().st_size
        if size > max_bytes:
            raise InvalidFile(f"{path}: {size} bytes, at most {max_bytes} are read: is this the right file?")
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise InvalidFile(f"{path}: cannot be read ({error.strerror}): check the path") from error
    except UnicodeDecodeError as error:
        raise InvalidFile(f"{path}: not UTF-8 text (byte {error.start}): is this the right file?") from error


def read_yaml(path: Path) -> Section:
    """The mapping in a YAML (or JSON) file as a `Section`. Raises `InvalidFile` on anything else."""
    return parse_yaml(read_text(path), str(path))


def parse_yaml(text: str, where: str) -> Section:
    """The mapping in YAML (or JSON) `text`. Raises `InvalidFile` naming `where` and the line."""
    try:
        data = yaml.load(text, Loader=_StrictLoader)  # noqa: S506 (a SafeLoader)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f" line {mark.line + 1}" if mark is not None else ""
        problem = getattr(error, "problem", None) or type(error).__name__
        raise InvalidFile(f"{where}:{line} is not valid YAML ({problem})") from error
    if not isinstance(data, dict):
        raise InvalidFile(f"{where}: expected a mapping at the top, found {type(data).__name__}")
    return Section(data, where)


_Events: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""Where events come from: libyaml where PyYAML has it, ten times as fast."""


# Which base it is depends on the machine.
class _StrictLoader(yaml.composer.Composer, _Events):  # type: ignore[misc]
    """A `SafeLoader` that refuses aliases within what an alias names (a few can expand to gigabytes), and keys given
    twice.
    """

    def __init__(self, stream: str) -> None:
        _Events.__init__(self, stream)
        yaml.composer.Composer.__init__(self)
        self._n_aliases = 0
        self._with_aliases: set[int] = set()

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            node: yaml.Node | None = super().compose_node(parent, index)
            self._n_aliases += 1
            if id(node) in self._with_aliases:
                raise yaml.composer.ComposerError(None, None, "an alias within an alias", None)
            return node
        n_before = self._n_aliases
        node = super().compose_node(parent, index)
        if self._n_aliases > n_before:
            self._with_aliases.add(id(node))
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if key.value in seen:
                problem = f"key {str(key.value)[:40]!r} is given twice"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            if isinstance(key, yaml.ScalarNode):
                seen.add(key.value)
        mapping: dict[Any, Any] = super().construct_mapping(node, deep)
        return mapping


class Section:
    """A mapping being read. Every `take_*` removes a key; `done` refuses what nobody took.

    `where` is the file and the path of keys so far; it opens every message.
    """

    def __init__(self, data: Mapping[Any, Any], where: str) -> None:
        bad = [key for key in data if not isinstance(key, str)]
        if bad:
            raise InvalidFile(f"{where}: key {reprlib.repr(bad[0])} is not text: quote it")
        self._left: dict[str, Any] = dict(data)
        self._known: list[str] = []
        self.where = where

    def __contains__(self, key: str) -> bool:
        return self._left.get(key) is not None

    def remaining(self) -> list[str]:
        """The keys not taken yet."""
        return list(self._left)

    def take(self, key: str, *, optional: bool = False) -> Any:
        """The raw value of `key`, None when absent and optional. Raises `InvalidFile` when absent otherwise."""
        self._known.append(key)
        value = self._left.pop(key, None)
        if value is None and not optional:
            raise InvalidFile(f"{self.where}: key {key!r} is missing")
        return value

    def text(self, key: str, default: str | None = None) -> str:
        """A string; `default` when absent and given."""
        value = self.take(key, optional=default is not None)
        if value is None and default is not None:
            return default
        if not isinstance(value, str):
            raise InvalidFile(f"{self.where}: {key} = {reprlib.repr(value)} is not text")
        return value

    def integer(self, key: str, default: int | None = None, *, minimum: int = 0) -> int:
        """An integer >= `minimum`; `default` when absent and given."""
        value = self.take(key, optional=default is not None)
        if value is None and default is not None:
            return default
        if isinstance(value, bool) or not isinstance(value, int):
            raise InvalidFile(f"{self.where}: {key} = {reprlib.repr(value)} is not an integer")
        if value < minimum:
            raise InvalidFile(f"{self.where}: {key} = {value} is below {minimum}")
        return value

    def number(self, key: str, default: float | None = None, *, minimum: float = -math.inf) -> float:
        """A finite number >= `minimum`; `default` when absent and given."""
        value = self.take(key, optional=default is not None)
        if value is None and default is not None:
            return default
        if isinstance(value, str):  # YAML 1.1 reads 64e9 as text
            try:
                value = float(value)
            except ValueError:
                raise InvalidFile(f"{self.where}: {key} = {reprlib.repr(value)} is not a number") from None
        if isinstance(value, int) and abs(value) > 1 << 1000:  # float() would overflow
            value = math.inf
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise InvalidFile(f"{self.where}: {key} = {reprlib.repr(value)} is not a finite number")
        if value < minimum:
            raise InvalidFile(f"{self.where}: {key} = {value:g} is below {minimum:g}")
        return float(value)

    def flag(self, key: str, default: bool = False) -> bool:
        """A boolean; `default` when absent."""
        value = self.take(key, optional=True)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise InvalidFile(f"{self.where}: {key} = {reprlib.repr(value)} is not true or false")
        return value

    def section(self, key: str) -> Section:
        """A required mapping."""
        value = self.take(key)
        if not isinstance(value, dict):
            raise InvalidFile(f"{self.where}: {key} is not a mapping")
        return Section(value, f"{self.where}: {key}")

    def optional_section(self, key: str) -> Section | None:
        """A mapping, None when absent."""
        if key in self:
            return self.section(key)
        self.take(key, optional=True)
        return None

    def sections(self) -> Iterator[tuple[str, Section]]:
        """Every remaining key as a mapping."""
        for key in self.remaining():
            yield key, self.section(key)

    def items(self, key: str, *, optional: bool = False) -> list[Any]:
        """A list (empty when optional and absent)."""
        value = self.take(key, optional=optional)
        if value is None:
            return []
        if not isinstance(value, list):
            raise InvalidFile(f"{self.where}: {key} is not a list")
        return value

    def done(self) -> None:
        """Refuse the keys nobody took: a typo is answered with the nearest name. Raises `UnknownName`."""
        for key in self._left:
            raise unknown_name("key", key, self._known, self.where)
