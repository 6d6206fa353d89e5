"""Words as lines of a width: sentences that fold, columns that align, commands that a shell reads though they fold."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

_LEAST = 20
"""Columns below which nothing is folded further."""


def folded(text: str, width: int, indent: str = "") -> list[str]:
    """A sentence as lines of at most `width` columns, where words allow."""
    return textwrap.wrap(
        text, max(width, _LEAST), subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )


def command_lines(label: str, command: str, width: int) -> list[str]:
    """A command behind its label, or below one that is a sentence; where it folds, a shell reads it as one."""
    if len(label) + len(command) + 2 <= width:
        return [f"{label}: {command}"]
    above = folded(f"{label}:", width, "  ") if len(label) > _LEAST else []
    lines = folded(f"  {command}" if above else f"{label}: {command}", width - 2, "  ")
    return [*above, *(f"{line} \\" for line in lines[:-1]), lines[-1]]


def cut(lines: Sequence[str], n: int, width: int) -> list[str]:
    """The first `n` lines, the last of them with dots where more would follow."""
    if len(lines) <= n:
        return list(lines)
    return [*lines[: n - 1], lines[n - 1][: width - 4].rstrip() + " ..."]


def in_columns(rows: Sequence[Sequence[str]], width: int, n_left: int) -> tuple[list[str], list[str]]:
    """Rows as aligned columns, the first `n_left` to the left; the last columns give way where `width` is too small.

    Returns the lines, and the heads of the columns that gave way.
    """
    n = len(rows[0])
    while True:
        widths = [max(len(row[i]) for row in rows) for i in range(n)]
        if sum(widths) + 2 * (n - 1) <= width or n <= 2:
            break
        n -= 1
    lines = [
        "  ".join(
            cell.ljust(size) if i < n_left else cell.rjust(size)
            for i, (cell, size) in enumerate(zip(row[:n], widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    return lines, [cell for cell in rows[0][n:] if cell]
