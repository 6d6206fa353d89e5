"""A small search of machines, batches and caches, and what is found in it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pregate.optima.optimize import optimize
from pregate.optima.optimum import Optimum
from pregate.sweeps.workloads import TraceRecipe

MACHINES = ["rtx-3060-12gb", "rtx-4090", "a100-sxm4-80gb"]
POLICIES = ["gpu_only", "on_demand", "pregate"]
AXES: dict[str, Any] = {"hardware": MACHINES, "batch": [1, 3], "cache_ratio": [0.0, 0.25]}
WORKLOAD = TraceRecipe(input_tokens=16, output_tokens=6)

Search = Callable[..., Optimum]


def found_by(axes: dict[str, Any] | None = None, **options: Any) -> Optimum:
    """The optimum of switch-base-8 over `axes` (default: `AXES`) with `options` of `optimize`."""
    arguments = {"hw": None, "policies": POLICIES, "axes": AXES if axes is None else axes}
    return optimize("switch-base-8", trace=WORKLOAD, **{**arguments, **options})
