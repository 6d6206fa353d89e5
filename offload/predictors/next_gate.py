"""Stand-ins for predictors that read hidden states, which no routing trace has: wrong as often as the real ones were.

A stand-in is told what the gate will choose and spoils it. A policy sees only the result, of the step that it is in.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from offload.predictors.curves import Curve
from traces.errors import InvalidInput, check_least
from traces.foundation.type_checks import check_fields

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class NextGate:
    """The gate of a later layer on the hidden states of this one: each expert is right with probability `recall`.

    A wrong one is any expert that the token does not choose. Errors are drawn anew for every forward pass and layer,
    the same in every run with the same `seed`. `more`: experts guessed beyond the k of a token, of which `recall` is
    then said: they are wrong ones, so that `recall` is met exactly. Raises `InvalidInput` for a recall outside 0 to 1.
    """

    recall: float
    seed: int = 0
    more: int = 0

    def __post_init__(self) -> None:
        check_fields(self)
        if not 0 <= self.recall <= 1:
            raise InvalidInput(f"recall = {self.recall:g}: a share of the experts, from 0 to 1")
        check_least("seed", self.seed, 0)
        if self.more < 0:
            raise InvalidInput(f"more = {self.more} is below 0: how many experts are guessed beyond k")

    def __call__(self, i_step: int, layer: int, chosen: NDArray[np.int16], n_experts: int) -> NDArray[np.int16]:
        """(n_tokens, top_k + more): `chosen` with some experts wrong; -1 where there is no other expert to name."""
        if chosen.size > _FEW_CHOICES:
            return self._guessed(i_step, layer, chosen, n_experts)
        return _kept_guesses(self, i_step, layer, chosen.tobytes(), chosen.dtype, chosen.shape, n_experts).copy()

    def _guessed(self, i_step: int, layer: int, chosen: NDArray[np.int16], n_experts: int) -> NDArray[np.int16]:
        import numpy as np

        rng: Any = np.random.default_rng((self.seed, i_step, layer))
        is_right = rng.random(chosen.shape) < self.recall
        rank = rng.random((len(chosen), n_experts))
        rows, columns = np.nonzero(chosen >= 0)
        rank[rows, chosen[rows, columns]] = 2.0  # after all that are not chosen
        top_k = chosen.shape[1]
        others = np.argsort(rank, axis=1, kind="stable")[:, : top_k + self.more].astype(np.int16)
        others[np.take_along_axis(rank, others.astype(np.int64), axis=1) > 1] = -1
        found: NDArray[np.int16] = np.where(is_right | (chosen < 0), chosen, others[:, :top_k])
        return np.concatenate([found, others[:, top_k:]], axis=1) if self.more else found


_FEW_CHOICES = 64
"""Choices of a pass up to which its guesses are kept for the next schedule of the trace, of another cache or format."""


@lru_cache(1 << 12)
def _kept_guesses(
    gate: NextGate, i_step: int, layer: int, chosen: bytes, dtype: Any, shape: tuple[int, ...], n_experts: int
) -> NDArray[np.int16]:
    import numpy as np

    return gate._guessed(i_step, layer, np.frombuffer(chosen, dtype).reshape(shape), n_experts)


@dataclass(frozen=True, slots=True)
class CurveGate:
    """A stand-in as good as a `curve` says of each layer, `ahead` layers before it, with `more` experts than k guessed.

    Raises `InvalidInput` where the curve says nothing of that.
    """

    curve: Curve
    ahead: int = 1
    more: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        check_fields(self)
        self.curve.recall(0, self.ahead, self.more)

    def __call__(self, i_step: int, layer: int, chosen: NDArray[np.int16], n_experts: int) -> NDArray[np.int16]:
        """As of `NextGate`, by the recall of the layer."""
        recall = self.curve.recall(layer, self.ahead, self.more)
        return NextGate(recall, self.seed, self.more)(i_step, layer, chosen, n_experts)
