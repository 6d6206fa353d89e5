"""What a picture calls a metric."""

from __future__ import annotations

from collections.abc import Mapping

from hwmodels.quantity import ReadOnly

_WORDS: Mapping[str, str] = ReadOnly(
    {
        "tokens_per_s": "tokens/s",
        "tpot_s": "time per output token",
        "tpot_p99_s": "time per output token, p99",
        "ttft_s": "time to first token",
        "moe_layer_latency_s": "MoE layer",
        "makespan_s": "whole run",
        "peak_hbm_bytes": "peak HBM",
        "price_usd": "price",
        "usd_per_token_per_s": "price of a token a second",
    }
)


def metric_words(metric: str) -> str:
    """A metric in words, without its unit; its name where there are none."""
    return _WORDS.get(metric, metric)
