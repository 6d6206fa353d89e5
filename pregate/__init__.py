"""pregate: what pre-gated and every other offloaded Mixture-of-Experts inference would cost, and how sure that is.

Names are loaded on first use, so that `import pregate` stays fast.
"""

from __future__ import annotations

from importlib import import_module
from inspect import isfunction
from typing import TYPE_CHECKING, Any

from pregate.arguments import checked

if TYPE_CHECKING:
    from hwmodels.calibrate.calibration import calibrate
    from hwmodels.calibrate.measurements import Measurements, load_measurements
    from hwmodels.platform import Platform
    from hwmodels.specs.machine_files import hardware_names
    from offload.policy import BlockView, Buffers, Cache, Decisions, Fetch, MissAction, Policy, RunFacts
    from offload.slots.memory import CapacityExceeded
    from pregate.ask.comparison import Comparison, compare
    from pregate.ask.explanation import Explanation, explain
    from pregate.ask.largest_batch import largest_batch
    from pregate.ask.replays.cache_hits import CacheHits, cache_hits
    from pregate.ask.replays.predictors import PredictorCurves, predictors
    from pregate.ask.replays.replay import LruCurve, Residency, lru_curve, residency
    from pregate.ask.simulation import SimulationResult, simulate
    from pregate.card.card import Card
    from pregate.card.job import RequestLoad
    from pregate.card.plan import plan
    from pregate.crossover.crossover import Crossovers, crossovers
    from pregate.economics.arrival_report import ArrivalReport
    from pregate.economics.arrivals import under_arrivals
    from pregate.economics.assumptions import Assumptions, load_assumptions
    from pregate.economics.batching import Server
    from pregate.economics.costing import CostReport, costs
    from pregate.economics.machine_ranking import MachineRanking, rank_machines
    from pregate.economics.poc import Poc, plan_poc
    from pregate.economics.serving import LatencyPromise
    from pregate.measured.reproduction import Reproduction, reproduce
    from pregate.monitoring.alerts import Thresholds
    from pregate.monitoring.report import MonitorReport, ServedDesign, monitor
    from pregate.named import load_hardware, load_model, load_policy
    from pregate.optima.optimize import optimize
    from pregate.optima.optimum import Optimum
    from pregate.page.writing import explore_page
    from pregate.routing_traces import import_trace, load_popularity, load_trace, synthesize
    from pregate.running.devices import Device
    from pregate.running.measured_run import RunResult, run
    from pregate.sweeps.axes import LatinHypercube
    from pregate.sweeps.machines import MachineRecipe
    from pregate.sweeps.sweep import SweepFailed, sweep
    from pregate.sweeps.workloads import TraceRecipe
    from pregate.trained.gate_study import GateStudy, load_gate_study, train
    from pregate.trained.generation import generate
    from pregate.trained.generation_result import Generation
    from pregate.tuning.tuned import Tuned, tune
    from pregate.validation.cases import CaseGroup, CaseWorkload
    from pregate.validation.outcome import Validation
    from pregate.validation.session import ValidationPlan, validate
    from runtime.backends.pacing import Link
    from runtime.microbench.session import measure
    from runtime.recording.record import record
    from simulator.modes import Modes
    from traces.errors import InvalidInput, PregateError
    from traces.importers.arrivals import load_arrivals
    from traces.model.architecture import ModelArchitecture, architecture_names
    from traces.requests import ArrivalTrace, poisson_arrivals
    from traces.routing import Provenance, RoutingTrace
    from traces.statistics.locality import trace_statistics
    from traces.statistics.popularity import PopularityProfile
    from traces.storage import save_trace
    from traces.synthesis.dials import Dials
    from traces.synthesis.fitting import fit_dials


__version__ = "0.1.0"

