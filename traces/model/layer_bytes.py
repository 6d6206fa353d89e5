"""The bytes of a model by layer outside the routed experts, and of its output head."""

from __future__ import annotations

import math
from functools import lru_cache

from traces.model.layer_models import models_by_layer
from traces.model.model_architecture import ModelArchitecture


@lru_cache(16)
def layer_weight_bytes(model: ModelArchitecture) -> tuple[int, ...]:
    """Weights of each decoder layer outside its routed experts, in bytes; a share of norms and biases in each.

    Their sum, the two tables and an encoder are `non_expert_bytes`, to a byte a layer.
    """
    return tuple(math.ceil(mixing + rest) for mixing, rest in layer_part_bytes(model))


@lru_cache(16)
def layer_part_bytes(model: ModelArchitecture) -> tuple[tuple[float, float], ...]:
    """The same by what reads them: what mixes the tokens of each layer, with norms and biases; its gate and shared
    experts, or its dense FFN.
    """
    stack, moe = model.decoder, set(model.decoder.moe_layers)
    kept = model.stored_gate_dtype.bytes_per_param
    norm_params = model.d_model * (2 if model.norm_bias else 1)
    vectors = stack.vector_params(model.d_model, norm_params) / stack.n_layers * kept
    sizes = list[tuple[float, float]]()
    for layer, (mixer, stored) in enumerate(zip(stack.all_mixers, models_by_layer(model), strict=True)):
        attention, shared = stored.stored_attention_dtype.bytes_per_param, stored.stored_shared_dtype.bytes_per_param
        mixing, rest = vectors, 0.0
        if mixer is not None:
            n_blocks = 2 if stack.cross_attention else 1
            mixing += n_blocks * sum(n * k for n, k in mixer.gemm_shapes(model.d_model)) * attention
        if layer in moe:
            rest = model.shared_expert_params * shared + model.gate_params * kept
        elif layer not in stack.bare_layers:
            rest = stack.n_dense_matrices * model.d_model * stack.d_ff_dense * stored.dtype.bytes_per_param
        sizes.append((mixing, rest))
    return tuple(sizes)


def head_bytes(model: ModelArchitecture) -> int:
    """Bytes of the output head's matrix."""
    return math.ceil(model.vocab_size * model.d_model * model.stored_head_dtype.bytes_per_param)
