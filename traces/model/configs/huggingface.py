"""Model architectures from a Hugging Face `config.json`.

Those files hold many keys that change no shape, so keys nobody asked for are ignored here, and only here.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from traces.errors import InvalidFile, InvalidInput
from traces.foundation.documents import Section, read_text
from traces.model.configs.class_defaults import of_class
from traces.model.configs.config_decoder import CHECKED, decoder_only
from traces.model.configs.config_fields import Fields, text_model
from traces.model.configs.config_formats import stored_formats
from traces.model.configs.config_unread import refuse_unread, unread_notes
from traces.model.configs.field_names import NAMES
from traces.model.configs.huggingface_encoder_decoder import ENCODER_DECODER
from traces.model.configs.index_size import held_against_index
from traces.model.configs.makers_files import in_common_names
from traces.model.model_architecture import ModelArchitecture

MAX_CONFIG_BYTES = 16 << 20
"""Largest config.json read (16 MiB): real ones that list every module of a quantised model have 3 MB."""

_MIN_EXPERTS = 2


def config_in(folder: Path) -> Path:
    """The `config.json` of a model's folder. Raises `InvalidFile` where there is none."""
    if not (folder / "config.json").is_file():
        raise InvalidFile(f"{folder}: no config.json in it: give the folder of a Hugging Face model")
    return folder / "config.json"


def from_huggingface_config(path: str | Path) -> ModelArchitecture:
    """The architecture that the `config.json` at `path` describes; it is named after the folder it stands in.

    Of a multimodal model only the language model is read. Files beside it may say how its weights are quantised. Raises
    `InvalidFile` naming a missing or bad key, or saying that the model is dense.
    """
    path = Path(path)
    whole = in_common_names(_read_json(path), CHECKED)
    text = text_model(whole, str(path))
    model_type = _model_type(text, whole, path)
    fields = Fields.of(text, whole, str(path))
    folder = Path(os.path.abspath(path)).parent  # a cache's links lead to where nothing is called by its name
    name = _name_of(folder) if path.stem == "config" else path.stem
    try:
        if model_type in ENCODER_DECODER:
            shapes = ENCODER_DECODER[model_type](Section(dict(whole), str(path)))
        else:
            _require_experts(fields, model_type)
            refuse_unread(fields, checked=model_type in CHECKED)
            shapes = decoder_only(fields, model_type)
        formats = stored_formats(whole, text, shapes["decoder"], folder, str(path))
        model = ModelArchitecture(
            name=name or model_type,
            sources=(f"{path.name}, model_type {model_type}",),
            **_noted(formats, fields, model_type),
            **shapes,
        )
        more = held_against_index(folder, model.total_bytes, str(path))
        return dataclasses.replace(model, note="; ".join(filter(None, (model.note, more)))) if more else model
    except InvalidInput as error:
        if str(path) in str(error):
            raise
        raise InvalidFile(f"{path}: {error}") from error


def _name_of(folder: Path) -> str:
    """What a folder is called, or of which model it is a snapshot in a cache of Hugging Face."""
    of_cache = folder.parents[1].name if folder.parent.name == "snapshots" else ""
    return of_cache.rpartition("--")[2] if of_cache.startswith("models--") else folder.name


def _noted(formats: dict[str, Any], fields: Fields, model_type: str) -> dict[str, Any]:
    """The formats, with a note of what is not stated, and where nobody has checked what the fields of a type give."""
    notes = [formats.get("note", "")]
    if fields.defaults and model_type not in ENCODER_DECODER:
        taken = ", ".join(f"{key} = {value}" for key, value in fields.defaults.items())
        notes.append(f"not stated, so as the class of {model_type} assumes: {taken}")
    if model_type not in CHECKED and model_type not in ENCODER_DECODER:
        notes.append(f"{model_type} is read by its fields; no count of this type was checked")
    if model_type not in ENCODER_DECODER:
        notes += unread_notes(fields, checked=model_type in CHECKED)
    return formats | {"note": "; ".join(filter(None, notes))}


