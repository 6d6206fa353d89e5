"""How many tokens choose each expert, counted in arrays or, where there are many, by machine code: the same counts."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from compiled.machine_code import Kernel, loaded
from compiled.when_it_pays import machine_code_pays

COUNT = Kernel(__name__, "count", ("int16[3]", "int64[1]", "int64[3]"))

_FEW_CELLS, _MANY_CELLS = 1 << 13, 1 << 24
"""Routing cells below which kept machine code is not called, and from which it is worth compiling."""

_CELLS = 1 << 15
"""Routing cells that are counted at a time in arrays, so that they stay in the caches of the processor."""


def choice_counts(experts: NDArray[np.int16], n_experts: int, begins: NDArray[np.int64]) -> NDArray[np.int64]:
    """Tokens by group, layer and expert, (n_groups, n_layers, n_experts).

    `experts` (n_tokens, n_layers, top_k), -1 pads; group i has the tokens from `begins`[i] to `begins`[i + 1].
    """
    n_groups, n_layers = len(begins) - 1, experts.shape[1]
    counts = np.zeros((n_groups, n_layers, n_experts), np.int64)
    if machine_code_pays(experts.size, COUNT, compile_above=_MANY_CELLS, load_above=_FEW_CELLS):
        loaded(COUNT)(np.ascontiguousarray(experts), begins, counts)
        return counts
    group = np.repeat(np.arange(n_groups), np.diff(begins))
    names = np.arange(n_layers, dtype=np.int64)[:, None] * (n_experts + 1) + 1  # a pad is counted before its layer
    flat = np.zeros(n_groups * n_layers * (n_experts + 1), np.int64)
    n_tokens = max(1, _CELLS // max(1, experts[:1].size))
    for begin in range(0, len(experts), n_tokens):
        part = slice(begin, begin + n_tokens)
        keys = experts[part] + names + group[part, None, None] * (n_layers * (n_experts + 1))
        flat += np.bincount(keys.ravel(), minlength=flat.size)
    return flat.reshape(n_groups, n_layers, n_experts + 1)[:, :, 1:]


def count(
    experts: Any,  # [T, L, k] int16, -1 pads
    begins: Any,  # [n_groups + 1] int64
    counts: Any,  # [n_groups, L, n_experts] int64, of zeros, added to
) -> None:
    """The loop of `choice_counts`."""
    for group in range(len(begins) - 1):
        for token in range(begins[group], begins[group + 1]):
            for layer in range(experts.shape[1]):
                for slot in range(experts.shape[2]):
                    expert = experts[token, layer, slot]
                    if expert >= 0:
                        counts[group, layer, expert] += 1
