"""Requests that arrive while others are served: when each gets its first token and its last, from the time of a step.

A server has `slots`, and decides on one pass after the other, of who is there then (`Batching`). Where prompts pass
alone and one waits for which a slot is free, the next pass is that of the requests that came first, as many as have
slots and `pass_tokens` together, and of one at least; else it is a token of every request that runs. Where prompts mix,
every pass has a token of every request that runs, then as much of the prompts of those that came first as makes
`pass_tokens` in all: the last of them may be passed in part, and goes on in the next pass. A server that decides ahead
does so as the pass before begins: who comes meanwhile waits for one more, and a slot is taken again a pass later.

Cards that have layers in turn have as many passes under way as there are stages. The next is decided on while there is
room for one, of who is in none; else, or where there is nobody, when the oldest has ended (vLLM,
vllm/v1/engine/core.py: step_with_batch_queue). So requests whose prompts passed together stay together, and parts of a
prompt follow each other from stage to stage.

Where at most so many clients ask, one at a time each, a request comes no sooner than `AGAIN_S` after the end of an
answer whose client has no other: the pass that is decided on as that answer ends is without it.

A request reads its prompt but for the tokens that are held from earlier ones. A pass is never interrupted, and no
request loses its slot. Times of passes are known by their size alone (`StepTimes`),
so that no schedule is written here. `simulator.definition.arrivals_des` is the definition, and agrees bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compiled.machine_code import Kernel, loaded
from compiled.when_it_pays import machine_code_pays
from simulator.serving.prompts_kernel import prompt_pass_s
from simulator.serving.server_kernel import N_WORDS, SERVE, serve
from simulator.serving.stages_kernel import STAGES, serve_in_stages
from traces.errors import InvalidInput
from traces.requests import ArrivalTrace

PASS_TOKENS = 2048
"""Tokens of prompts that a pass takes together: what llama-server (`-b`) and vLLM (`--max-num-batched-tokens`) take."""

AGAIN_S = 1e-3
"""From a last token to its client's next request: an answer goes, a prompt comes and is made tokens of; assumed."""

_FOR_CAPACITY = 300
"""Requests, at least, by which it is seen how many a second are served at most."""

_SMALL_TOKENS = 100_000
"""Tokens that are served in plain Python where nothing is compiled: in less time than compiling takes."""

_GOLDEN = (5**0.5 - 1) / 2
"""Its multiples, without their whole parts, fill 0 to 1 evenly at every length (Knuth, volume 3, 6.4)."""

_SILVER = 2**0.5 - 1
"""The same, in another order."""

_ROUNDS = 3
"""After so many a rate at which requests come to stages is one that they serve, within some hundredths."""


@dataclass(frozen=True, slots=True)
class Batching:
    """How a server makes passes. `mixes`: prompts pass beside tokens of others, in parts of what a pass has room for
    (vLLM since its V1, vllm/v1/core/sched/scheduler.py; llama-server, update_slots), else alone and whole (SGLang
    without --enable-mixed-chunk). `ahead`: a pass is decided on as the one before begins (asynchronous scheduling),
    which counts where cards have no layers in turn.
    """

    mixes: bool = False
    ahead: bool = False


PROMPTS_ALONE = Batching()
"""Whole prompts before tokens of others, each pass decided on when the one before has ended."""


@dataclass(frozen=True, slots=True, eq=False)
class StepTimes:
    """Seconds of a pass. A prompt pass of n tokens takes `prompt_s` at `prompt_tokens` (n_points,), linear between, and
    `before_s`, (n_points,), for each token of the prompt that an earlier pass has had; a token of b requests
    `token_s[b]` and `context_s[b]` for each token of their mean context, (1 + most requests,). A pass of both takes
    what a prompt pass of all their tokens does and `beside_s[b]` at its tokens of prompts, (1 + most requests,
    n_points), never less than its tokens alone, and what the contexts add. One that was not decided on while another
    ran waits `schedule_s` first. `stage_shares`, (2, n_stages): of cards that have layers in turn what each has of a
    pass with prompts, and of one without; None: all compute at the same time.
    """

    prompt_tokens: NDArray[np.float64]
    prompt_s: NDArray[np.float64]
    token_s: NDArray[np.float64]
    context_s: NDArray[np.float64]
    before_s: NDArray[np.float64] | None = None
    schedule_s: float = 0.0
    beside_s: NDArray[np.float64] | None = None
    stage_shares: NDArray[np.float64] | None = None

    @property
    def n_stages(self) -> int:
        """Passes that are under way at the same time at most."""
        return 1 if self.stage_shares is None else self.stage_shares.shape[1]

    @property
    def each_before_s(self) -> NDArray[np.float64]:
        """`before_s`, or as many zeros: (n_prompts,)."""
        return np.zeros(len(self.prompt_s)) if self.before_s is None else self.before_s

    @property
    def each_beside_s(self) -> NDArray[np.float64]:
        """`beside_s`, or as many zeros: (n_requests + 1, n_prompts)."""
        return np.zeros((len(self.token_s), len(self.prompt_s))) if self.beside_s is None else self.beside_s

    def of_both(self, n_tokens: int, n_requests: int) -> float:
        """Seconds of a pass of `n_tokens` of prompts and a token of each of some requests, contexts left out."""
        beside_s = prompt_pass_s(self.prompt_tokens, self.each_beside_s[n_requests], n_tokens)
        return max(self.of_prompt(n_tokens + n_requests) + float(beside_s), float(self.token_s[n_requests]))

    def of_token_before(self, n_tokens: int) -> float:
        """Seconds more of a pass of `n_tokens` of a prompt, for each token of it that lies before."""
        return float(prompt_pass_s(self.prompt_tokens, self.each_before_s, n_tokens))

    def of_prompt(self, n_tokens: int) -> float:
        """Seconds of a pass of `n_tokens`; beyond the points as of a line through the last two."""
        return float(prompt_pass_s(self.prompt_tokens, self.prompt_s, n_tokens))


