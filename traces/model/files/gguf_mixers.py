"""What mixes the tokens of a layer of a GGUF file: an attention, or a mixer with a state, by the tensors it has."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from traces.errors import InvalidFile
from traces.model.attention import Attention
from traces.model.files.gguf_file import Tensor
from traces.model.linear_mixer import LinearMixer

_WINDOW_PERIOD = {"gpt-oss": 2, "llama4": 4, "smallthinker": 4, "afmoe": 4, "exaone-moe": 4, "cohere2moe": 4}
"""Families whose windows follow a period that no key states: all layers of it but the last see a window (gpt-oss: the
first); llama.cpp, src/llama-model.cpp, `set_swa_pattern`."""

_LINEAR = {"jamba": "mamba", "mamba": "mamba", "qwen3next": "gated_delta_net", "qwen35moe": "gated_delta_net",
           "kimi-linear": "kda", "lfm2moe": "short_conv", "minimax-text-01": "lightning"}  # fmt: skip
"""Kinds of mixers with a state by family; mamba2 where none is named."""

_STATE_FLOP = 7
"""FLOP an element of the state and token: decay, update and read-out of a delta rule; fewer elsewhere."""


@dataclass(frozen=True, slots=True)
class GgufKeys:
    """The keys of a model's family, `qwen3moe.expert_used_count`, under their names without it."""

    family: str
    values: Mapping[str, Any]
    where: str

    @classmethod
    def of(cls, metadata: Mapping[str, Any], where: str) -> GgufKeys:
        """The keys in the metadata of a file. Raises `InvalidFile` for a file that is no model."""
        family, kind = metadata.get("general.architecture"), metadata.get("general.type", "model")
        if not isinstance(family, str) or not family:
            raise InvalidFile(f"{where}: key 'general.architecture' is missing: is this a model?")
        if kind != "model":
            raise InvalidFile(f"{where}: a GGUF file of type {str(kind)[:40]!r}: take the model's own")
        stem = f"{family}."
        values = {key.removeprefix(stem): value for key, value in metadata.items() if key.startswith(stem)}
        return cls(family, values, where)

    def integer(self, name: str, default: int | None = None, layer: int | None = None) -> int:
        """A whole number, that of a layer where there is one each. Raises `InvalidFile`."""
        value = self.values.get(name)
        if isinstance(value, list):
            value = value[layer or 0] if (layer or 0) < len(value) else None
        if value is None and default is not None:
            return default
        if type(value) is not int or value < 0:
            found = "is missing" if value is None else f"= {str(value)[:40]} is no count"
            raise InvalidFile(f"{self.where}: key '{self.family}.{name}' {found}")
        return value


def mixer_of_layer(layer: Mapping[str, Tensor], i: int, d_model: int, keys: GgufKeys) -> Attention | LinearMixer | None:
    """What mixes the tokens of layer `i`; None: nothing. Raises `InvalidFile` for tensors that contradict the keys."""
    if any(name.startswith(("ssm_", "shortconv.")) for name in layer):
        return _linear(layer, i, d_model, keys)
    if "attn_kv_a_mqa.weight" in layer:
        return _latent(layer, i, keys)
    if "attn_output.weight" in layer or "attn_out.weight" in layer:
        return _windowed(_heads(layer, i, d_model, keys), i, keys)
    return None


def with_shared_indexers(mixers: list[Attention | LinearMixer | None]) -> list[Attention | LinearMixer | None]:
    """The mixers; latent attention without an indexer, where others have one, attends to what the last one has picked
    (GLM-5.2). Files of none at all are of engines that attend to everything.
    """
    topk = max((mixer.index_topk for mixer in mixers if isinstance(mixer, Attention)), default=0)
    return [
        dataclasses.replace(mixer, index_topk=topk)
        if topk and isinstance(mixer, Attention) and mixer.kind == "mla" and not mixer.index_topk
        else mixer
        for mixer in mixers
    ]


def _latent(layer: Mapping[str, Tensor], i: int, keys: GgufKeys) -> Attention:
    """Multi-head latent attention."""
    rope = keys.integer("rope.dimension_count")
    head_dim = keys.integer("attention.key_length_mla", keys.integer("attention.key_length"), i)
    value_dim = keys.integer("attention.value_length_mla", keys.integer("attention.value_length"), i)
    n_heads = keys.integer("attention.head_count", layer=i)
    down, gate = layer.get("attn_q_a.weight"), layer.get("attn_gate.weight")
    return Attention(
        kind="mla", n_heads=n_heads, n_kv_heads=n_heads, head_dim=head_dim,
        q_lora_rank=0 if down is None else down.shape[1],
        kv_lora_rank=keys.integer("attention.kv_lora_rank"), qk_nope_dim=head_dim - rope, qk_rope_dim=rope,
        v_head_dim=value_dim, output_gate=0 if gate is None else gate.shape[1], **_indexer(layer, keys),
    )  # fmt: skip


