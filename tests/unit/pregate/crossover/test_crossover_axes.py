"""Crossovers along every axis of numbers: what a sweep of all its values says, bit for bit, and names are refused."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pregate
from hwmodels.figures import figure_keys
from pregate.ask.capturing.capture import capture_request
from pregate.cli import main as cli
from pregate.crossover import axis_winners as winners
from pregate.crossover.axis_scale import read_scale
from pregate.crossover.axis_winners import AxisWinners
from pregate.crossover.axis_words import axis_label, axis_value
from pregate.crossover.crossover import Crossovers, crossovers
from pregate.sweeps.axes import NAMES, axis_unit, find_axis
from pregate.sweeps.planning import read_subject
from pregate.sweeps.workloads import TraceRecipe
from simulator.explain.explained_metrics import METRICS
from traces.errors import InvalidInput, UnknownName
from traces.storage import save_trace

MODEL = pregate.load_model("switch-base-8")
N_SLOTS = 6 * 8
"""Experts of its decoder: a cache ratio of 1."""
OFFLOADED = ["on_demand", "prefetch_all", "pregate", "pregate(2)"]
SMALL = {"hbm_bytes": 2.2e9}
FAST_LINK = {"link.h2d_bytes_per_s": 1e12}


def swept(policies: list[str], axis: str, values: Any, recipe: Any, overrides: Mapping[str, float] | None) -> Any:
    hw = pregate.load_hardware("h100-sxm", overrides=overrides)
    return pregate.sweep(MODEL, hw, recipe, policies=policies, axes={axis: values}, cache_dir=False)


def search(
    policies: list[str], axis: str, low: float | str, high: float | str, recipe: Any = None,
    overrides: Mapping[str, float] | None = None, **options: Any,
) -> Crossovers:  # fmt: skip
    hw = pregate.load_hardware("h100-sxm", overrides=overrides)
    return crossovers(MODEL, hw, recipe or TraceRecipe(4, 6), policies, axis, low, high, **options)


def best(dataset: Any, i: int) -> tuple[str | None, float]:
    """Who has the most tokens a second at value `i`; the first of those that differ by rounding only."""
    rates = dataset.tokens_per_s.values[:, i]
    if np.isnan(rates).all():
        return None, math.nan
    first = int(np.flatnonzero(rates >= np.nanmax(rates) * (1 - 1e-12))[0])
    return str(dataset.policy.values[first]), float(rates[first])


@pytest.mark.filterwarnings("ignore:.* points have no figures")
@pytest.mark.parametrize(
    ("policies", "axis", "low", "high", "recipe", "overrides", "n_changes"),
    [
        (["gpu_only", "pregate", "lru"], "batch", 1, 24, TraceRecipe(4, 6), SMALL, 2),
        (["on_demand", "pregate"], "batch", 1, 6, pregate.synthesize(MODEL, 4, 6, 6), None, 0),
        (OFFLOADED, "top_k", 1, 8, TraceRecipe(4, 6, 2), None, 1),
        (OFFLOADED, "n_active", 1, 8, TraceRecipe(4, 6, 6), FAST_LINK, 2),
        (["pregate", "pregate(2)", "prefetch_all"], "lookahead", 1, 11, TraceRecipe(4, 6, 8), FAST_LINK, 1),
        ([*OFFLOADED, "lru"], "output_tokens", 2, 40, TraceRecipe(4, 6), None, 1),
        (["gpu_only", "pregate"], "input_tokens", 1, 40, TraceRecipe(4, 2), {"hbm_bytes": 3.1095e9}, 1),
    ],
)  # fmt: skip
def test_a_count_changes_hands_where_a_sweep_of_every_value_says(
    policies: list[str], axis: str, low: int, high: int, recipe: Any, overrides: Mapping[str, float] | None,
    n_changes: int,
) -> None:  # fmt: skip
    dataset = swept(policies, axis, range(low, high + 1), recipe, overrides)
    told = [best(dataset, i) for i in range(high - low + 1)]
    expected = [
        (low + i, below, above) for i, (below, above) in enumerate(pairwise(told), start=1) if below[0] != above[0]
    ]
    assert len(expected) == n_changes
    for n_scan in (5, 33) if axis == "batch" else (5,):
        found = search(policies, axis, low, high, recipe, overrides, n_scan=n_scan)
        assert found.first == told[0][0]
        assert [(row.value, row.below, row.above) for row in found] == [(x, a[0], b[0]) for x, a, b in expected]
        for row, (_, below, above) in zip(found, expected, strict=True):
            assert (row.low, row.high) == (row.value - 1, row.value)
            np.testing.assert_array_equal([row.below_metric, row.above_metric], [below[1], above[1]])
        ends = [*(row.low for row in found), high]
        for row, end in zip(found, ends[1:], strict=True):
            where = f"at {end:g}" if row.high == end else f"from {row.high:g} to {end:g}"
            assert f"{row.low:g}, {row.above or 'nothing that fits'} {where}" in found.verdict()


def test_a_cache_ratio_changes_hands_where_the_slots_do() -> None:
    """A ratio grants the nearest whole number of slots: a sweep of each, and the ratios halfway between two."""
    few = TraceRecipe(4, 4)
    dataset = swept(OFFLOADED, "cache_ratio", np.arange(N_SLOTS + 1) / N_SLOTS, few, SMALL)
    told = [best(dataset, i) for i in range(N_SLOTS + 1)]
    expected = [i for i in range(N_SLOTS) if told[i][0] != told[i + 1][0]]
    found = search(OFFLOADED, "cache_ratio", 0, 1, few, overrides=SMALL)
    assert len(expected) >= 3
    assert [(row.below, row.above) for row in found] == [(told[i][0], told[i + 1][0]) for i in expected]
    for row, i in zip(found, expected, strict=True):
        edge = (i + 0.5) / N_SLOTS if i else 0.0  # no ratio above 0 grants less than a slot
        assert row.low <= edge <= row.high <= max(row.low * 1.001, row.low + 1e-6)
        assert row.low < row.value < row.high
        np.testing.assert_array_equal([row.below_metric, row.above_metric], [told[i][1], told[i + 1][1]])


def test_ratios_of_as_many_slots_share_a_schedule(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[tuple[str, int]] = []

    def counted(request: Any, **options: Any) -> Any:
        written.append((request.policy.name, request.plan.n_cache_slots))
        return capture_request(request, **options)

    monkeypatch.setattr(winners, "capture_request", counted)
    search(["gpu_only", "pregate", "on_demand"], "cache_ratio", 0, 1, n_scan=100)
    assert len(written) == len(set(written)) == 1 + 2 * (N_SLOTS + 1)
    written.clear()
    search(["gpu_only", "pregate", "on_demand"], "link.h2d_bytes_per_s", "1GB/s", "1TB/s")
    assert len(written) == 3


@pytest.mark.parametrize(("limit", "wanted"), [(10**9, {None}), (0, {True})])
def test_many_small_schedules_are_written_as_a_large_one_is(
    monkeypatch: pytest.MonkeyPatch, limit: int, wanted: set[bool | None]
) -> None:
    """By compiled code when a scan writes many ops in all; who wins where stays as it is."""
    told, expected = [], search(["gpu_only", "pregate", "lru"], "batch", 1, 8, overrides=SMALL)

    def recorded(request: Any, *, compiled: bool | None = None) -> Any:
        told.append(compiled)
        return capture_request(request, compiled=compiled)

    monkeypatch.setattr(winners, "capture_request", recorded)
    monkeypatch.setattr(winners, "is_large", lambda n_ops: n_ops > limit)
    assert search(["gpu_only", "pregate", "lru"], "batch", 1, 8, overrides=SMALL) == expected
    assert set(told) == wanted


AXES = [
    ("link.h2d_bytes_per_s", 1e9, 1e12), ("stack.sync_s", "1us", "1ms"), ("accelerator.n_sm", 7, 200),
    ("stack.gemm_efficiency", 0.1, 1), ("accelerator.l2_bytes", 1e5, 1e8), ("hbm_bytes", 1e9, "80GB"),
    ("host.dram_bytes", 1e8, 1e12), ("stack.reserve_bytes", 1e8, 1e11), ("batch", 1, 9), ("input_tokens", 1, 50),
    ("output_tokens", 2, 30), ("n_active", 1, 3), ("top_k", 1, 4), ("lookahead", 1, 6), ("cache_ratio", 0, 1),
]  # fmt: skip


ALIKE = {"stack.gemm_efficiency", "accelerator.l2_bytes"}
"""Figures of a machine like others above."""


@pytest.mark.parametrize(
    ("axis", "low", "high"),
    [pytest.param(*one, marks=[pytest.mark.thorough] if one[0] in ALIKE else []) for one in AXES],
)
def test_every_policy_has_at_every_value_what_a_sweep_says_bit_for_bit(axis: str, low: Any, high: Any) -> None:
    policies, recipe = ["gpu_only", "pregate", "on_demand", "pregate(3)", "on_demand+lfu:9"], TraceRecipe(4, 5, 3)
    scale = read_scale(axis, low, high)
    values = scale.spaced(7)
    values = np.unique([*values, scale.middle(values[-2], values[-1])])
    dataset = swept(policies, axis, values, recipe, None)
    subject = read_subject(MODEL, "h100-sxm", recipe, policies, {scale.axis.key: scale.axis})
    for metric in METRICS if axis in ("link.h2d_bytes_per_s", "batch") else ("tokens_per_s",):
        scores = AxisWinners(subject, scale.axis, metric)._scores(values)
        assert list(scores) == policies
        np.testing.assert_array_equal(np.stack(list(scores.values())), dataset[metric].values)
    assert np.isfinite(dataset.makespan_s.values).any()


def test_every_axis_of_numbers_is_there_and_every_axis_of_names_is_refused() -> None:
    for name in NAMES:
        with pytest.raises(InvalidInput, match=f"axis {name} takes names.*pregate sweep.*pregate compare") as caught:
            search(["pregate"], name, "fp16", "int8")
        assert "\n" not in str(caught.value)
    assert {find_axis(axis) for axis, _, _ in AXES if "." not in find_axis(axis)} == {
        "batch", "input_tokens", "output_tokens", "n_active", "top_k", "lookahead", "cache_ratio",
    }  # fmt: skip


def test_a_lookahead_and_a_cache_move_only_the_designs_they_are_of() -> None:
    """A distance or a cache that a design names stays, and gpu_only takes neither."""
    hw = pregate.load_hardware("h100-sxm", overrides=FAST_LINK)
    policies = ["pregate", "pregate(2)", "gpu_only", "on_demand+lfu:9"]
    scores = {}
    for axis, low, high, values in (("lookahead", 1, 5, [1.0, 2.0, 4.0]), ("cache_ratio", 0, 1, [0.0, 0.5, 1.0])):
        scale = read_scale(axis, low, high)
        subject = read_subject(MODEL, hw, TraceRecipe(4, 6, 2), policies, {axis: scale.axis})
        scores[axis] = AxisWinners(subject, scale.axis, "makespan_s")._scores(np.array(values))
    moved = {axis: [name for name, score in found.items() if len(set(score)) > 1] for axis, found in scores.items()}
    assert moved == {"lookahead": ["pregate"], "cache_ratio": ["pregate", "pregate(2)"]}
    assert scores["lookahead"]["pregate"][1] == scores["lookahead"]["pregate(2)"][0]


def test_where_nothing_can_be_the_reason_is_told() -> None:
    found = search(["on_demand", "pregate"], "n_active", 1, 8, TraceRecipe(4, 6, 6))
    (row,) = found
    assert (row.value, row.below, row.above) == (7, "pregate", None)
    assert "n_active = 7" in found.refusal
    assert found.to_dict()["refusal"] == found.refusal
    assert search(["on_demand"], "n_active", 1, 6, TraceRecipe(4, 6, 6)).refusal == ""
    with pytest.raises(InvalidInput, match="top_k = 9: switch-base-8 has 8 experts"):
        search(["pregate"], "top_k", 1, 9)
    with pytest.raises(InvalidInput, match="n_active = 7"):
        search(["on_demand", "pregate"], "n_active", 7, 8, TraceRecipe(4, 6, 6))


def test_memory_too_small_everywhere_is_an_answer() -> None:
    found = search(["gpu_only"], "batch", 1, 4, overrides={"hbm_bytes": 1e9})
    assert (len(found), found.first, found.refusal) == (0, None, "")


def test_an_axis_of_the_workload_leaves_the_machine_as_it_was_fitted() -> None:
    hw = pregate.load_hardware("a100-sxm4-80gb")
    told = [
        crossovers(MODEL, hw, TraceRecipe(4, 3), ["pregate"], axis, low, high).calibration
        for axis, low, high in (("batch", 1, 2), ("link.h2d_bytes_per_s", 1e9, 2e9))
    ]
    assert told[0].startswith("fitted on")
    assert told[1].startswith("extrapolated")


def test_names_and_files_do_for_objects(tmp_path: Path) -> None:
    save_trace(pregate.synthesize(MODEL, 4, 6, 4), tmp_path / "t.safetensors")
    found = crossovers("switch-base-8", "h100-sxm", tmp_path / "t.safetensors", ["pregate"], "batch", 1, 4)
    assert found.first == "pregate"


@pytest.mark.parametrize(
    ("axis", "low", "high", "options", "message"),
    [
        ("batche", 1, 4, {}, "did you mean 'batch'"),
        ("look", 1, 4, {}, "did you mean 'lookahead'"),
        ("batch", 1.5, 4, {}, "1.5 is not a whole number"),
        ("accelerator.n_sm", 10, 20.5, {}, "20.5 is not a whole number"),
        ("batch", 0, 4, {}, "0 is below 1"),
        ("cache_ratio", 0.5, 1.5, {}, "outside 0"),
        ("cache_ratio", 0.5, 0.5, {}, "must rise"),
        ("cache_ratio", 0.1, 1, {"cache": pregate.Cache("lru", ratio=0.1)}, "name its eviction only"),
        ("output_tokens", 1, 9, {"recipe": pregate.synthesize(MODEL, 4, 6)}, "needs a synthetic trace"),
        ("lookahead", 1, 4, {"policies": ["on_demand"]}, "moves the policy pregate"),
        ("batch", "1GB", 4, {}, "unit of size"),
    ],
)
def test_mistakes_are_answered_in_one_line(axis: str, low: Any, high: Any, options: Any, message: str) -> None:
    with pytest.raises((InvalidInput, UnknownName), match=message) as caught:
        search(options.pop("policies", ["pregate"]), axis, low, high, options.pop("recipe", None), **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("axis", "value", "told"),
    [
        ("link.h2d_bytes_per_s", 7.674e9, "7.674 GB/s"),
        ("link.h2d_bytes_per_s", 999.96e6, "1 GB/s"),
        ("link.h2d_bytes_per_s", 0.5, "0.5 B/s"),
        ("hbm_bytes", 31.7e9, "31.7 GB"),
        ("link.copy_latency_s", 2e-5, "20 us"),
        ("link.copy_latency_s", 0.0, "0 s"),
        ("accelerator.peak_flop_per_s.fp32", 19.5e12, "19.5 TFLOP/s"),
        ("accelerator.clock_hz", 1.41e9, "1.41 GHz"),
        ("accelerator.price_usd", 1500.0, "1500 USD"),
        ("accelerator.n_sm", 108.0, "108"),
        ("output_tokens", 12345.0, "12345"),
        ("cache_ratio", 0.03125, "0.03125"),
    ],
)
def test_a_value_is_shown_in_the_unit_of_its_axis(axis: str, value: float, told: str) -> None:
    assert axis_value(axis, value) == told


def test_every_number_of_a_machine_has_a_unit_in_words_and_pictures() -> None:
    for axis in figure_keys():
        unit = axis_unit(axis)
        assert axis_value(axis, 2.5).endswith({"1": "2.5", "count": "2.5"}.get(unit, unit)), unit
        assert ("(" in axis_label(axis)) is (unit not in ("1", "count")), axis


@pytest.mark.parametrize(
    ("words", "status", "told"),
    [
        (["--axis", "output_tokens", "--from", "2", "--to", "12", "--policies", "lru,pregate"], 0, "lru from"),
        (["--axis", "batch", "--from", "1", "--to", "4", "--format", "json"], 0, '"axis": "batch"'),
        (["--axis", "cache_ratio", "--from", "0", "--to", "1"], 0, "cache_ratio"),
        (["--axis", "lookahead", "--from", "1", "--to", "4"], 0, "along blocks ahead (lookahead)"),
        (["--axis", "n_active", "--from", "1", "--to", "3", "--batch", "2"], 0, "Not every point can be: n_active = 3"),
        (["--axis", "batch", "--from", "1", "--to", "4", "--trace", "t.safetensors"], 0, "pregate from 1 to 4"),
        (["--axis", "batch", "--from", "1.5", "--to", "4"], 2, "axis batch: 1.5 is not a whole number"),
        (["--axis", "lookahead", "--from", "1", "--to", "4", "--batch", "0"], 2, "batch"),
        (["--axis", "output_tokens", "--from", "2", "--to", "12", "--output-tokens", "256"], 2, "given a value too"),
        (["--axis", "expert_tier", "--from", "dram", "--to", "ssd"], 2, "axis expert_tier takes names"),
    ],
)
def test_the_command_takes_every_axis(
    words: list[str], status: int, told: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    save_trace(pregate.synthesize(MODEL, 4, 6, 4), tmp_path / "t.safetensors")
    sizes = [] if "--trace" in words else ["--input-tokens", "4"]
    sizes += [] if {"--trace", "output_tokens"} & set(words) else ["--output-tokens", "5"]
    sizes += [] if "--policies" in words else ["--policies", "on_demand,pregate"]
    monkeypatch.setattr("sys.argv", ["pregate", "crossover", "switch-base-8", "--hardware", "h100-sxm", *sizes, *words])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    out, err = capsys.readouterr()
    assert stop.value.code == status
    assert told in " ".join((err if status else out).split())
    if "json" in words:
        assert json.loads(out)["refusal"] == ""
