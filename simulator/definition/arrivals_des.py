"""The definition of a server of requests that arrive, on SimPy: a process that serves, pass by pass; where cards have
layers in turn, a process each pass.
"""

from __future__ import annotations

from bisect import insort
from collections import deque
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import simpy

from simulator.serving.arrivals import (
    AGAIN_S,
    PASS_TOKENS,
    PROMPTS_ALONE,
    Batching,
    RequestTimes,
    StepTimes,
    check_server,
)
from traces.requests import ArrivalTrace


def serve_arrivals(
    requests: ArrivalTrace, times: StepTimes, slots: int, pass_tokens: int = PASS_TOKENS,
    batching: Batching = PROMPTS_ALONE, clients: int | None = None,
) -> RequestTimes:  # fmt: skip
    """As `simulator.serving.arrivals.serve_arrivals`, whose rules these are. Raises `InvalidInput` as that does."""
    check_server(times, slots, pass_tokens, batching, clients)
    server = _Server(requests, times, slots, pass_tokens, batching, clients)
    server.env.run()
    return RequestTimes(
        server.came_s, server.first_s, server.last_s, server.prompt_s, server.token_s, server.n_steps, server.busy_s
    )


@dataclass
class _Request:
    """A request that has a slot: tokens of its prompt that passes were decided on for, tokens it then has made, and
    whether a pass that is under way makes one, which counts where there are several.
    """

    one: int
    read: int = 0
    made: int = 0
    waits: bool = False


@dataclass
class _Pass:
    """Who has how many tokens of a prompt in a pass, with how many before them, and who a token of his answer."""

    prompts: list[tuple[_Request, int, int]] = field(default_factory=list)
    tokens: list[tuple[_Request, int]] = field(default_factory=list)
    """Each with the tokens before it."""
    first: list[_Request] = field(default_factory=list)
    last: list[_Request] = field(default_factory=list)


