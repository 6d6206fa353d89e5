"""Shapes of encoder-decoder models from their Hugging Face configuration.

Defaults and the choice of MoE layers follow huggingface/transformers, src/transformers/models/<model_type>.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from traces.errors import InvalidFile
from traces.foundation.documents import Section
from traces.model.attention import Attention
from traces.model.layer_stack import LayerStack, every_layer


def _switch_transformers(config: Section) -> dict[str, Any]:
    d_model = config.integer("d_model")
    n_heads = config.integer("num_heads", minimum=1)
    attention = Attention("mha", n_heads, n_heads, config.integer("d_kv"))
    n_encoder = config.integer("num_layers", minimum=1)
    d_ff = config.integer("d_ff")
    buckets = config.integer("relative_attention_num_buckets", 32)
    activation = config.text("dense_act_fn", "") or config.text("feed_forward_proj", "relu")
    n_matrices = 3 if activation.startswith("gated") else 2

    def stack(n_layers: int, n_sparse: int, cross_attention: bool) -> LayerStack:
        step = max(1, n_layers // n_sparse) if n_sparse else 0
        moe_layers = every_layer(n_layers, 1 if step > 1 else 0, step) if step else ()
        dense = d_ff if len(moe_layers) < n_layers else 0
        return LayerStack(n_layers, moe_layers, attention, cross_attention, dense, n_matrices, False, buckets)

    return {
        "d_model": d_model,
        "vocab_size": config.integer("vocab_size"),
        "tied_embeddings": config.flag("tie_word_embeddings", True),
        "encoder": stack(n_encoder, config.integer("num_sparse_encoder_layers"), False),
        "decoder": stack(
            config.integer("num_decoder_layers", n_encoder),
            config.integer("num_sparse_decoder_layers"),
            True,
        ),
        "n_experts": config.integer("num_experts"),
        "top_k": config.integer("num_selected_experts", 1),
        "d_ff_expert": d_ff,
        "n_expert_matrices": n_matrices,
        "gate_bias": config.flag("router_bias"),
    }


def _nllb_moe(config: Section) -> dict[str, Any]:
    """Top-2 gates by construction; linear layers and norms have biases, the gate only if `router_bias`."""
    d_model = config.integer("d_model", minimum=1)

    def stack(side: str, cross_attention: bool) -> LayerStack:
        n_layers = config.integer(f"{side}_layers")
        n_heads = config.integer(f"{side}_attention_heads", minimum=1)
        step = config.integer(f"{side}_sparse_step")
        moe_layers = every_layer(n_layers, step - 1, step) if step else ()
        return LayerStack(
            n_layers=n_layers,
            moe_layers=moe_layers,
            attention=Attention("mha", n_heads, n_heads, d_model // n_heads, qkv_bias=True, output_bias=True),
            cross_attention=cross_attention,
            d_ff_dense=d_ff if len(moe_layers) < n_layers else 0,
            n_dense_matrices=2,
            ffn_bias=True,
        )

    d_ff = config.integer("encoder_ffn_dim")
    if config.integer("decoder_ffn_dim") != d_ff:
        raise InvalidFile(f"{config.where}: decoder_ffn_dim differs from encoder_ffn_dim = {d_ff}: not modelled")
    return {
        "d_model": d_model,
        "vocab_size": config.integer("vocab_size"),
        "tied_embeddings": config.flag("tie_word_embeddings", True),
        "encoder": stack("encoder", False),
        "decoder": stack("decoder", True),
        "n_experts": config.integer("num_experts"),
        "top_k": 2,
        "d_ff_expert": d_ff,
        "n_expert_matrices": 2,
        "expert_bias": True,
        "gate_bias": config.flag("router_bias"),
        "norm_bias": True,
    }


ENCODER_DECODER: dict[str, Callable[[Section], dict[str, Any]]] = {
    "nllb-moe": _nllb_moe,
    "switch_transformers": _switch_transformers,
}
"""Fields of `ModelArchitecture` but name, sources and storage formats, by `model_type`."""
