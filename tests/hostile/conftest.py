"""What is refused before the work: a limit that lets it through fails its test, and has nobody wait for the work."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest

from pregate.sweeps import sweep as sweeps
from pregate.sweeps.axes import Axis
from pregate.sweeps.points import Points, grid_points, sample_points
from traces.synthesis import dials, forced

_LARGE = 100_000
"""Tokens of a trace, and points of a sweep, that no test here has time for."""


@pytest.fixture
def no_large_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Large traces and sweeps, with which the work of a command begins, end there."""
    layout = dials.token_layout

    def small(size: int) -> None:
        if size > _LARGE:
            raise AssertionError(f"nothing has refused {size:,} tokens or points: the work has begun")

    def tokens(*, input_tokens: int, output_tokens: int, batch: int, has_encoder: bool) -> dials.TokenLayout:
        small(batch * (input_tokens + output_tokens))
        return layout(input_tokens=input_tokens, output_tokens=output_tokens, batch=batch, has_encoder=has_encoder)

    def points_of_grid(axes: Sequence[Axis], n_policies: int, **rest: Any) -> Points:
        small(math.prod(len(axis.values) for axis in axes))
        return grid_points(axes, n_policies, **rest)

    def points_of_sample(axes: Sequence[Axis], n: int, n_policies: int, **rest: Any) -> Points:
        small(n)
        return sample_points(axes, n, n_policies, **rest)

    monkeypatch.setattr(dials, "token_layout", tokens)
    monkeypatch.setattr(forced, "token_layout", tokens)
    monkeypatch.setattr(sweeps, "grid_points", points_of_grid)
    monkeypatch.setattr(sweeps, "sample_points", points_of_sample)
