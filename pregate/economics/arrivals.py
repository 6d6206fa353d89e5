"""`pregate.under_arrivals`: percentiles of TTFT and TPOT of requests that queue, and what their tokens cost."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hwmodels.platform import Platform
from offload.policies import policy_named
from offload.policy import Policy
from offload.slots.memory import CapacityExceeded
from pregate.ask.calibration_told import describe_calibration
from pregate.ask.choices import BASES
from pregate.ask.result_display import html_rows, to_dataframe
from pregate.ask.routing_source import describe_routing
from pregate.ask.simulation import SimulationResult
from pregate.ask.timing.time_errors import summed
from pregate.card.engine_defaults import settled_designs
from pregate.economics.assumptions import Assumptions, load_assumptions
from pregate.economics.batching import batching_of, usual_pass_tokens
from pregate.economics.cost_draws import Draws, Estimate, estimate
from pregate.economics.serving import LatencyPromise, RequestShape, Served, Unserved
from pregate.economics.step_times import PassTime, PassTimes, pass_times, pass_traces
from pregate.routing_traces import synthesize
from simulator.arrivals import PROMPTS_ALONE, Batching, RequestTimes, StepTimes, capacity, serve_arrivals
from traces.errors import InvalidInput, unknown_name
from traces.model.architecture import ModelArchitecture
from traces.requests import ArrivalTrace
from traces.transforms.prefix_cache import with_prefix_cache

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["PERCENTILES", "USUAL", "ArrivalReport", "UnderArrivals", "under_arrivals"]

PERCENTILES = (50, 99)
"""Percentiles over requests that are reported."""

_SURE = 0.95
"""Share of the draws from which on a design is called the quickest without a doubt."""

_ALIKE = 0.02
"""Costs that differ by less are called alike: a machine of one rate costs what it costs, whatever runs on it."""

_MOST_SLOTS = 1024

USUAL = ("on_demand", "pregate", "pregate+lru", "gpu_only")
"""Designs that serve where none is named, on stacks that are no engine's."""

N_DRAWS = 100
"""Draws of an interval: each is another machine and other requests of the same kind."""


