"""What a gate has said of one (step, layer), as evictions see it that look at more than lookups. No clock here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class GateOutput(NamedTuple):
    """The experts that one event asks for, with the tokens and the gate weights that each serves.

    `scores`: gate weights summed over tokens, or, where the trace has none, as if a token weighed its experts alike.
    `top_k`: experts a token; `new_request`: none of the sequences of this step was in the step before.
    """

    i_step: int
    layer: int
    experts: Sequence[int]
    tokens: Sequence[int]
    scores: Sequence[float]
    n_tokens: int
    top_k: int
    new_request: bool = False


def gate_output(
    i_step: int,
    layer: int,
    chosen: NDArray[np.int16],
    weights: NDArray[np.float32] | None,
    new_request: bool = False,
) -> GateOutput:
    """The output of one gate; `chosen` and `weights` (n_tokens, top_k), -1 pads."""
    import numpy as np

    named = chosen >= 0
    experts, place, tokens = np.unique(chosen[named], return_inverse=True, return_counts=True)
    top_k = chosen.shape[1]
    if weights is None:
        scores: Any = tokens / top_k
    else:
        scores = np.bincount(place.ravel(), weights=weights[named].astype(np.float64), minlength=len(experts))
    return GateOutput(
        i_step, layer, experts.tolist(), tokens.tolist(), scores.tolist(), len(chosen), top_k, new_request
    )


def stated_weights(i_step: int, block: int, chosen: NDArray[np.int16], n_experts: int) -> NDArray[np.float64]:
    """Gate weights for a trace that has none: softmax over the k largest of n_experts standard normal router logits.

    (n_tokens, top_k), as `chosen`. The first expert of a token gets the largest. Drawn anew for each step and block,
    the same in every run.
    """
    import numpy as np

    rng = np.random.default_rng((0, i_step, block))
    logits = -np.sort(-rng.standard_normal((len(chosen), n_experts)), axis=1)[:, : chosen.shape[1]]
    exponents = np.where(chosen >= 0, np.exp(logits), 0.0)
    weights: NDArray[np.float64] = exponents / np.maximum(exponents.sum(axis=1, keepdims=True), 1e-300)
    return weights
