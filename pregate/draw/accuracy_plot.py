"""Published figures against what is predicted for them: a panel a metric, both axes alike."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from pregate.draw.palette import styles_of
from pregate.draw.style import SOFT, bare, log_axis, picture
from traces.errors import InvalidInput

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from pregate.measured.reproduction import Reproduction
    from pregate.measured.table_scores import TablePrediction


_BAND = 0.1
_ROOM = 1.4
_UNITS = {"bytes": (1e9, "GB")}


class _Point(NamedTuple):
    group: str
    unit: str
    measured: float
    predicted: float


@picture
def published_against_predicted(found: Reproduction | TablePrediction) -> Figure:
    """A panel a metric, a colour a design or source; on the line both agree, the band is 10 %.

    Raises `InvalidInput` when no row is predicted.
    """
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    panels = {metric: points for metric, points in _panels(found).items() if points}
    if not panels:
        raise InvalidInput("nothing to draw: no row is predicted")
    styles = styles_of(dict.fromkeys(point.group for points in panels.values() for point in points))
    figure = Figure(figsize=(0.6 + 3.4 * len(panels), 4.4), layout="constrained")
    grid = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, (metric, points) in zip(grid, panels.items(), strict=True):
        unit = points[0].unit
        for name, style in styles.items():
            mine = [(point.measured, point.predicted) for point in points if point.group == name]
            if mine:
                axes.plot(
                    *zip(*mine, strict=True), style.marker, color=style.colour, ms=5, mec="white", mew=0.4, alpha=0.9
                )
        _agree(axes, points)
        axes.set_title(metric.replace("_", " "), loc="left", fontsize=11)
        axes.set(xlabel=f"measured ({unit})", ylabel=f"predicted ({unit})")
    handles = [Line2D([], [], ls="", marker=s.marker, color=s.colour, label=name) for name, s in styles.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=5, frameon=False, fontsize=9)
    return figure


def _panels(found: Reproduction | TablePrediction) -> dict[str, list[_Point]]:
    """By metric, in the order of the rows; what is not above 0 has no place on a logarithmic axis."""
    rows = found.to_dict()["rows"]
    panels: dict[str, list[_Point]] = {}
    for row in rows:
        predicted, measured = row["predicted"], float(row["value"])
        if predicted is not None and math.isfinite(predicted) and min(predicted, measured) > 0:
            group = str(row.get("design") or row.get("source"))
            factor, unit = _UNITS.get(row["unit"], (1.0, str(row["unit"])))
            point = _Point(group, unit, measured / factor, predicted / factor)
            panels.setdefault(str(row["metric"]), []).append(point)
    return panels


def _agree(axes: Axes, points: list[_Point]) -> None:
    values = [value for point in points for value in (point.measured, point.predicted)]
    low, high = min(values) / _ROOM, max(values) * _ROOM
    axes.fill_between(
        [low, high], [low * (1 - _BAND), high * (1 - _BAND)], [low * (1 + _BAND), high * (1 + _BAND)],
        color="#888888", alpha=0.2, lw=0,
    )  # fmt: skip
    axes.plot([low, high], [low, high], color=SOFT, lw=0.8)
    axes.set(xscale="log", yscale="log", xlim=(low, high), ylim=(low, high), box_aspect=1)
    log_axis(axes.xaxis, low, high)
    log_axis(axes.yaxis, low, high)
    bare(axes)
