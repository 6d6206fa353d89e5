"""`pregate.under_arrivals`: percentiles of TTFT and TPOT of requests that queue, and what their tokens cost."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache

import numpy as np
from numpy.typing import NDArray

from hwmodels.platform import Platform
from offload.policies import policy_named
from offload.policy import Policy
from offload.slots.memory import CapacityExceeded
from pregate.ask.calibration_summary import describe_calibration
from pregate.ask.choices import BASES
from pregate.ask.routing_source import describe_routing
from pregate.ask.simulation import SimulationResult
from pregate.ask.timing.time_errors import summed
from pregate.card.designs import with_own_gates
from pregate.card.engine_defaults import settled_designs
from pregate.economics.arrival_report import ArrivalReport, UnderArrivals
from pregate.economics.assumptions import Assumptions, load_assumptions
from pregate.economics.batching import Server, passing
from pregate.economics.cost_draws import Draws, Estimate, estimate
from pregate.economics.serving import LatencyPromise, RequestShape, Served, Unserved
from pregate.economics.step_times import PassTime, PassTimes, PassTraces, pass_times, pass_traces
from pregate.routing_traces import synthesize
from simulator.serving.arrivals import Batching, RequestTimes, StepTimes, capacity, serve_arrivals
from traces.errors import InvalidInput, unknown_name
from traces.model.architecture import ModelArchitecture
from traces.requests import ArrivalTrace

PERCENTILES = (50, 99)
"""Percentiles over requests that are reported."""

USUAL = ("on_demand", "pregate", "pregate+lru", "gpu_only")
"""Designs that serve where none is named, on stacks that are no engine's."""

N_DRAWS = 100
"""Draws of an interval: each is another machine and other requests of the same kind."""

_USUAL_SERVER = Server()


def under_arrivals(
    model: ModelArchitecture,
    machine: Platform,
    policies: Sequence[str | Policy] | None,
    requests: ArrivalTrace,
    rates: Sequence[float] = (),
    server: Server = _USUAL_SERVER,
    *,
    promise: LatencyPromise = LatencyPromise(),  # noqa: B008 (frozen)
    basis: str = "own",
    assumptions: Assumptions | None = None,
    seed: int = 0,
    progress: Callable[[str], None] = lambda _: None,
) -> ArrivalReport:
    """Have each design serve `requests` at each of `rates` (requests a second; none: as they arrive) as `server` says.

    The time of a pass (`simulator.serving.arrivals`) is that of a schedule of its size, between sizes a line. Without
    `policies` they are `USUAL`, or what an engine runs that the stack is. Routing is made up. An interval is over
    `N_DRAWS` machines as far off as the prediction may be, each with other runs of the same requests. Raises
    `InvalidInput`, and as `simulate`; a design for which memory is too small is among `unserved`.
    """
    if basis not in BASES:
        raise unknown_name("basis", basis, BASES)
    if policies is not None and not policies:
        raise InvalidInput("policies = []: name at least one design, or None")
    batching, pass_tokens = server.settled(machine, model)
    requests = server.held(model, requests)
    at_rates = [(rate, requests.at_rate(rate)) for rate in dict.fromkeys(rates or (requests.rate,))]

    @cache
    def passes_of(n_tokens: int) -> PassTraces:
        return pass_traces(
            model, requests, server.slots, n_tokens, seed, mixes=batching.mixes, held_tokens=server.prefix_cache or 0,
            execution=machine.execution,
        )  # fmt: skip

    if policies is None:
        policies = settled_designs(model, machine, passes_of(pass_tokens).as_work(), few=True) or with_own_gates(
            USUAL, model
        )
    draws = Draws(machine, basis, assumptions or load_assumptions())
    serves = _Serves(at_rates, batching, promise, seed, draws)
    unserved: list[Unserved] = []
    served: list[Policy] = []
    for design in [policy_named(one) if isinstance(one, str) else one for one in policies]:
        progress(design.name)
        try:
            n_tokens = server.settled(machine, model, design)[1]
            serves.by(pass_times(passes_of(n_tokens), machine, passing(design, machine, model, n_tokens)))
            served.append(design)
        except CapacityExceeded as error:
            unserved.append(Unserved(design.name, str(error)))
    made_up = synthesize(model, 1, 2, 1, seed)
    return ArrivalReport(
        model.name, machine.hardware, requests.source, len(requests), requests.n_left_out, server.slots, pass_tokens,
        promise, basis, describe_calibration(machine, model, serves.results, served),
        describe_routing(model, made_up, serves.results), _with_shares(serves.rows, serves.ttfts), tuple(unserved),
        serves.no_cost, batching,
        None if server.prefix_cache is None else float(requests.held.sum() / requests.input_tokens.sum()),
    )  # fmt: skip


