"""Mixers with a state from a `config.json`: linear attention, state spaces, convolutions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from traces.model import linear_mixer
from traces.model.configs.config_fields import Fields
from traces.model.linear_mixer import LinearMixer

_Sizes = tuple[tuple[str, int | None], ...]
"""Fields in order, with what holds where one is not stated, None where it must be."""

_KIMI: _Sizes = (("num_heads", None), ("head_dim", None), ("short_conv_kernel_size", 4))
_KIMI_FLAT: _Sizes = (("linear_num_heads", None), ("linear_head_dim", None), ("linear_conv_kernel_dim", 4))
_KIMI_OF_DELTA_NET: _Sizes = (
    ("linear_num_value_heads", None), ("linear_value_head_dim", None), ("linear_conv_kernel_dim", 4),
)  # fmt: skip
"""Kimi Linear's mixer: in a mapping of its own, `linear_attn_config`, among the other fields, or in the words of
Qwen3-Next's (AliceAI: vllm/model_executor/models/alice_ai.py, read 2026-12-01)."""

_RECURRENT: dict[str, tuple[Callable[..., LinearMixer], _Sizes]] = {
    "linear_num_value_heads": (
        linear_mixer.gated_delta_net,
        (("linear_num_key_heads", None), ("linear_num_value_heads", None), ("linear_key_head_dim", None),
         ("linear_value_head_dim", None), ("linear_conv_kernel_dim", 4)),
    ),
    "mamba_n_heads": (
        linear_mixer.mamba2,
        (("mamba_n_heads", None), ("mamba_d_head", None), ("mamba_n_groups", 1), ("mamba_d_state", None),
         ("mamba_d_conv", 4)),
    ),
    "mamba_num_heads": (
        linear_mixer.mamba2,
        (("mamba_num_heads", None), ("mamba_head_dim", None), ("n_groups", 1), ("ssm_state_size", None),
         ("conv_kernel", 4)),
    ),
}  # fmt: skip
"""Mixers by the field that tells of them, in order: how one is made of `d_model` and its sizes."""


def recurrent_mixer(fields: Fields, d_model: int, traits: Mapping[str, Any]) -> LinearMixer:
    """The mixer with a state, by the fields that describe one; MiniMax-01's lightning attention where none does."""
    if traits.get("kda_of_delta_net"):
        return linear_mixer.kimi_delta(d_model, *_sizes(fields, _KIMI_OF_DELTA_NET))
    if bottleneck := fields.integer("kda_gate_bottleneck", 0):
        sizes = _sizes(fields, _RECURRENT["linear_num_value_heads"][1])
        return linear_mixer.kimi_delta_net(d_model, *sizes, decay_rank=bottleneck)
    inner = fields.get("linear_attn_config")
    apart = isinstance(inner, dict)
    of_kda = any(fields.get(key) is not None for key in _OF_KDA) or bool(traits.get("kda_full_rank"))
    if apart or of_kda or (fields.get("linear_num_heads") is not None and fields.get("linear_num_key_heads") is None):
        sizes = _sizes(Fields((inner,), fields.where), _KIMI) if apart else _flat_kimi_sizes(fields, of_ling=of_kda)
        both = of_kda and fields.flag("no_kda_lora", default=bool(traits.get("kda_full_rank")))
        full_gate = both or (apart and Fields((inner,), fields.where).flag("use_full_rank_gate"))  # Kimi K3
        return linear_mixer.kimi_delta(d_model, *sizes, full_rank_decay=both, full_rank_gate=full_gate)
    for told_by, (make, named) in _RECURRENT.items():
        if fields.get(told_by) is not None:
            return make(d_model, *_sizes(fields, named))
    if fields.get("mamba_d_state") is not None:
        inner_width = fields.integer("mamba_expand", 2, minimum=1) * d_model
        rank = fields.get("mamba_dt_rank")
        rank = rank if type(rank) is int else -(-d_model // 16)
        return linear_mixer.mamba(
            d_model, inner_width, fields.integer("mamba_d_state", minimum=1), rank, fields.integer("mamba_d_conv", 4)
        )
    if fields.get("conv_L_cache") is not None:
        return linear_mixer.short_conv(d_model, fields.integer("conv_L_cache", 3, minimum=1))
    n_heads = fields.integer("n_heads", minimum=1)
    return linear_mixer.lightning(d_model, n_heads, fields.integer("head_dim", d_model // n_heads, minimum=1))


_OF_KDA = ("no_kda_lora", "kda_safe_gate", "kda_lower_bound")
"""Keys of Ling 3 that tell Kimi's mixer from the lightning attention that Ling 2.5 has in its place."""


def _flat_kimi_sizes(fields: Fields, *, of_ling: bool) -> list[int]:
    """Heads, their width and the convolution; of Ling 3 those of the attention where the mixer states none, unless the
    width is that of the positions, as transformers writes it.
    """
    rope = fields.get("qk_rope_head_dim")
    if not of_ling or (fields.get("linear_head_dim") is None and fields.get("head_dim") in (None, rope)):
        return _sizes(fields, _KIMI_FLAT)
    return [
        fields.integer("linear_num_heads", fields.integer("n_heads"), minimum=1),
        fields.integer("linear_head_dim", fields.integer("head_dim", 0), minimum=1),
        fields.integer("linear_conv_kernel_dim", fields.integer("short_conv_kernel_size", 4), minimum=1),
    ]


def _sizes(fields: Fields, named: _Sizes) -> list[int]:
    """The whole numbers, from 1 on, under the names. Raises `InvalidFile` for one that is missing or is none."""
    return [fields.integer(name, default, minimum=1) for name, default in named]
