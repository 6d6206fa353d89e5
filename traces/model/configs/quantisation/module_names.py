"""Names of modules in a checkpoint: which of them make up a part of a model, and what a pattern of them means."""

from __future__ import annotations

import fnmatch
import re
from functools import lru_cache

Family = tuple[str, ...]
"""The matrices of a part in one layer, as one family of models names them; `0` stands for any expert."""

_GATED = ("gate_proj", "up_proj", "down_proj")


def _within(stem: str, *names: str) -> Family:
    return tuple(f"{stem}.{name}" for name in names)


_BESIDE_DENSE: tuple[Family, ...] = (
    _within("experts", "gate_up_proj", "down_proj"),
    _within("experts.0", *_GATED),
    _within("moe.experts.0", *_GATED),
    _within("experts.switch_glu", *_GATED),
)
"""Experts of a block that stand beside a dense FFN, and not in it (Gemma 4, whose `mlp` runs for every token)."""

_FEED_FORWARDS: dict[str, tuple[Family, ...]] = {
    "experts": (
        _within("mlp.experts.0", *_GATED),
        _within("mlp.switch_mlp", *_GATED),
        _within("mlp.experts", "gate_up_proj", "down_proj"),
        _within("block_sparse_moe.experts.0", "w1", "w2", "w3"),
        _within("block_sparse_moe.switch_mlp", *_GATED),
        _within("feed_forward.experts.0", *_GATED),
        _within("feed_forward.experts", "gate_up_proj", "down_proj"),
        _within("feed_forward.experts.0", "w1", "w2", "w3"),
        _within("feed_forward.switch_mlp", *_GATED),
        _within("block_sparse_moe", "input_linear", "output_linear"),
        _within("mixer.experts.0", "up_proj", "down_proj"),
        _within("mixer.switch_mlp", "fc1", "fc2"),
        *_BESIDE_DENSE,
        _within("ffn.experts.0", "w1", "w2", "w3"),
        _within("ffn.experts.0", *_GATED),
    ),
    "shared": (
        *(_within(f"mlp.{stem}", *_GATED) for stem in ("shared_experts", "shared_expert", "shared_mlp")),
        *(_within(f"{stem}", *_GATED) for stem in ("feed_forward.shared_expert", "block_sparse_moe.shared_experts")),
        _within("mixer.shared_experts", "up_proj", "down_proj"),
        _within("shared_mlp", "input_linear", "output_linear"),
        _within("ffn.shared_experts", "w1", "w2", "w3"),
        _within("ffn.shared_experts", *_GATED),
    ),
    "dense": (
        _within("mlp", *_GATED),
        _within("mlp", "gate_up_proj", "down_proj"),
        _within("feed_forward", *_GATED),
        _within("feed_forward", "w1", "w2", "w3"),
        _within("mixer", "up_proj", "down_proj"),
    ),
}
"""The matrices of FFNs by part and by family of models."""

_OF_SOME = {"switch_mlp": "mlx", "mlp.shared_mlp": "hunyuan"}
"""Names that end as others do, and whose alone they are: a pattern of `mlp.gate_proj` means `switch_mlp.gate_proj` too,
which stands in no checkpoint but those of MLX.
"""


def feed_forwards(method: str, model_type: str) -> dict[str, tuple[Family, ...]]:
    """The matrices of FFNs by part, under the names that a method of quantisation and a model type may use."""
    if "gemma" in model_type.lower():
        dense = _FEED_FORWARDS["dense"]
        return {"experts": _BESIDE_DENSE, "shared": dense, "dense": dense}
    foreign = {name for name, whose in _OF_SOME.items() if whose != method and whose not in model_type.lower()}
    return {
        part: tuple(family for family in families if not any(name in family[0] for name in foreign))
        for part, families in _FEED_FORWARDS.items()
    }


