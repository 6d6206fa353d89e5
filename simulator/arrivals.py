"""Requests that arrive while others are served: when each gets its first token and its last, from the time of a step.

A server has `slots`. Between two passes it looks who waits: where a slot is free the next pass is a prompt's, of the
requests that came first, as many as have slots and `pass_tokens` together, and of one at least; else it is a token of
every request that runs. A pass is never interrupted. Times of passes are known by their size alone (`StepTimes`), so
that no schedule is written here. `simulator.definition.arrivals_des` is the definition, and agrees bit for bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from compiled.machine_code import are_kept, are_loaded, loaded
from simulator.server_kernel import SERVE, prompt_pass_s, serve
from traces.errors import InvalidInput
from traces.requests import ArrivalTrace

__all__ = ["PASS_TOKENS", "RequestTimes", "StepTimes", "capacity", "check_server", "serve_arrivals"]

PASS_TOKENS = 2048
"""Tokens of prompts that a pass takes together: what llama-server (`-b`) and vLLM (`--max-num-batched-tokens`) take."""

_FOR_CAPACITY = 300
"""Requests, at least, by which it is seen how many a second are served at most."""

_SMALL_TOKENS = 100_000
"""Tokens that are served in plain Python where nothing is compiled: in less time than compiling takes."""

_GOLDEN = (5**0.5 - 1) / 2
"""Its multiples, without their whole parts, fill 0 to 1 evenly at every length (Knuth, volume 3, 6.4)."""


@dataclass(frozen=True, slots=True, eq=False)
class StepTimes:
    """Seconds of a pass. A prompt pass of n tokens takes `prompt_s` at `prompt_tokens` (n_points,), linear between; a
    token of b requests `token_s[b]` and `context_s[b]` for each token of their mean context, (1 + most requests,).
    """

    prompt_tokens: NDArray[np.float64]
    prompt_s: NDArray[np.float64]
    token_s: NDArray[np.float64]
    context_s: NDArray[np.float64]

    def of_prompt(self, n_tokens: int) -> float:
        """Seconds of a pass of `n_tokens`; beyond the points as of a line through the last two."""
        return float(prompt_pass_s(self.prompt_tokens, self.prompt_s, n_tokens))


@dataclass(frozen=True, slots=True, eq=False)
class RequestTimes:
    """When each request had its first and last token, (n,) seconds, and what passes took: `prompt_s` and `token_s`
    seconds in all, `n_steps` of tokens.
    """

    first_s: NDArray[np.float64]
    last_s: NDArray[np.float64]
    prompt_s: float
    token_s: float
    n_steps: int

    def ttft_s(self, requests: ArrivalTrace) -> NDArray[np.float64]:
        """Arrival to first token, (n,): the wait in the queue is in it."""
        return self.first_s - requests.arrival_s

    def tpot_s(self, requests: ArrivalTrace) -> NDArray[np.float64]:
        """Mean gap between the tokens of a request, of those with two tokens and more: prompts of others are in it."""
        more = requests.output_tokens > 1
        return (self.last_s[more] - self.first_s[more]) / (requests.output_tokens[more] - 1)


def check_server(times: StepTimes, slots: int, pass_tokens: int) -> None:
    """Raise `InvalidInput` for a server that cannot be."""
    if slots < 1 or pass_tokens < 1 or not slots < len(times.token_s) == len(times.context_s):
        raise InvalidInput(
            f"{slots} slots, passes of {pass_tokens} tokens: at least one each, with a time for each batch"
        )
    every = np.concatenate([times.prompt_s, times.token_s[1:], times.context_s[1:]])
    if not np.all(np.isfinite(every)) or every.min() < 0 or times.token_s[1:].min() <= 0:
        raise InvalidInput("a pass takes finite seconds above 0")


def serve_arrivals(
    requests: ArrivalTrace, times: StepTimes, slots: int, pass_tokens: int = PASS_TOKENS
) -> RequestTimes:
    """Serve `requests`. Raises `InvalidInput` for a server that cannot be."""
    check_server(times, slots, pass_tokens)
    asked = (requests.arrival_s, requests.input_tokens, requests.output_tokens)
    return _served(*asked, times, slots, pass_tokens, is_small=int(requests.output_tokens.sum()) <= _SMALL_TOKENS)


def _served(
    arrival_s: NDArray[np.float64], input_tokens: NDArray[np.int64], output_tokens: NDArray[np.int64],
    times: StepTimes, slots: int, pass_tokens: int, *, is_small: bool,
) -> RequestTimes:  # fmt: skip
    """`serve`, as machine code where it is there or pays."""
    run = loaded(SERVE) if not is_small or are_loaded(SERVE) or are_kept(SERVE) else serve
    first_s, last_s, spent_s = np.zeros(len(arrival_s)), np.zeros(len(arrival_s)), np.zeros(2)
    done_step, who = np.zeros(slots, np.int64), np.zeros(slots, np.int64)
    n_steps = run(
        arrival_s, input_tokens, output_tokens, times.prompt_tokens, times.prompt_s, times.token_s, times.context_s,
        slots, pass_tokens, done_step, who, first_s, last_s, spent_s,
    )  # fmt: skip
    return RequestTimes(first_s, last_s, float(spent_s[0]), float(spent_s[1]), int(n_steps))


def capacity(
    requests: ArrivalTrace, machines: Sequence[StepTimes], slots: int, pass_tokens: int = PASS_TOKENS
) -> NDArray[np.float64]:
    """Requests a second of a server that always has some like `requests` waiting, (n_machines,): beyond this rate its
    queue grows. Raises `InvalidInput` for a server that cannot be.

    Lengths are drawn evenly from all of `requests`, in an order that mixes them (multiples of the golden ratio). The
    first are at different places of their answers, so that requests of one length do not start and end together, which
    would let their prompts share passes for ever. Counted is from where all of these are done to where nobody waits.
    """
    for times in machines:
        check_server(times, slots, pass_tokens)
    by_length = np.lexsort((requests.input_tokens, requests.output_tokens))
    n = max(_FOR_CAPACITY, 4 * slots)
    rows = by_length[(np.arange(n) * _GOLDEN % 1.0 * len(requests)).astype(np.int64)]
    inputs, outputs = requests.input_tokens[rows], requests.output_tokens[rows]
    outputs[:slots] = -(-outputs[:slots] * np.arange(1, slots + 1) // slots)
    is_small = len(machines) * int(outputs.sum()) <= _SMALL_TOKENS
    found = np.empty(len(machines))
    for i, times in enumerate(machines):
        done = np.sort(_served(np.zeros(n), inputs, outputs, times, slots, pass_tokens, is_small=is_small).last_s)
        found[i] = (n - 2 * slots) / (done[n - slots - 1] - done[slots - 1])
    return found
