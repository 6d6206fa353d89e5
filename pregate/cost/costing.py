"""Money and energy of designs that serve the same requests, each with the range that its assumptions leave."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwmodels.platform import Platform
from offload.policies import policy_named
from offload.policy import Policy
from pregate.cost.assumptions import Assumption, Assumptions, load_assumptions
from pregate.cost.serving import BATCHES, LatencyPromise, RequestShape, Served, Unserved, serve
from traces.errors import InvalidInput, unknown_name
from traces.model.architecture import ModelArchitecture

__all__ = ["BASES", "CostReport", "DesignCost", "Estimate", "costs"]

BASES = ("own", "rent")
"""Machines that are bought, or rented by the hour."""

_SURE = 0.95
"""Share of the draws from which on a design is called the cheapest without a doubt."""

_N_DRAWS = 4000
_HOURS_PER_YEAR = 365.25 * 24
_SECONDS_PER_YEAR = _HOURS_PER_YEAR * 3600
_JOULES_PER_KWH = 3.6e6


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure at the middle of all assumptions, and the 95 % interval over their draws."""

    value: float
    low: float
    high: float

    def to_list(self) -> list[float | None]:
        """[value, low, high], JSON-ready: None for what is not finite."""
        return [end if math.isfinite(end) else None for end in (self.value, self.low, self.high)]


@dataclass(frozen=True, slots=True)
class DesignCost:
    """What one design costs. Money in US dollars, energy in joules at the wall.

    `served`: at which batch, how fast. `per_million_tokens`, `per_request`: of output tokens, engineering left out.
    `joules_per_token`: of output tokens. `n_machines` serve the rate asked for. `total`: of all machines over the
    period, engineering included; `payback_days`: until moving from the first design has paid, infinite where it never
    does; None for the first. `cheapest_in`: the share of all draws in which its total is the least.
    """

    served: Served
    per_million_tokens: Estimate
    per_request: Estimate
    joules_per_token: Estimate
    n_machines: Estimate
    total: Estimate
    payback_days: Estimate | None
    cheapest_in: float


