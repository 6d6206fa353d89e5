"""Prefixes of prompts that a server still holds: blocks of keys and values, the least recently used given up first."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import replace

import numpy as np

from traces.errors import InvalidInput
from traces.requests import ArrivalTrace


def with_prefix_cache(requests: ArrivalTrace, n_tokens: int) -> ArrivalTrace:
    """`requests` with the tokens of each that a cache of keys and values of `n_tokens` holds when it comes.

    Held are the first whole blocks of a prompt that earlier requests had too, but never its last token, which has to be
    computed (vLLM: vllm/v1/core/kv_cache_manager.py, get_computed_blocks). A request uses all of its blocks, and room
    for its answer; the blocks used longest ago are given up first, of one request the last ones (block_pool.py,
    free_blocks). Requests use them in the order in which they come, whenever they end. Raises `InvalidInput` for a
    cache below one block, and where nothing is known of prefixes.
    """
    if not requests.block_tokens:
        raise InvalidInput(
            f"{requests.source or 'these requests'}: no prefixes are known, each line needs hash_ids that number the "
            f"blocks of its prompt, of 512 (Mooncake) or 16 tokens (Qwen-Bailian); or leave out the cache of prefixes"
        )
    if n_tokens < requests.block_tokens:
        raise InvalidInput(
            f"a cache of {n_tokens:,} tokens holds no block of {requests.block_tokens}: state what the engine says of "
            f"its memory for keys and values"
        )
    block, held = requests.block_tokens, np.zeros(len(requests), np.int64)
    used: OrderedDict[tuple[int, int], int] = OrderedDict()  # what is held, and how many tokens it is
    n_used = 0
    for i, ids in enumerate(requests.prefixes):
        n_in, n_out = int(requests.input_tokens[i]), int(requests.output_tokens[i])
        whole = [(0, one) for one in ids[: n_in // block].tolist()]
        n_held = next((at for at, one in enumerate(whole) if one not in used), len(whole))
        held[i] = block * min(n_held, (n_in - 1) // block)
        own = {(1, i): n_in + n_out - block * len(whole)}
        for key, size in (*own.items(), *((one, block) for one in reversed(whole))):
            n_used += size - used.pop(key, 0)
            used[key] = size
        while n_used > n_tokens and len(used) > 1:
            n_used -= used.popitem(last=False)[1]
    return replace(requests, held_tokens=held)
