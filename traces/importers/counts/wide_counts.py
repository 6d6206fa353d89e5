"""Counts in a table of a row a layer and a column an expert: `layer,expert_0,expert_1`, or as pandas has it."""

from __future__ import annotations

import csv
import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from traces.foundation.documents import NUMBER
from traces.importers.files.text_lines import MAX_LINE_CHARACTERS, text_lines
from traces.importers.recording import refused

__all__ = ["is_wide", "wide_counts"]

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


def wide_counts(path: Path) -> NDArray[Any]:
    """The counts [n_layers, n_experts], rows in the order of their layers. Raises `InvalidFile` naming the line."""
    rows: dict[int, list[float]] = {}
    lines = ((number, line) for number, line in text_lines(path, MAX_LINE_CHARACTERS) if not line.startswith("#"))
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


def _fields(line: str) -> list[str]:
    separator = max(",;\t", key=line.count)
    try:
        return [field.strip() for field in next(csv.reader([line], delimiter=separator, strict=True), [])]
    except csv.Error:
        return []
