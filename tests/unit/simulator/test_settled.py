"""HBM in use and moving experts, settled part by part: by hand, and machine code against NumPy, bit for bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from simulator.streamed import settled, stream_kernel
from simulator.streamed.settled import PartTimes, Settled

BY_HAND = PartTimes(
    taken=(np.array([0.0, 2.0, 4.0]), np.array([10, 20, 5])),
    given=(np.array([2.0, 9.0]), np.array([10, 20])),
    moving=(np.array([1.0, 2.0, 6.0]), np.array([3.0, 5.0, 8.0])),
    stalls=(np.array([0.0, 4.5, 7.0]), np.array([2.0, 6.5, 9.0])),
)


@pytest.mark.parametrize("in_order", [False, True])
@pytest.mark.parametrize("settled_s", [0.0, 2.0, 4.75, 7.5, 100.0])
def test_levels_and_covered_time_by_hand_wherever_they_are_settled(in_order: bool, settled_s: float) -> None:
    """At 2.0 ten bytes come back before twenty are taken: 100, 110, 100, 120, 125."""
    seen = Settled(100)
    seen.add(_copy(BY_HAND)._replace(levels_in_order=in_order, moving_in_order=in_order), settled_s)
    assert seen.peak_hbm_bytes == 125
    assert seen.transfer_s == 6.0  # 1 to 5 and 6 to 8
    assert seen.exposed_s == pytest.approx(1.0 + 0.5 + 0.5 + 1.0)


@pytest.mark.parametrize("settled_s", [0.0, 2.5, 4.75, 100.0])
def test_times_out_of_order_are_settled_as_if_they_were_in_order(settled_s: float) -> None:
    """As lanes that move beside one another have them, which only NumPy may settle; not told, it is taken for so."""
    lists: list[Any] = [tuple(values[::-1].copy() for values in rows) for rows in BY_HAND[:4]]
    seen = Settled(100)
    seen.add(PartTimes(*lists), settled_s)
    assert (seen.peak_hbm_bytes, seen.transfer_s, seen.exposed_s) == (125, 6.0, pytest.approx(3.0))


def test_nothing_leaves_the_level_and_covers_no_time() -> None:
    seen = Settled(7)
    for in_order in (False, True):
        seen.add(seen.left._replace(levels_in_order=in_order, moving_in_order=in_order), 5.0)
    assert (seen.peak_hbm_bytes, seen.transfer_s, seen.exposed_s) == (7, 0.0, 0.0)


def test_machine_code_settles_what_numpy_settles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Copies back to back, apart and within one another, stalls of no length, times that fall together."""
    rng = np.random.default_rng(5)
    for compiled in (True, False):
        if not compiled:  # the functions as they stand
            monkeypatch.setattr(settled, "loaded", lambda kernel: getattr(stream_kernel, kernel.name))
        for _ in range(30):
            one, other, clock_s = Settled(1000), Settled(1000), 0.0
            for _ in range(3):
                parts = _more(rng, clock_s)
                clock_s += 10 * rng.random() if rng.random() < 0.5 else rng.integers(1, 10)
                one.add(_after(one.left, parts, False), clock_s)
                other.add(_after(other.left, parts, True), clock_s)
                for mine, theirs in zip(one.left[:4], other.left[:4], strict=True):
                    assert [x.tolist() for x in mine] == [x.tolist() for x in theirs]
            assert one.transfer_s == other.transfer_s
            assert one.exposed_s == other.exposed_s
            assert one.peak_hbm_bytes == other.peak_hbm_bytes


def test_what_is_covered_before_a_time_is_what_is_interpolated_to_the_bit() -> None:
    """Within intervals, between them and where they begin and end, wherever it is looked for from. In the first case
    the line through the second interval misses its end by a bit.
    """
    rng = np.random.default_rng(3)
    cases = [(np.array([0.0, 0.01 + 1 / 7]), np.array([0.01, 0.01 + 1 / 7 + 0.12]))]
    for n in range(1, 9):
        begin = np.cumsum(rng.random(n) + (rng.random(n) < 0.7))
        cases.append((begin, np.minimum(begin + rng.random(n), np.r_[begin[1:], np.inf])))
    for begin, end in cases:
        length, up_to = end - begin, np.cumsum(end - begin)
        edges, covered = np.stack([begin, end], 1).ravel(), np.stack([np.r_[0.0, up_to[:-1]], up_to], 1).ravel()
        times = np.r_[begin, end, (begin + end) / 2, begin + length * rng.random(len(begin)), 0.0, end[-1] + 1.0]
        apart = np.stack([begin, end, length, up_to])
        for time, expected in zip(times, np.interp(times, edges, covered), strict=True):
            for near in range(len(begin)):
                assert stream_kernel.covered_at(apart, len(begin), time, near)[0] == expected


def _more(rng: np.random.Generator, from_s: float) -> PartTimes:
    """PartTimes in order, none before `from_s`; every second of them whole, so that some are the same."""

    def ascending(n: int) -> NDArray[np.float64]:
        times = np.where(rng.random(n) < 0.5, rng.integers(0, 15, n), 15 * rng.random(n))
        return from_s + np.sort(times)

    n, n_waits = rng.integers(0, 12, 2).tolist()
    begin, edges = ascending(n), ascending(2 * n_waits)
    length = np.where(rng.random(n) < 0.2, 0.0, rng.integers(1, 4, n))
    taken, given = ascending(n), ascending(n)
    stalls = edges[::2], edges[1::2]
    return PartTimes((taken, rng.integers(1, 90, n)), (given, rng.integers(1, 90, n)), (begin, begin + length), stalls)


def _after(left: PartTimes, more: PartTimes, in_order: bool) -> PartTimes:
    """What is left, and more; in order of time by list, as one lane has them."""
    lists: list[Any] = []
    for one, two in zip(left[:4], more[:4], strict=True):
        first, second = np.concatenate([one[0], two[0]]), np.concatenate([one[1], two[1]])
        order = np.argsort(first, kind="stable")
        lists.append((first[order], second[order]))
    return PartTimes(*lists)._replace(levels_in_order=in_order, moving_in_order=in_order)


def _copy(times: PartTimes) -> PartTimes:
    lists: list[Any] = [tuple(values.copy() for values in rows) for rows in times[:4]]
    return PartTimes(*lists)
