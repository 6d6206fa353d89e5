"""The predictors that learn from choices, by name; each is told what the others are told."""

from __future__ import annotations

from collections.abc import Callable

from offload.predictors.activation_matrices import ActivationMatrices
from offload.predictors.baselines import Popular, PreviousToken, SequenceSoFar, Uniform
from offload.predictors.expert_maps import ExpertMaps
from offload.predictors.guesser import Guesser
from offload.predictors.linear import Linear
from offload.predictors.markov import Markov
from traces.errors import unknown_name

GUESSERS: dict[str, Callable[[int, int, tuple[int, ...]], Guesser]] = {
    "markov": Markov,
    "maps": lambda n_layers, n_experts, depths: ExpertMaps(n_layers, n_experts),
    "matrices": lambda n_layers, n_experts, depths: ActivationMatrices(n_layers, n_experts),
    "learned": lambda n_layers, n_experts, depths: Linear(n_layers, n_experts),
    "previous_token": lambda n_layers, n_experts, depths: PreviousToken(n_layers, n_experts),
    "sequence": lambda n_layers, n_experts, depths: SequenceSoFar(n_layers, n_experts),
    "popular": lambda n_layers, n_experts, depths: Popular(n_layers, n_experts),
    "uniform": lambda n_layers, n_experts, depths: Uniform(n_layers, n_experts),
}
"""What makes a predictor for a number of layers, of experts, and how many layers ahead it will be asked."""


def guesser_named(name: str, n_layers: int, n_experts: int, depths: tuple[int, ...]) -> Guesser:
    """A predictor that has learnt nothing yet. Raises `UnknownName`."""
    if name not in GUESSERS:
        raise unknown_name("predictor", name, GUESSERS)
    return GUESSERS[name](n_layers, n_experts, depths)
