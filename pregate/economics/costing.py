"""Money and energy of designs that serve the same requests, each with the range that its assumptions leave."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import compress
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hwmodels.platform import Platform
from offload.policies import policy_named
from offload.policy import Policy
from offload.slots.memory import CapacityExceeded
from pregate.ask.capturing.machine_memory import memory_of
from pregate.ask.capturing.request import request as plan_request
from pregate.ask.choices import BASES
from pregate.ask.ranked_designs import are_ranked, standing_of, told_apart
from pregate.ask.result_display import html_rows, to_dataframe
from pregate.economics.assumptions import Assumption, Assumptions, load_assumptions
from pregate.economics.cost_draws import DrawnCost, Draws, Estimate, estimate
from pregate.economics.serving import BATCHES, LatencyPromise, RequestShape, Served, Unserved, serve
from pregate.routing_traces import synthesize
from traces.errors import InvalidInput, unknown_name
from traces.model.architecture import ModelArchitecture

if TYPE_CHECKING:
    import pandas as pd


_NEVER_DAYS = 36525.0
"""A century: what has not paid by then never does."""

_ESTIMATES = ("per_million_tokens", "per_request", "joules_per_token", "n_machines", "total", "payback_days")

_SURE = 0.95
"""Share of the draws from which on a design is called the cheapest without a doubt."""


@dataclass(frozen=True, slots=True)
class DesignCost:
    """What one design costs. Money in US dollars, energy in joules at the wall.

    `served`: at which batch, how fast. `per_million_tokens`, `per_request`: of output tokens, engineering left out.
    `joules_per_token`: of output tokens. `n_machines` serve the rate asked for. `total`: of all machines over the
    period, engineering included; `payback_days`: until moving from the first design has paid, infinite where it
    takes a century or never does; None for the first. `cheapest_in`: the share of all draws in which its total is the
    least of those ranked.
    `is_ranked`: whether it may be chosen (`pregate.ask.ranked_designs`).
    """

    served: Served
    per_million_tokens: Estimate
    per_request: Estimate
    joules_per_token: Estimate
    n_machines: Estimate
    total: Estimate
    payback_days: Estimate | None
    cheapest_in: float
    is_ranked: bool = True


@dataclass(frozen=True, slots=True)
class CostReport:
    """Designs on one machine, in the order asked; `gpus_for_gpu_only`: cards whose memory alone would hold the model, 0
    where DRAM is short.

    `assumed`: every assumption that was looked at, by name. `drivers`: by name, its share of the variance of what the
    two cheapest designs differ by, the largest first. `basis`: own or rent. `now`: the design that runs now.
    `told_apart`: what is said of designs that nobody can build, or whose output is not the model's.
    """

    model: str
    hardware: str
    basis: str
    calibration: str
    request: RequestShape
    objective: LatencyPromise
    requests_per_s: float
    designs: tuple[DesignCost, ...]
    unserved: tuple[Unserved, ...]
    gpus_for_gpu_only: int
    assumed: Mapping[str, Assumption]
    drivers: Mapping[str, float]
    now: str
    told_apart: tuple[str, ...] = ()

    @property
    def cheapest(self) -> DesignCost | None:
        """The ranked design of the least total; None when none serves."""
        return min(self.ranked, key=lambda design: design.total.value, default=None)

    @property
    def ranked(self) -> tuple[DesignCost, ...]:
        """The designs that may be chosen."""
        return tuple(design for design in self.designs if design.is_ranked)

    def verdict(self) -> str:
        """The cheapest design and how sure that is, in words."""
        return " ".join([self._verdict(), *self.told_apart])

    def _verdict(self) -> str:
        best = self.cheapest
        if best is None:
            return "No design serves these requests: " + "; ".join(one.reason for one in self.unserved)
        said = f"{best.served.design} costs least: {best.total.value:,.0f} USD over the period"
        if len(self.ranked) == 1:
            return f"{said}."
        if best.cheapest_in >= _SURE:
            return f"{said}, in {best.cheapest_in:.0%} of the draws of all assumptions."
        rivals = sorted((one for one in self.ranked if one is not best), key=lambda one: -one.cheapest_in)
        return (
            f"{said}, but only in {best.cheapest_in:.0%} of the draws of all assumptions, {rivals[0].served.design} in "
            f"{rivals[0].cheapest_in:.0%}: not told apart."
        )

    def rows(self) -> list[dict[str, Any]]:
        """One row a design: at which batch, how fast, and the middle of each figure with its 95 % ends."""
        rows = []
        for design in self.designs:
            served = design.served
            row: dict[str, Any] = {"design": served.design, "batch": served.batch}
            row |= {"ttft_s": served.ttft_s, "tpot_s": served.tpot_s, "requests_per_s": served.requests_per_s}
            for name in _ESTIMATES:
                found = getattr(design, name)
                ends = (None, None, None) if found is None else (found.value, found.low, found.high)
                row |= dict(zip((name, f"{name}_low", f"{name}_high"), ends, strict=True))
            rows.append(row | {"cheapest_in": design.cheapest_in})
        return rows

    def to_dataframe(self) -> pd.DataFrame:
        """The rows as a pandas DataFrame (the extra `notebooks`)."""
        return to_dataframe(self.rows())

    def __repr__(self) -> str:
        return f"CostReport({self.model} on {self.hardware}: {self.verdict()})"

    def _repr_html_(self) -> str:
        shown = [
            {name: value for name, value in row.items() if not name.endswith(("_low", "_high"))} for row in self.rows()
        ]
        return html_rows(shown, self.verdict())

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready, every assumption with its source."""
        rows = []
        for design in self.designs:
            row = asdict(design.served) | {"requests_per_s": design.served.requests_per_s}
            row["cheapest_in"] = design.cheapest_in
            for name in _ESTIMATES:
                found = getattr(design, name)
                row[name] = None if found is None else found.to_list()
            rows.append(row)
        return {
            "model": self.model,
            "hardware": self.hardware,
            "basis": self.basis,
            "now": self.now,
            "calibration": self.calibration,
            "request": asdict(self.request),
            "objective": asdict(self.objective),
            "requests_per_s": self.requests_per_s,
            "designs": rows,
            "unserved": [asdict(one) for one in self.unserved],
            "gpus_for_gpu_only": self.gpus_for_gpu_only,
            "verdict": self.verdict(),
            "drivers": dict(self.drivers),
            "assumptions": {name: asdict(one) for name, one in self.assumed.items()},
        }


