"""Errors say the value, the limit and the way out."""

from __future__ import annotations

import pytest

from traces.errors import InvalidInput, check_least, unknown_name


def test_the_least_of_a_number_is_allowed_and_less_is_told_with_the_way_out() -> None:
    check_least("seed", 0, 0)
    check_least("batch", 2, 1)
    with pytest.raises(InvalidInput, match=r"^seed = -1 is below 0: give 0 or more$"):
        check_least("seed", -1, 0)


def test_a_name_near_none_is_told_all_of_a_few_and_the_nearest_three_of_many_with_where_they_are_listed() -> None:
    few = [f"stack-{number}" for number in range(20)]
    assert str(unknown_name("stack", "zz", few)) == f"unknown stack 'zz': known: {', '.join(sorted(few))}"
    many = [*(f"card-{number:03}" for number in range(40)), "qqq", "qqx", "qxx"]
    assert str(unknown_name("hardware", "qyyyy", many)).endswith(
        "nearest of 43 known: qxx, qqx, qqq (all: pregate hardware)"
    )
    assert str(unknown_name("number", "qyyyy", many)).endswith("nearest of 43 known: qxx, qqx, qqq")
