"""Where the winner changes: found to 0.1 %, two changes in one scan interval too, and what does not fit never wins."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import pregate
from pregate.cli import main as cli
from pregate.crossover.axis_scale import read_scale
from pregate.crossover.axis_winners import AxisWinners, Winner
from pregate.crossover.crossover import Crossover, Crossovers, _changes_between, crossovers
from pregate.draw import render
from pregate.sweeps.planning import read_subject
from traces.errors import InvalidInput

TOLERANCE = 1e-3
POLICIES = ["gpu_only", "on_demand", "pregate", "pregate(2)"]
OFFLOADED = POLICIES[1:]
LINK = "link.h2d_bytes_per_s"


@pytest.fixture(autouse=True)
def any_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """Axes of plain numbers, such as a link of 1 to 3 bytes a second: what is searched here is a function."""
    monkeypatch.setattr("hwmodels.specs.machine_fields.check_plausible", lambda *_: None)


@pytest.fixture(scope="module")
def model() -> pregate.ModelArchitecture:
    return pregate.load_model("switch-base-8")


@pytest.fixture(scope="module")
def trace(model: pregate.ModelArchitecture) -> pregate.RoutingTrace:
    return pregate.synthesize(model, 16, 6)


@pytest.fixture(scope="module")
def search(model: pregate.ModelArchitecture, trace: pregate.RoutingTrace) -> Callable[..., Crossovers]:
    def found(policies: list[str], axis: str, low: float, high: float, **options: Any) -> Crossovers:
        return crossovers(model, pregate.load_hardware("h100-sxm"), trace, policies, axis, low, high, **options)

    return found


def best_at(
    model: pregate.ModelArchitecture, trace: pregate.RoutingTrace, policies: list[str], axis: str, x: float
) -> str:
    hw = pregate.load_hardware("h100-sxm", overrides={axis: x})
    best = pregate.compare(model, hw, trace, policies, engine="recurrence").best
    assert best is not None
    return best.policy


def test_on_both_sides_of_a_crossover_compare_names_the_same_winners(
    model: pregate.ModelArchitecture, trace: pregate.RoutingTrace, search: Callable[..., Crossovers]
) -> None:
    found = search(OFFLOADED, LINK, 1e9, 1e14)
    assert len(found) >= 1
    assert found.first == best_at(model, trace, OFFLOADED, LINK, 1e9)
    for row in found:
        assert row.low < row.value < row.high <= row.low * (1 + TOLERANCE)
        assert row.below == best_at(model, trace, OFFLOADED, LINK, row.low)
        assert row.above == best_at(model, trace, OFFLOADED, LINK, row.high)
        assert row.below != row.above
        assert row.below_metric == pytest.approx(row.above_metric, rel=2 * TOLERANCE)  # they cross, neither jumps


def test_a_finer_scan_finds_the_same_change(search: Callable[..., Crossovers]) -> None:
    coarse, fine = (search(OFFLOADED, LINK, 1e9, 1e14, n_scan=n) for n in (9, 65))
    assert [(row.below, row.above) for row in coarse] == [(row.below, row.above) for row in fine]
    for one, other in zip(coarse, fine, strict=True):
        assert one.value == pytest.approx(other.value, rel=TOLERANCE)


def test_memory_decides_who_can_play(
    model: pregate.ModelArchitecture, trace: pregate.RoutingTrace, search: Callable[..., Crossovers]
) -> None:
    found = search(["gpu_only", "pregate"], "hbm_bytes", 1e9, 80e9)
    assert found.axis == "accelerator.hbm_bytes"
    assert [(row.below, row.above) for row in found] == [(None, "pregate"), ("pregate", "gpu_only")]
    assert math.isnan(found[0].below_metric)
    with pytest.raises(pregate.CapacityExceeded) as caught:
        pregate.simulate(model, pregate.load_hardware("h100-sxm", overrides={"hbm_bytes": 1e9}), trace, "gpu_only")
    assert found[1].low < caught.value.needed_bytes <= found[1].high * (1 + 1e-9)


def test_a_reserve_that_grows_ends_in_nothing_that_fits(search: Callable[..., Crossovers]) -> None:
    found = search(["gpu_only", "pregate"], "stack.reserve_bytes", 1e9, 100e9)
    assert [(row.below, row.above) for row in found] == [("gpu_only", "pregate"), ("pregate", None)]
    assert found.verdict().endswith("to 100 GB.")
    assert "nothing that fits from " in found.verdict()


def test_host_memory_too_small_leaves_what_needs_none(search: Callable[..., Crossovers]) -> None:
    found = search(["pregate"], "host.dram_bytes", 1e8, 1e12)
    assert [(row.below, row.above) for row in found] == [(None, "pregate")]


def test_a_policy_that_does_not_fit_never_wins_and_a_price_cannot_help(
    model: pregate.ModelArchitecture, trace: pregate.RoutingTrace
) -> None:
    hw = pregate.load_hardware("h100-sxm", overrides={"hbm_bytes": "2GB"})
    found = crossovers(model, hw, trace, ["gpu_only", "pregate"], LINK, 1e9, 1e12)
    assert (len(found), found.first) == (0, "pregate")
    assert found.verdict() == f"Best tokens_per_s along link bandwidth ({LINK}): pregate from 1 GB/s to 1 TB/s."
    tiny = pregate.load_hardware("h100-sxm", overrides={"hbm_bytes": "1GB"})
    assert crossovers(model, tiny, trace, ["gpu_only", "pregate"], LINK, 1e9, 1e12).first is None


def test_a_latency_is_better_when_smaller(search: Callable[..., Crossovers]) -> None:
    by_rate = search(OFFLOADED, LINK, 1e9, 1e14)
    by_time = search(OFFLOADED, LINK, 1e9, 1e14, metric="makespan_s")
    assert [row.to_dict() | {"below_metric": 0, "above_metric": 0} for row in by_rate] == [
        row.to_dict() | {"below_metric": 0, "above_metric": 0} for row in by_time
    ]


def test_two_policies_that_differ_by_rounding_are_one(
    model: pregate.ModelArchitecture, trace: pregate.RoutingTrace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first asked for wins; a real difference, however small, decides."""
    subject = read_subject(model, "h100-sxm", trace, ["on_demand", "pregate"], {})
    winners = AxisWinners(subject, read_scale(LINK, 1.0, 3.0).axis, "tokens_per_s")
    scores = {"on_demand": np.array([1.0, 1.0, 1.0]), "pregate": np.array([1.0 + 4e-16, 1.0 - 4e-16, 1.0 + 1e-9])}
    monkeypatch.setattr(winners, "_scores", lambda values: scores)
    winners.scan(np.array([1.0, 2.0, 3.0]))
    assert [winners.at(x).name for x in (1.0, 2.0, 3.0)] == ["on_demand", "on_demand", "pregate"]


