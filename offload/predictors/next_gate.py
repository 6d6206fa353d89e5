"""What is expected of a layer before its gate runs: stand-ins for real predictors, wrong as often as these were.

A stand-in is told what the gate will choose and spoils it. A policy sees only the result, of the step that it is in.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from traces.errors import InvalidInput
from traces.typed import check_fields

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["NextGate"]


@dataclass(frozen=True, slots=True)
class NextGate:
    """The gate of a later layer on the hidden states of this one: each expert is right with probability `recall`.

    A wrong one is any expert that the token does not choose. Errors are drawn anew for every forward pass and layer,
    the same in every run with the same `seed`. Raises `InvalidInput` for a recall outside 0 to 1.
    """

    recall: float
    seed: int = 0

    def __post_init__(self) -> None:
        check_fields(self)
        if not 0 <= self.recall <= 1:
            raise InvalidInput(f"recall = {self.recall:g}: a share of the experts, from 0 to 1")
        if self.seed < 0:
            raise InvalidInput(f"seed = {self.seed} is below 0")

    def __call__(self, i_step: int, layer: int, chosen: NDArray[np.int16], n_experts: int) -> NDArray[np.int16]:
        """(n_tokens, top_k): `chosen` with some experts wrong; -1 where all experts are chosen already."""
        import numpy as np

        rng: Any = np.random.default_rng((self.seed, i_step, layer))
        is_right = rng.random(chosen.shape) < self.recall
        rank = rng.random((len(chosen), n_experts))
        rows, columns = np.nonzero(chosen >= 0)
        rank[rows, chosen[rows, columns]] = 2.0  # after all that are not chosen
        others = np.argsort(rank, axis=1, kind="stable")[:, : chosen.shape[1]].astype(np.int16)
        others[np.take_along_axis(rank, others.astype(np.int64), axis=1) > 1] = -1
        found: NDArray[np.int16] = np.where(is_right | (chosen < 0), chosen, others)
        return found
