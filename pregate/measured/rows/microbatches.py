"""A prompt that an engine reads some tokens at a time, as benchmarks of small passes do (llama-bench -p 4096 -ub 16).

Each pass takes the next tokens of one sequence and reads the cache of that one. None but the last makes a token: there
is no output to project, so neither head nor what the last layer's FFN would give it runs (llama.cpp:
llama_context::decode counts the outputs of a micro-batch before its graph is built, and graphs pick those rows ahead of
the last FFN).
"""

from __future__ import annotations

import dataclasses

import numpy as np

from offload.ops import OpKind, Work
from offload.schedule import Schedule
from traces.routing import RoutingTrace

_NOTHING = Work(OpKind.ISSUE, n_copies=0)
"""No copy to issue: no time on any machine."""


def as_microbatches(trace: RoutingTrace, context: int) -> RoutingTrace:
    """The sequences of `trace`, in step with one another, as consecutive tokens of one: a pass is one micro-batch.

    `context`: the tokens before a pass, on average over all passes, at least as many as lie before it here.
    """
    n_passes, n = trace.n_steps, trace.n_tokens // trace.n_steps
    begin = max(context - (n_passes - 1) * n // 2, 0)
    return dataclasses.replace(
        trace,
        sequence=np.zeros(trace.n_tokens, np.int32),
        position=begin + np.arange(trace.n_tokens, dtype=np.int32),
        rejected=np.zeros(trace.n_tokens, np.bool_),
    )


def without_outputs(schedule: Schedule) -> Schedule:
    """`schedule` with no time for what only tokens that are made need, in every pass."""
    of_last_ffn = (schedule.layer == schedule.layer.max()) & (schedule.kind != OpKind.SELF_ATTENTION)
    spared = (schedule.kind == OpKind.HEAD) | of_last_ffn
    cost = np.where(spared, len(schedule.works), schedule.cost)
    return dataclasses.replace(schedule, cost=cost, works=(*schedule.works, _NOTHING))