def winners(edges: list[float], names: list[str | None]) -> tuple[Callable[[float], Winner], list[float]]:
    asked: list[float] = []

    def at(x: float) -> Winner:
        asked.append(x)
        return Winner(names[sum(x >= edge for edge in edges)], 1.0)

    return at, asked


def test_two_changes_between_two_points_of_the_scan_are_both_found() -> None:
    at, _ = winners([9.0, 11.0], ["a", "b", "a"])
    found = _changes_between(read_scale(LINK, 1.0, 100.0), 1.0, 100.0, at, look=True)
    assert [(row.below, row.above) for row in found] == [("a", "b"), ("b", "a")]
    for row, edge in zip(found, (9.0, 11.0), strict=True):
        assert row.low < edge <= row.high <= row.low * (1 + TOLERANCE)
    assert _changes_between(read_scale(LINK, 1.0, 100.0), 1.0, 100.0, at, look=False) == []


def test_a_third_winner_in_a_bracket_splits_it() -> None:
    at, _ = winners([5.0, 20.0, 20.001], ["a", "b", "c", "d"])
    found = _changes_between(read_scale(LINK, 1.0, 100.0), 1.0, 100.0, at, look=False)
    assert [(row.below, row.above) for row in found] == [("a", "b"), ("b", "d")]


def test_bisection_asks_for_as_many_points_as_it_must() -> None:
    at, asked = winners([7.0], ["a", "b"])
    _changes_between(read_scale(LINK, 1.0, 16.0), 1.0, 16.0, at, look=True)
    assert len(set(asked)) <= 2 + math.ceil(math.log2(math.log(16) / math.log(1 + TOLERANCE)))


def test_a_count_changes_at_a_whole_number() -> None:
    at, _ = winners([37.0], ["a", "b"])
    (row,) = _changes_between(read_scale("accelerator.n_sm", 10, 200), 10.0, 200.0, at, look=True)
    assert (row.low, row.high, row.value) == (36.0, 37.0, 37.0)


