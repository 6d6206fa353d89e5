"""The parts of a model that are stored in a format each: their names, and a model with others in their place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from traces.errors import InvalidInput, unknown_name
from traces.model.dtypes import Dtype, find_dtype

if TYPE_CHECKING:
    from traces.model.model_architecture import ModelArchitecture

__all__ = ["FORMAT_PARTS", "changed_formats", "check_formats", "formats_of", "parse_formats"]

_MATRICES = ("attention", "dense", "shared", "experts", "embedding", "head")
_REST = ("gates", "kv", "activations")
FORMAT_PARTS = (*_MATRICES, *_REST, "all")
"""What a format can be given for. `gates`: those of MoE blocks, norms and biases; `all`: every matrix, tables too."""

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


def check_formats(formats: Mapping[str, str], where: str) -> dict[str, Dtype]:
    """The formats by part. Raises `UnknownName` for a part or a format that is none."""
    found: dict[str, Dtype] = {}
    for part, name in formats.items():
        if part not in FORMAT_PARTS:
            raise unknown_name("part of a model", part, FORMAT_PARTS, where)
        if not isinstance(name, str):
            raise InvalidInput(f"{where}: {part} = {name!r} is not the name of a format, such as q4_k")
        found[part] = find_dtype(name, where)
        if part == "activations" and found[part].name not in _OF_ACTIVATIONS:
            raise InvalidInput(f"{where}: activations={name}: one of {', '.join(_OF_ACTIVATIONS)}, weights may be any")
    return found


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
    asked = check_formats(formats, "formats")
    if not asked:
        return {}
    stated = {part: form for part, form in asked.items() if part != "all"}
    if "all" in asked:
        wide = asked["all"].bits >= 16 and asked["all"].name in _OF_ACTIVATIONS
        stated = dict.fromkeys((*_MATRICES, *(_REST if wide else ())), asked["all"]) | stated
    if model.tied_embeddings:
        if {"head", "embedding"} <= asked.keys() and asked["head"] != asked["embedding"]:
            raise InvalidInput(f"{model.name}: the head is the input table (tied): give both one format")
        if "head" in asked:
            stated["embedding"] = asked["head"]
    now = formats_of(model) | stated
    fields: dict[str, Any] = {}
    for part, field in _FIELDS.items():
        followed = _FOLLOWS.get(part)
        fields[field] = None if followed is not None and now[part] == now[followed] else now[part]
    if now["activations"] == now["dense"] and now["dense"].bits >= 16:
        fields["activation_dtype"] = None
    return fields
