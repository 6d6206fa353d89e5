"""Requests that arrive while others are served: when each gets its first token and its last, from the time of a step.

A server has `slots`. Between two passes it looks who waits: where a slot is free the next pass is a prompt's, of the
requests that came first, as many as have slots and `pass_tokens` together, and of one at least; else it is a token of
every request that runs. A pass is never interrupted. Times of passes are known by their size alone (`StepTimes`), so
that no schedule is written here. `simulator.definition.arrivals_des` is the definition, and agrees bit for bit.
"""

from __future__ import annotations

import functools
import heapq
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from traces.errors import InvalidInput
from traces.requests import ArrivalTrace

__all__ = ["PASS_TOKENS", "RequestTimes", "StepTimes", "capacity", "check_server", "serve_arrivals"]

PASS_TOKENS = 2048
"""Tokens of prompts that a pass takes together: what llama-server (`-b`) and vLLM (`--max-num-batched-tokens`) take."""

_FOR_CAPACITY = 300
"""Requests, at least, by which it is seen how many a second are served at most."""

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
        tokens, seconds = self.prompt_tokens, self.prompt_s
        if n_tokens > tokens[-1] and len(tokens) > 1:
            slope = (seconds[-1] - seconds[-2]) / (tokens[-1] - tokens[-2])
            return float(seconds[-1] + max(slope, 0.0) * (n_tokens - tokens[-1]))
        return float(np.interp(n_tokens, tokens, seconds))


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
    """Serve `requests`. Raises `InvalidInput` for a server that cannot be.

    Tokens of one batch follow each other until a request is done, or one arrives that has a slot: their ends are summed
    in order, as the definition adds them.
    """
    check_server(times, slots, pass_tokens)
    arrival = requests.arrival_s.tolist()
    inputs, outputs, n = requests.input_tokens.tolist(), requests.output_tokens.tolist(), len(requests)
    first, last = np.zeros(n), np.zeros(n)
    prompt_s = functools.cache(times.of_prompt)
    running: list[tuple[int, int]] = []  # the step at which each is done, and which it is
    clock = prompts_s = tokens_s = 0.0
    step = context = came = 0
    while came < n or running:
        waits = came < n and arrival[came] <= clock
        if waits and len(running) < slots:
            taken: list[int] = []
            total = 0
            while (
                came < n
                and arrival[came] <= clock
                and len(running) + len(taken) < slots
                and (not taken or total + inputs[came] <= pass_tokens)
            ):
                taken.append(came)
                total, came = total + inputs[came], came + 1
            pass_s = prompt_s(total)
            clock, prompts_s = clock + pass_s, prompts_s + pass_s
            for one in taken:
                first[one] = last[one] = clock
                if outputs[one] > 1:
                    heapq.heappush(running, (step + outputs[one] - 1, one))
                    context += inputs[one]
        elif running:
            batch, steps = len(running), running[0][0] - step
            means = (context + batch * np.arange(steps)) / batch
            each = times.token_s[batch] + times.context_s[batch] * means
            ends = np.add.accumulate(np.concatenate(([clock], each)))[1:]
            if came < n and batch < slots:
                steps = min(steps, int(np.searchsorted(ends, arrival[came])) + 1)
            tokens_s += float(ends[steps - 1]) - clock
            clock, step, context = float(ends[steps - 1]), step + steps, context + batch * steps
            while running and running[0][0] == step:
                _, one = heapq.heappop(running)
                last[one] = clock
                context -= inputs[one] + outputs[one] - 1
        else:
            clock = max(clock, arrival[came])
    return RequestTimes(first, last, prompts_s, tokens_s, step)


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
    outputs = requests.output_tokens[rows]
    outputs[:slots] = -(-outputs[:slots] * np.arange(1, slots + 1) // slots)
    done = np.sort(
        _all_at_once(requests.input_tokens[rows].tolist(), outputs.tolist(), machines, slots, pass_tokens), 0
    )
    found: NDArray[np.float64] = (n - 2 * slots) / (done[n - slots - 1] - done[slots - 1])
    return found


def _all_at_once(
    inputs: list[int], outputs: list[int], machines: Sequence[StepTimes], slots: int, pass_tokens: int
) -> NDArray[np.float64]:
    """Seconds at which each of the requests is done, (n, n_machines), when all came at 0: who shares which pass does
    not depend on what passes take, so that all machines are served at once.
    """
    token_s, context_s = (np.array([getattr(one, name) for one in machines]) for name in ("token_s", "context_s"))
    prompt_s: dict[int, NDArray[np.float64]] = {}
    running: list[tuple[int, int]] = []  # the step at which each is done, and which it is
    clocks, done = np.zeros(len(machines)), np.zeros((len(inputs), len(machines)))
    step = context = came = 0
    while came < len(inputs) or running:
        if came < len(inputs) and len(running) < slots:
            begun, total = came, 0
            while (
                came < len(inputs)
                and len(running) + came - begun < slots
                and (came == begun or total + inputs[came] <= pass_tokens)
            ):
                total, came = total + inputs[came], came + 1
            if total not in prompt_s:
                prompt_s[total] = np.array([one.of_prompt(total) for one in machines])
            clocks = clocks + prompt_s[total]
            for one in range(begun, came):
                done[one] = clocks
                if outputs[one] > 1:
                    heapq.heappush(running, (step + outputs[one] - 1, one))
                    context += inputs[one]
        else:
            batch, steps = len(running), running[0][0] - step
            contexts = steps * context / batch + steps * (steps - 1) / 2
            clocks = clocks + steps * token_s[:, batch] + contexts * context_s[:, batch]
            step, context = step + steps, context + batch * steps
            while running and running[0][0] == step:
                _, one = heapq.heappop(running)
                done[one] = clocks
                context -= inputs[one] + outputs[one] - 1
    return done
