"""How a checkpoint stores its weights, from its `config.json` and the files beside it, by part of the model.

Modules that are excluded from a quantisation keep the format of the activations.
"""

from __future__ import annotations

import re
import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from traces.errors import InvalidFile, unknown_name
from traces.model.configs.config_fields import Fields
from traces.model.configs.quantisation.module_names import from_layers
from traces.model.configs.quantisation.quantisation_files import find_quantisation
from traces.model.configs.quantisation.quantisation_methods import method_name, named_format, own_formats, weight_format
from traces.model.configs.quantisation.quantisation_scheme import part_formats
from traces.model.configs.quantisation.quantisation_scope import converted_tables
from traces.model.dtypes import DTYPES, Dtype
from traces.model.layer_stack import LayerStack

_PLAIN = {
    "float32": "fp32", "float": "fp32", "float16": "fp16", "half": "fp16", "bfloat16": "bf16", "float64": "fp32",
    "float8_e4m3fn": "fp8", "float8_e5m2": "fp8",
}  # fmt: skip

StoredFormats = dict[str, Any]
"""Fields of `ModelArchitecture` that say how it is stored, and `note`."""


def stored_formats(
    config: Mapping[str, Any], shapes: Mapping[str, Any], stack: LayerStack, folder: Path, where: str
) -> StoredFormats:
    """Formats by part. `config`: the whole document; `shapes`: the text model in it. Raises `InvalidFile`."""
    quantisation, source = find_quantisation(config, shapes, folder, where)
    plain, note = _plain_format(config, shapes, quantisation is not None, where)
    stated = _expert_format(config, shapes, quantisation or {}, where)
    if quantisation is None:
        return {"dtype": plain, "expert_dtype": stated or plain, "note": note}
    if plain.bits < 16:
        plain = DTYPES["bf16"]
    sizes = Fields.of(shapes, config, where)
    d_model, n_experts, model_type = sizes.integer("d_model"), sizes.integer("n_experts", 1), sizes.get("model_type")
    parts = part_formats(quantisation, stack, d_model, n_experts, str(model_type), plain, f"{where}: {source}")
    fields: StoredFormats = {
        "dtype": parts["dense"],
        # Of a quantisation to fewer bits than 8 the word beside it is of the checkpoint that it was made from.
        "expert_dtype": (parts["experts"].bits >= _WORD_BITS and stated) or parts["experts"],
        "attention_dtype": parts["attention"],
        "shared_dtype": parts["shared"],
        "activation_dtype": plain,
        "kv_dtype": _kv_format(quantisation),
        "table_dtype": _table_format(quantisation, sizes),
        **_tables(quantisation, f"{where}: {source}"),
        "note": note,
    }
    for part in ("attention_dtype", "shared_dtype", "activation_dtype"):
        if fields[part] == fields["dtype"]:
            fields[part] = None
    return fields


_WORD_BITS = 8
_EXPERTS = {"fp8": None, "fp4": "mxfp4", "mxfp4": "mxfp4", "nvfp4": "nvfp4"}
"""`expert_dtype` by format; None: as everything else. DeepSeek-V4 packs 4-bit floats in blocks of 32 with one scale."""


def _expert_format(
    config: Mapping[str, Any], shapes: Mapping[str, Any], quantisation: Mapping[str, Any], where: str
) -> Dtype | None:
    """The format that `expert_dtype` gives the experts, in a quantisation or beside it. Raises `InvalidFile`."""
    name = next((document["expert_dtype"] for document in (quantisation, shapes, config)
                 if document.get("expert_dtype") is not None), "fp8")  # fmt: skip
    if name not in _EXPERTS:
        raise InvalidFile(f"{where}: expert_dtype = {reprlib.repr(name)} is not read: known {', '.join(_EXPERTS)}")
    found = _EXPERTS[name]
    return None if found is None else DTYPES[found]


def _table_format(quantisation: Mapping[str, Any], sizes: Fields) -> Dtype | None:
    """The format of tables of n-grams: of DeepSeek-V4.1 rows of fp8 with a scale for each 32 numbers, of Qwen4-Exp
    fp8 with a scale a table where it is named as converted.
    """
    if method_name(quantisation) == "fp8" and converted_tables(quantisation):
        return DTYPES["fp8"]
    if method_name(quantisation) == "fp8" and sizes.integers("engram_layer_ids"):
        return DTYPES["mxfp8"]
    return None


def _tables(quantisation: Mapping[str, Any], where: str) -> dict[str, Dtype]:
    """The formats of input table and head where converted: MLX both, EXL the head by `head_bits`, GPTQ if stated, and
    ModelOpt where they stand among its `quantized_layers`.
    """
    method = method_name(quantisation)
    layers = quantisation.get("quantized_layers")
    if isinstance(layers, dict):
        named = {name.rpartition(".")[2]: item for name, item in layers.items() if not re.search(r"layers\.\d", name)}
        algorithms = {
            part: named_format(named[module].get("quant_algo"), where)
            for part, module in (("embedding_dtype", "embed_tokens"), ("head_dtype", "lm_head"))
            if isinstance(named.get(module), dict)
        }
        return {part: form for part, form in algorithms.items() if form is not None}
    if method == "exl" and quantisation.get("head_bits") is not None:
        return {"head_dtype": weight_format(method, {"bits": quantisation["head_bits"]}, where)}
    if method == "gptq" and quantisation.get("lm_head") is True:
        return {"head_dtype": weight_format(method, quantisation, where)}
    if method == "torchao" and quantisation.get("include_input_output_embeddings") is True:
        stored = weight_format(method, quantisation, where)
        return {"head_dtype": stored, "embedding_dtype": stored}
    if method != "mlx":
        return {}
    stored = weight_format(method, quantisation, where)
    own = {from_layers(name).rpartition("model.")[2]: form for name, form in own_formats(method, quantisation, where)}
    found = {"embedding_dtype": own.get("embed_tokens", stored), "head_dtype": own.get("lm_head", stored)}
    return {key: form for key, form in found.items() if form is not None}


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
    cache = str(quantisation.get("kv_cache_quant_type"))  # FastDeploy
    if cache in ("int8", "float8_e4m3fn", "block_wise_fp8"):
        return DTYPES["int8" if cache == "int8" else "fp8"]
    if quantisation.get("kv_cache_type") == "C8":  # ModelSlim
        return DTYPES["int8"]
    cached = quantisation.get("kv_cache_quant_config")  # Quark: what the projections of keys and values put out
    for item in cached.values() if isinstance(cached, dict) else ():
        outputs = item.get("output_tensors") if isinstance(item, dict) else None
        if isinstance(outputs, dict):
            return DTYPES.get({"fp8_e4m3": "fp8", "int8": "int8"}.get(str(outputs.get("dtype")), ""))
    return None
