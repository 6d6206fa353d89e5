"""One part of a trace to learn from, another to judge on: split by sequence, never by token.

Tokens of one sequence are alike, so a predictor that has seen some of them has seen the others too.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from traces.errors import unknown_name

SPLITS = {
    "alternate": "every other sequence, the first learns",
    "halves": "the first half of the sequences learns",
}
"""Ways to split sequences, in the order of their numbers."""


@dataclass(frozen=True, slots=True, eq=False)
class Split:
    """`learns` (n_tokens,) bool: which tokens are learnt from; the others are judged.

    `by`: "sequence", or "time" where there is only one. `n_learnt`, `n_judged`: sequences on each side.
    """

    learns: NDArray[np.bool_]
    by: str
    n_learnt: int
    n_judged: int


def split_tokens(sequence: NDArray[np.int32], how: str = "alternate") -> Split:
    """Split tokens, (n_tokens,) sorted by sequence and position, as `how` of `SPLITS` says.

    One sequence is split in time: its first half learns. Raises `UnknownName` for another way.
    """
    if how not in SPLITS:
        raise unknown_name("split", how, SPLITS)
    named, place = np.unique(sequence, return_inverse=True)
    n = len(named)
    if n == 1:
        return Split(np.arange(len(sequence)) < len(sequence) // 2, "time", 1, 1)
    learns = place % 2 == 0 if how == "alternate" else place < n // 2
    n_learnt = (n + 1) // 2 if how == "alternate" else n // 2
    return Split(learns, "sequence", n_learnt, n - n_learnt)
