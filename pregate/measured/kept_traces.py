"""Synthetic traces of models by their counts: each is made once, and what others have in common with it too."""

from __future__ import annotations

from pregate.api import default_dials, seeded
from pregate.measured.latest_values import Latest
from traces.model.architecture import ModelArchitecture
from traces.routing import RoutingTrace
from traces.synthesis.dials import synthesize_routing

__all__ = ["KeptTraces"]


class KeptTraces:
    """The traces asked for last, of up to `most_cells` routing cells."""

    def __init__(self, seed: int, most_cells: int) -> None:
        self._seed = seed
        self._kept = Latest[RoutingTrace](most_cells, lambda trace: trace.experts.size)

    def of(self, model: ModelArchitecture, input_tokens: int, output_tokens: int, batch: int) -> RoutingTrace:
        """As `pregate.synthesize` makes it."""
        named = model.name, model.n_moe_layers, model.n_encoder_moe_layers, model.n_experts, model.top_k

        def made() -> RoutingTrace:
            dials, origin = default_dials(model)
            return synthesize_routing(
                n_moe_layers=model.n_moe_layers,
                n_encoder_moe_layers=model.n_encoder_moe_layers,
                n_experts=model.n_experts,
                top_k=model.top_k,
                input_tokens=input_tokens,
                output_tokens=output_tokens,
                batch=batch,
                dials=dials,
                rng=seeded(self._seed),
                model_name=model.name,
                origin=origin,
                begun=self._kept.alike(lambda key: key[0] == named),
            )

        return self._kept.of((named, input_tokens, output_tokens, batch), made)
