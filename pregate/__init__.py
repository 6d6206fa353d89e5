"""pregate: what pre-gated and every other offloaded Mixture-of-Experts inference would cost, and how sure that is.

Names are loaded on first use, so that `import pregate` stays fast.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hwmodels.calibration import calibrate
    from hwmodels.measurements import Measurements, load_measurements
    from hwmodels.platform import Platform
    from offload.memory import CapacityExceeded
    from offload.policy import Cache, Policy
    from pregate.api import import_trace, load_hardware, load_model, load_trace, synthesize
    from pregate.comparison import Comparison, compare
    from pregate.crossover import Crossovers, crossovers
    from pregate.devices import Device
    from pregate.explanation import Explanation, explain
    from pregate.optima.optimize import optimize
    from pregate.optima.optimum import Optimum
    from pregate.replay import LruCurve, Residency, lru_curve, residency
    from pregate.reproduction import Reproduction, reproduce
    from pregate.running import RunResult, run
    from pregate.simulation import SimulationResult, simulate
    from pregate.sweeps.axes import LatinHypercube
    from pregate.sweeps.machines import MachineRecipe
    from pregate.sweeps.sweep import SweepFailed, sweep
    from pregate.sweeps.workloads import TraceRecipe
    from pregate.validation.session import validate
    from runtime.microbench.session import measure
    from runtime.pacing import Link
    from simulator.modes import Modes
    from traces.architecture import ModelArchitecture
    from traces.errors import InvalidInput, PregateError
    from traces.fitting import fit_dials
    from traces.routing import RoutingTrace
    from traces.statistics import trace_statistics
    from traces.storage import save_trace
    from traces.synthesis import Dials


__version__ = "0.1.0"

_HOMES = {
    "Cache": "offload.policy",
    "CapacityExceeded": "offload.memory",
    "Comparison": "pregate.comparison",
    "Crossovers": "pregate.crossover",
    "Device": "pregate.devices",
    "Dials": "traces.synthesis",
    "Explanation": "pregate.explanation",
    "InvalidInput": "traces.errors",
    "LatinHypercube": "pregate.sweeps.axes",
    "Link": "runtime.pacing",
    "LruCurve": "pregate.replay",
    "MachineRecipe": "pregate.sweeps.machines",
    "Measurements": "hwmodels.measurements",
    "ModelArchitecture": "traces.architecture",
    "Modes": "simulator.modes",
    "Optimum": "pregate.optima.optimum",
    "Platform": "hwmodels.platform",
    "Policy": "offload.policy",
    "PregateError": "traces.errors",
    "Reproduction": "pregate.reproduction",
    "Residency": "pregate.replay",
    "RoutingTrace": "traces.routing",
    "RunResult": "pregate.running",
    "SimulationResult": "pregate.simulation",
    "SweepFailed": "pregate.sweeps.sweep",
    "TraceRecipe": "pregate.sweeps.workloads",
    "calibrate": "hwmodels.calibration",
    "compare": "pregate.comparison",
    "crossovers": "pregate.crossover",
    "explain": "pregate.explanation",
    "fit_dials": "traces.fitting",
    "import_trace": "pregate.api",
    "load_hardware": "pregate.api",
    "load_measurements": "hwmodels.measurements",
    "load_model": "pregate.api",
    "load_trace": "pregate.api",
    "lru_curve": "pregate.replay",
    "measure": "runtime.microbench.session",
    "optimize": "pregate.optima.optimize",
    "reproduce": "pregate.reproduction",
    "residency": "pregate.replay",
    "run": "pregate.running",
    "save_trace": "traces.storage",
    "simulate": "pregate.simulation",
    "sweep": "pregate.sweeps.sweep",
    "synthesize": "pregate.api",
    "trace_statistics": "traces.statistics",
    "validate": "pregate.validation.session",
}

__all__ = [
    "Cache",
    "CapacityExceeded",
    "Comparison",
    "Crossovers",
    "Device",
    "Dials",
    "Explanation",
    "InvalidInput",
    "LatinHypercube",
    "Link",
    "LruCurve",
    "MachineRecipe",
    "Measurements",
    "ModelArchitecture",
    "Modes",
    "Optimum",
    "Platform",
    "Policy",
    "PregateError",
    "Reproduction",
    "Residency",
    "RoutingTrace",
    "RunResult",
    "SimulationResult",
    "SweepFailed",
    "TraceRecipe",
    "calibrate",
    "compare",
    "crossovers",
    "explain",
    "fit_dials",
    "import_trace",
    "load_hardware",
    "load_measurements",
    "load_model",
    "load_trace",
    "lru_curve",
    "measure",
    "optimize",
    "reproduce",
    "residency",
    "run",
    "save_trace",
    "simulate",
    "sweep",
    "synthesize",
    "trace_statistics",
    "validate",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'pregate' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
