"""What is asked of a machine: requests of one length, so many at once, as two short traces.

A request is its prompt, then its tokens. A token's time is linear in its context, so that a few tokens in the middle
stand for all of them; memory is that of the longest context.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np

from offload.metrics.run_metrics import decode_steps
from offload.placing.workload import Workload, measure_workload
from offload.policy import Policy
from pregate.ask.decode_middle import middle_of_decode
from pregate.routing_traces import synthesize
from traces.errors import InvalidInput, check_least
from traces.model.architecture import ModelArchitecture
from traces.phase import Phase
from traces.routing import RoutingTrace
from traces.statistics.popularity import PopularityProfile, popularity_of, shared_popularity

JUDGED = 128
"""Decode steps of a recorded trace that are timed at most, the first ones."""

MAX_TOKENS = 1_048_576
"""Longest prompt or answer, in tokens, times those at once."""


@dataclass(frozen=True, slots=True)
class RequestLoad:
    """Requests of `input_tokens` and `output_tokens`, `batch` of them at once. Raises `InvalidInput` for counts that
    are none.
    """

    input_tokens: int = 512
    output_tokens: int = 256
    batch: int = 1

    def __post_init__(self) -> None:
        for name, least in (("input_tokens", 1), ("output_tokens", 2), ("batch", 1)):
            check_least(name, getattr(self, name), least)
        if self.batch * max(self.input_tokens, self.output_tokens) > MAX_TOKENS:
            raise InvalidInput(
                f"{self.batch} requests of {self.input_tokens} and {self.output_tokens} tokens: at most "
                f"{MAX_TOKENS:,} tokens at once"
            )

    @property
    def n_steps(self) -> int:
        """Tokens after the first of a request."""
        return self.output_tokens - 1

    def __str__(self) -> str:
        tokens = "token" if self.input_tokens == 1 else "tokens"
        return f"{self.input_tokens} {tokens} in, {self.output_tokens} out, {self.batch} at once"


@dataclass(frozen=True, slots=True)
class Workpiece:
    """A job as traces: the prompt with two tokens, some tokens of the middle, and the memory that the whole takes.

    `warmed`: the tokens with a part of the prompt before them, which fills a cache. All are one trace where it was
    recorded. `popularity`: by which experts are kept in HBM; never that of the few tokens themselves, which would know
    what is asked for.
    """

    job: RequestLoad
    prompt: RoutingTrace
    tokens: RoutingTrace
    warmed: RoutingTrace
    workload: Workload
    popularity: PopularityProfile

    def tokens_for(self, policy: Policy) -> RoutingTrace:
        """The tokens that a design is timed with."""
        return self.tokens if policy.cache is None else self.warmed

    @property
    def is_recorded(self) -> bool:
        """Whether the routing was seen, and not made up."""
        return self.prompt.routing == "recorded"


def workpiece(
    model: ModelArchitecture, job: RequestLoad, seed: int = 0, popularity: PopularityProfile | None = None
) -> Workpiece:
    """The traces of a job, made up (`pregate.synthesize`)."""
    prompt = synthesize(model, job.input_tokens, 2, job.batch, seed, popularity=popularity)
    tokens, warmed = (
        middle_of_decode(model, job.input_tokens, job.output_tokens, job.batch, seed, popularity, warmed=is_warmed)
        for is_warmed in (False, True)
    )
    longest = job.output_tokens + (0 if model.is_encoder_decoder else job.input_tokens)
    both = largest_workload(measure_workload(model, prompt.steps()), measure_workload(model, tokens.steps()))
    whole = dataclasses.replace(both, n_cached_tokens=job.batch * longest, n_context=max(longest, both.n_context))
    return Workpiece(
        job, prompt, tokens, warmed, whole, popularity or shared_popularity(prompt) or popularity_of(prompt)
    )


def recorded_job(
    model: ModelArchitecture, trace: RoutingTrace, popularity: PopularityProfile | None = None
) -> Workpiece:
    """The job that a recorded trace is one of: its first request stands for the length of all.

    Its first `JUDGED` decode steps are timed, with what comes before them; experts and memory are of the whole. Raises
    `InvalidInput` for a trace that makes no tokens.
    """
    trace.check_model(model)
    first = trace.sequence == trace.sequence[0]
    decoded = int(np.count_nonzero(first & (trace.phase == Phase.DECODE)))
    if not decoded:
        raise InvalidInput("the trace has no decode steps: generate at least 2 tokens a sequence")
    prompt = max(int(np.count_nonzero(first)) - decoded, 1)
    last = decode_steps(trace)[:JUDGED][-1]
    timed = trace.first_steps(int(np.searchsorted(np.unique(trace.step), last)) + 1)
    return Workpiece(
        RequestLoad(prompt, decoded + 1, trace.batch),
        timed,
        timed,
        timed,
        measure_workload(model, trace.steps()),
        popularity or popularity_of(trace),
    )


def largest_workload(*each: Workload) -> Workload:
    """What is enough for each of several."""
    return Workload(*(max(getattr(one, name) for one in each) for name in Workload.__slots__))
