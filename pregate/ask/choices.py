"""The words that a question may choose from.

Nothing that takes time is imported here, so that a wrong one is told at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from offload.metrics.metric_names import METRICS

ENGINES: Mapping[str, str] = MappingProxyType(
    {
        "auto": "the recurrence on FIFO lanes, part by part on a long trace; the event engine where modes ask for more",
        "des": "SimPy, the definition: every mode, HBM checked while it runs",
        "recurrence": "compiled, FIFO lanes only: the same times bit for bit",
        "event": "compiled, every mode: the same times",
        "stream": "the recurrence in memory bounded by the step: no timeline",
    }
)
"""What gives a schedule its times."""

OBJECTIVES: Mapping[str, str] = MappingProxyType(
    {
        "request": "seconds of a whole request",
        "ttft": "seconds to the first token",
        "tpot": "seconds a token after the first",
        "throughput": "output tokens a second, of all requests at once",
    }
)
"""What a design is judged by; of the last one more is better."""

GUESS_METRICS: Mapping[str, str] = MappingProxyType(
    {
        "recall": "share of the chosen experts that are among the k + m guessed",
        "exact": "share of tokens whose experts are all among the k + m guessed",
        "top1": "share of tokens whose first guess is one of the chosen, whatever m",
    }
)
"""What is counted of a predictor's guesses; the three are not comparable with each other."""

GUESS_SPLITS = ("alternate", "halves")
"""Which sequences a predictor learns from."""

SUITE_NAMES = ("quick", "full", "published", "gpu")
"""The suites of a validation."""

RUN_FORMATS = ("fp32", "bf16", "fp16")
"""The number formats that the runtime computes in."""

BASES = ("own", "rent")
"""Machines that are bought, or rented by the hour."""

EXPERIMENTS = ("isca24", "field", "resident")
"""Tables of measurements that ship; a file is another."""

TABLE_ENDINGS = (".csv", ".json", ".jsonl", ".md", ".sql", ".txt")
"""How names of files of such tables end."""

REPLAYED = ("lru", "lfu", "layer", "layerlfu", "belady", "random")
"""Evictions that are replayed by bytes."""

LAYOUTS = ("decoder", "encoder-decoder")
"""The shapes of a model that is trained here."""

FIGURES = (
    *METRICS, "fitted_share", "bound_s", "n_output_tokens", "batch_size", "n_expert_slots", "n_low_slots",
    "storage_bytes", "n_host_slots", "host_hit_rate", "changed_share", "price_usd", "usd_per_token_per_s",
)  # fmt: skip
"""What a search may minimise, maximise and bound: the numbers of a result, and prices."""
