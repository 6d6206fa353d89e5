"""What the compiled decode loop knows: policies, caches and answers to misses that are plain values.

All else is written by `offload.decoding`, the definition, which writes the same schedule for these, digest for digest.
"""

from __future__ import annotations

from dataclasses import MISSING, fields

from offload.answers.by_bandwidth import ByBandwidth
from offload.answers.cheaper import CheaperEach, ShorterLane
from offload.answers.list_schedule import ListScheduled
from offload.caches.eviction import Fifo, HotLru, Lfu, Lifo, Lru, Static
from offload.caches.eviction_released import ReleasedLfu, ReleasedLifo
from offload.caches.residency import ResidentSet
from offload.execution import Execution
from offload.fast.kernels import kernel_layout as layout
from offload.placing.placed import Placed
from offload.policies.prefetch_all import whole_next_block
from offload.policy import Policy, fetch_misses, misses_on_host, no_prefetch
from offload.prefetching.selected_ahead import SelectedAhead

_EVICTIONS = (Lru, Fifo, Lifo, HotLru, Static, Lfu, ReleasedLfu, ReleasedLifo)
"""The evictions that the kernel knows."""

_KNOWN = frozenset(field.name for field in fields(Execution) if field.default is MISSING) | {
    "host_computes", "micro_batch", "stream_tokens", "stream_per_expert", "streams_from", "decompress_tokens",
    "made_moves", "workspace_tokens", "micro_sequences", "sorts_on_host", "selects_on_host",
    "loads_prompt_kernels", "gathers_cells", "zero_copy_rows", "fills_mask", "input_copies", "streams_layers",
    "shares_layers", "may_share_layers", "first_hands_over", "schedules_ahead",
    "mixes_prompts", "indexed",
}  # fmt: skip
"""What an execution may say that the kernel knows, or that is not asked where it is taken; another word is unknown."""

_BY_COSTS = {
    CheaperEach: layout.CHEAPER_EACH,
    ShorterLane: layout.SHORTER_LANE,
    ByBandwidth: layout.BY_BANDWIDTH,
    ListScheduled: layout.LIST_SCHEDULED,
}
"""The answers to a miss that the kernel knows and that know their machine."""


def is_compilable(
    policy: Policy, execution: Execution, cache: ResidentSet | None, placed: Placed | None = None
) -> bool:
    """Whether policy, cache, placement and what shares an op of experts are values that the kernel knows."""
    if execution.micro_sequences and not _may_be_shared(policy, placed):
        return False
    if policy.speculation is not None and policy.speculation.draft_name != "none":
        return False
    if not _is_known(execution) or (cache is not None and execution.fuses_across):
        return False
    if policy.next_token or policy.granularity != "expert" or (policy.cache is not None and policy.cache.write_back):
        return False
    known = policy.prefetch in (no_prefetch, whole_next_block) or isinstance(policy.prefetch, SelectedAhead)
    if isinstance(policy.prefetch, SelectedAhead) and policy.prefetch.lookahead != policy.lookahead:
        return False
    by_age = cache is None or (cache.eviction_kind in _EVICTIONS and not cache.is_selective)
    plain = policy.start is None and policy.predictor is None and _is_answered(policy, execution)
    return known and plain and by_age


def _is_known(execution: Execution) -> bool:
    """Whether the kernel knows all that the execution does beyond what every one says."""
    return all(field.name in _KNOWN or getattr(execution, field.name) == field.default for field in fields(execution))


def _may_be_shared(policy: Policy, placed: Placed | None) -> bool:
    """Whether micro-batches may share what is fetched: the host computes none of it."""
    stays = placed is None or not (placed.host_layers or any(one is not None for one in placed.kept))
    return stays and policy.on_miss is fetch_misses


def _is_answered(policy: Policy, execution: Execution) -> bool:
    """Whether the kernel knows what becomes of a miss: fetched, or left to the host whole, where nothing is brought
    ahead and experts run one by one.
    """
    if policy.on_miss is fetch_misses:
        return True
    one_by_one = execution.arriving == execution.cached == "each" and not execution.stage
    ahead = policy.prefetch is not no_prefetch or policy.lookahead or not policy.needs_ids
    return answer_of(policy) > 0 and one_by_one and not ahead and not policy.resident


def answer_of(policy: Policy) -> int:
    """The kernel's word for what becomes of a miss; -1 where it has none."""
    if policy.on_miss in (fetch_misses, misses_on_host):
        return layout.FETCHED if policy.on_miss is fetch_misses else layout.ALL_ON_HOST
    return _BY_COSTS.get(type(policy.on_miss), -1) if policy.costs is not None else -1
