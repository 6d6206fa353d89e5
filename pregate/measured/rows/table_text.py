"""Tables in other forms than CSV as CSV: rows of JSON, in a list or a line each, and tables of Markdown.

llama-bench writes all of them (`-o json`, `-o jsonl`, `-o md`). Above its Markdown it names the cards, which become a
column where the table has none.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Sequence
from typing import Any

from traces.errors import InvalidFile

__all__ = ["as_csv"]

_RULE = re.compile(r"[\s|:-]+")
_DEVICE = re.compile(r"^\s*Device \d+: (?P<name>.+?)(?: \([^()]*\))?, (?:compute capability|gfx)", re.MULTILINE)
_HARDWARE = ("hardware", "gpu", "gpus", "card", "device", "accelerator", "machine", "gpu_info")


def as_csv(text: str, where: str) -> str:
    """A table as CSV with a header, CSV as it is. Raises `InvalidFile` for JSON that is no rows."""
    start = text.lstrip("\ufeff \t\r\n")
    if start[:1] in ("[", "{"):
        return _of_json(start, where)
    lines = [line.strip() for line in text.splitlines() if line.strip().startswith("|")]
    if lines and (start.startswith("|") or any(_RULE.fullmatch(line) for line in lines[:2])):
        return _of_markdown(lines, text)
    return text


def _of_json(text: str, where: str) -> str:
    """Objects as rows; what is a list or an object in them is left out."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        try:
            found = [json.loads(line) for line in text.splitlines() if line.strip()]
        except (ValueError, RecursionError) as error:
            raise InvalidFile(f"{where}: no JSON, whole or a line a row ({type(error).__name__})") from None
    rows = found if isinstance(found, list) else [found]
    if not rows or not all(isinstance(row, dict) for row in rows):
        raise InvalidFile(f"{where}: JSON of no rows: a list of objects, or one a line, with names of columns")
    nested = {key for row in rows for key, value in row.items() if isinstance(value, list | dict)}
    columns = [key for key in dict.fromkeys(key for row in rows for key in row) if key not in nested]
    if not columns:
        raise InvalidFile(f"{where}: JSON of no rows: its objects hold nothing but lists and objects")
    return _written([columns, *([_cell(row.get(key)) for key in columns] for row in rows)])


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return str(int(value)) if isinstance(value, bool) else str(value)


def _of_markdown(lines: Sequence[str], text: str) -> str:
    rows = [[cell.strip().strip("*`").strip() for cell in line.strip("|").split("|")] for line in lines]
    rows = [row for row, line in zip(rows, lines, strict=True) if not _RULE.fullmatch(line)]
    cards = [found["name"].strip() for found in _DEVICE.finditer(text)]
    if cards and not {name.lower() for name in rows[0]} & set(_HARDWARE):
        alike = len(set(cards)) == 1
        called = f"{len(cards)}x {cards[0]}" if alike and len(cards) > 1 else " + ".join(cards)
        rows = [[*row, called if i else "hardware"] for i, row in enumerate(rows)]
    return _written(rows)


def _written(rows: Sequence[Sequence[str]]) -> str:
    made = io.StringIO()
    csv.writer(made, lineterminator="\n").writerows(rows)
    return made.getvalue()
