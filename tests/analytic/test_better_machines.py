"""A machine with one better number is never slower, under every engine: rates and clocks up, times down."""

from __future__ import annotations

import pytest

import pregate

DESIGNS = (
    ("llama-cpp", "all=q4_k_m", "gpu_only@layers=cpu:8"),
    ("ik-llama", "all=iq4_xs", "gpu_only@experts=cpu"),
    ("vllm", None, "gpu_only@experts=zerocopy:4"),
    ("ktransformers", "experts=q4_k_m", "gpu_only@experts=cpu"),
    ("streams", None, "pregate+lru:0.2"),
    ("pytorch-eager", None, "on_demand"),
    ("fastertransformer", None, "prefetch_all"),
    ("pipelined-sharding", "all=q4_0", "gpu_only@experts=cpu@kv=stream"),
    ("flexgen", None, "gpu_only@experts=stream"),
    ("mixtral-offloading", "experts=hqq4-g64", "on_demand+lru:0.5"),
)
BETTER_HIGHER = ("_per_s", "_hz", "efficiency", "speedup", "flop_per_s", "n_cores")
NEITHER = ("n_sm", "kernel_clock_hz")
"""More multiprocessors at the same peak are slower ones, and that clock is what `kernel_s` was measured at."""


@pytest.mark.parametrize(("stack", "formats", "policy"), DESIGNS, ids=[one[0] for one in DESIGNS])
def test_a_better_number_makes_no_prediction_slower(stack: str, formats: str | None, policy: str) -> None:
    model = pregate.load_model("deepseek-v2-lite", formats=formats)
    hw = pregate.load_hardware("rtx-4090", stack, {"hbm_bytes": "40GB"})
    found = pregate.explain(model, hw, pregate.synthesize(model, 96, 3, 2, 0), policy)
    moving = {name: value for name, value in found.elasticities.items() if not name.endswith(NEITHER)}
    assert sum(value != 0 for value in moving.values()) > 5
    for name, value in moving.items():
        higher = any(part in name for part in BETTER_HIGHER)
        assert value * (1 if higher else -1) <= 1e-12, f"{name}: {value}"