def test_an_axis_that_is_counted_is_searched_in_whole_numbers() -> None:
    scale = read_scale("accelerator.n_sm", 10, 200)
    assert scale.spaced(4).tolist() == [10, 27, 74, 200]
    assert [scale.middle(10.0, x) for x in (12.0, 11.0, 200.0)] == [11, 10, 45]


@pytest.mark.parametrize(
    ("policies", "axis", "low", "high", "options", "message"),
    [
        (["pregate"], "link.h2d", 1e9, 1e10, {}, "did you mean 'link.h2d_bytes_per_s'"),
        (["pregate"], LINK, 1e10, 1e9, {}, "the range must rise"),
        (["pregate"], LINK, 0, 1e9, {}, "must be above 0"),
        (["pregate"], "storage.read_latency_s", 0, 1e-3, {}, "start above 0, its steps are ratios"),
        (["pregate"], LINK, 1e9, math.inf, {}, "not finite"),
        (["pregate"], LINK, 1e9, 1e9, {}, "the range must rise"),
        (["pregate"], "stack.gemm_efficiency", 0.1, 2, {}, "above 1"),
        ([], LINK, 1e9, 1e10, {}, "at least one, such as pregate"),
        (["pregate", "pregate"], LINK, 1e9, 1e10, {}, "given twice"),
        (["pregated"], LINK, 1e9, 1e10, {}, "did you mean 'pregate'"),
        (["pregate"], LINK, 1e9, 1e10, {"metric": "tpots"}, "did you mean 'tpot_s'"),
        (["pregate"], LINK, 1e9, 1e10, {"n_scan": 1}, "n_scan = 1"),
    ],
)
def test_mistakes_are_answered_in_one_line(
    search: Callable[..., Crossovers],
    policies: list[str], axis: str, low: float, high: float, options: dict[str, Any], message: str,
) -> None:  # fmt: skip
    with pytest.raises(InvalidInput, match=message) as caught:
        search(policies, axis, low, high, **options)
    assert "\n" not in str(caught.value)


def test_a_trace_of_another_model_is_refused(trace: pregate.RoutingTrace) -> None:
    with pytest.raises(InvalidInput, match="n_experts = 8"):
        crossovers(
            pregate.load_model("switch-base-16"), pregate.load_hardware("h100-sxm"), trace, ["pregate"], LINK, 1e9, 1e10
        )


def test_rows_and_documents_say_the_same(search: Callable[..., Crossovers]) -> None:
    found = search(["gpu_only", "pregate"], "hbm_bytes", 1e9, 80e9)
    document = found.to_dict()
    assert [row["value"] for row in document["crossovers"]] == [row.value for row in found]
    assert document["verdict"] == found.verdict()
    assert found.to_dataframe()["above"].tolist() == ["pregate", "gpu_only"]
    assert "claimed" in found.calibration


COMMAND = ["pregate", "crossover", "switch-base-8", "--hardware", "h100-sxm", "--output-tokens", "4"]


def test_the_command_prints_a_table_json_and_csv(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    printed = {}
    for form in ("table", "json", "csv"):
        monkeypatch.setattr(
            "sys.argv", [*COMMAND, "--axis", "hbm_bytes", "--from", "1GB", "--to", "80GB", "--format", form]
        )
        with pytest.raises(SystemExit) as stop:
            cli.main()
        assert stop.value.code == 0
        printed[form] = capsys.readouterr().out
    for word in ("nothing fits", "pregate", "gpu_only", "Best tokens_per_s along", "claimed figures only"):
        assert word in printed["table"]
    document, rows = json.loads(printed["json"]), list(csv.DictReader(io.StringIO(printed["csv"])))
    assert [float(row["value"]) for row in rows] == [row["value"] for row in document["crossovers"]]
    assert document["crossovers"][0]["below_metric"] is None
    assert rows[0]["below_metric"] == ""


def test_a_table_of_no_crossovers_has_its_columns(capsys: pytest.CaptureFixture[str]) -> None:
    render.print_data("csv", {}, [], Crossover.__slots__)
    assert capsys.readouterr().out == "axis,value,low,high,below,above,below_metric,above_metric\n"


@pytest.mark.parametrize(
    ("axis", "low", "message"),
    [
        ("link.h2d", "1GB/s", "did you mean 'link.h2d_bytes_per_s'"),
        ("stack.sync_s", "1GB", "unit of size"),
        (LINK, "9e99", "must rise"),
    ],
)
def test_a_mistake_on_the_command_line_has_status_2(
    axis: str, low: str, message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", [*COMMAND, "--axis", axis, "--from", low, "--to", "1e12"])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
