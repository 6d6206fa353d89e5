"""How a checkpoint stores its weights, from its `config.json` and the files beside it, by part of the model.

Quantisation is described in `quantization_config` (transformers), in `hf_quant_config.json` beside it (NVIDIA
ModelOpt), in `quantize_config.json` or `quant_config.json` (older GPTQ, AWQ), or under `quantization` (MLX). Modules
that are excluded keep the format of the activations.
"""

from __future__ import annotations

import fnmatch
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from traces.documents import read_text
from traces.errors import InvalidFile, unknown_name
from traces.model.dtypes import DTYPES, Dtype, find_dtype
from traces.model.layer_stack import LayerStack
from traces.model.quantisation_methods import method_name, own_formats, weight_format

__all__ = ["StoredFormats", "stored_formats"]

MAX_SIDE_FILE_BYTES = 16 << 20
_SIDE_FILES = ("hf_quant_config.json", "quantize_config.json", "quant_config.json", "quantization_config.json")
_PLAIN = {
    "float32": "fp32", "float": "fp32", "float16": "fp16", "half": "fp16", "bfloat16": "bf16", "float64": "fp32",
    "float8_e4m3fn": "fp8", "float8_e5m2": "fp8",
}  # fmt: skip

StoredFormats = dict[str, Any]
"""Fields of `ModelArchitecture` that say how it is stored, and `note`."""

_PARTS: dict[str, tuple[str, ...]] = {
    "experts": (
        "model.layers.3.mlp.experts.0.up_proj", "model.layers.3.mlp.experts.7.down_proj",
        "model.layers.3.block_sparse_moe.experts.0.w1",
    ),
    "shared": ("model.layers.3.mlp.shared_experts.up_proj", "model.layers.3.mlp.shared_expert.up_proj"),
    "dense": ("model.layers.0.mlp.up_proj", "model.layers.1.mlp.gate_proj"),
    "attention": ("model.layers.3.self_attn.q_proj", "model.layers.3.self_attn.o_proj"),
}  # fmt: skip
"""Modules that stand for a part: it is excluded when one of them is, under any of the prefixes of multimodal models."""

_GATED = ("gate_proj", "up_proj", "down_proj")
_FAMILIES: dict[tuple[str, ...], tuple[tuple[str, ...], ...]] = {
    _PARTS["experts"]: (
        tuple(f"mlp.experts.0.{name}" for name in _GATED), tuple(f"mlp.switch_mlp.{name}" for name in _GATED),
        tuple(f"block_sparse_moe.experts.0.{name}" for name in ("w1", "w2", "w3")),
        tuple(f"block_sparse_moe.switch_mlp.{name}" for name in _GATED),
    ),
    _PARTS["shared"]: tuple(
        tuple(f"mlp.{stem}.{name}" for name in _GATED) for stem in ("shared_experts", "shared_expert")
    ),
    _PARTS["dense"]: (tuple(f"mlp.{name}" for name in _GATED),),
    _PARTS["attention"]: (
        tuple(f"self_attn.{name}_proj" for name in "qkvo"),
        ("self_attn.q_b_proj", "self_attn.kv_a_proj_with_mqa", "self_attn.kv_b_proj", "self_attn.o_proj"),
    ),
}  # fmt: skip
"""The matrices of a part in a layer, by the names of each family of models."""


def stored_formats(
    config: Mapping[str, Any], shapes: Mapping[str, Any], stack: LayerStack, folder: Path, where: str
) -> StoredFormats:
    """Formats by part. `config`: the whole document; `shapes`: the text model in it. Raises `InvalidFile`."""
    quantisation, source = _quantisation(config, shapes, folder, where)
    plain, note = _plain_format(config, shapes, quantisation is not None, where)
    if quantisation is None:
        return {"dtype": plain, "expert_dtype": plain, "note": note}
    if plain.bits < 16:
        plain = DTYPES["bf16"]
    scheme = _scheme(quantisation, stack, f"{where}: {source}")
    parts = {part: scheme(names) or plain for part, names in _PARTS.items()}
    fields: StoredFormats = {
        "dtype": parts["dense"],
        "expert_dtype": parts["experts"],
        "attention_dtype": parts["attention"],
        "shared_dtype": parts["shared"],
        "activation_dtype": plain,
        "kv_dtype": _kv_format(quantisation),
        **_tables(quantisation, f"{where}: {source}"),
        "note": note,
    }
    for part in ("attention_dtype", "shared_dtype", "activation_dtype"):
        if fields[part] == fields["dtype"]:
            fields[part] = None
    return fields


