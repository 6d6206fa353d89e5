"""What a synthetic trace takes over from another of the same model and dials: the tokens with which both begin.

Random numbers are drawn token by token, so traces of one generator agree as long as they run the same sequences in the
same order: a short prompt with a longer one, a small batch of prompts with a larger.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from traces.routing import RoutingTrace

__all__ = ["history_of", "longest_start"]


def longest_start(
    begun: Sequence[RoutingTrace], sequence: NDArray[np.int32], nothing: NDArray[np.int16]
) -> NDArray[np.int16]:
    """The experts (n, n_layers, top_k) of the leading tokens that run the same sequences as in `sequence` (n_tokens,),
    of the trace of `begun` that has most of them; `nothing` where none has any.
    """
    found = nothing
    for trace in begun:
        n = min(len(sequence), trace.n_tokens)
        differs = trace.sequence[:n] != sequence[:n]
        n = int(differs.argmax()) if differs.any() else n
        if n > len(found):
            found = trace.experts[:n]
    return found


def history_of(
    experts: NDArray[np.int16], sequence: NDArray[np.int32], by_rank: NDArray[np.int16], n_sequences: int, n_kept: int
) -> tuple[NDArray[np.int16], NDArray[np.int64]]:
    """After tokens with `experts` (n_tokens, n_layers, top_k): ranks of the last `n_kept` tokens of each sequence, a
    ring (n_sequences, n_kept, n_layers, top_k), and how many tokens each has had, (n_sequences,).
    """
    n_tokens, n_layers, top_k = experts.shape
    history = np.zeros((n_sequences, n_kept, n_layers, top_k), np.int16)
    seen = np.bincount(sequence, minlength=n_sequences).astype(np.int64)
    order = np.argsort(sequence, kind="stable")
    place = np.arange(n_tokens) - np.repeat(np.cumsum(seen) - seen, seen)
    is_kept = place >= np.repeat(seen, seen) - n_kept
    tokens, place = order[is_kept], place[is_kept]
    rank_of = np.argsort(by_rank, axis=1)
    history[sequence[tokens], place % n_kept] = rank_of[np.arange(n_layers)[:, None], experts[tokens]]
    return history, seen
