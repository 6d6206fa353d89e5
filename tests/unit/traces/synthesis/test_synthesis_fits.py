"""What the dials of a synthetic trace are fitted to, how far traces are apart, and what a fit says of itself."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tests.unit.traces.synthesis.toy_traces import made
from traces.phase import Phase
from traces.routing import RoutingTrace
from traces.statistics.locality import expert_counts, expert_reuse, trace_statistics
from traces.synthesis import fitting
from traces.synthesis.dials import Dials, token_layout
from traces.synthesis.fitting import (
    FittedStatistic,
    _entropy_fall,
    _fit,
    _Moments,
    _moved,
    collision_entropy,
    fit_dials,
)


def test_a_dial_moves_by_the_shortfall_of_its_moment_and_stays_within_its_range() -> None:
    assert [_moved(0.5, by) for by in (0.2, -0.2, 0.7, -0.7)] == [0.7, 0.3, 1.0, 0.0]
    assert [_moved(1.0, by, most=2.0) for by in (0.5, 1.5, -1.5)] == [1.5, 2.0, 0.0]
    assert _moved(0.5, math.nan) == 0.5


def moments(**changes: Any) -> _Moments:
    plain: dict[str, Any] = {
        "collision_entropy": np.array([2.0, 4.0]),
        "reuse": 0.5,
        "late_reuse": 0.4,
        "following": 0.2,
        "distinct": 8.0,
    }
    return _Moments(**(plain | changes))


EVERY = frozenset({"collision_entropy", "reuse", "late_reuse", "following", "distinct"})


def test_traces_are_as_far_apart_as_their_fitted_moments() -> None:
    one = moments()
    for changes, whole, part, fewest in (
        ({"reuse": 0.6}, 0.2, 0.2, 0.2),
        ({"following": 0.1}, 0.5, 0.5, 0.5),
        ({"late_reuse": 0.5}, 0.25, 0.25, 0.0),
        ({"distinct": 10.0}, 0.25, 0.0, 0.0),
        ({"collision_entropy": np.array([2.5, 3.0])}, 0.25, 0.25, 0.25),
        ({"reuse": math.nan, "following": 0.3}, 0.5, 0.5, 0.5),
        ({"reuse": 0.0, "late_reuse": 0.0}, 2.0, 2.0, 1.0),
    ):
        other = moments(**changes)
        assert one.distance(other, EVERY) == pytest.approx(whole)
        assert one.distance(other, EVERY - {"distinct"}) == pytest.approx(part)
        assert one.distance(other, EVERY - {"distinct", "late_reuse"}) == pytest.approx(fewest)
    assert moments(reuse=0.0).distance(moments(reuse=0.3), EVERY) == pytest.approx(0.3)  # 0 is no scale
    assert one.distance(moments(collision_entropy=np.zeros(2)), EVERY - {"collision_entropy"}) == 0
    flat = moments(collision_entropy=np.zeros(2))
    assert flat.distance(moments(collision_entropy=np.full(2, 1e-9)), EVERY) == pytest.approx(1.0)


def test_a_fitted_statistic_says_by_how_much_it_is_off() -> None:
    row = FittedStatistic("reuse", 0.4, 0.5, True)
    assert row.difference == pytest.approx(0.1)
    assert row.relative == pytest.approx(0.25)
    assert math.isnan(FittedStatistic("reuse", 0.0, 0.5, True).relative)


def recorded() -> RoutingTrace:
    return made(Dials(0.8, 0.3, 0.2, 1.0, 0.3), n_experts=12, input_tokens=4, output_tokens=60, batch=40, seed=9)


@pytest.mark.parametrize(
    ("how", "fitted"),
    [
        ({"all_dials": False}, {"reuse at lag 1", "mean collision entropy (bits)", "layer following"}),
        (
            {"every_expert": True},
            {"reuse at lag 1", "mean collision entropy (bits)", "layer following", "reuse at lag 8"},
        ),
        (
            {},
            {
                "reuse at lag 1", "mean collision entropy (bits)", "layer following", "reuse at lag 8",
                "distinct experts, batch 32",
            },
        ),
    ],
)  # fmt: skip
def test_a_fit_says_what_it_was_fitted_to_and_how_near_it_comes(how: dict[str, bool], fitted: set[str]) -> None:
    trace = recorded()
    found = fit_dials(trace, np.random.default_rng(1), **how)
    assert {row.name for row in found.comparisons if row.fitted} == fitted
    statistics = trace_statistics(trace.decode_only())
    said = {row.name: row.recorded for row in found.comparisons}
    assert said["reuse at lag 8"] == statistics.reuse[8]
    assert said["mean entropy (bits)"] == pytest.approx(float(np.mean(statistics.entropy_bits)))
    assert said["distinct experts, batch 4"] == statistics.distinct_experts[4]
    assert said["LRU hit rate, 50% of experts"] == statistics.lru_hit_rate[0.5]
    assert len(said) == 2 + 3 + 5 + 2
    for row in found.comparisons:
        if row.fitted:
            assert abs(row.relative) < 0.05, row
    dials = found.dials
    assert isinstance(dials.zipf_exponent, tuple)
    assert len(dials.zipf_exponent) == 3
    assert (dials.sequence_affinity > 0) is how.get("all_dials", True)
    if how:
        assert dials.active_fraction == 1.0
    assert found.to_dict()["dials"]["repeat_probability"] == dials.repeat_probability
    (first, *_) = found.to_dict()["comparisons"]
    assert first == {
        "name": "reuse at lag 1", "recorded": said["reuse at lag 1"], "synthetic": found.comparisons[0].synthetic,
        "fitted": True, "difference": found.comparisons[0].difference, "relative": found.comparisons[0].relative,
    }  # fmt: skip


def test_a_relative_difference_that_is_none_is_null(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fitting, "_fit", lambda _target, _imitate, _decoded, dials, _fitted: dials)  # as near as it is
    layout = token_layout(input_tokens=1, output_tokens=20, batch=2, has_encoder=False)
    choices = np.array([[0, 1], [2, 3]], np.int16)[layout.step % 2]  # no token repeats the one before
    trace = layout.routed(np.repeat(choices[:, None], 3, axis=1), 6, "toy", "by hand", "")
    assert float(expert_reuse(trace, 1).mean()) == 0
    rows = {row["name"]: row for row in fit_dials(trace, np.random.default_rng(0)).to_dict()["comparisons"]}
    assert rows["reuse at lag 1"]["relative"] is None
    assert rows["mean entropy (bits)"]["relative"] is not None


def test_a_statistic_that_one_of_both_has_not_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    figures = iter([
        {"a": 1.0, "b": math.nan, "reuse at lag 1": 2.0, "c": math.nan, "d": 4.0},
        {"a": math.nan, "b": 1.0, "reuse at lag 1": 3.0, "c": math.nan, "d": 5.0},
    ])  # fmt: skip
    monkeypatch.setattr(fitting, "_figures", lambda _: next(figures))
    nothing: Any = None
    assert fitting._comparisons(nothing, nothing, frozenset({"reuse"})) == (
        FittedStatistic("reuse at lag 1", 2.0, 3.0, True), FittedStatistic("d", 4.0, 5.0, False),
    )  # fmt: skip


def test_a_recorded_trace_whose_experts_are_few_has_that_fraction_fitted() -> None:
    trace = made(Dials(0.0, 0.1, 0.1, 0.25), n_experts=32, output_tokens=40, batch=40)
    found = fit_dials(trace, np.random.default_rng(0))
    assert found.dials.active_fraction == pytest.approx(0.25, abs=0.07)
    assert fit_dials(trace, np.random.default_rng(0), every_expert=True).dials.active_fraction == 1.0


def test_layers_that_no_token_visits_have_the_mean_exponent_of_the_others() -> None:
    trace = made(Dials((0.2, 0.2, 2.0), 0.1, 0.1), n_encoder_moe_layers=1, output_tokens=60, batch=20)
    exponents = fit_dials(trace, np.random.default_rng(0)).dials.zipf_exponent
    assert isinstance(exponents, tuple)
    encoder, one, other = exponents
    assert encoder == pytest.approx((one + other) / 2)
    assert other > one + 0.5


def test_imitations_are_as_long_as_what_they_imitate() -> None:
    from traces.synthesis.fitting import _imitation

    trace = recorded()
    decoded = trace.decode_only()
    imitation = _imitation(decoded, 3, Dials(1.0, 0.1, 0.1), np.random.default_rng(0))
    assert (imitation.n_tokens, imitation.n_sequences, imitation.top_k) == (decoded.n_tokens, 40, 2)
    assert imitation.n_experts == 12
    assert imitation.provenance.model == "toy"
    assert set(imitation.phase.tolist()) == {Phase.DECODE}
    assert imitation.position.min() == 1  # a prompt of one token
    short = made(Dials(1.0, 0.1, 0.1), output_tokens=2, batch=5).decode_only()
    assert _imitation(short, 3, Dials(1.0, 0.1, 0.1), np.random.default_rng(0)).n_tokens == short.n_tokens == 5
    bits = collision_entropy(expert_counts(decoded))
    assert _Moments.of(decoded).collision_entropy.tolist() == bits.tolist()


def test_collision_entropy_is_of_the_chance_that_two_choices_are_of_one_expert() -> None:
    assert collision_entropy(np.array([[2, 2, 2, 2], [4, 0, 0, 0], [3, 1, 0, 0]])) == pytest.approx(
        [2.0, 0.0, -math.log2(10 / 16)]
    )


def test_one_sequence_does_not_tell_its_popularity_from_that_of_others() -> None:
    from traces.recorded.dials import recorded_default

    alone = recorded().of_sequences([3])
    found = fit_dials(alone, np.random.default_rng(0), every_expert=True)
    assert set(np.atleast_1d(found.dials.zipf_exponent)) == {recorded_default().zipf_exponent}
    assert not any(row.fitted for row in found.comparisons if "entropy" in row.name)
    told = fit_dials(alone, np.random.default_rng(0), every_expert=True, exponent=0.9, correlation=0.1)
    assert (told.dials.zipf_exponent, told.dials.layer_correlation) == ((0.9,) * 3, 0.1)
    assert {row.name for row in told.comparisons if row.fitted} == {"reuse at lag 1", "reuse at lag 8"}
    without = fit_dials(alone, np.random.default_rng(0), all_dials=False).dials
    assert len(set(np.atleast_1d(without.zipf_exponent))) > 1


def test_a_fit_finds_how_far_sequences_differ() -> None:
    trace = made(Dials(0.6, 0.15, 0.0, 1.0, 0.8), n_experts=48, top_k=4, output_tokens=200, batch=12, seed=4)
    dials = fit_dials(trace, np.random.default_rng(0), every_expert=True).dials
    assert dials.sequence_affinity == pytest.approx(0.8, abs=0.06)
    assert dials.repeat_probability == pytest.approx(0.15, abs=0.03)
    assert np.mean(dials.zipf_exponent) == pytest.approx(0.6, abs=0.15)


@pytest.mark.parametrize(
    ("exponent", "n_experts", "top_k"),
    [
        (0.3, 8, 2), (1.6, 256, 1), (2.5, 8, 2),
        *(
            pytest.param(*one, marks=pytest.mark.thorough)
            for one in ((0.3, 128, 8), (1.0, 32, 2), (1.0, 256, 1), (1.6, 32, 2), (2.5, 128, 8))
        ),
    ],
)  # fmt: skip
def test_a_fit_settles_however_steeply_entropy_falls(exponent: float, n_experts: int, top_k: int) -> None:
    """By up to 5.6 bits for 1 in the exponent: whole steps would go past it, and further at each."""
    trace = made(Dials(exponent, 0.3, 0.2), n_experts=n_experts, top_k=top_k, output_tokens=400, batch=8, seed=3)
    found = fit_dials(trace, np.random.default_rng(0), all_dials=False)
    for row in found.comparisons:
        if row.fitted:
            assert abs(row.difference) < 0.003, row


def test_entropy_falls_as_that_of_the_law_does() -> None:
    exponents, step = np.array([0.0, 0.3, 1.0, 1.6, 3.0]), 1e-6

    def bits(exponent: float, n: int) -> float:
        weights = [rank**-exponent for rank in range(1, n + 1)]
        return -math.log2(sum((weight / sum(weights)) ** 2 for weight in weights))

    for n in (1, 2, 32):
        wanted = [(bits(one - step, n) - bits(one + step, n)) / (2 * step) for one in exponents.tolist()]
        assert _entropy_fall(exponents, n) == pytest.approx(wanted, abs=1e-8)


def test_a_fit_begins_at_an_exponent_of_one_with_code_for_all_its_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    begun: list[Dials] = []

    def first(_target: Any, _imitate: Any, _decoded: Any, dials: Dials, _fitted: Any) -> Dials:
        begun.append(dials)
        return dials

    monkeypatch.setattr(fitting, "load_if_it_pays", asked.append)
    monkeypatch.setattr(fitting, "_fit", first)
    pair = recorded().of_sequences([3, 5])  # two tell a popularity that they share
    for how in ({}, {"all_dials": False}, {"correlation": 0.7}, {"exponent": 0.4}):
        fit_dials(pair, np.random.default_rng(0), **how)  # type: ignore[arg-type]
    assert asked == [40 * (2 * 59) * 3 * 2] * 4
    assert begun == [
        Dials((1.0,) * 3, 0.2, 0.2, 1.0, 0.5), Dials((1.0,) * 3, 0.2, 0.2, 1.0, 0.0),
        Dials((1.0,) * 3, 0.2, 0.7, 1.0, 0.5), Dials((0.4,) * 3, 0.2, 0.2, 1.0, 0.5),
    ]  # fmt: skip


SIZES: Any = SimpleNamespace(n_experts=32, top_k=2)
BEGUN = Dials((0.0, 1.0), 0.2, 0.2, 0.9, 0.5)


def rounds(
    monkeypatch: pytest.MonkeyPatch,
    *shown: _Moments,
    begun: Dials = BEGUN,
    sizes: Any = SIZES,
    fitted: frozenset[str] = EVERY,
    n: int | None = None,
) -> tuple[list[Dials], Dials]:
    """The dials tried where imitations show moments in turn, and those that were found, fitted to `moments()`."""
    if n is not None:
        monkeypatch.setattr(fitting, "_ROUNDS", n)
    monkeypatch.setattr(_Moments, "of", staticmethod(lambda imitation: imitation))
    tried: list[Dials] = []

    def imitate(dials: Dials) -> Any:
        tried.append(dials)
        return shown[min(len(tried), len(shown)) - 1]

    return tried, _fit(moments(), imitate, sizes, begun, fitted)


def test_every_dial_moves_by_the_shortfall_of_its_own_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    made = moments(
        collision_entropy=np.array([2.1, 3.2]), reuse=0.6, late_reuse=0.1, following=0.35, distinct=10.0
    )  # fmt: skip
    (_, moved), _ = rounds(monkeypatch, made, n=2)
    first, second = np.atleast_1d(moved.zipf_exponent)
    assert first == pytest.approx(0.1)  # at 0 entropy falls by less than a bit for 1, and a step is the shortfall
    weights = [[rank**-power for rank in range(1, 30)] for power in (1, 2)]  # nine tenths of 32 experts
    fall = 2 / math.log(2) * (
        np.average(np.log(range(1, 30)), weights=weights[0]) - np.average(np.log(range(1, 30)), weights=weights[1])
    )  # fmt: skip
    assert fall > 2
    assert second == pytest.approx(1 - 0.5 / fall)  # .8 short: half a bit a round at most
    assert (moved.repeat_probability, moved.layer_correlation, moved.sequence_affinity) == pytest.approx(
        (0.1, 0.05, 0.8)
    )
    assert moved.active_fraction == pytest.approx(0.9 * 0.9)  # 8 of 10: half of what it is off


def test_a_dial_whose_moment_is_not_fitted_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    made = moments(
        collision_entropy=np.array([3.0, 3.0]), reuse=0.6, late_reuse=0.1, following=0.35, distinct=10.0
    )  # fmt: skip
    (_, moved), _ = rounds(monkeypatch, made, n=2, fitted=frozenset({"reuse"}))
    assert moved == replace(BEGUN, repeat_probability=0.2 + (0.5 - 0.6))


def test_exponents_stay_between_0_and_8(monkeypatch: pytest.MonkeyPatch) -> None:
    made = moments(collision_entropy=np.array([1.0, 4.9]))
    (_, moved), _ = rounds(monkeypatch, made, n=2, begun=Dials((0.1, 7.8), 0.2, 0.2, 1.0, 0.5))
    assert moved.zipf_exponent == (0.0, 8.0)
    made = moments(collision_entropy=np.array([2.8, 4.1]))  # half a bit a round at most
    (_, moved), _ = rounds(monkeypatch, made, n=2, begun=Dials((0.0, 0.0), 0.2, 0.2, 1.0, 0.5))
    assert moved.zipf_exponent == pytest.approx((0.5, 0.1))


@pytest.mark.parametrize(
    ("begun", "distinct", "top_k", "n_experts", "fraction"),
    [
        (0.9, 2.0, 2, 32, 1.0),  # no more than there are
        (0.9, 7.8, 2, 320, 0.9 * (1 + (8 / 7.8 - 1) / 2)),
        (0.9, 80.0, 2, 32, 0.5),  # 4 bits of entropy take 16 experts
        (0.9, 80.0, 20, 32, 20 / 32),  # and a token takes its own number
        (0.3, 2.0, 2, 320, 0.6),  # 4 times too few: twice as many a round at most
        (0.9, 80.0, 2, 320, 0.9 * 0.55),
    ],
)
def test_the_active_fraction_holds_what_tokens_and_entropy_take(
    monkeypatch: pytest.MonkeyPatch, begun: float, distinct: float, top_k: int, n_experts: int, fraction: float
) -> None:
    sizes: Any = SimpleNamespace(n_experts=n_experts, top_k=top_k)
    first = replace(BEGUN, active_fraction=begun)
    (_, moved), _ = rounds(monkeypatch, moments(distinct=distinct), n=2, sizes=sizes, begun=first)
    assert moved.active_fraction == pytest.approx(fraction)


def test_the_nearest_dials_are_found_and_of_equally_near_ones_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    near, far, further = (moments(reuse=reuse) for reuse in (0.45, 0.4, 0.3))
    tried, found = rounds(monkeypatch, far, near, further)
    assert len(tried) == 40
    assert found == tried[1] != tried[2]
    tried, found = rounds(monkeypatch, far, near, near, further)
    assert found == tried[1] != tried[2]