_NAMES = {
    "hwmodels.calibrate.calibration": "calibrate",
    "hwmodels.calibrate.measurements": "Measurements load_measurements",
    "hwmodels.platform": "Platform",
    "hwmodels.specs.machine_files": "hardware_names",
    "offload.policy": "BlockView Buffers Cache Decisions Fetch MissAction Policy RunFacts",
    "offload.slots.memory": "CapacityExceeded",
    "pregate.ask.comparison": "Comparison compare",
    "pregate.ask.explanation": "Explanation explain",
    "pregate.ask.largest_batch": "largest_batch",
    "pregate.ask.replays.cache_hits": "CacheHits cache_hits",
    "pregate.ask.replays.predictors": "PredictorCurves predictors",
    "pregate.ask.replays.replay": "LruCurve Residency lru_curve residency",
    "pregate.ask.simulation": "SimulationResult simulate",
    "pregate.card.card": "Card",
    "pregate.card.job": "RequestLoad",
    "pregate.card.plan": "plan",
    "pregate.crossover.crossover": "Crossovers crossovers",
    "pregate.economics.arrival_report": "ArrivalReport",
    "pregate.economics.arrivals": "under_arrivals",
    "pregate.economics.assumptions": "Assumptions load_assumptions",
    "pregate.economics.batching": "Server",
    "pregate.economics.costing": "CostReport costs",
    "pregate.economics.machine_ranking": "MachineRanking rank_machines",
    "pregate.economics.poc": "Poc plan_poc",
    "pregate.economics.serving": "LatencyPromise",
    "pregate.measured.reproduction": "Reproduction reproduce",
    "pregate.monitoring.alerts": "Thresholds",
    "pregate.monitoring.report": "MonitorReport ServedDesign monitor",
    "pregate.named": "load_hardware load_model load_policy",
    "pregate.optima.optimize": "optimize",
    "pregate.optima.optimum": "Optimum",
    "pregate.page.writing": "explore_page",
    "pregate.routing_traces": "import_trace load_popularity load_trace synthesize",
    "pregate.running.devices": "Device",
    "pregate.running.measured_run": "RunResult run",
    "pregate.sweeps.axes": "LatinHypercube",
    "pregate.sweeps.machines": "MachineRecipe",
    "pregate.sweeps.sweep": "SweepFailed sweep",
    "pregate.sweeps.workloads": "TraceRecipe",
    "pregate.trained.gate_study": "GateStudy load_gate_study train",
    "pregate.trained.generation": "generate",
    "pregate.trained.generation_result": "Generation",
    "pregate.tuning.tuned": "Tuned tune",
    "pregate.validation.cases": "CaseGroup CaseWorkload",
    "pregate.validation.outcome": "Validation",
    "pregate.validation.session": "ValidationPlan validate",
    "runtime.backends.pacing": "Link",
    "runtime.microbench.session": "measure",
    "runtime.pregated.rewire": "pregate_from",
    "runtime.recording.record": "record",
    "simulator.modes": "Modes",
    "traces.errors": "InvalidInput PregateError",
    "traces.importers.arrivals": "load_arrivals",
    "traces.model.architecture": "ModelArchitecture architecture_names",
    "traces.requests": "ArrivalTrace poisson_arrivals",
    "traces.routing": "Provenance RoutingTrace",
    "traces.statistics.locality": "trace_statistics",
    "traces.statistics.popularity": "PopularityProfile",
    "traces.storage": "save_trace",
    "traces.synthesis.dials": "Dials",
    "traces.synthesis.fitting": "fit_dials",
}
"""Modules, and what each has of the names below."""

_HOMES = {name: home for home, names in _NAMES.items() for name in names.split()}

__all__ = [
    "ArrivalReport", "ArrivalTrace", "Assumptions", "BlockView", "Buffers", "Cache", "CacheHits", "CapacityExceeded",
    "Card", "CaseGroup", "CaseWorkload", "Comparison", "CostReport", "Crossovers", "Decisions", "Device", "Dials",
    "Explanation", "Fetch", "GateStudy", "Generation", "InvalidInput", "LatencyPromise", "LatinHypercube", "Link",
    "LruCurve", "MachineRanking", "MachineRecipe", "Measurements", "MissAction", "ModelArchitecture", "Modes",
    "MonitorReport", "Optimum", "Platform", "Poc", "Policy", "PopularityProfile", "PredictorCurves", "PregateError",
    "Provenance", "Reproduction", "RequestLoad", "Residency", "RoutingTrace", "RunFacts", "RunResult", "ServedDesign",
    "Server", "SimulationResult", "SweepFailed", "Thresholds", "TraceRecipe", "Tuned", "Validation", "ValidationPlan",
    "architecture_names", "cache_hits", "calibrate", "compare", "costs", "crossovers", "explain", "explore_page",
    "fit_dials", "generate", "hardware_names", "import_trace", "largest_batch", "load_arrivals", "load_assumptions",
    "load_gate_study", "load_hardware", "load_measurements", "load_model", "load_policy", "load_popularity",
    "load_trace", "lru_curve", "measure", "monitor", "optimize", "plan", "plan_poc", "poisson_arrivals", "predictors",
    "pregate_from", "rank_machines", "record", "reproduce", "residency", "run", "save_trace", "simulate", "sweep",
    "synthesize", "trace_statistics", "train", "tune", "under_arrivals", "validate",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name == "draw":
        return import_module("pregate.draw")
    if name not in _HOMES:
        raise AttributeError(f"module 'pregate' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    if isfunction(value):
        value = checked(value)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """What is asked for by name, as a notebook completes it: none of the names that this module works with."""
    return [*(name for name in globals() if name.startswith("__")), *__all__, "draw"]
