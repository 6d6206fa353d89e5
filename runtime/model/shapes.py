"""The tensors of a model by name and shape, in the order in which they lie: outside of its experts, and in one."""

from __future__ import annotations

from collections.abc import Iterator

from traces.model.architecture import Attention, LayerStack, ModelArchitecture

Shapes = dict[str, tuple[int, ...]]


def static_shapes(model: ModelArchitecture) -> Shapes:
    """Every tensor outside the routed experts, by name: `model.non_expert_params` elements in all."""
    shapes: Shapes = {"embedding": (model.vocab_size, model.d_model)}
    if not model.tied_embeddings:
        shapes["head"] = (model.vocab_size, model.d_model)
    if model.head_bias:
        shapes["head.bias"] = (model.vocab_size,)
    for side, stack in zip(("encoder", "decoder")[-len(model.stacks) :], model.stacks, strict=True):
        for layer in range(stack.n_layers):
            shapes |= {f"{side}.{layer}.{name}": shape for name, shape in _layer(model, stack, layer)}
        shapes |= {f"{side}.{name}": shape for name, shape in _norm(model, "norm")}
        if stack.relative_position_buckets:
            shapes[f"{side}.positions"] = (stack.attention.n_heads, stack.relative_position_buckets)
    return shapes


def _norm(model: ModelArchitecture, name: str) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{name}.scale", (model.d_model,)
    if model.norm_bias:
        yield f"{name}.bias", (model.d_model,)


def _layer(model: ModelArchitecture, stack: LayerStack, layer: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    for block in ("self", "cross")[: 2 if stack.cross_attention else 1]:
        yield from _norm(model, f"{block}.norm")
        attention = stack.attention_of(layer)
        yield from ((f"{block}.{name}", shape) for name, shape in _attention(attention, model.d_model))
    yield from _norm(model, "ffn.norm")
    if layer not in stack.moe_layers:
        shapes = _ffn(model.d_model, stack.d_ff_dense, stack.n_dense_matrices, stack.ffn_bias)
        yield from ((f"ffn.{name}", shape) for name, shape in shapes)
        return
    yield "gate", (model.n_experts, model.d_model)
    if model.gate_bias:
        yield "gate.bias", (model.n_experts,)
    if model.shared_expert_gate:
        yield "shared.gate", (1, model.d_model)
    for i in range(model.n_shared_experts):
        shapes = _ffn(model.d_model, model.d_ff_shared, model.n_expert_matrices, bias=False)
        yield from ((f"shared.{i}.{name}", shape) for name, shape in shapes)


def _attention(attention: Attention, d_model: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    matrices = attention.gemm_shapes(d_model)
    if attention.kind != "mla":
        names: tuple[str, ...] = ("query", "key", "value", "output")
        biased: tuple[str, ...] = ("query", "key", "value")
    elif attention.q_lora_rank:
        names = ("query_down", "query", "latent", "latent_up", "output")
        biased = ("query_down", "latent")
        yield "query_down.scale", (attention.q_lora_rank,)
    else:
        names = ("query", "latent", "latent_up", "output")
        biased = ("latent",)
    if attention.kind == "mla":
        yield "latent.scale", (attention.kv_lora_rank,)
    for name, shape in zip(names, matrices, strict=True):
        yield name, shape
        if (attention.qkv_bias and name in biased) or (attention.output_bias and name == "output"):
            yield f"{name}.bias", shape[:1]
    if attention.qk_norm != "none":
        full = attention.qk_norm == "full"
        for name, n_heads in (("query", attention.n_heads), ("key", attention.n_kv_heads)):
            yield f"{name}.scale", ((n_heads if full else 1) * attention.head_dim,)
    if attention.sinks:
        yield "sinks", (attention.n_heads,)


def _ffn(d_model: int, d_ff: int, n_matrices: int, bias: bool) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Up (and gate, when there are three matrices) and down; then their biases."""
    shapes = [("gate", (d_ff, d_model))] if n_matrices == 3 else []
    shapes += [("up", (d_ff, d_model)), ("down", (d_model, d_ff))]
    yield from shapes
    if bias:
        yield from ((f"{name}.bias", shape[:1]) for name, shape in shapes)


def expert_shapes(model: ModelArchitecture) -> Shapes:
    """The tensors of one routed expert, in the order in which they lie in its `model.expert_bytes` bytes."""
    return dict(_ffn(model.d_model, model.d_ff_expert, model.n_expert_matrices, model.expert_bias))
