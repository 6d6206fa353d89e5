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

_HOMES = {
    "ArrivalReport": "pregate.economics.arrival_report",
    "ArrivalTrace": "traces.requests",
    "Assumptions": "pregate.economics.assumptions",
    "BlockView": "offload.policy",
    "Buffers": "offload.policy",
    "Cache": "offload.policy",
    "CacheHits": "pregate.ask.replays.cache_hits",
    "CapacityExceeded": "offload.slots.memory",
    "Card": "pregate.card.card",
    "CaseGroup": "pregate.validation.cases",
    "CaseWorkload": "pregate.validation.cases",
    "Comparison": "pregate.ask.comparison",
    "CostReport": "pregate.economics.costing",
    "Crossovers": "pregate.crossover.crossover",
    "Decisions": "offload.policy",
    "Device": "pregate.running.devices",
    "Dials": "traces.synthesis.dials",
    "Explanation": "pregate.ask.explanation",
    "Fetch": "offload.policy",
    "GateStudy": "pregate.trained.gate_study",
    "Generation": "pregate.trained.generation_result",
    "InvalidInput": "traces.errors",
    "LatencyPromise": "pregate.economics.serving",
    "LatinHypercube": "pregate.sweeps.axes",
    "Link": "runtime.backends.pacing",
    "LruCurve": "pregate.ask.replays.replay",
    "MachineRanking": "pregate.economics.machine_ranking",
    "MachineRecipe": "pregate.sweeps.machines",
    "Measurements": "hwmodels.calibrate.measurements",
    "MissAction": "offload.policy",
    "ModelArchitecture": "traces.model.architecture",
    "Modes": "simulator.modes",
    "MonitorReport": "pregate.monitoring.report",
    "Optimum": "pregate.optima.optimum",
    "Platform": "hwmodels.platform",
    "Poc": "pregate.economics.poc",
    "Policy": "offload.policy",
    "PopularityProfile": "traces.statistics.popularity",
    "PredictorCurves": "pregate.ask.replays.predictors",
    "PregateError": "traces.errors",
    "Provenance": "traces.routing",
    "Reproduction": "pregate.measured.reproduction",
    "RequestLoad": "pregate.card.job",
    "Residency": "pregate.ask.replays.replay",
    "RoutingTrace": "traces.routing",
    "RunFacts": "offload.policy",
    "RunResult": "pregate.running.measured_run",
    "ServedDesign": "pregate.monitoring.report",
    "Server": "pregate.economics.batching",
    "SimulationResult": "pregate.ask.simulation",
    "SweepFailed": "pregate.sweeps.sweep",
    "Thresholds": "pregate.monitoring.alerts",
    "TraceRecipe": "pregate.sweeps.workloads",
    "Tuned": "pregate.tuning.tuned",
    "Validation": "pregate.validation.outcome",
    "ValidationPlan": "pregate.validation.session",
    "architecture_names": "traces.model.architecture",
    "cache_hits": "pregate.ask.replays.cache_hits",
    "calibrate": "hwmodels.calibrate.calibration",
    "compare": "pregate.ask.comparison",
    "costs": "pregate.economics.costing",
    "crossovers": "pregate.crossover.crossover",
    "explain": "pregate.ask.explanation",
    "explore_page": "pregate.page.writing",
    "fit_dials": "traces.synthesis.fitting",
    "generate": "pregate.trained.generation",
    "hardware_names": "hwmodels.specs.machine_files",
    "import_trace": "pregate.routing_traces",
    "largest_batch": "pregate.ask.largest_batch",
    "load_arrivals": "traces.importers.arrivals",
    "load_assumptions": "pregate.economics.assumptions",
    "load_gate_study": "pregate.trained.gate_study",
    "load_hardware": "pregate.named",
    "load_measurements": "hwmodels.calibrate.measurements",
    "load_model": "pregate.named",
    "load_policy": "pregate.named",
    "load_popularity": "pregate.routing_traces",
    "load_trace": "pregate.routing_traces",
    "lru_curve": "pregate.ask.replays.replay",
    "measure": "runtime.microbench.session",
    "monitor": "pregate.monitoring.report",
    "optimize": "pregate.optima.optimize",
    "plan": "pregate.card.plan",
    "plan_poc": "pregate.economics.poc",
    "poisson_arrivals": "traces.requests",
    "predictors": "pregate.ask.replays.predictors",
    "pregate_from": "runtime.pregated.rewire",
    "rank_machines": "pregate.economics.machine_ranking",
    "record": "runtime.recording.record",
    "reproduce": "pregate.measured.reproduction",
    "residency": "pregate.ask.replays.replay",
    "run": "pregate.running.measured_run",
    "save_trace": "traces.storage",
    "simulate": "pregate.ask.simulation",
    "sweep": "pregate.sweeps.sweep",
    "synthesize": "pregate.routing_traces",
    "trace_statistics": "traces.statistics.locality",
    "train": "pregate.trained.gate_study",
    "tune": "pregate.tuning.tuned",
    "under_arrivals": "pregate.economics.arrivals",
    "validate": "pregate.validation.session",
}

__all__ = [
    "ArrivalReport",
    "ArrivalTrace",
    "Assumptions",
    "BlockView",
    "Buffers",
    "Cache",
    "CacheHits",
    "CapacityExceeded",
    "Card",
    "CaseGroup",
    "CaseWorkload",
    "Comparison",
    "CostReport",
    "Crossovers",
    "Decisions",
    "Device",
    "Dials",
    "Explanation",
    "Fetch",
    "GateStudy",
    "Generation",
    "InvalidInput",
    "LatencyPromise",
    "LatinHypercube",
    "Link",
    "LruCurve",
    "MachineRanking",
    "MachineRecipe",
    "Measurements",
    "MissAction",
    "ModelArchitecture",
    "Modes",
    "MonitorReport",
    "Optimum",
    "Platform",
    "Poc",
    "Policy",
    "PopularityProfile",
    "PredictorCurves",
    "PregateError",
    "Provenance",
    "Reproduction",
    "RequestLoad",
    "Residency",
    "RoutingTrace",
    "RunFacts",
    "RunResult",
    "ServedDesign",
    "Server",
    "SimulationResult",
    "SweepFailed",
    "Thresholds",
    "TraceRecipe",
    "Tuned",
    "Validation",
    "ValidationPlan",
    "architecture_names",
    "cache_hits",
    "calibrate",
    "compare",
    "costs",
    "crossovers",
    "explain",
    "explore_page",
    "fit_dials",
    "generate",
    "hardware_names",
    "import_trace",
    "largest_batch",
    "load_arrivals",
    "load_assumptions",
    "load_gate_study",
    "load_hardware",
    "load_measurements",
    "load_model",
    "load_policy",
    "load_popularity",
    "load_trace",
    "lru_curve",
    "measure",
    "monitor",
    "optimize",
    "plan",
    "plan_poc",
    "poisson_arrivals",
    "predictors",
    "pregate_from",
    "rank_machines",
    "record",
    "reproduce",
    "residency",
    "run",
    "save_trace",
    "simulate",
    "sweep",
    "synthesize",
    "trace_statistics",
    "train",
    "tune",
    "under_arrivals",
    "validate",
]


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
    return sorted([*globals(), *__all__])
