"""The loop of `fill` where the layers of a token know nothing of one another: slot by slot, over all layers at once."""

from __future__ import annotations

from typing import Any

from compiled.machine_code import Kernel

__all__ = ["FILL_LAYERS", "fill_layers", "pays"]

FILL_LAYERS = Kernel(
    __name__,
    "fill_layers",
    (
        "int16[3]", "int32[1]", "float64[4]", "float64[2]", "float64[2]", "int16[2]", "int64[3]", "int64[1]",
        "int64[2]", "float64[2]", "float64[2]", "float64[2]", "float64",
    ),
)  # fmt: skip

_FEW_EXPERTS, _FEW_SLOTS, _MANY_LAYERS = 32, 2, 16
"""Up to so many experts and choices of a token, and from so many layers on, it is the quicker loop."""


def pays(n_layers: int, top_k: int, n_active: int) -> bool:
    """Whether this loop is quicker than `fill`, which searches and compares expert by expert, for such a model."""
    return n_layers >= _MANY_LAYERS and top_k <= _FEW_SLOTS and n_active <= _FEW_EXPERTS


def fill_layers(
    experts: Any,  # [T, L, k] int16, written
    sequence: Any,  # [T] int32
    draws: Any,  # [T, L, k, 2] float64 in [0, 1)
    popularity: Any,  # [L, n_active + 1] float64, cumulative by rank
    edges: Any,  # [n_active + 1, L] float64: the same
    by_rank: Any,  # [L, n_experts] int16: the expert of each popularity rank
    last: Any,  # [n_sequences, k, L] int64, updated: ranks of the last token of each sequence
    seen: Any,  # [n_sequences] int64, updated: tokens so far
    chosen: Any,  # [k + 2, L] int64, for use here: ranks by slot; then what is alike, what would be repeated
    lows: Any,  # [k, L] float64, for use here: of what is chosen, in order of rank, where its interval begins
    highs: Any,  # [k, L] float64: and ends
    numbers: Any,  # [2, L] float64, for use here
    p_repeat: float,
) -> None:
    """As `fill`, bit for bit, without correlation of layers and affinity of sequences."""
    n_tokens, n_layers, top_k = experts.shape
    n_active = edges.shape[0] - 1
    left, at, clash, again = numbers[0], numbers[1], chosen[top_k], chosen[top_k + 1]
    for t in range(n_tokens):
        s = sequence[t]
        past, repeats = last[s], seen[s] > 0 and p_repeat > 0.0
        for slot in range(top_k):
            choice, low, high = chosen[slot], lows[slot], highs[slot]
            for layer in range(n_layers):
                left[layer] = 1.0
            for i in range(slot):
                mine, end = lows[i], highs[i]
                for layer in range(n_layers):
                    left[layer] -= end[layer] - mine[layer]
            for layer in range(n_layers):
                at[layer] = draws[t, layer, slot, 1] * left[layer]
            for i in range(slot):
                mine, end = lows[i], highs[i]
                for layer in range(n_layers):
                    here = at[layer]
                    beyond = here + (end[layer] - mine[layer])
                    at[layer] = beyond if here >= mine[layer] else here
            for layer in range(n_layers):
                choice[layer] = 0
            for i in range(1, n_active):
                edge = edges[i]
                for layer in range(n_layers):
                    choice[layer] += 1 if edge[layer] <= at[layer] else 0
            if repeats:  # the first of the last token's experts, from this slot on, that is not chosen yet
                for step in range(slot, -1, -1):
                    before = past[(slot + step) % top_k]
                    for layer in range(n_layers):
                        clash[layer] = 0
                    for i in range(slot):
                        other = chosen[i]
                        for layer in range(n_layers):
                            clash[layer] += 1 if other[layer] == before[layer] else 0
                    for layer in range(n_layers):
                        again[layer] = before[layer] if clash[layer] == 0 else again[layer]
                for layer in range(n_layers):
                    choice[layer] = again[layer] if draws[t, layer, slot, 0] < p_repeat else choice[layer]
            if slot > 0:
                for layer in range(n_layers):
                    clash[layer] = 0
                for i in range(slot):
                    other = chosen[i]
                    for layer in range(n_layers):
                        clash[layer] += 1 if other[layer] == choice[layer] else 0
                n_clashes = 0
                for layer in range(n_layers):
                    n_clashes += clash[layer]
                if n_clashes > 0:  # rounding put it on the edge of a chosen expert
                    for layer in range(n_layers):
                        while clash[layer] > 0:
                            choice[layer] = (choice[layer] + 1) % n_active
                            clash[layer] = 0
                            for i in range(slot):
                                clash[layer] += int(chosen[i, layer] == choice[layer])
            if slot + 1 < top_k:
                for layer in range(n_layers):
                    rank = choice[layer]
                    low[layer], high[layer] = popularity[layer, rank], popularity[layer, rank + 1]
                for i in range(slot):
                    mine, end = lows[i], highs[i]
                    for layer in range(n_layers):
                        a, b, c, d = mine[layer], low[layer], end[layer], high[layer]
                        mine[layer], low[layer] = (b if a > b else a), (a if a > b else b)
                        end[layer], high[layer] = (d if a > b else c), (c if a > b else d)
        seen[s] += 1
        for slot in range(top_k):
            for layer in range(n_layers):
                past[slot, layer] = chosen[slot, layer]
        for layer in range(n_layers):
            for slot in range(top_k):
                experts[t, layer, slot] = by_rank[layer, chosen[slot, layer]]
