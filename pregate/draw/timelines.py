"""Timelines lane by lane, one above the other. matplotlib is loaded on first use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from offload.lanes import computes, kind_of_lane
from offload.metrics.run_metrics import stall_intervals
from offload.ops import KINDS, Lane, OpKind
from offload.timeline import Timeline
from pregate.ask.comparison import Comparison
from pregate.ask.simulation import SimulationResult
from pregate.draw.style import bare, picture, save_figure
from traces.errors import InvalidInput

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


COLOURS = {row.family: row.colour for row in KINDS.values()}
"""By family of op; families that meet in a lane differ in lightness too."""

LANE_NAMES = {
    Lane.HOST: "host",
    Lane.COMPUTE: "compute",
    Lane.H2D: "copies to GPU",
    Lane.D2H: "copies to host",
    Lane.DISK: "storage",
    Lane.CPU: "CPU",
}

_STALL = "waiting for experts"

_EDGED = 1 / 300
"""Share of the width from which on a bar has white edges: those of narrower bars would leave nothing of them."""


@picture
def gantt(
    shown: Comparison | SimulationResult | Mapping[str, Timeline],
    path: str | Path | None = None,
    *,
    step: int | None = None,
    span_s: float | None = None,
) -> Figure:
    """One decode step of each timeline, lane by lane, one panel above the other on the same time scale.

    `step`: the forward pass shown (None: the middle one that makes tokens); `span_s`: seconds shown (None: the longest
    of the steps). Saved to `path` (PNG, SVG or PDF) when given. Raises `InvalidInput` for a step that does not exist or
    where there is no timeline, `InvalidFile` when `path` cannot be written.
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    timelines = _timelines_of(shown)
    windows = {name: _window(timeline, step) for name, timeline in timelines.items()}
    length_s = span_s or max(stop - start for start, stop in windows.values())
    factor, unit = (1e3, "ms") if length_s >= 1e-3 else (1e6, "us")
    lanes = _lanes([timeline.schedule.lane for timeline in timelines.values()])
    figure = Figure(figsize=(12, 1.1 + (0.42 * len(lanes) + 0.75) * len(timelines)), layout="constrained")
    panels = figure.subplots(len(timelines), 1, sharex=True, squeeze=False)[:, 0]
    families: dict[str, None] = {}
    for axes, (name, timeline) in zip(panels, timelines.items(), strict=True):
        start_s, stop_s = windows[name]
        families |= _draw_lanes(axes, timeline, lanes, start_s, length_s, factor)
        part = "one decode step" if stop_s - start_s <= length_s * 1.0001 else "the start of one decode step"
        told = f"{name}: {part}, {(stop_s - start_s) * factor:.3g} {unit}"
        axes.set_xlim(0, length_s * factor)
        if stop_s - start_s < 0.999 * length_s:
            axes.axvspan((stop_s - start_s) * factor, length_s * factor, color="white", alpha=0.65, lw=0, zorder=3)
            told += "; pale: the next one"
        axes.set_title(told, loc="left", fontsize=11)
    panels[-1].set_xlabel(f"time ({unit})")
    handles = [Patch(facecolor=COLOURS[family], label=family) for family in COLOURS if family in families]
    if _STALL in families:
        handles.append(Patch(facecolor="none", edgecolor="#888888", hatch="////", label=_STALL))
    figure.legend(
        handles=handles, loc="outside lower center", ncols=len(handles), frameon=False, fontsize=9, columnspacing=1.2
    )
    if path is not None:
        save_figure(figure, path)
    return figure


def _timelines_of(shown: Comparison | SimulationResult | Mapping[str, Timeline]) -> Mapping[str, Timeline]:
    if isinstance(shown, SimulationResult | Comparison):
        results = [shown] if isinstance(shown, SimulationResult) else list(shown)
        streamed = [result.policy for result in results if result.timeline is None]
        if streamed:
            raise InvalidInput(f"{', '.join(streamed)}: a streamed simulation keeps no timeline; ask for timeline=True")
        shown = {result.policy: result.timeline for result in results if result.timeline is not None}
    if not shown:
        raise InvalidInput("no timelines to draw")
    return shown


