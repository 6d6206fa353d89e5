"""The parts of a model that are stored in a format each: their names, and a model with others in their place."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from traces.errors import InvalidInput, unknown_name
from traces.model.dtypes import Dtype, find_dtype, mean_dtype
from traces.model.files.llama_mixes import is_file, is_mix, mix_formats, mix_layers
from traces.model.layer_formats import BY_LAYER, LayerFormats

if TYPE_CHECKING:
    from traces.model.model_architecture import ModelArchitecture


_MATRICES = ("attention", "dense", "shared", "experts", "embedding", "head")
_REST = ("gates", "kv", "activations")
FORMAT_PARTS = (*_MATRICES, *_REST, "all")
"""What a format can be given for. `gates`: those of MoE blocks, norms and biases; `all`: every matrix, tables too.

In place of a format a part can have what a mix gives it (`q4_k_m`), and `all` the size of the whole model (`15.4GiB`).
"""

_SIZE = re.compile(r"(?P<number>\d{1,6}(\.\d{1,6})?)\s*(?P<unit>[KMGT]i?B)", re.ASCII)
_UNITS = {
    f"{prefix}{binary}B": (1024.0 if binary else 1000.0) ** power
    for power, prefix in enumerate("KMGT", start=1)
    for binary in ("", "i")
}

_OF_ACTIVATIONS = ("fp32", "bf16", "fp16", "fp8", "int8")
_FOLLOWS = {"attention": "dense", "shared": "dense", "embedding": "activations", "head": "activations",
            "gates": "activations", "kv": "activations"}  # fmt: skip
"""Whose format a part has that states none of its own."""

_FIELDS = {"attention": "attention_dtype", "dense": "dtype", "shared": "shared_dtype", "experts": "expert_dtype",
           "embedding": "embedding_dtype", "head": "head_dtype", "gates": "gate_dtype", "kv": "kv_dtype",
           "activations": "activation_dtype"}  # fmt: skip


def parse_formats(text: str | None) -> dict[str, str]:
    """`experts=q4_k,attention=q8_0` as a mapping. Raises `InvalidInput` for other text, `UnknownName` for a part."""
    formats: dict[str, str] = {}
    for word in (text or "").split(","):
        part, separator, name = (piece.strip() for piece in word.partition("="))
        if not part and not separator and not text:
            continue
        if not part or not name:
            raise InvalidInput(f"--formats {text!r}: {word.strip()!r} is not PART=FORMAT, such as experts=q4_k")
        if part in formats:
            raise InvalidInput(f"--formats {text!r}: {part} is given twice")
        formats[part] = name
    check_formats(formats, "--formats")
    return formats


def check_formats(formats: Mapping[str, str], where: str) -> None:
    """Raise `UnknownName` for a part or a format that is none, `InvalidInput` for one that the part cannot have."""
    if not isinstance(formats, Mapping):
        raise InvalidInput(f"{where} = {formats!r} is no mapping of parts to formats, such as {{'experts': 'q4_k'}}")
    for part, name in formats.items():
        if part not in FORMAT_PARTS:
            raise unknown_name("part of a model", part, FORMAT_PARTS, where)
        if not isinstance(name, str):
            raise InvalidInput(f"{where}: {part} = {name!r} is not the name of a format, such as q4_k")
        if part == "all" and _size(name) is not None:
            continue
        if is_mix(name) and part not in ("kv", "activations"):
            continue
        stored = find_dtype(name, where)
        if part == "activations" and stored.name not in _OF_ACTIVATIONS:
            raise InvalidInput(f"{where}: activations={name}: one of {', '.join(_OF_ACTIVATIONS)}, weights may be any")


def _size(text: str) -> float | None:
    """Bytes, of text that is a size; None for other text."""
    match = _SIZE.fullmatch(text.strip())
    return None if match is None else float(match["number"]) * _UNITS[match["unit"]]


def _stated(model: ModelArchitecture, formats: Mapping[str, str]) -> dict[str, Dtype]:
    """The format of each part that is named, or that `all` stands for."""
    named = {part: _form(model, part, name) for part, name in formats.items() if part != "all"}
    name = formats.get("all")
    if name is None:
        return named
    if (n_bytes := _size(name)) is not None:
        return dict.fromkeys(_MATRICES, _mean_of_rest(model, named, n_bytes, name)) | named
    if is_file(name):
        return mix_formats(model, name) | named
    stored = find_dtype(name)
    wide = stored.bits >= 16 and stored.name in _OF_ACTIVATIONS
    return dict.fromkeys((*_MATRICES, *(_REST if wide else ())), stored) | named


def _form(model: ModelArchitecture, part: str, name: str) -> Dtype:
    return mix_formats(model, name)[part] if is_mix(name) else find_dtype(name)


def _mean_of_rest(model: ModelArchitecture, named: Mapping[str, Dtype], n_bytes: float, text: str) -> Dtype:
    """The mean format of the matrices that are not `named`, in a model of `n_bytes` in all."""
    params = model.matrix_params
    rest = sum(n for part, n in params.items() if part not in named)
    given = sum(n * named[part].bytes_per_param for part, n in params.items() if part in named)
    given += (model.total_params - sum(params.values())) * named.get("gates", model.stored_gate_dtype).bytes_per_param
    bits = 8 * (n_bytes - given) / rest if rest else 0.0
    if not 0.5 <= bits <= 32:
        low, high = ((given + rest * width / 8) / 2**30 for width in (0.5, 32))
        raise InvalidInput(
            f"{model.name}: all={text} leaves {bits:.3g} bits a weight for {rest} weights: expected {low:.4g} to "
            f"{high:.4g} GiB"
        )
    return mean_dtype(bits)


def _layer_formats(
    model: ModelArchitecture, formats: Mapping[str, str], stated: Mapping[str, Dtype]
) -> LayerFormats | None:
    """Formats by layer: of parts that a mix is given for as it has them, of other parts that are `stated` none."""
    mixed: dict[str, list[Dtype | None]] = {}
    for part in BY_LAYER:
        name = formats.get(part, formats.get("all", ""))
        if part in stated and (is_mix(name) if part in formats else is_file(name)):
            mixed[part] = mix_layers(model, name).get(part, [])
    kept = (model.layer_formats or LayerFormats()).without(stated)
    found = LayerFormats.of(mixed)
    return replace(kept, **{part: getattr(found, part) for part in mixed}).known()


def formats_of(model: ModelArchitecture) -> dict[str, Dtype]:
    """The format of each part, `all` apart."""
    return {
        "attention": model.stored_attention_dtype,
        "dense": model.dtype,
        "shared": model.stored_shared_dtype,
        "experts": model.expert_dtype,
        "embedding": model.stored_embedding_dtype,
        "head": model.stored_head_dtype,
        "gates": model.stored_gate_dtype,
        "kv": model.stored_kv_dtype,
        "activations": model.stored_activation_dtype,
    }


def changed_formats(model: ModelArchitecture, formats: Mapping[str, str]) -> dict[str, Any]:
    """Fields of `model` for the parts in other formats; every other part is stored as it was.

    Where `all` is of 16 bits and more, what is no matrix follows it, as in a checkpoint of that format. Raises
    `UnknownName` or `InvalidInput`.
    """
    check_formats(formats, "formats")
    if not formats:
        return {}
    stated = _stated(model, formats)
    if model.tied_embeddings:
        if {"head", "embedding"} <= formats.keys() and stated["head"] != stated["embedding"]:
            raise InvalidInput(f"{model.name}: the head is the input table (tied): give both one format")
        if "head" in formats:
            stated["embedding"] = stated["head"]
    now = formats_of(model) | stated
    fields: dict[str, Any] = {}
    for part, field in _FIELDS.items():
        followed = _FOLLOWS.get(part)
        fields[field] = None if followed is not None and now[part] == now[followed] else now[part]
    fields["layer_formats"] = _layer_formats(model, formats, stated)
    if now["activations"] == now["dense"] and now["dense"].bits >= 16:
        fields["activation_dtype"] = None
    return fields
