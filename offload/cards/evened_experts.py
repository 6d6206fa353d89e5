"""Experts spread over groups of cards by how much each serves, some of them several times (EPLB).

As DeepSeek's load balancer does it over all cards at once, which vLLM's default policy and SGLang's take over
(deepseek-ai/EPLB, eplb.py; vllm/distributed/eplb/policy/default.py). Nothing here may know time.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from traces.errors import InvalidInput


def evened_experts(popularity: NDArray[np.float64], n_groups: int, n_redundant: int) -> tuple[tuple[int, ...], ...]:
    """By layer of `popularity` (n_layers, n_experts) the experts that the groups hold, one group after the other, as
    many each: what serves most has a replica first, then the one of most load goes to the group with the least.

    Raises `InvalidInput` for a number that the groups cannot share evenly, or for more replicas than experts.
    """
    n_experts = popularity.shape[1]
    n_held = n_experts + n_redundant
    if not 0 <= n_redundant <= n_experts:
        raise InvalidInput(f"redundant={n_redundant}: {n_experts} experts have 0 to {n_experts} replicas")
    if n_held % n_groups:
        raise InvalidInput(
            f"redundant={n_redundant}: {n_groups} groups of cards do not share {n_experts} experts and {n_redundant} "
            f"replicas evenly: take a number that makes their sum a multiple of {n_groups}"
        )
    return tuple(_of_layer(load, n_groups, n_held) for load in popularity)


def _of_layer(load: NDArray[np.float64], n_groups: int, n_held: int) -> tuple[int, ...]:
    n_experts = len(load)
    held, replicas = list(range(n_experts)), np.ones(n_experts)
    for _ in range(n_held - n_experts):
        most = int(np.argmax(load / replicas))
        held.append(most)
        replicas[most] += 1
    each = load / replicas
    groups: list[list[int]] = [[] for _ in range(n_groups)]
    loads = np.zeros(n_groups)
    for expert in sorted(held, key=lambda one: (-each[one], one)):
        free = [i for i in range(n_groups) if len(groups[i]) < n_held // n_groups]
        least = min(free, key=lambda i: (loads[i], i))
        groups[least].append(expert)
        loads[least] += each[expert]
    return tuple(expert for group in groups for expert in group)


def served_by_held(counts: NDArray[np.int64], held: NDArray[np.int64]) -> NDArray[np.int64]:
    """Of `counts` (n, n_experts) tokens by expert those of each place of `held` (n, n_held): replicas of an expert
    share its tokens evenly. What is left of an expert begins one replica later than what is left of the expert before,
    so that the first cards do not take all of it.
    """
    order = np.argsort(held, axis=1, kind="stable")
    ordered = np.take_along_axis(held, order, axis=1)
    first = np.concatenate([np.ones((len(held), 1), bool), ordered[:, 1:] != ordered[:, :-1]], axis=1)
    at = np.arange(held.shape[1])
    rank = at - np.maximum.accumulate(np.where(first, at, 0), axis=1)
    n_replicas = np.zeros_like(counts)
    np.add.at(n_replicas, (np.arange(len(held))[:, None], held), 1)
    tokens, n = np.take_along_axis(counts, ordered, axis=1), np.take_along_axis(n_replicas, ordered, axis=1)
    left = np.take_along_axis(np.cumsum(counts % np.maximum(n_replicas, 1) > 0, axis=1), ordered, axis=1)
    served = np.empty_like(tokens)
    np.put_along_axis(served, order, tokens // n + ((rank + left - 1) % n < tokens % n), axis=1)
    return served
