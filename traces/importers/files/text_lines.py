"""Lines of text files from outside: regular files of bounded size, ASCII numbers, JSON objects."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from traces.errors import InvalidFile
from traces.foundation.documents import open_regular

MAX_TEXT_BYTES = 1 << 30
MAX_DOCUMENT_BYTES = 256 << 20
MAX_LINE_CHARACTERS = 64 << 20
_WHOLE = re.compile(r"\s*-?[0-9]{1,12}(\.0{1,9})?\s*", re.ASCII)  # 3.0 too, which tables with gaps have


def regular_file(path: Path, max_bytes: int) -> int:
    """The size of a regular file. Raises `InvalidFile` for anything else (a pipe would never end), or one too big."""
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
    if size > max_bytes:
        raise InvalidFile(f"{path}: {size} bytes, at most {max_bytes} are read: is this the right file?")
    return size


def text_lines(path: Path, max_characters: int = 1 << 16) -> Iterator[tuple[int, str]]:
    """Numbered lines that are not blank, without their ends. Raises `InvalidFile` for what is not UTF-8 text."""
    regular_file(path, MAX_TEXT_BYTES)
    try:
        with path.open(encoding="utf-8-sig") as file:
            number = 0
            while line := file.readline(max_characters + 1):
                number += 1
                if len(line) > max_characters:
                    raise InvalidFile(f"{path}: line {number} is longer than {max_characters} characters")
                if text := line.strip("\r\n"):
                    yield number, text
    except OSError as error:
        raise InvalidFile(f"{path}: cannot be read ({error.strerror}): check the path") from error
    except UnicodeDecodeError as error:
        raise InvalidFile(f"{path}: not UTF-8 text: is this the right file?") from error


def json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Numbered JSON objects, one a line. Raises `InvalidFile` naming the line that is not one."""
    for number, line in text_lines(path, MAX_LINE_CHARACTERS):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InvalidFile(f"{path}: line {number} is not valid JSON: cut short?") from error
        if not isinstance(record, dict):
            raise InvalidFile(f"{path}: line {number} is not a JSON object")
        yield number, record


def json_records(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Numbered JSON objects: one a line, one after the other in a list, or in the only list of objects that a document
    has. Raises `InvalidFile` for what is none of these.
    """
    _, first = next(text_lines(path, MAX_LINE_CHARACTERS), (1, ""))
    if _is_object(first) and only_list(json.loads(first)) is None:
        yield from json_lines(path)
        return
    document = json_document(path)
    records = document if isinstance(document, list) else only_list(document) or ()
    for number, record in enumerate(records, 1):
        if not isinstance(record, dict):
            raise InvalidFile(f"{path}: entry {number} of its list is not a JSON object")
        yield number, record


def first_object(path: Path) -> dict[str, Any]:
    """The first JSON object of a file: its first line, or all of it. Raises `InvalidFile` for what is none."""
    _, first = next(text_lines(path, MAX_LINE_CHARACTERS), (1, ""))
    found = json.loads(first) if _is_object(first) else json_document(path)
    return found if isinstance(found, dict) else {}


def _is_object(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def only_list(document: Any) -> list[Any] | None:
    """The only list of objects among the values of a JSON object; None where there is none, or another."""
    values = document.values() if isinstance(document, dict) else ()
    found = [one for one in values if isinstance(one, list) and one and isinstance(one[0], dict)]
    return found[0] if len(found) == 1 else None


def json_document(path: Path) -> Any:
    """What a JSON file holds. Raises `InvalidFile` for what is not JSON."""
    regular_file(path, MAX_DOCUMENT_BYTES)
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise InvalidFile(f"{path}: cannot be read ({error.strerror}): check the path") from error
    except (ValueError, RecursionError) as error:
        raise InvalidFile(f"{path}: not valid JSON: cut short, or not of this format?") from error


def whole_numbers(path: Path, number: int, parts: list[str]) -> list[int]:
    """Whole numbers in ASCII digits. Raises `InvalidFile` naming the line."""
    for part in parts:
        if not _WHOLE.fullmatch(part):
            raise InvalidFile(f"{path}: line {number}: {part[:20]!r} is not a whole number")
    return [int(part.partition(".")[0]) for part in parts]
