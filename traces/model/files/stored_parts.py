"""How many weights and bytes each part of a model has in its files, and the architecture stored exactly so."""

from __future__ import annotations

import dataclasses
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from traces.errors import InvalidFile
from traces.model.dtypes import DTYPES, MAX_SHARES, Dtype, find_dtype, mean_dtype, shares_dtype
from traces.model.layer_formats import BY_LAYER, LayerFormats
from traces.model.model_architecture import ModelArchitecture

MATRICES = ("attention", "dense", "shared", "experts", "embedding", "head")
"""Parts with a format of their own; "gates" is what is left: gates, norms, biases, those of experts too."""

_SAME = 1e-3
"""Bits a weight that differ by less are of one format: a few scales a row."""
COUNTED = 1e-3
"""Share of the weights of a part, and of the bytes of a model, that may be counted and not be there."""
_MOST_LEFT = 0.05
"""Share of the bytes of a model's files that no op may read."""


@dataclass(slots=True)
class StoredParts:
    """Weights and bytes by part, summed over the tensors of `where`, and how many tensors and weights have each format.

    `stated`: what engines multiply in, where the files say so. `of_layers`: the same of each layer, where it is known.
    """

    where: str
    stated: Dtype | None = None
    n_params: Counter[str] = field(default_factory=Counter)
    n_bytes: Counter[str] = field(default_factory=Counter)
    formats: dict[str, Counter[str]] = field(default_factory=dict)
    weights: dict[str, Counter[str]] = field(default_factory=dict)
    of_layers: list[StoredParts] = field(default_factory=list)

    def add(self, part: str, n_params: int, n_bytes: int, dtype: str) -> None:
        """One tensor."""
        self.n_params[part] += n_params
        self.n_bytes[part] += n_bytes
        self.formats.setdefault(part, Counter())[dtype] += 1
        self.weights.setdefault(part, Counter())[dtype] += n_params

    @property
    def total_bytes(self) -> int:
        """Bytes of all tensors."""
        return sum(self.n_bytes.values())

    def placeholders(self) -> dict[str, Any]:
        """Formats for an architecture that is made before its own are known."""
        return {"dtype": DTYPES["fp16"], "expert_dtype": DTYPES["fp16"]}

    @property
    def activations(self) -> Dtype:
        """What engines multiply in: as stated, or bf16 where a matrix is stored so, else fp16."""
        if self.stated is not None:
            return self.stated
        wide = {"bf16"} & {name for part in MATRICES for name in self.formats.get(part, ())}
        return DTYPES["bf16" if wide else "fp16"]

    def stored(self, part: str) -> Dtype:
        """The format of a part: the one of all its tensors, the share of its weights that each has, or its mean bits a
        weight where their blocks do not make its bytes. Raises `InvalidFile`.
        """
        bits = 8 * self.n_bytes[part] / self.n_params[part]
        names = list(self.formats[part])
        known = DTYPES.keys() >= set(names)
        if len(names) == 1 and known and _agree(find_dtype(names[0]).bits, bits):
            return find_dtype(names[0])
        if not 0.5 <= bits <= 32:
            raise InvalidFile(
                f"{self.where}: {bits:.4g} bits a weight of {part}: its tensors are not of the model's shape"
            )
        most = find_dtype(self.formats[part].most_common(1)[0][0]) if known else None
        wide = most is not None and min(DTYPES[name].bits for name in names) >= 8
        if wide and most is not None and not most.is_packed:
            return mean_dtype(bits, most)
        if known and 1 < len(names) <= MAX_SHARES:
            shared = shares_dtype(self.weights[part], n_digits=6)
            if _agree(shared.bits, bits):
                return shared
        return mean_dtype(bits)

    def layer_formats(self) -> LayerFormats | None:
        """What layers are stored in, where they differ. Raises `InvalidFile`."""
        found = {
            part: [one.stored(part) if one.n_params[part] else None for one in self.of_layers] for part in BY_LAYER
        }
        return LayerFormats.of(found).known()

    def note(self) -> str:
        """How many tensors of each part have which format, in words."""
        told = (
            f"{part} " + " + ".join(f"{n} {name}" for name, n in self.formats[part].most_common())
            for part in MATRICES
            if part in self.formats
        )
        return "tensors by format: " + ", ".join(told)


def with_stored_parts(model: ModelArchitecture, parts: StoredParts) -> ModelArchitecture:
    """`model` with each part stored in as many bytes as its tensors have.

    Tensors that the architecture has no place for are counted as parameters that no op reads. Raises `InvalidFile`
    where its matrices are of another shape than those of the files, or much is left over.
    """
    counted = model.matrix_params
    for part, here in counted.items():
        there = parts.n_params[part]
        if here and not parts.n_bytes[part]:
            raise InvalidFile(
                f"{parts.where}: no tensor of {part}, the model has {here} weights there: is this all of it?"
            )
        if here > there * (1 + COUNTED) or (part == "experts" and here != there):
            raise InvalidFile(
                f"{parts.where}: {there} weights of {part} in its tensors, the shapes read from it make {here}: "
                "a kind of layer that is not modelled; take its config.json, and state the formats with --formats"
            )
    formats: dict[str, Dtype] = {part: parts.stored(part) for part, here in counted.items() if here}
    formats.setdefault("dense", formats.get("attention", parts.activations))
    rest = parts.stored("gates") if parts.n_params["gates"] else parts.activations
    made = dataclasses.replace(
        model, dtype=formats["dense"], expert_dtype=formats["experts"], activation_dtype=parts.activations,
        attention_dtype=_unless(formats.get("attention"), formats["dense"]),
        shared_dtype=_unless(formats.get("shared"), formats["dense"]),
        embedding_dtype=_unless(formats["embedding"], parts.activations),
        head_dtype=_unless(formats.get("head"), parts.activations),
        gate_dtype=_unless(rest, parts.activations),
        layer_formats=parts.layer_formats(),
        note="; ".join(filter(None, (model.note, parts.note()))),
    )  # fmt: skip
    return _with_rest(made, parts, rest)


def _with_rest(model: ModelArchitecture, parts: StoredParts, rest: Dtype) -> ModelArchitecture:
    """`model` with what it does not count of the files' bytes as other parameters, in the format `rest`."""
    left = parts.total_bytes - model.total_bytes
    most = _MOST_LEFT * parts.total_bytes + parts.n_bytes["beside"]
    if left < -COUNTED * parts.total_bytes or left > most:
        raise InvalidFile(
            f"{parts.where}: its tensors take {parts.total_bytes} bytes, the layers read from it {model.total_bytes}: "
            "a kind of layer that is not modelled; take its config.json, and state the formats with --formats"
        )
    return dataclasses.replace(model, other_params=model.other_params + max(0, int(left / rest.bytes_per_param)))


def _agree(bits: float, there: float) -> bool:
    return abs(bits / there - 1) <= _SAME


def _unless(stored: Dtype | None, default: Dtype) -> Dtype | None:
    """A format, or None where it is the one that is taken by default."""
    return None if stored == default else stored
