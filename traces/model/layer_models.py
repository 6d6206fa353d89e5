"""A model as each of its layers has it: the formats of that layer in place of those of all."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import Any

from traces.foundation.memoised_values import ByIdentity
from traces.model.model_architecture import ModelArchitecture

_FIELDS = {"attention": "attention_dtype", "dense": "dtype", "shared": "shared_dtype", "experts": "expert_dtype"}


def models_by_layer(model: ModelArchitecture) -> tuple[ModelArchitecture, ...]:
    """By layer of the decoder the model whose every layer is stored as that one: layers alike share one object, and all
    of them `model` where none differs.
    """
    return _models(ByIdentity(model))


def models_by_moe_layer(model: ModelArchitecture) -> tuple[ModelArchitecture, ...]:
    """The same by MoE layer, those of an encoder first."""
    models = models_by_layer(model)
    return (model,) * model.n_encoder_moe_layers + tuple(models[layer] for layer in model.decoder.moe_layers)


def layer_expert_bytes(model: ModelArchitecture) -> tuple[int, ...]:
    """Bytes of one expert by MoE layer, those of an encoder first."""
    return _expert_bytes(ByIdentity(model))


@lru_cache(16)
def _expert_bytes(of: ByIdentity) -> tuple[int, ...]:
    return tuple(one.expert_bytes for one in models_by_moe_layer(of.one))


@lru_cache(16)
def _models(of: ByIdentity) -> tuple[ModelArchitecture, ...]:
    model: ModelArchitecture = of.one
    formats, n_layers = model.layer_formats, model.decoder.n_layers
    if formats is None:
        return (model,) * n_layers
    told = {field: getattr(formats, part) for part, field in _FIELDS.items() if getattr(formats, part)}
    kept: dict[tuple[Any, ...], ModelArchitecture] = {}
    # What follows the format of dense matrices where it states none keeps its own.
    alike = replace(
        model, layer_formats=None, activation_dtype=model.stored_activation_dtype,
        attention_dtype=model.stored_attention_dtype, shared_dtype=model.stored_shared_dtype,
    )  # fmt: skip
    found = []
    for layer in range(n_layers):
        key = tuple(by_layer[layer] for by_layer in told.values())
        if key not in kept:
            kept[key] = replace(alike, **dict(zip(told, key, strict=True)))
        found.append(kept[key])
    return tuple(found)
