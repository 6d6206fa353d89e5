"""Pictures: timelines lane by lane, and what a trace looks like. matplotlib is loaded on first use."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from offload.metrics import stall_intervals
from offload.ops import KINDS, Lane, OpKind
from offload.replay import CurveRow
from offload.timeline import Timeline
from traces.errors import InvalidInput
from traces.routing import RoutingTrace
from traces.statistics import TraceStatistics, expert_counts
from traces.whole_file import whole_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from pregate.explore.explanation import Explanation

__all__ = ["LANE_NAMES", "expert_heat", "gantt", "locality", "residency_curves", "save_figure", "tornado"]

COLOURS = {row.family: row.colour for row in KINDS.values()}
"""Okabe and Ito's colour-blind-safe palette, extended."""

LANE_NAMES = {
    Lane.HOST: "host",
    Lane.COMPUTE: "compute",
    Lane.H2D: "copies to GPU",
    Lane.D2H: "copies to host",
    Lane.DISK: "storage",
    Lane.CPU: "CPU",
}

_STALL = "waiting for experts"


def gantt(
    timelines: Mapping[str, Timeline], path: Path | None = None, *, step: int | None = None, span_s: float | None = None
) -> Figure:
    """One decode step of each timeline, lane by lane, one panel above the other on the same time scale.

    `step`: the forward pass shown (None: the middle one that makes tokens); `span_s`: seconds shown (None: the longest
    of the steps). Saved to `path` (PNG, SVG or PDF) when given. Raises `InvalidInput` for a step that does not exist,
    `InvalidFile` when `path` cannot be written.
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    if not timelines:
        raise InvalidInput("no timelines to draw")
    windows = {name: _window(timeline, step) for name, timeline in timelines.items()}
    length_s = span_s or max(stop - start for start, stop in windows.values())
    factor, unit = (1e3, "ms") if length_s >= 1e-3 else (1e6, "us")
    lanes = [lane for lane in Lane if any(np.any(t.schedule.lane == lane) for t in timelines.values())]
    figure = Figure(figsize=(12, 1.1 + (0.42 * len(lanes) + 0.75) * len(timelines)), layout="constrained")
    panels = figure.subplots(len(timelines), 1, sharex=True, squeeze=False)[:, 0]
    families: dict[str, None] = {}
    for axes, (name, timeline) in zip(panels, timelines.items(), strict=True):
        start_s, stop_s = windows[name]
        families |= _draw_lanes(axes, timeline, lanes, start_s, length_s, factor)
        shown = "one decode step" if stop_s - start_s <= length_s * 1.0001 else "the start of one decode step"
        axes.set_title(f"{name}: {shown}, {(stop_s - start_s) * factor:.3g} {unit}", loc="left", fontsize=11)
        axes.set_xlim(0, length_s * factor)
        if stop_s - start_s < 0.999 * length_s:
            axes.axvspan((stop_s - start_s) * factor, length_s * factor, color="white", alpha=0.65, lw=0, zorder=3)
            axes.text((stop_s - start_s) * factor, -0.62, " next step", fontsize=9, color="#555555", va="bottom")
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


def _window(timeline: Timeline, step: int | None) -> tuple[float, float]:
    """Start of the first and end of the last compute op of a forward pass."""
    schedule = timeline.schedule
    making = np.unique(schedule.step[schedule.kind == OpKind.HEAD])
    if step is None:
        step = int(making[len(making) // 2]) if making.size else int(schedule.step[0])
    mine = (schedule.step == step) & (schedule.lane == Lane.COMPUTE)
    if not mine.any():
        raise InvalidInput(f"step {step} is not in the schedule: it has {making.size} steps that make tokens")
    return float(timeline.start_s[mine].min()), float(timeline.end_s[mine].max())


def _draw_lanes(
    axes: Axes, timeline: Timeline, lanes: Sequence[Lane], start_s: float, length_s: float, factor: float
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
                bars = [
                    ((timeline.start_s[i] - start_s) * factor, (timeline.end_s[i] - timeline.start_s[i]) * factor)
                    for i in mine
                ]
                edge = "white" if lane in (Lane.COMPUTE, Lane.H2D, Lane.DISK, Lane.CPU) else COLOURS[family]
                axes.broken_barh(bars, (row - 0.36, 0.72), facecolors=COLOURS[family], edgecolor=edge, lw=0.5)
        if lane is Lane.COMPUTE:
            begin_s, end_s = stall_intervals(timeline)
            shown = (end_s > start_s) & (begin_s < start_s + length_s)
            if shown.any():
                seen[_STALL] = None
                bars = list(zip((begin_s - start_s)[shown] * factor, (end_s - begin_s)[shown] * factor, strict=True))
                axes.broken_barh(bars, (row - 0.3, 0.6), facecolors="none", edgecolor="#AAAAAA", hatch="////", lw=0)
    axes.set_yticks(range(len(lanes)), [LANE_NAMES[lane] for lane in lanes])
    axes.set_ylim(len(lanes) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color="#DDDDDD", lw=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    return seen


def expert_heat(trace: RoutingTrace) -> Figure:
    """How often each expert is chosen, by MoE layer: share of the layer's choices over a uniform share."""
    from matplotlib.figure import Figure

    counts = expert_counts(trace).astype(float)
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1) * trace.n_experts
    figure = Figure(figsize=(9, 0.6 + 0.2 * trace.n_moe_layers), layout="constrained")
    axes = figure.subplots()
    picture = axes.imshow(np.sort(share, axis=1)[:, ::-1], aspect="auto", cmap="viridis", vmin=0)
    axes.set_xlabel("expert, hottest first in each layer")
    axes.set_ylabel("MoE layer")
    axes.set_title("How hot each expert is (1 = a uniform share)", loc="left", fontsize=11)
    figure.colorbar(picture, ax=axes, label="share of choices / uniform share")
    return figure


