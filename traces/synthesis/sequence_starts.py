"""What a synthetic trace takes over from others of the same model and dials: tokens that its sequences begin with.

A sequence has random numbers of its own, so that one of the same number in another trace of the same generator agrees
with it as long as both last.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from traces.routing import RoutingTrace

Start = tuple[NDArray[np.int16], NDArray[np.intp]]
"""The experts of a trace, (n_tokens, n_layers, top_k), and which of its tokens are those of one sequence."""


def starts_of(begun: Sequence[RoutingTrace], n_sequences: int) -> list[Start]:
    """Of the first sequences, up to `n_sequences`, all tokens of the trace of `begun` where the sequence is longest;
    evenly batched traces.
    """
    starts: list[Start] = []
    counted = [(trace.n_sequences, trace) for trace in begun]
    for n_there, trace in sorted(counted, key=lambda one: -(one[1].n_tokens // one[0])):
        if n_there > len(starts):
            order = np.argsort(trace.sequence, kind="stable").reshape(n_there, -1)
            starts += [(trace.experts, tokens) for tokens in order[len(starts) : n_sequences]]
    return starts
