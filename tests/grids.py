"""Grids of which `make test` runs some cells and `make thorough` all."""

from __future__ import annotations

from collections.abc import Collection, Container, Iterable
from itertools import product
from typing import Any

import pytest


def some_of(values: Iterable[Any], kept: Container[Any]) -> list[Any]:
    """`values` for `parametrize`: those of `kept` as they are, the others marked `thorough`."""
    return [one if one in kept else pytest.param(one, marks=pytest.mark.thorough) for one in values]


def one_in(n: int, *axes: Collection[Any]) -> list[Any]:
    """Every cell of a grid for `parametrize`; all but one in `n` are marked `thorough`.

    Those are kept whose places on their axes add up to a multiple of `n`: of three axes every two values meet where the
    third has at least `n`.
    """
    cells = product(*(enumerate(axis) for axis in axes))
    return [
        pytest.param(*(value for _, value in cell), marks=[pytest.mark.thorough] if sum(i for i, _ in cell) % n else [])
        for cell in cells
    ]
