"""Cards that have layers in turn: which part of a pass each computes, and how many passes of tokens are under way.

vLLM has as many batches as stages, and SGLang as many micro-batches. Requests whose prompts passed together decode
together (`simulator.serving.arrivals`), so that there are no more batches than passes of prompts.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hwmodels.platform import Platform
from offload.cards.layers_on_cards import stage_of_layers
from offload.lanes import computes
from offload.policy import Policy
from offload.timeline import Timeline
from pregate.ask.capturing.request import Request


class UnderWay(NamedTuple):
    """Passes of tokens that are under way at the same time, and the requests of each at most."""

    n: int
    batch: int


def under_way(hw: Platform, policy: Policy, n_requests: int, input_tokens: int) -> UnderWay:
    """How `n_requests` decode that begin together: in equal batches, as many as there are stages, but no more
    than their prompts take passes.
    """
    n_stages = (policy.placement.turns or 1) if hw.execution.shares_layers else 1
    pass_tokens = policy.placement.micro_batch or hw.execution.micro_batch or input_tokens
    n = min(n_stages, n_requests, -(-n_requests * input_tokens // pass_tokens))
    return UnderWay(n, -(-n_requests // n))


def token_pace(tokens: Request, run: Timeline, n: int) -> float:
    """How many times as long as alone a pass of tokens takes where `n` are under way: the slowest stage has each."""
    if n == 1:
        return 1.0
    stage = stage_of_layers(tokens.model.decoder.n_layers, tokens.placed.turns)
    return max(1.0, n * float(_shares(run, stage, int(tokens.trace.step[-1])).max()))


def stage_shares(
    prompt: Request, prompt_run: Timeline, tokens: Request, tokens_run: Timeline, schedule_s: float
) -> NDArray[np.float64] | None:
    """Shares of the stages in the first pass of one run and the last of another, (2, n_stages), as of `StepTimes`; None
    where there is one stage.
    """
    n_stages = prompt.placed.turns if prompt.execution.shares_layers else 1
    if n_stages == 1:
        return None
    stage = stage_of_layers(prompt.model.decoder.n_layers, n_stages)
    last = int(tokens.trace.step[-1])
    return np.stack([_shares(prompt_run, stage, 0, schedule_s), _shares(tokens_run, stage, last)])


def _shares(run: Timeline, stage: NDArray[np.int64], step: int, began_s: float = 0.0) -> NDArray[np.float64]:
    """Of the seconds of a pass, (n_stages,): from the end of the stage before to that of its own last op. `stage`: of
    each layer, and of the head.
    """
    schedule, end_s = run.schedule, run.end_s
    if step:
        began_s = float(end_s[schedule.step < step].max())
    ops = np.flatnonzero((schedule.step == step) & computes(schedule.lane))
    of_ops = stage[schedule.layer[ops]]  # of the head, -1, the last
    ends_s = [float(end_s[ops[of_ops == one]].max()) for one in range(int(stage[-1]) + 1)]
    found: NDArray[np.float64] = np.diff([began_s, *ends_s]) / (ends_s[-1] - began_s)
    return found
