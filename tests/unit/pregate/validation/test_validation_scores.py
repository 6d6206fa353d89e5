"""Every score of a validation is what a person computes by hand, and what is undefined is None."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from itertools import combinations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pregate.validation.outcome import COMPARED_METRICS, OpTime, Validation
from pregate.validation.scores.rank_agreement import kendall_tau, regret, resolved_tau
from pregate.validation.scores.validation_summary import baselines_of, rows, summarise_validation
from tests.small_validations import metrics, outcome, validation
from traces.errors import InvalidInput


def row_of(found: list[dict[str, Any]], case: str, kind: str) -> dict[str, Any]:
    (row,) = [row for row in found if row["name"] == case and row["kind"] == kind]
    return row


def four() -> Validation:
    """Errors of tpot_s: +10 %, -20 %, 0, +50 %."""
    return validation(
        outcome("pregate", 1.1, (0.9, 1.0, 1.2), interval=(0.9, 1.1), bound_s=10.0),
        outcome("on_demand", 1.6, (2.0,), interval=(1.5, 1.7)),
        outcome("pregate", 4.0, (4.0,), group="other/b1", model="other", bound_s=40.0),
        outcome("on_demand", 7.5, (5.0,), group="other/b1", model="other"),
    )


def test_errors_are_scored_as_by_hand() -> None:
    overall = summarise_validation(four())["metrics"]["tpot_s"]["overall"]
    assert overall["n"] == 4
    assert overall["mape"] == pytest.approx((0.1 + 0.2 + 0.0 + 0.5) / 4)
    assert overall["bias"] == pytest.approx((0.1 - 0.2 + 0.0 + 0.5) / 4)
    assert overall["p50"] == pytest.approx(0.15)
    assert overall["p90"] == pytest.approx(0.2 + 0.7 * 0.3)  # 0.9 x 3 = 2.7 places into 0, 0.1, 0.2, 0.5
    assert overall["p99"] == pytest.approx(0.2 + 0.97 * 0.3)
    assert (overall["worst"], overall["worst_case"]) == (pytest.approx(0.5), "other/b1/on_demand")
    assert (overall["coverage"], overall["n_intervals"]) == (0.5, 2)


def test_policies_and_models_are_scored_apart_and_the_top_repeats_the_time_per_token() -> None:
    summary = summarise_validation(four())
    tpot = summary["metrics"]["tpot_s"]
    assert {name: entry["mape"] for name, entry in tpot["by_policy"].items()} == {
        "pregate": pytest.approx(0.05), "on_demand": pytest.approx(0.35)
    }  # fmt: skip
    assert {name: entry["bias"] for name, entry in tpot["by_model"].items()} == {
        "mini": pytest.approx(-0.05), "other": pytest.approx(0.25)
    }  # fmt: skip
    assert {name: summary[name] for name in ("mape", "bias", "worst", "coverage")} == {
        name: tpot["overall"][name] for name in ("mape", "bias", "worst", "coverage")
    }
    assert list(summary["metrics"]) == list(COMPARED_METRICS)


def test_a_rate_is_off_the_other_way() -> None:
    overall = summarise_validation(validation(outcome("lru", 1.25, (1.0,))))["metrics"]["tokens_per_s"]["overall"]
    assert overall["bias"] == pytest.approx(-0.2)


def test_the_measured_value_is_the_median_over_runs() -> None:
    row = row_of(rows(four()), "mini/b1/pregate", "tpot_s")
    assert (row["measured"], row["measured_low"], row["measured_high"], row["n_runs"]) == (1.0, 0.9, 1.2, 3)
    assert (row["predicted"], row["low"], row["high"], row["inside"]) == (1.1, 0.9, 1.1, True)
    assert row["error"] == pytest.approx(0.1)


def test_a_stall_is_compared_in_points_of_the_measured_makespan() -> None:
    one = outcome("pregate", 1.0, (2.0,), stalls_s=(5.5, 2.2))  # the measured makespan is 22 s
    row = row_of(rows(validation(one)), "mini/b1/pregate", "stall_s")
    assert (row["predicted"], row["measured"]) == (pytest.approx(0.25), pytest.approx(0.1))
    assert row["error"] == pytest.approx(0.15)
    assert row["unit"] == "share of makespan"
    assert summarise_validation(validation(one))["metrics"]["stall_s"]["overall"]["mape"] == pytest.approx(0.15)


def test_no_stall_at_all_is_exactly_right() -> None:
    overall = summarise_validation(validation(outcome("gpu_only", 1.0, (1.0,))))["metrics"]["stall_s"]["overall"]
    assert (overall["n"], overall["mape"], overall["worst"]) == (1, 0.0, 0.0)
    missed = summarise_validation(validation(outcome("gpu_only", 1.0, (1.0,), stalls_s=(0.11, 0.0))))
    assert missed["metrics"]["stall_s"]["overall"]["mape"] == pytest.approx(0.01)


def test_an_interval_of_a_stall_is_in_the_unit_of_its_row() -> None:
    one = outcome("pregate", 1.0, (1.0,), stalls_s=(2.2, 1.1))
    one = replace(one, prediction=replace(one.prediction, intervals={"stall_s": (1.1, 3.3)}))
    row = row_of(rows(validation(one)), "mini/b1/pregate", "stall_s")
    assert (row["low"], row["high"], row["inside"]) == (pytest.approx(0.1), pytest.approx(0.3), True)


def test_kendall_tau_counts_pairs() -> None:
    assert kendall_tau([1, 2, 3, 4], [10, 20, 40, 30]) == pytest.approx(4 / 6)  # five right, one wrong of six
    assert kendall_tau([1, 2, 3], [3, 2, 1]) == pytest.approx(-1)
    # tau-b: two of three pairs right, one tied in the prediction: 2 / sqrt(2 x 3)
    assert kendall_tau([1, 1, 2], [1, 2, 3]) == pytest.approx(2 / math.sqrt(6))


@pytest.mark.parametrize("values", [([], []), ([1.0], [1.0]), ([1.0, 1.0], [1.0, 2.0]), ([1.0, 2.0], [3.0, 3.0])])
def test_an_order_of_nothing_is_undefined(values: tuple[list[float], list[float]]) -> None:
    assert kendall_tau(*values) is None


def test_what_noise_orders_is_no_order() -> None:
    # the first two overlap, so 1-2 is not counted; 1-3 and 2-3 are, and both are right though 1 and 2 are swapped
    assert resolved_tau([2.0, 1.0, 3.0], [(1.0, 1.2), (1.1, 1.3), (2.0, 2.1)]) == 1.0
    assert resolved_tau([3.0, 1.0, 2.0], [(1.0, 1.2), (1.1, 1.3), (2.0, 2.1)]) == 0.0
    assert resolved_tau([1.0, 2.0], [(1.0, 2.0), (1.5, 2.5)]) is None
    assert resolved_tau([], []) is None


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=2, max_size=12))
def test_taus_agree_with_counting_pairs(pairs: list[tuple[int, int]]) -> None:
    predicted, measured = [float(p) for p, _ in pairs], [float(m) for _, m in pairs]
    signs = [
        (math.copysign(1, a - b) if a != b else 0, math.copysign(1, c - d) if c != d else 0)
        for (a, c), (b, d) in combinations(pairs, 2)
    ]
    both, x, y = (sum(one) for one in zip(*[(a * b, a * a, b * b) for a, b in signs], strict=True))
    expected = both / math.sqrt(x * y) if x and y else None
    assert kendall_tau(predicted, measured) == (None if expected is None else pytest.approx(expected))
    resolved = [a * b for a, b in signs if b]
    found = resolved_tau(predicted, [(m, m) for m in measured])
    assert found == (pytest.approx(sum(resolved) / len(resolved)) if resolved else None)


@given(st.lists(st.tuples(st.floats(0.1, 10), st.floats(0.1, 10)), min_size=2, max_size=8))
def test_regret_is_never_negative_and_nothing_for_a_perfect_prediction(pairs: list[tuple[float, float]]) -> None:
    predicted, measured = [p for p, _ in pairs], [m for _, m in pairs]
    assert (regret(predicted, measured) or 0.0) >= -1e-12
    assert regret(measured, measured) == pytest.approx(0.0, abs=1e-8)


def test_regret_is_what_the_choice_costs() -> None:
    assert regret([1.0, 2.0, 3.0], [1.2, 1.0, 5.0]) == pytest.approx(0.2)
    assert regret([1.0, 1.0, 3.0], [1.2, 1.0, 5.0]) == pytest.approx(0.1)  # a blind choice among two
    assert regret([1.0], [1.0]) is None
    assert regret([1.0, 2.0], [0.0, 1.0]) is None


def test_policies_are_ordered_within_groups() -> None:
    summary = summarise_validation(
        validation(
            outcome("gpu_only", 1.0, (1.0,)),
            outcome("pregate", 2.0, (3.3,)),
            outcome("lru", 2.5, (3.0,)),
            outcome("gpu_only", 8.0, (8.0,), group="b"),
            outcome("pregate", 9.0, (9.0,), group="b"),
            outcome("lru", 4.0, (4.0,), group="alone"),
        )
    )
    first, second, alone = summary["groups"]
    assert first["kendall_tau"] == pytest.approx(1 / 3)
    assert (first["predicted_best"], first["measured_best"], first["regret"]) == ("gpu_only", "gpu_only", 0.0)
    assert second["kendall_tau"] == pytest.approx(1.0)
    assert (alone["kendall_tau"], alone["regret"], alone["n"]) == (None, None, 1)
    assert summary["kendall_tau_within"] == pytest.approx((1 / 3 + 1) / 2)
    assert summary["kendall_tau"] == pytest.approx((14 - 1) / 15)
    assert (summary["regret"], summary["regret_worst"]) == (0.0, 0.0)
    # without gpu_only the first group has pregate predicted best, which took 3.3 where lru took 3.0
    assert summary["regret_offloading"] == pytest.approx(0.1)
    assert summary["regret_offloading_worst"] == pytest.approx(0.1)


def test_the_group_with_the_worst_regret_is_named() -> None:
    summary = summarise_validation(
        validation(
            outcome("lru", 1.0, (2.0,), group="a"), outcome("pregate", 1.5, (1.0,), group="a"),
            outcome("lru", 1.0, (1.0,), group="b"), outcome("pregate", 1.5, (2.0,), group="b"),
        )
    )  # fmt: skip
    assert (summary["regret"], summary["regret_worst"], summary["regret_worst_group"]) == (0.5, 1.0, "a")


def test_naive_baselines_are_scored_like_the_prediction() -> None:
    found = validation(
        outcome("lru", 1.0, (1.0,), naive={"roofline": 0.5, "serialised": 1.5}),
        outcome("pregate", 2.0, (2.0,), naive={"roofline": 0.4, "serialised": 2.0}),
    )
    naive = summarise_validation(found)["naive"]
    assert list(naive) == ["roofline", "serialised"] == list(baselines_of(found))
    assert naive["roofline"]["mape"] == pytest.approx((0.5 + 0.8) / 2)
    assert (naive["roofline"]["bias"], naive["roofline"]["worst"]) == (pytest.approx(-0.65), pytest.approx(0.8))
    assert (naive["roofline"]["kendall_tau"], naive["serialised"]["kendall_tau"]) == (-1.0, 1.0)
    assert naive["roofline"]["regret"] == pytest.approx(1.0)
    assert naive["serialised"]["by_policy"]["lru"]["mape"] == pytest.approx(0.5)
    row = row_of(rows(found), "mini/b1/lru", "tpot_s")
    assert (row["naive_roofline_error"], row["naive_serialised_error"]) == (pytest.approx(-0.5), pytest.approx(0.5))
    assert row_of(rows(found), "mini/b1/lru", "ttft_s")["naive_roofline_error"] is None


def test_ops_are_compared_by_the_time_of_one_and_weighed_by_all_their_time() -> None:
    said = {"experts": OpTime(10, 0.12), "fetch": OpTime(5, 0.25)}
    seen = {"experts": OpTime(10, 0.10), "fetch": OpTime(5, 0.30)}
    other = ({"experts": OpTime(4, 0.04)}, {"experts": OpTime(4, 0.05)})
    found = validation(outcome("lru", 1.0, (1.0,), ops=(said, seen)), outcome("gpu_only", 1.0, (1.0,), ops=other))
    ops = summarise_validation(found)["ops"]
    assert list(ops) == ["fetch", "experts"]  # by time measured: 0.30 and 0.15
    assert ops["experts"]["mape"] == pytest.approx((0.2 + 0.2) / 2)
    assert ops["experts"]["bias"] == pytest.approx(0.0)
    assert (ops["fetch"]["n"], ops["fetch"]["mape"]) == (1, pytest.approx(1 / 6))
    assert ops["fetch"]["share"] == pytest.approx(0.30 / 0.45)
    row = row_of(rows(found), "mini/b1/lru", "fetch")
    assert (row["what"], row["unit"], row["predicted"], row["measured"]) == ("op", "s an op", 0.05, pytest.approx(0.06))


def test_an_op_that_one_side_lacks_has_no_error() -> None:
    ops = ({"experts": OpTime(1, 0.1), "wait": OpTime(0, 0.0)}, {"head": OpTime(1, 0.1)})
    scores = summarise_validation(validation(outcome("lru", 1.0, (1.0,), ops=ops)))["ops"]
    assert {kind: entry["n"] for kind, entry in scores.items()} == {"head": 0, "experts": 0, "wait": 0}
    assert all(entry["mape"] is None for entry in scores.values())


def test_counts_must_match_to_the_last_one() -> None:
    said = {"h2d_bytes": 100, "disk_bytes": 7, "lookups": 10, "hits": 4}
    for seen, bytes_exact, residency_exact in (
        (said, True, True),
        (said | {"h2d_bytes": 101}, False, True),
        (said | {"hits": 3}, True, False),
        ({name: n for name, n in said.items() if name != "disk_bytes"}, False, True),
        (said | {"evictions": 1}, True, False),
    ):
        summary = summarise_validation(validation(outcome("lru", 1.0, (1.0,), exact=(said, seen))))
        assert (summary["bytes_exact"], summary["residency_exact"]) == (bytes_exact, residency_exact)
        assert summary["valid"] == (bytes_exact and residency_exact)
        assert bool(summary["mismatches"]) != summary["valid"]
    assert summary["mismatches"] == [
        {"case": "mini/b1/lru", "what": "residency", "count": "evictions", "predicted": None, "measured": 1}
    ]
    assert summary["policies"]["lru"]["residency_exact"] is False


def test_counts_that_nobody_compared_are_not_called_exact() -> None:
    summary = summarise_validation(validation(outcome("lru", 1.0, (1.0,), exact=({"hits": 1}, {"hits": 1}))))
    assert (summary["bytes_exact"], summary["residency_exact"], summary["valid"]) == (None, True, False)


def test_policies_of_a_group_must_end_in_the_same_states() -> None:
    one = outcome("lru", 1.0, (1.0,), output="x")
    assert (
        summarise_validation(validation(one, outcome("pregate", 1.0, (1.0,), output="y", group="b")))["outputs_equal"]
        is True
    )
    summary = summarise_validation(validation(one, outcome("pregate", 1.0, (1.0,), output="y")))
    assert (summary["outputs_equal"], summary["valid"]) == (False, False)
    assert summary["differing_outputs"] == [{"group": "mini/b1", "digests": {"lru": "x", "pregate": "y"}}]


def test_achieved_over_bound_is_of_the_pregate_policies() -> None:
    summary = summarise_validation(
        validation(
            outcome("pregate", 1.0, (1.0,), bound_s=10.0),
            outcome("pregate(2)", 1.0, (1.0,), bound_s=8.8),
            outcome("lru", 1.0, (1.0,), bound_s=1.0),
            outcome("pregate(3)", 1.0, (1.0,), bound_s=0.0),
        )
    )
    bound = summary["achieved_over_bound"]
    assert (bound["n"], bound["median"]) == (2, pytest.approx((1.1 + 1.25) / 2))
    assert (bound["worst"], bound["worst_case"]) == (pytest.approx(1.25), "mini/b1/pregate(2)")
    assert summary["policies"]["lru"]["achieved_over_bound"]["median"] == pytest.approx(11.0)


def test_a_case_that_a_busy_machine_cost_is_in_no_score_and_makes_the_whole_not_valid() -> None:
    busy = outcome("lru", 9.0, None)
    found = validation(outcome("pregate", 1.1, (1.0,), disturbances=("noise",)), busy)
    summary = summarise_validation(found)
    assert (summary["n"], summary["n_invalid"], summary["valid"]) == (1, 1, False)
    assert (summary["n_runs"], summary["n_runs_thrown_away"]) == (1, 1)
    assert summary["thrown_away"] == ["mini/b1/lru"]
    assert summary["mape"] == pytest.approx(0.1)
    assert summary["bytes_exact"] is True
    assert summary["policies"]["lru"] | {"achieved_over_bound": None} == {
        "n": 0, "n_invalid": 1, "bytes_exact": None, "residency_exact": None, "valid": False,
        "achieved_over_bound": None,
    }  # fmt: skip
    row = row_of(rows(found), "mini/b1/lru", "tpot_s")
    assert (row["valid"], row["predicted"], row["measured"], row["error"], row["n_runs"]) == (False, 9.0, None, None, 0)
    assert row_of(rows(found), "mini/b1/lru", "stall_s")["predicted"] is None  # a share of what was not measured


def test_a_measurement_without_a_run_counts_as_too_busy() -> None:
    summary = summarise_validation(validation(outcome("lru", 1.0, (), disturbances=("a", "b"))))
    assert (summary["n"], summary["n_invalid"], summary["n_runs_thrown_away"]) == (0, 1, 2)


def test_one_case_has_no_order_and_nothing_has_no_score() -> None:
    one = summarise_validation(validation(outcome("lru", 1.0, (1.0,))))
    assert (one["kendall_tau"], one["regret"], one["kendall_tau_within"], one["valid"]) == (None, None, None, True)
    for none in (summarise_validation(validation()), summarise_validation(validation(outcome("lru", 1.0, None)))):
        assert none["valid"] is False
        assert (none["mape"], none["worst"], none["bytes_exact"], none["outputs_equal"]) == (None, None, None, None)


def test_a_time_of_nothing_has_no_relative_error() -> None:
    summary = summarise_validation(validation(outcome("lru", 0.0, (0.0,))))
    assert (summary["n"], summary["mape"], summary["metrics"]["tpot_s"]["overall"]["n"]) == (1, None, 0)


times = st.just(0.0) | st.floats(1e-9, 1e3)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["pregate", "gpu_only", "lru"]),
            st.sampled_from("ab"),
            times,
            st.none() | st.lists(times, max_size=3),
            st.booleans(),
        ),
        max_size=6,
        unique_by=lambda one: one[:2],
    )
)
def test_no_summary_holds_what_json_does_not_have(
    cases: list[tuple[str, str, float, list[float] | None, bool]],
) -> None:
    outcomes = [
        outcome(
            policy, predicted, None if runs is None else tuple(runs), group=group, naive={"roofline": predicted / 2},
            interval=(predicted, predicted) if ranged else None,
        )
        for policy, group, predicted, runs, ranged in cases
    ]  # fmt: skip
    found = validation(*outcomes)
    json.dumps(summarise_validation(found), allow_nan=False)
    json.dumps(rows(found), allow_nan=False)
    assert len(rows(found)) == len(outcomes) * (len(COMPARED_METRICS) + 1)
    assert len({tuple(row) for row in rows(found)}) <= 1  # the same keys in the same order


def test_figures_that_cannot_be_are_refused_when_they_are_made() -> None:
    good = outcome("lru", 1.0, (1.0,))
    assert good.measurement is not None
    for value in (math.nan, math.inf, -1.0):
        with pytest.raises(InvalidInput, match="tpot_s"):
            replace(good.prediction, metrics=metrics(1.0) | {"tpot_s": value})
        with pytest.raises(InvalidInput, match="tpot_s"):
            replace(good.measurement, runs=(metrics(1.0) | {"tpot_s": value},))
        with pytest.raises(InvalidInput, match="roofline"):
            replace(good.prediction, naive={"roofline": value})
    with pytest.raises(InvalidInput, match="lack ttft_s"):
        replace(good.prediction, metrics={name: 1.0 for name in COMPARED_METRICS if name != "ttft_s"})
    with pytest.raises(InvalidInput, match="interval from 2 to 1"):
        replace(good.prediction, intervals={"tpot_s": (2.0, 1.0)})
    with pytest.raises(InvalidInput, match="two cases named 'mini/b1/lru'"):
        validation(good, good)