@dataclass
class _Serves:
    """Requests at each rate, by one design after the other: a row each, and the p99 TTFT of it in each draw."""

    at_rates: Sequence[tuple[float, ArrivalTrace]]
    batching: Batching
    promise: LatencyPromise
    seed: int
    draws: Draws
    rows: list[UnderArrivals] = field(default_factory=list)
    ttfts: list[NDArray[np.float64]] = field(default_factory=list)
    results: list[SimulationResult] = field(default_factory=list)
    no_cost: str = ""

    def by(self, found: PassTimes) -> None:
        """Have a design serve them all."""
        self.results += found.results
        machines = found.drawn(_normal(self.seed))
        requests = self.at_rates[0][1]
        most = {n: capacity(requests, machines, n, found.pass_tokens, self.batching) for n in found.batches}
        for rate, one in self.at_rates:
            row, ttft, run = self._row(found, machines, most, rate, one)
            cost = None if row.grows else self._cost(_as_served(found, run, one), one, rate)
            self.rows.append(replace(row, usd_per_million=cost))
            self.ttfts.append(ttft)

    def _cost(self, served: Served, requests: ArrivalTrace, rate: float) -> Estimate | None:
        """Of a million output tokens; None where no cost is known."""
        try:
            return estimate(1e6 * self.draws.usd_per_token(served, _shape(requests), rate))
        except InvalidInput as error:
            self.no_cost = str(error)
        return None

    def _row(
        self, found: PassTimes, machines: Sequence[StepTimes], most_of: Mapping[int, NDArray[np.float64]], rate: float,
        requests: ArrivalTrace,
    ) -> tuple[UnderArrivals, NDArray[np.float64], RequestTimes]:  # fmt: skip
        """A design at the `rate` of `requests`, without its cost; its p99 TTFT in each draw; and when each is served.

        `most_of`: by slots, the capacity of each machine.
        """
        slots = self._slots(found.pass_tokens, most_of, machines[0], rate, requests)
        most = most_of[slots]
        ttft, tpot = (np.full((len(machines), len(PERCENTILES)), np.inf) for _ in range(2))
        run = serve_arrivals(requests, machines[0], slots, found.pass_tokens, self.batching)
        for draw, times in enumerate(machines):
            if rate < most[draw]:
                came = requests if draw == 0 else requests.resampled(np.random.default_rng([self.seed, draw]))
                seen = run if draw == 0 else serve_arrivals(came, times, slots, found.pass_tokens, self.batching)
                for array, each in ((ttft, seen.ttft_s), (tpot, seen.tpot_s(came))):
                    array[draw] = np.percentile(each, PERCENTILES) if len(each) else np.nan
        ttfts, tpots = (
            {p: estimate(array[:, i]) for i, p in enumerate(PERCENTILES)} for array in (ttft, tpot)
        )  # fmt: skip
        keeps = rate < most[0] and self.promise.met(ttfts[99].value, float(np.nan_to_num(tpots[99].value)))
        row = UnderArrivals(
            found.design, rate, slots, estimate(most), min(run.busy_s / float(run.last_s.max()), 1.0), ttfts, tpots,
            None, bool(keeps), n_stages=found.n_stages, pass_tokens=found.pass_tokens,
        )  # fmt: skip
        return row, ttft[1:, PERCENTILES.index(99)], run

    def _slots(
        self, n_tokens: int, most_of: Mapping[int, NDArray[np.float64]], times: StepTimes, rate: float,
        requests: ArrivalTrace,
    ) -> int:  # fmt: skip
        """How many run side by side best in passes of `n_tokens`, the most of those as good: more share a pass, and ask
        for more experts.
        """
        ranked: list[tuple[bool, float, int]] = []
        for n, most in most_of.items():
            if rate < most[0]:
                run = serve_arrivals(requests, times, n, n_tokens, self.batching)
                ttft, tpot = (
                    float(np.percentile(each, 99)) if len(each) else 0.0 for each in (run.ttft_s, run.tpot_s(requests))
                )
                ranked.append((not self.promise.met(ttft, tpot), ttft, -n))
        return -min(ranked)[2] if ranked else max(most_of, key=lambda n: most_of[n][0])


def _shape(requests: ArrivalTrace) -> RequestShape:
    """The mean request."""
    return RequestShape(round(float(requests.input_tokens.mean())), round(float(requests.output_tokens.mean())))


def _with_shares(rows: Sequence[UnderArrivals], ttfts: Sequence[NDArray[np.float64]]) -> tuple[UnderArrivals, ...]:
    """`rows`, each with the share of the draws in which it is the quickest at its rate; `ttfts`: the p99 in each."""
    found = []
    for row, own in zip(rows, ttfts, strict=True):
        rate = row.requests_per_s
        same = [other for one, other in zip(rows, ttfts, strict=True) if one.requests_per_s == rate]
        least = np.min(same, axis=0)
        found.append(replace(row, quickest_in=float(np.mean(np.isfinite(own) & (own <= least)))))
    return tuple(found)


def _normal(seed: int) -> Callable[[str], NDArray[np.float64]]:
    """Draws by name, the same for all designs: 0, then `N_DRAWS` of a standard normal law."""

    def drawn(name: str) -> NDArray[np.float64]:
        rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
        return np.concatenate([[0.0], rng.standard_normal(N_DRAWS)])

    return drawn


def _as_served(found: PassTimes, run: RequestTimes, requests: ArrivalTrace) -> Served:
    """What a request keeps busy, by a middle prompt and a middle batch."""
    shape = _shape(requests)
    parts = [
        (run.prompt_s / len(requests), found.prompts[len(found.prompts) // 2]),
        (run.token_s / len(requests), found.tokens[len(found.tokens) // 2][0]),
    ]
    busy_s = sum(seconds for seconds, _ in parts)

    def mean(of: Callable[[PassTime], float]) -> float:
        return sum(seconds * of(one) for seconds, one in parts) / busy_s

    moved = mean(lambda one: one.link_bytes / one.seconds)
    return Served(
        design=found.design, batch=1, ttft_s=parts[0][0], tpot_s=parts[1][0] / max(shape.output_tokens - 1, 1),
        request_s=busy_s,
        compute_share=mean(lambda one: one.compute_share), host_share=mean(lambda one: one.host_share),
        link_bytes=moved * busy_s / shape.output_tokens, link_bytes_per_s=moved, hit_rate=0.0,
        peak_hbm_bytes=found.peak_hbm_bytes, error=summed([(seconds, one.error) for seconds, one in parts]),
        n_at_once=found.n_at_once,
    )  # fmt: skip
