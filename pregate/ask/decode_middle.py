"""A long decode by some tokens of its middle: a token's time is linear in its context, so these stand for all."""

from __future__ import annotations

import dataclasses

import numpy as np

from pregate.routing_traces import synthesize
from traces.model.architecture import ModelArchitecture
from traces.routing import RoutingTrace
from traces.statistics.popularity import PopularityProfile
from traces.synthesis.dials import Dials

DECODED = 32
"""Tokens simulated of a longer decode."""

WARMED = 64
"""Tokens of the prompt, at most, that fill a cache before those."""


SETTLED = 96
"""Tokens of all sequences together that are simulated of a design with a cache, in which it forgets what the prompt
left there (`python -m benchmarks.cached_tokens`).
"""


def tokens_timed(batch: int, *, warmed: bool) -> int:
    """Tokens of a sequence simulated of a longer decode; `warmed`: with a cache."""
    return max(DECODED, SETTLED // batch) if warmed else DECODED


def middle_tokens(
    input_tokens: int, output_tokens: int, context_tokens: int = 0, most: int = DECODED
) -> tuple[int, int]:
    """How many tokens, `most` at most, stand for a decode of `output_tokens`, and how many keys and values are there
    before them.

    `context_tokens`: kept from before the prompt of `input_tokens`.
    """
    n = min(max(output_tokens, 2), most)
    return n, context_tokens + input_tokens - 1 + max(output_tokens - n, 0) // 2


def middle_of_decode(
    model: ModelArchitecture,
    input_tokens: int,
    output_tokens: int,
    batch: int,
    seed: int = 0,
    popularity: PopularityProfile | None = None,
    *,
    dials: Dials | None = None,
    warmed: bool = False,
) -> RoutingTrace:
    """The trace of those tokens, made up; an encoder has read the whole prompt before them. `warmed`: after a prompt
    of `WARMED` tokens, no more than there are, in place of one token: so a cache is not empty when they begin.
    """
    n, before = middle_tokens(input_tokens, output_tokens, most=tokens_timed(batch, warmed=warmed))
    if model.is_encoder_decoder:
        return synthesize(model, input_tokens, n, batch, seed, dials=dials, popularity=popularity)
    first = min(WARMED, input_tokens) if warmed else 1
    tokens = synthesize(model, first, n, batch, seed, dials=dials, popularity=popularity)
    return dataclasses.replace(tokens, position=tokens.position + np.int32(before - (first - 1)))