def _tables(quantisation: Mapping[str, Any], where: str) -> dict[str, Dtype]:
    """The formats of input table and head where converted: MLX both, EXL the head by `head_bits`, GPTQ if stated."""
    method = method_name(quantisation)
    if method == "exl" and quantisation.get("head_bits") is not None:
        return {"head_dtype": weight_format(method, {"bits": quantisation["head_bits"]}, where)}
    if method == "gptq" and quantisation.get("lm_head") is True:
        return {"head_dtype": weight_format(method, quantisation, where)}
    if method != "mlx":
        return {}
    stored = weight_format(method, quantisation, where)
    own = {_from_layers(name).rpartition("model.")[2]: form for name, form in own_formats(method, quantisation, where)}
    found = {"embedding_dtype": own.get("embed_tokens", stored), "head_dtype": own.get("lm_head", stored)}
    return {key: form for key, form in found.items() if form is not None}


def _quantisation(
    config: Mapping[str, Any], shapes: Mapping[str, Any], folder: Path, where: str
) -> tuple[dict[str, Any] | None, str]:
    """The description of the quantisation, and where it stood; a side file counts where the configuration has none."""
    for document in (config, shapes):
        for key in ("quantization_config", "compression_config", "quantization"):
            found = document.get(key)
            if found is not None and not isinstance(found, dict):
                raise InvalidFile(f"{where}: {key} is not a mapping")
            if found:
                return dict(found, **({"quant_method": "mlx"} if key == "quantization" else {})), key
    for name in _SIDE_FILES:
        path = folder / name
        if path.is_file():
            try:
                data = json.loads(read_text(path, MAX_SIDE_FILE_BYTES))
            except (ValueError, RecursionError) as error:
                raise InvalidFile(
                    f"{path}: not valid JSON ({type(error).__name__}): complete it, or move it away"
                ) from None
            if isinstance(data, dict) and data:
                inner = data.get("quantization", data)
                if not isinstance(inner, dict):
                    raise InvalidFile(f"{path}: quantization is not a mapping")
                method = "modelopt" if name == "hf_quant_config.json" else "awq" if "w_bit" in data else "gptq"
                return {"quant_method": method, **inner}, name
    return None, ""


def _plain_format(
    config: Mapping[str, Any], shapes: Mapping[str, Any], quantised: bool, where: str
) -> tuple[Dtype, str]:
    """The format of what is not quantised; bf16, with a note, where nothing states one."""
    for document in (shapes, config):
        for key in ("dtype", "torch_dtype"):
            name = document.get(key)
            if name is None or name == "auto":
                continue
            if not isinstance(name, str):
                raise InvalidFile(f"{where}: {key} = {name!r} is not text")
            name = name.removeprefix("torch.")
            if name not in _PLAIN:
                raise unknown_name(key, name, _PLAIN, where)
            return DTYPES[_PLAIN[name]], ""
    return DTYPES["bf16"], "" if quantised else "no dtype is stated: bf16 assumed, as published checkpoints are"


def _kv_format(quantisation: Mapping[str, Any]) -> Dtype | None:
    """The format of the KV cache where the checkpoint states one."""
    scheme = quantisation.get("kv_cache_scheme")
    name = quantisation.get("kv_cache_quant_algo")
    if isinstance(scheme, dict) and scheme.get("num_bits") == 8:
        return DTYPES["fp8" if scheme.get("type", "float") == "float" else "int8"]
    if isinstance(name, str) and name:
        return DTYPES.get({"FP8": "fp8", "INT8": "int8", "NVFP4": "nvfp4"}.get(name.upper(), ""))
    return None


Scheme = Callable[[tuple[str, ...]], Dtype | None]
"""The format of a part by the modules that stand for it; None: it is not quantised."""


def _scheme(quantisation: Mapping[str, Any], stack: LayerStack, where: str) -> Scheme:
    method = method_name(quantisation)
    excluded = _excluded(quantisation)
    if method == "compressed-tensors":
        return _compressed_tensors(quantisation, excluded, where)
    if method == "mxfp4":  # the experts only
        packed = DTYPES["mxfp4"]
        return lambda names: packed if names is _PARTS["experts"] and not _hits(excluded, names) else None
    if method in ("modelopt", "modelopt-fp4", "modelopt-mixed", "nvfp4"):
        return _modelopt(quantisation, excluded, where)
    stored = weight_format(method, quantisation, where)
    own = own_formats(method, quantisation, where)
    of_layers = [name for name in excluded if re.search(r"layers\.\d", name) and not _is_pattern(name)]
    own += [(name, None) for name in of_layers]
    if own:
        general = [name for name in excluded if name not in set(of_layers)]
        return lambda names: None if _hits(general, names) else _mean_format(names, own, stored, stack)
    return lambda names: None if _hits(excluded, names) else stored


