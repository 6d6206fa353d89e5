"""Sequences of a recorded trace run side by side, as continuous batching does."""

from __future__ import annotations

import heapq

import numpy as np

from traces.errors import InvalidInput
from traces.phase import Phase
from traces.routing import RoutingTrace


def rebatch(trace: RoutingTrace, batch: int) -> RoutingTrace:
    """Run `batch` sequences of a recorded trace side by side (continuous batching).

    Sequences start in order of first appearance, each as soon as one of the `batch` places is free; the
    prompts of sequences that start together form one prefill step just before their first decode step, in however
    many steps they were read, and every decode step takes the next token of each running sequence. A prompt behind an
    answer of its sequence is read behind it. What a token chose is kept.
    Raises `InvalidInput` for a batch below 1, or above the sequences that were recorded.
    """
    if trace.rejected is not None:
        raise InvalidInput(f"the trace of {trace.provenance.model} is verified already: run its sequences as they are")
    if batch < 1:
        raise InvalidInput(f"batch = {batch}: it must be at least 1")
    _, first, member = np.unique(trace.sequence, return_index=True, return_inverse=True)
    if batch > first.size:
        raise InvalidInput(
            f"batch = {batch}: the trace of {trace.provenance.model} has {first.size} "
            f"sequence{'s' if first.size > 1 else ''}, at most {first.size} run side by side: a smaller batch, or a "
            "synthetic trace"
        )
    rank = np.empty(first.size, dtype=np.int64)
    rank[np.argsort(first, kind="stable")] = np.arange(first.size)
    member = rank[member]  # [T] order in which the token's sequence starts
    decoding = trace.phase == Phase.DECODE
    n_decode = np.bincount(member[decoding], minlength=first.size)
    start = np.empty(first.size, dtype=np.int64)
    places = [0] * batch
    for i, length in enumerate(n_decode.tolist()):
        start[i] = heapq.heappop(places)
        heapq.heappush(places, int(start[i]) + max(length, 1))
    by_sequence = np.argsort(member, kind="stable")
    before = np.cumsum(decoding[by_sequence]) - decoding[by_sequence]
    age = np.empty(trace.n_tokens, dtype=np.int64)  # decode tokens of the same sequence before this one
    age[by_sequence] = before - np.repeat(np.cumsum(n_decode) - n_decode, np.bincount(member))
    tick = 2 * (start[member] + age) + trace.phase
    order = np.lexsort((np.arange(trace.n_tokens), member, tick))
    return trace.reordered(order, tick[order])
