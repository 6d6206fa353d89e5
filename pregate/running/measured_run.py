"""One measurement: model + routing trace + policy + the machine at hand -> schedule -> real time -> metrics.

A replay reports what `pregate.simulate` predicts, under the same names. PyTorch is loaded on first use.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from hwmodels.quantity import ReadOnly
from offload.metrics.metric_names import WHOLE_METRICS, Metrics
from offload.metrics.prefetches import Prefetches
from offload.ops import Lane
from offload.policy import Cache, Policy
from offload.timeline import Timeline
from pregate.ask.capturing.capture import Captured
from pregate.ask.capturing.request import Request
from pregate.ask.capturing.starting_cache import resident_set
from pregate.ask.result_display import fields_of, to_dataframe
from pregate.ask.timing.captured_metrics import metrics_of, prefetches_of
from pregate.running.devices import Device, capture_on, make_backend, memory_of_device, resolve
from traces.errors import InvalidInput, check_least
from traces.model.architecture import ModelArchitecture
from traces.phase import Phase
from traces.routing import RoutingTrace

if TYPE_CHECKING:
    import pandas as pd

    from runtime.machine.watch import Clock, Seen
    from runtime.model.weights import Experts
    from runtime.programs.program import ExpertKey
    from runtime.run import MeasuredRun

__all__ = [
    "Device",
    "RunResult",
    "capture_on",
    "execute_captured",
    "initial_slots",
    "memory_of_device",
    "resolve",
    "run",
]

_MOVING = (Lane.H2D, Lane.D2H, Lane.DISK)


@dataclass(frozen=True, slots=True)
class RunResult(Metrics):
    """What a policy did to one workload on this machine; definitions in `offload.metrics`, names of `SimulationResult`.

    Latencies in seconds, sizes in bytes, rates as fractions: medians over the `n_runs` that count. Of `n_disturbed`
    runs beside other work none counts; where all were, the less disturbed half does without what interrupted its
    threads, and `disturbance` says what was seen, None otherwise. `scatter`: of the time of the runs that count, the
    standard deviation of the logarithm. `device`: what it calls itself; `pool_bytes`: HBM taken, by what for;
    `moved_bytes`: by lane; `output_digest`: of the final hidden states, the same for every policy; `prefetches`: what a
    policy that guesses brought ahead, None of any other. `timeline`: of the run whose makespan is the (lower) median.
    """

    policy: str
    model: str
    backend: str
    device: str
    n_output_tokens: int
    n_expert_slots: int
    schedule_digest: str
    trace_digest: str
    output_digest: str
    n_runs: int
    n_disturbed: int
    disturbance: str | None
    scatter: float | None
    pool_bytes: Mapping[str, int]
    moved_bytes: Mapping[str, int]
    prefetches: Prefetches | None
    timeline: Timeline

    def to_dict(self) -> dict[str, Any]:
        """Every field but the timeline, JSON-ready."""
        values = fields_of(self, metrics_before="n_output_tokens")
        values["prefetches"] = None if self.prefetches is None else self.prefetches.to_dict()
        return {name: dict(value) if isinstance(value, Mapping) else value for name, value in values.items()}

    def to_row(self) -> dict[str, Any]:
        """As `to_dict`, flat: `moved_bytes.h2d`, `pool_bytes.KV cache`."""
        row: dict[str, Any] = {}
        for name, value in self.to_dict().items():
            row |= {f"{name}.{key}": part for key, part in value.items()} if isinstance(value, dict) else {name: value}
        return row

    def to_dataframe(self) -> pd.DataFrame:
        """One row. Needs pandas (the extra `notebooks`)."""
        return to_dataframe([self.to_row()])


def run(
    model: ModelArchitecture,
    trace: RoutingTrace,
    policy: str | Policy = "pregate",
    *,
    device: Device = Device(),  # noqa: B008 (frozen)
    cache: Cache | None = None,
    expert_tier: str = "dram",
    repeats: int = 1,
    warmup: bool | None = None,
    seed: int = 0,
    say: Callable[[str], None] = lambda _: None,
) -> RunResult:
    """Execute `policy` on `trace` for real, `repeats` times, with random weights of `seed`.

    `policy`, `cache`, `expert_tier` as of `pregate.simulate`. `warmup`: one more run first, which does not count (None:
    when there are repeats): on a CUDA device first calls of kernels load them. `say` hears what is being done.

    Raises `InvalidInput` for a device or trace that cannot be had, `CapacityExceeded` when a memory is too small, which
    is known before any is taken, `InvalidFile` when experts cannot be stored, `LaneFailure` when an op fails,
    `OutputMismatch` when runs end in different hidden states. Whatever happens, no thread and no file is left.
    """
    if repeats < 1:
        raise InvalidInput(f"repeats = {repeats} is below 1: at least one run is needed")
    check_least("seed", seed, 0)
    device = resolve(device)
    say(f"writing the schedule of {policy if isinstance(policy, str) else policy.name}")
    captured = capture_on(device, model, trace, policy, cache=cache, expert_tier=expert_tier)
    if captured.policy.is_exact and captured.decoded.n_changed:
        raise InvalidInput(
            f"{captured.policy.name} executes other experts than the gates chose, or the same at fewer bits: the "
            f"runtime executes what they chose, simulate it instead"
        )
    from runtime.model.weights import Experts

    experts = Experts(model, seed, make_backend(device).allocate_host)
    if repeats > 1 if warmup is None else warmup:
        say("warming up")
        execute_captured(captured, device, experts)
    from runtime.machine.watch import Clock

    runs, seen, clock = [], [], Clock(any_core=device.backend == "cuda")
    for i in range(repeats):
        say(f"run {i + 1} of {repeats}")
        done, beside = _watched(captured, device, experts, clock, prove=i == 0)
        runs.append(done)
        seen.append(beside)
    return _result(captured, device, runs, seen)


def execute_captured(
    captured: Captured, device: Device, experts: Experts | None = None, *, prove: bool = True
) -> MeasuredRun:
    """Run a captured schedule once on `device`, from the experts that its policy starts with.

    `experts`: weights to share between runs. `prove`: as of `runtime.run.execute`; once a schedule is enough. Raises as
    that does.
    """
    from runtime.run import execute

    speculation = captured.policy.speculation
    if speculation is not None and speculation.draft_name != "none":
        raise InvalidInput(
            f"{captured.policy.name}: the runtime verifies drafts and makes none: leave out "
            f"draft={speculation.draft_name}, or ask compare or simulate"
        )
    if speculation is not None and speculation.is_tree:
        raise InvalidInput(
            f"{captured.policy.name}: the runtime verifies drafts that are chains, with a key and a value a place: say "
            f"gamma=, or ask compare or simulate"
        )
    if not captured.policy.is_exact:
        raise InvalidInput(
            f"{captured.policy.name} skips or rounds experts, by which a model makes other tokens than were recorded: "
            f"ask compare or simulate, or generate with a model of one's own"
        )
    return execute(
        make_backend(device),
        captured.model,
        captured.trace.steps(),
        captured.decoded.schedule,
        initial=initial_slots(captured.request),
        experts=experts,
        storage=device.storage,
        prove=prove,
    )


def initial_slots(asked: Request) -> dict[int, ExpertKey]:
    """The experts in slots before the start: the resident ones, those of a warm cache, those a placement keeps."""
    from runtime.programs.program import cached_slots, kept_slots

    model, plan = asked.model, asked.plan
    kept = [(layer, experts) for layer, experts in enumerate(asked.placed.kept) if experts is not None]
    if asked.policy.resident:
        whole = [(layer, range(model.n_experts)) for layer, experts in enumerate(asked.placed.kept) if experts is None]
        return kept_slots([*whole, *kept], 0)
    cache = resident_set(asked)
    cached = {} if cache is None else cached_slots(cache, plan.n_buffers)
    return cached | kept_slots(kept, plan.n_buffers + plan.n_cache_slots)


def _watched(
    captured: Captured, device: Device, experts: Experts, clock: Clock, *, prove: bool
) -> tuple[MeasuredRun, Seen]:
    """A run, and what else the machine did during it."""
    from runtime.machine.watch import LoadWatch

    gc.collect()  # the pools of the run before
    with LoadWatch(clock) as watch:
        done = execute_captured(captured, device, experts, prove=prove)
    return done, watch.seen


def _result(captured: Captured, device: Device, runs: Sequence[MeasuredRun], seen: Sequence[Seen]) -> RunResult:
    from runtime.machine.device import describe_device
    from runtime.machine.watch import counting
    from runtime.run import check_same_output, counted_timelines

    output = check_same_output({f"run {i + 1}": one for i, one in enumerate(runs)})
    disturbances = [one.disturbance() for one in seen]
    counted = counted_timelines(runs, seen)
    middle, shown = sorted(counted, key=lambda one: one[1].makespan_s)[(len(counted) - 1) // 2]
    measured = [metrics_of(captured, timeline, one.lookups[Phase.DECODE]) for one, timeline in counted]
    logs = np.log([timeline.makespan_s for _, timeline in counted])
    medians: dict[str, Any] = {name: float(np.median([one[name] for one in measured])) for name in measured[0]}
    medians |= {name: int(medians[name]) for name in WHOLE_METRICS}
    return RunResult(
        policy=captured.policy.name,
        model=captured.model.name,
        backend=device.backend,
        device=describe_device(device.backend)["name"],
        **medians,
        n_output_tokens=captured.workload.n_output_tokens,
        n_expert_slots=captured.plan.n_slots,
        schedule_digest=captured.decoded.schedule.digest,
        trace_digest=captured.trace.digest,
        output_digest=output,
        n_runs=len(counted),
        n_disturbed=sum(line is not None for line in disturbances),
        disturbance=None if None in disturbances else disturbances[counting(seen)[0]],
        scatter=float(logs.std(ddof=1)) if len(logs) > 1 else None,
        pool_bytes=ReadOnly(middle.pool_bytes),
        moved_bytes=ReadOnly({lane.name.lower(): middle.moved_bytes[lane] for lane in _MOVING}),
        prefetches=prefetches_of(captured, shown),
        timeline=shown,
    )
