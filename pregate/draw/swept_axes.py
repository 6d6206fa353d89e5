"""Axes and metrics of a sweep as pictures show them: which are drawn along, their units, scales, cells and words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pregate.crossover.axis_words import axis_label, axis_value, axis_words, scale_of
from pregate.draw.metric_words import metric_words
from pregate.draw.style import log_axis
from pregate.spellings.figure_words import figure_named
from pregate.sweeps.summary import apart
from pregate.sweeps.sweep_table import SweepTable

if TYPE_CHECKING:
    from matplotlib.axes import Axes


_METRIC_SCALES = {"s": (1e-3, "ms"), "B": (1e9, "GB")}
"""What a metric in SI is drawn in."""


def swept_metric(table: SweepTable, metric: str) -> str:
    """The metric as the sweep has it. Raises `UnknownName` for one that it does not have."""
    known = [name for name, found in table.variables.items() if found.data.dtype.kind == "f"]
    return figure_named("metric", metric, known)


def metric_scale(table: SweepTable, metric: str) -> tuple[float, str]:
    """What a metric in SI is divided by to be read, and its label with that unit."""
    return _METRIC_SCALES.get(str(table[metric].attrs.get("units", "")), (1.0, ""))[0], metric_label(metric)


def point_words(name: str, value: Any) -> str:
    """One value of an axis that is not drawn along."""
    return f"{axis_words(name)} {axis_value(name, value)}" if isinstance(value, float) else f"{name} {value}"


def drawn_axes(table: SweepTable) -> tuple[list[str], list[str]]:
    """The axes drawn along (at most two numeric ones, the first with several values), and the others."""
    dims = [name for name in table["fits"].dims if name != "policy"]
    numeric = [name for name in dims if table[name].data.dtype.kind == "f" and table.sizes[name] > 1]
    return numeric[:2], [name for name in dims if name not in numeric[:2]]


def scaled_axis(table: SweepTable, name: str) -> tuple[NDArray[np.float64], str]:
    """Values of an axis in a unit people read, (n_values,), and its label."""
    return table[name].values / scale_of(name)[0], axis_label(name)


def scale_axis(axes: Axes, side: Any, at: NDArray[np.float64], label: str) -> None:
    """Logarithmic where the values spread over a factor of four, more evenly in their logarithms."""
    log = _is_log(at)
    axes.set(**{f"{side}label": label, f"{side}scale": "log" if log else "linear"})
    if log:
        log_axis(getattr(axes, f"{side}axis"), float(at.min()), float(at.max()), most=5)


def _is_log(at: NDArray[np.float64]) -> bool:
    low, high = float(at.min()), float(at.max())
    return low > 0 and high / low >= 4 and _unevenness(np.log(at)) < _unevenness(at)


def cell_edges(at: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n + 1,) edges of the cells around n ascending values: halfway between two, in ratio on a logarithmic axis."""
    if _is_log(at):
        return np.asarray(np.exp(_halfway(np.log(at))))
    return _halfway(at)


def _halfway(at: NDArray[np.float64]) -> NDArray[np.float64]:
    inner = (at[:-1] + at[1:]) / 2
    return np.concatenate([[2 * at[0] - inner[0]], inner, [2 * at[-1] - inner[-1]]])


def _unevenness(at: NDArray[np.float64]) -> float:
    """How much the gaps between ascending values differ, 0 for a regular space."""
    gaps = np.diff(at)
    return float(gaps.std() / gaps.mean())


def metric_label(metric: str) -> str:
    """A metric in words, with the unit that it is drawn in."""
    unit = (
        "ms" if metric.endswith("_s") and not metric.endswith("per_s") else "GB" if metric == "peak_hbm_bytes" else ""
    )
    return metric_words(metric) + (f" ({unit})" if unit else "")


def sweep_title(table: SweepTable, others: list[str], values: tuple[Any, ...]) -> str:
    """Model and machine, the `values` of the axes not drawn along, and what is told of each policy apart."""
    at = ", ".join(point_words(name, value) for name, value in zip(others, values, strict=True))
    title = f"{table.attrs['model']} on {table.attrs['hardware']}" + (f": {at}" if at else "")
    return "\n".join([title, *apart(table)])
