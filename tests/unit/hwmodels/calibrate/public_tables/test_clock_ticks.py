"""What a clock that ticks leaves to be ranked."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import kendalltau

from hwmodels.calibrate.public_tables.clock_ticks import TICK_S, in_ticks, rank_agreement

RNG = np.random.default_rng(7)
TRUE = np.exp(RNG.uniform(np.log(9e-6), np.log(200e-6), 800))


def read(seconds: np.ndarray, phase_s: float) -> np.ndarray:
    """Whole ticks and a phase, 0.1 us about."""
    return np.round(seconds / TICK_S) * TICK_S + phase_s + RNG.normal(0, 1e-7, len(seconds))


@pytest.mark.parametrize("phase_s", [0.0, 0.5e-6, -0.9e-6])
def test_the_ceiling_is_what_true_times_reach_over_their_readings(phase_s: float) -> None:
    taus = []
    for _ in range(40):
        seen = read(TRUE, phase_s)
        found = rank_agreement(TRUE, seen)
        assert found is not None
        taus.append((found.ceiling, float(kendalltau(TRUE, seen).statistic)))
    ceiling, reached = np.mean(taus, axis=0)
    assert ceiling == pytest.approx(reached, abs=0.002)
    assert ceiling < 0.98


def test_pairs_more_than_a_tick_apart_are_ranked_whole_by_the_true_times_and_backwards_by_their_inverse() -> None:
    seen = read(TRUE, 0.0)
    forth, back = rank_agreement(TRUE, seen), rank_agreement(1 / TRUE, seen)
    assert forth is not None
    assert back is not None
    assert forth.apart > 0.999
    assert back.apart < -0.999
    assert forth.ceiling == back.ceiling
    assert forth.to_dict() == {"ceiling": round(forth.ceiling, 4), "apart": round(forth.apart, 4)}


def test_a_clock_that_does_not_tick_has_no_ceiling() -> None:
    assert abs(in_ticks(read(TRUE, 0.3e-6))) > 0.8
    assert abs(in_ticks(TRUE)) < 0.2
    assert rank_agreement(TRUE, TRUE) is None
    assert rank_agreement(TRUE, read(TRUE, 0.0) + 1e-3) is None  # none is short enough to tell


def test_rows_that_were_not_predicted_do_not_count() -> None:
    seen, some = read(TRUE, 0.0), TRUE.copy()
    some[::2] = np.nan
    assert rank_agreement(some, seen) == rank_agreement(TRUE[1::2], seen[1::2])
