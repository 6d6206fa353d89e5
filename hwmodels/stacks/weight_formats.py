"""The formats of weights that a stack reads, those of the files that its engine loads, and of keys and values it keeps.

A stack states them with their source, by name, by a pattern (`int*-g*`) or by a group of `_GROUPS`; `unmeasured` are
those that it reads by kernels that other constants stand in for. A stack that states none reads and keeps any.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import TYPE_CHECKING

from hwmodels.quantity import ReadOnly
from traces.errors import InvalidFile, InvalidInput
from traces.foundation.documents import Section
from traces.model.dtypes import find_dtype, format_shares
from traces.model.files.ggml_blocks import GGML_BLOCKS

if TYPE_CHECKING:
    from hwmodels.stacks.stack import SoftwareStack
    from traces.model.model_architecture import ModelArchitecture


_OF_FORK = 133
"""The first number of block types that llama.cpp has not."""

_GROUPS: Mapping[str, tuple[str, ...]] = ReadOnly(
    {
        "gguf": tuple(name for name, block in GGML_BLOCKS.items() if block.number < _OF_FORK),
        "gguf-ik": tuple(GGML_BLOCKS),
    }
)
"""Formats of llama.cpp's files, and those with what its fork ik_llama.cpp has besides."""

_MATRICES = ("experts", "attention", "dense", "shared", "embedding", "head")
"""Parts whose format is that of a file; gates and activations are in what an engine computes in."""


@dataclass(frozen=True, slots=True)
class WeightFormats:
    """`read`: names and patterns of formats, none: any; `unmeasured`: what stands in for the kernels of others that are
    read too, by name or pattern; `instead`: a format to ask for in place of one that is not read. `caches`: those of
    keys and values, none: any; the first is what to ask for in place of others. `expert_biases`: whether it adds
    biases to what experts compute.
    """

    read: tuple[str, ...] = ()
    unmeasured: Mapping[str, str] = field(default_factory=lambda: ReadOnly({}))
    instead: str = ""
    caches: tuple[str, ...] = ()
    expert_biases: bool = True

    def reads(self, stored: str) -> bool:
        """Whether the engine has kernels for `stored` that its constants are of; of a mix by shares for each."""
        return not self.read or all(_is_among(name, self.read) for name, _ in format_shares(stored))

    def stood_in(self, stored: str) -> str | None:
        """What stands in for the kernels of `stored`; "" where nothing does, None where it is not read."""
        for name, _ in format_shares(stored):
            if not self.read or _is_among(name, self.read):
                continue
            return next((why for known, why in self.unmeasured.items() if _is_among(name, (known,))), None)
        return ""

    def keeps(self, stored: str) -> bool:
        """Whether the engine keeps keys and values in `stored`."""
        return not self.caches or _is_among(stored, self.caches)

    def first_unread(self, formats: Mapping[str, str]) -> tuple[list[str], str]:
        """Parts of a model with a format that is not read, and the first such; ([], "") none. `formats`: by part."""
        unread = [part for part in _MATRICES if part in formats and self.stood_in(formats[part]) is None]
        return unread, formats[unread[0]] if unread else ""


ANY_WEIGHTS = WeightFormats()
"""Of a stack that states none."""


def check_weights(model: ModelArchitecture, stack: SoftwareStack) -> None:
    """Raise `InvalidInput` for a model with weights in a format that the engine of `stack` does not read."""
    if why := why_unread(model, stack):
        raise InvalidInput(why)


def why_unread(model: ModelArchitecture, stack: SoftwareStack) -> str:
    """What of a model `stack` does not read, keep or compute, and what to ask for; "" where it has all."""
    weights, formats = stack.weights, _formats(model)
    parts, stored = weights.first_unread(formats)
    lacks, ways = [], []
    if parts:
        lacks.append(f"reads no weights in {stored} ({', '.join(parts)} of {model.name})")
        ways += ["all"] if "experts" in parts else parts
        ways = [f"{part}={weights.instead}" for part in ways]
    if not weights.keeps(formats["kv"]):
        lacks.append(f"keeps no keys and values in {formats['kv']}")
        ways.append(f"kv={weights.caches[0]}")
    if model.expert_bias and not weights.expert_biases:
        return f"{stack.name} adds no biases to what experts compute, and {model.name} has them: try another --stack"
    if not lacks:
        return ""
    return f"{stack.name} {' and '.join(lacks)}: try --formats {','.join(ways)}, or another --stack"


def reads_all(model: ModelArchitecture, stack: SoftwareStack) -> bool:
    """Whether `stack` reads a model by kernels of its own constants."""
    return not why_unread(model, stack) and not unmeasured_weights(model, stack)


def unmeasured_weights(model: ModelArchitecture, stack: SoftwareStack) -> str:
    """What stands in for the kernels of a format of a model's experts; "" where nothing does, or it is not read."""
    return stack.weights.stood_in(model.expert_dtype.name) or ""


@lru_cache(maxsize=256)
def _formats(model: ModelArchitecture) -> Mapping[str, str]:
    formats = {part: dtype.name for part, dtype in model.formats.items() if part in (*_MATRICES, "kv")}
    if not model.n_shared_experts and "shared" in formats:
        del formats["shared"]
    return ReadOnly(formats)


def _is_among(name: str, known: tuple[str, ...]) -> bool:
    most = find_dtype(name).most  # what is left wider beside it is of 16 or 32 bits, which every engine reads
    return any(most in _GROUPS[one] if one in _GROUPS else fnmatchcase(most, one) for one in known)


def read_weight_formats(section: Section) -> WeightFormats:
    """What a stack states in `weights`. Raises `InvalidFile` or `UnknownName`."""
    table = section.optional_section("weights")
    if table is None:
        return ANY_WEIGHTS
    instead, read = table.text("instead"), _names(table, "read", table.take("read"))
    others = table.optional_section("unmeasured")
    unmeasured = {} if others is None else {name: others.text(name) for name in others.remaining()}
    stated = table.take("caches", optional=True)
    caches = () if stated is None else _names(table, "caches", stated)
    for name in (*read, *unmeasured, *caches, instead):
        if name not in _GROUPS and not set("*?[").intersection(name):
            find_dtype(name, table.where)
    biases = table.flag("expert_biases", True)
    table.text("source")
    table.done()
    return WeightFormats(read, ReadOnly(unmeasured), instead, caches, biases)


def _names(table: Section, key: str, names: object) -> tuple[str, ...]:
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise InvalidFile(f"{table.where}: {key} is no list of formats, such as [bf16, gguf]")
    return tuple(names)
