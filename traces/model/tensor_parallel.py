"""A model as one of several cards computes it that share every layer (tensor parallelism)."""

from __future__ import annotations

import dataclasses
from typing import Protocol

from traces.errors import InvalidInput
from traces.model.attention import Attention
from traces.model.dtypes import Dtype
from traces.model.linear_mixer import LinearMixer
from traces.model.model_architecture import ModelArchitecture
from traces.model.published_counts import NOT_PUBLISHED

_BLOCKED = "fp8-b128"
_BLOCK = 128
"""Rows and columns of a matrix in `_BLOCKED` that share a scale; vLLM and SGLang start no card that has a part of one
(layers/quantization/fp8.py; https://github.com/vllm-project/vllm/issues/17569, open on 2026-11-30).
"""

_PADDING = 64
"""Rows that the vocabulary is filled up to a multiple of (vLLM, layers/vocab_parallel_embedding.py)."""


def sharded(model: ModelArchitecture, n_cards: int, expert_groups: int = 1, copies: int = 1) -> ModelArchitecture:
    """What each of `n_cards` holds and computes of `model`, as vLLM divides it (model_executor/layers/linear.py and
    fused_moe/layer.py; Megatron-LM, arXiv 1909.08053): heads of attention, hidden units of every FFN, each expert's
    among them, and rows of the vocabulary.

    Keys and values of fewer heads than cards are on several; latents, what makes them, gates, indexers and norms are
    on all. Where so many `expert_groups` of cards hold experts of their own, the cards of a group share each of these
    (expert parallelism; SGLang, layers/moe/fused_moe_triton/layer.py: moe_tp_size). With several `copies` of all else
    experts are shared by the cards of all of them. Raises `InvalidInput` where heads or hidden units cannot be divided
    evenly or would part a block of a format, where groups do not divide the cards, or for an encoder.
    """
    of_experts = n_cards * copies
    if of_experts == 1:
        return model
    if model.is_encoder_decoder:
        raise InvalidInput(f"{model.name}: layers of an encoder-decoder are not shared by several cards here")

    if of_experts % expert_groups:
        raise InvalidInput(
            f"experts=whole:{expert_groups}: {of_experts} cards are not so many equal groups: take a number of groups "
            f"that divides {of_experts}"
        )

    def even(value: int, what: str, n: int = n_cards) -> int:
        if value % n:
            raise InvalidInput(
                f"{model.name}: {value} {what} cannot be shared evenly by {n} cards: take a number of cards that "
                f"divides them"
            )
        return value // n

    def whole(value: int, what: str, stored: Dtype, way_out: str, n: int = n_cards) -> int:
        share = even(value, what, n)
        if n > 1 and stored.name == _BLOCKED and share % _BLOCK:
            raise InvalidInput(
                f"{model.name}: a card's {share} of {value} {what} are no whole blocks of {_BLOCK}, in which "
                f"{_BLOCKED} is stored, and vLLM refuses them: try {way_out}"
            )
        return share

    stack = model.decoder
    decoder = dataclasses.replace(
        stack,
        attention=_attention(stack.attention, n_cards, even),
        mixers=tuple(_mixer(one, n_cards, even) for one in stack.mixers),
        d_ff_dense=whole(stack.d_ff_dense, "hidden units of a dense layer", model.dtype, "fewer cards"),
    )
    return dataclasses.replace(
        model,
        decoder=decoder,
        d_ff_expert=whole(
            model.d_ff_expert,
            "hidden units of an expert",
            model.expert_dtype,
            "whole experts on each card (experts=whole), or fewer cards",
            of_experts // expert_groups,
        ),
        d_ff_shared=whole(
            model.d_ff_shared, "hidden units of shared experts", model.stored_shared_dtype, "fewer cards"
        ),
        vocab_size=-(-model.vocab_size // _PADDING) * _PADDING // n_cards,
        published=NOT_PUBLISHED,
    )


class _Even(Protocol):
    def __call__(self, value: int, what: str) -> int:
        """A card's share of a count. Raises `InvalidInput` where it cannot be shared evenly."""


def _mixer(one: Attention | LinearMixer, n_cards: int, even: _Even) -> Attention | LinearMixer:
    return _attention(one, n_cards, even) if isinstance(one, Attention) else _linear(one, n_cards, even)


def _attention(one: Attention, n_cards: int, even: _Even) -> Attention:
    n_heads = even(one.n_heads, "heads of attention")
    n_kv_heads = n_heads if one.kind in ("mha", "mla") else 1
    if one.kind == "gqa" and n_cards % one.n_kv_heads:  # else each is on as many cards
        n_kv_heads = even(one.n_kv_heads, "heads of keys and values")
    return dataclasses.replace(
        one,
        n_heads=n_heads,
        n_kv_heads=n_kv_heads,
        output_gate=even(one.output_gate, "rows of an output gate"),
        output_groups=even(one.output_groups, "groups of heads"),
    )


def _linear(one: LinearMixer, n_cards: int, even: _Even) -> LinearMixer:
    """Projections by their rows, and the last, which brings the heads together, by its columns."""
    *first, (n_out, k_in) = one.gemms
    what = f"rows of a projection of {one.kind}"
    return dataclasses.replace(
        one,
        gemms=(*((even(n, what), k) for n, k in first), (n_out, even(k_in, what))),
        vectors=-(-one.vectors // n_cards),
        state_elements=-(-one.state_elements // n_cards),
        flop_per_token=-(-one.flop_per_token // n_cards),
    )