def costs(
    model: ModelArchitecture,
    hw: Platform,
    policies: Sequence[str | Policy] = ("on_demand", "on_demand+lru", "pregate", "gpu_only"),
    *,
    input_tokens: int = 256,
    output_tokens: int = 256,
    requests_per_s: float = 0.1,
    objective: LatencyPromise | None = None,
    basis: str = "own",
    batches: Sequence[int] = BATCHES,
    assumptions: Assumptions | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> CostReport:
    """What each of `policies` costs where it serves `requests_per_s` within `objective`; the first is what runs now.

    Raises `InvalidInput` for a rate or a basis that is none, and where a figure is assumed nowhere: a card's limit in
    watts, its price (`own`) or its rent (`rent`).
    """
    if basis not in BASES:
        raise unknown_name("basis", basis, BASES)
    if not (0 < requests_per_s < 1e9):
        raise InvalidInput(f"requests a second = {requests_per_s:g}: above 0, below 1e9")
    if input_tokens < 1 or output_tokens < 2:
        raise InvalidInput("a request has 1 input token or more, and asks for 2 or more")
    if not policies:
        raise InvalidInput("no designs to cost: give at least one, such as pregate")
    if not batches:
        raise InvalidInput("no batches to serve in: give at least one, such as 1")
    draws = Draws(hw, basis, assumptions or load_assumptions())
    request, promised = RequestShape(input_tokens, output_tokens), objective or LatencyPromise()
    designs: list[Served] = []
    unserved: list[Unserved] = []
    chosen = [policy_named(policy) if isinstance(policy, str) else policy for policy in policies]
    for design in chosen:
        progress(design.name)
        found = serve(model, hw, design, request, promised, batches)
        if isinstance(found, Served):
            designs.append(found)
        else:
            unserved.append(found)
    drawn = [draws.cost(served, request, requests_per_s) for served in designs]
    now = next((one for one in drawn if one.served.design == chosen[0].name), None)
    standings = {design.name: _standing(design, chosen[0]) for design in chosen}
    ranked = are_ranked([standings[one.served.design] for one in drawn])
    spent = [one.spent_usd(now) for one in drawn]
    least = np.min(list(compress(spent, ranked)), axis=0) if spent else np.zeros(0)
    return CostReport(
        model=model.name,
        hardware=hw.hardware,
        basis=basis,
        calibration=hw.describe_calibration(model.dtype.name),
        request=request,
        objective=promised,
        requests_per_s=requests_per_s,
        designs=tuple(
            _held_against(one, now, request, float((usd[1:] <= least[1:]).mean()) if is_ranked else 0.0, is_ranked)
            for one, usd, is_ranked in zip(drawn, spent, ranked, strict=True)
        ),
        unserved=tuple(unserved),
        gpus_for_gpu_only=_gpus_for_gpu_only(model, hw, request, batches),
        assumed=draws.looked_at,
        drivers=_drivers(draws, list(compress(spent, ranked))),
        now=chosen[0].name,
        told_apart=tuple(told_apart(standings.items())),
    )


def _standing(design: Policy, now: Policy) -> str:
    """As of `standing_of`; the output of what runs now is what its users have."""
    standing = standing_of(design)
    return "" if design is now and standing == "approximate" else standing


def _held_against(
    one: DrawnCost, now: DrawnCost | None, request: RequestShape, cheapest_in: float, is_ranked: bool
) -> DesignCost:
    """The costs of one design, and when moving there from what runs `now` has paid."""
    payback = None
    if now is not None and now is not one:
        saved = now.running_per_year - one.running_per_year
        with np.errstate(divide="ignore", invalid="ignore"):
            days = np.where(saved > 0, 365.25 * one.days_usd / saved, math.inf)
            payback = estimate(np.where(days > _NEVER_DAYS, math.inf, days))
    return DesignCost(
        served=one.served,
        per_million_tokens=estimate(1e6 * one.per_token),
        per_request=estimate(request.output_tokens * one.per_token),
        joules_per_token=estimate(one.joules),
        n_machines=estimate(one.machines),
        total=estimate(one.spent_usd(now)),
        payback_days=payback,
        cheapest_in=cheapest_in,
        is_ranked=is_ranked,
    )


def _drivers(draws: Draws, spent: list[NDArray[np.float64]]) -> dict[str, float]:
    """What the choice hangs on: shares of the variance of what the two cheapest differ by, or of the only total."""
    if not spent:
        return {}
    by_middle = sorted(spent, key=lambda usd: float(usd[0]))
    return draws.shares(by_middle[0] - by_middle[1] if len(by_middle) > 1 else by_middle[0])


def _one_card(hw: Platform) -> Platform:
    """The machine with the first of its cards alone."""
    if hw.machine.n_cards == 1:
        return hw
    return replace(hw, machine=replace(hw.machine, accelerator=replace(hw.machine.accelerator, n_cards=None)))


def _gpus_for_gpu_only(model: ModelArchitecture, hw: Platform, request: RequestShape, batches: Sequence[int]) -> int:
    """Cards whose memory together would hold the model and one smallest batch, each beside its stack, however many `hw`
    has; 0 where the host has too little memory, which no card mends.
    """
    one = _one_card(hw)
    trace = synthesize(model, request.input_tokens, request.output_tokens, min(batches))
    try:
        plan_request(model, one, trace, "gpu_only")
    except CapacityExceeded as error:
        if error.memory != "HBM":
            return 0
        memory = memory_of(one)
        return math.ceil((error.needed_bytes - memory.reserve_bytes) / (memory.hbm_bytes - memory.reserve_bytes))
    return 1
