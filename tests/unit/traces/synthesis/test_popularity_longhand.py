"""The popularity of one sequence in longhand: every variate, weight and share beside the same in plain Python."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.integrate import quad

from traces.synthesis import sequence_popularity
from traces.synthesis.sequence_popularity import SequencePopularity, _kept_weights, _mean_shares, weights_of

SHARED = np.array([[0.0, 0.5, 0.8, 1.0], [0.0, 0.4, 0.75, 1.0], [0.0, 0.6, 0.9, 1.0]])


@pytest.fixture(autouse=True)
def no_kept_weights() -> Iterator[None]:
    """Weights of another test, or of other code, are no answer."""
    _kept_weights.cache_clear()
    yield
    _kept_weights.cache_clear()


def integral(weights: list[float], shape: float) -> list[float]:
    """Mean of each w_i G_i / sum(w_j G_j), by quadrature in log t."""

    def integrand(at: float, i: int) -> float:
        t = math.exp(at)
        decayed = math.prod((1 + weight * t) ** -shape for weight in weights)
        return t * weights[i] * shape / (1 + weights[i] * t) * decayed

    return [quad(integrand, -60, 700, args=(i,), limit=2000, points=(-5, 0, 5, 20))[0] for i in range(len(weights))]


@pytest.mark.parametrize("shape", [0.25, 1.0, 4.0])
@pytest.mark.parametrize("scale", [1.0, 1e-5, 1e12])
def test_mean_shares_are_those_of_the_integral_whatever_the_scale_of_weights(shape: float, scale: float) -> None:
    weights = [[1.0, 0.5, 0.1], [1.0, 1.0, 0.01]]
    found = _mean_shares(np.log(np.array(weights) * scale), shape)
    for row, layer in zip(found, weights, strict=True):
        assert row == pytest.approx(integral(layer, shape), rel=2e-5)


def test_mean_shares_of_equal_weights_are_equal_and_of_exponential_variates_known() -> None:
    """Of two exponential variates X and w Y the mean of X / (X + w Y) is (1 - w + w log w) / (1 - w) ** 2."""
    w = 0.2
    found = _mean_shares(np.log(np.array([[1.0, w], [3.0, 3.0]])), 1.0)
    known = (1 - w + w * math.log(w)) / (1 - w) ** 2
    assert found == pytest.approx(np.array([[known, 1 - known], [0.5, 0.5]]), rel=1e-6)


def by_hand(shares: list[float], shape: float, rounds: int, tolerance: float) -> tuple[list[float], int]:
    """Weights and after how many corrections they are near enough."""
    log_weights = [math.log(max(share, 1e-300)) for share in shares]
    for n in range(rounds):
        mean = _mean_shares(np.array([log_weights]), shape)[0].tolist()
        if sum(abs(m - s) for m, s in zip(mean, shares, strict=True)) < tolerance:
            return [math.exp(w - max(log_weights)) for w in log_weights], n
        log_weights = [w + math.log(s / m) for w, s, m in zip(log_weights, shares, mean, strict=True)]
        log_weights = [w - max(log_weights) for w in log_weights]
    return [math.exp(w - max(log_weights)) for w in log_weights], rounds


@pytest.mark.parametrize("shape", [0.1, 0.25, 1.0, 4.0])
def test_weights_are_corrected_by_what_mean_shares_fall_short(shape: float) -> None:
    shares = [0.6, 0.25, 0.1, 0.05]
    wanted, n = by_hand(shares, shape, 60, 1e-4)
    assert 0 < n < 60
    (found,) = weights_of(np.array([shares]), shape)
    assert found == pytest.approx(wanted, rel=1e-9)
    assert found.max() == 1.0
    assert np.abs(_mean_shares(np.log(found)[None], shape)[0] - shares).sum() < 1e-4


def test_all_layers_are_corrected_until_the_worst_is_near_enough() -> None:
    shares = np.array([[0.25, 0.25, 0.25, 0.25], [0.7, 0.2, 0.06, 0.04]])
    found = weights_of(shares, 0.3)
    assert found[0] == pytest.approx([1.0] * 4, rel=1e-9)
    assert found[1] == pytest.approx(by_hand(shares[1].tolist(), 0.3, 60, 1e-4)[0], rel=1e-9)
    assert weights_of(shares[::-1], 0.3) == pytest.approx(found[::-1], rel=1e-12)


def test_layers_are_near_enough_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    shares = np.array([[0.7, 0.2, 0.06, 0.04]] * 2)
    off = float(np.abs(_mean_shares(np.log(shares), 0.3) - shares)[0].sum())
    monkeypatch.setattr(sequence_popularity, "_TOLERANCE", 1.5 * off)  # less than both together are off
    assert weights_of(shares, 0.3) == pytest.approx(shares / 0.7, rel=1e-12)


def test_the_largest_weight_of_each_layer_is_one_at_every_correction(monkeypatch: pytest.MonkeyPatch) -> None:
    shares, largest = np.array([[0.7, 0.2, 0.06, 0.04], [0.3, 0.3, 0.2, 0.2]]), []

    def watched(log_weights: NDArray[np.float64], shape: float) -> NDArray[np.float64]:
        largest.append(log_weights.max(axis=1).tolist())
        return _mean_shares(log_weights, shape)

    monkeypatch.setattr(sequence_popularity, "_mean_shares", watched)
    assert weights_of(shares, 0.3).max(axis=1).tolist() == [1.0, 1.0]
    assert largest[0] == np.log([0.7, 0.3]).tolist()
    assert largest[1:] == [[0.0, 0.0]] * (len(largest) - 1)
    assert len(largest) > 1
    monkeypatch.setattr(sequence_popularity, "_ROUNDS", 0)
    assert weights_of(shares, 0.3).max(axis=1).tolist() == [1.0, 1.0]


def test_corrections_end(monkeypatch: pytest.MonkeyPatch) -> None:
    shares = np.array([[0.7, 0.2, 0.06, 0.04]])
    for rounds in (0, 1, 2):
        monkeypatch.setattr(sequence_popularity, "_ROUNDS", rounds)
        wanted, n = by_hand(shares[0].tolist(), 0.3, rounds, 1e-4)
        assert n == rounds
        assert weights_of(shares, 0.3)[0] == pytest.approx(wanted, rel=1e-9)


def test_a_tolerance_that_is_met_just_is_met(monkeypatch: pytest.MonkeyPatch) -> None:
    shares = np.array([[0.7, 0.2, 0.06, 0.04]])
    off = float(np.abs(_mean_shares(np.log(shares), 0.3) - shares).sum())
    monkeypatch.setattr(sequence_popularity, "_TOLERANCE", off)
    assert weights_of(shares, 0.3)[0, 1] != pytest.approx(2 / 7, rel=1e-6)  # not below: corrected
    monkeypatch.setattr(sequence_popularity, "_TOLERANCE", math.nextafter(off, 1))
    assert weights_of(shares, 0.3)[0] == pytest.approx(shares[0] / 0.7, rel=1e-12)


def test_a_share_of_next_to_nothing_has_a_weight() -> None:
    (found,) = weights_of(np.array([[1.0, 0.0, 1e-200]]), 0.5)
    assert found[0] == 1.0
    assert 0 <= found[1] < 1e-250
    assert 0 < found[2] < 1e-150


def drawn(affinity: float, correlation: float, shared: NDArray[np.float64] = SHARED, seed: int = 5) -> Any:
    return SequencePopularity(shared, affinity, correlation).drawn(np.random.default_rng(seed))


def longhand(shape: float, weights: list[list[float]], correlation: float, seed: int) -> list[list[float]]:
    """What `drawn` is to be, expert by expert."""
    rng, shares = np.random.default_rng(seed), np.diff(SHARED, axis=1)
    variates = rng.standard_gamma(shape, (3, 3), dtype=np.float32).tolist()
    if correlation:
        copied = (rng.random((3, 3)) < correlation).tolist()
        for layer in (1, 2):
            for rank in range(3):
                if copied[layer][rank]:
                    variates[layer][rank] = variates[layer - 1][rank]
    own = []
    for row, share, of_layer in zip(variates, shares.tolist(), weights, strict=True):
        products = [w * v for w, v in zip(of_layer, row, strict=True)]
        products = [p + s * 1e-9 * (sum(products) + 1e-30) for p, s in zip(products, share, strict=True)]
        own.append([sum(products[:n]) / sum(products) for n in range(4)])
    return own


@pytest.mark.parametrize(
    ("affinity", "shape"), [(1e-6, 999_999.0), (0.1, 9.0), (0.5, 1.0), (0.9, 1 / 9), (1 / 1.125, 0.125), (0.95, 0.1)]
)
def test_a_sequence_weighs_each_expert_by_a_variate_of_its_own(
    affinity: float, shape: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sequence_popularity, "_LEAST_SHAPE", 0.1)  # which that of 0.95 is below
    weights = weights_of(np.diff(SHARED, axis=1), shape).tolist()
    for correlation in (0.0, 0.4, 1.0):
        for seed in (5, 6, 7):
            found = drawn(affinity, correlation, seed=seed)
            wanted = longhand(shape, weights, correlation, seed)
            assert found == pytest.approx(np.array(wanted), rel=1e-6)  # variates have 24 bits
            assert found[:, -1].tolist() == [1.0] * 3


def test_next_to_no_affinity_is_none() -> None:
    assert drawn(9.99e-7, 0.3) is SHARED
    assert drawn(0.0, 0.3) is SHARED
    assert drawn(1e-6, 0.3) is not SHARED


class _Nothing:
    """A generator whose gamma variates are all 0, and whose numbers are at a threshold."""

    def standard_gamma(self, shape: float, size: tuple[int, int], dtype: Any) -> NDArray[np.float32]:
        return np.zeros(size, dtype)

    def random(self, size: tuple[int, int]) -> NDArray[np.float64]:
        return np.full(size, 0.4)


def test_variates_that_are_all_nothing_leave_the_shared_popularity() -> None:
    found = SequencePopularity(SHARED, 0.5, 0.0).drawn(_Nothing())  # type: ignore[arg-type]
    assert found == pytest.approx(SHARED, rel=1e-12)


def test_an_expert_whose_variate_is_nothing_keeps_a_billionth_of_its_share() -> None:
    class OneAlone(_Nothing):
        def standard_gamma(self, shape: float, size: tuple[int, int], dtype: Any) -> NDArray[np.float32]:
            return np.array([[1, 0, 0], [2, 0, 0], [0, 0, 4]], dtype)

    found = np.diff(SequencePopularity(SHARED, 0.5, 0.0).drawn(OneAlone()), axis=1)  # type: ignore[arg-type]
    shares = np.diff(SHARED, axis=1)
    assert found[0, 1:] == pytest.approx(1e-9 * shares[0, 1:], rel=1e-6)
    assert found[1, 1:] == pytest.approx(1e-9 * shares[1, 1:], rel=1e-6)
    assert found[2, :2] == pytest.approx(1e-9 * shares[2, :2], rel=1e-6)
    copied = np.diff(SequencePopularity(SHARED, 0.5, 0.41).drawn(OneAlone()), axis=1)  # type: ignore[arg-type]
    assert copied[:, 0] == pytest.approx(1.0)  # all layers favour what the first does
    kept = np.diff(SequencePopularity(SHARED, 0.5, 0.4).drawn(OneAlone()), axis=1)  # type: ignore[arg-type]
    assert kept == pytest.approx(found, rel=1e-12)  # a number at the chance does not follow


def test_layers_of_equal_popularity_have_equal_weights_each_in_its_place() -> None:
    shares = np.array([[0.5, 0.3, 0.2], [0.6, 0.3, 0.1], [0.5, 0.3, 0.2]])
    found = _kept_weights(shares.tobytes(), shares.shape, 0.4)
    assert found == pytest.approx(weights_of(shares, 0.4), rel=1e-12)
    assert not found.flags.writeable
