"""The published measurements of Pre-gated MoE (ISCA 2024): rows in, predictions beside them out.

A row is one figure: model, design, batch, forced number of active experts, cache policy and ratio, expert tier and
metric. The workload behind it is described in the paper; how its tokens spread over experts is not, so that part is
an assumption (`pregate.measured.isca24.natural_routing`).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from dataclasses import dataclass

from hwmodels.cost import price_figures
from hwmodels.figures import figures_of
from hwmodels.platform import Platform
from offload.metrics import run_metrics
from offload.placing.workload import Workload, measure_workload
from offload.policies import policy_named
from offload.policy import Cache
from offload.slots.memory import CapacityExceeded
from pregate.ask.capturing.capture import Captured, capture_request
from pregate.ask.capturing.request import Request, check_trace, request
from pregate.measured.isca24.natural_routing import INPUT_TOKENS, OUTPUT_TOKENS, Activation, natural_routing
from pregate.measured.isca24.published_rows import EVICTIONS, Row
from pregate.routing_traces import synthesize
from simulator import recurrence
from traces.model.architecture import ModelArchitecture, load_architecture
from traces.routing import RoutingTrace


@dataclass(frozen=True, slots=True)
class RowPrediction:
    """A row and what was predicted for it, in the row's unit; NaN when the configuration does not fit the machine."""

    row: Row
    predicted: float

    @property
    def error(self) -> float:
        """Signed relative error; for hit rates the difference, as a fraction."""
        if self.row.metric == "cache_hit_rate":
            return self.predicted - self.row.value
        return self.predicted / self.row.value - 1.0


MANY_SCHEDULES = 24
"""Configurations that are timed by compiled code: in Python they take longer than that takes to load."""


@dataclass(frozen=True, slots=True)
class RowTimes:
    """What the rows of one configuration state of its run."""

    moe_layer_latency_s: float
    tokens_per_s: float
    hit_rate: float


class Workbench:
    """Predicts rows on one platform; what several rows share is made once, and no schedule where memory is asked for.

    `compiled`: whether schedules are written and timed by compiled code, None: the large ones.
    """

    def __init__(
        self, platform: Platform, activation: Activation, seed: int = 0, *, compiled: bool | None = None
    ) -> None:
        self.platform, self.activation, self.seed, self.compiled = platform, activation, seed, compiled
        self._captured: dict[tuple[object, ...], Captured] = {}
        self._timed: dict[tuple[object, ...], RowTimes] = {}
        self._models: dict[str, ModelArchitecture] = {}
        self._traces: dict[tuple[str, int, int, bool], tuple[RoutingTrace, Workload]] = {}

    def on(self, platform: Platform) -> Workbench:
        """The same workload on another platform: schedules are kept where the plan of HBM is the same."""
        other = Workbench(platform, self.activation, self.seed, compiled=self.compiled)
        if platform.constant("reserve_bytes") == self.platform.constant("reserve_bytes"):
            other._captured = self._captured
        other._models, other._traces = self._models, self._traces
        return other

    def predict(self, rows: Iterable[Row]) -> list[RowPrediction]:
        """Predict every row. Raises `UnknownName` for an unknown model."""
        return [RowPrediction(row, self._predict_or_nan(row)) for row in rows]

    def _predict_or_nan(self, row: Row) -> float:
        try:
            return self.value(row)
        except CapacityExceeded:
            return math.nan

    def value(self, row: Row) -> float:
        """The metric of `row` in its unit. Raises `CapacityExceeded` where the configuration does not fit."""
        model = self.model(row.model)
        match row.metric:
            case "max_active_experts":
                return float(self._pregated(model, row).workload.n_active)
            case "peak_gpu_memory":
                return self._peak_memory(model, row)
            case "moe_layer_latency":
                return self._run(model, row).moe_layer_latency_s * 1e3
            case "throughput":
                return self._run(model, row).tokens_per_s
            case _:
                return self._run(model, row).hit_rate

    def model(self, name: str) -> ModelArchitecture:
        """A model by name, read once. Raises `UnknownName`."""
        if name not in self._models:
            self._models[name] = load_architecture(name)
        return self._models[name]

    def _run(self, model: ModelArchitecture, row: Row) -> RowTimes:
        key = row.configuration
        if key not in self._timed:
            captured = self._capture(model, row)
            decoded, small = captured.decoded, None if self.compiled is None else not self.compiled
            costs = price_figures(decoded.schedule.works, figures_of(self.platform), shares=False)
            timeline = recurrence.simulate(decoded.schedule, costs, small=small)
            self._timed[key] = RowTimes(
                run_metrics.moe_layer_latency_s(timeline, run_metrics.decode_steps(captured.trace)),
                captured.workload.n_output_tokens / timeline.makespan_s,
                decoded.n_hits / decoded.n_lookups if decoded.n_lookups else 0.0,
            )
        return self._timed[key]

    def captured(self, row: Row) -> Captured:
        """The schedule of the row's configuration. Raises as `value`."""
        return self._capture(self.model(row.model), row)

    def _capture(self, model: ModelArchitecture, row: Row) -> Captured:
        key = row.configuration
        if key not in self._captured:
            self._captured[key] = capture_request(self._request(model, row), compiled=self.compiled)
        return self._captured[key]

    def _request(self, model: ModelArchitecture, row: Row) -> Request:
        """What the row's configuration asks of memory."""
        cache = None
        if row.cache_ratio and row.cache_policy != "none":
            cache = Cache(EVICTIONS[row.cache_policy], ratio=row.cache_ratio, warm=True)
        trace, workload = self._trace(model, row)
        return request(
            model, self.platform, trace, row.design, cache=cache, expert_tier=row.expert_tier, workload=workload
        )

    def _pregated(self, model: ModelArchitecture, row: Row) -> Request:
        """The pre-gated run of a row's workload, from which the authors count for every design."""
        return self._request(model, dataclasses.replace(row, design="pregate"))

    def _peak_memory(self, model: ModelArchitecture, row: Row) -> float:
        """As the authors counted it: the pre-gated run's peak with its expert buffers exchanged for the design's.

        Buffers (infer_peak_mem.py of their code): 2 x most active experts for pregate, once that for on_demand,
        all experts of two layers for prefetch_all, all experts of the *decoder* for gpu_only.
        """
        pregated = self._pregated(model, row)
        active = pregated.workload.n_active
        decoder_layers = model.n_moe_layers - model.n_encoder_moe_layers
        held = {
            "pregate": 2 * active,
            "on_demand": active,
            "prefetch_all": 2 * model.n_experts,
            "gpu_only": decoder_layers * model.n_experts,
        }
        return float(pregated.plan.static_bytes + held[row.design] * model.expert_bytes)

    def _trace(self, model: ModelArchitecture, row: Row) -> tuple[RoutingTrace, Workload]:
        pregated = policy_named(row.design).lookahead > 0 and not row.forced_active
        key = (row.model, row.batch, row.forced_active, pregated)
        if key not in self._traces:
            trace = (
                synthesize(model, INPUT_TOKENS, OUTPUT_TOKENS, row.batch, n_active=row.forced_active)
                if row.forced_active
                else natural_routing(model, row.batch, self.activation, self.seed, pregated=pregated)
            )
            check_trace(model, trace)
            self._traces[key] = trace, measure_workload(model, trace.steps())
        return self._traces[key]
