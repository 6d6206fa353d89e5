"""Model architectures from a Hugging Face `config.json`.

Those files hold many keys that change no shape, so keys nobody asked for are ignored here, and only here.
"""

from __future__ import annotations

import json
from pathlib import Path

from traces.documents import Section, read_text
from traces.errors import InvalidFile, InvalidInput, unknown_name
from traces.model.dtypes import DTYPES, Dtype
from traces.model.huggingface_decoder_only import DECODER_ONLY
from traces.model.huggingface_encoder_decoder import ENCODER_DECODER
from traces.model.model_architecture import ModelArchitecture

MAX_CONFIG_BYTES = 1 << 20
"""Largest config.json read (1 MiB): real ones are under 20 KiB."""

_READERS = DECODER_ONLY | ENCODER_DECODER
_TORCH_DTYPES = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}


def from_huggingface_config(path: str | Path) -> ModelArchitecture:
    """The architecture that the `config.json` at `path` describes; it is named after the folder it stands in.

    Of a multimodal model only the text model (`text_config`) is read. Raises `UnknownName` for a
    `model_type` without a reader, `InvalidFile` naming a missing or bad key.
    """
    path = Path(path)
    config = _read_json(path)
    model_type = config.text("model_type")
    if model_type not in _READERS:
        raise unknown_name("model_type", model_type, _READERS, str(path))
    shapes = config.optional_section("text_config") or config
    name = path.resolve().parent.name if path.stem == "config" else path.stem
    try:
        dtype, expert_dtype, activation_dtype = _storage_formats(config, shapes)
        return ModelArchitecture(
            name=name or model_type,
            sources=(f"{path.name}, model_type {model_type}",),
            dtype=dtype,
            expert_dtype=expert_dtype,
            activation_dtype=activation_dtype,
            **_READERS[model_type](shapes),
        )
    except InvalidInput as error:
        if str(path) in str(error):
            raise
        raise InvalidFile(f"{path}: {error}") from error


def _read_json(path: Path) -> Section:
    text = read_text(path, MAX_CONFIG_BYTES)
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidFile(f"{path}: not valid JSON ({type(error).__name__}): is this a config.json?") from error
    if not isinstance(data, dict):
        raise InvalidFile(f"{path}: expected a mapping at the top, found {type(data).__name__}")
    return Section(data, str(path))


def _storage_formats(config: Section, shapes: Section) -> tuple[Dtype, Dtype, Dtype | None]:
    """(dtype, expert_dtype, activation_dtype); a quantised model without `torch_dtype` is bf16 elsewhere."""
    quantization = config.optional_section("quantization_config")
    named = (source.text(key, "") for source in (shapes, config) for key in ("dtype", "torch_dtype"))
    torch_dtype = next((name for name in named if name), "float32" if quantization is None else "bfloat16")
    if torch_dtype not in _TORCH_DTYPES:
        raise unknown_name("torch_dtype", torch_dtype, _TORCH_DTYPES, config.where)
    plain = DTYPES[_TORCH_DTYPES[torch_dtype]]
    if quantization is None:
        return plain, plain, None
    method = quantization.text("quant_method")
    if method == "mxfp4":  # the experts only
        return plain, DTYPES["mxfp4"], None
    if method == "fp8":
        return DTYPES["fp8"], DTYPES["fp8"], plain
    raise InvalidFile(
        f"{quantization.where}: quant_method {method!r} is neither fp8 nor mxfp4: import the config of the "
        "unquantised model and change its dtype"
    )