@dataclass(frozen=True, slots=True, eq=False)
class RequestTimes:
    """When each request came and had its first and last token, (n,) seconds, and what passes took: `prompt_s` seconds
    of those with prompts in them, `token_s` of the `n_steps` others; for `busy_s` any was under way.
    """

    came_s: NDArray[np.float64]
    first_s: NDArray[np.float64]
    last_s: NDArray[np.float64]
    prompt_s: float
    token_s: float
    n_steps: int
    busy_s: float

    @property
    def ttft_s(self) -> NDArray[np.float64]:
        """Arrival to first token, (n,): the wait in the queue is in it."""
        return self.first_s - self.came_s

    def tpot_s(self, requests: ArrivalTrace) -> NDArray[np.float64]:
        """Mean gap between the tokens of each request with two and more, (n,): prompts of others are in it."""
        more = requests.output_tokens > 1
        return (self.last_s[more] - self.first_s[more]) / (requests.output_tokens[more] - 1)


def check_server(
    times: StepTimes, slots: int, pass_tokens: int, batching: Batching = PROMPTS_ALONE, clients: int | None = None
) -> None:
    """Raise `InvalidInput` for a server that cannot be."""
    if clients is not None and clients < 1:
        raise InvalidInput(f"{clients} clients: at least 1 asks")
    if slots < 1 or pass_tokens < 1 or not slots < len(times.token_s) == len(times.context_s):
        raise InvalidInput(
            f"{slots} slots, passes of {pass_tokens} tokens: at least one each, with a time for each batch"
        )
    if batching.mixes and pass_tokens < slots:
        raise InvalidInput(
            f"passes of {pass_tokens} tokens: each of {slots} requests has one in a pass that prompts share, so at "
            f"least {slots} are needed, or fewer slots"
        )
    if len(times.each_before_s) != len(times.prompt_s):
        raise InvalidInput(f"{len(times.each_before_s)} times of tokens before, {len(times.prompt_s)} of prompts")
    if times.each_beside_s.shape != (due := (len(times.token_s), len(times.prompt_s))):
        raise InvalidInput(f"times of tokens beside prompts are {times.each_beside_s.shape}, not {due}")
    own = [times.prompt_s, times.token_s[1:], times.context_s[1:], times.each_before_s, times.each_beside_s.ravel()]
    every = np.concatenate([*own, [times.schedule_s]])
    if not np.all(np.isfinite(every)) or every.min() < 0 or min(times.token_s[1:].min(), times.prompt_s.min()) <= 0:
        raise InvalidInput("a pass takes finite seconds above 0")
    if times.stage_shares is not None:
        shares = times.stage_shares
        if shares.ndim != 2 or len(shares) != 2 or not shares.min() > 0 or not np.allclose(shares.sum(axis=1), 1):
            raise InvalidInput("stages have shares of a pass with prompts and of one without, above 0 and 1 together")


def serve_arrivals(
    requests: ArrivalTrace, times: StepTimes, slots: int, pass_tokens: int = PASS_TOKENS,
    batching: Batching = PROMPTS_ALONE, clients: int | None = None,
) -> RequestTimes:  # fmt: skip
    """Serve `requests`, of so many `clients` that each wait for an answer before they ask again; None: whoever comes.

    Raises `InvalidInput` for a server that cannot be.
    """
    check_server(times, slots, pass_tokens, batching, clients)
    asked = (requests.arrival_s, requests.input_tokens, requests.output_tokens, requests.held)
    n_tokens = int(requests.output_tokens.sum())
    return _served(*asked, times, slots, pass_tokens, batching, n_tokens=n_tokens, clients=clients)


