"""Pictures are drawn whole, and say what they show."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import matplotlib
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure

import pregate
from benchmarks.lowest import pins
from offload.metrics.run_metrics import stall_intervals
from pregate import draw
from pregate.draw import expert_heat, gantt, locality, residency_curves
from pregate.draw import timelines as plots
from pregate.draw.palette import PALETTE
from tests.drawn import (
    DRAWN,
    KEPT,
    PICTURES,
    along_the_link,
    arriving,
    crossing,
    drawn,
    swept,
    timed,
    traced,
)
from tests.pictures_apart import DPI, alike, difference, overlapping, picture_bytes, told_in
from traces.errors import InvalidFile, InvalidInput, UnknownName


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


@pytest.mark.parametrize("design", ["gpu_only@layers=cpu:2", "gpu_only@layers=cpu:2-", "gpu_only@layers=cpu"])
def test_a_step_that_the_host_begins_or_ends_is_shown_whole(design: str) -> None:
    model, hw = pregate.load_model("mixtral-mini-8"), pregate.load_hardware("rtx-4090", stack="llama-cpp")
    result = pregate.simulate(model, hw, pregate.synthesize(model, 4, 6), design)
    (axes,) = gantt(result).axes
    shown_ms = float(axes.get_title(loc="left").split(", ")[1].split(" ")[0])
    assert 0.85 * result.tpot_s < shown_ms / 1e3 < result.tpot_s  # but what the host does between passes


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


@pytest.mark.parametrize("name", sorted(DRAWN))
def test_no_text_touches_another(name: str) -> None:
    assert overlapping(drawn(name)) == []


def release(version: str) -> list[str]:
    """What sets the widths of glyphs: 3.11 of 3.11.2."""
    return version.split(".")[:2]


@pytest.mark.parametrize("name", KEPT)
def test_a_picture_is_as_it_was(name: str) -> None:
    kept = PICTURES / f"{name}.png"
    assert kept.is_file(), "look at the new picture, then keep it: python -m tests.drawn"
    new, old = picture_bytes(drawn(name)), kept.read_bytes()
    assert told_in(new).splitlines() == told_in(old).splitlines()
    if release(matplotlib.__version__) != release(pins()["matplotlib"]):
        pytest.skip(f"glyphs are those of matplotlib {pins()['matplotlib']}, this is {matplotlib.__version__}")
    assert alike(new, old), f"{name} changed by {difference(new, old)}: look at it, then python -m tests.drawn"


def test_every_kept_picture_is_drawn() -> None:
    assert {path.stem for path in PICTURES.glob("*.png")} == set(KEPT)


def a_line(colour: str = PALETTE[0], last: float = 2.0, title: str = "tokens/s", moved: float = 0.0) -> Figure:
    figure = Figure(figsize=(5, 3))
    axes = figure.add_axes((0.15 + moved, 0.2, 0.7, 0.65))
    axes.plot([0, 1, 2], [0, 1, last], color=colour, lw=2)
    axes.set_title(title)
    return figure


@pytest.mark.parametrize(
    "changed", [a_line(PALETTE[1]), a_line(last=1.5), a_line(title=""), a_line(title="time per output token (ms)")]
)
def test_a_changed_picture_is_told_apart(changed: Figure) -> None:
    assert not alike(picture_bytes(a_line()), picture_bytes(changed))


def test_a_shift_of_half_a_pixel_is_no_change() -> None:
    assert alike(picture_bytes(a_line()), picture_bytes(a_line(moved=0.5 / (5 * DPI))))


def test_texts_that_touch_or_leave_the_picture_are_found() -> None:
    figure = Figure(figsize=(4, 3))
    axes = figure.subplots()
    axes.text(0.5, 0.5, "one")
    axes.text(0.52, 0.52, "other")
    axes.text(0.9, 0.9, "a text that is much too long for this picture")
    found = overlapping(figure)
    assert ("one", "other") in found
    assert ("a text that is much too long for this picture", "the edge") in found
    assert len(found) == 2


def test_a_map_numbers_its_lines_where_there_is_room() -> None:
    figure = drawn("sweep-map")
    numbers = [text.get_text() for axes in figure.axes for text in axes.texts]
    assert len(numbers) >= 6
    assert all(float(number) > 0 for number in numbers)


def test_a_map_has_the_least_time_and_the_most_tokens() -> None:
    part = swept().sel(batch=1)
    for metric, best in (("tpot_s", "min"), ("tokens_per_s", "max")):
        shown = draw.sweep_map(part, metric).axes[1].collections[0].get_array()
        factor = 1e3 if metric == "tpot_s" else 1.0
        expected = getattr(part[metric].transpose("policy", "hbm_bytes", "link.h2d_bytes_per_s"), best)("policy")
        assert np.asarray(shown) == pytest.approx(expected.values * factor)


def test_lines_of_a_sweep_with_draws_stand_in_their_intervals() -> None:
    recipe = pregate.TraceRecipe(input_tokens=8, output_tokens=4)
    axes = {"link.h2d_bytes_per_s": [8e9, 16e9, 32e9]}
    asked = {"trace": recipe, "policies": ["on_demand", "pregate"], "axes": axes}
    for draws in (0, 20):
        found = pregate.sweep("switch-base-8", "rtx-4090", draws=draws, **asked)
        bands = [band for band in draw.sweep_lines(found).axes[0].collections if isinstance(band, PolyCollection)]
        assert len(bands) == (2 if draws else 0)
        for band, policy in zip(bands, asked["policies"], strict=False):
            heights = band.get_paths()[0].vertices[:, 1]
            ends = found.tokens_per_s_ci95.sel(policy=policy).values
            assert (heights.min(), heights.max()) == pytest.approx((ends.min(), ends.max()))


def test_a_sweep_that_is_no_map_is_one_clear_line() -> None:
    with pytest.raises(InvalidInput, match="two numeric axes and one more at most"):
        draw.sweep_map(along_the_link())
    with pytest.raises(InvalidInput, match="one numeric axis, this sweep has"):
        draw.sweep_lines(swept())
    with pytest.raises(UnknownName, match=r"did you mean .*'tpot_s'"):
        draw.sweep_map(swept(), "tpo_s")


def test_a_streamed_simulation_has_no_timeline_to_draw() -> None:
    model = pregate.load_model("switch-base-8")
    hw, trace = pregate.load_hardware("a100-sxm4-80gb"), pregate.synthesize(model, 8, 4)
    with pytest.raises(InvalidInput, match="timeline=True"):
        draw.gantt(pregate.simulate(model, hw, trace, timeline=False))


def test_a_comparison_of_nothing_that_fits_is_not_drawn() -> None:
    model = pregate.load_model("switch-base-64")
    hw = pregate.load_hardware("a100-sxm4-80gb", overrides={"hbm_bytes": 1e9})
    with pytest.raises(InvalidInput, match="nothing to draw: Nothing fits"):
        draw.bars(pregate.compare(model, hw, pregate.synthesize(model, 4, 3), ["gpu_only"]))


def test_every_picture_of_the_room_is_exported_and_drawn() -> None:
    pictures = set(draw.__all__) - {"save_figure"}
    assert all(callable(getattr(draw, name)) and getattr(draw, name).__doc__ for name in pictures)
    source = (PICTURES.parent / "drawn.py").read_text()
    assert [name for name in sorted(pictures) if f"draw.{name}(" not in source] == []


def test_a_figure_that_ends_a_cell_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: dict[tuple[str, str], Callable[[Figure], bytes]] = {}

    def for_type_by_name(module: str, name: str, show: Callable[[Figure], bytes]) -> None:
        shown[module, name] = show

    formatter = SimpleNamespace(for_type_by_name=for_type_by_name)
    shell = SimpleNamespace(display_formatter=SimpleNamespace(formatters={"image/png": formatter}))
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    figure = draw.residency_curves(pregate.residency(traced(), ["lru"], [50], expert_bytes=1 << 24))
    assert shown[type(figure).__module__, type(figure).__name__](figure).startswith(b"\x89PNG")


def test_a_bar_thinner_than_its_edges_is_still_seen() -> None:
    """A step drawn a sixtieth as wide as the picture: its ops are narrower than a line."""
    result = timed("gpu_only", "switch-base-8", "a100-sxm4-80gb", {})
    figure = draw.gantt(result, span_s=60 * result.tpot_s)
    FigureCanvasAgg(figure).draw()
    pixels = np.asarray(figure.canvas.buffer_rgba())[..., :3]
    axes = figure.axes[0]
    row = [label.get_text() for label in axes.get_yticklabels()].index("compute")
    (left, y), (right, _) = (axes.transData.transform((at, row)) for at in (0, 1e3 * result.tpot_s))
    seen = pixels[round(pixels.shape[0] - y), round(left) + 1 : round(right) - 1]
    assert len(seen) > 8
    assert seen.min(axis=1).mean() < 200, "the lane is busy, and looks empty"


def test_latency_is_drawn_up_to_the_rate_from_which_a_queue_grows() -> None:
    report = arriving()
    first, tpot = draw.latency_by_rate(report).axes
    marked = {line.get_label(): len(line.get_xdata()) for line in first.get_lines() if line.get_marker() != "None"}
    assert marked == {"pregate": 3, "on_demand+lru": 2}
    across = [line.get_ydata()[0] for line in first.get_lines() if line.get_linestyle() == "--"]
    assert across.count(report.promise.ttft_s) == 1
    ends = sorted(line.get_xdata()[0] for line in tpot.get_lines() if line.get_linestyle() == ":")
    assert ends == [0.3, 0.9]
    arrows = [text for text in first.texts if text.arrow_patch is not None]
    assert len(arrows) == sum(not row.grows and row.ttft_s[99].high == np.inf for row in report.rows) > 0
    growing = dataclasses.replace(report, rows=tuple(row for row in report.rows if row.grows))
    with pytest.raises(InvalidInput, match="every queue grows"):
        draw.latency_by_rate(growing)


def test_nothing_and_several_axes_are_one_clear_line() -> None:
    with pytest.raises(InvalidInput, match="these are along none"):
        draw.winners()
    one = crossing()[0]
    with pytest.raises(InvalidInput, match=r"along link.h2d_bytes_per_s, batch"):
        draw.winners(one, dataclasses.replace(one, axis="batch"))
    with pytest.raises(InvalidInput, match="no rows to draw"):
        draw.residency_curves([])
