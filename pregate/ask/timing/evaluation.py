"""A captured schedule on many machines at once: every field of a simulation's result, as arrays.

FIFO machines go through the batched recurrence, others through the event engine, one by one. What is said of a machine
does not depend on the machines it is evaluated with.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwmodels.cost import Costs, price_figures
from hwmodels.figures import figures_of
from hwmodels.platform import Platform
from offload.metrics import run_metrics
from offload.metrics.metric_probes import find_probes
from offload.ops import Lane
from pregate.ask.calibration_summary import calibration, coverage_of
from pregate.ask.capturing.capture import Captured
from pregate.ask.simulation import changed_share, host_figures_of, output_of
from pregate.ask.timing.captured_metrics import metrics_of, prefetches_of
from pregate.ask.timing.policy_modes import figures_under, modes_of
from pregate.ask.timing.prefetch_arrays import ahead_of, ahead_on
from simulator.batched import batch
from simulator.batched.batch import Compiled
from simulator.events import event_engine
from simulator.explain.bounds import lower_bounds
from simulator.modes import FIFO, Modes

_BINDING = np.array([*(lane.name for lane in Lane), "critical path"])
"""By the number that `batch` gives for what a bound comes from; -1 is the last."""


def evaluate(
    captured: Captured,
    hw: Platform,
    values: Mapping[str, NDArray[np.float64]],
    n_machines: int,
    *,
    modes: Modes = FIFO,
    draws: int = 0,
    seed: int = 0,
    ready: Compiled | None = None,
) -> dict[str, NDArray[Any]]:
    """Every field of a `SimulationResult` but names, digests and the timeline, (n_machines,), for machines that differ
    from `hw` in `values` (figure keys -> (n_machines,) SI).

    `draws`: machines drawn from the fit's covariance for the intervals `..._ci95...`, (n_machines, 2); 0 leaves them
    out. `ready`: what `made_ready` makes of `captured`, where it is known. HBM is what the capture was granted. Raises
    `UnknownName` for a key that is no figure.
    """
    base = figures_of(hw)
    modes = modes_of(captured.policy, modes)
    figures = figures_under(modes, base.with_values(values))
    costs = price_figures(captured.decoded.schedule.works, figures, n_machines, shares=not modes.is_fifo)
    fields = (
        _fifo(captured, ready or made_ready(captured), costs) if modes.is_fifo else _by_events(captured, costs, modes)
    )
    workload = captured.workload
    constants = {
        "n_output_tokens": workload.n_output_tokens,
        "batch_size": workload.n_running,
        "n_expert_slots": captured.plan.n_slots,
        "n_low_slots": captured.plan.n_low_slots,
        **host_figures_of(captured),
    }
    fields |= {name: np.full(n_machines, value) for name, value in constants.items()}
    changed = np.zeros(n_machines, dtype=np.bool_)
    for key, value in values.items():
        changed |= value != base.values.get(key)
    covered = coverage_of(captured, hw)
    stated = calibration(hw.calibration(captured.model.dtype.name), covered.beyond)
    fields["beyond_fit"] = np.full(n_machines, covered.beyond)
    fields["fitted_share"] = np.full(n_machines, covered.share)
    fields["asked_machine"] = np.full(n_machines, captured.request.asked_machine)
    fields["policy_source"] = np.full(n_machines, captured.request.policy_source)
    fields["output"] = np.full(n_machines, output_of(captured))
    fields["changed_share"] = np.full(n_machines, changed_share(captured.decoded.n_changed, captured.request))
    fields["calibration"] = np.where(changed & (stated == "fitted"), "extrapolated", stated)
    if draws:
        fields |= _intervals(captured, hw, values, n_machines, draws, seed)
    return fields


def made_ready(captured: Captured) -> Compiled:
    """A captured schedule made ready for FIFO machines."""
    schedule, plan = captured.decoded.schedule, captured.plan
    most = plan.static_bytes + plan.n_slots * captured.model.expert_bytes + plan.low_bytes
    return batch.compile_schedule(schedule, find_probes(schedule, captured.trace), most_hbm_bytes=most)


def _fifo(captured: Captured, ready: Compiled, costs: Costs) -> dict[str, NDArray[Any]]:
    schedule, decoded, probes = captured.decoded.schedule, captured.decoded, ready.probes
    seen = batch.evaluate(ready, costs)
    found = run_metrics.summed_up(
        captured.trace,
        schedule.step[probes.step_ends],
        seen.step_end_s,
        seen.totals(run_metrics.moved_bytes(schedule.kind, schedule.bytes)),
        n_output_tokens=captured.workload.n_output_tokens,
        lookups=(decoded.n_lookups, decoded.n_hits),
    )
    each = {name: np.broadcast_to(value, seen.makespan_s.shape) for name, value in found.items()}
    each |= {"bound_s": seen.bound_s, "binding": _BINDING[seen.binding]}
    return each | ahead_on(captured, ready, costs)


def _by_events(captured: Captured, costs: Costs, modes: Modes) -> dict[str, NDArray[Any]]:
    schedule = captured.decoded.schedule
    prepared, rows = event_engine.prepare(schedule), []
    for i in range(costs.duration_s.shape[1]):
        mine = Costs(*(np.ascontiguousarray(getattr(costs, name)[:, i]) for name in costs.__slots__))
        timeline = event_engine.simulate(schedule, mine, modes, prepared)
        bounds = lower_bounds(schedule, mine, modes)
        bound = {"bound_s": bounds.makespan_s, "binding": bounds.binding}
        rows.append(metrics_of(captured, timeline) | bound | ahead_of(prefetches_of(captured, timeline)))
    return {name: np.array([row[name] for row in rows]) for name in rows[0]} if rows else {}


def _intervals(
    captured: Captured, hw: Platform, values: Mapping[str, NDArray[np.float64]], n_machines: int, draws: int, seed: int
) -> dict[str, NDArray[Any]]:
    """The intervals of each machine, from the same draws of the fit, or without one from how claims scatter; NaN where
    there are none.
    """
    from pregate.ask.timing.claimed_intervals import claimed_intervals
    from pregate.ask.timing.intervals import figure_intervals
    from pregate.ask.timing.time_errors import fit_speaks

    names = {"moe_layer_latency_s": "moe_layer_latency_ci95_s", "tokens_per_s": "tokens_per_s_ci95"}
    fields = {field: np.full((n_machines, 2), np.nan) for field in names.values()}
    base, is_fitted = figures_of(hw), fit_speaks(captured, hw)
    for i in range(n_machines):
        mine = base.with_values({key: float(array[i]) for key, array in values.items()})
        rng, exact = np.random.default_rng(seed), frozenset(values)
        found = (
            figure_intervals(captured, hw, mine, rng, draws, exact=exact)
            if is_fitted
            else claimed_intervals(captured, hw, mine, tuple(names), exact=exact)
        )
        for name, field in names.items():
            interval = found[name]
            if interval is not None:
                fields[field][i] = interval
    return fields
