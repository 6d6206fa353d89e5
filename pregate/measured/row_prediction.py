"""One row of a table predicted: the run that it describes, simulated, and what rules of thumb say of the same run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from hwmodels.cost import parts_of, price_figures
from hwmodels.figures import Figures, figures_of
from hwmodels.platform import Platform, load_platform
from hwmodels.specs.spread import SPREAD_KEYS
from hwmodels.stacks.stack_files import stack_names
from offload.decode import Decoded
from offload.metrics import run_metrics
from offload.metrics.metric_probes import find_probes, no_probes
from offload.ops import Lane, OpKind, Work
from offload.placing.workload import Workload, measure_workload
from offload.policy import Policy
from offload.work import expert_copy_work
from pregate.ask.capturing.capture import Captured, capture_request
from pregate.ask.capturing.machine_memory import memory_of
from pregate.ask.capturing.request import Request, check_trace, request
from pregate.ask.decode_middle import middle_tokens
from pregate.ask.largest_batch import largest_batch
from pregate.ask.timing.policy_modes import modes_of
from pregate.engines.unpriced import check_engine
from pregate.measured.isca24.predicted_rows import Workbench
from pregate.measured.isca24.published_rows import Row
from pregate.measured.isca24.table_rows import published_row
from pregate.measured.reproduction import published_activation
from pregate.measured.rows.measured_row import MeasuredRow
from pregate.measured.rows.microbatches import as_microbatches, without_outputs
from pregate.measured.rows.several_cards import check_one_card, check_one_model
from pregate.measured.rules_of_thumb import rules_of_thumb
from pregate.measured.served_rows import ServedRow
from pregate.measured.trace_cache import KeptTraces
from pregate.named import load_model
from simulator.explain.critical_path import ExplainedRun, walk
from simulator.explain.sensitivity import elasticities
from simulator.modes import FIFO
from traces.errors import InvalidInput
from traces.foundation.memoised_values import LatestValues
from traces.model.architecture import ModelArchitecture
from traces.model.formats_by_part import parse_formats
from traces.routing import RoutingTrace


def _copied_bytes_per_s(figures: Figures, model: ModelArchitecture) -> float:
    """Of copies of one expert, the start of each included."""
    copy = expert_copy_work(model, OpKind.FETCH)
    return copy.copy_bytes / float(parts_of(copy, figures).total_s)


def _read_bytes_per_s(figures: Figures, _: ModelArchitecture) -> float:
    n_bytes = 1 << 30
    return n_bytes / float(parts_of(Work(OpKind.CPU_EXPERT, hbm_bytes=n_bytes), figures).total_s)


_TIMES = {
    "decode_tokens_per_s": "tpot_s",
    "microbatch_tokens_per_s": "tpot_s",
    "prefill_tokens_per_s": "ttft_s",
    "tokens_per_s": "makespan_s",
    "total_tokens_per_s": "makespan_s",
    "requests_per_s": "makespan_s",
    "e2el": "makespan_s",
    "ttft": "ttft_s",
    "tpot": "tpot_s",
    "moe_layer_latency": "moe_layer_latency_s",
}
"""Metrics that are times, or rates by them: the time, as `simulator.explain.sensitivity` names it."""

_OF_MACHINES = {"h2d_bytes_per_s": _copied_bytes_per_s, "cpu_bytes_per_s": _read_bytes_per_s}
"""Metrics of a machine and an expert, no run."""


_MOST_OPS, _MOST_CELLS = 1 << 19, 1 << 25
"""Ops of the schedules, and routing cells of the traces, that are kept for other rows, which a table asks one after the
other: 30 and 65 MB. What a process touches for the first time may cost as much as what is made in it."""


_MOST_WORKLOADS = 1 << 12


class _TraceShape(NamedTuple):
    """A synthetic trace of a model, by what it is made from; `context` tokens are there before it. `in_passes`: of a
    prompt that is read `batch` tokens at a time. `random_tokens`: of no text.
    """

    model: str
    top_k: int
    n_prompt: int
    n_output: int
    batch: int
    context: int
    in_passes: bool = False
    random_tokens: bool = False


class RowBench:
    """Predicts rows; models, traces and schedules that rows share are made once, as long as the latest are kept."""

    def __init__(self, seed: int = 0, overrides: Mapping[str, str] | None = None, hardware: str | None = None) -> None:
        self.seed, self._overrides, self._hardware = seed, dict(overrides or {}), hardware
        self._platforms: dict[Any, Platform] = {}
        self._models: dict[tuple[str, str], ModelArchitecture] = {}
        self._runs = LatestValues[Captured](_MOST_OPS, lambda run: len(run.decoded.schedule))
        self._written = LatestValues[Decoded](_MOST_OPS, lambda decoded: len(decoded.schedule))
        self._timed: tuple[Captured, Platform, ExplainedRun] | None = None  # the last, which several questions are of
        self._traces = KeptTraces(seed, _MOST_CELLS)
        self._asked = LatestValues[Workload](_MOST_WORKLOADS, lambda _: 1)
        self._workloads: dict[Any, Workbench] = {}
        self._last_served: tuple[Any, ServedRow, Platform] | None = None

    def platform(self, row: MeasuredRow, constants: Mapping[str, float] | None = None) -> Platform:
        """The machine of a row, `constants` in place of what is claimed. Raises `InvalidInput` or `UnknownName`."""
        overrides: dict[str, float | str] = {}
        check_one_model(row.model)
        if self._hardware is None:
            check_one_card(row.hardware, measured=any(key.startswith("stack.") for key in row.overrides))
            overrides |= {key: value for key, value in (("host", row.host), ("link", row.link)) if value}
        if row.stack not in stack_names():
            check_engine(row.stack)
        overrides |= row.overrides
        chosen = {**overrides, **self._overrides, **(constants or {})}
        key = (self._hardware or row.hardware, row.stack or None, tuple(chosen.items()))
        found = self._platforms.get(key)
        if found is None:
            found = self._platforms[key] = load_platform(key[0], key[1], chosen)
        return found

    def binding_constant(self, row: MeasuredRow) -> str:
        """The constant of the stack that scales what a run of `row` spends most time in: host, link or kernels."""
        hw = self.platform(row)
        timeline = self._explained(self._run(row, hw), hw).timeline
        constants = {Lane.CPU: "cpu_efficiency", Lane.H2D: "link_efficiency", Lane.COMPUTE: "hbm_efficiency"}
        return f"stack.{constants[max(constants, key=timeline.busy_s)]}"

    def model(self, row: MeasuredRow) -> ModelArchitecture:
        """The model of a row. Raises `UnknownName`, `InvalidFile` or `InvalidInput`."""
        key = row.model, row.formats
        if key not in self._models:
            self._models[key] = load_model(row.model, formats=parse_formats(row.formats))
        return self._models[key]

    def predict(self, row: MeasuredRow, constants: Mapping[str, float] | None = None) -> float:
        """The metric of `row`, in its unit. Raises as `pregate.simulate`."""
        hw = self.platform(row, constants)
        if row.metric in _OF_MACHINES:
            return _OF_MACHINES[row.metric](figures_of(hw), self.model(row))
        if row.metric == "model_bytes":
            return float(self.model(row).total_bytes)
        if row.is_of_isca24:
            bench, asked = self._published(row, hw)
            return bench.value(asked) * (1e-3 if row.metric == "moe_layer_latency" else 1.0)
        if row.load:
            return self._served(row, hw).predicted
        captured = self._run(row, hw)
        workload, decoded = captured.workload, captured.decoded
        if row.metric not in _TIMES and row.metric != "peak_hbm_bytes":
            if row.metric == "hit_rate":
                return decoded.n_hits / decoded.n_lookups if decoded.n_lookups else 0.0
            return float(workload.n_active)
        timeline, trace = self._explained(captured, hw).timeline, captured.trace
        match row.metric:
            case "decode_tokens_per_s" | "microbatch_tokens_per_s":
                return workload.n_running / run_metrics.tpot_s(timeline, trace)["mean"]
            case "prefill_tokens_per_s":
                return workload.n_running * row.input_tokens / run_metrics.ttft_s(timeline)
            case "tokens_per_s":
                return workload.n_output_tokens / timeline.makespan_s
            case "total_tokens_per_s":
                return (workload.n_output_tokens + workload.n_running * row.input_tokens) / timeline.makespan_s
            case "requests_per_s":
                return workload.n_running / timeline.makespan_s
            case "e2el":
                return timeline.makespan_s
            case "ttft":
                return run_metrics.ttft_s(timeline)
            case "tpot":
                return run_metrics.tpot_s(timeline, trace)["mean"]
            case "moe_layer_latency":
                return run_metrics.moe_layer_latency_s(timeline, run_metrics.decode_steps(trace))
            case _:
                return float(timeline.peak_hbm_bytes)

    def elasticities(self, row: MeasuredRow, constants: Mapping[str, float] | None = None) -> dict[str, float]:
        """d ln(time behind the metric) / d ln(number), by the numbers that scatter; none of what is no time."""
        if (row.metric not in _TIMES and not row.load) or row.is_of_isca24:
            return {}
        hw = self.platform(row, constants)
        if row.load:
            return self._served(row, hw).elasticities if row.is_timed else {}
        captured = self._run(row, hw)
        schedule = captured.decoded.schedule
        figures = figures_of(hw).for_works(schedule.works)
        time = _TIMES[row.metric]
        probes = no_probes(schedule) if time == "makespan_s" else find_probes(schedule, captured.trace)
        found = elasticities(self._explained(captured, hw), probes, figures, time, SPREAD_KEYS)
        return {key: found[key] for key in SPREAD_KEYS if found.get(key)}

    def copies(self, row: MeasuredRow, constants: Mapping[str, float] | None = None) -> bool:
        """Whether anything is copied to the card in a run of `row`."""
        schedule = self._run(row, self.platform(row, constants)).decoded.schedule
        return bool((schedule.lane == Lane.H2D).any())

    def _published(self, row: MeasuredRow, hw: Platform) -> tuple[Workbench, Row]:
        """The bench of Pre-gated MoE's workload on `hw`, and the row as it knows it: whole runs are simulated."""
        if row.formats or row.placement or "@" in row.policy:
            raise InvalidInput(f"{row.name}: routing {row.routing} has no formats and no placement")
        key = memory_of(hw)
        found = self._workloads.get(key)
        if found is None:
            assumed = published_activation(load_platform(row.hardware, row.stack or None))
            found = self._workloads[key] = Workbench(hw, assumed, self.seed)
        asked = published_row(
            row.model, row.policy, row.batch, row.routing, row.expert_tier, row.metric, row.value, row.name
        )
        return (found if found.platform == hw else found.on(hw)), asked

    def rules_of_thumb(self, row: MeasuredRow) -> dict[str, float]:
        """What two rules say of the run of a row; none of what is no time, or of requests that queue."""
        if not row.is_timed or row.load:
            return {}
        hw = self.platform(row)
        if row.is_of_isca24:
            bench, asked = self._published(row, hw)
            captured = bench.captured(asked)
        else:
            captured = self._run(row, hw)
        return rules_of_thumb(row, captured, hw)

    def _served(self, row: MeasuredRow, hw: Platform) -> ServedRow:
        """The requests of a row served; its metrics share them, one after the other."""
        said = (
            row.model, row.formats, row.policy, row.placement, row.load, row.batch, row.input_tokens,
            row.output_tokens, row.context_tokens, row.expert_tier, row.routing, id(hw),
        )  # fmt: skip
        if self._last_served is None or self._last_served[0] != said:
            self._last_served = said, ServedRow.of(row, self.model(row), hw, self.seed), hw
        return replace(self._last_served[1], row=row)

    def _explained(self, captured: Captured, hw: Platform) -> ExplainedRun:
        """The times of a run on `hw`. Raises `NotFifo` of a design that cuts its copies."""
        if self._timed is None or self._timed[0] is not captured or self._timed[1] is not hw:
            modes_of(captured.policy, FIFO).require_fifo()
            schedule = captured.decoded.schedule
            self._timed = captured, hw, walk(schedule, price_figures(schedule.works, figures_of(hw), shares=False))
        return self._timed[2]

    def _run(self, row: MeasuredRow, hw: Platform) -> Captured:
        model = self.model(row)
        n_prompt, n_output, context = _shape(row, model)
        placed = row.design()
        batch = row.batch or self._largest(row, model, placed, hw)
        in_passes = row.metric == "microbatch_tokens_per_s"
        drawn = row.is_of_random_tokens
        shape = _TraceShape(model.name, model.top_k, n_prompt, n_output, batch, context, in_passes, drawn)
        key = (model, placed, row.expert_tier, memory_of(hw), shape)
        return self._runs.of(key, lambda: self._capture(model, hw, shape, placed, row.expert_tier))

    def _capture(
        self, model: ModelArchitecture, hw: Platform, shape: _TraceShape, placed: Policy, expert_tier: str
    ) -> Captured:
        """A run of `placed`; machines that grant it the same memory share what is written."""
        trace = self._trace(model, shape)
        memory = memory_of(hw)  # whatever is stored so: somebody ran it
        asked = request(
            model, memory, trace, placed, expert_tier=expert_tier, workload=self._workload(model, shape, trace)
        )
        bare = replace(asked, plan=replace(asked.plan, static_bytes=0))
        key = (model, shape, bare.policy, bare.execution, expert_tier, bare.plan, bare.placed)
        decoded = self._written.of(key, lambda: _decoded(bare, shape))
        static_bytes = decoded.schedule.static_bytes + asked.plan.static_bytes
        return Captured(asked, replace(decoded, schedule=decoded.schedule.with_static_bytes(static_bytes)))

    def _largest(self, row: MeasuredRow, model: ModelArchitecture, design: Policy, hw: Platform) -> int:
        """The batch of a row that fills the memory of its machine, with keys and values of the whole row."""

        def made(n: int) -> RoutingTrace:
            counts = row.input_tokens, max(row.output_tokens, 2), n, row.context_tokens
            shape = _TraceShape(model.name, model.top_k, *counts, random_tokens=row.is_of_random_tokens)
            return self._trace(model, shape)

        return largest_batch(model, hw, design, made, expert_tier=row.expert_tier)

    def _trace(self, model: ModelArchitecture, shape: _TraceShape) -> RoutingTrace:
        found = self._traces.of(model, shape.n_prompt, shape.n_output, shape.batch, shape.random_tokens)
        if shape.in_passes:
            return as_microbatches(found, shape.context)
        return replace(found, position=found.position + np.int32(shape.context)) if shape.context else found

    def _workload(self, model: ModelArchitecture, shape: _TraceShape, trace: RoutingTrace) -> Workload:
        """What a trace asks of memory, measured once for all designs and machines."""

        def measured() -> Workload:
            check_trace(model, trace)
            return measure_workload(model, trace.steps())

        return self._asked.of((model, shape), measured)


def _decoded(asked: Request, shape: _TraceShape) -> Decoded:
    decoded = capture_request(asked).decoded
    return replace(decoded, schedule=without_outputs(decoded.schedule)) if shape.in_passes else decoded


def _shape(row: MeasuredRow, model: ModelArchitecture) -> tuple[int, int, int]:
    """Tokens of the prompt that is run, tokens generated, and those whose keys and values are there before.

    A decoder that follows an encoder has what that has read of the whole prompt.
    """
    if row.metric in ("ttft", "prefill_tokens_per_s"):
        return row.input_tokens, 2, row.context_tokens
    if _TIMES.get(row.metric) == "makespan_s":
        return row.input_tokens, max(row.output_tokens, 2), row.context_tokens
    if model.is_encoder_decoder:
        return row.input_tokens, middle_tokens(row.input_tokens, row.output_tokens)[0], row.context_tokens
    return 1, *middle_tokens(row.input_tokens, row.output_tokens, row.context_tokens)
