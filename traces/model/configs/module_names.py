"""Names of modules in a checkpoint: which of them stand for a part of the model, and what a pattern of them means."""

from __future__ import annotations

import fnmatch
import re

__all__ = ["FAMILIES", "PARTS", "from_layers", "is_pattern", "matches", "matches_any", "same_but_for_layer"]

PARTS: dict[str, tuple[str, ...]] = {
    "experts": (
        "model.layers.3.mlp.experts.0.up_proj", "model.layers.3.mlp.experts.7.down_proj",
        "model.layers.3.block_sparse_moe.experts.0.w1",
    ),
    "shared": ("model.layers.3.mlp.shared_experts.up_proj", "model.layers.3.mlp.shared_expert.up_proj"),
    "dense": ("model.layers.0.mlp.up_proj", "model.layers.1.mlp.gate_proj"),
    "attention": ("model.layers.3.self_attn.q_proj", "model.layers.3.self_attn.o_proj"),
}  # fmt: skip
"""Modules that stand for a part: it is excluded when one of them is, under any of the prefixes of multimodal models."""

_GATED = ("gate_proj", "up_proj", "down_proj")
FAMILIES: dict[tuple[str, ...], tuple[tuple[str, ...], ...]] = {
    PARTS["experts"]: (
        tuple(f"mlp.experts.0.{name}" for name in _GATED), tuple(f"mlp.switch_mlp.{name}" for name in _GATED),
        tuple(f"block_sparse_moe.experts.0.{name}" for name in ("w1", "w2", "w3")),
        tuple(f"block_sparse_moe.switch_mlp.{name}" for name in _GATED),
    ),
    PARTS["shared"]: tuple(
        tuple(f"mlp.{stem}.{name}" for name in _GATED) for stem in ("shared_experts", "shared_expert")
    ),
    PARTS["dense"]: (tuple(f"mlp.{name}" for name in _GATED),),
    PARTS["attention"]: (
        tuple(f"self_attn.{name}_proj" for name in "qkvo"),
        ("self_attn.q_b_proj", "self_attn.kv_a_proj_with_mqa", "self_attn.kv_b_proj", "self_attn.o_proj"),
    ),
}  # fmt: skip
"""The matrices of a part in a layer, by the names of each family of models."""


def matches_any(patterns: list[str], names: tuple[str, ...]) -> bool:
    """Whether one of the patterns means one of the modules, in any of the notations that are in use."""
    return any(matches(pattern, name) for pattern in patterns for name in names)


def matches(pattern: str, name: str) -> bool:
    """Whether a pattern means a module: a regular expression (`re:`), one with `*`, a whole name, or a part of one."""
    if pattern.startswith("re:"):
        try:
            return re.match(pattern[3:], name) is not None
        except re.error:
            return False
    if "*" in pattern:
        stem = pattern.removeprefix("language_model.")
        return fnmatch.fnmatchcase(name, stem) or fnmatch.fnmatchcase(name, f"*{stem.lstrip('*')}")
    if "layers." in pattern:
        return same_but_for_layer(pattern, name) and _covers_all(pattern)
    return pattern in name.split(".") or f".{pattern}." in f".{name}."


def _covers_all(pattern: str) -> bool:
    """A name with an expert's number means that expert; one with a layer's number stands for its like in all layers."""
    return re.search(r"experts\.\d+", pattern) is None


def same_but_for_layer(pattern: str, name: str) -> bool:
    """Whether two module names are the same but for the number of the layer and what stands before the layers."""
    here, there = (re.sub(r"^.*?layers\.\d+\.", "", text) for text in (pattern, name))
    here = re.sub(r"\.(weight|weight_scale_inv|weight_scale)$", "", here)
    return there == here or there.startswith(f"{here}.")


def is_pattern(pattern: str) -> bool:
    """Whether a text is a pattern, and not the name of one module."""
    return pattern.startswith("re:") or "*" in pattern


def from_layers(name: str) -> str:
    """A module's name from `layers.` on, as prefixes differ."""
    name = re.sub(r"^.*?(?=layers\.\d)", "", name).rstrip(".")
    return re.sub(r"\.(weight|weight_scale_inv|weight_scale)$", "", name)
