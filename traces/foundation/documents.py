"""Documents from outside, parsed once at the edge: bounded size, safe YAML, no key ignored.

Nothing in here knows what a document means; `Section` hands out checked values and remembers where
they stood.
"""

from __future__ import annotations

import math
import os
import re
import reprlib
import stat
import unicodedata
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import yaml

from traces.errors import InvalidFile, unknown_name
from traces.foundation.fast_yaml import NOTHING_FAST, Unusual, fast_value

MAX_DOCUMENT_BYTES = 4 << 20
"""Largest YAML or JSON document read (4 MiB): the largest of ours is under 100 KiB."""


MAX_NODES = 200_000
"""Most values, keys and containers of one YAML document: the largest of ours has a tenth of it."""
MAX_NAME = 120
"""Longest name of a model, a machine or a policy, in characters."""
NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
"""How a number is written, everywhere: decimal, in ASCII digits."""


def open_regular(path: Path) -> BinaryIO:
    """A regular file, open to read bytes. Raises `InvalidFile` for what is missing, or a folder, a pipe or a device.

    A pipe or a device may never end, and a pipe without a writer never begins.
    """
    try:
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except FileNotFoundError as error:
        raise InvalidFile(f"{path}: cannot be read, there is no such file: check the path") from error
    except OSError as error:
        raise InvalidFile(f"{path}: cannot be read ({error.strerror or error}): check the path") from error
    except ValueError as error:
        raise InvalidFile(f"{str(path)!r} is no path ({error})") from error
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise InvalidFile(f"{path}: cannot be read, it is not a regular file: copy what it gives to a file first")
    return os.fdopen(handle, "rb")


def require_regular(path: Path) -> None:
    """Raise `InvalidFile` unless `path` is a regular file that can be opened."""
    open_regular(path).close()


def read_text(path: Path, max_bytes: int = MAX_DOCUMENT_BYTES) -> str:
    """Text of a UTF-8 file of at most `max_bytes`, without a byte-order mark.

    Raises `InvalidFile` if missing, too big, not UTF-8 or not a regular file.
    """
    try:
        with open_regular(path) as file:
            data = file.read(max_bytes + 1)
            if len(data) > max_bytes:
                size = max(len(data), os.fstat(file.fileno()).st_size)
                raise InvalidFile(f"{path}: {size} bytes, at most {max_bytes} are read: is this the right file?")
        return data.decode("utf-8-sig").replace("\r\n", "\n")
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
        data = _value(text)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f" line {mark.line + 1}" if mark is not None else ""
        problem = getattr(error, "problem", None) or type(error).__name__
        raise InvalidFile(f"{where}:{line} is not valid YAML ({problem})") from error
    if not isinstance(data, dict):
        raise InvalidFile(f"{where}: expected a mapping at the top, found {type(data).__name__}")
    return Section(data, where)


def _value(text: str) -> Any:
    """What a document says, read the quick way where that knows all of it."""
    if not NOTHING_FAST:
        with suppress(Unusual, yaml.YAMLError, RecursionError, ValueError):
            return fast_value(text, _plain_number, MAX_NODES)
    return yaml.load(text, Loader=_StrictLoader)  # noqa: S506 (a SafeLoader)


def _plain_number(text: str) -> int | float | None:
    """A number that YAML 1.1 and 1.2 read alike, else None: no octal 010, no sexagesimal 1:30, no 1_000."""
    if NUMBER.fullmatch(text) and not re.match(r"[+-]?0[0-9]", text):
        return int(text) if re.fullmatch(r"[+-]?[0-9]+", text) else float(text)
    return float(text.replace(".", "")) if text.lower().lstrip("+-") in (".inf", ".nan") else None


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
        self._n_nodes = 0
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
        self._n_nodes += 1
        if self._n_nodes > MAX_NODES:
            raise yaml.composer.ComposerError(None, None, f"more than {MAX_NODES} keys and values", None)
        node = super().compose_node(parent, index)
        if self._n_aliases > n_before:
            self._with_aliases.add(id(node))
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                problem = f"a key is a {key.id}, not text"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            if key.value in seen:
                problem = f"key {str(key.value)[:40]!r} is given twice"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            seen.add(key.value)
        mapping: dict[Any, Any] = super().construct_mapping(node, deep)
        return mapping

    def construct_plain_number(self, node: yaml.ScalarNode) -> int | float:
        """`_plain_number`, or a refusal."""
        number = _plain_number(node.value)
        if number is not None:
            return number
        problem = (
            f"{node.value[:40]!r} is read as another number by each version of YAML: write it in decimal, or quote it"
        )
        raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)


for _tag in ("int", "float"):
    _StrictLoader.add_constructor(f"tag:yaml.org,2002:{_tag}", _StrictLoader.construct_plain_number)


def check_name(name: str, where: str) -> str:
    """`name` again. Raises `InvalidFile` unless it is printable text of one line, of at most `MAX_NAME` characters."""
    if not name.strip() or len(name) > MAX_NAME or not name.isprintable():
        raise InvalidFile(
            f"{where} = {reprlib.repr(name)} is no name: one line of printable text, at most {MAX_NAME} characters"
        )
    return name


def _is_control(letter: str) -> bool:
    """Is this a control character other than the two that text is laid out with?"""
    return unicodedata.category(letter) == "Cc" and letter not in "\n\t"


class Section:
    """A mapping being read. Every reader takes a key away, and raises `InvalidFile` where it is missing or of another
    kind; `done` refuses what nobody took.

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

    def unread(self) -> dict[str, Any]:
        """A copy of what has not been taken yet."""
        return dict(self._left)

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
        if not value.isprintable() and any(_is_control(letter) for letter in value):
            raise InvalidFile(f"{self.where}: {key} = {reprlib.repr(value)} has control characters: remove them")
        return value

    def name(self, key: str, default: str | None = None) -> str:
        """A name: printable text of one line and at most `MAX_NAME` characters; `default` when absent and given."""
        return check_name(self.text(key, default), f"{self.where}: {key}")

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
            if not NUMBER.fullmatch(value.strip()):
                raise InvalidFile(f"{self.where}: {key} = {reprlib.repr(value)} is not a number")
            value = float(value)
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