def _mean_format(
    names: tuple[str, ...], own: list[tuple[str, Dtype | None]], stored: Dtype, stack: LayerStack
) -> Dtype | None:
    """The format of a part some modules of which have their own: that of all, or their mean bits by layer and matrix.

    From 8 bits on the format of the most. `own`: patterns and formats, None where a module is not converted; `stored`:
    the format of the rest.
    """
    exact = {_from_layers(pattern): form for pattern, form in own if not _is_pattern(pattern)}
    patterns = [(pattern, form) for pattern, form in own if _is_pattern(pattern)]
    sparse = set(stack.moe_layers)
    layers = list(range(stack.n_layers))
    if names != _PARTS["attention"]:
        layers = [layer for layer in layers if (layer in sparse) != (names == _PARTS["dense"])]
    found: list[Dtype | None] = [stored]
    for family in _FAMILIES[names]:
        modules = [f"layers.{layer}.{name}" for layer in layers for name in family]
        found = [_own_format(module, exact, patterns, stored) for module in modules] or [stored]
        if set(found) != {stored}:
            break
    if len(set(found)) == 1:
        return found[0]
    bits = sum(16.0 if form is None else form.bits for form in found) / len(found)
    return find_dtype(f"w{round(bits, 3):g}") if bits < 8 else None if found.count(None) * 2 >= len(found) else stored


def _own_format(
    module: str, exact: Mapping[str, Dtype | None], patterns: list[tuple[str, Dtype | None]], stored: Dtype
) -> Dtype | None:
    """The format of one module: by its name or that of what it stands in, by the first pattern, or that of the rest."""
    name = module
    while name:
        if name in exact:
            return exact[name]
        name = name.rpartition(".")[0]
    return next((form for pattern, form in patterns if _means(pattern, f"model.{module}")), stored)


def _is_pattern(pattern: str) -> bool:
    return pattern.startswith("re:") or "*" in pattern


def _from_layers(name: str) -> str:
    """A module's name from `layers.` on, as prefixes differ."""
    name = re.sub(r"^.*?(?=layers\.\d)", "", name).rstrip(".")
    return re.sub(r"\.(weight|weight_scale_inv|weight_scale)$", "", name)


_MODELOPT = {
    "NVFP4": "nvfp4", "NVFP4_AWQ": "nvfp4", "W4A16_NVFP4": "nvfp4", "W4A8_NVFP4_FP8": "nvfp4",
    "MXFP4": "mxfp4", "W4A16_MXFP4": "mxfp4", "W4A8_MXFP4_FP8": "mxfp4", "MXFP8": "mxfp8",
    "FP8": "fp8", "FP8_PB_WO": "fp8", "FP8_PER_CHANNEL_PER_TOKEN": "fp8", "FP8_PB_REAL": "fp8",
    "W4A16_AWQ": "int4-g128", "W4A8_AWQ": "int4-g128", "INT4_AWQ": "int4-g128", "W8A16": "int8", "W8A8_SQ": "int8",
}  # fmt: skip
"""Algorithms of NVIDIA ModelOpt by the format of their weights."""


def _modelopt(quantisation: Mapping[str, Any], excluded: list[str], where: str) -> Scheme:
    """NVIDIA ModelOpt: one algorithm for all that is not excluded, or one a layer."""
    layers = quantisation.get("quantized_layers")
    if isinstance(layers, dict) and layers:
        named = {str(name): item for name, item in layers.items() if isinstance(item, dict)}

        def of_layer(names: tuple[str, ...]) -> Dtype | None:
            for name, item in named.items():
                if any(_alike(name, module) for module in names):
                    return _algorithm(item.get("quant_algo"), where)
            return None

        return of_layer
    stored = _algorithm(quantisation.get("quant_algo") or _group_format(quantisation), where)
    return lambda names: None if stored is None or _hits(excluded, names) else stored


def _algorithm(name: Any, where: str) -> Dtype | None:
    if name is None or str(name).upper() in ("NONE", "NO_QUANT"):
        return None
    if str(name).upper() not in _MODELOPT:
        raise InvalidFile(f"{where}: quant_algo {str(name)[:40]!r} is not read: give the format with --dtype")
    return find_dtype(_MODELOPT[str(name).upper()])


