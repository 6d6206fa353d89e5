"""Shapes of decoder-only models from their Hugging Face configuration; all have gated FFNs.

Which layers are MoE, which projections have biases and what a key defaults to follow the model's own code in
huggingface/transformers, src/transformers/models/<model_type>.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from traces.documents import Section
from traces.errors import InvalidFile
from traces.model.attention import Attention
from traces.model.layer_stack import LayerStack, every_layer


def _grouped_attention(config: Section, d_model: int, **options: Any) -> Attention:
    n_heads = config.integer("num_attention_heads", minimum=1)
    n_kv_heads = config.integer("num_key_value_heads", n_heads, minimum=1)
    return Attention(
        kind="mha" if n_kv_heads == n_heads else "gqa",
        n_heads=n_heads,
        n_kv_heads=n_kv_heads,
        head_dim=config.integer("head_dim", d_model // n_heads),
        **options,
    )


def _decoder_only(
    config: Section, d_model: int, attention: Attention, moe_layers: tuple[int, ...], **fields: Any
) -> dict[str, Any]:
    """What the decoder-only readers share. `fields` must hold `n_layers`, `d_ff_dense` and the experts."""
    n_layers = fields.pop("n_layers")
    d_ff_dense = fields.pop("d_ff_dense", 0)
    stack = LayerStack(
        n_layers=n_layers,
        moe_layers=moe_layers,
        attention=attention,
        cross_attention=False,
        d_ff_dense=d_ff_dense if len(moe_layers) < n_layers else 0,
        n_dense_matrices=3,
    )
    shared: dict[str, Any] = {
        "d_model": d_model,
        "vocab_size": config.integer("vocab_size"),
        "tied_embeddings": config.flag("tie_word_embeddings"),
        "decoder": stack,
        "top_k": config.integer("num_experts_per_tok"),
        "n_expert_matrices": 3,
    }
    return shared | fields


def _sizes(config: Section) -> tuple[int, int]:
    """(d_model, n_layers)."""
    return config.integer("hidden_size", minimum=1), config.integer("num_hidden_layers", minimum=1)


def _mixtral(config: Section) -> dict[str, Any]:
    d_model, n_layers = _sizes(config)
    return _decoder_only(
        config,
        d_model,
        _grouped_attention(config, d_model),
        every_layer(n_layers),
        n_layers=n_layers,
        n_experts=config.integer("num_local_experts"),
        d_ff_expert=config.integer("intermediate_size"),
    )


def _phimoe(config: Section) -> dict[str, Any]:
    d_model, n_layers = _sizes(config)
    bias = config.flag("attention_bias")
    return _decoder_only(
        config,
        d_model,
        _grouped_attention(config, d_model, qkv_bias=bias, output_bias=bias),
        every_layer(n_layers),
        n_layers=n_layers,
        n_experts=config.integer("num_local_experts"),
        d_ff_expert=config.integer("intermediate_size"),
        head_bias=config.flag("lm_head_bias"),
        norm_bias=True,
    )


def _olmoe(config: Section) -> dict[str, Any]:
    d_model, n_layers = _sizes(config)
    bias = config.flag("attention_bias")
    return _decoder_only(
        config,
        d_model,
        _grouped_attention(config, d_model, qkv_bias=bias, output_bias=bias, qk_norm="full"),
        every_layer(n_layers),
        n_layers=n_layers,
        n_experts=config.integer("num_experts"),
        d_ff_expert=config.integer("intermediate_size"),
    )


def _qwen_moe_layers(config: Section, n_layers: int) -> tuple[int, ...]:
    """Every `decoder_sparse_step`-th layer, counted from 1, but those in `mlp_only_layers`."""
    step = config.integer("decoder_sparse_step", 1, minimum=1)
    dense = config.items("mlp_only_layers", optional=True)
    return tuple(layer for layer in every_layer(n_layers, step - 1, step) if layer not in dense)


def _qwen2_moe(config: Section) -> dict[str, Any]:
    d_model, n_layers = _sizes(config)
    return _decoder_only(
        config,
        d_model,
        _grouped_attention(config, d_model, qkv_bias=config.flag("qkv_bias", True)),
        _qwen_moe_layers(config, n_layers),
        n_layers=n_layers,
        d_ff_dense=config.integer("intermediate_size"),
        n_experts=config.integer("num_experts"),
        d_ff_expert=config.integer("moe_intermediate_size"),
        n_shared_experts=1,
        d_ff_shared=config.integer("shared_expert_intermediate_size"),
        shared_expert_gate=True,
    )


def _qwen3_moe(config: Section) -> dict[str, Any]:
    d_model, n_layers = _sizes(config)
    bias = config.flag("attention_bias")
    return _decoder_only(
        config,
        d_model,
        _grouped_attention(config, d_model, qkv_bias=bias, output_bias=bias, qk_norm="head"),
        _qwen_moe_layers(config, n_layers),
        n_layers=n_layers,
        d_ff_dense=config.integer("intermediate_size"),
        n_experts=config.integer("num_experts"),
        d_ff_expert=config.integer("moe_intermediate_size"),
    )


def _deepseek(config: Section) -> dict[str, Any]:
    """V2 and V3; the V3 gate has a bias for each expert (`topk_method` noaux_tc)."""
    d_model, n_layers = _sizes(config)
    n_heads = config.integer("num_attention_heads", minimum=1)
    nope, rope = config.integer("qk_nope_head_dim"), config.integer("qk_rope_head_dim")
    bias = config.flag("attention_bias")
    attention = Attention(
        kind="mla",
        n_heads=n_heads,
        n_kv_heads=n_heads,
        head_dim=nope + rope,
        q_lora_rank=config.integer("q_lora_rank", 0),
        kv_lora_rank=config.integer("kv_lora_rank"),
        qk_nope_dim=nope,
        qk_rope_dim=rope,
        v_head_dim=config.integer("v_head_dim"),
        qkv_bias=bias,
        output_bias=bias,
    )
    step = config.integer("moe_layer_freq", 1, minimum=1)
    first_moe = config.integer("first_k_dense_replace")
    n_shared = config.integer("n_shared_experts", 0)
    d_ff_expert = config.integer("moe_intermediate_size")
    return _decoder_only(
        config,
        d_model,
        attention,
        tuple(layer for layer in every_layer(n_layers, 0, step) if layer >= first_moe),
        n_layers=n_layers,
        d_ff_dense=config.integer("intermediate_size"),
        n_experts=config.integer("n_routed_experts"),
        d_ff_expert=d_ff_expert,
        n_shared_experts=n_shared,
        d_ff_shared=d_ff_expert if n_shared else 0,
        gate_bias=config.text("topk_method", "") == "noaux_tc",
    )


def _gpt_oss(config: Section) -> dict[str, Any]:
    d_model, n_layers = _sizes(config)
    bias = config.flag("attention_bias", True)
    return _decoder_only(
        config,
        d_model,
        _grouped_attention(config, d_model, qkv_bias=bias, output_bias=bias, sinks=True),
        every_layer(n_layers),
        n_layers=n_layers,
        n_experts=config.integer("num_local_experts"),
        d_ff_expert=config.integer("intermediate_size"),
        expert_bias=True,
        gate_bias=True,
    )


def _llama4(text: Section) -> dict[str, Any]:
    """The text model; the vision tower is left out."""
    d_model, n_layers = _sizes(text)
    bias = text.flag("attention_bias")
    step = text.integer("interleave_moe_layer_step", 1, minimum=1)
    listed = text.items("moe_layers", optional=True)
    d_ff_expert = text.integer("intermediate_size")
    return _decoder_only(
        text,
        d_model,
        _grouped_attention(text, d_model, qkv_bias=bias, output_bias=bias),
        _indices(listed, text) if listed else every_layer(n_layers, step - 1, step),
        n_layers=n_layers,
        d_ff_dense=text.integer("intermediate_size_mlp"),
        n_experts=text.integer("num_local_experts"),
        d_ff_expert=d_ff_expert,
        n_shared_experts=1,
        d_ff_shared=d_ff_expert,
    )


def _indices(listed: list[Any], config: Section) -> tuple[int, ...]:
    if not all(type(layer) is int for layer in listed):
        raise InvalidFile(f"{config.where}: moe_layers holds something that is not an integer")
    return tuple(listed)


DECODER_ONLY: dict[str, Callable[[Section], dict[str, Any]]] = {
    "deepseek_v2": _deepseek,
    "deepseek_v3": _deepseek,
    "gpt_oss": _gpt_oss,
    "llama4": _llama4,
    "mixtral": _mixtral,
    "olmoe": _olmoe,
    "phimoe": _phimoe,
    "qwen2_moe": _qwen2_moe,
    "qwen3_moe": _qwen3_moe,
}
"""Fields of `ModelArchitecture` but name, sources and storage formats, by `model_type`."""
