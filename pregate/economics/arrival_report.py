"""What `pregate.under_arrivals` answers: designs that serve requests at several rates, in figures and in sentences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hwmodels.stacks.usual_passes import MOST_SLOTS
from pregate.ask.result_display import html_rows, to_dataframe
from pregate.economics.cost_draws import Estimate
from pregate.economics.serving import LatencyPromise, Unserved
from simulator.serving.arrivals import PROMPTS_ALONE, Batching

if TYPE_CHECKING:
    import pandas as pd


_SURE = 0.95
"""Share of the draws from which on a design is called the quickest without a doubt."""

_ALIKE = 0.02
"""Costs that differ by less are called alike: a machine of one rate costs what it costs, whatever runs on it."""


@dataclass(frozen=True, slots=True)
class UnderArrivals:
    """A design at a rate, with as many `slots` of those there is memory for as give the least p99 TTFT (of those that
    keep the promise, where any does).

    `ttft_s`, `tpot_s`: by percentile over requests, with the 95 % interval over what predictions may be off by and over
    which requests come; infinite where the queue grows, `tpot_s` NaN where every answer is one token. `capacity`:
    requests a second beyond which the queue grows, with so many `slots`. `busy`: the share of the time in which a pass
    runs. `usd_per_million`: output tokens on a machine that serves this rate alone, None where no cost is known, or the
    queue grows. `keeps`: whether the 99th percentiles keep the promise. `quickest_in`: the share of the draws in which
    its p99 TTFT is the least of all designs, which meet the same machines and requests. `n_stages`: passes that are
    under way at the same time at most, one on each of the cards that have layers in turn. `pass_tokens`: tokens that
    pass together at most.
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
    n_stages: int = 1
    pass_tokens: int = 0

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
        return (
            row
            | {"queue_grows": self.grows, "keeps_promise": self.keeps, "quickest_in": self.quickest_in}
            | {"stages": self.n_stages, "pass_tokens": self.pass_tokens}
        )


@dataclass(frozen=True, slots=True, repr=False)
class ArrivalReport:
    """Designs on one machine, each at every rate. `slots`: requests that run side by side at most. `unserved`: designs
    without the memory for that. `no_cost`: why no tokens are costed, "" where they are. `held_share`: of the tokens of
    prompts, those that a cache of prefixes holds; None: there is no cache.
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
    held_share: float | None = None

    @property
    def decided_ahead(self) -> bool:
        """Whether a pass is decided on as the one before begins, by any design: in stages none is."""
        in_stages = [row.n_stages > 1 for row in self.rows]
        return self.batching.ahead and not (in_stages and all(in_stages))

    @property
    def how_prompts_pass(self) -> str:
        """A sentence of how passes are made."""
        ahead = ", each pass decided on as the one before begins" if self.decided_ahead else ""
        if self.held_share is not None:
            ahead += f"; {self.held_share:.0%} of the tokens of prompts are held from earlier requests"
        said = f"Prompts pass before tokens, {self.pass_tokens:,} tokens together{ahead}."
        if self.batching.mixes:
            said = f"Prompts pass beside tokens of others, in parts, {self.pass_tokens:,} tokens a pass at most{ahead}."
        others = {row.design: row.pass_tokens for row in self.rows if row.pass_tokens != self.pass_tokens}
        said += "".join(f" {design} has passes of {n:,} tokens." for design, n in others.items())
        if any(row.n_stages > 1 for row in self.rows):
            said += (
                " With layers in turn as many passes are under way as there are stages, each request in one of them."
            )
        return said

    def verdict(self) -> list[str]:
        """A sentence a rate: who is quickest at the 99th percentile of TTFT, who keeps the promise at least cost."""
        told = []
        for rate in dict.fromkeys(row.requests_per_s for row in self.rows):
            here = [row for row in self.rows if row.requests_per_s == rate and not row.grows]
            if not here:
                full = any(row.slots == self.slots < MOST_SLOTS for row in self.rows if row.requests_per_s == rate)
                more = f"more at once (--slots, now {self.slots}), " * full
                told.append(f"At {rate:.3g} requests/s every queue grows: {more}more machines, or fewer requests.")
                continue
            promised = self.promise != LatencyPromise()
            kept = [row for row in here if row.keeps]
            if promised and not kept:
                told.append(f"At {rate:.3g} requests/s no design keeps the promise at the 99th percentile.")
                continue
            if len(here) == 1:
                fails = bool(self.unserved) or any(row.grows for row in self.rows if row.requests_per_s == rate)
                alone = " alone" * fails
                told.append(f"At {rate:.3g} requests/s {here[0].design}{alone} serves all that come.")
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
            "prompts": "beside" if self.batching.mixes else "alone", "decided_ahead": self.decided_ahead,
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


def _told_cost(costed: Sequence[UnderArrivals]) -> str:
    """Who costs least, where that is more than `_ALIKE` less than the next."""
    usd = sorted((row.usd_per_million.value, row.design) for row in costed if row.usd_per_million is not None)
    if not usd:
        return ""
    alike = len(usd) > 1 and usd[0][0] > (1 - _ALIKE) * usd[1][0]
    return "; tokens cost alike" if alike else f"; {usd[0][1]} costs least, {usd[0][0]:.3g} USD/M tokens"
