"""The workload of Pre-gated MoE (ISCA 2024) where its authors forced nothing: random prompts, greedy decoding.

How its tokens spread over experts is not published. What stands here is assumed, in the form of one law, and its
constants are fitted to named rows (`pregate.measured.isca24.machine_fit`).
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from pregate.routing_traces import synthesize
from traces.errors import InvalidInput
from traces.foundation.type_checks import check_fields
from traces.model.architecture import ModelArchitecture
from traces.phase import Phase
from traces.routing import RoutingTrace
from traces.synthesis.dials import Dials

INPUT_TOKENS = OUTPUT_TOKENS = 256
"""Tokens a sequence: PAPER.md, the evaluation set-up."""

_EXPERTS_OF_WORKING_SET = 128
"""The working set is stated of the models with so many experts, on which it was fitted."""

_UNIFORM = Dials(0.0, 0.0, 0.0)


@dataclass(frozen=True, slots=True)
class Activation:
    """How tokens spread over experts where the authors forced nothing. All assumptions, none published.

    `encoder_log_sd`: popularity of a layer's experts among the random input tokens, lognormal: the standard deviation
    of its logarithm. `decoder_working_set`: experts of a layer that greedy decoding uses, all alike, in a model with
    128 of them.
    `gate_exponent`: how the distinct experts of a step grow with the batch, as a power, while few of the working set
    are taken, where gates select for their own block; `pregate_exponent`: where they select for a later one, which in
    the released code makes another model that writes other tokens. One sequence after another meets one at random of
    those before it, and takes that one's expert, or, with odds of the exponent over the number that have it, another of
    the working set (the Chinese restaurant process of discount `gate_exponent`, strength 0: Pitman, Combinatorial
    Stochastic Processes, 3.2, 2006; but experts are finitely many).
    Raises `InvalidInput` for an exponent outside 0 to 1, a working set outside 1 to 128, a deviation outside 0 to 9.
    """

    encoder_log_sd: float = 1.7
    decoder_working_set: float = 33.0
    gate_exponent: float = 0.5
    pregate_exponent: float = 0.5

    def __post_init__(self) -> None:
        check_fields(self)
        for name in ("gate_exponent", "pregate_exponent"):
            if not 0 <= getattr(self, name) <= 1:
                raise InvalidInput(f"{name} = {getattr(self, name):g}: an exponent, from 0 to 1")
        if not 1 <= self.decoder_working_set <= _EXPERTS_OF_WORKING_SET:
            raise InvalidInput(f"decoder_working_set = {self.decoder_working_set:g} is not from 1 to 128 experts")
        if not 0 <= self.encoder_log_sd <= 9:
            raise InvalidInput(f"encoder_log_sd = {self.encoder_log_sd:g}: of a logarithm, from 0 to 9")

    def working_set(self, n_experts: int) -> float:
        """Experts of a layer that decoding uses: the power of `n_experts` that is 1 of 1 and as stated of 128."""
        return float(n_experts ** (math.log(self.decoder_working_set) / math.log(_EXPERTS_OF_WORKING_SET)))


def natural_routing(
    model: ModelArchitecture, batch: int, activation: Activation, seed: int, *, pregated: bool = False
) -> RoutingTrace:
    """The paper's workload with nothing forced, under the stated assumptions; deterministic in `seed`.

    `pregated`: whether the decoder's gates select for a later block; the encoder's never do. Raises
    `InvalidInput` for a model without an encoder, or with more than one expert a token.
    """
    if not model.is_encoder_decoder or model.top_k != 1:
        raise InvalidInput(f"{model.name}: the paper's workload is of encoder-decoder models with one expert a token")
    trace = synthesize(model, INPUT_TOKENS, OUTPUT_TOKENS, batch, seed, dials=_UNIFORM)
    experts, rng = trace.experts.copy(), np.random.default_rng(seed + 1)
    n_encoding, n_decoding = model.n_encoder_moe_layers, model.n_moe_layers - model.n_encoder_moe_layers
    encoding = np.flatnonzero(trace.phase == Phase.PREFILL)
    popularity = _popularity(model.n_experts, activation.encoder_log_sd)
    for layer in range(n_encoding):
        drawn = rng.choice(model.n_experts, len(encoding), p=popularity)
        experts[encoding, layer, 0] = rng.permutation(model.n_experts)[drawn]
    exponent = activation.pregate_exponent if pregated else activation.gate_exponent
    decoding = np.flatnonzero(trace.phase == Phase.DECODE).reshape(-1, batch)
    ends = (np.arange(n_decoding + 1) * activation.working_set(model.n_experts) + 0.5).astype(np.int64)
    n_used = np.maximum(np.diff(ends), 1)  # whole numbers, on average the working set
    chosen = _followed(np.repeat(n_used, len(decoding)), batch, exponent, rng).reshape(n_decoding, -1, batch)
    for i in range(n_decoding):
        used = rng.permutation(model.n_experts)[: n_used[i]]
        experts[decoding, n_encoding + i, 0] = used[chosen[i]]
    return dataclasses.replace(trace, experts=experts, popularity=None)


def _popularity(n_experts: int, log_sd: float) -> NDArray[np.float64]:
    """Shares of tokens by rank, (n_experts,), sum 1: a lognormal distribution at the middles of equal parts."""
    quantile = NormalDist().inv_cdf
    popularity = np.exp([log_sd * quantile((i + 0.5) / n_experts) for i in range(n_experts)])
    shares: NDArray[np.float64] = popularity / popularity.sum()
    return shares


def _followed(n_experts: NDArray[np.int64], batch: int, exponent: float, rng: np.random.Generator) -> NDArray[np.int64]:
    """What the sequences of each step choose one after another, (n_steps, batch), of `n_experts` (n_steps,).

    With n sequences before it, m of them on an expert, a sequence meets that expert with odds m / n; with odds
    exponent / m it then takes another one, any of them alike.
    """
    n_steps = len(n_experts)
    steps = np.arange(n_steps)
    chosen = np.empty((batch, n_steps), dtype=np.int64)
    n_alike = np.zeros((n_steps, int(n_experts.max())), dtype=np.int64)
    chosen[0] = rng.integers(0, n_experts)
    n_alike[steps, chosen[0]] = 1
    for i in range(1, batch):
        followed = chosen[rng.integers(0, i, n_steps), steps]
        leaves = rng.random(n_steps) * n_alike[steps, followed] < exponent
        another = (followed + rng.integers(1, np.maximum(n_experts, 2))) % n_experts
        chosen[i] = np.where(leaves, another, followed)
        n_alike[steps, chosen[i]] += 1
    return chosen.T
