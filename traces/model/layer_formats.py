"""Formats of the parts of a model whose layers are not all stored alike, as files of GGUF have them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace

from traces.errors import InvalidInput
from traces.model.dtypes import Dtype

BY_LAYER = ("attention", "dense", "shared", "experts")
"""Parts that layers have."""


@dataclass(frozen=True, slots=True)
class LayerFormats:
    """The format of each part by layer of the decoder, (n_layers,) each; empty: every layer has that of the model.

    A layer without the part has any format there.
    """

    attention: tuple[Dtype, ...] = ()
    dense: tuple[Dtype, ...] = ()
    shared: tuple[Dtype, ...] = ()
    experts: tuple[Dtype, ...] = ()

    def check(self, n_layers: int) -> None:
        """Raise `InvalidInput` for formats of another number of layers."""
        for field in fields(self):
            n = len(getattr(self, field.name))
            if n not in (0, n_layers):
                raise InvalidInput(
                    f"layer_formats: {field.name} of {n} layers, expected {n_layers}, all of the decoder, or none"
                )

    def without(self, parts: Iterable[str]) -> LayerFormats:
        """The same, `parts` having the format of the model in every layer."""
        return replace(self, **{part: () for part in parts if part in BY_LAYER})

    def known(self) -> LayerFormats | None:
        """This, or None where every layer has the formats of the model."""
        return self if self != LayerFormats() else None

    @classmethod
    def of(cls, layers: Mapping[str, Sequence[Dtype | None]]) -> LayerFormats:
        """Of `layers` by part, None where a layer has none of it, those parts whose layers differ."""
        found: dict[str, tuple[Dtype, ...]] = {}
        for part, by_layer in layers.items():
            there = [one for one in by_layer if one is not None]
            if len(set(there)) > 1:
                found[part] = tuple(one or there[0] for one in by_layer)
        return cls(**found)