_STATE_SPACES = tuple(_within(stem, "in_proj", "out_proj") for stem in ("mamba", "mixer"))
ATTENTIONS: dict[str, tuple[Family, ...]] = {
    "mla": (
        _within("self_attn", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj", "o_proj"),
        _within("self_attn", "q_proj", "kv_a_proj_with_mqa", "kv_b_proj", "o_proj"),
        _within("attn", "wq_b", "wkv_a", "wkv_b", "wo"),
    ),
    "gated_delta_net": (
        _within("linear_attn", "in_proj_qkvz", "out_proj"),
        _within("linear_attn", "in_proj_qkv", "in_proj_z", "out_proj"),
    ),
    "mamba": _STATE_SPACES,
    "mamba2": _STATE_SPACES,
    "short_conv": (_within("conv", "in_proj", "out_proj"),),
    "lightning": (_within("self_attn", "qkv_proj", "out_proj"),),
    "": (
        *(_within(stem, "q_proj", "k_proj", "v_proj", "o_proj") for stem in ("self_attn", "mixer", "attention")),
        *(_within(stem, "qkv_proj", "o_proj") for stem in ("self_attn", "mixer")),
        *(_within(stem, "query_key_value", "dense") for stem in ("attention", "self_attn")),
        _within("self_attn", "q_proj", "k_proj", "v_proj", "out_proj"),
        *(_within("attn", *names, "wq_b", "wo_a", "wo_b") for names in (("wq_a", "wkv"), ("fused_wqa_wkv",))),
    ),
}
"""The matrices of what mixes the tokens, by its kind; of every kind that is not named here under the empty one."""

_STEMS = (
    "model.",
    "",
    "language_model.model.",
    "model.language_model.",
    "language_model.",
    "backbone.",
    "thinker.model.",
)
"""What stands before `layers.` in one checkpoint or another."""

_NUMBERED = re.compile(r"layers\.\d")


def matches(pattern: str, module: str) -> bool:
    """Whether a pattern means a module, named from `layers.` on, in any of the notations that are in use.

    A regular expression (`re:`), one with `*`, the name of a module or of what it stands in, or words of a name, which
    may leave the numbers of layers and experts out (HQQ).
    """
    if pattern.startswith("re:"):
        form = _expression(pattern[3:])
        return form is not None and any(form.match(f"{stem}{module}") is not None for stem in _STEMS)
    if "*" in pattern:
        return _wildcard(pattern).match(module) is not None
    if _NUMBERED.search(pattern):
        name = from_layers(pattern)
        return module == name or module.startswith(f"{name}.")
    words, without_numbers = f".{pattern.strip('.')}.", re.sub(r"\.\d+(?=\.)", "", module)
    return words in f".{module}." or words in f".{without_numbers}."


@lru_cache(maxsize=1 << 12)
def _expression(text: str) -> re.Pattern[str] | None:
    try:
        return re.compile(text)
    except re.error:
        return None


@lru_cache(maxsize=1 << 12)
def _wildcard(pattern: str) -> re.Pattern[str]:
    """What a pattern with `*` says of a module and of all that stands in it; from `layers.` on, where it has that."""
    text, first = re.sub(r"^.*?(?=layers\.)", "", pattern), ""
    if not text.startswith("layers."):
        text = text.removeprefix("model.").removeprefix("language_model.").removeprefix("model.")
        first = "" if text.startswith("*") else r"(?:.*\.)?"
    return re.compile(f"{first}(?:{fnmatch.translate(text)}|{fnmatch.translate(f'{text}.*')})")


def is_pattern(pattern: str) -> bool:
    """Whether a text is a pattern, and not the name of one module."""
    return pattern.startswith("re:") or "*" in pattern


def from_layers(name: str) -> str:
    """A module's name from `layers.` on, as prefixes differ."""
    name = re.sub(r"^.*?(?=layers\.\d)", "", name).rstrip(".")
    return re.sub(r"\.(weight|weight_packed|weight_scale_inv|weight_scale)$", "", name)