def _indexer(layer: Mapping[str, Tensor], keys: GgufKeys) -> dict[str, Any]:
    """What picks the tokens to attend to, where a layer has it."""
    if not any(name.startswith("indexer.") for name in layer):
        return {}
    return {
        "index_heads": keys.integer("attention.indexer.head_count"),
        "index_dim": keys.integer("attention.indexer.key_length"),
        "index_topk": keys.integer("attention.indexer.top_k"),
    }


def _heads(layer: Mapping[str, Tensor], i: int, d_model: int, keys: GgufKeys) -> Attention:
    """Attention by heads; what it has of biases, norms and gates is seen in its tensors."""
    n_heads = keys.integer("attention.head_count", layer=i)
    n_kv = keys.integer("attention.head_count_kv", n_heads, i) or n_heads
    if not n_heads:
        raise InvalidFile(f"{keys.where}: layer {i} has an attention of no heads")
    head_dim = keys.integer("attention.key_length", d_model // n_heads)
    value_dim = keys.integer("attention.value_length", head_dim)
    query, key = layer.get("attn_q.weight"), layer.get("attn_k.weight")
    if query is not None and key is not None and len(key.shape) > 1 and key.shape[1] % n_kv == 0:
        head_dim = key.shape[1] // n_kv  # layers with a window may have heads of their own
        value = layer.get("attn_v.weight")
        value_dim = value.shape[1] // n_kv if value is not None else head_dim
    gate = layer.get("attn_gate.weight")
    rows = gate.shape[1] if gate is not None else 0
    if query is not None and query.shape[1] == 2 * n_heads * head_dim:  # queries and gates in one tensor
        rows += n_heads * head_dim
    norm = layer.get("attn_q_norm.weight")
    return Attention(
        kind="mha" if n_kv == n_heads else "gqa", n_heads=n_heads, n_kv_heads=n_kv, head_dim=head_dim,
        v_head_dim=0 if value_dim == head_dim else value_dim, output_gate=rows,
        qkv_bias=bool({"attn_q.bias", "attn_qkv.bias"} & layer.keys()),
        output_bias=bool({"attn_output.bias", "attn_out.bias"} & layer.keys()),
        qk_norm="none" if norm is None else "head" if norm.n_params == head_dim else "full",
        sinks=bool({"attn_sinks.weight", "attn_sinks"} & layer.keys()),
        shared_key_value=key is not None and "attn_v.weight" not in layer and "attn_qkv.weight" not in layer,
        **_indexer(layer, keys),
    )  # fmt: skip


def _windowed(attention: Attention, i: int, keys: GgufKeys) -> Attention:
    """The attention of layer `i` with its window, where a key, or the family, says that it has one."""
    window = keys.integer("attention.sliding_window", keys.integer("attention.chunk_size", 0))
    pattern = keys.values.get("attention.sliding_window_pattern")
    if not window or window >= 1 << 24:
        return attention
    if isinstance(pattern, list):
        sees_window = i < len(pattern) and bool(pattern[i])
    else:
        period = pattern if type(pattern) is int else _WINDOW_PERIOD.get(keys.family, 0)
        sees_window = period > 0 and i % period < period - 1
    return dataclasses.replace(attention, window=window) if sees_window else attention


def _linear(layer: Mapping[str, Tensor], i: int, d_model: int, keys: GgufKeys) -> LinearMixer:
    """A mixer with a state: its matrices as they are, the state by the keys that describe it."""
    own = {name: tensor for name, tensor in layer.items() if not name.startswith("ffn_")}
    matrices = {name: tensor for name, tensor in own.items() if is_projection(name, tensor)}
    last = [name for name in matrices if name in ("ssm_out.weight", "attn_output.weight", "shortconv.out_proj.weight")]
    ordered = [*(name for name in matrices if name not in last), *last]
    convolved = sum(math.prod(tensor.shape[1:]) for name, tensor in own.items() if "conv" in name and "proj" not in name
                    and len(tensor.shape) > 1)  # fmt: skip
    length = keys.integer("ssm.conv_kernel", keys.integer("shortconv.l_cache", 4))
    state = keys.integer("ssm.inner_size", 0) * keys.integer("ssm.state_size", 0)
    by_channel = keys.values.get("kda.head_dim") is not None
    if by_channel:
        state = keys.integer("attention.head_count", layer=i) * keys.integer("kda.head_dim") ** 2
    if not ordered:
        raise InvalidFile(f"{keys.where}: layer {i} has a state and no projection: not modelled")
    return LinearMixer(
        kind=_LINEAR.get(keys.family, "kda" if by_channel else "mamba2"),
        gemms=tuple((math.prod(matrices[name].shape[1:]), matrices[name].shape[0]) for name in ordered),
        vectors=sum(tensor.n_params for name, tensor in own.items() if name not in matrices and "norm" not in name),
        state_elements=state + convolved * max(length - 1, 0),
        flop_per_token=_STATE_FLOP * state + 2 * convolved * length,
    )


def is_projection(name: str, tensor: Tensor) -> bool:
    """Whether a tensor of a mixer is one of its projections, not a convolution, a decay or a norm."""
    apart = any(word in name for word in ("conv1d", ".conv.", "norm"))
    return len(tensor.shape) > 1 and name.endswith(".weight") and not apart
