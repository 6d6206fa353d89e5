"""The loop that makes up a routing trace token by token, compiled or as it stands: the same experts either way."""

from __future__ import annotations

from typing import Any

from traces.machine_code import Kernel

__all__ = ["FILL", "fill"]

FILL = Kernel(
    __name__,
    "fill",
    (
        "int16[3]", "int32[1]", "float64[4]", "float64[2]", "int16[4]", "int64[1]", "int8[1]", "int64[1]", "float64",
        "float64", "float64",
    ),
)  # fmt: skip


def fill(
    ranks: Any,  # [T, L, k] int16, written: popularity rank of each choice
    sequence: Any,  # [T] int32
    draws: Any,  # [T, L, k, 2] float64 in [0, 1)
    popularity: Any,  # [L, n_active + 1] float64, cumulative
    history: Any,  # [n_sequences, kept, L, k] int16, updated: the last tokens of each sequence, a ring
    seen: Any,  # [n_sequences] int64, updated: tokens so far
    taken: Any,  # [n_active] int8, of zeros, left so: experts that this token has chosen here
    ordered: Any,  # [k] int64, for use here: those, ascending
    p_repeat: float,
    p_follow: float,
    p_affinity: float,
) -> None:
    """Choose experts token by token. One uniform decides how a slot chooses, the other what it draws.

    A repeated or recalled token whose expert is already chosen gives another of its experts; a mapped expert
    already chosen is replaced by a draw. A draw by popularity is exact sampling without replacement: the
    intervals of experts already chosen are cut out of [0, 1) and the uniform falls on the rest.
    """
    n_tokens, n_layers, top_k = ranks.shape
    n_active, n_kept = popularity.shape[1] - 1, history.shape[1]
    for t in range(n_tokens):
        past = history[sequence[t]]
        n_past = seen[sequence[t]]
        last = past[(n_past - 1) % n_kept]
        until_repeat = p_repeat if n_past > 0 else 0.0
        for layer in range(n_layers):
            edges = popularity[layer]
            until_follow = until_repeat + (1.0 - until_repeat) * (p_follow if layer > 0 else 0.0)
            for slot in range(top_k):
                how, what = draws[t, layer, slot, 0], draws[t, layer, slot, 1]
                choice = -1
                if how < until_repeat:
                    for i in range(top_k):
                        choice = last[layer, (slot + i) % top_k]
                        if not taken[choice]:
                            break
                elif how < until_follow:
                    choice = ranks[t, layer - 1, slot]
                    how = (how - until_repeat) / (until_follow - until_repeat)  # uniform again
                else:
                    how = (how - until_follow) / (1.0 - until_follow)
                if (choice < 0 or taken[choice]) and n_past > 0 and how < p_affinity:
                    recalled = int(what * min(n_past, n_kept) * top_k)
                    for i in range(top_k):
                        choice = past[recalled // top_k, layer, (recalled + i) % top_k]
                        if not taken[choice]:
                            break
                if choice < 0 or taken[choice]:
                    left = 1.0
                    for i in range(slot):
                        left -= edges[ordered[i] + 1] - edges[ordered[i]]
                    at = what * left
                    for i in range(slot):
                        if at >= edges[ordered[i]]:
                            at += edges[ordered[i] + 1] - edges[ordered[i]]
                    low, high = 0, n_active - 1
                    while low < high:
                        middle = (low + high) // 2
                        if edges[middle + 1] > at:
                            high = middle
                        else:
                            low = middle + 1
                    choice = low
                    while taken[choice]:  # rounding put it on the edge of a chosen expert
                        choice = (choice + 1) % n_active
                taken[choice] = 1
                place = slot
                while place > 0 and ordered[place - 1] > choice:
                    ordered[place] = ordered[place - 1]
                    place -= 1
                ordered[place] = choice
                ranks[t, layer, slot] = choice
            for slot in range(top_k):
                taken[ranks[t, layer, slot]] = 0
        for layer in range(n_layers):
            for slot in range(top_k):
                past[n_past % n_kept, layer, slot] = ranks[t, layer, slot]
        seen[sequence[t]] += 1
