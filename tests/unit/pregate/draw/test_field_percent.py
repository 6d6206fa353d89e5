"""Errors in tables: a rule of thumb that is off by a factor of thousands says no more than that."""

from __future__ import annotations

import pytest

from pregate.draw.field_tables import error_percent


@pytest.mark.parametrize(
    ("error", "told"), [(None, "-"), (0.126, "13"), (2.64, "264"), (10.0, ">999"), (7085.6, ">999")]
)
def test_an_error_beyond_a_thousand_per_cent_is_no_number(error: float | None, told: str) -> None:
    assert error_percent(error) == told
