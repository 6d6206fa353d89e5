"""The popularity of one sequence: its mean is what all share, its spread what the affinity says, and it stays."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from traces.routing import RoutingTrace
from traces.statistics.locality import expert_counts, expert_reuse
from traces.synthesis import dials as synthesis
from traces.synthesis.dials import Dials, synthesize_routing
from traces.synthesis.sequence_popularity import SequencePopularity, guides_of, weights_of

SHAPE: dict[str, Any] = {"n_moe_layers": 2, "n_encoder_moe_layers": 0, "n_experts": 32, "top_k": 1, "input_tokens": 1,
                         "output_tokens": 2, "batch": 20_000}  # fmt: skip


def made(dials: Dials, **changes: Any) -> RoutingTrace:
    return synthesize_routing(
        **(SHAPE | {"dials": dials, "rng": np.random.default_rng(0), "model_name": "toy"} | changes)
    )


def shared(exponent: float, n_experts: int, n_layers: int = 2) -> np.ndarray[Any, np.dtype[np.float64]]:
    return synthesis._popularity(Dials(exponent, 0.0, 0.0), n_layers, n_experts, 1)


def drawn_often(own: SequencePopularity, seed: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """20,000 popularities of a layer: of 100 sequences, the 200 layers of each, which know nothing of one another."""
    rng = np.random.default_rng(seed)
    return np.concatenate([np.diff(own.drawn(rng)) for _ in range(100)])


@pytest.mark.parametrize("affinity", [0.05, 0.5, 0.8, 0.95])
@pytest.mark.parametrize(("exponent", "n_experts"), [(0.0, 8), (0.6, 64), (1.5, 32)])
def test_mean_popularity_of_sequences_is_the_shared_one(affinity: float, exponent: float, n_experts: int) -> None:
    popularity = shared(exponent, n_experts, n_layers=200)
    drawn = drawn_often(SequencePopularity(popularity, affinity, 0.0), seed=1)
    assert drawn.sum(axis=1) == pytest.approx(1.0)
    error = np.abs(drawn.mean(axis=0) - np.diff(popularity[0]))
    assert (error <= 4.5 * drawn.std(axis=0) / np.sqrt(len(drawn)) + 1e-4).all()


@pytest.mark.parametrize("affinity", [0.3, 0.8])
def test_equally_popular_experts_spread_as_in_a_symmetric_dirichlet(affinity: float) -> None:
    """Of n shares with concentration a each the relative variance is (n - 1) / (n a + 1)."""
    n, shape = 16, 1 / affinity - 1
    drawn = n * drawn_often(SequencePopularity(shared(0.0, n, n_layers=200), affinity, 0.0), seed=2)
    assert drawn.var(axis=0).mean() == pytest.approx((n - 1) / (n * shape + 1), rel=0.03)


def test_weights_have_the_mean_shares_that_the_gamma_integral_says() -> None:
    shares = np.diff(shared(0.9, 24), axis=1)
    weights = weights_of(shares, 0.3)
    assert weights.max(axis=1).tolist() == [1.0, 1.0]
    variates = np.random.default_rng(0).standard_gamma(0.3, (200_000, 24)) * weights[0]
    mean = (variates / variates.sum(axis=1, keepdims=True)).mean(axis=0)
    assert np.abs(mean - shares[0]).sum() < 0.01
    assert weights[0, 0] / weights[0, 1] > 2**0.9  # a popular expert takes less than its weight


@pytest.mark.parametrize("affinity", [1e-6, 0.999, 1.0])
@pytest.mark.parametrize("exponent", [0.0, 2.0, 20.0])
def test_any_affinity_is_a_popularity(affinity: float, exponent: float) -> None:
    own, rng = SequencePopularity(shared(exponent, 16), affinity, 0.5), np.random.default_rng(0)
    for _ in range(200):
        edges = own.drawn(rng)
        assert edges[:, 0].tolist() == [0.0, 0.0]
        assert edges[:, -1].tolist() == [1.0, 1.0]
        assert (np.diff(edges, axis=1) >= 0).all()


def test_without_affinity_all_sequences_have_the_shared_one() -> None:
    popularity, rng = shared(0.6, 8), np.random.default_rng(0)
    assert SequencePopularity(popularity, 0.0, 0.5).drawn(rng) is popularity
    assert rng.random() == np.random.default_rng(0).random()


def test_what_follows_the_layer_before_is_favoured_as_there() -> None:
    popularity = shared(0.6, 400, n_layers=3)
    for correlation, low, high in ((0.0, -0.1, 0.1), (0.6, 0.5, 0.7), (1.0, 1.0, 1.0)):
        own = np.diff(SequencePopularity(popularity, 0.5, correlation).drawn(np.random.default_rng(3)), axis=1)
        alike = np.isclose(own[1] / own[1].sum(), own[0] / own[0].sum(), rtol=0.3).mean()
        noise = 0.25  # by chance
        assert low - 1e-9 <= (alike - noise) / (1 - noise) + (0.15 if correlation < 1 else 0) <= high + 0.2


def test_reuse_does_not_fall_with_distance() -> None:
    trace = made(Dials(0.6, 0.0, 0.0, sequence_affinity=0.8), top_k=4, batch=40, output_tokens=500)
    reuse = [float(expert_reuse(trace, lag).mean()) for lag in (1, 8, 64, 300)]
    plain = float(expert_reuse(made(Dials(0.6, 0.0, 0.0), top_k=4, batch=40, output_tokens=500), 64).mean())
    assert min(reuse) > 1.5 * plain
    assert max(reuse) - min(reuse) < 0.01


@pytest.mark.parametrize("batch", [2500, pytest.param(20_000, marks=pytest.mark.thorough)])
def test_all_sequences_together_choose_by_the_shared_popularity(batch: int) -> None:
    trace = made(Dials(0.8, 0.1, 0.0, sequence_affinity=0.8), batch=batch)
    shares = np.sort(expert_counts(trace) / batch, axis=1)[:, ::-1]
    law = np.arange(1, 33) ** -0.8
    assert np.abs(shares - law / law.sum()).max() < 0.006 * np.sqrt(20_000 / batch)


def test_guides_are_those_of_a_search() -> None:
    popularity = np.concatenate([shared(0.7, 37), shared(3.0, 37)])
    n_cells = 128
    cells = np.linspace(0, 1, n_cells + 1)
    wanted = [np.minimum(np.searchsorted(edges[1:], cells, side="right"), 36) for edges in popularity]
    assert np.array_equal(guides_of(popularity), np.array(wanted))


@pytest.mark.parametrize("shares", [np.full((1, 8), 1 / 8), np.exp(-6.0 * np.arange(128.0))[None]])
def test_weights_are_found_whatever_a_caller_makes_of_underflow(shares: np.ndarray) -> None:
    shares = shares / shares.sum()
    with np.errstate(all="raise"):
        found = weights_of(shares, 22.8)
    assert np.array_equal(found, weights_of(shares, 22.8))
