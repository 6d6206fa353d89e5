"""95 % intervals of a prediction: the fit's covariance, drawn from, through the recurrence.

A draw is a machine: every fitted constant times exp(z), z normal with the covariance of ln(constants) that the fit
states, and every kind of op that was measured times exp(z), z normal with the scatter of what the fit says of samples
that it has not seen: a model has one shape of each kind, and the law of the kind is so far off for a shape. The
interval is the middle 95 % of what the captured schedule takes on every draw: along its critical paths where those
hold, which is exact, and run whole where a bottleneck moves from one lane to another.
An efficiency drawn above 1, the physical limit, counts as 1.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from hwmodels.cost import Costs, price_figures
from hwmodels.figures import Figures, figures_of
from hwmodels.fits.fit import Fit
from hwmodels.platform import Platform
from hwmodels.quantity import ReadOnly
from hwmodels.stacks.stack import CONSTANTS
from offload.metrics.metric_probes import Probes, find_probes
from offload.metrics.run_metrics import first_token_s, mean_gap_s, token_gaps_s
from offload.ops import KERNEL_KINDS
from offload.policy import Policy
from pregate.ask.capturing.capture import Captured
from pregate.ask.timing.claimed_intervals import set_by_user
from pregate.ask.timing.moved_numbers import drawn_moves, moved_numbers
from simulator import recurrence
from simulator.batched.batch import Compiled, compile_schedule, evaluate, is_kept
from simulator.batched.batch_small import FEW_OPS, MOST_ENDS, evaluate_small
from simulator.explain.critical_path import ExplainedRun, gradient, walk
from simulator.explain.path_sum import PathSum
from simulator.explain.sensitivity import metric_weights

Interval = tuple[float, float]

N_DRAWS = 1000
"""Draws of an interval: its ends then scatter by about a twenty-fifth of its half-width."""

_SCATTER = 1 / 25
"""How far a first-order end of an interval may be off, in half widths: what the draws scatter by themselves."""

_CUT = 0.01
"""How much of a metric may be lost where critical paths are cut between the parts of a stream."""

UNCERTAIN = ("moe_layer_latency_s", "tokens_per_s")
"""The metrics of a result that carry an interval."""


def intervals(
    captured: Captured,
    hw: Platform,
    rng: np.random.Generator,
    n_draws: int = N_DRAWS,
    *,
    metrics: Sequence[str] = UNCERTAIN,
    explained: ExplainedRun | None = None,
    with_moved: bool = True,
) -> dict[str, Interval | None]:
    """The interval of each of `metrics` (`simulator.explain.sensitivity.METRICS`) on `hw`; None without a fit, or of 0.

    Constants set by the user are taken as exact and the others keep their spread; what is reached of a number of the
    machine that the user set scatters as claims do. Sizes of memory are exact, for they decide the schedule.
    `explained`: the run on `hw`, when it is known; `with_moved`: False leaves out what is in doubt because of numbers
    that the user set. Deterministic in `rng`.
    """
    figures = figures_of(hw)
    return figure_intervals(
        captured, hw, figures, rng, n_draws, metrics=metrics, explained=explained, with_moved=with_moved
    )


def figure_intervals(
    captured: Captured,
    hw: Platform,
    figures: Figures,
    rng: np.random.Generator,
    n_draws: int = N_DRAWS,
    *,
    exact: Collection[str] = (),
    metrics: Sequence[str] = UNCERTAIN,
    explained: ExplainedRun | None = None,
    with_moved: bool = True,
) -> dict[str, Interval | None]:
    """As `intervals`, on a machine that differs from `hw` in the numbers `exact` (dotted keys), which `figures` has."""
    if hw.fit is None:
        return dict.fromkeys(metrics)
    machines = _drawn(captured.policy, hw, hw.fit, figures, exact, rng, n_draws, with_moved)
    found = _first_order(captured, figures, machines, n_draws, metrics, explained)
    if found is None:
        found = measured(prepared(captured, n_draws), captured, machines, n_draws)
    return {name: _interval(found[name]) for name in metrics}


def _first_order(
    captured: Captured,
    figures: Figures,
    machines: Figures,
    n_draws: int,
    metrics: Sequence[str],
    explained: ExplainedRun | None,
) -> dict[str, NDArray[np.float64]] | None:
    """The metrics of every draw, (n_draws,), from the critical paths of `figures`; None where those do not hold.

    A metric is a sum of costs along paths, and stays it while the paths stay: exact then, and no op is walked. The
    draws at the ends of the first interval are walked: all metrics must agree there, to what draws scatter anyway.
    """
    schedule, probes = captured.decoded.schedule, find_probes(captured.decoded.schedule, captured.trace)
    works, machines = schedule.works, machines.for_works(schedule.works)
    if explained is None:
        explained = walk(schedule, price_figures(works, figures))
    found = {}
    for name in metrics:
        along = PathSum()
        along.add(works, gradient(explained, *metric_weights(explained.timeline, probes, name)))
        found[name] = along.at(machines, n_draws)
    at_end = {name: np.argsort(values)[_at_ends(n_draws)] for name, values in found.items()}
    for draw in at_end[metrics[0]].tolist():
        timeline = recurrence.simulate(schedule, price_figures(works, machines.of_machine(draw)))
        for name, values in found.items():
            exact_s = metric_weights(timeline, probes, name).value(timeline)
            low, high = values[at_end[name]]
            if abs(exact_s - values[draw]) > _SCATTER * (high - low) / 2 + 1e-9 * exact_s:
                return None
    if "tokens_per_s" in found:
        found["tokens_per_s"] = captured.workload.n_output_tokens / found["tokens_per_s"]
    return found


def _at_ends(n_draws: int) -> list[int]:
    """The places of the ends of a 95 % interval among `n_draws` in order."""
    return [round(share * (n_draws - 1)) for share in (0.025, 0.975)]


def path_intervals(
    paths: Mapping[str, tuple[PathSum, float]], hw: Platform, figures: Figures, policy: Policy, rng: np.random.Generator
) -> dict[str, Interval | None]:
    """Intervals of what is known by critical paths alone, as of a stream; None where the paths do not add up.

    `paths`: by name, with the metric itself; `figures`: of `hw`, for the schedule they are of. No draw is walked: where
    a bottleneck moves from one lane to another the interval is that of the bottleneck now.
    """
    if hw.fit is None:
        return dict.fromkeys(paths)
    machines = _drawn(policy, hw, hw.fit, figures, (), rng, N_DRAWS)
    found: dict[str, Interval | None] = {}
    for name, (path, value) in paths.items():
        along = float(path.at(figures, 1)[0])
        holds = abs(along - value) <= _CUT * abs(value)
        found[name] = _interval(path.at(machines, N_DRAWS) * (value / along)) if holds and along else None
    return found


def full_intervals(
    captured: Captured,
    hw: Platform,
    rng: np.random.Generator,
    *,
    metrics: Sequence[str] = UNCERTAIN,
) -> dict[str, Interval | None]:
    """As `intervals`, every draw run whole: a bottleneck that moves from one lane to another is in it."""
    if hw.fit is None:
        return dict.fromkeys(metrics)
    machines = _drawn(captured.policy, hw, hw.fit, figures_of(hw), (), rng, N_DRAWS)
    found = measured(prepared(captured, N_DRAWS), captured, machines, N_DRAWS)
    return {name: _interval(found[name]) for name in metrics}


def _drawn(
    policy: Policy, hw: Platform, fit: Fit, figures: Figures, exact: Collection[str], rng: np.random.Generator,
    n_draws: int, with_moved: bool = True,
) -> Figures:  # fmt: skip
    """`n_draws` machines of a fit, all with the numbers that are `exact` or set by the user; what is reached of those
    is as far off as claims are.
    """
    known = set_by_user(hw) | set(exact)
    sizes = {name for name in fit.constants if CONSTANTS[name] == "size"}
    free = [f"stack.{name}" for name in fit.constants if f"stack.{name}" not in known and name not in sizes]
    free += [f"kernel.{name}" for name in fit.kernels if name in fit.order]
    machines = figures.with_values(drawn_constants(fit, free, rng, n_draws))
    machines = dataclasses.replace(machines, scatter=drawn_scatter(fit, policy, rng, n_draws))
    moved = moved_numbers(fit, figures, known) if with_moved else {}
    return machines.with_values(drawn_moves(moved, machines, rng, n_draws)) if moved else machines


def drawn_constants(
    fit: Fit, keys: list[str], rng: np.random.Generator, n_draws: int
) -> dict[str, NDArray[np.float64]]:
    """`n_draws` of the constants behind the figures `keys`, from their joint log-normal: each (n_draws,)."""
    rows = [fit.order.index(key.partition(".")[2]) for key in keys]
    covariance = np.array(fit.covariance).reshape(len(fit.order), len(fit.order))[np.ix_(rows, rows)]
    eigenvalues, vectors = np.linalg.eigh(covariance)
    # The symmetric root: it is unique, while the sign of an eigenvector is the library's choice.
    root = (vectors * np.sqrt(np.maximum(eigenvalues, 0.0))) @ vectors.T
    factors = np.exp(rng.standard_normal((n_draws, len(keys))) @ root)
    drawn = {}
    for i, key in enumerate(keys):
        constant = fit.drawn(key)
        assert constant is not None
        values = constant.value * factors[:, i]
        drawn[key] = np.minimum(values, 1.0) if CONSTANTS.get(key.removeprefix("stack.")) == "ratio" else values
    return drawn


def drawn_scatter(
    fit: Fit, policy: Policy, rng: np.random.Generator, n_draws: int
) -> Mapping[str, NDArray[np.float64]]:
    """By kind, `n_draws` of how far its ops lie from their law, and where experts are fetched from that of fetches.

    One more factor is common to all kinds of a draw: how far the machine lay from itself from round to round.
    """
    factors: dict[str, NDArray[np.float64]] = {}
    rounds = fit.left_out["rounds"].scatter if "rounds" in fit.left_out else 0.0
    common = np.exp(rounds * rng.standard_normal(n_draws)) if rounds else np.ones(n_draws)
    for kind in (kind.name.lower() for kind in KERNEL_KINDS):
        names = (kind, f"{kind}/offloaded")[: 1 if policy.resident else 2]
        scatter = math.hypot(*(fit.left_out[name].scatter for name in names if name in fit.left_out))
        if scatter or rounds:
            factors[kind] = common * np.exp(scatter * rng.standard_normal(n_draws))
    return ReadOnly(factors)


def prepared(captured: Captured, n_machines: int) -> Compiled | Probes:
    """A captured schedule made ready to be measured once on `n_machines`: compiled where that pays."""
    n_ops = len(captured.decoded.schedule)
    if n_ops <= FEW_OPS or (n_ops * n_machines <= MOST_ENDS and not is_kept()):
        return find_probes(captured.decoded.schedule, captured.trace)
    return compiled(captured)


def compiled(captured: Captured) -> Compiled:
    """A captured schedule made ready to be measured on many machines, again and again."""
    schedule = captured.decoded.schedule
    # No metric here is a level of HBM: a most that is reached at once spares looking for it.
    return compile_schedule(schedule, find_probes(schedule, captured.trace), most_hbm_bytes=schedule.static_bytes)


def measured(
    ready: Compiled | Probes, captured: Captured, figures: Figures, n_machines: int
) -> dict[str, NDArray[np.float64]]:
    """Each of `simulator.explain.sensitivity.METRICS`, (n_machines,), on the machines that `figures` has arrays for."""
    return measured_at(
        ready, captured, price_figures(captured.decoded.schedule.works, figures, n_machines, shares=False)
    )


def measured_at(ready: Compiled | Probes, captured: Captured, costs: Costs) -> dict[str, NDArray[np.float64]]:
    """As `measured`, of machines whose prices are known: (n_machines,) each."""
    found = evaluate_small(ready, costs) if isinstance(ready, Probes) else evaluate(ready, costs)
    probes = ready if isinstance(ready, Probes) else ready.probes
    return {
        "makespan_s": found.makespan_s,
        "tokens_per_s": captured.workload.n_output_tokens / found.makespan_s,
        "ttft_s": first_token_s(found.step_end_s),
        "tpot_s": mean_gap_s(token_gaps_s(found.step_end_s, probes.gap_from, probes.gap_to)),
        "moe_layer_latency_s": found.moe_layer_latency_s,
    }


def _interval(values: NDArray[np.float64]) -> Interval | None:
    low, high = np.quantile(values, (0.025, 0.975)).tolist()
    return (low, high) if high > 0 else None