@dataclass(frozen=True, slots=True)
class UnderArrivals:
    """A design at a rate, with as many `slots` of those there is memory for as give the least p99 TTFT (of those that
    keep the promise, where any does).

    `ttft_s`, `tpot_s`: by percentile over requests, with the 95 % interval over what predictions may be off by and over
    which requests come; infinite where the queue grows, `tpot_s` NaN where every answer is one token. `capacity`:
    requests a second beyond which the queue grows, with so many `slots`. `busy`: the share of the time in which a pass
    runs. `usd_per_million`: output tokens on a machine that serves this rate alone, None where no cost is known, or the
    queue grows. `keeps`: whether the 99th percentiles keep the promise. `quickest_in`: the share of the draws in which
    its p99 TTFT is the least of all designs, which meet the same machines and requests.
    """

    design: str
    requests_per_s: float
    slots: int
    capacity: Estimate
    busy: float
    ttft_s: dict[int, Estimate]
    tpot_s: dict[int, Estimate]
    usd_per_million: Estimate | None
    keeps: bool
    quickest_in: float = 0.0

    @property
    def grows(self) -> bool:
        """Whether more requests come than are served, so that no percentile settles."""
        return self.requests_per_s >= self.capacity.value

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready, a flat row: each figure with `_low` and `_high`, None for what is not finite."""
        row: dict[str, Any] = {"design": self.design, "requests_per_s": self.requests_per_s}
        row |= {"slots": self.slots, "busy": self.busy}
        figures = {"capacity_per_s": self.capacity, "usd_per_million_tokens": self.usd_per_million}
        figures |= {f"ttft_p{p}_s": one for p, one in self.ttft_s.items()}
        figures |= {f"tpot_p{p}_s": one for p, one in self.tpot_s.items()}
        for name, one in figures.items():
            ends = (None, None, None) if one is None else one.to_list()
            row |= dict(zip((name, f"{name}_low", f"{name}_high"), ends, strict=True))
        return row | {"queue_grows": self.grows, "keeps_promise": self.keeps, "quickest_in": self.quickest_in}


@dataclass(frozen=True, slots=True, repr=False)
class ArrivalReport:
    """Designs on one machine, each at every rate. `slots`: requests that run side by side at most. `unserved`: designs
    without the memory for that. `no_cost`: why no tokens are costed, "" where they are. `held_share`: of the tokens of
    prompts, those that a cache of prefixes holds.
    """

    model: str
    hardware: str
    source: str
    n_requests: int
    n_left_out: int
    slots: int
    pass_tokens: int
    promise: LatencyPromise
    basis: str
    calibration: str
    routing: str
    rows: tuple[UnderArrivals, ...]
    unserved: tuple[Unserved, ...]
    no_cost: str = ""
    batching: Batching = PROMPTS_ALONE
    held_share: float = 0.0

    @property
    def how_prompts_pass(self) -> str:
        """A sentence of how passes are made."""
        ahead = ", each pass decided on as the one before begins" if self.batching.ahead else ""
        if self.held_share:
            ahead += f"; {self.held_share:.0%} of the tokens of prompts are held from earlier requests"
        if self.batching.mixes:
            return f"Prompts pass beside tokens of others, in parts, {self.pass_tokens:,} tokens a pass at most{ahead}."
        return f"Prompts pass before tokens, {self.pass_tokens:,} tokens together{ahead}."

    def verdict(self) -> list[str]:
        """A sentence a rate: who is quickest at the 99th percentile of TTFT, who keeps the promise at least cost."""
        told = []
        for rate in dict.fromkeys(row.requests_per_s for row in self.rows):
            here = [row for row in self.rows if row.requests_per_s == rate and not row.grows]
            if not here:
                full = any(row.slots == self.slots < _MOST_SLOTS for row in self.rows if row.requests_per_s == rate)
                more = f"more at once (--slots, now {self.slots}), " * full
                told.append(f"At {rate:.3g} requests/s every queue grows: {more}more machines, or fewer requests.")
                continue
            promised = self.promise != LatencyPromise()
            kept = [row for row in here if row.keeps]
            if promised and not kept:
                told.append(f"At {rate:.3g} requests/s no design keeps the promise at the 99th percentile.")
                continue
            if len(here) == 1:
                told.append(f"At {rate:.3g} requests/s {here[0].design} alone serves all that come.")
                continue
            best = min(kept, key=lambda row: row.ttft_s[99].value)
            words = (
                f"At {rate:.3g} requests/s {best.design} has the least p99 TTFT" + " of those that keep it" * promised
            )
            words += f", in {best.quickest_in:.0%} of the draws"
            others = [row for row in kept if row is not best]
            if others and best.quickest_in < _SURE:
                second = max(others, key=lambda row: row.quickest_in)
                words += f", {second.design} in {second.quickest_in:.0%}: not told apart"
            words += _told_cost([row for row in kept if row.usd_per_million is not None])
            told.append(f"{words}.")
        return told

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "model": self.model, "hardware": self.hardware, "arrivals": self.source, "requests": self.n_requests,
            "left_out": self.n_left_out, "slots": self.slots, "pass_tokens": self.pass_tokens,
            "prompts": "beside" if self.batching.mixes else "alone", "decided_ahead": self.batching.ahead,
            "promise": {"ttft_s": self.promise.ttft_s, "tpot_s": self.promise.tpot_s}, "basis": self.basis,
            "calibration": self.calibration, "routing": self.routing, "rows": [row.to_dict() for row in self.rows],
            "unserved": [{"design": one.design, "reason": one.reason} for one in self.unserved],
            "no_cost": self.no_cost, "held_share": self.held_share, "verdict": self.verdict(),
        }  # fmt: skip

    def to_dataframe(self) -> pd.DataFrame:
        """A row a design and rate. Needs pandas (the extra `notebooks`)."""
        return to_dataframe([row.to_dict() for row in self.rows])

    def __repr__(self) -> str:
        return f"ArrivalReport({self.model} on {self.hardware}: {' '.join(self.verdict())})"

    def _repr_html_(self) -> str:
        return html_rows([row.to_dict() for row in self.rows], f"{self.model} on {self.hardware}")


def under_arrivals(
    model: ModelArchitecture,
    machine: Platform,
    policies: Sequence[str | Policy] | None,
    requests: ArrivalTrace,
    rates: Sequence[float] = (),
    *,
    slots: int = 8,
    pass_tokens: int | None = None,
    prompts: str | None = None,
    prefix_cache: int | None = None,
    promise: LatencyPromise = LatencyPromise(),  # noqa: B008 (frozen)
    basis: str = "own",
    assumptions: Assumptions | None = None,
    seed: int = 0,
    progress: Callable[[str], None] = lambda _: None,
) -> ArrivalReport:
    """Have each design serve `requests` at each of `rates` (requests a second; none: as they arrive).

    The time of a pass (`simulator.arrivals`) is that of a schedule of its size, between sizes a line. `policies`: None:
    `USUAL`, or what an engine runs that the stack is. `slots`: requests
    side by side, each with memory for the longest; `prompts`: "beside" tokens of others, in parts, or "alone" and whole
    before these; `pass_tokens`: that pass together; None of either: as the engine of the stack has it. `prefix_cache`:
    tokens of keys and values that memory has room for, held from one request to the next (`with_prefix_cache`). Routing
    is made up. An interval is over `N_DRAWS` machines as far off as the prediction may be, each with other runs of the
    same requests. Raises `InvalidInput`, and as `simulate`; a design for which
    memory is too small is among `unserved`.
    """
    if basis not in BASES:
        raise unknown_name("basis", basis, BASES)
    batching = batching_of(machine, model, prompts)
    if prefix_cache is not None:
        if model.is_encoder_decoder:
            raise InvalidInput(f"{model.name}: an encoder reads its prompt whole, leave out the cache of prefixes")
        requests = with_prefix_cache(requests, prefix_cache)
    if pass_tokens is None:
        pass_tokens = max(usual_pass_tokens(machine), slots)
    n_named = len(USUAL if policies is None else policies)
    if not n_named or not 1 <= slots <= _MOST_SLOTS or pass_tokens < 1:
        told = f"{n_named} designs, {slots} slots, passes of {pass_tokens} tokens"
        raise InvalidInput(f"{told}: at least one of each, and {_MOST_SLOTS:,} slots at most")
    if batching.mixes and pass_tokens < slots:
        raise InvalidInput(
            f"passes of {pass_tokens} tokens for {slots} slots: each request has one in a pass that prompts share, so "
            f"take {slots} tokens at least, or fewer slots"
        )
    at_rates = [(rate, requests.at_rate(rate)) for rate in dict.fromkeys(rates or (requests.rate,))]
    rows: list[UnderArrivals] = []
    ttfts: list[NDArray[np.float64]] = []
    unserved: list[Unserved] = []
    results: list[SimulationResult] = []
    draws = Draws(machine, basis, assumptions or load_assumptions())
    no_cost = ""
    passes = pass_traces(model, requests, slots, pass_tokens, seed, mixes=batching.mixes, held_tokens=prefix_cache or 0)
    if policies is None:
        policies = settled_designs(model, machine, passes.as_work(), few=True) or USUAL
    designs = [policy_named(one) if isinstance(one, str) else one for one in policies]
    for design in designs:
        progress(design.name)
        try:
            found = pass_times(passes, machine, design)
        except CapacityExceeded as error:
            unserved.append(Unserved(design.name, str(error)))
            continue
        results += found.results
        machines = found.drawn(_normal(seed))
        most = {n: capacity(requests, machines, n, pass_tokens, batching) for n in found.batches}
        for rate, one in at_rates:
            row, ttft, served, shape = _served(found, machines, most, rate, one, pass_tokens, batching, promise, seed)
            cost: Estimate | None = None
            if not row.grows:
                try:
                    cost = estimate(1e6 * draws.usd_per_token(served, shape, row.requests_per_s))
                except InvalidInput as error:
                    no_cost = str(error)
            rows.append(replace(row, usd_per_million=cost))
            ttfts.append(ttft)
    made_up = synthesize(model, 1, 2, 1, seed)
    return ArrivalReport(
        model.name, machine.hardware, requests.source, len(requests), requests.n_left_out, slots, pass_tokens, promise,
        basis, describe_calibration(machine, model, results), describe_routing(model, made_up, results),
        _with_shares(rows, ttfts), tuple(unserved), no_cost, batching,
        float(requests.held.sum() / requests.input_tokens.sum()),
    )  # fmt: skip


def _told_cost(costed: Sequence[UnderArrivals]) -> str:
    """Who costs least, where that is more than `_ALIKE` less than the next."""
    usd = sorted((row.usd_per_million.value, row.design) for row in costed if row.usd_per_million is not None)
    if not usd:
        return ""
    alike = len(usd) > 1 and usd[0][0] > (1 - _ALIKE) * usd[1][0]
    return "; tokens cost alike" if alike else f"; {usd[0][1]} costs least, {usd[0][0]:.3g} USD/M tokens"


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


def _served(
    found: PassTimes, machines: Sequence[StepTimes], most_of: Mapping[int, NDArray[np.float64]], rate: float,
    requests: ArrivalTrace, pass_tokens: int, batching: Batching, promise: LatencyPromise, seed: int,
) -> tuple[UnderArrivals, NDArray[np.float64], Served, RequestShape]:  # fmt: skip
    """A design at the `rate` of `requests`, without its cost; its p99 TTFT in each draw; and what it costs by.

    `most_of`: by slots, the capacity of each machine.
    """
    slots = _slots(most_of, machines[0], rate, requests, pass_tokens, batching, promise)
    most = most_of[slots]
    ttft, tpot = (np.full((len(machines), len(PERCENTILES)), np.inf) for _ in range(2))
    run = serve_arrivals(requests, machines[0], slots, pass_tokens, batching)
    for draw, times in enumerate(machines):
        if rate < most[draw]:
            came = requests if draw == 0 else requests.resampled(np.random.default_rng([seed, draw]))
            seen = run if draw == 0 else serve_arrivals(came, times, slots, pass_tokens, batching)
            for array, each in ((ttft, seen.ttft_s(came)), (tpot, seen.tpot_s(came))):
                array[draw] = np.percentile(each, PERCENTILES) if len(each) else np.nan
    ttfts, tpots = (
        {p: estimate(array[:, i]) for i, p in enumerate(PERCENTILES)} for array in (ttft, tpot)
    )  # fmt: skip
    busy_s = run.prompt_s + run.token_s
    row = UnderArrivals(
        found.design, rate, slots, estimate(most), min(busy_s / float(run.last_s.max()), 1.0), ttfts, tpots, None,
        bool(rate < most[0]) and promise.met(ttfts[99].value, float(np.nan_to_num(tpots[99].value))),
    )  # fmt: skip
    shape = RequestShape(round(float(requests.input_tokens.mean())), round(float(requests.output_tokens.mean())))
    p99 = ttft[1:, PERCENTILES.index(99)]
    return row, p99, _as_served(found, run, requests, shape), shape


def _slots(
    most_of: Mapping[int, NDArray[np.float64]], times: StepTimes, rate: float, requests: ArrivalTrace, pass_tokens: int,
    batching: Batching, promise: LatencyPromise,
) -> int:  # fmt: skip
    """How many run side by side best, the most of those as good: more share a pass, and ask for more experts."""
    ranked: list[tuple[bool, float, int]] = []
    for n, most in most_of.items():
        if rate < most[0]:
            run = serve_arrivals(requests, times, n, pass_tokens, batching)
            ttft, tpot = (
                float(np.percentile(each, 99)) if len(each) else 0.0
                for each in (run.ttft_s(requests), run.tpot_s(requests))
            )
            ranked.append((not promise.met(ttft, tpot), ttft, -n))
    return -min(ranked)[2] if ranked else max(most_of, key=lambda n: most_of[n][0])


def _as_served(found: PassTimes, run: RequestTimes, requests: ArrivalTrace, shape: RequestShape) -> Served:
    """What a request keeps busy, by a middle prompt and a middle batch."""
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
