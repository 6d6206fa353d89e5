"""A predictor that has learnt before a run begins: from the tokens of a routing trace, in a file or one that ships.

What is kept is what was learnt from, and not what came of it: one file is good for every predictor, and is read as any
trace is.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from offload.policy import RunFacts
from offload.predictors.guesser import Chosen, Guesser
from offload.predictors.histories import Tokens, tokens_of_sequences
from traces.errors import InvalidInput
from traces.importers import ModelShape, import_trace
from traces.recorded import recorded_path
from traces.routing import RoutingTrace
from traces.statistics.locality import decode_layers


@dataclass(frozen=True, slots=True)
class Lessons:
    """The decode tokens of a `trace` to learn from; `path` as typed, `digest` of what is in it."""

    path: str
    digest: str
    trace: RoutingTrace = field(repr=False, compare=False)

    def give(self, guesser: Guesser, facts: RunFacts) -> None:
        """Teach `guesser`, which a run of `facts` asks. Raises `InvalidInput` for a trace of another model."""
        layers = decode_layers(self.trace)
        here = {"MoE layers of a decoder": len(layers), "experts": self.trace.n_experts, "top-k": self.trace.top_k}
        there = (facts.n_blocks, facts.n_experts, facts.top_k)
        for (what, n), due in zip(here.items(), there, strict=True):
            if n != due:
                raise InvalidInput(
                    f"from={self.path}: a trace of {self.trace.provenance.model} with {what} = {n}, the model that is "
                    f"asked about has {due}: learn from a trace of that model"
                )
        order = np.lexsort((self.trace.position, self.trace.sequence))
        chosen = np.ascontiguousarray(self.trace.experts[order][:, layers])
        sequence, every = self.trace.sequence[order], np.ones(len(order), np.bool_)
        apart = (
            tokens._replace(before=tokens.before._replace(sequence=-1 - tokens.before.sequence))  # none of the run's
            for tokens in tokens_of_sequences(sequence, chosen, self.trace.n_experts, every)
        )
        teach(guesser, chosen, apart)


def teach(guesser: Guesser, chosen: Chosen, tokens: Iterable[Tokens]) -> None:
    """Have `guesser` learn some tokens, of which `chosen` (n_tokens, n_layers, top_k) is what all chose."""
    for some in tokens:
        guesser.begin(some.before)
        for layer in range(chosen.shape[1]):
            guesser.saw(layer, chosen[some.at, layer])
        guesser.learn()


def lessons_named(path: str) -> Lessons:
    """A trace that ships, or a file of any format that is read. Raises `InvalidFile`, or `InvalidInput` where it has no
    decode tokens.
    """
    decoded = import_trace(recorded_path(path) or Path(path), None, ModelShape()).decode_only()
    return Lessons(path, decoded.digest, decoded)
