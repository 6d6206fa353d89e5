"""Counts in a table of a row a layer and a column an expert: `layer,expert_0,expert_1`, as pandas has it, or numbers
alone, as NumPy and EPLB's users write them.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from traces.foundation.documents import NUMBER
from traces.importers.files.text_lines import MAX_LINE_CHARACTERS, text_lines
from traces.importers.recording import refused

_LAYER = re.compile(r"|(?:moe_?)?layer(?:_?(?:id|idx|index))?|l", re.IGNORECASE)
_EXPERT = re.compile(r"(?:expert|e)?_?(\d{1,5})", re.ASCII | re.IGNORECASE)
_FEWEST = 2


def is_wide(header: str) -> bool:
    """Whether the first line of a table names a column of layers, or of row numbers, and experts 0 to n - 1."""
    first, *others = _fields(header) or [""]
    numbers = [_EXPERT.fullmatch(word) for word in others]
    return (
        len(numbers) >= _FEWEST
        and _LAYER.fullmatch(first) is not None
        and [int(match[1]) if match else -1 for match in numbers] == list(range(len(numbers)))
    )


def is_bare(text: str) -> bool:
    """Whether a text begins with rows of numbers alone, as many in each, that are no rows `pos,layer,id0,id1` of
    llama.cpp: there a layer follows another at one position, or positions count on.
    """
    whole = text if text.endswith("\n") else text[: text.rfind("\n") + 1] or text
    rows = [_fields(line) for line in whole.splitlines()[:_LOOKED_AT] if line.strip() and not line.startswith("#")]
    if len(rows) < _FEWEST or len(rows[0]) < _FEWEST_BARE or len({len(row) for row in rows}) > 1:
        return False
    if not all(NUMBER.fullmatch(cell) and not cell.startswith("-") for row in rows for cell in row):
        return False
    places = [tuple(map(float, row[:2])) for row in rows]
    return not all(
        (position == last and layer == below + 1) or (position == last + 1 and layer <= below)
        for (last, below), (position, layer) in pairwise(places)
    )


_LOOKED_AT = 64
_FEWEST_BARE = 4


def wide_counts(path: Path, *, bare: bool = False) -> NDArray[Any]:
    """The counts [n_layers, n_experts], rows in the order of their layers; of a `bare` table in its own order. Raises
    `InvalidFile` naming the line.
    """
    rows: dict[int, list[float]] = {}
    lines = ((number, line) for number, line in text_lines(path, MAX_LINE_CHARACTERS) if not line.startswith("#"))
    if bare:
        return _bare_counts(path, lines)
    _, header = next(lines, (1, ""))
    n_experts = len(_fields(header)) - 1
    for number, line in lines:
        layer, *counts = _fields(line) or [""]
        if len(counts) != n_experts:
            raise refused(path, f"{len(counts)} experts, not {n_experts}: {line[:60]!r}", number)
        wrong = next((cell for cell in (layer, *counts) if NUMBER.fullmatch(cell) is None), None)
        if wrong is not None or not layer.isdigit():
            raise refused(path, f"{(layer if wrong is None else wrong)[:60]!r} is not a number", number)
        if int(layer) in rows:
            raise refused(path, f"layer {layer[:20]} has two rows: add them up", number)
        rows[int(layer)] = [float(cell) for cell in counts]
    if not rows:
        raise refused(path, "no rows: the file ends after its header")
    return np.array([rows[layer] for layer in sorted(rows)])


def _bare_counts(path: Path, lines: Iterator[tuple[int, str]]) -> NDArray[Any]:
    rows: list[list[float]] = []
    for number, line in lines:
        cells = _fields(line)
        wrong = next((cell for cell in cells if NUMBER.fullmatch(cell) is None), None)
        if wrong is not None or (rows and len(cells) != len(rows[0])):
            what = f"{len(cells)} numbers, not {len(rows[0]) if rows else 0}" if wrong is None else repr(wrong[:60])
            raise refused(path, f"{what}: a row a layer of one number an expert is needed", number)
        rows.append([float(cell) for cell in cells])
    return np.array(rows)


def _fields(line: str) -> list[str]:
    separator = max(",;\t", key=line.count)
    if separator not in line:
        return line.split()
    try:
        return [field.strip() for field in next(csv.reader([line], delimiter=separator, strict=True), [])]
    except csv.Error:
        return []
