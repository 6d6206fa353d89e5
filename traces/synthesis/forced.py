"""Routing with an exact number of active experts: the sweep that papers draw, with no gate in it."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from traces.errors import InvalidInput
from traces.routing import MAX_EXPERTS, RoutingTrace
from traces.synthesis.dials import token_layout


def forced_active_routing(
    *,
    n_moe_layers: int,
    n_encoder_moe_layers: int,
    n_experts: int,
    top_k: int,
    input_tokens: int,
    output_tokens: int,
    batch: int,
    n_active: int,
    rng: np.random.Generator | None = None,
) -> RoutingTrace:
    """A trace in which every step activates exactly experts 0 .. n_active - 1 at every MoE layer.

    The choices of a step's tokens go round-robin over these experts, so each serves as many tokens as any
    other, give or take one. With `rng` the tokens of a step are dealt out in a random order for each layer;
    the experts and how many tokens each serves stay the same. Tokens and steps: see
    `traces.synthesis.dials.token_layout`. Raises `InvalidInput` when a decode step has fewer choices
    (batch * top_k) than `n_active`, or a token could not choose `top_k` different experts among them.
    """
    if n_moe_layers < 1 or not 0 <= n_encoder_moe_layers < n_moe_layers:
        raise InvalidInput(f"{n_encoder_moe_layers} encoder MoE layers of {n_moe_layers}: the decoder needs one")
    if not 1 <= top_k <= n_experts <= MAX_EXPERTS:
        raise InvalidInput(f"top_k = {top_k} of n_experts = {n_experts}: 1 <= top_k <= n_experts <= {MAX_EXPERTS}")
    has_encoder = n_encoder_moe_layers > 0
    layout = token_layout(input_tokens=input_tokens, output_tokens=output_tokens, batch=batch, has_encoder=has_encoder)
    if not top_k <= n_active <= n_experts:
        raise InvalidInput(f"n_active = {n_active}: it must be top_k = {top_k} to n_experts = {n_experts}")
    if n_active > batch * top_k:
        raise InvalidInput(
            f"n_active = {n_active}, but a step of batch {batch} x top_k {top_k} makes {batch * top_k} choices: "
            f"a batch of {-(-n_active // top_k)} is enough"
        )
    experts = np.full((layout.step.size, n_moe_layers, top_k), -1, dtype=np.int16)
    bounds = np.flatnonzero(np.diff(layout.step, prepend=-1, append=-1)).tolist()
    for i, (start, stop) in enumerate(pairwise(bounds)):
        layers = slice(0, n_moe_layers)
        if has_encoder:
            layers = slice(0, n_encoder_moe_layers) if i == 0 else slice(n_encoder_moe_layers, n_moe_layers)
        dealt = (np.arange((stop - start) * top_k) % n_active).astype(np.int16).reshape(-1, 1, top_k)
        n_layers = len(range(n_moe_layers)[layers])
        everywhere = np.broadcast_to(dealt, (stop - start, n_layers, top_k))
        if rng is not None:
            order = rng.permuted(np.tile(np.arange(stop - start), (n_layers, 1)), axis=1)  # [L, T]
            everywhere = dealt[order.T, 0]
        experts[start:stop, layers] = everywhere
    note = f"exactly {n_active} experts active at every step and layer"
    return layout.routed(experts, n_experts, "any", "traces.forced", note)
