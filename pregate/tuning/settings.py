"""What is tried: policy, lookahead, how HBM is split into caches, answers to misses, placement; sizes of chunks."""

from __future__ import annotations

from traces.model.architecture import ModelArchitecture

DEFAULT = "pregate"
"""The design of a command that names none."""

CHUNKS_MIB = (0.25, 1.0, 4.0, 16.0)
"""Sizes of chunks, urgent copies first."""

CPU_S_PER_SETTING, CPU_S_PER_OP = 0.04, 3e-6
"""CPU seconds to write, price and bound a design, and each of its ops: `python -m benchmarks.tune_speed` on a Xeon.
They are printed before anything is judged; the first design that is judged says what this processor takes.
"""

_MOVING = ("on_demand", "pregate", "pregate(2)", "pregate(3)", "lru_next_gate")
_CACHES = ("+lru", "+lru:per_layer", "+lfu", "+lfu:per_layer", "+static")
_OTHERS = (
    "gpu_only",
    "prefetch_all",
    "on_demand:cpu+static",
    "on_demand:cheaper+lru",
    "on_demand:cheaper+static",
    "gpu_only@experts=cpu:{fewest}",
    "gpu_only@experts=cpu",
    "gpu_only@experts=cpu:keep={most}",
    "gpu_only@layers=cpu:{fewest}",
)


def designs_to_try(model: ModelArchitecture) -> tuple[str, ...]:
    """The designs, `{fewest}` and `{most}` still open. An encoder-decoder has no placements; no gate looks ahead
    farther than there are blocks.
    """
    n_blocks = model.n_moe_layers - model.n_encoder_moe_layers
    moving = [name for name in _MOVING if not name.endswith(")") or int(name[-2]) <= n_blocks]
    cached = [f"{name}{cache}" for name in moving for cache in _CACHES if name != "lru_next_gate" or "lru" in cache]
    every = (*_OTHERS, *moving, *cached)
    return tuple(name for name in every if not (model.is_encoder_decoder and "@" in name))
