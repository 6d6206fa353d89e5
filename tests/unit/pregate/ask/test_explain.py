"""An explanation holds the prediction it explains, and what it says of a number is what another machine shows."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest

import pregate
from hwmodels.figures import MEMORY_FIGURES
from hwmodels.quantity import ReadOnly
from pregate.ask.explanation import Explanation, explain
from pregate.draw.tornado_plot import tornado
from simulator.explain.explained_metrics import METRICS
from tests.command_line import Run
from traces.errors import InvalidFile, InvalidInput, UnknownName

SMALL = ["switch-base-8", "--hardware", "a100-sxm4-80gb", "--input-tokens", "8", "--output-tokens", "4"]


@pytest.fixture(scope="module")
def trace() -> pregate.RoutingTrace:
    return pregate.synthesize(pregate.load_model("switch-base-8"), 16, 6)


def explained(trace: pregate.RoutingTrace, metric: str = "makespan_s", **overrides: float | str) -> Explanation:
    hw = pregate.load_hardware("a100-sxm4-80gb", overrides={k.replace("__", "."): v for k, v in overrides.items()})
    return explain(pregate.load_model("switch-base-8"), hw, trace, "pregate", metric=metric)


@pytest.mark.parametrize("metric", METRICS)
def test_what_is_explained_is_what_simulate_predicts(trace: pregate.RoutingTrace, metric: str) -> None:
    model, hw = pregate.load_model("switch-base-8"), pregate.load_hardware("a100-sxm4-80gb")
    result, found = pregate.simulate(model, hw, trace, "pregate"), explained(trace, metric)
    assert found.value == getattr(result, metric)
    assert (found.result.schedule_digest, found.result.calibration) == (result.schedule_digest, "fitted")
    assert sum(found.seconds.values()) == pytest.approx(result.makespan_s, rel=1e-12)
    assert sum(found.shares.values()) == pytest.approx(1.0, abs=1e-12)


def test_every_number_of_the_machine_but_sizes_of_memories_has_an_elasticity_and_a_swing(
    trace: pregate.RoutingTrace,
) -> None:
    found = explained(trace)
    assert set(found.elasticities) == set(found.swings)
    assert not set(MEMORY_FIGURES) & set(found.elasticities)
    assert {"link.h2d_bytes_per_s", "accelerator.n_sm", "stack.sync_s", "storage.read_bytes_per_s"} <= set(found.swings)
    assert found.elasticities["storage.read_bytes_per_s"] == 0.0
    assert found.elasticities["link.h2d_bytes_per_s"] < -0.1


@pytest.mark.parametrize("key", ["link.h2d_bytes_per_s", "stack.kernel_s", "accelerator.n_sm", "stack.gemm_efficiency"])
def test_a_swing_is_what_simulate_predicts_on_the_moved_machine(trace: pregate.RoutingTrace, key: str) -> None:
    swing = explained(trace, "tokens_per_s").swings[key]
    for value, metric in ((swing.low_value, swing.low), (swing.high_value, swing.high)):
        moved = explained(trace, "tokens_per_s", **{key.replace(".", "__"): value})
        assert moved.value == pytest.approx(metric, rel=1e-12)
    assert swing.span == abs(swing.high - swing.low) > 0


def test_an_efficiency_stops_at_one_and_a_count_stays_whole(trace: pregate.RoutingTrace) -> None:
    found = explained(trace)
    efficiency, count = found.swings["stack.gemm_efficiency"], found.swings["accelerator.n_sm"]
    assert (efficiency.low_value, efficiency.high_value) == (pytest.approx(0.9 * efficiency.value), 1.0)
    assert (count.value, count.low_value, count.high_value) == (108, 97, 119)


def test_a_slower_link_makes_fetches_the_verdict(trace: pregate.RoutingTrace) -> None:
    slow = explained(trace, "tokens_per_s", link__h2d_bytes_per_s="1GB/s")
    assert max(slow.shares, key=lambda name: slow.shares[name]) == "h2d"
    verdict = slow.verdict()
    assert verdict.startswith("pregate spends its time: ")
    assert "on exposed fetches over the link" in verdict
    assert "1% more link.h2d_bytes_per_s adds 0.9" in verdict
    fast = explained(trace, link__h2d_bytes_per_s="64TB/s", link__copy_latency_s=0)
    assert fast.shares["h2d"] < 0.01
    assert "1% more accelerator.peak_flop_per_s.fp32 takes 0." in fast.verdict()
    assert "1% less stack.kernel_s takes 0." in fast.verdict()


def test_rows_are_ordered_by_size_and_a_document_is_plain_json(trace: pregate.RoutingTrace) -> None:
    found = explained(trace)
    sizes = [abs(row["elasticity"]) for row in found.rows()]
    assert sizes == sorted(sizes, reverse=True)
    document = json.loads(json.dumps(found.to_dict()))
    assert document["numbers"] == found.rows()
    assert (document["policy"], document["metric"], document["verdict"]) == ("pregate", "makespan_s", found.verdict())
    frame = found.to_dataframe().set_index("number")
    assert frame.loc["stack.kernel_s", "makespan_s_at_high"] == found.swings["stack.kernel_s"].high


def test_what_cannot_be_explained_is_one_clear_line(trace: pregate.RoutingTrace) -> None:
    with pytest.raises(UnknownName, match="did you mean 'ttft_s'"):
        explained(trace, "ttf_s")
    model = pregate.load_model("switch-base-8")
    one_gap_less = pregate.synthesize(model, 4, 2)
    keep = one_gap_less.step < 2
    single = pregate.RoutingTrace(
        experts=one_gap_less.experts[keep],
        sequence=one_gap_less.sequence[keep],
        position=one_gap_less.position[keep],
        phase=one_gap_less.phase[keep],
        step=one_gap_less.step[keep],
        n_experts=one_gap_less.n_experts,
        provenance=one_gap_less.provenance,
    )
    with pytest.raises(InvalidInput, match="tpot_s of this trace is 0"):
        explain(model, pregate.load_hardware("a100-sxm4-80gb"), single, "pregate", metric="tpot_s")


def test_a_tornado_has_the_widest_bar_on_top_and_says_what_it_shows(
    trace: pregate.RoutingTrace, tmp_path: Path
) -> None:
    found, path = explained(trace), tmp_path / "out.svg"
    axes = tornado(found, path, n_bars=5).axes[0]
    labels = [label.get_text() for label in axes.get_yticklabels()]
    spans = [found.swings[key].span for key in labels]
    assert spans == sorted(spans, reverse=True)
    assert spans[0] == max(swing.span for swing in found.swings.values())
    assert len(labels) == 5
    swing = found.swings[labels[0]]
    on_top = [bar.get_width() for bar in axes.patches if round(bar.get_y() + bar.get_height() / 2) == 0]
    assert on_top == pytest.approx([100 * (metric / found.value - 1) for metric in (swing.low, swing.high)])
    assert axes.get_xlabel() == "change of whole run (%)"
    assert b"<svg" in path.read_bytes()
    with pytest.raises(InvalidInput, match="n_bars = 0"):
        tornado(found, n_bars=0)
    with pytest.raises(InvalidFile, match="cannot be written"):
        tornado(found, tmp_path / "no" / "out.svg")


def test_a_number_without_any_effect_has_no_bar(trace: pregate.RoutingTrace) -> None:
    found = explained(trace)
    still = {key: found.swings[key] for key in ("storage.read_bytes_per_s", "stack.kernel_s")}
    only = Explanation(found.result, found.metric, found.seconds, found.elasticities, ReadOnly(still))
    assert [label.get_text() for label in tornado(only).axes[0].get_yticklabels()] == ["stack.kernel_s"]


def test_no_bar_of_a_tornado_is_too_narrow_to_be_seen(trace: pregate.RoutingTrace) -> None:
    for found in (explained(trace), explained(trace, "tpot_s")):
        spans = {key: swing.span for key, swing in found.swings.items()}
        assert min(spans.values()) < max(spans.values()) / 200
        labels = [label.get_text() for label in tornado(found, n_bars=1000).axes[0].get_yticklabels()]
        assert set(labels) == {key for key, span in spans.items() if span > max(spans.values()) / 200}


def test_the_command_prints_shares_numbers_and_the_verdict(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "out.png"
    status, out, err = run("explain", *SMALL, "--metric", "tokens_per_s", "--tornado", str(path))
    assert status == 0, err
    for word in ("Critical path of pregate", "h2d", "link.h2d_bytes_per_s", "spends its time", "fitted on a100"):
        assert word in out
    assert "storage.read_bytes_per_s" not in out
    assert path.read_bytes().startswith(b"\x89PNG")


def test_the_command_prints_json_and_csv_that_agree(run: Run) -> None:
    document = json.loads(run("explain", *SMALL, "--policy", "on_demand", "--format", "json")[1])
    rows = list(csv.DictReader(io.StringIO(run("explain", *SMALL, "--policy", "on_demand", "--format", "csv")[1])))
    assert document["policy"] == "on_demand"
    assert [row["number"] for row in rows] == [row["number"] for row in document["numbers"]]
    assert float(rows[0]["elasticity"]) == document["numbers"][0]["elasticity"]


def test_a_mistake_is_one_line_and_status_2(run: Run) -> None:
    status, out, err = run("explain", *SMALL, "--metric", "latency")
    assert (status, out) == (2, "")
    assert "unknown metric 'latency'" in err
