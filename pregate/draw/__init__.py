"""Pictures and timelines: each picture takes a result and returns a matplotlib figure. `from pregate import draw`.

| result | picture |
|---|---|
| `compare`, `simulate` | `bars`, `gantt` |
| `explain` | `tornado` |
| `crossovers` | `winners` |
| `sweep` | `sweep_map`, `sweep_lines` |
| `optimize` | `draw_front` |
| a routing trace, `trace_statistics`, `residency` | `expert_heat`, `locality`, `residency_curves` |
| `cache_hits` | `hit_curves` |
| `predictors` | `predictor_curves` |
| `costs` | `cost_ranges` |
| `under_arrivals` | `latency_by_rate` |
| `calibrate` | `fit_against_data` |
| `reproduce` | `published_against_predicted` |
| `validate` | `predicted_against_measured`, `op_errors`, `naive_bars`, `predicted_above_measured` |
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pregate.draw.accuracy_plot import published_against_predicted
    from pregate.draw.arrivals_plot import latency_by_rate
    from pregate.draw.calibration_plot import fit_against_data
    from pregate.draw.comparison_plot import bars
    from pregate.draw.cost_plot import cost_ranges
    from pregate.draw.crossover_plot import winners
    from pregate.draw.hit_rates import hit_curves
    from pregate.draw.pareto_plot import draw_front
    from pregate.draw.predictor_plot import predictor_curves
    from pregate.draw.style import save_figure
    from pregate.draw.sweep_maps import sweep_map
    from pregate.draw.sweep_plot import sweep_lines
    from pregate.draw.timelines import gantt
    from pregate.draw.tornado_plot import tornado
    from pregate.draw.trace_plots import expert_heat, locality, residency_curves
    from pregate.validation.report.validation_plots import (
        naive_bars,
        op_errors,
        predicted_above_measured,
        predicted_against_measured,
    )

_NAMES = {
    "pregate.draw.accuracy_plot": "published_against_predicted",
    "pregate.draw.arrivals_plot": "latency_by_rate",
    "pregate.draw.calibration_plot": "fit_against_data",
    "pregate.draw.comparison_plot": "bars",
    "pregate.draw.cost_plot": "cost_ranges",
    "pregate.draw.crossover_plot": "winners",
    "pregate.draw.hit_rates": "hit_curves",
    "pregate.draw.pareto_plot": "draw_front",
    "pregate.draw.predictor_plot": "predictor_curves",
    "pregate.draw.style": "save_figure",
    "pregate.draw.sweep_maps": "sweep_map",
    "pregate.draw.sweep_plot": "sweep_lines",
    "pregate.draw.timelines": "gantt",
    "pregate.draw.tornado_plot": "tornado",
    "pregate.draw.trace_plots": "expert_heat locality residency_curves",
    "pregate.validation.report.validation_plots": (
        "naive_bars op_errors predicted_above_measured predicted_against_measured"
    ),
}
"""Modules, and what each has of the names below."""

_HOMES = {name: home for home, names in _NAMES.items() for name in names.split()}

__all__ = [
    "bars", "cost_ranges", "draw_front", "expert_heat", "fit_against_data", "gantt", "hit_curves", "latency_by_rate",
    "locality", "naive_bars", "op_errors", "predicted_above_measured", "predicted_against_measured",
    "predictor_curves", "published_against_predicted", "residency_curves", "save_figure", "sweep_lines", "sweep_map",
    "tornado", "winners",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'pregate.draw' has no attribute {name!r}")
    globals()[name] = value = getattr(import_module(_HOMES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
