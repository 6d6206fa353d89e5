"""One prediction in memory bounded by the step, not by the trace: decoded, priced and timed part by part."""

from __future__ import annotations

import numpy as np

from hwmodels.cost import price_figures
from hwmodels.figures import Figures, figures_of
from hwmodels.fits.coverage import FitCoverage, coverage
from hwmodels.platform import Platform
from offload.decode import DecodeStream
from offload.lanes import kind_of_lane
from offload.metrics.prefetches import PrefetchTally, named_by
from offload.metrics.run_metrics import decode_steps, summed_up
from offload.ops import OpKind
from offload.schedule import ScheduleDigest
from pregate.ask.capturing.capture import watch_own_policy
from pregate.ask.capturing.request import Request
from pregate.ask.capturing.starting_cache import resident_set
from pregate.ask.capturing.starting_host_cache import storage_of
from pregate.ask.simulation import SimulationResult, asked_of, changed_share, host_figures
from pregate.ask.timing.captured_metrics import brings_guesses
from pregate.ask.timing.intervals import Interval, path_intervals
from simulator.streamed.stream import Stream
from traces.phase import Phase


def stream_request(asked: Request, hw: Platform) -> SimulationResult:
    """What `simulate` says of a request, but for the timeline, which it does not keep; its intervals hold where no
    bottleneck moves (`pregate.ask.timing.intervals.path_intervals`).

    Its digest is that of the whole schedule. Raises `CapacityExceeded` when the experts of one block do not fit.
    """
    watch_own_policy(asked)
    figures = figures_of(hw).for_works(())
    while True:
        found = _stream(asked, hw, figures)
        if isinstance(found, SimulationResult):
            return found
        figures = found


def _stream(asked: Request, hw: Platform, figures: Figures) -> SimulationResult | Figures:
    """The result at prices by `figures`, or others to begin anew with, where a part turns out to ask for them.

    Whether a schedule fetches or is cut decides what its ops take (`Figures.for_works`), and only its end tells.
    """
    trace, plan = asked.trace, asked.plan
    parts = DecodeStream(
        asked.model,
        trace.steps(),
        asked.policy,
        asked.execution,
        n_buffers=plan.n_buffers,
        cache=resident_set(asked),
        disk=asked.tier.on_disk,
        placed=asked.placed,
        through=storage_of(asked),
        low=plan.low,
    )
    static_bytes = plan.static_bytes + parts.warm_bytes
    is_own = hw.fit is not None and hw.fit.hardware == hw.hardware  # a fit of another machine says nothing of this one
    stream, digest = Stream(decode_steps(trace), static_bytes, with_paths=is_own), ScheduleDigest()
    covered, read_bytes = FitCoverage(), 0
    timed = hw.fit is not None and bool(hw.fit.laws or hw.fit.gemm_tables)  # coverage counts runs
    tally = PrefetchTally(named_by(asked.model, trace, asked.execution)) if brings_guesses(asked.policy) else None
    for part in parts:
        seen = figures.with_works(part.works)
        if (seen.offloaded, seen.is_cut) != (figures.offloaded, figures.is_cut):
            return seen
        runs = np.bincount(part.columns["cost"], minlength=len(part.works)).tolist() if timed else None
        covered = covered.plus(coverage(part.works, hw, runs))
        stream.feed(part, price_figures(part.works, figures))
        if tally is not None:
            tally.feed(part.columns, part.works, stream.part_end_s)
        digest.update(part.columns, part.works)
        read_bytes += int(part.columns["bytes"][part.columns["kind"] == OpKind.DISK_READ].sum())
    steps, ends = stream.step_ends
    n_lookups, n_hits = parts.lookups[Phase.DECODE]
    found = summed_up(
        trace, steps, ends, stream.totals, n_output_tokens=asked.workload.n_output_tokens, lookups=(n_lookups, n_hits)
    )
    bound_s = float(max(stream.lane_s.max(), stream.critical_path_s))
    on_lane = stream.lane_s.max() >= stream.critical_path_s
    intervals = _intervals(stream, asked, hw, figures) if not covered.beyond else {}
    return SimulationResult(
        **asked_of(asked, hw, covered),
        output="approximate" if parts.n_changed else asked.output,
        **found,
        bound_s=bound_s,
        binding=kind_of_lane(int(stream.lane_s.argmax())).name if on_lane else "critical path",
        **host_figures(plan.n_host_slots, parts.host_lookups, read_bytes),
        schedule_digest=digest.of(static_bytes),
        changed_share=changed_share(parts.n_changed, asked),
        moe_layer_latency_ci95_s=intervals.get("moe_layer_latency_s"),
        tokens_per_s_ci95=intervals.get("tokens_per_s"),
        prefetches=None if tally is None else tally.found(_n_missing(parts), asked.model.expert_bytes),
        timeline=None,
    )


def _n_missing(parts: DecodeStream) -> int:
    """Experts that gates named and that were not resident."""
    return sum(n_lookups - n_hits for n_lookups, n_hits in parts.lookups.values())


def _intervals(stream: Stream, asked: Request, hw: Platform, figures: Figures) -> dict[str, Interval | None]:
    """The intervals of a result from the critical paths of its parts."""
    if stream.paths is None:
        return {}
    makespan, layers = stream.paths
    paths = {"makespan_s": (makespan, stream.makespan_s), "layers_s": (layers, stream.layers_s)}
    found = path_intervals(paths, hw, figures, asked.policy, np.random.default_rng(0))
    n_tokens, n_layers = asked.workload.n_output_tokens, stream.n_layers
    makespan_s, layers_s = found["makespan_s"], found["layers_s"]
    return {
        "tokens_per_s": makespan_s and (n_tokens / makespan_s[1], n_tokens / makespan_s[0]),
        "moe_layer_latency_s": layers_s and (layers_s[0] / n_layers, layers_s[1] / n_layers),
    }
