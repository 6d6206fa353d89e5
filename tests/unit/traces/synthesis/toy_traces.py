"""Synthetic traces of two sequences, three layers and six experts."""

from __future__ import annotations

from typing import Any

import numpy as np

from traces.routing import RoutingTrace
from traces.synthesis.dials import Dials, synthesize_routing

SHAPE: dict[str, Any] = {"n_moe_layers": 3, "n_encoder_moe_layers": 0, "n_experts": 6, "top_k": 2, "input_tokens": 3,
                         "output_tokens": 3, "batch": 2}  # fmt: skip


def made(dials: Dials, *, seed: int = 0, **changes: Any) -> RoutingTrace:
    """A trace of `SHAPE` but for `changes`, which are arguments of `synthesize_routing`."""
    return synthesize_routing(
        **({"rng": np.random.default_rng(seed), "model_name": "toy", "dials": dials} | SHAPE | changes)
    )
