"""A proof of concept from a cost report: what to measure first, what to accept, when to go back, what to watch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pregate.ask.capturing.machine_memory import memory_of
from pregate.ask.timing.time_errors import OWN_ERROR, SCATTER
from pregate.draw.render import si
from pregate.economics.assumptions import load_assumptions
from pregate.economics.cost_draws import unfitted_error
from pregate.economics.costing import CostReport, DesignCost, costs
from pregate.economics.poc_file import PocFile, read_poc
from pregate.economics.serving import LatencyPromise
from pregate.named import load_hardware, load_model
from traces.model.formats_by_part import parse_formats

N_MEASUREMENTS = 3

HOW = {
    "unfitted_error": "Fit this machine: pregate measure -o m.json && pregate calibrate m.json -o fit.yaml, and ask "
    "again with --hardware fit.yaml",
    "utilisation": "Count requests in flight in the log of a week: the share of the time in which there is one",
    "electricity_usd_per_kwh": "Read it in the contract of the building",
    "pue": "Ask the building: all power over that of the machines, a year's mean",
    "years": "Ask the accounts: over how many years machines are written off",
    "machine_usd": "Ask for an offer of the server without its cards",
    "upkeep_per_year": "Ask the accounts: repair, space and staff of a year over the price",
    "engineering_usd_per_day": "Ask the accounts: an engineer with overhead",
    "host_idle_watts": "Read the server's power at the rack with nothing running, less that of its cards",
    "host_busy_watts": "Read the server's power at the rack while its processor computes, less that of its cards",
    "busy_share": "nvidia-smi --query-gpu=power.draw,power.limit --format=csv -l 1 under the load of a busy hour",
    "idle_share": "nvidia-smi --query-gpu=power.draw,power.limit --format=csv -l 1 with the model loaded, no request",
    "transfer_joules_per_gb": "Read power.draw with and without copies: pregate measure beside nvidia-smi",
}
"""How an assumption is replaced by a measurement, by its name or the last word of it."""

_HOW_LAST = {
    "limit_watts": "nvidia-smi --query-gpu=power.limit --format=csv",
    "price_usd": "Ask for an offer of the card",
    "usd_per_hour": "Ask for an offer of the hours that are needed",
}


@dataclass(frozen=True, slots=True)
class ToMeasure:
    """One thing to find out, how, and the share of what is in doubt that it would settle."""

    name: str
    how: str
    share: float


@dataclass(frozen=True, slots=True)
class Threshold:
    """One figure of the chosen design: what is predicted, what is accepted, and when to go back."""

    figure: str
    predicted: str
    accept: str
    roll_back: str
    watch: str


@dataclass(frozen=True, slots=True)
class Poc:
    """A plan: the report it rests on, the candidate to try (None: none is worth it), and what to do with it."""

    asked: PocFile
    report: CostReport
    chosen: DesignCost | None
    measurements: tuple[ToMeasure, ...]
    thresholds: tuple[Threshold, ...]

    @property
    def now(self) -> DesignCost | None:
        """What runs now; None where it does not serve these requests."""
        return _running_now(self.report)

    def verdict(self) -> str:
        """Whether to try something, what, and how sure its cost is."""
        said = self.report.verdict()
        if self.chosen is None:
            return f"Nothing to try: no candidate serves these requests. {said}"
        if self.report.cheapest is self.now:
            return f"Leave it as it is. {said}"
        return f"Try {self.chosen.served.design}. {said}"


def _running_now(report: CostReport) -> DesignCost | None:
    return next((one for one in report.designs if one.served.design == report.now), None)


def plan_poc(
    path: str | Path, progress: Callable[[str], None] = lambda _: None, *, policies: Sequence[str] = ()
) -> Poc:
    """The plan of the file at `path`; `policies`: candidates besides its own, which may be files of code.

    Raises as `read_poc` and `pregate.costs`.
    """
    asked = read_poc(Path(path), policies)
    model = load_model(asked.model, formats=parse_formats(asked.formats))
    hw = load_hardware(asked.hardware, asked.stack)
    report = costs(
        model,
        hw,
        [asked.now, *asked.candidates],
        input_tokens=asked.input_tokens,
        output_tokens=asked.output_tokens,
        requests_per_s=asked.requests_per_s,
        objective=LatencyPromise(asked.ttft_s, asked.tpot_s),
        basis=asked.basis,
        batches=asked.batches,
        assumptions=load_assumptions(None, asked.assume),
        progress=progress,
    )
    others = [one for one in report.ranked if one.served.design != asked.now]
    chosen = min(others, key=lambda one: one.total.value, default=None)
    now = _running_now(report)
    thresholds = () if chosen is None else _thresholds(asked, chosen, now, memory_of(hw).hbm_bytes)
    return Poc(asked, report, chosen, _measurements(report), thresholds)


def _measurements(report: CostReport) -> tuple[ToMeasure, ...]:
    """The assumptions that the choice hangs on most, and how each is settled."""
    found = list(report.drivers.items())[:N_MEASUREMENTS]
    return tuple(ToMeasure(name, _how(name), share) for name, share in found)


def _how(name: str) -> str:
    if name.startswith((OWN_ERROR, SCATTER)):
        return HOW["unfitted_error"]
    if name.startswith("engineering_days."):
        return "Build the smallest thing that serves one request, for two days, and estimate again"
    return HOW.get(name) or _HOW_LAST[name.rpartition(".")[2]]


def _thresholds(asked: PocFile, chosen: DesignCost, now: DesignCost | None, hbm_bytes: int) -> tuple[Threshold, ...]:
    """Accepted is what was promised, or else what the prediction can be off by, of memory no more than the `hbm_bytes`
    that there are; back goes what serves less than now.
    """
    served = chosen.served
    slower = _slowest(asked, chosen)
    ttft = asked.ttft_s or served.ttft_s * slower
    tpot = asked.tpot_s or served.tpot_s * slower
    rate = served.requests_per_s
    back = "below the accepted rate for an hour"
    if now is not None:
        back = f"below {now.served.requests_per_s:.3g} for an hour: what runs now serves that"
    link = f"{si(served.link_bytes_per_s, 'B')}/s"
    most_bytes = min(1.05 * served.peak_hbm_bytes, hbm_bytes)
    return (
        Threshold(
            "time to the first token, 95th percentile", si(served.ttft_s, "s"), f"at most {si(ttft, 's')}",
            f"above {si(1.2 * ttft, 's')} for 10 minutes", "the engine's log or metrics, a histogram a minute",
        ),
        Threshold(
            "time per output token, 95th percentile", si(served.tpot_s, "s"), f"at most {si(tpot, 's')}",
            f"above {si(1.2 * tpot, 's')} for 10 minutes", "the engine's log or metrics, a histogram a minute",
        ),
        Threshold(
            f"requests/s at batch {served.batch}", f"{rate:.3g}", f"at least {rate / slower:.3g}", back,
            "requests finished, a counter",
        ),
        Threshold(
            "HBM in use", si(served.peak_hbm_bytes, "B"), f"at most {si(most_bytes, 'B')}",
            "any request that fails for memory", "nvidia-smi --query-gpu=memory.used --format=csv -l 10",
        ),
        Threshold(
            "bytes over the link", link, f"within 20 % of {link} at this batch",
            "none of its own: says why another figure moved", "nvidia-smi dmon -s t -d 10 (rxpci, MB/s)",
        ),
        Threshold(
            "experts found resident", f"{served.hit_rate:.1%}", f"at least {max(served.hit_rate - 0.1, 0):.1%}",
            "none of its own: where pregate monitor finds drift, ask again with --trace",
            "the engine's counters, or pregate monitor TRACE --reference AT_LAUNCH",
        ),
    )  # fmt: skip


def _slowest(asked: PocFile, chosen: DesignCost) -> float:
    """How many times as long as predicted a run may take before the prediction itself is wrong."""
    if any(chosen.served.error.fitted):
        return chosen.served.error.interval(1.0)[1]
    return unfitted_error(chosen.served, load_assumptions(None, asked.assume)).high
