"""Prefixes that are held from one request to the next: by hand, and against what was used since."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from traces.errors import InvalidInput
from traces.requests import ArrivalTrace, poisson_arrivals
from traces.transforms.prefix_cache import with_prefix_cache


def requests_of(rows: list[tuple[int, int, list[int]]], block_tokens: int = 4) -> ArrivalTrace:
    inputs, outputs, ids = zip(*rows, strict=True)
    prefixes = tuple(np.array(one, dtype=np.int64) for one in ids)
    return ArrivalTrace(
        np.arange(float(len(rows))), np.array(inputs), np.array(outputs), prefixes=prefixes, block_tokens=block_tokens
    )


def held(rows: list[tuple[int, int, list[int]]], n_tokens: int) -> list[int]:
    return with_prefix_cache(requests_of(rows), n_tokens).held.tolist()


def test_the_first_whole_blocks_that_an_earlier_prompt_had_are_held() -> None:
    rows = [(10, 1, [0, 1, 2]), (10, 1, [0, 1, 3]), (12, 1, [0, 1, 2]), (9, 1, [7, 1, 2])]
    assert held(rows, 1000) == [0, 8, 8, 0], "a block that was cut is not held, nor one behind another beginning"


def test_the_last_token_of_a_prompt_is_read_in_any_case() -> None:
    assert held([(8, 1, [0, 1]), (8, 1, [0, 1]), (9, 1, [0, 1, 2])], 1000) == [0, 4, 8]


def test_what_was_used_longest_ago_is_given_up_and_of_a_prompt_its_end_first() -> None:
    """Two prompts of two blocks and a token of answer each: of 17 tokens the first leaves its beginning."""
    rows = [(8, 1, [0, 1]), (8, 1, [2, 3]), (12, 1, [0, 1, 9])]
    assert held(rows, 18)[2] == held(rows, 17)[2] == 8
    assert [held(rows, n)[2] for n in (16, 13, 12, 4)] == [4, 4, 0, 0]


BLOCKS = st.lists(st.integers(0, 3), min_size=4, max_size=4)


@given(st.lists(st.tuples(st.integers(1, 15), st.integers(1, 9), BLOCKS), min_size=2, max_size=9), st.integers(4, 60))
def test_held_is_what_little_enough_was_used_since(rows: list[tuple[int, int, list[int]]], n_tokens: int) -> None:
    """Numbers stand for whole beginnings, as a hash does; what one request leaves at most is all that is held."""
    rows = [
        (n_in, n_out, [int("1" + "".join(map(str, ids[: i + 1]))) for i in range(-(-n_in // 4))])
        for n_in, n_out, ids in rows
    ]
    found = held(rows, n_tokens)
    for i, (n_in, _, ids) in enumerate(rows):
        recent: list[tuple[object, int]] = []  # from the last use back
        for j in range(i - 1, -1, -1):
            whole = rows[j][2][: rows[j][0] // 4]
            uses = [*((one, 4) for one in whole), (("own", j), rows[j][0] + rows[j][1] - 4 * len(whole))]
            recent += [use for use in uses if use[0] not in {name for name, _ in recent}]
        total = np.cumsum([size for _, size in recent])
        there = {name for (name, _), used in zip(recent, total.tolist(), strict=True) if used <= n_tokens}
        there |= {name for name, _ in recent[:1]}
        n_held = next((at for at, one in enumerate(ids[: n_in // 4]) if one not in there), n_in // 4)
        assert found[i] == 4 * min(n_held, (n_in - 1) // 4)


def test_a_cache_of_less_than_a_block_and_requests_that_say_nothing_are_refused() -> None:
    with pytest.raises(InvalidInput, match="a cache of 3 tokens holds no block of 4"):
        held([(8, 1, [0, 1]), (8, 1, [0, 1])], 3)
    with pytest.raises(InvalidInput, match=r"Poisson arrivals of 9 \+ 9 tokens: no prefixes are known"):
        with_prefix_cache(poisson_arrivals(5, 1.0, 9, 9), 1000)


def test_what_is_held_goes_with_its_request() -> None:
    some = with_prefix_cache(requests_of([(10, 1, [0, 1, 2]), (11, 2, [0, 1, 3]), (12, 3, [0, 5, 6])]), 1000)
    assert some.read_tokens.tolist() == [10, 3, 8]
    assert some.at_rate(5.0).held.tolist() == some.held.tolist() == [0, 8, 4]
    first = some.first(2)
    assert (first.held.tolist(), len(first.prefixes)) == ([0, 8], 2)
    drawn = some.resampled(np.random.default_rng(0))
    assert {*zip(drawn.input_tokens.tolist(), drawn.held.tolist(), strict=True)} <= {(10, 0), (11, 8), (12, 4)}
    with pytest.raises(InvalidInput, match="at least one token is read"):
        ArrivalTrace(np.arange(2.0), np.array([4, 4]), np.ones(2, int), held_tokens=np.array([0, 4]))
