"""What an op takes on an A100, and on a machine of round numbers."""

from __future__ import annotations

from hwmodels.cost import price
from hwmodels.figures import figures_of
from hwmodels.platform import load_platform
from offload.ops import Work
from traces.model.architecture import load_architecture

HW = load_platform("a100-sxm4-80gb", "fastertransformer")
SWITCH = load_architecture("switch-base-64")

ROUND = figures_of(load_platform("a100-sxm4-80gb", "fastertransformer", {"storage.read_bytes_per_s": 1e9})).with_values(
    {
        "accelerator.hbm_bytes_per_s": 1000.0, "accelerator.peak_flop_per_s.fp32": 4000.0,
        "accelerator.peak_flop_per_s.bf16": 8000.0, "accelerator.n_sm": 4.0, "host.dram_bytes_per_s": 100.0,
        "host.peak_flop_per_s": 1000.0, "host.read_efficiency": 1.0,
        "link.h2d_bytes_per_s": 100.0, "link.d2h_bytes_per_s": 200.0,
        "storage.read_bytes_per_s": 40.0, "storage.read_latency_s": 3.0, "stack.launch_s": 2.0, "stack.kernel_s": 7.0,
        "stack.sync_s": 11.0, "stack.step_s": 13.0, "stack.copy_issue_s": 5.0, "stack.copy_latency_s": 17.0,
        "stack.gemm_efficiency": 0.5, "stack.hbm_efficiency": 0.5, "stack.link_efficiency": 0.5,
        "stack.storage_efficiency": 0.25, "stack.cpu_efficiency": 0.5,
    }
)  # fmt: skip
"""In round numbers, as achieved: HBM 500 B/s, 2000 FLOP/s (bf16 4000) on 4 multiprocessors, link 50 and 100 B/s,
storage 10 B/s, host 50 B/s and 500 FLOP/s. A launch takes 2 s, a kernel 7, a copy 5 + 17."""


def seconds(what: Work) -> float:
    return float(price([what], HW).duration_s[0])
