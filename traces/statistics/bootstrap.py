"""How sure a share is that was counted over sequences: sequences are drawn again, tokens are not.

B. Efron, Annals of Statistics 7(1), 1979; by cluster, since the tokens of a sequence are alike.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

N_DRAWS = 1000


def ratio_intervals(
    part: NDArray[np.float64], whole: NDArray[np.float64], rng: np.random.Generator
) -> NDArray[np.float64] | None:
    """95 % intervals (2, ...) of sum(part) / sum(whole), the first axis being sequences; None with fewer than two.

    `part`, `whole` (n_sequences, ...), of one shape. Percentiles of `N_DRAWS` draws of as many sequences.
    """
    n = len(part)
    if n < 2:
        return None
    weights = rng.multinomial(n, np.full(n, 1 / n), N_DRAWS).astype(np.float64)
    shape = part.shape[1:]
    sums = [(weights @ side.reshape(n, -1)).reshape(N_DRAWS, *shape) for side in (part, whole)]
    with np.errstate(invalid="ignore", divide="ignore"):
        found: NDArray[np.float64] = np.percentile(sums[0] / sums[1], [2.5, 97.5], axis=0)
    return found
