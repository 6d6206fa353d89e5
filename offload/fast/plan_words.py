"""What policy and stack decide once a run, as the compiled decode loop reads it."""

from __future__ import annotations

from offload.caches.eviction import HotLru, Lfu, Lifo, Lru, Static
from offload.caches.eviction_released import ReleasedLfu, ReleasedLifo
from offload.decoding.decode_job import DecodeJob
from offload.fast.compilable import answer_of
from offload.policies.prefetch_all import whole_next_block
from offload.policy import no_prefetch
from traces.model.architecture import LayerStack

_EXECUTION_FLAGS = ("stage", "fetch_first", "readback_per_fetch", "host_waits", "sync_after_ffn")


def plan_words(job: DecodeJob, stack: LayerStack, encoding: bool) -> dict[str, int]:
    """What policy and stack decide, by the name of the kernel's word for it."""
    model, policy, execution, cache = job.model, job.policy, job.execution, job.cache
    plain = encoding and policy.encoder == "on_demand" and not policy.resident
    prefetch = 0 if plain or policy.prefetch is no_prefetch else 1
    if prefetch and policy.prefetch is whole_next_block:
        prefetch = 2
    kind = None if cache is None else cache.eviction_kind
    flags = {name.upper(): int(getattr(execution, name)) for name in _EXECUTION_FLAGS}
    return flags | {
        "N_EXPERTS": model.n_experts,
        "FIRST": 0 if encoding else model.n_encoder_moe_layers,
        "N_LAYERS": stack.n_layers,
        "EXPERT_BYTES": model.expert_bytes,
        "N_BUFFERS": job.n_buffers,
        "LOOKAHEAD": 0 if plain else policy.lookahead,
        "PREFETCH": prefetch,
        "RESIDENT": int(policy.resident),
        "NEEDS_IDS": int(plain or policy.needs_ids),
        "DISK": execution.n_host_buffers if job.disk else 0,
        "CACHED": int(cache is not None),
        "N_POOLS": 1 if cache is None else cache.n_pools,
        "BY_RECENCY": int(kind in (Lru, HotLru)),
        "NEWEST_FIRST": int(kind in (Lifo, ReleasedLifo)),
        "COUNTING": int(kind in (Lfu, ReleasedLfu)),
        "RELEASED": int(kind in (ReleasedLfu, ReleasedLifo)),
        "NOBODY_GOES": int(kind is Static),
        "ANSWER": answer_of(policy),
        "HOST_COMPUTES": int(execution.host_computes),
        "N_ENCODER_KEYS": model.n_encoder_moe_layers * model.n_experts,
        "FUSED": int((execution.resident if policy.resident else execution.arriving) != "each"),
        "IN_RUNS": int(execution.arriving != "each" and not job.disk and prefetch == 2),
    }