def _served(
    arrival_s: NDArray[np.float64], input_tokens: NDArray[np.int64], output_tokens: NDArray[np.int64],
    held_tokens: NDArray[np.int64], times: StepTimes, slots: int, pass_tokens: int, batching: Batching, *,
    n_tokens: int, clients: int | None = None,
) -> RequestTimes:  # fmt: skip
    """`serve` or `serve_in_stages`, as machine code where that pays for the `n_tokens` of all that is to be served."""
    kernel: Kernel = SERVE if times.n_stages == 1 else STAGES
    plain: Callable[..., int] = serve if times.n_stages == 1 else serve_in_stages
    pays = machine_code_pays(n_tokens, kernel, compile_above=_SMALL_TOKENS, load_above=0)
    run = loaded(kernel) if pays else plain
    first_s, last_s, spent_s = np.zeros(len(arrival_s)), np.zeros(len(arrival_s)), np.zeros(3)
    words, of_slots = np.zeros(N_WORDS, np.int64), np.zeros((3, slots), np.int64)
    n_first = len(arrival_s) if clients is None else clients
    came_s = np.where(np.arange(len(arrival_s)) < n_first, arrival_s, np.inf)
    asked = (
        arrival_s, came_s, input_tokens, output_tokens, held_tokens, times.prompt_tokens, times.prompt_s,
        times.each_before_s, times.token_s, times.context_s, np.ascontiguousarray(times.each_beside_s),
    )  # fmt: skip
    arguments: tuple[Any, ...]
    how = (times.schedule_s, AGAIN_S, n_first, slots, pass_tokens, int(batching.mixes))
    of_all = first_s, last_s, spent_s
    if times.stage_shares is None or times.n_stages == 1:
        arguments = (*asked, *how, int(batching.ahead), words, *of_slots, *of_all)
    else:
        of_stages = np.zeros((2, times.n_stages))
        arguments = (*asked, np.ascontiguousarray(times.stage_shares), *how, words, *of_slots, *of_stages, *of_all)
    n_steps = run(*arguments)
    prompts_s, tokens_s, busy_s = spent_s.tolist()
    return RequestTimes(came_s, first_s, last_s, prompts_s, tokens_s, int(n_steps), busy_s)


def capacity(
    requests: ArrivalTrace, machines: Sequence[StepTimes], slots: int, pass_tokens: int = PASS_TOKENS,
    batching: Batching = PROMPTS_ALONE,
) -> NDArray[np.float64]:  # fmt: skip
    """Requests a second of a server that always has some like `requests` waiting, (n_machines,): beyond this rate its
    queue grows. Raises `InvalidInput` for a server that cannot be.

    Lengths are drawn evenly from all of `requests`, in an order that mixes them (multiples of the golden ratio). The
    first are at different places of their answers, so that requests of one length do not start and end together, which
    would let their prompts share passes for ever. Counted is from where all of these are done to where nobody waits.
    In stages it depends on how requests come which of them decode together, and so how many are served: there as many
    come as were served of those before, at random, until these are served.
    """
    for times in machines:
        check_server(times, slots, pass_tokens, batching)
    by_length = np.lexsort((requests.input_tokens, requests.output_tokens))
    n = max(_FOR_CAPACITY, 4 * slots)
    rows = by_length[(np.arange(n) * _GOLDEN % 1.0 * len(requests)).astype(np.int64)]
    inputs, outputs, held = requests.input_tokens[rows], requests.output_tokens[rows], requests.held[rows]
    outputs[:slots] = -(-outputs[:slots] * np.arange(1, slots + 1) // slots)
    n_tokens = len(machines) * int(outputs.sum())
    gaps = -np.log1p(-(np.arange(1, n + 1) * _SILVER % 1.0))  # of an exponential law, of mean 1

    def per_s(times: StepTimes, came_s: NDArray[np.float64]) -> float:
        served = _served(came_s, inputs, outputs, held, times, slots, pass_tokens, batching, n_tokens=n_tokens)
        done = np.sort(served.last_s)
        return float((n - 2 * slots) / (done[n - slots - 1] - done[slots - 1]))

    found = np.array([per_s(times, np.zeros(n)) for times in machines])
    for i, times in enumerate(machines):
        for _ in range(_ROUNDS if times.n_stages > 1 else 0):
            found[i] = min(found[i], per_s(times, np.cumsum(gaps / found[i])))
    return found
