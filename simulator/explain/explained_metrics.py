"""What can be explained, by name. Nothing is imported here."""

from __future__ import annotations

METRICS = ("makespan_s", "tokens_per_s", "ttft_s", "tpot_s", "moe_layer_latency_s")
"""`tpot_s` is the mean. `tokens_per_s` is tokens over `makespan_s`."""
