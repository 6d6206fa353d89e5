"""The workload of Pre-gated MoE (ISCA 2024) where its authors forced nothing: random prompts, greedy decoding.

How its tokens spread over experts is not published. What stands here is assumed, in the form of two laws, and their
constants are fitted to named rows (`pregate.measured.isca24_fit`).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pregate.api import synthesize
from traces.errors import InvalidInput
from traces.model.architecture import ModelArchitecture
from traces.phase import Phase
from traces.routing import RoutingTrace
from traces.synthesis.dials import Dials
from traces.typed import check_fields

__all__ = ["INPUT_TOKENS", "OUTPUT_TOKENS", "Activation", "natural_routing"]

INPUT_TOKENS = OUTPUT_TOKENS = 256
"""Tokens a sequence: PAPER.md, the evaluation set-up."""

_EXPERTS_OF_WORKING_SET = 128
"""The working set is stated of the models with so many experts, on which it was fitted."""


@dataclass(frozen=True, slots=True)
class Activation:
    """How tokens spread over experts where the authors forced nothing. All assumptions, none published.

    `encoder_zipf_exponent`: popularity of a layer's experts among the random input tokens.
    `decoder_working_set`: experts of a layer that greedy decoding uses, all alike, in a model with 128 of them;
    `working_set_exponent`: how that grows with the model's experts, as a power. `batch_exponent`: how the distinct
    experts of a step grow with the batch, as a power, while they are few: a sequence chooses what another one, taken
    at random, chooses, or draws afresh with odds of this exponent over the number that choose that (the Chinese
    restaurant process of discount `batch_exponent`, strength 0: Pitman, Combinatorial Stochastic Processes, 3.2, 2006).
    Raises `InvalidInput` for an exponent outside 0 to 1 or a working set below 1.
    """

    encoder_zipf_exponent: float = 1.25
    decoder_working_set: float = 33.0
    working_set_exponent: float = 0.65
    batch_exponent: float = 0.5

    def __post_init__(self) -> None:
        check_fields(self)
        for name in ("working_set_exponent", "batch_exponent"):
            if not 0 <= getattr(self, name) <= 1:
                raise InvalidInput(f"{name} = {getattr(self, name):g}: an exponent, from 0 to 1")
        if self.decoder_working_set < 1:
            raise InvalidInput(f"decoder_working_set = {self.decoder_working_set:g} is below 1 expert")

    def working_set(self, n_experts: int) -> float:
        """Experts of a layer that decoding uses, 1 to `n_experts`; a layer has a whole number next to it."""
        grown: float = self.decoder_working_set * (n_experts / _EXPERTS_OF_WORKING_SET) ** self.working_set_exponent
        return min(float(n_experts), max(1.0, grown))


def natural_routing(model: ModelArchitecture, batch: int, activation: Activation, seed: int) -> RoutingTrace:
    """The paper's workload with nothing forced, under the stated assumptions; deterministic in `seed`."""
    if not model.is_encoder_decoder or model.top_k != 1:
        raise InvalidInput(f"{model.name}: the paper's workload is of encoder-decoder models with one expert a token")
    dials = Dials(activation.encoder_zipf_exponent, 0.0, 0.0)
    trace = synthesize(model, INPUT_TOKENS, OUTPUT_TOKENS, batch, seed, dials=dials)
    rng = np.random.default_rng(seed + 1)
    experts = trace.experts.copy()
    decoding = np.flatnonzero(trace.phase == Phase.DECODE).reshape(-1, batch)
    working_set = activation.working_set(model.n_experts)
    for i, layer in enumerate(range(model.n_encoder_moe_layers, model.n_moe_layers)):
        n_used = int((i + 1) * working_set + 0.5) - int(i * working_set + 0.5)  # on average the working set
        used = rng.permutation(model.n_experts)[:n_used]
        fresh = used[rng.integers(0, n_used, decoding.shape)]
        experts[decoding, layer, 0] = _shared(fresh, activation.batch_exponent, rng)
    return dataclasses.replace(trace, experts=experts)


def _shared(fresh: NDArray[np.int64], exponent: float, rng: np.random.Generator) -> NDArray[np.int64]:
    """What each sequence of a step chooses, (n_steps, batch), from what it would draw by itself, `fresh`.

    With n sequences before it, m of them on an expert, a sequence chooses that one too with odds (m - exponent) / n.
    """
    chosen = fresh.copy()
    rows = np.arange(len(fresh))
    for i in range(1, fresh.shape[1]):
        followed = chosen[rows, rng.integers(0, i, len(fresh))]
        n_alike = (chosen[:, :i] == followed[:, None]).sum(axis=1)
        follows = rng.random(len(fresh)) >= exponent / n_alike
        chosen[:, i] = np.where(follows, followed, fresh[:, i])
    return chosen
