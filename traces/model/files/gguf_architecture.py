"""The architecture of a model in a GGUF file: shapes from its tensors, counts of heads and windows from its keys.

Names of tensors: ggml-org/llama.cpp, gguf-py/gguf/constants.py. What tensors show is not asked of keys, so that a
family nobody has named here is read as well.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from traces.errors import InvalidFile, InvalidInput
from traces.model.attention import Attention
from traces.model.files.gguf_file import Tensor, WeightsFile, read_gguf
from traces.model.files.gguf_mixers import GgufKeys, is_projection, mixer_of_layer, with_shared_indexers
from traces.model.files.stored_parts import StoredParts, with_stored_parts
from traces.model.layer_stack import MAX_LAYERS, LayerStack
from traces.model.linear_mixer import LinearMixer
from traces.model.model_architecture import ModelArchitecture

_LAYER = re.compile(r"blk\.(\d{1,4})\.(.+)", re.ASCII)
_ONE_EXPERT = re.compile(r"ffn_(gate|up|down)\.\d{1,4}\.weight", re.ASCII)
"""Files of before 2024 have a tensor an expert."""
_EXPERTS = ("ffn_up_exps.weight", "ffn_gate_exps.weight", "ffn_down_exps.weight", "ffn_gate_up_exps.weight")
_SHARED = ("ffn_up_shexp.weight", "ffn_gate_shexp.weight", "ffn_down_shexp.weight")
_DENSE = ("ffn_up.weight", "ffn_gate.weight", "ffn_down.weight")
_LEFT = ("ffn_gate_inp.weight", "ffn_gate_inp_shexp.weight", "ffn_latent_down.weight", "ffn_latent_up.weight")
"""Matrices of a layer that are of no part that has a format: gates, and projections around experts."""

_BESIDE = ("ple_", "hc_")
"""Tables of n-grams, and what mixes residual streams (Qwen4-Exp, DeepSeek-V4): no op here reads them."""

Layer = Mapping[str, Tensor]


def from_gguf(path: Path) -> ModelArchitecture:
    """The architecture of the model in the GGUF file at `path`, stored exactly as its tensors are.

    Raises `InvalidFile` for a file that is none, a model without experts, or one whose tensors are not of the shapes
    that its keys say.
    """
    file = read_gguf(path)
    try:
        return _architecture(file)
    except InvalidInput as error:
        if str(path.parent) in str(error) and isinstance(error, InvalidFile):
            raise
        raise InvalidFile(f"{path}: {error}") from error


def _architecture(file: WeightsFile) -> ModelArchitecture:
    where = str(file.path)
    keys = GgufKeys.of(file.metadata, where)
    top, layers = _by_layer(file, keys)
    sparse = tuple(i for i, layer in enumerate(layers) if _is_sparse(layer))
    if not sparse:
        raise InvalidFile(
            f"{where}: a {keys.family} model without experts in its tensors: take a Mixture-of-Experts model"
        )
    table = _matrix(top, "token_embd.weight", where)
    d_model, vocab_size = table.shape[0], table.shape[1]
    shapes = _experts(layers[sparse[0]], d_model, keys)
    parts = _parts(top, layers, file.path)
    model = ModelArchitecture(
        name=re.sub(r"-\d{5}-of-\d{5}$", "", file.path.stem) or keys.family,
        d_model=d_model,
        vocab_size=vocab_size,
        tied_embeddings="output.weight" not in top,
        norm_bias="attn_norm.bias" in layers[0],
        head_bias="output.bias" in top,
        decoder=_stack(layers, sparse, d_model, keys, shapes["n_expert_matrices"]),
        top_k=keys.integer("expert_used_count"),
        trained_context=keys.integer("context_length", 0),
        sources=(f"{file.path.name}, general.architecture {keys.family}",),
        **shapes,
        **parts.placeholders(),
    )
    return with_stored_parts(model, parts)


def _by_layer(file: WeightsFile, keys: GgufKeys) -> tuple[dict[str, Tensor], list[dict[str, Tensor]]]:
    """Tensors outside of the layers by name, and those of each layer by what follows its number.

    Layers that predict further tokens stand after the others and are left out: engines do not run them.
    """
    n_layers = keys.integer("block_count") - keys.integer("nextn_predict_layers", 0)
    if not 1 <= n_layers <= MAX_LAYERS:
        raise InvalidFile(f"{keys.where}: {keys.family}.block_count = {n_layers}, expected 1 to {MAX_LAYERS}")
    top: dict[str, Tensor] = {}
    layers: list[dict[str, Tensor]] = [{} for _ in range(n_layers)]
    for tensor in file.tensors:
        match = _LAYER.fullmatch(tensor.name)
        if match is None:
            top[tensor.name] = tensor
        elif int(match[1]) < n_layers:
            layers[int(match[1])][match[2]] = tensor
    empty = next((i for i, layer in enumerate(layers) if not layer), None)
    if empty is not None:
        raise InvalidFile(f"{keys.where}: layer {empty} of {n_layers} has no tensors: is this the whole model?")
    return top, layers


def _is_sparse(layer: Layer) -> bool:
    return "ffn_down_exps.weight" in layer or any(_ONE_EXPERT.fullmatch(name) for name in layer)


def _matrix(tensors: Layer, name: str, where: str) -> Tensor:
    """A tensor of two dimensions or three. Raises `InvalidFile` unless it is there."""
    found = tensors.get(name)
    if found is None or len(found.shape) < 2:
        raise InvalidFile(f"{where}: tensor {name} is missing, or no matrix: is this the whole model?")
    return found


def _experts(layer: Layer, d_model: int, keys: GgufKeys) -> dict[str, Any]:
    """The fields of an MoE block, from the tensors of the first."""
    single = sorted(name for name in layer if _ONE_EXPERT.fullmatch(name) and "ffn_down" in name)
    down = _matrix(layer, single[0] if single else "ffn_down_exps.weight", keys.where)
    n_experts = len(single) if single else down.shape[2] if len(down.shape) > 2 else 1
    gated = {"ffn_gate_exps.weight", "ffn_gate_up_exps.weight"} & layer.keys() or "ffn_gate.0.weight" in layer
    shared = layer.get("ffn_down_shexp.weight") or layer.get("ffn_down.weight")
    n_shared = keys.integer("expert_shared_count", 1) or 1
    return {
        "n_experts": n_experts,
        "d_ff_expert": down.shape[0],
        "n_expert_matrices": 3 if gated else 2,
        "d_expert": down.shape[1] if down.shape[1] != d_model else 0,
        "n_shared_experts": 0 if shared is None else n_shared if shared.shape[0] % n_shared == 0 else 1,
        "d_ff_shared": 0 if shared is None else shared.shape[0] // (n_shared if shared.shape[0] % n_shared == 0 else 1),
        "shared_expert_gate": "ffn_gate_inp_shexp.weight" in layer,
        "expert_bias": "ffn_down_exps.bias" in layer,
        "gate_bias": bool({"exp_probs_b.bias", "exp_probs_b", "ffn_gate_inp.bias"} & layer.keys()),
    }


def _stack(
    layers: list[dict[str, Tensor]], sparse: tuple[int, ...], d_model: int, keys: GgufKeys, n_matrices: int
) -> LayerStack:
    mixers = with_shared_indexers([mixer_of_layer(layer, i, d_model, keys) for i, layer in enumerate(layers)])
    plain = [mixer for mixer in mixers if isinstance(mixer, Attention)]
    if not plain:
        raise InvalidFile(f"{keys.where}: no layer has an attention: not modelled")
    attention = max(dict.fromkeys(plain), key=lambda mixer: (mixer.window == 0, plain.count(mixer)))
    distinct: tuple[Attention | LinearMixer, ...] = tuple(
        dict.fromkeys(mixer for mixer in mixers if mixer is not None and mixer != attention)
    )
    places = {mixer: i + 1 for i, mixer in enumerate(distinct)}
    uneven = any(mixer != attention for mixer in mixers)
    dense = [layer for i, layer in enumerate(layers) if i not in sparse and "ffn_down.weight" in layer]
    bare = tuple(i for i, layer in enumerate(layers) if i not in sparse and "ffn_down.weight" not in layer)
    return LayerStack(
        n_layers=len(layers),
        moe_layers=sparse,
        attention=attention,
        cross_attention=False,
        d_ff_dense=round(sum(layer["ffn_down.weight"].shape[0] for layer in dense) / len(dense)) if dense else 0,
        n_dense_matrices=(3 if "ffn_gate.weight" in dense[0] else 2) if dense else n_matrices,
        ffn_bias=bool(dense) and "ffn_down.bias" in dense[0],
        mixers=distinct if uneven else (),
        mixer_of=tuple(-1 if m is None else places.get(m, 0) for m in mixers) if uneven else (),
        bare_layers=bare,
    )


def _parts(top: Layer, layers: list[dict[str, Tensor]], path: Path) -> StoredParts:
    """Every tensor in its part."""
    parts = StoredParts(str(path))
    for name, tensor in top.items():
        part = {"token_embd.weight": "embedding", "output.weight": "head"}.get(name, "gates")
        parts.add(part, tensor.n_params, tensor.n_bytes, tensor.dtype)
    for i, layer in enumerate(layers):
        own, sparse = StoredParts(f"{path}: layer {i}"), _is_sparse(layer)
        for name, tensor in layer.items():
            for whole in (parts, own):
                whole.add(_part_of(name, tensor, sparse), tensor.n_params, tensor.n_bytes, tensor.dtype)
        parts.of_layers.append(own)
    return parts


def _part_of(name: str, tensor: Tensor, sparse: bool) -> str:
    """The part of the model that a tensor of a layer is of."""
    if name in _EXPERTS or _ONE_EXPERT.fullmatch(name):
        return "experts"
    if name.startswith(_BESIDE):
        return "beside"
    if name in _LEFT or not is_projection(name, tensor):
        return "gates"
    if name in _SHARED or (sparse and name in _DENSE):
        return "shared"
    return "dense" if name in _DENSE else "attention"
