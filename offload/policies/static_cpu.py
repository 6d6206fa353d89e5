"""`static_cpu`: popular experts stay in HBM, the host computes all others (KTransformers, llama.cpp's --n-cpu-moe).

The cache is a static one that takes all HBM that is left; nothing crosses the link but activations.

Differs: llama.cpp chooses by layer, not by popularity, which `gpu_only@experts=cpu:LAYERS` says.
"""

from __future__ import annotations

from offload.policy import Cache, Policy, misses_on_host


def static_cpu() -> Policy:
    """Of what the trace chooses most, or of the counts that `--popularity` names."""
    return Policy("static_cpu", on_miss=misses_on_host, cache=Cache("static"))
