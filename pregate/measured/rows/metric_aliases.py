"""What metrics and columns of tables are called elsewhere."""

from __future__ import annotations

import re
from collections.abc import Mapping

from hwmodels.quantity import ReadOnly

_METRICS: Mapping[str, tuple[str, ...]] = {
    name: tuple(words.split())
    for name, words in {
        "decode_tokens_per_s": (
            "decode_throughput decode generation tg eval token_generation decode_speed eval_rate s_tg "
            "generation_speed tg_speed decoding generate gen text_generation generation_throughput generation_tps "
            "decode_tps gen_tps tg_tps decode_rate"
        ),
        "prefill_tokens_per_s": (
            "prefill_throughput prefill prompt_processing pp prompt_eval s_pp prefill_speed prompt_eval_rate "
            "prompt_speed pp_speed prompt prefill_rate prompt_throughput prompt_tps prefill_tps pp_tps"
        ),
        "tokens_per_s": (
            "tokens/s token/s tok/s t/s tps end_to_end_throughput aggregate_throughput "
            "output_throughput output_token_throughput output_tps output throughput"
        ),
        "total_tokens_per_s": "total_throughput total_token_throughput total_tps total s",
        "requests_per_s": "request_throughput requests/s req/s reqs/s requests_per_second rps",
        "e2el": "e2e e2e_latency end_to_end_latency request_latency total_latency",
        "ttft": (
            "time_to_first_token first_token_latency prefill_time prefill_latency prompt_eval_time "
            "prompt_processing_time"
        ),
        "tpot": (
            "time_per_output_token itl tbt decode_latency latency_per_token latency/token ms/token "
            "per_token_latency token_latency time_per_token inter_token_latency"
        ),
        "moe_layer_latency": "",
        "hit_rate": "cache_hit_rate hit_ratio cache_hit_ratio expert_hit_rate",
        "peak_hbm_bytes": "peak_gpu_memory peak_memory peak_vram peak_hbm vram gpu_memory",
        "h2d_bytes_per_s": "h2d_bandwidth pcie_bandwidth copy_bandwidth h2d",
        "model_bytes": "model_size file_size",
    }.items()
}


def by_alias(words: Mapping[str, tuple[str, ...]]) -> Mapping[str, str]:
    """Our name of each word that stands for one."""
    return ReadOnly({word: ours for ours, others in words.items() for word in others})


METRIC_ALIASES = by_alias(_METRICS)
"""Other names of metrics, in small letters and with underscores."""

WORDS_OF_RATES = ("tokens/s", "token/s", "tok/s", "t/s", "tps", "tokens/sec", "tok/sec", "tokens_per_second")
"""Names of a column that say no more than its unit."""


def underscored(text: str) -> str:
    """A name as ours are written."""
    return re.sub(r"[\s_-]+", "_", text.strip().lower())


def is_metric_name(text: str) -> bool:
    """Whether `text` names a metric, by our name or another."""
    return underscored(text) in METRIC_ALIASES or underscored(text) in _METRICS
