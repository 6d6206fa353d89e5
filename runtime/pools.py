"""The pools that a run takes, by what for: what lies on the device, and on the host, before anything is in them."""

from __future__ import annotations

from collections.abc import Collection

import torch

from runtime.memory import PAGE_BYTES, Carver, element_type, round_up
from runtime.model.fewer_bits import packed_bytes
from runtime.model.shapes import Shapes, static_shapes
from runtime.model.sliding_windows import ring_tokens
from runtime.programs.host_layers import HostLayers, layer_of, names_by_side
from runtime.programs.passes import Passes
from runtime.programs.program import Rounding
from traces.model.architecture import ModelArchitecture

SLOTS, IDS, STATIC = "expert slots", "selected expert ids", "weights outside experts"
FEWER_BITS = "experts in fewer bits"


def pool_bytes(
    model: ModelArchitecture,
    passes: Passes,
    n_slots: int,
    host: HostLayers | None = None,
    rounding: Rounding | None = None,
) -> dict[str, int]:
    """HBM that a run takes, by what for, before it takes any; with `n_slots` expert slots, each on pages of its own.

    `host`: the layers of the decoder whose weights, keys and values are not in it. `rounding`: as of `Program`; one
    expert is unpacked at a time.
    """
    ids = model.n_moe_layers * passes.n_widest * model.top_k * torch.int32.itemsize
    here, _ = sides(HostLayers(model, ()) if host is None else host)
    carved = {what: carver.n_bytes for what, carver in carvers(model, passes, here).items()}
    whole = round_up(model.expert_bytes, PAGE_BYTES)
    fewer = {} if rounding is None else {FEWER_BITS: whole + rounding.n_slots * low_bytes(model, rounding)}
    return carved | {SLOTS: n_slots * whole, IDS: ids} | fewer


def low_bytes(model: ModelArchitecture, rounding: Rounding) -> int:
    """Of a slot for copies of fewer bits."""
    return round_up(packed_bytes(model, rounding.bits), PAGE_BYTES) if rounding.n_slots else 0


def sides(host: HostLayers) -> tuple[Shapes, Shapes]:
    """The weights outside experts by side: what the device holds, and what the host does. Some are on both."""
    shapes = static_shapes(host.model)
    here, there = (
        {name: shape for name, shape in shapes.items() if name in names} for names in names_by_side(host, shapes)
    )
    return here, there


def carvers(model: ModelArchitecture, passes: Passes, static: Shapes) -> dict[str, Carver]:
    """What lies on one side beside experts, given its weights outside them: keys and values are of its layers."""
    dtype = element_type(model)
    return {
        STATIC: Carver(static, dtype),
        "KV cache": Carver(_cache_shapes(model, passes, _layers_of(static)), dtype),
        "activations": Carver(_buffer_shapes(model, passes), dtype),
    }


def _layers_of(static: Shapes) -> set[int]:
    """The decoder's layers among some weights."""
    return {layer_of(name) for name in static if ".self." in name} - {-1}


def _cache_shapes(model: ModelArchitecture, passes: Passes, layers: Collection[int]) -> Shapes:
    """Keys and values of some decoder layers; a latent is kept once, a layer with a window keeps no more than that."""
    shapes: Shapes = {}
    for layer in sorted(layers):
        attention = model.decoder.attention_of(layer)
        names = ("keys",) if attention.kind == "mla" else ("keys", "values")
        width = attention.kv_elements_per_token // len(names)
        kept = {"self": ring_tokens(attention.window, passes.n_context) if attention.window else passes.n_context}
        if model.decoder.cross_attention:
            kept["cross"] = passes.n_memory
        for block, n_context in kept.items():
            shapes |= {f"decoder.{layer}.{block}.{name}": (passes.n_rows, n_context, width) for name in names}
    return shapes


def _buffer_shapes(model: ModelArchitecture, passes: Passes) -> Shapes:
    """The activations that outlive an op, and the scratch of FFNs."""
    n, d_model = passes.n_widest, model.d_model
    return {
        "hidden": (n, d_model),
        "normed": (n, d_model),
        "results": (n * model.top_k, d_model),
        "weights": (n, model.top_k),
        "shared": (n if model.n_shared_experts else 0, d_model),
        "logits": (passes.n_heads_at_once, model.vocab_size),
    } | scratch_shapes(model, passes)


def scratch_shapes(model: ModelArchitecture, passes: Passes) -> Shapes:
    """Buffers to compute FFNs in, as wide as the widest."""
    widest = max(model.d_ff_expert, model.d_ff_shared, *(stack.d_ff_dense for stack in model.stacks))
    gated = 3 in (model.n_expert_matrices, *(stack.n_dense_matrices for stack in model.stacks))
    n, d_model = passes.n_widest, model.d_model
    return {"gate": (n * widest * gated,), "up": (n * widest,), "inputs": (n * d_model,), "outputs": (n * d_model,)}
