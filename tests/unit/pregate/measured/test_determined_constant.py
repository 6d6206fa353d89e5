"""Where a prediction crosses what was measured."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from pregate.measured.determined_constant import crossing

FALLING: dict[str, tuple[Callable[[float], float], float]] = {
    "a line": (lambda x: 0.7 - x, 0.7),
    "flat at both ends": (lambda x: math.atan(9 * (1.3 - x)), 1.3),
    "steep": (lambda x: 1.0 - math.exp(6 * (x + 2.1)), -2.1),
    "a limit that hides it": (lambda x: min(math.log(2.0), 0.2 - 0.5 * x), 0.4),
    "a root of third order": (lambda x: (0.5 - x) ** 3, 0.5),
}


@pytest.mark.parametrize("case", FALLING)
@pytest.mark.parametrize("sign", [1, -1])
def test_a_crossing_is_found_to_its_tolerance_in_a_few_steps(case: str, sign: int) -> None:
    (of, wanted), asked = FALLING[case], list[float]()

    def watched(x: float) -> float:
        asked.append(x)
        return sign * of(x)

    assert crossing(watched, -4.0, 4.0, 1e-10) == pytest.approx(wanted, abs=1e-5 if "third" in case else 1e-9)
    assert all(-4 <= x <= 4 for x in asked)
    assert len(asked) <= (60 if "third" in case else 14)


def test_an_end_at_which_nothing_is_missing_is_the_crossing() -> None:
    assert crossing(lambda x: x - 2.0, 2.0, 5.0, 1e-10) == 2.0
    assert crossing(lambda x: x - 5.0, 2.0, 5.0, 1e-10) == 5.0
