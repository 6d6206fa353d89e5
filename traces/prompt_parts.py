"""Prompts that several forward passes read: which tokens are of a part that a later pass goes on with.

Serving engines read a long prompt in parts (chunked prefill). A part attends to those before it, and only the last
makes a token. A prompt that begins behind an answer of its sequence is another one, which makes a token of its own.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from traces.errors import InvalidInput
from traces.phase import Phase

_Ints = NDArray[np.int64]


def prompt_parts(sequence: NDArray[Any], position: NDArray[Any], phase: NDArray[Any], step: NDArray[Any]) -> _Ints:
    """(n_parts, 4): the sequence and the step of what a step reads of a prompt, its first position and the one behind
    its last. All arrays are (n_tokens,); where a sequence's tokens do not follow one another it has several rows.
    """
    prompt = np.flatnonzero(phase == Phase.PREFILL)
    of, at, place = (column[prompt].astype(np.int64) for column in (sequence, step, position))
    edges = np.flatnonzero((np.diff(of, prepend=-1) != 0) | (np.diff(at, prepend=-1) != 0))
    if not edges.size:
        return np.zeros((0, 4), np.int64)
    first, last = np.minimum.reduceat(place, edges), np.maximum.reduceat(place, edges)
    return np.stack([of[edges], at[edges], first, last + 1], axis=1)


def going_on(parts: _Ints) -> _Ints:
    """The keys, (n,), of those of `parts` (n_parts, 4) behind which a later step goes on with the prompt."""
    sequence = np.sort(parts[:, 0])
    if not np.any(sequence[1:] == sequence[:-1]):  # each prompt in one step
        return np.zeros(0, np.int64)
    key = _keys(parts[:, 0], parts[:, 1])
    order = np.argsort(key, kind="stable")
    edges = np.flatnonzero(np.diff(key[order], prepend=-1))
    first, behind = np.minimum.reduceat(parts[order, 2], edges), np.maximum.reduceat(parts[order, 3], edges)
    sequence = parts[order[edges], 0]
    follows = (sequence[1:] == sequence[:-1]) & (first[1:] == behind[:-1])
    found: _Ints = key[order[edges]][:-1][follows]
    return found


def is_of(keys: _Ints, sequence: NDArray[Any], phase: NDArray[Any], step: NDArray[Any]) -> NDArray[np.bool_]:
    """Whether tokens, (n_tokens,), are of the parts that have `keys`."""
    found: NDArray[np.bool_] = (phase == Phase.PREFILL) & np.isin(_keys(sequence, step), keys)
    return found


def _keys(sequence: NDArray[Any], step: NDArray[Any]) -> _Ints:
    """One number for each sequence of each step; both are below 2**31."""
    found: _Ints = sequence.astype(np.int64) << 32 | step
    return found


def refuse_disorder(
    sequence: NDArray[Any], position: NDArray[Any], phase: NDArray[Any], step: NDArray[Any], apart: NDArray[np.bool_]
) -> None:
    """Raise `InvalidInput` for a token of a sequence with prompts in several steps that runs before one that it attends
    to. All arrays are (n_tokens,); tokens that are `apart` may be at any position.
    """
    parts = prompt_parts(sequence, position, phase, step)
    several, n = np.unique(parts[:, 0], return_counts=True)
    if n.max(initial=0) < 2:
        return
    looked_at = np.flatnonzero(np.isin(sequence, several[n > 1]) & ~apart)
    order = looked_at[np.lexsort((position[looked_at], step[looked_at], sequence[looked_at]))]
    falls = (np.diff(sequence[order]) == 0) & (np.diff(position[order]) < 0)
    if falls.any():
        before, after = order[falls.argmax()], order[falls.argmax() + 1]
        raise InvalidInput(
            f"sequence {sequence[after]}: position {position[after]} runs in step {step[after]}, after position "
            f"{position[before]} in step {step[before]}: number its tokens in the order in which they ran"
        )