def locality(statistics: TraceStatistics, lru_hit_rate: Mapping[float, float] | None = None) -> Figure:
    """Reuse at a lag, distinct experts in a batch and, when given, LRU hit rate against the share resident."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 3.4), layout="constrained")
    reuse, distinct, hits = figure.subplots(1, 3)
    chance = statistics.top_k / statistics.n_experts
    lags = [lag for lag, value in statistics.reuse.items() if np.isfinite(value)]
    reuse.bar(
        [str(lag) for lag in lags], [statistics.reuse[lag] for lag in lags], color=COLOURS["attention"], width=0.5
    )
    reuse.axhline(chance, color="#666666", ls="--", lw=1)
    reuse.annotate("by chance", (0.5, chance), xycoords=("axes fraction", "data"), ha="center", va="bottom", fontsize=9)
    reuse.set(xlabel="tokens back", ylabel="share of experts reused", ylim=(0, None))
    batches = [b for b, value in statistics.distinct_experts.items() if np.isfinite(value)]
    uniform = [statistics.n_experts * (1 - (1 - chance) ** batch) for batch in batches]
    distinct.plot(batches, [statistics.distinct_experts[b] for b in batches], "o-", color=COLOURS["expert FFN"])
    distinct.plot(batches, uniform, "--", color="#666666", lw=1)
    distinct.annotate("by chance", (batches[-1], uniform[-1]), ha="right", va="bottom", fontsize=9)
    distinct.set(xlabel="tokens in the batch", ylabel="distinct experts a layer", xscale="log", ylim=(0, None))
    distinct.set_xticks(batches, [str(batch) for batch in batches])
    distinct.minorticks_off()
    points = sorted((lru_hit_rate or statistics.lru_hit_rate).items())
    hits.plot([share for share, _ in points], [rate for _, rate in points], "o-", color=COLOURS["fetch"])
    hits.plot([0, 1], [0, 1], "--", color="#666666", lw=1)
    hits.annotate("by chance", (0.75, 0.73), ha="left", va="top", fontsize=9)
    hits.set(xlabel="share of a layer's experts resident", ylabel="LRU hit rate", xlim=(0, 1), ylim=(0, 1.02))
    for axes in (reuse, distinct, hits):
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def residency_curves(rows: Iterable[CurveRow]) -> Figure:
    """Hit rate in decode against the budget, a line a policy."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    rows = list(rows)
    colours = [COLOURS[family] for family in ("fetch", "attention", "expert FFN", "stage", "read-back", "gate")]
    for policy, colour in zip(dict.fromkeys(row.policy for row in rows), [*colours, "black"], strict=False):
        points = [(row.budget_mib, row.hit_pct_decode) for row in rows if row.policy == policy]
        axes.plot(*zip(*points, strict=True), "o-", color=colour, label=policy, ms=4)
    axes.set(xlabel="budget (MiB of experts)", ylabel="hits in decode (%)", ylim=(0, 100))
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def tornado(explanation: Explanation, path: Path | None = None, *, n_bars: int = 12) -> Figure:
    """What a tenth less and a tenth more of each number does to the metric, the `n_bars` that matter most.

    In per cent of the metric, each recomputed with all other numbers as they are. Saved to `path` (PNG, SVG or PDF)
    when given. Raises `InvalidInput` for fewer than one bar, `InvalidFile` when `path` cannot be written.
    """
    from matplotlib.figure import Figure

    if n_bars < 1:
        raise InvalidInput(f"n_bars = {n_bars} is below 1")
    moved = {key: swing for key, swing in explanation.swings.items() if swing.span > 1e-9 * abs(explanation.value)}
    order = sorted(moved, key=lambda key: -moved[key].span)[:n_bars]
    figure = Figure(figsize=(9, 1.4 + 0.36 * len(order)), layout="constrained")
    axes = figure.subplots()
    for label, colour in (("low", COLOURS["fetch"]), ("high", COLOURS["attention"])):
        changes = [100 * (getattr(moved[key], label) / explanation.value - 1) for key in order]
        said = "a tenth less" if label == "low" else "a tenth more"
        axes.barh(range(len(order)), changes, color=colour, label=said, height=0.7)
    axes.axvline(0, color="#444444", lw=1)
    axes.set_yticks(range(len(order)), order)
    axes.set_ylim(len(order) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel(f"change of {explanation.metric} (%)")
    axes.set_title(f"{explanation.result.policy} on {explanation.result.hardware}", loc="left", fontsize=11)
    axes.grid(axis="x", color="#DDDDDD", lw=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    if path is not None:
        save_figure(figure, path)
    return figure


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as its suffix says; whole or not at all. Raises `InvalidInput` for a suffix, `InvalidFile`."""
    kind = path.suffix.lower().removeprefix(".")
    if kind not in ("png", "svg", "pdf"):
        raise InvalidInput(f"{path}: pictures are written as .png, .svg or .pdf")
    with whole_file(path) as partial:
        figure.savefig(partial, format=kind, dpi=150)
