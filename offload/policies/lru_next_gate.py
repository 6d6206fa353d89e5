"""`lru_next_gate`: an LRU of each layer, and a guess at the next layer by its own gate (Eliseev and Mazur, 2023).

arXiv:2312.17238, sections 3.1 to 3.3. While a layer runs, the gate of the next one is applied to this layer's hidden
states, and what it names is brought into staging buffers that all layers share. A guess replaces nothing: the cache
of a layer takes it over only when the layer's own gate names it. `lru_next_gate+lru:0.5:per_layer` holds half of the
experts of every layer (k = 4 of 8 in Mixtral).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from offload.policy import BlockView, Buffers, Cache, Fetch, Policy
from offload.predictors.next_gate import NextGate
from traces.errors import InvalidInput

__all__ = ["NEXT_GATE_RECALL", "GuessedNext", "lru_next_gate"]

NEXT_GATE_RECALL = 0.84
"""One layer ahead on Mixtral-8x7B the next gate is right in 84 to 91 % of cases, as was published; the lowest."""

N_STAGING = 4
"""Staging buffers that all layers share (section 3.3)."""


def lru_next_gate(recall: float = NEXT_GATE_RECALL) -> Policy:
    """The cache takes all HBM that is left, split evenly over the layers."""
    name = "lru_next_gate" if recall == NEXT_GATE_RECALL else f"lru_next_gate:recall={recall:g}"
    return Policy(
        name,
        prefetch=GuessedNext(N_STAGING),
        predictor=NextGate(recall),
        buffers=_Staging(N_STAGING),
        cache=Cache("lru", per_layer=True),
    )


@dataclass(frozen=True, slots=True)
class GuessedNext:
    """Bring what the predictor names for the next block and is not there, most named first, `most` at most."""

    most: int

    def __post_init__(self) -> None:
        if self.most < 1:
            raise InvalidInput(f"most = {self.most} experts ahead is below 1: leave the prefetch out instead")

    def __call__(self, view: BlockView) -> Sequence[Fetch]:
        """One fetch, or none."""
        after = view.block + 1
        guessed = view.predicted(after)
        if guessed is None:
            return []
        named = Counter(guessed[guessed >= 0].tolist())
        missing = [expert for expert, _ in named.most_common() if not view.resident(after, expert)]
        return [Fetch(after, tuple(missing[: self.most]), aside=True)] if missing else []


@dataclass(frozen=True, slots=True)
class _Staging:
    """Slots beside the cache: the staging buffers, and where a block must fit at once its union."""

    n_buffers: int

    def __call__(self, n_active: int, n_experts: int) -> Buffers:
        return Buffers(n_active, max(n_active, self.n_buffers))
