"""Grids of which `make test` runs some cells and `make thorough` all."""

from __future__ import annotations

from collections.abc import Container, Iterable
from typing import Any

import pytest

__all__ = ["some_of"]


def some_of(values: Iterable[Any], kept: Container[Any]) -> list[Any]:
    """`values` for `parametrize`: those of `kept` as they are, the others marked `thorough`."""
    return [one if one in kept else pytest.param(one, marks=pytest.mark.thorough) for one in values]
