"""Several policies on one workload: one table, what does not fit shown as such, and one line of plain words."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import compress
from typing import TYPE_CHECKING, Any

import numpy as np

from hwmodels.platform import Platform
from offload.ops import TO_DEVICE, Lane
from offload.policies import policy_named
from offload.policy import Cache, Policy
from offload.slots.memory import CapacityExceeded
from offload.timeline import Timeline
from pregate.ask.calibration_summary import describe_calibration
from pregate.ask.ranked_designs import Standing, are_ranked, told_apart
from pregate.ask.result_display import html_table, to_dataframe
from pregate.ask.simulation import SimulationResult, simulate
from pregate.ask.timing.time_errors import holds_one, interval_of_ratio
from simulator.modes import FIFO, Modes
from traces.errors import InvalidInput
from traces.model.architecture import ModelArchitecture
from traces.routing import RoutingTrace

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True)
class DoesNotFit:
    """A policy that `memory` ("HBM" or "DRAM") is too small for: what it would need, and the reason in words."""

    policy: str
    needed_bytes: int
    memory: str
    reason: str

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True, repr=False)
class Comparison:
    """Results in the order asked for; iterate over those that fit, `unfit` has the others.

    `ceilings`: policies that know the future, which nobody can build.
    """

    results: tuple[SimulationResult, ...]
    unfit: tuple[DoesNotFit, ...]
    order: tuple[str, ...]
    calibration: str
    ceilings: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"Comparison({', '.join(self.order)}: {self.verdict()})"

    def _repr_html_(self) -> str:
        rows = [result.to_dict() for result in self.results] + [{"policy": unfit.policy} for unfit in self.unfit]
        return html_table(rows, self.verdict())

    def __iter__(self) -> Iterator[SimulationResult]:
        return iter(self.results)

    def __getitem__(self, policy: str) -> SimulationResult:
        """The result of one policy. Raises `KeyError` when it was not asked for or does not fit."""
        for result in self.results:
            if result.policy == policy:
                return result
        for unfit in self.unfit:
            if unfit.policy == policy:
                raise KeyError(f"{policy} does not fit: {unfit.reason}")
        raise KeyError(f"no design {policy!r} was compared: {', '.join(self.order)} were")

    @property
    def best(self) -> SimulationResult | None:
        """The policy with the most tokens per second of those `ranked`, None when nothing fits."""
        return max(self.ranked, key=lambda result: result.tokens_per_s, default=None)

    @property
    def ranked(self) -> tuple[SimulationResult, ...]:
        """The exact designs that can be built; without one, exact ones, or all there are."""
        standings = [self._standing(result) for result in self.results]
        return tuple(compress(self.results, are_ranked(standings)))

    def _standing(self, result: SimulationResult) -> Standing:
        if result.output != "exact":
            return "approximate"
        return "ceiling" if result.policy in self.ceilings else ""

    def ratio_to_best(self, result: SimulationResult) -> float:
        """Tokens per second over the best's, 1 for the best; above it only of what is not `ranked`."""
        return result.tokens_per_s / self.best.tokens_per_s if self.best else 0.0

    @property
    def rivals(self) -> tuple[SimulationResult, ...]:
        """The `ranked` that cannot be told from the best: the interval of the ratio of their rates holds 1."""
        best = self.best
        if best is None or best.rate_error is None:
            return ()
        return tuple(
            one
            for one in sorted(self.ranked, key=lambda r: -r.tokens_per_s)
            if one is not best and one.rate_error is not None and _straddles(best, one)
        )

    def verdict(self) -> str:
        """Which policy wins, or leads where it cannot be told from others or has no interval, and what binds it."""
        best, rivals = self.best, self.rivals
        if best is None:
            return "Nothing fits: " + "; ".join(unfit.reason for unfit in self.unfit)
        others = sorted((r for r in self.ranked if r is not best), key=lambda r: -r.tokens_per_s)
        same = [one.policy for one in others if one.schedule_digest == best.schedule_digest]
        near = [one.policy for one in rivals if one.policy not in same]
        rate = f"{best.tokens_per_s:.4g} tokens/s"
        other = next((one for one in others if one.policy not in same), None)
        unsure = other is not None and None in (best.rate_error, other.rate_error)
        lead = f"{best.policy} {'leads' if near or unsure else 'wins'} with {rate}"
        if len(self.order) == 1:  # nothing to win against
            lead = f"{best.policy}: {rate}"
        if other is not None:
            lead += f", {best.tokens_per_s / other.tokens_per_s:.2f}x {other.policy}{', no interval' * unsure}"
        if self.unfit:
            lead += f" ({', '.join(unfit.policy for unfit in self.unfit)} would not fit)"
        if same or near:
            lead += f"; {not_told_from(near, same)}"
        return " ".join([f"{lead}; {what_binds(best)}.", *self._told_apart()])

    def _told_apart(self) -> Iterator[str]:
        """A sentence for the designs that are no answer, for one reason each, though they may be the fastest."""
        alike: dict[str, list[str]] = {}
        for result in self.results:
            rate = "" if result is self.best else f" ({result.tokens_per_s:.4g} tokens/s)"
            alike.setdefault(self._standing(result), []).append(f"{result.policy}{rate}")
        for standing, named in alike.items():
            subject = named[0] if len(named) == 1 else f"{', '.join(named)}: each"
            yield from told_apart([(subject, standing)])

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready: every result with `fits` and `ratio_to_best`, what does not fit, the verdict."""
        rows = [r.to_dict() | {"fits": True, "ratio_to_best": self.ratio_to_best(r)} for r in self.results]
        return {
            "results": rows,
            "does_not_fit": [unfit.to_dict() for unfit in self.unfit],
            "verdict": self.verdict(),
            "calibration": self.calibration,
        }

    def to_dataframe(self) -> pd.DataFrame:
        """One row a policy, in the order asked for; what does not fit has only what it would need."""
        rows = {row["policy"]: row for row in self.to_dict()["results"]}
        rows |= {u.policy: u.to_dict() | {"fits": False} for u in self.unfit}
        return to_dataframe([rows[name] for name in self.order])


def _straddles(best: SimulationResult, one: SimulationResult) -> bool:
    assert best.rate_error is not None
    assert one.rate_error is not None
    times = best.tokens_per_s / one.tokens_per_s
    return holds_one(interval_of_ratio(times, best.rate_error, one.rate_error, shared=True))


def not_told_from(rivals: Sequence[str], same: Sequence[str] = ()) -> str:
    """That what leads cannot be told from `rivals`, the nearest first, and is the `same` as others."""
    told = []
    if same:
        told.append(f"{same[0]}{_more(same)} {'does' if len(same) == 1 else 'do'} the very same here")
    if rivals:
        told.append(f"too close to tell from {rivals[0]}{_more(rivals)}")
    return "; ".join(told)


def _more(names: Sequence[str]) -> str:
    return f" and {len(names) - 1} more" if len(names) > 1 else ""


def what_binds(result: SimulationResult) -> str:
    """What a run waits for most, in plain words, with the shares of its lanes."""
    if result.timeline is None:
        return f"{result.binding} bounds it from below, stalled {result.stall_share:.0%}"
    return what_binds_it(result.timeline, result.makespan_s, result.stall_share)


def what_binds_it(timeline: Timeline, span_s: float, stall_share: float) -> str:
    """The same of a timeline of `span_s`, whose compute lane waits for transfers for `stall_share` of that."""
    busy = {lane: timeline.busy_s(lane) / span_s for lane in (Lane.COMPUTE, Lane.H2D, Lane.DISK, Lane.CPU)}
    fetches = np.isin(timeline.schedule.kind, TO_DEVICE)
    link = timeline.covered_s(fetches) / span_s
    shares = f"compute busy {busy[Lane.COMPUTE]:.0%}, link {link:.0%}, stalled {stall_share:.0%}"
    if busy[Lane.DISK] > max(busy[Lane.H2D], busy[Lane.COMPUTE]):
        return f"storage reads bind it ({shares}, storage {busy[Lane.DISK]:.0%})"
    if busy[Lane.CPU]:
        shares += f", the host's processor {busy[Lane.CPU]:.0%}"
    taken = {"compute": busy[Lane.COMPUTE], "transfers": stall_share, _HOST_COMPUTES: busy[Lane.CPU]}
    taken["launches and synchronisation on the host"] = 1 - sum(taken.values())
    most, next_to_it = sorted(taken, key=lambda what: -taken[what])[:2]
    if taken[most] > _MOST:
        return f"{most} {'binds' if most in ('compute', _HOST_COMPUTES) else 'bind'} it ({shares})"
    first, second = (what for what in taken if what in (most, next_to_it))
    return f"{first} and {second} share the time ({shares})"


_HOST_COMPUTES = "what the host computes"
_MOST = 0.5
"""The share of the time from which on what takes it binds."""


def compare(
    model: ModelArchitecture,
    hw: Platform,
    trace: RoutingTrace | Callable[[Policy], RoutingTrace],
    policies: Sequence[str | Policy] = ("gpu_only", "on_demand", "prefetch_all", "pregate"),
    *,
    cache: Cache | None = None,
    expert_tier: str = "dram",
    engine: str = "auto",
    modes: Modes = FIFO,
    check: bool = False,
    progress: Callable[[str], None] | None = None,
) -> Comparison:
    """Simulate every policy on the same trace; a policy that does not fit is a row, not an error.

    `trace`: may be what makes the trace of each policy, such as one of its `largest_batch`. `cache` is added to every
    offloading policy; `progress` is called with a policy's name when it starts. Raises `InvalidInput` without policies
    or with one twice, and what `simulate` raises otherwise.
    """
    if not policies:
        raise InvalidInput("no policies to compare: give at least one, such as pregate")
    designs = [_named(policy) for policy in policies]
    asked = [design.name for design in designs]
    for name in asked:
        if asked.count(name) > 1:
            raise InvalidInput(f"policy {name} is given twice: leave one out")
    results, unfit, order = [], [], []
    for policy in policies:
        name = policy if isinstance(policy, str) else policy.name
        if progress is not None:
            progress(name)
        try:
            result = simulate(
                model,
                hw,
                trace if isinstance(trace, RoutingTrace) else trace(_named(policy)),
                policy,
                cache=cache,
                expert_tier=expert_tier,
                engine=engine,
                modes=modes,
                check=check,
            )
        except CapacityExceeded as error:
            unfit.append(DoesNotFit(name, error.needed_bytes, error.memory, str(error)))
            order.append(name)
            continue
        results.append(result)
        order.append(result.policy)
    if len(set(order)) < len(order):
        raise InvalidInput(f"policies {', '.join(order)}: one is given twice")
    unfit_names = {one.policy for one in unfit}
    fit = [one for one in designs if one.name not in unfit_names]
    calibration = describe_calibration(hw, model, results, fit)
    ceilings = tuple(design.name for design in designs if not design.with_cache(cache).can_be_built)
    return Comparison(tuple(results), tuple(unfit), tuple(order), calibration, ceilings)


def _named(policy: str | Policy) -> Policy:
    return policy_named(policy) if isinstance(policy, str) else policy
