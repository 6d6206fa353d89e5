"""Several float64 side by side as one value of a kernel: loaded from a table row, computed with, stored.

A loop over machines would be left scalar by the compiler, which cannot know that the rows read and written are apart;
these are vector instructions by construction. Tables are C-contiguous (n_rows, width) float64. IEEE arithmetic, lane by
lane: the same bits as one machine at a time. What stands here is what each instruction means.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from compiled.machine_code import width

WIDTH = width()
"""Numbers side by side."""

ALL = (1 << WIDTH) - 1
"""What `below` says when it is so on all lanes."""


def load(table: Any, row: int) -> Any:
    """Row `row` of a table."""
    return table[row].copy()


def store(table: Any, row: int, value: Any) -> None:
    """Write row `row` of a table."""
    table[row] = value


def splat(value: float) -> Any:
    """The same number for all."""
    return np.float64(value)


def add(left: Any, right: Any) -> Any:
    """left + right."""
    return left + right


def subtract(left: Any, right: Any) -> Any:
    """left - right."""
    return left - right


def multiply(left: Any, right: Any) -> Any:
    """left * right."""
    return left * right


def maximum(left: Any, right: Any) -> Any:
    """The larger of both; no NaN expected."""
    return np.where(left > right, left, right)


def below(left: Any, right: Any) -> int:
    """Where left < right, a bit each: 0 nowhere, `ALL` everywhere."""
    bits = np.atleast_1d(left < right)
    return int(sum(1 << i for i in np.flatnonzero(bits).tolist()))


def where_below(left: Any, right: Any, value: float) -> Any:
    """`value` where left < right, else 0."""
    return np.where(left < right, value, 0.0)


def if_below(left: Any, right: Any, yes: Any, no: Any) -> Any:
    """`yes` where left < right, else `no`."""
    return np.where(left < right, yes, no)


def if_equal(left: Any, right: Any, yes: Any, no: Any) -> Any:
    """`yes` where left == right, else `no`."""
    return np.where(left == right, yes, no)