def _group_format(quantisation: Mapping[str, Any]) -> str | None:
    """The algorithm by the bits of the first group, as newer ModelOpt states them."""
    groups = quantisation.get("config_groups")
    if not isinstance(groups, dict) or not groups:
        return None
    first = next(iter(groups.values()))
    weights = first.get("weights") if isinstance(first, dict) else None
    bits = weights.get("num_bits") if isinstance(weights, dict) else None
    return {4: "NVFP4", 8: "FP8"}.get(bits) if isinstance(bits, int) else None


def _compressed_tensors(quantisation: Mapping[str, Any], excluded: list[str], where: str) -> Scheme:
    """vLLM compressed-tensors: groups of modules, by class or by name, each with its weights' format."""
    groups = quantisation.get("config_groups")
    if not isinstance(groups, dict) or not groups:
        raise InvalidFile(f"{where}: config_groups is missing: take the unquantised config.json and give --dtype")
    read = []
    for name, group in groups.items():
        weights = group.get("weights") if isinstance(group, dict) else None
        targets = group.get("targets") if isinstance(group, dict) else None
        if not isinstance(weights, dict) or not isinstance(targets, list):
            raise InvalidFile(f"{where}: config_groups: {name} has no targets, or no weights")
        read.append(([str(target) for target in targets], _tensor_format(weights, str(group.get("format", "")), where)))

    def scheme(names: tuple[str, ...]) -> Dtype | None:
        if _hits(excluded, names):
            return None
        by_name = [stored for targets, stored in read if _hits([t for t in targets if t != "Linear"], names)]
        by_class = [stored for targets, stored in read if "Linear" in targets]
        found = [*by_name, *by_class]
        return found[0] if found else None

    return scheme


def _tensor_format(weights: Mapping[str, Any], form: str, where: str) -> Dtype:
    bits, group = weights.get("num_bits"), weights.get("group_size")
    if weights.get("type") == "float":
        if bits == 4:
            return DTYPES["mxfp4" if group == 32 else "nvfp4"]
        if bits == 8:
            return DTYPES["mxfp8" if group == 32 else "fp8"]
    elif isinstance(bits, int) and 1 <= bits <= 8:
        if bits == 8 and not group:
            return DTYPES["int8"]
        zero = "" if weights.get("symmetric", True) else "-zp"
        size = group if isinstance(group, int) and group > 0 else 1 << 20
        return find_dtype(f"int{bits}-g{size}{zero}", where)
    raise InvalidFile(f"{where}: weights of {bits!r} bits of type {weights.get('type')!r} are not read: give --dtype")


def _excluded(quantisation: Mapping[str, Any]) -> list[str]:
    """Patterns of modules that are not converted."""
    found: list[str] = []
    for key in (
        "modules_to_not_convert",
        "ignore",
        "exclude_modules",
        "ignored_layers",
        "exclude",
        "llm_int8_skip_modules",
        "skip_modules",
        "linear_weights_not_to_quantize",
    ):
        value = quantisation.get(key)
        if isinstance(value, list):
            found += [str(item) for item in value]
    return found


def _hits(patterns: list[str], names: tuple[str, ...]) -> bool:
    """Whether one of the patterns means one of the modules, in any of the notations that are in use."""
    return any(_means(pattern, name) for pattern in patterns for name in names)


def _means(pattern: str, name: str) -> bool:
    if pattern.startswith("re:"):
        try:
            return re.match(pattern[3:], name) is not None
        except re.error:
            return False
    if "*" in pattern:
        stem = pattern.removeprefix("language_model.")
        return fnmatch.fnmatchcase(name, stem) or fnmatch.fnmatchcase(name, f"*{stem.lstrip('*')}")
    if "layers." in pattern:
        return _alike(pattern, name) and _covers_all(pattern)
    return pattern in name.split(".") or f".{pattern}." in f".{name}."


def _covers_all(pattern: str) -> bool:
    """A name with an expert's number means that expert; one with a layer's number stands for its like in all layers."""
    return re.search(r"experts\.\d+", pattern) is None


def _alike(pattern: str, name: str) -> bool:
    """Whether two module names are the same but for the number of the layer and what stands before the layers."""
    here, there = (re.sub(r"^.*?layers\.\d+\.", "", text) for text in (pattern, name))
    here = re.sub(r"\.(weight|weight_scale_inv|weight_scale)$", "", here)
    return there == here or there.startswith(f"{here}.")
