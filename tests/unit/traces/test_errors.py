"""Errors say the value, the limit and the way out."""

from __future__ import annotations

import pytest

from traces.errors import InvalidInput, check_least


def test_the_least_of_a_number_is_allowed_and_less_is_told_with_the_way_out() -> None:
    check_least("seed", 0, 0)
    check_least("batch", 2, 1)
    with pytest.raises(InvalidInput, match=r"^seed = -1 is below 0: give 0 or more$"):
        check_least("seed", -1, 0)