@dataclass(frozen=True, slots=True)
class CostReport:
    """Designs on one machine, in the order asked; `gpus_for_gpu_only`: cards whose memory alone would hold the model.

    `assumed`: every assumption that was looked at, by name. `basis`: own or rent.
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

    @property
    def cheapest(self) -> DesignCost | None:
        """The design of the least total; None when none serves."""
        return min(self.designs, key=lambda design: design.total.value, default=None)

    def verdict(self) -> str:
        """The cheapest design and how sure that is, in words."""
        best = self.cheapest
        if best is None:
            return "No design serves these requests: " + "; ".join(one.reason for one in self.unserved)
        said = f"{best.served.design} costs least: {best.total.value:,.0f} USD over the period"
        if len(self.designs) == 1:
            return f"{said}."
        if best.cheapest_in >= _SURE:
            return f"{said}, whatever the assumptions ({best.cheapest_in:.0%} of their draws)."
        rivals = sorted((one for one in self.designs if one is not best), key=lambda one: -one.cheapest_in)
        return (
            f"{said}, but only in {best.cheapest_in:.0%} of the draws of all assumptions, {rivals[0].served.design} in "
            f"{rivals[0].cheapest_in:.0%}: not told apart."
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready, every assumption with its source."""
        ranges = ("per_million_tokens", "per_request", "joules_per_token", "n_machines", "total", "payback_days")
        rows = []
        for design in self.designs:
            row = asdict(design.served) | {"requests_per_s": design.served.requests_per_s}
            row["cheapest_in"] = design.cheapest_in
            for name in ranges:
                found = getattr(design, name)
                row[name] = None if found is None else found.to_list()
            rows.append(row)
        return {
            "model": self.model,
            "hardware": self.hardware,
            "basis": self.basis,
            "calibration": self.calibration,
            "request": asdict(self.request),
            "objective": asdict(self.objective),
            "requests_per_s": self.requests_per_s,
            "designs": rows,
            "unserved": [asdict(one) for one in self.unserved],
            "gpus_for_gpu_only": self.gpus_for_gpu_only,
            "verdict": self.verdict(),
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
    draws = _Draws(hw, basis, assumptions or load_assumptions())
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
    totals = [draws.cost(served, request, requests_per_s) for served in designs]
    now = totals[0] if totals else None
    spent = [total.spent_usd(now) for total in totals]
    least = np.min(spent, axis=0) if spent else np.zeros(0)
    return CostReport(
        model=model.name,
        hardware=hw.hardware,
        basis=basis,
        calibration=hw.describe_calibration(model.dtype.name),
        request=request,
        objective=promised,
        requests_per_s=requests_per_s,
        designs=tuple(
            total.against(now, float((usd[1:] <= least[1:]).mean())) for total, usd in zip(totals, spent, strict=True)
        ),
        unserved=tuple(unserved),
        gpus_for_gpu_only=_gpus_for_gpu_only(model, hw, request, batches),
        assumed=draws.looked_at,
    )


def _gpus_for_gpu_only(model: ModelArchitecture, hw: Platform, request: RequestShape, batches: Sequence[int]) -> int:
    """Cards whose memory together would hold the model and one smallest batch; 1 where it fits."""
    found = serve(model, hw, policy_named("gpu_only"), request, LatencyPromise(), batches[:1])
    if isinstance(found, Served) or not found.needed_bytes:
        return 1
    reserve = int(hw.constant("reserve_bytes"))
    return math.ceil((found.needed_bytes - reserve) / (hw.machine.accelerator.hbm_bytes - reserve))


@dataclass(frozen=True, slots=True, eq=False)
class _Total:
    """One design before it is held against another; arrays (1 + n_draws,), the first at the middle of everything."""

    served: Served
    per_token: NDArray[np.float64]
    joules: NDArray[np.float64]
    machines: NDArray[np.float64]
    running_per_year: NDArray[np.float64]
    days_usd: NDArray[np.float64]
    years: NDArray[np.float64]
    n_output: int

    def spent_usd(self, now: _Total | None) -> NDArray[np.float64]:
        """All money over the period; nobody has to be moved to what runs `now`."""
        return self.running_per_year * self.years + (0 if self is now else self.days_usd)

    def against(self, now: _Total | None, cheapest_in: float) -> DesignCost:
        """The costs, and when moving here from `now` has paid."""
        payback = None
        if now is not None and now is not self:
            saved = now.running_per_year - self.running_per_year
            with np.errstate(divide="ignore", invalid="ignore"):
                days = np.where(saved > 0, 365.25 * self.days_usd / saved, math.inf)
            payback = _range(days)
        return DesignCost(
            served=self.served,
            per_million_tokens=_range(1e6 * self.per_token),
            per_request=_range(self.n_output * self.per_token),
            joules_per_token=_range(self.joules),
            n_machines=_range(self.machines),
            total=_range(self.spent_usd(now)),
            payback_days=payback,
            cheapest_in=cheapest_in,
        )


def _range(values: NDArray[np.float64]) -> Estimate:
    low, high = np.quantile(values[1:], (0.025, 0.975), method="inverted_cdf").tolist()
    return Estimate(float(values[0]), low, high)


class _Draws:
    """The same draws of every assumption for all designs, so that what they share cancels where they are compared."""

    def __init__(self, hw: Platform, basis: str, assumptions: Assumptions) -> None:
        self._hw, self._basis, self._assumptions = hw, basis, assumptions
        self._rng = np.random.default_rng(0)
        self._drawn: dict[str, NDArray[np.float64]] = {}
        self.looked_at: dict[str, Assumption] = {}

    def _of(self, name: str) -> NDArray[np.float64]:
        """(1 + n_draws,): the middle, then the draws. Raises `InvalidInput` for what is not assumed."""
        if name not in self._drawn:
            assumed = self._assumptions[name]
            self.looked_at[name] = assumed
            self._drawn[name] = np.concatenate([[assumed.value], assumed.draws(self._rng, _N_DRAWS)])
        return self._drawn[name]

    def _card(self, figure: str) -> NDArray[np.float64]:
        return self._of(f"cards.{self._hw.machine.accelerator.name}.{figure}")

    def _price_usd(self) -> NDArray[np.float64]:
        """What the card costs: as assumed, else as its machine file has it."""
        name, stated = self._hw.machine.accelerator.name, self._hw.machine.accelerator.price_usd
        key = f"cards.{name}.price_usd"
        if self._assumptions.get(key) is None and stated is not None:
            around = Assumption(
                stated, 0.7 * stated, 1.3 * stated, "USD", f"price of {name}, 30 % either way assumed", ""
            )
            self._assumptions = Assumptions({**self._assumptions.by_name, key: around})
        return self._of(key)

    def _slower(self, served: Served) -> NDArray[np.float64]:
        """Real time over predicted time: of the fit's interval, or where nothing was fitted, as assumed."""
        if served.stretch is None:
            return self._of("unfitted_error")
        name = f"interval of {served.design}"
        if name not in self._drawn:
            low, high = (math.log(end) for end in served.stretch)
            normal = self._rng.standard_normal(_N_DRAWS) * (high - low) / 3.92 + (high + low) / 2
            self._drawn[name] = np.concatenate([[1.0], np.exp(normal)])
        return self._drawn[name]

    def cost(self, served: Served, request: RequestShape, requests_per_s: float) -> _Total:
        """What `served` costs at a rate. A machine draws power while it serves, and idles for the rest."""
        slower, used = self._slower(served), self._of("utilisation")
        seconds_per_token = served.request_s * slower / (served.batch * request.output_tokens)
        busy_watts = self._watts(served.compute_share, served.host_share)
        idle_watts = self._watts(0.0, 0.0)
        moved = self._of("transfer_joules_per_gb") * served.link_bytes / 1e9
        idle_s = seconds_per_token * (1 / used - 1)
        joules = (seconds_per_token * busy_watts + idle_s * idle_watts + moved) * self._of("pue")
        machine_s = seconds_per_token / used
        machines = np.ceil(requests_per_s * request.output_tokens * machine_s - 1e-9)
        tokens_per_year = requests_per_s * request.output_tokens * _SECONDS_PER_YEAR
        fixed_per_year = self._machine_usd_per_year()
        per_token = fixed_per_year / _SECONDS_PER_YEAR * machine_s
        running = machines * fixed_per_year
        if self._basis == "own":
            energy = joules / _JOULES_PER_KWH * self._of("electricity_usd_per_kwh")
            per_token, running = per_token + energy, running + tokens_per_year * energy
        days = self._of(self._assumptions.days_of(served.design)) * self._of("engineering_usd_per_day")
        return _Total(served, per_token, joules, machines, running, days, self._of("years"), request.output_tokens)

    def _watts(self, compute_share: float, host_share: float) -> NDArray[np.float64]:
        """Power of a machine whose compute lane and processor are busy such shares of the time."""
        limit = self._card("limit_watts")
        idle = limit * self._of("idle_share")
        host_idle, host_busy = self._of("host_idle_watts"), self._of("host_busy_watts")
        host = host_idle + host_share * np.maximum(host_busy - host_idle, 0)
        return idle + compute_share * np.maximum(limit * self._of("busy_share") - idle, 0) + host

    def _machine_usd_per_year(self) -> NDArray[np.float64]:
        """A machine for a year: rented by the hour, or bought, spread over its years, with its upkeep."""
        if self._basis == "rent":
            return self._card("usd_per_hour") * _HOURS_PER_YEAR
        price = self._price_usd() + self._of("machine_usd")
        return price * (1 / self._of("years") + self._of("upkeep_per_year"))