class _Server:
    def __init__(
        self, requests: ArrivalTrace, times: StepTimes, slots: int, pass_tokens: int, batching: Batching,
        clients: int | None,
    ) -> None:  # fmt: skip
        self.env, self._times, self._slots, self._pass_tokens = simpy.Environment(), times, slots, pass_tokens
        self._batching = batching
        self._inputs, self._outputs = requests.input_tokens.tolist(), requests.output_tokens.tolist()
        self._held = requests.held.tolist()
        self.came_s, self.first_s, self.last_s = (np.zeros(len(requests)) for _ in range(3))
        self.prompt_s = self.token_s = self.busy_s = 0.0
        self.n_steps = 0
        self._waiting: list[int] = []
        self._running: list[_Request] = []
        self._came = self.env.event()
        self._not_sent = deque(enumerate(requests.arrival_s.tolist()))
        for _ in range(len(requests) if clients is None else min(clients, len(requests))):
            self.env.process(self._arrive(*self._not_sent.popleft()))
        self._stages = [simpy.Resource(self.env) for _ in range(times.n_stages)]
        self.env.process((self._serve if times.n_stages == 1 else self._serve_in_stages)(len(requests)))

    def _arrive(self, one: int, at_s: float, again_s: float = 0.0) -> Generator[simpy.Event, Any, None]:
        """Request `one` at `at_s`, but after `again_s` at the soonest."""
        yield self.env.timeout(max(at_s - self.env.now, again_s))
        self.came_s[one] = self.env.now
        insort(self._waiting, one)
        if not self._came.triggered:
            self._came.succeed()

    def _serve(self, n: int) -> Generator[simpy.Event, Any, None]:
        n_done, decided = 0, None
        while n_done < n:
            now, began = decided, self.env.now
            if now is None:
                now = self._decide()
                if now is None:
                    self._came = self.env.event()
                    yield self._came
                    continue
                yield self.env.timeout(self._times.schedule_s)
            decided = self._decide() if self._batching.ahead else None
            yield self.env.timeout(self._seconds(now))
            self._count(now, self.env.now - began)
            self.busy_s += self.env.now - began
            n_done += self._end(now)

    def _serve_in_stages(self, n: int) -> Generator[simpy.Event, Any, None]:
        n_done, schedule_s, busy_until = 0, self._times.schedule_s, 0.0
        under_way: deque[tuple[_Pass, simpy.Process, float]] = deque()
        while n_done < n:
            while len(under_way) < len(self._stages) and (now := self._decide()) is not None:
                began, seconds = self.env.now, self._seconds(now)
                self._count(now, schedule_s + seconds)
                yield self.env.timeout(schedule_s)
                schedule_s = 0.0
                for request, _ in now.tokens:
                    request.waits = True
                for request in now.first:
                    request.waits = True
                under_way.append((now, self.env.process(self._pass(seconds, is_prompts=bool(now.prompts))), began))
            if not under_way:
                self._came = self.env.event()
                yield self._came
                schedule_s = self._times.schedule_s
                continue
            now, ends, began = under_way.popleft()
            yield ends
            self.busy_s += self.env.now - max(busy_until, began)
            busy_until = self.env.now
            for request in (*now.first, *(one for one, _ in now.tokens)):
                request.waits = False
            n_done += self._end(now)

    def _pass(self, seconds: float, *, is_prompts: bool) -> Generator[simpy.Event, Any, None]:
        """A pass from stage to stage, in each behind the one before it."""
        assert self._times.stage_shares is not None
        for stage, share in zip(self._stages, self._times.stage_shares[0 if is_prompts else 1].tolist(), strict=True):
            with stage.request() as turn:
                yield turn
                yield self.env.timeout(seconds * share)

    def _count(self, made: _Pass, seconds: float) -> None:
        if made.prompts:
            self.prompt_s += seconds
        else:
            self.token_s += seconds
            self.n_steps += 1

    def _end(self, made: _Pass) -> int:
        """A pass has ended now: returns how many requests are done."""
        for request in made.first:
            self.first_s[request.one] = self.env.now
        for request in made.last:
            self.last_s[request.one] = self.env.now
            self._running.remove(request)
            if self._not_sent:
                self.env.process(self._arrive(*self._not_sent.popleft(), AGAIN_S))
        return len(made.last)

    def _decide(self) -> _Pass | None:
        """The next pass, of those that are there now; None where there is nothing to do."""
        made, free = _Pass(), self._slots - len(self._running)
        if self._waiting and free and not self._batching.mixes:
            total = 0
            while self._waiting and free and (not total or total + self._left() <= self._pass_tokens):
                total += self._left()
                self._read(made, self._admitted(), total)
                free -= 1
            return made
        room = self._pass_tokens
        for request in self._running:  # in the order in which they came
            if request.read < self._inputs[request.one]:
                room -= self._read(made, request, room)
            elif request.made < self._outputs[request.one] and not request.waits:
                made.tokens.append((request, self._inputs[request.one] + request.made - 1))
                room -= self._batching.mixes
                self._make(made, request)
        while self._batching.mixes and self._waiting and free and room:
            room -= self._read(made, self._admitted(), room)
            free -= 1
        return made if made.prompts or made.tokens else None

    def _left(self) -> int:
        """What the first that waits has to read."""
        left: int = self._inputs[self._waiting[0]] - self._held[self._waiting[0]]
        return left

    def _admitted(self) -> _Request:
        self._running.append(_Request(self._waiting[0], self._held[self._waiting.pop(0)]))
        return self._running[-1]

    def _read(self, made: _Pass, request: _Request, room: int) -> int:
        """As much of the prompt of `request` as there is room for; its end makes a token. Returns how much."""
        n: int = min(self._inputs[request.one] - request.read, room)
        made.prompts.append((request, n, request.read))
        request.read += n
        if request.read == self._inputs[request.one]:
            made.first.append(request)
            self._make(made, request)
        return n

    def _make(self, made: _Pass, request: _Request) -> None:
        request.made += 1
        if request.made == self._outputs[request.one]:
            made.last.append(request)

    def _seconds(self, made: _Pass) -> float:
        """What a pass takes."""
        n, times = len(made.tokens), self._times
        of_context = float(times.context_s[n] * (sum(before for _, before in made.tokens) / n)) if n else 0.0
        if not made.prompts:
            return float(times.token_s[n] + of_context)
        seconds = 0.0
        for _, of, before in made.prompts:
            seconds += times.of_token_before(of) * before if before else 0.0
        read = sum(of for _, of, _ in made.prompts)
        return seconds + ((times.of_both(read, n) + of_context) if n else times.of_prompt(read))
