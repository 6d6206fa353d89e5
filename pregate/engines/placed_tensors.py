"""What flags of llama.cpp and its forks leave on the host: the first layers, experts of layers, tensors by pattern."""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction

from traces.errors import InvalidInput
from traces.model.layer_stack import LayerStack
from traces.model.model_architecture import ModelArchitecture

_PATTERN = re.compile(r"[A-Za-z0-9_.:\\|()\[\]\-*+?^$]{1,400}", re.ASCII)
_MOST_QUANTIFIERS = 6
_TENSORS = ("gate", "up", "down")
_ATTENTION = ("attn_q", "attn_k", "attn_v", "attn_qkv", "attn_output", "attn_kv_b", "ssm_in", "ssm_out")
"""Names of what mixes a layer's tokens in a GGUF file."""
_BUFFER = re.compile(r"CPU\w*|(?:CUDA|ROCm|HIP|MUSA|Vulkan|SYCL|Metal|MTL|OpenCL|CANN)\w*", re.ASCII)
"""Buffers of this machine as llama.cpp calls them."""
_PINNED = "_Host"
"""How buffers of host memory end that a driver has page-locked: they are the host's as `CPU` is."""


def is_plain_pattern(pattern: str) -> bool:
    """Whether a pattern is one that no text can keep busy: no repeated groups, few repetitions."""
    n_repeated = sum(pattern.replace("(?:", "(").count(mark) for mark in "*+?")
    if not _PATTERN.fullmatch(pattern) or n_repeated > _MOST_QUANTIFIERS or re.search(r"\)[*+?]", pattern):
        return False
    try:
        re.compile(pattern)
    except re.error:
        return False
    return True


def layers_on_host(n_on_device: int, stack: LayerStack) -> list[str]:
    """The clause of a placement that says the layers beyond the last `n_on_device`, if there are any."""
    n_host = stack.n_layers - n_on_device
    return [] if n_host <= 0 else ["layers=cpu" if n_host == stack.n_layers else f"layers=cpu:{n_host}"]


def experts_on_host(patterns: Sequence[tuple[str, str]], n_first: int | None, stack: LayerStack) -> list[str]:
    """The clause that says the experts which `patterns`, each with where its tensors go, and the `n_first` layers name.

    Layers that are no range are the last of as many: layers are alike, so that as much is read and handed over. Where
    single matrices of experts are there, as many bytes are: whole experts of every layer, the same on average. Raises
    `InvalidInput` for attention without its layer.
    """
    n_layers, moe_layers, overrides = stack.n_layers, stack.moe_layers, list(patterns)
    if n_first is not None:
        overrides += [(rf"blk\.{layer}\.ffn_(up|down|gate)_exps", "CPU") for layer in range(min(n_first, n_layers))]
    shares = [_hosted_share(layer, overrides) for layer in range(n_layers)]
    hosted = [layer for layer, share in enumerate(shares) if share]
    whole = [layer for layer in range(n_layers) if _attention_on_host(layer, overrides)]
    if whole and (whole != hosted or min(shares[layer] for layer in whole) < 1):
        raise InvalidInput(
            f"policy: -ot puts attention of layer {whole[0]} on the host, which goes there with its layer alone: "
            f"gpu_only@layers=cpu:{len(whole)} is a policy"
        )
    if whole:
        return layers_on_host(n_layers - len(whole), stack)
    on_host = sum(shares[layer] for layer in moe_layers)
    if any(0 < share < 1 for share in shares):
        return [f"experts=cpu:share={float(on_host / len(moe_layers)):.4g}:uniform"]
    if len(hosted) == n_layers:
        return ["experts=cpu"]
    if hosted and hosted != list(range(hosted[0], hosted[-1] + 1)):
        return [f"experts=cpu:{moe_layers[-int(on_host)]}-{moe_layers[-1]}"] if on_host else []
    if not hosted:
        return []
    return [f"experts=cpu:{hosted[0]}-{hosted[-1]}" if hosted[0] else f"experts=cpu:{len(hosted)}"]


def noted_of_ffns(patterns: Sequence[tuple[str, str]], model: ModelArchitecture) -> str:
    """What a row is told whose patterns put FFNs or gates on the host that every token passes; "" where none do."""
    stack = model.decoder
    dense = set(range(stack.n_layers)) - set(stack.moe_layers)
    names = [f"blk.{layer}.ffn_{tensor}.weight" for layer in dense for tensor in _TENSORS]
    if model.d_ff_shared:
        names += [f"blk.{layer}.ffn_{tensor}_shexp.weight" for layer in stack.moe_layers for tensor in _TENSORS]
    without = [layer for layer in stack.moe_layers if not _hosted_share(layer, list(patterns))]
    names += [f"blk.{layer}.ffn_gate_inp.weight" for layer in without]  # a gate without its experts
    first = next((name for name in names if _on_host(_home(name, patterns))), "")
    return f"-ot: {first} on the host is predicted on the device, experts alone are not" if first else ""


def is_buffer(where: str) -> bool:
    """Whether tensors may go there: to memory of the host or of a card, not to another machine's (`RPC[...]`)."""
    return _BUFFER.fullmatch(where) is not None


def is_pinned(where: str) -> bool:
    """Whether a buffer is page-locked memory of the host: `CUDA_Host`."""
    return where.endswith(_PINNED)


def _attention_on_host(layer: int, overrides: Sequence[tuple[str, str]]) -> bool:
    return any(_on_host(_home(f"blk.{layer}.{tensor}.weight", overrides)) for tensor in _ATTENTION)


def _home(name: str, patterns: Sequence[tuple[str, str]]) -> str:
    return next((where for pattern, where in patterns if re.search(pattern, name)), "device")


def _on_host(where: str) -> bool:
    return where.startswith("CPU") or is_pinned(where)


def _hosted_share(layer: int, overrides: list[tuple[str, str]]) -> Fraction:
    """Which part of the three expert matrices of a layer is on the host."""
    names = [f"blk.{layer}.ffn_{tensor}_exps.weight" for tensor in _TENSORS]
    return Fraction(sum(_on_host(_home(name, overrides)) for name in names), len(names))
