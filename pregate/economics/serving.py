"""What a design takes to serve requests in batches: seconds, and what its lanes do meanwhile; no money yet."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hwmodels.platform import Platform
from offload.policy import Policy
from offload.slots.memory import CapacityExceeded
from pregate.ask.capturing.capture import capture_request
from pregate.ask.simulation import SimulationResult, interpret
from pregate.ask.timing.stages import token_pace
from pregate.ask.timing.time_errors import TimeError, summed, time_error
from pregate.card.designs import granted
from pregate.card.job import RequestLoad, workpiece
from pregate.card.judged_design import Judged, PhaseUse
from traces.model.architecture import ModelArchitecture

BATCHES = (1, 2, 4, 8, 16, 32)
"""Batches that are tried."""


@dataclass(frozen=True, slots=True)
class RequestShape:
    """One request: tokens of its prompt, and tokens that it asks for."""

    input_tokens: int
    output_tokens: int


@dataclass(frozen=True, slots=True)
class LatencyPromise:
    """The latency that a user is promised, in seconds; None promises nothing."""

    ttft_s: float | None = None
    tpot_s: float | None = None

    def met(self, ttft_s: float, tpot_s: float) -> bool:
        """Whether both are kept."""
        return (self.ttft_s is None or ttft_s <= self.ttft_s) and (self.tpot_s is None or tpot_s <= self.tpot_s)


@dataclass(frozen=True, slots=True)
class Served:
    """A design at the batch at which it serves most requests a second and keeps the objective.

    `request_s`: from the prompts of a batch to its last output. Of that time the compute lane is busy `compute_share`,
    the host's processor `host_share`; `link_bytes` cross the link for each output token.
    `link_bytes_per_s` while it serves, `hit_rate` of its cache, `peak_hbm_bytes`: what a monitor would show.
    `error`: how far `request_s` may be off. `n_at_once`: cards that compute and copy at the same time.
    `n_under_way`: passes of tokens at the same time.
    """

    design: str
    batch: int
    ttft_s: float
    tpot_s: float
    request_s: float
    compute_share: float
    host_share: float
    link_bytes: float
    link_bytes_per_s: float
    hit_rate: float
    peak_hbm_bytes: int
    error: TimeError
    n_at_once: int = 1
    n_under_way: int = 1

    @property
    def requests_per_s(self) -> float:
        """Requests a second of a machine that is never idle."""
        return self.batch / self.request_s


@dataclass(frozen=True, slots=True)
class Unserved:
    """A design that does not fit, with the HBM that it needs, or that keeps the objective at no batch."""

    design: str
    reason: str
    needed_bytes: int = 0


def serve(
    model: ModelArchitecture,
    machine: Platform,
    design: Policy,
    request: RequestShape,
    objective: LatencyPromise,
    batches: Sequence[int] = BATCHES,
    seed: int = 0,
) -> Served | Unserved:
    """The batch of `batches` at which `design` serves most requests a second within `objective`.

    Sequences of a batch start and end together: engines that batch continuously serve more. Raises as `simulate`.
    """
    tried: list[Served] = []
    for batch in sorted(batches):
        try:
            tried.append(_at(model, machine, design, request, batch, seed))
        except CapacityExceeded as error:
            if not tried:
                return Unserved(design.name, str(error), error.needed_bytes if error.memory == "HBM" else 0)
            break  # nor does any larger one
    if kept := [served for served in tried if objective.met(served.ttft_s, served.tpot_s)]:
        return max(kept, key=lambda served: served.requests_per_s)
    first, other = (min(getattr(served, name) for served in tried) for name in ("ttft_s", "tpot_s"))
    best = f"{first:.3g} s to the first token and {other:.3g} s a token at best"
    return Unserved(design.name, f"{design.name} misses the objective at every batch: {best}")


def _at(
    model: ModelArchitecture, machine: Platform, design: Policy, request: RequestShape, batch: int, seed: int
) -> Served:
    """One batch: its prompt, and some tokens in the middle of its decode."""
    work = workpiece(model, RequestLoad(request.input_tokens, max(request.output_tokens, 2), batch), seed)
    planned = granted(model, machine, work, design)
    prompt, tokens = map(capture_request, (planned.prompt, planned.tokens))
    first, middle = (interpret(one, machine, "recurrence", with_intervals=False) for one in (prompt, tokens))
    assert middle.timeline is not None
    pace = token_pace(planned.tokens, middle.timeline, planned.n_under_way)
    tpot_s = pace * middle.tpot_s
    request_s = first.ttft_s + (request.output_tokens - 1) * tpot_s
    # The prompt's run makes two tokens; each of those that are left is one of the middle's.
    rest_s = max(request.output_tokens - 2, 0) * tpot_s
    use = _together((first.makespan_s, use_of(first)), (rest_s, use_of(middle, middle.ttft_s).at_pace(pace)))
    errors = time_error(prompt, machine, "ttft_s"), time_error(tokens, machine, "tpot_s")
    return Served(
        design=design.name,
        batch=batch,
        ttft_s=first.ttft_s,
        tpot_s=tpot_s,
        request_s=request_s,
        compute_share=use.compute_share,
        host_share=use.host_share,
        link_bytes=use.h2d_bytes_per_s * (first.makespan_s + rest_s) / (batch * max(request.output_tokens, 2)),
        link_bytes_per_s=use.h2d_bytes_per_s,
        hit_rate=middle.hit_rate,
        peak_hbm_bytes=max(first.peak_hbm_bytes, middle.peak_hbm_bytes),
        error=summed([(first.ttft_s, errors[0]), (request_s - first.ttft_s, errors[1])]),
        n_at_once=planned.n_at_once,
        n_under_way=planned.n_under_way,
    )


def use_of(result: SimulationResult, since_s: float = 0.0) -> PhaseUse:
    """What a run keeps busy from `since_s` on."""
    assert result.timeline is not None
    return PhaseUse.of(result.timeline.since(since_s))


def _together(*phases: tuple[float, PhaseUse]) -> PhaseUse:
    """Phases one after the other, each of so many seconds."""
    all_s = sum(seconds for seconds, _ in phases)

    def mean(of: Callable[[PhaseUse], float]) -> float:
        return sum(seconds * of(use) for seconds, use in phases) / all_s

    return PhaseUse(
        mean(lambda use: use.compute_share), mean(lambda use: use.host_share), mean(lambda use: use.h2d_bytes_per_s)
    )


def served_of(one: Judged) -> Served:
    """A design of a card, at the batch of its requests."""
    job, request_s = one.job, one.request.value
    use = _together((one.ttft.value, one.prompt_use), (job.n_steps * one.tpot.value, one.token_use))
    return Served(
        design=str(one.design),
        batch=job.batch,
        ttft_s=one.ttft.value,
        tpot_s=one.tpot.value,
        request_s=request_s,
        compute_share=use.compute_share,
        host_share=use.host_share,
        link_bytes=use.h2d_bytes_per_s * request_s / (job.batch * job.output_tokens),
        link_bytes_per_s=use.h2d_bytes_per_s,
        hit_rate=one.hit_rate,
        peak_hbm_bytes=one.peak_hbm_bytes,
        error=one.request.error,
        n_at_once=one.planned.n_at_once,
        n_under_way=one.planned.n_under_way,
    )
