"""Pictures are drawn whole, and say what they show."""

from __future__ import annotations

from pathlib import Path

import pytest

import pregate
from offload.metrics import stall_intervals
from pregate.draw import timelines as plots
from pregate.draw.timelines import expert_heat, gantt, locality, residency_curves
from traces.errors import InvalidFile, InvalidInput


@pytest.fixture(scope="module")
def results() -> pregate.Comparison:
    model = pregate.load_model("switch-base-8")
    trace = pregate.synthesize(model, 8, 12)
    return pregate.compare(model, pregate.load_hardware("a100-sxm4-80gb"), trace, ["on_demand", "pregate"])


def test_a_gantt_chart_has_a_panel_a_timeline_on_one_time_scale(results: pregate.Comparison, tmp_path: Path) -> None:
    path = tmp_path / "out.png"
    figure = gantt({result.policy: result.timeline for result in results}, path)
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert [title.split(":")[0] for title in titles] == ["on_demand", "pregate"]
    assert figure.axes[0].get_xlim() == figure.axes[1].get_xlim()
    assert {label.get_text() for label in figure.axes[0].get_yticklabels()} >= {"host", "compute", "copies to GPU"}
    labels = {text.get_text() for text in figure.legends[0].get_texts()}
    assert {"expert FFN", "fetch", "waiting for experts"} <= labels
    assert path.read_bytes().startswith(b"\x89PNG")
    assert [p.name for p in tmp_path.iterdir()] == ["out.png"]


def test_hatched_on_the_compute_lane_is_what_the_metric_calls_a_stall(results: pregate.Comparison) -> None:
    stalled = [result for result in results if result.stall_s > 0]
    assert len(stalled) == 2
    for result in stalled:
        begin_s, end_s = stall_intervals(result.timeline)
        assert (end_s - begin_s).sum() == pytest.approx(result.stall_s)
        figure = gantt({result.policy: result.timeline}, step=1, span_s=result.makespan_s)
        hatched = [bars for bars in figure.axes[0].collections if bars.get_hatch()]
        in_view = end_s > plots._window(result.timeline, 1)[0]
        assert sum(len(bars.get_paths()) for bars in hatched) == in_view.sum()


def test_what_cannot_be_drawn_is_one_clear_line(results: pregate.Comparison, tmp_path: Path) -> None:
    timelines = {"pregate": results["pregate"].timeline}
    with pytest.raises(InvalidInput, match=r"png, .svg or .pdf"):
        gantt(timelines, tmp_path / "out.bmp")
    with pytest.raises(InvalidFile, match="cannot be written"):
        gantt(timelines, tmp_path / "no" / "out.svg")
    with pytest.raises(InvalidInput, match="step 99"):
        gantt(timelines, step=99)
    with pytest.raises(InvalidInput, match="no timelines"):
        gantt({})
    assert not list(tmp_path.iterdir())


def test_a_trace_is_drawn_with_its_axes_named() -> None:
    trace = pregate.synthesize(pregate.load_model("switch-base-8"), 8, 40)
    heat = expert_heat(trace).axes[0]
    assert (heat.get_xlabel(), heat.get_ylabel()) == ("expert, hottest first in each layer", "MoE layer")
    assert all(axes.get_xlabel() and axes.get_ylabel() for axes in locality(pregate.trace_statistics(trace)).axes)
    rows = pregate.residency(trace, ["lru", "belady"], [50, 100], expert_bytes=1 << 24)
    lines = residency_curves(rows).axes[0].get_lines()
    assert [line.get_label() for line in lines] == ["lru", "belady"]
