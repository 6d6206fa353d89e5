"""Numbers in units that people read."""

from __future__ import annotations

import math

import pytest

from pregate.draw.render import si


@pytest.mark.parametrize(
    ("value", "unit", "shown"),
    [
        (0.00113, "s", "1.13 ms"),
        (0.9994, "s", "999 ms"),
        (0.99996, "s", "1 s"),  # and no 1e+03 ms
        (0.0009997, "s", "1 ms"),
        (-0.99996, "s", "-1 s"),
        (1234.0, "s", "1,230 s"),
        (0.0, "s", "0 s"),
        (999.7e9, "B", "1 TB"),
        (999.4e9, "B", "999 GB"),
        (4.56e15, "B", "4,560 TB"),
        (12.0, "B", "12 B"),
        (math.nan, "s", "-"),
    ],
)
def test_no_unit_has_a_thousand_where_the_next_has_one(value: float, unit: str, shown: str) -> None:
    assert si(value, unit) == shown