def _window(timeline: Timeline, step: int | None) -> tuple[float, float]:
    """Start of the first and end of the last op of a forward pass that computes, on whichever side."""
    schedule = timeline.schedule
    making = np.unique(schedule.step[np.isin(schedule.kind, (OpKind.HEAD, OpKind.STEP))])  # a host has heads too
    if step is None:
        step = int(making[len(making) // 2]) if making.size else int(schedule.step[0])
    on_host = (schedule.lane == Lane.CPU) & (schedule.kind != OpKind.FILE)
    mine = (schedule.step == step) & (computes(schedule.lane) | on_host)
    if not mine.any():
        raise InvalidInput(f"step {step} is not in the schedule: it has {making.size} steps that make tokens")
    return float(timeline.start_s[mine].min()), float(timeline.end_s[mine].max())


def _lanes(columns: Sequence[NDArray[np.int8]]) -> list[int]:
    """The lanes that have ops, `columns` (n_ops,) each: of several cards one below the other."""
    used = {lane for column in columns for lane in np.unique(column).tolist()}
    return sorted(used, key=lambda lane: (kind_of_lane(lane), lane))


def _lane_name(lane: int, lanes: Sequence[int]) -> str:
    """With its card, where several cards of `lanes` have one of its kind."""
    kind = kind_of_lane(lane)
    cards = sum(kind_of_lane(other) == kind for other in lanes)
    return LANE_NAMES[kind] + (f", card {max(lane - len(Lane) + 1, 0) + 1}" if cards > 1 else "")


def _draw_lanes(
    axes: Axes, timeline: Timeline, lanes: Sequence[int], start_s: float, length_s: float, factor: float
) -> dict[str, None]:
    """Draw what runs in the window; returns the families of op that appear."""
    schedule = timeline.schedule
    seen: dict[str, None] = {}
    inside = (timeline.end_s > start_s) & (timeline.start_s < start_s + length_s)
    for row, lane in enumerate(lanes):
        ops = np.flatnonzero(inside & (schedule.lane == lane))
        for family in COLOURS:
            mine = [i for i in ops if KINDS[OpKind(int(schedule.kind[i]))].family == family]
            if mine:
                seen[family] = None
                _draw_bars(axes, lane, row, family, [
                    ((timeline.start_s[i] - start_s) * factor, (timeline.end_s[i] - timeline.start_s[i]) * factor)
                    for i in mine
                ], length_s * factor)  # fmt: skip
        if lane == Lane.COMPUTE:
            begin_s, end_s = stall_intervals(timeline)
            shown = (end_s > start_s) & (begin_s < start_s + length_s)
            if shown.any():
                seen[_STALL] = None
                bars = list(zip((begin_s - start_s)[shown] * factor, (end_s - begin_s)[shown] * factor, strict=True))
                axes.broken_barh(bars, (row - 0.3, 0.6), facecolors="none", edgecolor="#AAAAAA", hatch="////", lw=0)
    axes.set_yticks(range(len(lanes)), [_lane_name(lane, lanes) for lane in lanes])
    axes.set_ylim(len(lanes) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    bare(axes, "x")
    axes.spines["left"].set_visible(False)
    return seen


def _draw_bars(axes: Axes, lane: int, row: int, family: str, bars: Sequence[tuple[float, float]], width: float) -> None:
    """Bars (start, length) of one family in a lane. Those of host and read-backs are lines, however short."""
    colour, across = COLOURS[family], (row - 0.36, 0.72)
    if kind_of_lane(lane) in (Lane.HOST, Lane.D2H):
        axes.broken_barh(bars, across, facecolors=colour, edgecolor=colour, lw=0.5)
        return
    wide = [bar for bar in bars if bar[1] >= _EDGED * width]
    narrow = [bar for bar in bars if bar[1] < _EDGED * width]
    if wide:
        axes.broken_barh(wide, across, facecolors=colour, edgecolor="white", lw=0.5)
    if narrow:
        axes.broken_barh(narrow, across, facecolors=colour, lw=0, snap=False)
