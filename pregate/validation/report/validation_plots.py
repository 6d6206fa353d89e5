"""Pictures of a validation: predicted against measured, op by op, beside naive baselines, and in time.

A policy has one colour and marker everywhere, a model one filling. matplotlib is loaded on first use.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from pregate.draw.palette import PALETTE, SeriesStyle, styles_of
from pregate.draw.style import INK, LINE, PAPER, bare, log_axis, picture
from pregate.draw.timelines import gantt
from pregate.validation.outcome import CaseOutcome, Validation
from pregate.validation.scores.compared_number import Compared, compared_metric, compared_ops

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


_Fill = Literal["full", "left", "bottom", "right", "top"]

_PANELS = {
    "tpot_s": "time per output token",
    "ttft_s": "time to first token",
    "moe_layer_latency_s": "MoE layer latency",
}
_FILLS: tuple[_Fill, ...] = ("full", "left", "bottom", "right", "top")
"""How a marker is filled, by model in their order."""

_CHARACTER_PT, _HANDLE_PT = 5.2, 36.0
"""Room for a letter of a legend, at the size it is set in, and for what stands beside a label."""

_GREY = SeriesStyle("#888888", "o", "-", "")

BAND = 0.1
"""Relative error inside which a point is drawn on the band."""


@picture
def predicted_against_measured(validation: Validation) -> Figure | None:
    """Predicted against measured for three times, both axes logarithmic, and below it the error; a band is +-10 %.

    Bars across: least to most of the runs. Bars upwards: the predicted interval. None when nothing was measured.
    """
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    found = {name: _positive(validation.outcomes, name) for name in _PANELS}
    if not any(found.values()):
        return None
    styles = styles_of(outcome.case.policy for outcome in validation.outcomes)
    models = list(dict.fromkeys(outcome.case.model for outcome in validation.outcomes))
    fills = {model: _FILLS[i % len(_FILLS)] for i, model in enumerate(models)}
    figure = Figure(figsize=(12, 6.6), layout="constrained")
    grid = figure.subplots(2, len(_PANELS), height_ratios=(3.6, 1.4))
    for (above, below), (metric, title) in zip(grid.T, _PANELS.items(), strict=True):
        above.set_title(title, loc="left", fontsize=11)
        if found[metric]:
            factor, unit = _unit([n.measured or 0.0 for n in found[metric]])
            ends = _scatter_panel(above, found[metric], factor, styles, fills)
            above.set_ylabel(f"predicted ({unit})")
            _error_panel(below, found[metric], factor, ends, styles, fills)
            below.set_xlabel(f"measured ({unit})")
        else:
            above.text(0.5, 0.5, "not measured", ha="center", transform=above.transAxes)
            for axes in (above, below):
                axes.set_axis_off()
    handles = [
        *[Line2D([], [], label=name, ls="", **_point(style, "full", 6)) for name, style in styles.items()],
        *[Line2D([], [], label=name, ls="", **_point(_GREY, fill, 6)) for name, fill in fills.items()],
    ]
    widest_pt = max(len(str(handle.get_label())) for handle in handles) * _CHARACTER_PT + _HANDLE_PT
    columns = max(1, min(len(handles), int(figure.get_figwidth() * 72 / widest_pt)))
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, frameon=False, fontsize=9)
    return figure


def _point(style: SeriesStyle, fill: _Fill, size: float) -> dict[str, Any]:
    """A point of a policy and a model, as arguments of a line; one half filled has its colour around it."""
    edge = PAPER if fill == "full" else style.colour
    return {
        "marker": style.marker, "color": style.colour, "fillstyle": fill, "markerfacecoloralt": PAPER,
        "ms": size, "mec": edge, "mew": 0.6,
    }  # fmt: skip


def _positive(outcomes: Sequence[CaseOutcome], metric: str) -> list[Compared]:
    numbers = [compared_metric(outcome, metric) for outcome in outcomes]
    return [n for n in numbers if n.error is not None and n.predicted and n.measured]


def _unit(times_s: Sequence[float]) -> tuple[float, str]:
    """The unit in which the middle of the times, by order of magnitude, reads best."""
    middle_s = float(np.exp(np.mean(np.log(times_s))))
    return next(((factor, name) for factor, name in ((1.0, "s"), (1e3, "ms")) if middle_s * factor >= 1), (1e6, "us"))


def _scatter_panel(
    axes: Axes,
    numbers: Sequence[Compared],
    factor: float,
    styles: Mapping[str, SeriesStyle],
    fills: Mapping[str, _Fill],
) -> tuple[float, float]:
    """Returns the ends of both axes."""
    values = np.array([[n.measured, n.predicted] for n in numbers], dtype=np.float64) * factor
    low, high = values.min() / 1.35, values.max() * 1.35
    ends = np.array([low, high])
    axes.fill_between(ends, ends * (1 - BAND), ends * (1 + BAND), color="#888888", alpha=0.2, lw=0)
    axes.plot(ends, ends, color="#888888", lw=0.8, ls="--")
    for n, (x, y) in zip(numbers, values, strict=True):
        colour = styles[n.case.policy].colour
        if n.interval is not None:
            axes.plot([x, x], [max(end * factor, low) for end in n.interval], color=colour, lw=1.2, alpha=0.45)
        if n.span is not None:
            axes.plot([max(end * factor, low) for end in n.span], [y, y], color=colour, lw=1.2, alpha=0.45)
        axes.plot([x], [y], ls="", **_point(styles[n.case.policy], fills[n.case.model], 6))
    axes.set(xscale="log", yscale="log", xlim=(low, high), ylim=(low, high), box_aspect=1)
    log_axis(axes.xaxis, low, high)
    log_axis(axes.yaxis, low, high)
    bare(axes)
    return low, high


def _error_panel(
    axes: Axes,
    numbers: Sequence[Compared],
    factor: float,
    ends: tuple[float, float],
    styles: Mapping[str, SeriesStyle],
    fills: Mapping[str, _Fill],
) -> None:
    reach = max(100 * BAND * 1.3, *(115 * abs(n.error or 0.0) for n in numbers))
    axes.axhspan(-100 * BAND, 100 * BAND, color="#888888", alpha=0.2, lw=0)
    axes.axhline(0, color="#888888", lw=0.8)
    for n in numbers:
        x, y = (n.measured or 0.0) * factor, 100 * (n.error or 0.0)
        axes.plot([x], [y], ls="", **_point(styles[n.case.policy], fills[n.case.model], 5))
    axes.set(xscale="log", xlim=ends, ylim=(-reach, reach), ylabel="error (%)")
    log_axis(axes.xaxis, *ends)
    bare(axes)


@picture
def op_errors(validation: Validation) -> Figure | None:
    """Error of the mean time of an op, a row a kind and a point a case; the bar is the median.

    Kinds are in the order of the time that they took. None when no op was measured.
    """
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    by_kind: dict[str, list[Compared]] = {}
    total_s: dict[str, float] = {}
    for outcome in validation.outcomes:
        for kind, number in compared_ops(outcome).items():
            if number.error is not None and outcome.valid is not None:
                by_kind.setdefault(kind, []).append(number)
                total_s[kind] = total_s.get(kind, 0.0) + outcome.valid.ops[kind].total_s
    if not by_kind:
        return None
    styles = styles_of(outcome.case.policy for outcome in validation.outcomes)
    kinds = sorted(by_kind, key=lambda kind: -total_s[kind])
    figure = Figure(figsize=(12, 1.7 + 0.46 * len(kinds)), layout="constrained")
    axes = figure.subplots()
    _strips(axes, [by_kind[kind] for kind in kinds], styles)
    whole_s = sum(total_s.values())
    names = [f"{kind.replace('_', ' ')} ({100 * total_s[kind] / whole_s:.1f} %)" for kind in kinds]
    axes.set_yticks(range(len(kinds)), names)
    axes.set_xlabel("error of the mean time of an op (%), predicted over measured")
    policies = {n.case.policy for numbers in by_kind.values() for n in numbers}
    handles = [
        Line2D([], [], label=name, ls="", **_point(style, "full", 6))
        for name, style in styles.items() if name in policies
    ]  # fmt: skip
    handles.append(Line2D([], [], color=INK, marker="|", ms=12, mew=2.4, ls="", label="median"))
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False, fontsize=9)
    return figure


def _strips(axes: Axes, strips: Sequence[Sequence[Compared]], styles: Mapping[str, SeriesStyle]) -> None:
    policies = list(styles)
    furthest = max(abs(100 * (n.error or 0.0)) for numbers in strips for n in numbers)
    reach = min(max(1.15 * furthest, 15.0), 100.0)
    for row, numbers in enumerate(strips):
        for n in numbers:
            shift = 0.56 * ((policies.index(n.case.policy) + 0.5) / len(policies) - 0.5)
            error = 100 * (n.error or 0.0)
            beyond = abs(error) > reach
            point = _point(styles[n.case.policy], "full", 4.5)
            if beyond:
                point["marker"] = ">" if error > 0 else "<"
            axes.plot([min(max(error, -reach), reach)], [row + shift], ls="", clip_on=False, **point)
        middle = float(np.median([100 * (n.error or 0.0) for n in numbers]))
        axes.plot([min(max(middle, -reach), reach)] * 2, [row - 0.36, row + 0.36], color=INK, lw=2.4)
    axes.axvspan(-100 * BAND, 100 * BAND, color="#888888", alpha=0.16, lw=0)
    axes.axvline(0, color="#888888", lw=0.8)
    axes.set_xlim(-reach, reach)
    axes.set_ylim(len(strips) - 0.45, -0.55)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color=LINE, lw=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)


@picture
def naive_bars(summary: Mapping[str, Any]) -> Figure | None:
    """MAPE of `tpot_s` by policy: this prediction beside the naive baselines of a `summarise`.

    None when nothing was measured.
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    mine = summary["metrics"]["tpot_s"]
    if mine["overall"]["mape"] is None:
        return None
    said = {"pregate (this prediction)": {"all": mine["overall"], **mine["by_policy"]}}
    said |= {name: {"all": entry, **entry["by_policy"]} for name, entry in summary["naive"].items()}
    places = [name for name, entry in next(iter(said.values())).items() if entry["mape"] is not None]
    colours = [INK, *PALETTE[3 : 2 + len(said)]]
    height = 0.84 / len(said)
    figure = Figure(figsize=(12, 1.4 + 0.19 * len(said) * len(places)), layout="constrained")
    axes = figure.subplots()
    for i, (entries, colour) in enumerate(zip(said.values(), colours, strict=True)):
        rows = [(row, entries[place]["mape"]) for row, place in enumerate(places) if place in entries]
        for row, mape in [(row, 100 * mape) for row, mape in rows if mape is not None]:
            y = row + (i + 0.5) * height - 0.42
            axes.barh(y, mape, height * 0.9, color=colour)
            axes.annotate(f"{mape:.3g}", (mape, y), (4, 0), textcoords="offset points", va="center", fontsize=8)
    axes.set_yticks(range(len(places)), places)
    axes.set_ylim(len(places) - 0.45, -0.55)
    axes.margins(x=0.06)
    axes.set_xlim(left=0)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("mean |error| of the time per output token (%)")
    axes.grid(axis="x", color=LINE, lw=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    handles = [Patch(color=colour, label=name) for name, colour in zip(said, colours, strict=True)]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False, fontsize=9)
    return figure


def predicted_above_measured(outcome: CaseOutcome) -> Figure | None:
    """One decode step as predicted and, below it on the same time axis, as measured; None without both timelines."""
    run = outcome.valid
    if run is None or run.timeline is None or outcome.prediction.timeline is None:
        return None
    return gantt({"predicted": outcome.prediction.timeline, "measured": run.timeline})
