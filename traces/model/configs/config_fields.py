"""Fields of a `config.json` under the names that different families give them."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from traces.errors import InvalidFile
from traces.model.configs.class_defaults import assumed
from traces.model.configs.field_names import NAMES

_TEXT_MODELS = ("text_config", "llm_config", "language_config", "thinker_config", "language_model", "text_model_config")
_NESTED = ("ffn_config", "attn_config", "moe_config", "moe", "sparse_attention_config")


def text_model(config: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    """The language model in the configuration of a multimodal one, however deep; the configuration itself otherwise.

    Raises `InvalidFile` where a key that holds one is no mapping.
    """
    for key in _TEXT_MODELS:
        inner = config.get(key)
        if inner is not None and not isinstance(inner, dict):
            raise InvalidFile(f"{where}: {key} is not a mapping")
        if inner:
            return text_model(inner, where)
    return config


@dataclass(frozen=True, slots=True)
class Fields:
    """The text model's keys, then those of the whole document, then those of nested sections (DBRX).

    `where` is the file. A list is taken as its first item: families that may state a value a layer have them all alike
    (others are refused), or state those of another modality after. `defaults`: what the model's class assumes for keys
    that nobody states.
    """

    documents: tuple[Mapping[str, Any], ...]
    where: str
    defaults: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, text: Mapping[str, Any], whole: Mapping[str, Any], where: str) -> Fields:
        """The fields of `text`, the language model in `whole`."""
        nested = tuple(text[key] for key in _NESTED if isinstance(text.get(key), dict))
        documents = (text, *nested, *(() if whole is text else (whole,)))
        return cls(documents, where, assumed(str(text.get("model_type", whole.get("model_type"))), documents))

    def get(self, key: str) -> Any:
        """The raw value of a key, the class's where nobody states it; None where it is null, or there is none."""
        stated = (document[key] for document in self.documents if document.get(key) is not None)
        return next(stated, self.defaults.get(key))

    def _one(self, key: str) -> Any:
        """The value of a key, the first of a list. Raises `InvalidFile` where layers have values of their own."""
        value = self.get(key)
        while isinstance(value, list) and value:
            unlike = [item for item in value if item != value[0]]
            if unlike and self.get("vision_config") is None:
                stated = f"{reprlib.repr(value[0])} and {reprlib.repr(unlike[0])}"
                raise InvalidFile(
                    f"{self.where}: {key} has layers of {stated}: layers of several sizes are not modelled"
                )
            value = value[0]
        return value

    def integer(self, name: str, default: int | None = None, *, minimum: int = 0) -> int:
        """A whole number by our name of the field, or by a key. Raises `InvalidFile` when it is missing or wrong."""
        keys = NAMES.get(name, (name,))
        for key in keys:
            value = self._one(key)
            if value is None:
                continue
            if type(value) is not int:
                raise InvalidFile(f"{self.where}: {key} = {reprlib.repr(value)} is not an integer")
            if value < minimum:
                raise InvalidFile(f"{self.where}: {key} = {value} is below {minimum}")
            return value
        if default is not None:
            return default
        raise InvalidFile(
            f"{self.where}: key {keys[0]!r} is missing" + (f" (or {', '.join(keys[1:])})" if keys[1:] else "")
        )

    def flag(self, *keys: str, default: bool = False) -> bool:
        """True or false under any of `keys`. Raises `InvalidFile` for anything else."""
        for key in keys:
            value = self.get(key)
            if value is None:
                continue
            if not isinstance(value, bool):
                raise InvalidFile(f"{self.where}: {key} = {reprlib.repr(value)} is not true or false")
            return value
        return default

    def texts(self, key: str) -> list[str]:
        """A list of words; empty when absent. Raises `InvalidFile` for anything else."""
        value = self.get(key)
        if value is None:
            return []
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise InvalidFile(f"{self.where}: {key} is not a list of words")
        return value

    def integers(self, key: str) -> list[int]:
        """A list of whole numbers; empty when absent. Raises `InvalidFile` for anything else."""
        value = self.get(key)
        if value is None:
            return []
        if not isinstance(value, list) or not all(type(item) is int for item in value):
            raise InvalidFile(f"{self.where}: {key} holds something that is not an integer")
        return value

    def cut_to_layers(self, key: str, values: list[Any], n_layers: int) -> None:
        """Cut a list by layer down to `n_layers`. Raises `InvalidFile` for one that is shorter."""
        if len(values) < n_layers:
            raise InvalidFile(f"{self.where}: {key} names {len(values)} layers of {n_layers}")
        del values[n_layers:]  # some families list those of extra prediction layers after
