"""Synthetic traces of models by their counts: each is made once, and what others have in common with it too."""

from __future__ import annotations

from pregate.routing_traces import random_token_dials, routed_by_dials
from traces.foundation.memoised_values import LatestValues
from traces.model.architecture import ModelArchitecture
from traces.routing import RoutingTrace


class KeptTraces:
    """The traces asked for last, of up to `most_cells` routing cells."""

    def __init__(self, seed: int, most_cells: int) -> None:
        self._seed = seed
        self._kept = LatestValues[RoutingTrace](most_cells, lambda trace: trace.experts.size)

    def of(
        self, model: ModelArchitecture, input_tokens: int, output_tokens: int, batch: int, random_tokens: bool = False
    ) -> RoutingTrace:
        """As `pregate.synthesize` makes it; of `random_tokens`, sequences keep to no experts of their own."""
        shape = model.n_moe_layers, model.n_encoder_moe_layers, model.n_experts, model.top_k
        named = model.name, *shape, random_tokens
        dials = random_token_dials(model) if random_tokens else None

        def made() -> RoutingTrace:
            begun = self._kept.alike(lambda key: key[0] == named)
            return routed_by_dials(model, input_tokens, output_tokens, batch, self._seed, dials=dials, begun=begun)

        return self._kept.of((named, input_tokens, output_tokens, batch), made)
