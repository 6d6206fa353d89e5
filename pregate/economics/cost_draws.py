"""The draws of every assumption, and what a design costs in each: the same draws for all designs."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hwmodels.platform import Platform
from hwmodels.specs.spread import GATHERED, SPREADS_FILE, shipped_spread
from pregate.ask.timing.time_errors import SCATTER, alike_on
from pregate.card.designs import offered
from pregate.economics.assumptions import Assumption, Assumptions
from pregate.economics.serving import RequestShape, Served
from traces.foundation.read_only import ReadOnly

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


@dataclass(frozen=True, slots=True, eq=False)
class DrawnCost:
    """One design in every draw; arrays (1 + n_draws,), the first at the middle of everything."""

    served: Served
    per_token: NDArray[np.float64]
    joules: NDArray[np.float64]
    machines: NDArray[np.float64]
    running_per_year: NDArray[np.float64]
    days_usd: NDArray[np.float64]
    years: NDArray[np.float64]

    def spent_usd(self, now: DrawnCost | None) -> NDArray[np.float64]:
        """US dollars over the period, (n_draws,); nobody has to be moved to what runs `now`."""
        return self.running_per_year * self.years + (0 if self is now else self.days_usd)


def unfitted_error(served: Served, assumptions: Assumptions) -> Assumption:
    """Real over predicted time where nothing was fitted: as assumed, else by the scatter of what it depends on."""
    given = assumptions.get("unfitted_error")
    if given is not None:
        return given
    low, high = served.error.interval(1.0)
    return Assumption(1.0, low, high, "1", f"hwmodels/specs/{SPREADS_FILE.name}: {shipped_spread()}", GATHERED)


def estimate(values: NDArray[np.float64]) -> Estimate:
    """The estimate of a figure that is `values`, (1 + n_draws,), the first at the middle of all assumptions."""
    low, high = np.quantile(values[1:], (0.025, 0.975), method="inverted_cdf").tolist()
    return Estimate(float(values[0]), low, high)


class Draws:
    """The same draws of every assumption for all designs, so that what they share cancels where they are compared."""

    def __init__(self, hw: Platform, basis: str, assumptions: Assumptions) -> None:
        self._hw, self._basis, self._assumptions = hw, basis, assumptions
        self._rng = np.random.default_rng(0)
        self._drawn: dict[str, NDArray[np.float64]] = {}
        self._errors: dict[str, NDArray[np.float64]] = {}
        self._others: list[Draws] = []
        self.looked_at: dict[str, Assumption] = {}

    def on(self, hw: Platform) -> Draws:
        """The same draws for another machine; what its predictions are off by is drawn anew, but for what is off alike
        on one whose cost was asked for before.
        """
        other = Draws(hw, self._basis, self._assumptions)
        other._rng, other._drawn, other.looked_at = self._rng, self._drawn, self.looked_at
        for there in self._others:
            alike = {f"{SCATTER}{key}" for key in alike_on(hw, there._hw)}
            other._errors |= {name: drawn for name, drawn in there._errors.items() if name in alike}
        self._others.append(other)
        return other

    def shares(self, of: NDArray[np.float64]) -> dict[str, float]:
        """By assumption, its share of the variance of `of`, (1 + n_draws,), the largest first.

        Squares of Pearson's correlations, which add up to 1 where `of` is a sum of independent draws.
        """
        found = {}
        for name, drawn in (self._drawn | self._errors).items():
            if np.ptp(drawn[1:]) and np.ptp(of[1:]):
                found[name] = float(np.corrcoef(drawn[1:], of[1:])[0, 1] ** 2)
        return dict(sorted(found.items(), key=lambda item: -item[1]))

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
            said = self._hw.machine.quantities()["accelerator.price_usd"]
            around = Assumption(
                stated,
                0.7 * stated,
                1.3 * stated,
                "USD",
                f"30 % either way assumed; {said.source}",
                said.date or "undated",
            )
            self._assumptions = Assumptions(ReadOnly({**self._assumptions.by_name, key: around}))
        return self._of(key)

    def _slower(self, served: Served) -> NDArray[np.float64]:
        """Real time over predicted time: by a fit, else as assumed, else by the scatter of each number it depends on,
        which is off in all designs alike, and by what a measurement is off by itself.
        """
        name = "unfitted_error"
        if not any(served.error.fitted):
            if self._assumptions.get(name) is not None:
                return self._of(name)
            assumed, known = unfitted_error(served, self._assumptions), self.looked_at.get(name)
            self.looked_at[name] = assumed if known is None or known.high < assumed.high else known
        return served.error.drawn(self._error, served.design) + np.zeros(1 + _N_DRAWS)

    def _error(self, name: str) -> NDArray[np.float64]:
        """(1 + n_draws,) of what is off by a scale of its own: 0, then draws that are not of an assumption."""
        if name not in self._errors:
            self._errors[name] = np.concatenate([[0.0], self._rng.standard_normal(_N_DRAWS)])
        return self._errors[name]

    def usd_per_token(self, served: Served, request: RequestShape, requests_per_s: float) -> NDArray[np.float64]:
        """US dollars of an output token, (n_draws,), of a machine that serves this rate alone and idles meanwhile."""
        tokens_per_s = requests_per_s * request.output_tokens
        idle_watts = self._watts(0.0, 0.0, 1)
        busy_s = served.request_s * self._slower(served) / (served.batch * request.output_tokens)
        more_watts = self._watts(served.compute_share, served.host_share, served.n_at_once) - idle_watts
        moved = self._moved_joules(served)
        joules = (idle_watts / tokens_per_s + busy_s * more_watts + moved) * self._of("pue")
        fixed = self._machine_usd_per_year() / _SECONDS_PER_YEAR / tokens_per_s
        return fixed + (joules / _JOULES_PER_KWH * self._of("electricity_usd_per_kwh") if self._basis == "own" else 0.0)

    def cost(self, served: Served, request: RequestShape, requests_per_s: float) -> DrawnCost:
        """What `served` costs at a rate. A machine draws power while it serves, and idles for the rest."""
        slower, used = self._slower(served), self._of("utilisation")
        seconds_per_token = served.request_s * slower / (served.batch * request.output_tokens)
        busy_watts = self._watts(served.compute_share, served.host_share, served.n_at_once)
        idle_watts = self._watts(0.0, 0.0, 1)
        moved = self._moved_joules(served)
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
        name = self._assumptions.days_of(served.design, is_offered=bool(offered(self._hw.stack.name)))
        days = self._of(name) * self._of("engineering_usd_per_day")
        return DrawnCost(served, per_token, joules, machines, running, days, self._of("years"))

    def _moved_joules(self, served: Served) -> NDArray[np.float64]:
        """Energy of what crosses the links for each output token; a run counts the bytes of one card."""
        return self._of("transfer_joules_per_gb") * served.n_at_once * served.link_bytes / 1e9

    def _watts(self, compute_share: float, host_share: float, n_busy: int) -> NDArray[np.float64]:
        """Power of a machine whose compute lane and processor are busy such shares of the time; of several cards
        `n_busy` at once.
        """
        limit = self._card("limit_watts")
        idle = limit * self._of("idle_share")
        others = (self._hw.machine.n_cards - n_busy) * idle
        host_idle, host_busy = self._of("host_idle_watts"), self._of("host_busy_watts")
        host = host_idle + host_share * np.maximum(host_busy - host_idle, 0)
        busy = idle + compute_share * np.maximum(limit * self._of("busy_share") - idle, 0)
        return others + n_busy * busy + host

    def _machine_usd_per_year(self) -> NDArray[np.float64]:
        """A machine for a year: rented by the hour, or bought, spread over its years, with its upkeep."""
        if self._basis == "rent":
            return self._hw.machine.n_cards * self._card("usd_per_hour") * _HOURS_PER_YEAR
        price = self._hw.machine.n_cards * self._price_usd() + self._of("machine_usd")
        return price * (1 / self._of("years") + self._of("upkeep_per_year"))