def _read_json(path: Path) -> dict[str, Any]:
    text = read_text(path, MAX_CONFIG_BYTES)
    try:
        data = json.loads(text, object_pairs_hook=lambda pairs: _object(pairs, path))
    except InvalidFile:
        raise
    except (ValueError, RecursionError) as error:
        line = ""
        if isinstance(error, json.JSONDecodeError):
            line = f" at line {error.lineno}" + ("" if text[error.pos :].strip() else ", where the file ends early")
        raise InvalidFile(
            f"{path}: not valid JSON{line} ({type(error).__name__}): is this a whole config.json?"
        ) from error
    if not isinstance(data, dict):
        raise InvalidFile(f"{path}: expected a mapping at the top, found {type(data).__name__}")
    return data


def _object(pairs: list[tuple[str, Any]], path: Path) -> dict[str, Any]:
    """One object of the file. Raises `InvalidFile` for a key stated twice with two values."""
    made: dict[str, Any] = {}
    for key, value in pairs:
        if key in made and made[key] != value:
            raise InvalidFile(f"{path}: {key[:60]} is stated twice, with two values: keep one")
        made[key] = value
    return made


def _model_type(text: Mapping[str, Any], whole: Mapping[str, Any], path: Path) -> str:
    """The type that the language model states, or the whole where that states none."""
    for document in (text, whole):
        found = document.get("model_type")
        if isinstance(found, str) and found:
            return f"{found}_text" if document is not text and f"{found}_text" in CHECKED else of_class(found)
        if found is not None:
            raise InvalidFile(f"{path}: model_type is not text")
    raise InvalidFile(f"{path}: key 'model_type' is missing: is this a model's config.json? Then state its type")


_ENCODERS = ("openai_privacy_filter", "nomic_bert")
"""Models with experts that read a text as a whole, and generate none."""
_OF_NO_TEXT = ("ForTokenClassification", "ForMaskedLM", "ForQuestionAnswering")


def _require_experts(fields: Fields, model_type: str) -> None:
    """Raise `InvalidFile` for a model without experts, or that generates no tokens."""
    stated = fields.get("is_moe")
    made = fields.get("architectures")
    classes = [name for name in (made if isinstance(made, list) else ()) if str(name).endswith(_OF_NO_TEXT)]
    if model_type in _ENCODERS or classes:
        named = f" ({str(classes[0])[:60]})" if classes else ""
        raise InvalidFile(
            f"{fields.where}: a {model_type} model{named} labels or embeds tokens of a text and generates none: take "
            f"a decoder, or an encoder with one"
        )
    dense = (
        f"{fields.where}: a {model_type} model is dense, it has no experts to offload: take a Mixture-of-Experts model"
    )
    if model_type == "doge" and stated is True:
        raise InvalidFile(
            f"{fields.where}: the experts of doge are single rows of two tables, looked up by product keys: "
            "there is no expert to fetch, so it is not modelled"
        )
    off = any(fields.get(key) is False for key in ("enable_moe_block", "use_moe", "moe", "moe_enable", "enable_moe"))
    if stated is False or off or (model_type == "doge" and stated is None):
        raise InvalidFile(dense)
    for key in NAMES["n_experts"]:
        value = fields.get(key)
        value = value[0] if isinstance(value, list) and value else value
        if type(value) is int and value >= _MIN_EXPERTS:
            return
        if value is not None and type(value) is not int:
            raise InvalidFile(f"{fields.where}: {key} = {str(value)[:40]!r} is not an integer")
    if any(fields.get(key) is not None for key in NAMES["top_k"]):
        first, *others = NAMES["n_experts"]
        raise InvalidFile(f"{fields.where}: key {first!r} is missing (or {', '.join(others)})")
    unread = sorted({key for document in fields.documents for key, value in document.items() if _counts(key, value)})
    if unread:
        raise InvalidFile(
            f"{fields.where}: {', '.join(unread)[:200]} speak of experts, but no key read here says how many: "
            f"state {', '.join(NAMES['n_experts'])}"
        )
    if model_type in CHECKED and stated is None and not any(fields.get(key) is not None for key in NAMES["n_experts"]):
        first, *others = NAMES["n_experts"]
        raise InvalidFile(f"{fields.where}: key {first!r} is missing (or {', '.join(others)})")
    raise InvalidFile(dense)


def _counts(key: str, value: Any) -> bool:
    """Whether a key states a number of experts, under a name that is not read."""
    words = set(key.lower().split("_"))
    known = key in NAMES["n_experts"]
    return bool(words & {"expert", "experts", "moe"}) and type(value) is int and value >= _MIN_EXPERTS and not known
