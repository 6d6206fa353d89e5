"""The designs that ship: one file each, one line here each; answers to misses, and what may follow which name."""

from __future__ import annotations

from collections.abc import Callable

from offload.answers.by_bandwidth import ByBandwidth, ByBandwidthWithin
from offload.answers.cheaper import CheaperEach, ShorterLane
from offload.answers.list_schedule import ListScheduled
from offload.answers.wrong_guess import executes_guessed, executes_resident
from offload.policies.activation_aware import activation_aware
from offload.policies.adap_moe import adap_moe
from offload.policies.bandwidth_split import bandwidth_split, bandwidth_split_within
from offload.policies.chunked_learned import chunked_learned
from offload.policies.finemoe import finemoe
from offload.policies.gpu_only import gpu_only
from offload.policies.guess import guesses
from offload.policies.guess_next_gate import guess_next_gate
from offload.policies.hybrid_schedule import hybrid_schedule
from offload.policies.lru import lfru, lfu, lru
from offload.policies.lru_next_gate import lru_next_gate
from offload.policies.min_latency import min_latency_paper, min_latency_released
from offload.policies.mixed_precision import mixed_precision
from offload.policies.on_demand import on_demand
from offload.policies.oracle import oracle
from offload.policies.prefetch_all import prefetch_all
from offload.policies.pregate import pregate
from offload.policies.pregate_next_token import pregate_next_token
from offload.policies.static_cpu import static_cpu
from offload.policy import OnMiss, Policy, misses_on_host

_GUESSED = (
    "markov", "maps", "matrices", "learned", "previous_token", "sequence", "popular", "uniform", "shuffled_markov",
    "shuffled_maps", "shuffled_learned",
)  # fmt: skip
"""Predictors that learn as they serve, and controls; of `offload.predictors.catalogue`."""

PRESETS: dict[str, Callable[..., Policy]] = {
    "gpu_only": gpu_only,
    "on_demand": on_demand,
    "prefetch_all": prefetch_all,
    "pregate": pregate,
    "pregate/next_token": pregate_next_token,
    "lru": lru,
    "lfu": lfu,
    "lfru": lfru,
    "static_cpu": static_cpu,
    "lru_next_gate": lru_next_gate,
    "min_latency/paper": min_latency_paper,
    "min_latency/released": min_latency_released,
    "bandwidth_split": bandwidth_split,
    "bandwidth_split/within": bandwidth_split_within,
    "hybrid_schedule": hybrid_schedule,
    "mixed_precision": mixed_precision,
    "adap_moe": adap_moe,
    "activation_aware": activation_aware,
    "finemoe": finemoe,
    "chunked_learned": chunked_learned,
    "oracle": oracle,
    "guess/next_gate": guess_next_gate,
    **{f"guess/{name}": guesses(name) for name in _GUESSED},
}

MISSES: dict[str, OnMiss] = {
    "cpu": misses_on_host,
    "cheaper": ShorterLane(),
    "cheaper_sum": CheaperEach(),
    "split": ByBandwidth(),
    "split_within": ByBandwidthWithin(),
    "scheduled": ListScheduled(),
    "guessed": executes_guessed,
    "resident": executes_resident,
}
"""What a design does with a miss, by the word that follows its name; without one it fetches."""

_GUESSES = tuple(f"guess/{name}" for name in ("next_gate", *_GUESSED))

TAKES: dict[str, tuple[str, ...]] = {
    "lookahead": ("pregate", "oracle", "finemoe", "chunked_learned", *_GUESSES),
    "recall": ("lru_next_gate", "guess/next_gate"),
    "curve": ("guess/next_gate",),
    "more": ("finemoe", "chunked_learned", *_GUESSES),
    "high": ("mixed_precision",),
    "low": ("mixed_precision",),
    "bits": ("mixed_precision",),
    "from": tuple(f"guess/{name}" for name in _GUESSED),
    "copies": ("mixed_precision",),
    "dram": ("pregate", "oracle", "prefetch_all", "activation_aware", "finemoe", "chunked_learned", *_GUESSES[1:]),
}
"""What may follow a name, and which presets take it."""
