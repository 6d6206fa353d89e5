"""The definition of a server of requests that arrive, on SimPy: a process that serves, pass by pass, token by token."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import numpy as np
import simpy

from simulator.arrivals import PASS_TOKENS, RequestTimes, StepTimes, check_server
from traces.requests import ArrivalTrace

__all__ = ["serve_arrivals"]


def serve_arrivals(
    requests: ArrivalTrace, times: StepTimes, slots: int, pass_tokens: int = PASS_TOKENS
) -> RequestTimes:
    """As `simulator.arrivals.serve_arrivals`, whose rules these are. Raises `InvalidInput` as that does."""
    check_server(times, slots, pass_tokens)
    server = _Server(requests, times, slots, pass_tokens)
    server.env.run()
    return RequestTimes(server.first_s, server.last_s, server.prompt_s, server.token_s, server.n_steps)


class _Server:
    def __init__(self, requests: ArrivalTrace, times: StepTimes, slots: int, pass_tokens: int) -> None:
        self.env, self._times, self._slots, self._pass_tokens = simpy.Environment(), times, slots, pass_tokens
        self._inputs, self._outputs = requests.input_tokens.tolist(), requests.output_tokens.tolist()
        self.first_s, self.last_s = np.zeros(len(requests)), np.zeros(len(requests))
        self.prompt_s = self.token_s = 0.0
        self.n_steps = 0
        self._waiting: list[int] = []
        self._came = self.env.event()
        for one, arrival_s in enumerate(requests.arrival_s.tolist()):
            self.env.process(self._arrive(one, arrival_s))
        self.env.process(self._serve(len(requests)))

    def _arrive(self, one: int, arrival_s: float) -> Generator[simpy.Event, Any, None]:
        yield self.env.timeout(arrival_s)
        self._waiting.append(one)
        if not self._came.triggered:
            self._came.succeed()

    def _serve(self, n: int) -> Generator[simpy.Event, Any, None]:
        made: dict[int, int] = {}  # tokens that each running request has
        n_done = 0
        while n_done < n:
            if self._waiting and len(made) < self._slots:
                taken, total = [self._waiting.pop(0)], 0
                total = self._inputs[taken[0]]
                while (
                    self._waiting
                    and len(made) + len(taken) < self._slots
                    and total + self._inputs[self._waiting[0]] <= self._pass_tokens
                ):
                    taken.append(self._waiting.pop(0))
                    total += self._inputs[taken[-1]]
                pass_s = self._times.of_prompt(total)
                yield self.env.timeout(pass_s)
                self.prompt_s += pass_s
                for one in taken:
                    self.first_s[one] = self.last_s[one] = self.env.now
                    made[one] = 1
            elif made:
                batch = len(made)
                mean = sum(self._inputs[one] + tokens - 1 for one, tokens in made.items()) / batch
                began = self.env.now
                yield self.env.timeout(self._times.token_s[batch] + self._times.context_s[batch] * mean)
                self.token_s += self.env.now - began
                self.n_steps += 1
                for one in made:
                    made[one] += 1
                    self.last_s[one] = self.env.now
            else:
                self._came = self.env.event()
                yield self._came
            done = [one for one, tokens in made.items() if tokens == self._outputs[one]]
            n_done += len(done)
            for one in done:
                del made[one]
