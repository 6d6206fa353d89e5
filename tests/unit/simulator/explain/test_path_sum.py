"""A metric as a sum of costs along its paths: what is kept of it, and that it is what its costs are."""

from __future__ import annotations

import numpy as np
import pytest

from hwmodels.cost import price_figures
from hwmodels.figures import figures_of
from hwmodels.platform import load_platform
from offload.ops import Gemm, OpKind, Work
from simulator.explain.critical_path import Gradient
from simulator.explain.path_sum import PathSum, _last_keys

HW = load_platform("a100-sxm4-80gb", "streams")
FETCH = Work(OpKind.FETCH, copy_bytes=10_000_000)
READBACK = Work(OpKind.READBACK, copy_bytes=1_000_000)
ATTENTION = Work(
    OpKind.SELF_ATTENTION, (Gemm(1, 64, 64, 1),), "bf16", 16.0, flop=1 << 20, hbm_bytes=1 << 26, flop_compute="bf16"
)  # fmt: skip


def by(*counts: tuple[float, float]) -> Gradient:
    issue, duration = (np.array(column, float) for column in zip(*counts, strict=True))
    return Gradient(issue, duration)


def test_a_sum_along_paths_is_what_its_costs_are() -> None:
    """Two ops whose attention differs are one op of their mean; what counts nothing is not there."""
    longer = ATTENTION._replace(flop=3 << 20, hbm_bytes=3 << 26)
    works = [ATTENTION, FETCH, longer, READBACK]
    counts = ((1.0, 2.0), (0.5, 3.0), (2.0, 1.0), (0.0, 0.0))
    sum_ = PathSum()
    sum_.add(works[:2], by(*counts[:2]))
    sum_.add(works[2:], by(*counts[2:]))
    assert len(sum_._sums) == 2
    figures = figures_of(HW).for_works(works)
    costs = price_figures(works, figures, 1)
    wanted = sum(
        n * i + m * d for (n, m), i, d in zip(counts, costs.issue_s[:, 0], costs.duration_s[:, 0], strict=True)
    )
    assert sum_.at(figures, 1).shape == (1,)
    assert sum_.at(figures, 1)[0] == pytest.approx(wanted, rel=1e-12)
    faster = figures.with_values({"link.h2d_bytes_per_s": np.array([1e9, 2e9, 4e9])})
    halved = sum_.at(faster, 3)
    assert halved[0] - halved[1] == pytest.approx(2 * (halved[1] - halved[2]), rel=1e-9)
    assert halved[0] > halved[2]


def test_a_mean_of_arithmetic_is_one_where_that_binds() -> None:
    """Prices are linear in it there: of a share of each, and of what only is moved nothing is mixed."""
    works = [ATTENTION._replace(flop=n << 40, hbm_bytes=n) for n in (1, 2, 5)]
    works += [FETCH._replace(copy_bytes=n * 1_000_000) for n in (1, 2)]
    counts = ((0.0, 1.0), (0.0, 0.25), (1.0, 0.5), (0.0, 1.0), (0.0, 1.0))
    sum_ = PathSum()
    for work, count in zip(works, counts, strict=True):
        sum_.add([work], by(count))
    assert len(sum_._sums) == 3
    figures = figures_of(HW).for_works(works)
    costs = price_figures(works, figures, 1)
    assert costs.duration_s[2, 0] > 4 * costs.duration_s[0, 0]
    wanted = sum(
        n * i + m * d for (n, m), i, d in zip(counts, costs.issue_s[:, 0], costs.duration_s[:, 0], strict=True)
    )
    assert sum_.at(figures, 1)[0] == pytest.approx(wanted, rel=1e-9)


def test_a_list_of_works_may_change_from_one_sum_to_the_next() -> None:
    """What is known of the works asked for last is known of tuples, which stay as they are."""
    works, sum_ = [ATTENTION], PathSum()
    sum_.add(works, by((0.0, 1.0)))
    works[0] = FETCH
    sum_.add(works, by((0.0, 1.0)))
    works.append(READBACK)
    sum_.add(works, by((0.0, 0.0), (0.0, 1.0)))
    assert [work for work, _ in sum_._sums.values()] == [ATTENTION, FETCH, READBACK]


def test_what_counts_for_less_than_nothing_is_kept_apart() -> None:
    """As many ops are taken off as put on, of other lengths: a mean of nothing would be none."""
    longer = ATTENTION._replace(flop=3 << 20, hbm_bytes=3 << 26)
    sum_ = PathSum()
    sum_.add([ATTENTION, longer], by((0.0, -0.5), (0.0, 0.5)))
    assert len(sum_._sums) == 2
    figures = figures_of(HW).for_works([ATTENTION])
    one, other = price_figures([ATTENTION, longer], figures, 1).duration_s[:, 0]
    assert sum_.at(figures, 1)[0] == pytest.approx((other - one) / 2, rel=1e-12)
    assert sum_.at(figures, 1)[0] > 0


def test_what_is_issued_and_never_runs_counts_by_its_issue() -> None:
    sum_ = PathSum()
    sum_.add([FETCH], by((2.0, 0.0)))
    figures = figures_of(HW).for_works([FETCH])
    assert sum_.at(figures, 1)[0] == pytest.approx(2 * price_figures([FETCH], figures, 1).issue_s[0, 0], rel=1e-12)
    assert PathSum().at(figures, 2).tolist() == [0, 0]


def test_the_works_of_a_schedule_are_looked_through_once_for_both_of_its_paths() -> None:
    works = (ATTENTION, FETCH)
    _last_keys.cache_clear()
    for sum_ in (PathSum(), PathSum()):
        sum_.add(works, by((0.0, 1.0), (0.0, 1.0)))
        assert [work for work, _ in sum_._sums.values()] == [ATTENTION, FETCH]
    assert (_last_keys.cache_info().misses, _last_keys.cache_info().hits) == (1, 1)
