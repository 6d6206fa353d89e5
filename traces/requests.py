"""Who asks when: requests with their arrivals, prompts and answers, recorded or made up; no routing and no machine."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from traces.errors import InvalidInput

MAX_REQUESTS = 1_000_000

MAX_SPAN_S = 1e10
"""The longest that arrivals may take: beyond it a double no longer tells microseconds."""


@dataclass(frozen=True, slots=True, eq=False)
class ArrivalTrace:
    """Requests in the order of their arrival: `arrival_s` (n,) float64 from 0 on, `input_tokens` and `output_tokens`
    (n,) int64, each at least 1.

    `source`: where they are from, in words; `n_left_out`: rows of it that asked for nothing, or got nothing.
    `held_tokens` (n,) int64: tokens at the head of each prompt that need not be read again; None: none. `prefixes`: of
    each request the numbers of the blocks of `block_tokens` that its prompt begins with, alike where all up to there
    is; empty where nothing is known of them. Raises `InvalidInput` for fewer than two, times that fall or are not
    finite, counts below 1, and prompts held to their end.
    """

    arrival_s: NDArray[np.float64]
    input_tokens: NDArray[np.int64]
    output_tokens: NDArray[np.int64]
    source: str = ""
    n_left_out: int = 0
    held_tokens: NDArray[np.int64] | None = None
    prefixes: tuple[NDArray[np.int64], ...] = ()
    block_tokens: int = 0

    def __post_init__(self) -> None:
        kinds: dict[str, Any] = {"arrival_s": np.float64, "input_tokens": np.int64, "output_tokens": np.int64}
        for name, kind in kinds.items():
            array = np.array(getattr(self, name), dtype=kind)
            array.flags.writeable = False
            object.__setattr__(self, name, array)
        n = len(self.arrival_s)
        if not 2 <= n <= MAX_REQUESTS or not n == len(self.input_tokens) == len(self.output_tokens):
            raise InvalidInput(
                f"{n} arrivals: from 2 to {MAX_REQUESTS:,} are needed, each with its two counts of tokens"
            )
        if not np.all(np.isfinite(self.arrival_s)) or np.any(np.diff(self.arrival_s) < 0):
            raise InvalidInput("arrivals are finite and in order: sort them by time")
        if min(self.input_tokens.min(), self.output_tokens.min()) < 1:
            raise InvalidInput("a request has at least one token of prompt and one of answer")
        if np.any((self.held < 0) | (self.held >= self.input_tokens)) or len(self.held) != n:
            raise InvalidInput("of a prompt at least one token is read, and no fewer than none are held")
        if self.block_tokens and len(self.prefixes) != n:
            raise InvalidInput(f"{len(self.prefixes)} lists of blocks for {n} requests")

    def __len__(self) -> int:
        return len(self.arrival_s)

    @property
    def held(self) -> NDArray[np.int64]:
        """`held_tokens`, or as many zeros: (n,)."""
        return np.zeros(len(self), np.int64) if self.held_tokens is None else self.held_tokens

    @property
    def read_tokens(self) -> NDArray[np.int64]:
        """Tokens of each prompt that are read, (n,)."""
        return self.input_tokens - self.held

    @property
    def rate(self) -> float:
        """Mean requests a second; infinite where all arrive at once."""
        span_s = float(self.arrival_s[-1] - self.arrival_s[0])
        return (len(self) - 1) / span_s if span_s else math.inf

    def first(self, n: int) -> ArrivalTrace:
        """The first `n`, or all where there are fewer."""
        arrays = (self.arrival_s[:n], self.input_tokens[:n], self.output_tokens[:n])
        held = None if self.held_tokens is None else self.held_tokens[:n]
        return ArrivalTrace(*arrays, self.source, self.n_left_out, held, self.prefixes[:n], self.block_tokens)

    def at_rate(self, requests_per_s: float) -> ArrivalTrace:
        """The same requests with all gaps longer or shorter by one factor; the first arrives at 0. Bursts stay bursts.

        Raises `InvalidInput` where all arrive at once, and for a rate at which they would span `MAX_SPAN_S`.
        """
        if math.isinf(self.rate):
            raise InvalidInput(f"all {len(self):,} requests arrive at once, which is no rate: give them times")
        if not 0 < requests_per_s < math.inf or (len(self) - 1) / requests_per_s > MAX_SPAN_S:
            raise InvalidInput(
                f"{len(self):,} requests at {requests_per_s:g} a second: above 0, and within {MAX_SPAN_S:.0e} s"
            )
        arrival_s = (self.arrival_s - self.arrival_s[0]) * (self.rate / requests_per_s)
        return replace(self, arrival_s=arrival_s)

    def resampled(self, rng: np.random.Generator) -> ArrivalTrace:
        """As many requests in runs of sqrt(n), each from anywhere in the trace: a moving-block bootstrap of gaps and
        lengths, which keeps bursts shorter than a run (Kuensch, Annals of Statistics 17, 1989).
        """
        n = len(self)
        block = math.isqrt(n - 1) + 1
        starts = rng.integers(0, n, -(-n // block))
        rows = ((starts[:, None] + np.arange(block)) % n).ravel()[:n]
        gaps_s = np.diff(self.arrival_s, prepend=self.arrival_s[0] - 1 / self.rate)
        arrival_s = np.cumsum(gaps_s[rows])
        held = None if self.held_tokens is None else self.held_tokens[rows]
        return ArrivalTrace(arrival_s, self.input_tokens[rows], self.output_tokens[rows], self.source, 0, held)


def poisson_arrivals(
    n: int, requests_per_s: float, input_tokens: int, output_tokens: int, seed: int = 0
) -> ArrivalTrace:
    """`n` requests of one length that arrive independently of each other, so many a second. Raises `InvalidInput`."""
    if not 0 < requests_per_s < math.inf or not 2 <= n <= MAX_REQUESTS:
        raise InvalidInput(
            f"{n} requests at {requests_per_s:g} a second: 2 to {MAX_REQUESTS:,} of them, above 0 a second"
        )
    gaps_s = np.random.default_rng(seed).exponential(1 / requests_per_s, n)
    source = f"Poisson arrivals of {input_tokens} + {output_tokens} tokens"
    return ArrivalTrace(np.cumsum(gaps_s), np.full(n, input_tokens), np.full(n, output_tokens), source)
