"""Which prompts pass together, counted by hand."""

from __future__ import annotations

import numpy as np

from simulator.serving.prompts_kernel import CAME, FROM, HELD, LEFT, PASSED, TO, WHO, parts_of_prompts_s

POINTS, SECONDS = np.array([0, 8]), np.array([1.0, 1.0])
"""A second for each token that lies before, whatever passes."""


def test_a_pass_that_is_full_takes_nobody_in() -> None:
    """Two prompts of eight tokens wait, the second with two behind them that are kept: the first fills the pass."""
    w, came_s = np.zeros(7, np.int64), np.zeros(2)
    asked = (came_s, np.array([8, 10]), np.array([0, 2]), POINTS, SECONDS, 4, 8)
    assert parts_of_prompts_s(w, 0.0, *asked) == 0.0
    assert (w[CAME], w[FROM], w[TO], w[PASSED], w[LEFT]) == (1, 0, 1, 8, 0)
    w[HELD] = 1
    assert parts_of_prompts_s(w, 1.0, *asked) == 2.0
    assert (w[CAME], w[FROM], w[TO], w[PASSED], w[LEFT]) == (2, 1, 2, 8, 0)


def test_what_is_left_of_a_prompt_is_first_in_the_next_pass() -> None:
    """Twelve and four tokens in passes of eight: eight of the first, then its four and the second's."""
    w, came_s = np.zeros(7, np.int64), np.zeros(2)
    asked = (came_s, np.array([12, 4]), np.array([0, 0]), POINTS, SECONDS, 4, 8)
    assert parts_of_prompts_s(w, 0.0, *asked) == 0.0
    assert (w[CAME], w[WHO], w[TO], w[PASSED], w[LEFT]) == (1, 0, 0, 8, 4)
    assert parts_of_prompts_s(w, 1.0, *asked) == 8.0
    assert (w[CAME], w[FROM], w[TO], w[PASSED], w[LEFT]) == (2, 0, 2, 8, 0)
