"""The architecture of a model in safetensors files: shapes by its `config.json`, bytes of each part by its tensors."""

from __future__ import annotations

import re
from pathlib import Path

from traces.errors import InvalidFile
from traces.foundation.documents import require_regular
from traces.model.configs.huggingface import from_huggingface_config
from traces.model.files.gguf_file import Tensor
from traces.model.files.safetensors_file import read_safetensors
from traces.model.files.stored_parts import MATRICES, StoredParts, with_stored_parts
from traces.model.layer_formats import BY_LAYER
from traces.model.model_architecture import ModelArchitecture

_PLAIN = {"F64": "fp64", "F32": "fp32", "F16": "fp16", "BF16": "bf16"}
"""Element types whose tensors have as many elements as weights: others are packed, or come with scales."""

_LAYER = re.compile(r"(?:^|\.)(?:layers|blocks|h|block)\.(\d+)\.", re.ASCII)
_BESIDE = re.compile(
    r"(^|\.)(visual|vision\w*|audio\w*|multi_modal\w*|mm_\w*|mtp|image_newline|talker|code2wav)\.", re.ASCII
)
"""Modules beside the language model, and layers that predict further tokens: no op of ours runs them."""

_VECTORS = re.compile(r"(norm\w*\.(weight|bias)|(^|[._])bias|\.gate\.(weight|wg\.weight)|router\.(weight|\w+\.weight)|"
                      r"gate\.e_score_correction_bias|_expert_gate\.\w+|conv1d\.\w+|\.(A_log|dt_bias|D|sinks))$",
                      re.ASCII)  # fmt: skip
"""Norms, biases, gates of MoE blocks, convolutions: what has no part of its own."""

_PARTS: tuple[tuple[str, re.Pattern[str]], ...] = tuple(
    (part, re.compile(pattern, re.ASCII))
    for part, pattern in (
        ("embedding", r"(^|\.)(embed_tokens|wte|word_embeddings|tok_embeddings|embed_in)\.|^shared\."),
        ("head", r"(^|\.)(lm_head|embed_out)\.|^output\."),
        ("shared", r"\.(shared_expert|shared_experts|shared_mlp|share_expert)\."),
        ("experts", r"\.(experts|switch_mlp)\.|\.block_sparse_moe\.(input|output)_linear\."),
        ("attention", r"\.(self_attn|self_attention|attention|attn|linear_attn|mixer|mamba|short_conv|conv|"
                      r"SelfAttention|EncDecAttention)\."),
        ("dense", r"\.(mlp|feed_forward|ffn|dense_mlp|residual_mlp|DenseReluDense)\."),
    )
)  # fmt: skip
"""The part that a tensor is of, by the first pattern that its name has."""


def from_safetensors(path: Path) -> ModelArchitecture:
    """The architecture of the model whose safetensors file, or index of them, is at `path`, stored as its tensors are.

    Its `config.json` must stand beside it. Raises `InvalidFile` for files that are none, or not of that configuration.
    """
    require_regular(path)
    config = path.with_name("config.json")
    if not config.is_file():
        raise InvalidFile(f"{path}: no config.json beside it, which says what the tensors are: put it there")
    model = from_huggingface_config(config)
    counted = model.matrix_params
    parts = StoredParts(str(path), model.stored_activation_dtype)
    plain: dict[str, int] = dict.fromkeys(MATRICES, 0)
    packed: set[str] = set()
    layers = [] if model.is_encoder_decoder else [StoredParts(f"{path}: {i}") for i in range(model.decoder.n_layers)]
    for tensor in read_safetensors(path):
        part = _part_of(tensor, model)
        if part is None:
            continue
        layer = _LAYER.search(tensor.name)
        for one in (parts, *(layers[int(layer[1]) :][:1] if layer is not None else ())):
            one.add(part, tensor.n_params, tensor.n_bytes, _PLAIN.get(tensor.dtype, tensor.dtype))
        if part in plain:
            plain[part] += tensor.n_params if tensor.dtype in _PLAIN else 0
            packed |= {part} if tensor.dtype not in _PLAIN else set()
    for part in packed:
        _count(parts, part, counted[part], model)
    parts.of_layers = _of_layers(layers, model)
    return with_stored_parts(model, parts)


def _count(parts: StoredParts, part: str, n_params: int, model: ModelArchitecture) -> None:
    """Have a part that is packed so many weights, in the format that the configuration says."""
    parts.n_params[part] = n_params
    parts.formats[part].clear()
    parts.formats[part][model.formats[part].name] += 1


def _of_layers(layers: list[StoredParts], model: ModelArchitecture) -> list[StoredParts]:
    """The parts of each layer, those that are packed with as many weights as the configuration gives them; none where
    these are not of its shapes.
    """
    stack, experts = model.decoder, model.matrix_params["experts"] // model.n_moe_layers
    dense = stack.n_dense_matrices * model.d_model * stack.d_ff_dense
    for i, parts in enumerate(layers):
        mixer = stack.mixer(i)
        mixing = 0 if mixer is None else mixer.matrix_params(model.d_model)
        counted = {"attention": mixing, "dense": dense, "shared": model.shared_expert_params, "experts": experts}
        for part in BY_LAYER:
            if parts.formats.get(part, {}).keys() - _PLAIN.values():
                _count(parts, part, counted[part], model)
            if parts.n_bytes[part] and not 0.5 <= 8 * parts.n_bytes[part] / max(parts.n_params[part], 1) <= 32:
                return []
    return layers


def _part_of(tensor: Tensor, model: ModelArchitecture) -> str | None:
    """The part of the model that a tensor is of; None beside the language model."""
    name = tensor.name
    layer = _LAYER.search(name)
    if _BESIDE.search(name) or (layer is not None and int(layer[1]) >= max(s.n_layers for s in model.stacks)):
        return None
    if _VECTORS.search(name) or (len(tensor.shape) < 2 and name.endswith(".weight")):
        return "gates"
    part = next((part for part, pattern in _PARTS if pattern.search(name)), "gates")
    if part == "head" and model.tied_embeddings:
        return None
    if part == "dense" and layer is not None and int(layer[1]) in model.decoder.moe_layers:
        return "shared" if model.n_shared_experts else "gates"
    return part
